"""What the keys of the terminal ask of a recording."""

from __future__ import annotations

from ..teleoperation.interface import Order

ENTER, BACKSPACE = b"\r\n", b"\x7f\x08"

HINTS = {
    "ready": "Enter begins an episode, t describes the next ones, u removes the last one, q ends",
    "recording": "Enter ends the episode, Backspace discards it",
    "ended": "s keeps it as a success, f as a failure, k without a mark, d discards it",
    "preparing": "q stops the robot and ends",
}
"""Phase -> what the keys do in it."""

_LETTERS = {
    "ready": {"u": ["undo"], "q": ["quit"]},
    "recording": {},
    "ended": {"s": ["success", "keep"], "f": ["failure", "keep"], "k": ["keep"], "d": ["discard"], "q": ["quit"]},
    "preparing": {"q": ["quit"]},
}


class Console:
    """Turns typed keys into orders. While an episode is recorded, all keys but two are left to the input."""

    def __init__(self) -> None:
        self._sentence: bytearray | None = None

    def orders(self, typed: bytes, phase: str) -> tuple[list[Order], bytes]:
        """The orders of some keys, and the keys that are left."""
        orders, rest = list[Order](), bytearray()
        for key in typed:
            letter = chr(key).lower()
            if self._sentence is not None:
                orders += self._write(key)
            elif phase == "ready" and letter == "t":
                self._sentence = bytearray()
                print("describe what the next episodes show, and press Enter: ", end="", flush=True)
            elif key in ENTER and phase in ("ready", "recording"):
                orders.append(Order("begin" if phase == "ready" else "end"))
            elif key in BACKSPACE and phase == "recording":
                orders.append(Order("discard"))
            elif letter in _LETTERS[phase]:
                orders += [Order(kind) for kind in _LETTERS[phase][letter]]
            else:
                rest.append(key)
        return orders, bytes(rest)

    def _write(self, key: int) -> list[Order]:
        """Add a key to the sentence; Enter ends it."""
        assert self._sentence is not None
        if key in ENTER:
            text, self._sentence = self._sentence.decode(errors="replace").strip(), None
            print()
            return [Order("sentence", text)]
        if key in BACKSPACE:
            del self._sentence[-1:]
        else:
            self._sentence.append(key)
            print(bytes([key]).decode(errors="replace"), end="", flush=True)
        return []
