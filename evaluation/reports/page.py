"""A page in one file that needs no network, no other file and no JavaScript."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from ...files import write_text
from ...web.look import with_look
from .charts import tag

PAGE = Path(__file__).with_name("report.html")

POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
"""A page loads nothing and runs nothing."""


def write_page(path: Path, *, title: str, verdict: str, cards: Iterable[str], sections: Iterable[str]) -> None:
    """Write a page, whole or not at all. The title is text, everything else markup. Empty sections are left out."""
    markup = Template(with_look(PAGE, policy=POLICY)).substitute(
        title=escape(title),
        verdict=verdict,
        cards="".join(cards),
        sections="\n".join(section for section in sections if section),
    )
    write_text(path, markup)


def section(heading: str, body: str) -> str:
    """A part of a page under a heading; empty if the body is empty."""
    return tag("section", tag("h2", escape(heading)) + body) if body else ""


def embedded(kind: str, content: bytes) -> str:
    """The address of a file that is in the page itself. kind: its MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def unbroken(text: str) -> str:
    """Keep a number with its per cent sign, and the two ends of an interval, on one line."""
    return text.replace(" %", "&nbsp;%").replace("–", "–&#8288;")


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A markdown table whose columns are aligned."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    return [lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]
