"""The look of the pictures that matplotlib draws: the colours of the pages in light, and no more lines than needed."""

from __future__ import annotations

from typing import Any

from ...web.look import colours

SERIES = ("c1", "c0", "c2", "c3", "accent", "soft")
"""The names of the colours of lines, one after the other."""


def line_style(place: int) -> dict[str, Any]:
    """How to draw the line of a place: its colour, and dashes once all colours are taken.

    >>> line_style(0) == line_style(6)
    False
    """
    turn, name = divmod(place, len(SERIES))
    return {"color": colours()[SERIES[name]], "linestyle": "--" if turn % 2 else "-"}


def plain(axes: Any) -> None:
    """Give axes of matplotlib the look: soft text, a pale grid, and no frame above and at the right."""
    look = colours()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(look["line"])
    axes.tick_params(colors=look["soft"])
    axes.grid(color=look["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(look["soft"])
    axes.title.set_color(look["ink"])
