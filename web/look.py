"""The head that all pages share: their look in colours for light and for dark, and their content policy."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

HEAD, LOOK = "<!-- the head of all pages -->", "/* the look of all pages */"
"""What stands in a page in place of its head, and in the head in place of the style sheet."""

HEAD_FILE, LOOK_FILE = Path(__file__).with_name("head.html"), Path(__file__).with_name("look.css")

CHARSET = '<meta charset="utf-8">\n'
"""The line of the head before the content policy of a page that lies in a file."""


def with_look(page: Path, *, policy: str | None = None) -> str:
    """The HTML of a page, with the head in its place. policy: its content policy; None if a header states it."""
    head = HEAD_FILE.read_text(encoding="utf-8").replace(LOOK, LOOK_FILE.read_text(encoding="utf-8").rstrip())
    if policy is not None:
        meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        head = head.replace(CHARSET, CHARSET + meta)
    return page.read_text(encoding="utf-8").replace(HEAD, head.rstrip())


def colours() -> dict[str, str]:
    """The colours of the pages in light, in which pictures are drawn.

    >>> colours()["accent"]
    '#0b6e69'
    """
    light = LOOK_FILE.read_text(encoding="utf-8").partition("@media")[0]
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light))


def script_source(page: str) -> str:
    """The directive of a content policy by which a page runs the scripts that it has now, and no other."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii") for script in scripts)
    return " ".join(["script-src", *(f"'sha256-{digest}'" for digest in digests)])
