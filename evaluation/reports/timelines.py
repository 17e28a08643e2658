"""What the monitors of a policy said over the episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..foretelling import cells, heads, shortage
from .charts import Trace, episode_id, tag, traces
from .entry import Entry
from .page import unbroken

UNITS = {
    "disagreement": "half ranges of the actions, between chunks from other noise",
    "denoising": "bits per dimension of the variational bound",
    "distance": "standard deviations of the encoder's features, to the demonstrations",
    "stillness": "minus the way of the chunk, in ranges of the actions",
}
"""Monitor -> the unit of its number."""


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
    if not lines:
        return ""
    caption = tag("figcaption", tag("b", escape(name)) + " " + tag("span", f"{UNITS.get(name, '')}, over the seconds"))
    drawing = traces(lines, place=place, level=content["monitors"][name]["alarm_above"], label=f"{name} of each chunk")
    return tag("figure", caption + drawing)
