"""How a run in real time went: one page of its ticks, in `control.json`'s words and `ticks.zarr`'s numbers."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.demonstrations import Demonstrations
from ..intervals import wilson
from .charts import Series, curve, interval, tag
from .page import section, unbroken, write_page

NUM_BINS = 150
"""Points of a line: where there are more ticks, each point is the largest of several."""

PANELS = {
    "age": ("Age of the observations", "ms, when a command was given", 1e3),
    "chunk": ("Time of a chunk", "ms, from its request until it came", 1e3),
    "late": ("Lateness of commands", "ms, after they were due", 1e3),
    "seam": ("Seams between chunks", "% of what the limits allow, at the moment of the change", 100.0),
}
"""Stream of the ticks -> title, unit, and how many of that unit."""

COLUMNS = {
    "seed": "seed",
    "success": "success",
    "score": "score",
    "steps": "steps",
    "commands": "commands",
    "late": "late",
    "chunks": "chunks",
    "chunk_ms": "chunk, ms",
    "reason": "ended",
    "events": "limits met",
}
"""What is said of each episode -> its title."""


def write_timeline(path: Path, told: Mapping[str, Any], ticks: Demonstrations) -> None:
    """Write the page of a run. told: the content of its `control.json`."""
    episodes, said = told["episodes"], summarised(told["episodes"])
    facts = {"robot": told["robot"], "execution": told["execution"], "policy": told["policy"]}
    listed = "".join(tag("dt", name) + tag("dd", escape(str(value))) for name, value in facts.items())
    commands, late = _lateness(episodes)
    cards = [_card("On time", f"{100 - 100 * late / max(commands, 1):.4g} %", f"{late} of {commands} commands late")]
    if over := _over(episodes):
        low, high = wilson(sum(over), len(over))
        note = f"95 % interval {100 * low:.0f}–{100 * high:.0f} %, {len(over)} episodes"
        bar = interval(sum(over) / len(over), low, high, place=0, label=note)
        cards.append(_card("Success", f"{100 * sum(over) / len(over):.0f} %", note, bar))
    write_page(
        path,
        title=f"{told['task'] or told['policy']}, controlled in real time",
        verdict=unbroken(escape(f"{said}.")),
        cards=cards,
        sections=[
            section("The whole run", _panels(ticks)),
            section("Every episode", _table(episodes)),
            section("Do it again", tag("pre", tag("code", escape(told["command"]))) + tag("dl", listed)),
        ],
    )


def summarised(episodes: list[dict[str, Any]]) -> str:
    """Lateness, and success in the episodes that came to their end; one that was stopped for safety has failed."""
    commands, late = _lateness(episodes)
    said = f"{late} of {commands} commands more than half a period late"
    if over := _over(episodes):
        low, high = wilson(sum(over), len(over))
        said += f"; success in {sum(over)} of {len(over)} episodes [{100 * low:.0f}, {100 * high:.0f}] %"
    return said


def _lateness(episodes: list[dict[str, Any]]) -> tuple[int, int]:
    """Commands, and those that were late."""
    return sum(episode["commands"] for episode in episodes), sum(episode["late"] for episode in episodes)


def _over(episodes: list[dict[str, Any]]) -> list[bool]:
    """Success of the episodes that came to their end."""
    return [episode["success"] for episode in episodes if episode["success"] is not None]


def _card(title: str, figure: str, note: str, picture: str = "") -> str:
    shown = tag("h2", title) + tag("p", unbroken(figure), class_="figure") + picture
    return tag("article", shown + tag("p", unbroken(escape(note)), class_="note"), class_="card s0")


def _panels(ticks: Demonstrations) -> str:
    """A line for each measurement over the seconds of control, of all episodes one after the other."""
    seconds = np.arange(ticks.num_steps) * ticks.specification.control_dt
    if not len(seconds):
        return ""
    came = ticks.read("chunk")[:, 0] > 0
    drawn = ""
    for name, (title, unit, scale) in PANELS.items():
        values = scale * ticks.read(name)[:, 0]
        shown = came if name in ("chunk", "seam") else np.ones(len(seconds), dtype=bool)
        if not shown.any():
            continue
        series = [Series(0, _thinned(seconds[shown], values[shown]))]
        if name == "late":
            half = scale * ticks.specification.control_dt / 2
            series.append(Series(2, [(float(moment), half) for moment in (seconds[0], seconds[-1])]))
        caption = tag("figcaption", tag("b", title) + " " + tag("span", unit))
        drawn += tag("figure", caption + curve(series, label=f"{title} over the seconds of control"))
    note = (
        "Over the seconds of control, all episodes one after the other. Where a point stands for several ticks it is "
        "the largest of them. The level line is half a period: a command that is later counts as late."
    )
    return tag("div", drawn, class_="multiples") + tag("p", note, class_="note")


def _thinned(moments: NDArray[Any], values: NDArray[Any]) -> list[tuple[float, float]]:
    """At most `NUM_BINS` points, each the largest of its neighbours."""
    bins = np.array_split(np.arange(len(values)), min(NUM_BINS, len(values)))
    largest = [each[values[each].argmax()] for each in bins]
    return [(round(float(moments[index]), 2), float(values[index])) for index in largest]


def _table(episodes: list[dict[str, Any]]) -> str:
    head = tag("tr", "".join(tag("th", title, scope="col") for title in COLUMNS.values()))
    rows = "".join(
        tag("tr", "".join(tag("td", escape(_cell(episode.get(key)))) for key in COLUMNS)) for episode in episodes
    )
    return tag("div", tag("table", tag("thead", head) + tag("tbody", rows), class_="even"), class_="scroll")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name.lower().replace('_', ' ')} {count}" for name, count in value.items()) or "–"
    return "–" if value is None else str(value)
