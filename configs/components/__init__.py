"""Components, the choices for slots: dataclasses of plain values whose `build` makes the real object."""
