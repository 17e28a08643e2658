"""The report of a run in real time: one page from `control.json` and `ticks.zarr`."""

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
"""The most points of a line; a point is the largest value of its ticks."""

PANELS = {
    "age": ("Age of the observations", "ms, at each command", 1e3),
    "chunk": ("Time of a chunk", "ms, from request to arrival", 1e3),
    "late": ("Lateness of commands", "ms, after the due time", 1e3),
    "seam": ("Seams between chunks", "% of the limit, at the first action of a new chunk", 100.0),
    "doubt": ("Doubt about the chunk", "% of successful episodes that were surer throughout", 100.0),
}
"""Stream of the ticks -> title, unit, and factor to that unit."""

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
    "events": "safety events",
}
"""Key of an episode -> title of its column."""


def write_timeline(path: Path, record: Mapping[str, Any], ticks: Demonstrations) -> None:
    """Write the page of a run. record: the content of its `control.json`."""
    episodes = record["episodes"]
    facts = {name: record[name] for name in ("robot", "execution", "policy")}
    items = "".join(tag("dt", name) + tag("dd", escape(str(value))) for name, value in facts.items())
    commands, late = _lateness(episodes)
    cards = [_card("On time", f"{100 - 100 * late / max(commands, 1):.4g} %", f"{late} of {commands} commands late")]
    if successes := _successes(episodes):
        rate, (low, high) = sum(successes) / len(successes), wilson(sum(successes), len(successes))
        note = f"95 % interval {100 * low:.0f}–{100 * high:.0f} %, {len(successes)} episodes"
        bar = interval(rate, low, high, place=0, label=note)
        cards.append(_card("Success", f"{100 * rate:.0f} %", note, bar))
    write_page(
        path,
        title=f"{record['task'] or record['policy']}, controlled in real time",
        verdict=unbroken(escape(f"{summary_line(episodes)}.")),
        cards=cards,
        sections=[
            section("The whole run", _panels(ticks)),
            section("Every episode", _table(episodes)),
            section("Reproduce", tag("pre", tag("code", escape(record["command"]))) + tag("dl", items)),
        ],
    )


def summary_line(episodes: list[dict[str, Any]]) -> str:
    """Late commands, and success in the judged episodes; an episode that was stopped for safety has failed."""
    commands, late = _lateness(episodes)
    line = f"{late} of {commands} commands more than half a period late"
    if successes := _successes(episodes):
        low, high = wilson(sum(successes), len(successes))
        line += f"; success in {sum(successes)} of {len(successes)} episodes [{100 * low:.0f}, {100 * high:.0f}] %"
    return line


def _lateness(episodes: list[dict[str, Any]]) -> tuple[int, int]:
    """The number of commands, and of late commands."""
    return sum(episode["commands"] for episode in episodes), sum(episode["late"] for episode in episodes)


def _successes(episodes: list[dict[str, Any]]) -> list[bool]:
    """The success of each judged episode."""
    return [episode["success"] for episode in episodes if episode["success"] is not None]


def _card(title: str, figure: str, note: str, picture: str = "") -> str:
    body = tag("h2", title) + tag("p", unbroken(figure), class_="figure") + picture
    return tag("article", body + tag("p", unbroken(escape(note)), class_="note"), class_="card s0")


def _panels(ticks: Demonstrations) -> str:
    """A line for each measurement over the seconds of control, through all episodes in turn."""
    seconds = np.arange(ticks.num_steps) * ticks.specification.control_dt
    if not len(seconds):
        return ""
    has_chunk = ticks.read("chunk")[:, 0] > 0
    panels = ""
    for name, (title, unit, scale) in PANELS.items():
        values = scale * ticks.read(name)[:, 0]
        used = has_chunk if name in ("chunk", "seam") else np.ones(len(seconds), dtype=bool)
        if not used.any() or (name == "doubt" and not values.any()):
            continue
        series = [Series(0, thinned(seconds[used], values[used]))]
        if name == "late":
            half = scale * ticks.specification.control_dt / 2
            series.append(Series(2, [(float(moment), half) for moment in (seconds[0], seconds[-1])]))
        caption = tag("figcaption", tag("b", title) + " " + tag("span", unit))
        panels += tag("figure", caption + curve(series, label=f"{title} over the seconds of control"))
    note = (
        "Over the seconds of control, through all episodes in turn. A point for several ticks shows the largest. The "
        "level line is half a period: later commands count as late."
    )
    return tag("div", panels, class_="multiples") + tag("p", note, class_="note")


def thinned(moments: NDArray[Any], values: NDArray[Any]) -> list[tuple[float, float]]:
    """At most `NUM_BINS` points, each the largest of several neighbours."""
    bins = np.array_split(np.arange(len(values)), min(NUM_BINS, len(values)))
    largest = [indices[values[indices].argmax()] for indices in bins]
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
