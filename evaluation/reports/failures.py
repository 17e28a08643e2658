"""When episodes succeed, and from where and in which phase they fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .charts import Series, curve, episode_id, tag
from .page import unbroken

FEWEST = 3
"""The fewest successes and the fewest failures from which a map of starts is drawn."""

ALIKE = 0.9
"""Two numbers of a start with a larger correlation say the same."""


def success_curves(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """The share of episodes that have succeeded by each control step, a line for each policy; empty without a success.

    evaluations: the name of a policy -> the content of its `evaluation.json`.
    """
    lines = [Series(place, _steps(evaluation)) for place, evaluation in enumerate(evaluations.values())]
    if not any(len(line.points) > 1 for line in lines):
        return ""
    last = max((max(evaluation["steps"]) for evaluation in evaluations.values()), default=0)
    caption = tag("figcaption", tag("b", "Succeeded so far") + " " + tag("span", "% of the episodes, by control step"))
    keys = "".join(tag("span", escape(name), class_=f"key s{place}") for place, name in enumerate(evaluations))
    legend = tag("p", keys, class_="legend") if len(evaluations) > 1 else ""
    drawing = curve(lines, label="share of succeeded episodes over control steps", last=last, at_least=100)
    return legend + tag("figure", caption + drawing)


def _steps(evaluation: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The corners of the line (step, %)."""
    steps = sorted(step for step in evaluation.get("steps_to_success", ()) if step is not None)
    points, count = [(0.0, 0.0)], len(evaluation["seeds"])
    for number, step in enumerate(steps, start=1):
        points += [(step, points[-1][1]), (step, 100 * number / count)]
    return [*points, (max([*evaluation["steps"], *steps]), points[-1][1])] if steps else points


def failures(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """For each policy with failures: the phases in which they ended, and a map of the starts, failures as rings.

    evaluations: the name of a policy -> the content of its `evaluation.json`. Empty if nothing can be drawn.
    """
    bars = [_phases(place, name, evaluation) for place, (name, evaluation) in enumerate(evaluations.items())]
    maps = [_map(place, name, evaluation) for place, (name, evaluation) in enumerate(evaluations.items())]
    figures = "".join([*bars, *maps])
    if not figures:
        return ""
    note = (
        "The axes are the two numbers of the start that separate failures from successes best. They were chosen by the "
        "episodes that are drawn, so take a pattern as a hint, and test it with other seeds."
    )
    return tag("div", figures, class_="multiples") + (tag("p", note, class_="note") if any(maps) else "")


def _phases(place: int, name: str, evaluation: Mapping[str, Any]) -> str:
    """A bar for each phase in which failed episodes ended, the most frequent one first."""
    counts = Counter(phase for phase in evaluation.get("phase", ()) if phase is not None)
    if not counts:
        return ""
    rows = ""
    for phase, count in counts.most_common():
        bar = tag("rect", class_="dot", width=f"{100 * count / counts.total():.1f}%", height="100%", rx="3")
        rows += tag("dt", escape(phase)) + tag("dd", tag("svg", bar, aria_hidden="true") + tag("span", str(count)))
    text = f"in which phase its {counts.total()} failed episodes ended"
    caption = tag("figcaption", tag("b", escape(name)) + " " + text)
    return tag("figure", caption + tag("dl", rows, class_="phases"), class_=f"s{place}")


def _map(place: int, name: str, evaluation: Mapping[str, Any]) -> str:
    success = np.array(evaluation["success"], bool)
    columns = {
        label: np.array(values, float)
        for label, values in evaluation.get("start", {}).items()
        if None not in values and np.ptp(np.array(values, float)) > 1e-9
    }
    chosen = separating(columns, success)
    if chosen is None:
        return ""
    shapes = tag("rect", class_="frame", x=12, y=4, width=84, height=84)
    places = [_shares(columns[label]) for label in chosen]
    for index in np.argsort(~success):  # failures are drawn last
        x, y = 12 + 84 * places[0][index], 88 - 84 * places[1][index]
        kind = "success" if success[index] else "failure"
        seed = evaluation["seeds"][index]
        text = tag("title", f"seed {seed}: score {evaluation['score'][index]:.2f}")
        dot = tag("circle", text, class_=kind, cx=f"{x:.2f}", cy=f"{y:.2f}", r=1.1 if success[index] else 1.5)
        shapes += tag("a", dot, href=f"#{episode_id(place, seed)}")
    low, high = ([columns[label].min() for label in chosen], [columns[label].max() for label in chosen])
    for value, x, anchor in ((low[0], 12, "start"), (high[0], 96, "end")):
        shapes += tag("text", f"{value:.3g}", x=x, y=94, text_anchor=anchor)
    for value, y in ((low[1], 88), (high[1], 7)):
        shapes += tag("text", f"{value:.3g}", x=10.5, y=y, text_anchor="end")
    shapes += tag("text", escape(chosen[0]), x=54, y=94, text_anchor="middle")
    turned = "translate(5 46) rotate(-90)"
    shapes += tag("text", escape(chosen[1]), x=0, y=0, text_anchor="middle", transform=turned)
    text = f"{(~success).sum()} of {len(success)} episodes failed (rings)"
    drawing = tag("svg", shapes, class_=f"map starts s{place}", viewBox="0 0 100 98", role="img", aria_label=text)
    return tag("figure", tag("figcaption", tag("b", escape(name)) + " " + unbroken(text)) + drawing)


def separating(columns: Mapping[str, NDArray[np.float64]], success: NDArray[np.bool_]) -> tuple[str, str] | None:
    """The two numbers of a start that separate failures from successes best, by the area under their ROC curves.

    columns: label -> (N,), none of which is constant. None if there are too few numbers, successes or failures.
    """
    if len(columns) < 2 or min(success.sum(), (~success).sum()) < FEWEST:
        return None
    ranked = sorted(columns, key=lambda label: -abs(_area(columns[label], success) - 0.5))
    others = [one for one in ranked[1:] if abs(np.corrcoef(columns[ranked[0]], columns[one])[0, 1]) < ALIKE]
    return ranked[0], (others or ranked[1:])[0]


def _area(values: NDArray[np.float64], success: NDArray[np.bool_]) -> float:
    """The probability that a success has a larger value than a failure."""
    from scipy.stats import rankdata

    ranks, count = rankdata(values)[success], int(success.sum())
    return float((ranks.sum() - count * (count + 1) / 2) / (count * (len(values) - count)))


def _shares(values: NDArray[np.float64]) -> Sequence[float]:
    return ((values - values.min()) / np.ptp(values)).tolist()
