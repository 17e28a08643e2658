"""What fills the slots of a configuration: plain values whose `build` makes the real object."""
