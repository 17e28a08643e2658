"""What the monitors of a policy said over the episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from ...web.look import colours
from ..foretelling import cells, heads, shortage
from .charts import HEIGHT, WIDTH, Trace, episode_id, tag, traces
from .entry import Entry
from .page import unbroken

UNITS = {
    "disagreement": "half ranges of the actions, by other noise",
    "denoising": "bits per dimension of the bound",
    "distance": "to the demonstrations, as a multiple of theirs",
    "stillness": "minus the way of the chunk, in ranges of the actions",
}
"""Monitor -> the unit of its number."""


GAP = 16
"""Between the pictures, in the units of their view boxes."""

STYLE = """
.paper { fill: $ground; } text { font: 11px sans-serif; fill: $soft; } .title { font-weight: 600; fill: $ink; }
.grid { stroke: $line; } path { fill: none; }
.trace { stroke: $soft; stroke-width: .8; opacity: .35; } .trace.failure { stroke: $c0; opacity: .8; }
.level { stroke: $ink; stroke-width: 1.2; stroke-dasharray: 5 4; }
"""
"""Of a picture that stands alone, in the colours of the look."""


def timelines(entries: Sequence[Entry]) -> str:
    """For each policy that was monitored, a table and a picture of every monitor; empty if none was."""
    return "".join(
        _monitors(place, entry.evaluation) for place, entry in enumerate(entries) if "monitors" in entry.evaluation
    )


def _monitors(place: int, evaluation: Mapping[str, Any]) -> str:
    content = evaluation["monitors"]
    rows = content["monitors"]
    columns = zip(heads(content), *(cells(content, name) for name in rows), strict=True)
    head = tag("tr", "<td></td>" + "".join(tag("th", escape(name), scope="col") for name in rows))
    lines = "".join(
        tag(
            "tr",
            tag("th", unbroken(escape(name)), scope="row")
            + "".join(tag("td", unbroken(escape(cell))) for cell in line),
        )
        for name, *line in columns
    )
    body = tag("div", tag("table", tag("thead", head) + tag("tbody", lines), class_="even wide wrap"), class_="scroll")
    figures = "".join(_figure(place, name, evaluation) for name in content["numbers"])
    notes = [
        "AUROC: how often the number is larger in a failed episode than in a successful one, 0.5 by chance. Failed "
        "episodes end late, so before the end the elapsed time alone answers well; at equal times it says nothing. The "
        f"broken line raises alarms: it is calibrated by {content['calibrating']} successful episodes to alarm in at "
        f"most {100 * content['false_alarm_rate']:g} % of new ones. ms: the time beside that of the "
        "chunk, for one robot. Grey lines are successes, coloured ones failures.",
        *shortage(content),
    ]
    return (
        body
        + "".join(tag("p", escape(note), class_="note") for note in notes)
        + tag("div", figures, class_="multiples")
    )


def _figure(place: int, name: str, evaluation: Mapping[str, Any]) -> str:
    if not (drawing := _traces(place, name, evaluation)):
        return ""
    caption = tag("figcaption", tag("b", escape(name)) + " " + tag("span", f"{UNITS[name]}, over the seconds"))
    return tag("figure", caption + drawing)


def _traces(place: int, name: str, evaluation: Mapping[str, Any]) -> str:
    """A line for each episode; empty if none has numbers."""
    content = evaluation["monitors"]
    lines = [
        Trace(
            "success" if success else "failure",
            [(content["control_dt"] * step, number) for step, number in zip(steps, numbers, strict=True)],
            f"seed {seed}: {'success' if success else 'no success'}",
            episode_id(place, seed),
        )
        for seed, success, steps, numbers in zip(
            evaluation["seeds"], evaluation["success"], content["requested"], content["numbers"][name], strict=True
        )
        if numbers
    ]
    level = content["monitors"][name]["alarm_above"]
    return traces(lines, place=place, level=level, label=f"{name} of each chunk") if lines else ""


def picture(evaluation: Mapping[str, Any]) -> str:
    """The pictures of all monitors as one SVG, for pages of others. evaluation: of a policy that was monitored."""
    panels = ""
    for index, name in enumerate(evaluation["monitors"]["numbers"]):
        left, top = index % 2 * (WIDTH + GAP), index // 2 * (HEIGHT + 2 * GAP)
        title = tag("text", tag("tspan", escape(name), class_="title") + escape(f" {UNITS[name]}"), x=0, y=GAP)
        sized = _traces(0, name, evaluation).replace("<svg", f'<svg width="{WIDTH}" height="{HEIGHT}"', 1)
        drawing = tag("g", sized, transform=f"translate(0 {1.5 * GAP})")
        panels += tag("g", title + drawing, transform=f"translate({left} {top})")
    rows = math.ceil(len(evaluation["monitors"]["numbers"]) / 2)
    size = {"width": 2 * WIDTH + GAP, "height": rows * (HEIGHT + 2 * GAP)}
    view = f"{-GAP} 0 {size['width'] + 2 * GAP} {size['height']}"
    body = (
        tag("style", Template(STYLE).substitute(colours()))
        + tag("rect", class_="paper", x=-GAP, width="100%", height="100%")
        + panels
    )
    return tag("svg", body, xmlns="http://www.w3.org/2000/svg", viewBox=view, **size)
