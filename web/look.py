"""The look that the pages share, in colours for light and for dark."""

from __future__ import annotations

from pathlib import Path

PLACE = "/* the look of all pages */"
"""What a page has in place of it."""


def with_look(page: Path) -> str:
    """The HTML of a page, with the look in its place."""
    look = Path(__file__).with_name("look.css").read_text(encoding="utf-8")
    return page.read_text(encoding="utf-8").replace(PLACE, look.rstrip())
