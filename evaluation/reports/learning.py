"""What a training measured, over its steps: the loss, the error of held-out actions, and the success in the task.

Error and success are drawn one above the other over the same steps, because neither alone says whether to train longer:
on noisy or multimodal demonstrations the error may rise while the policy still gets better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ...checkpoints.runs import ERROR_OF
from ..intervals import wilson
from .charts import Series, curve, tag
from .page import section, unbroken, write_page

Metrics = Sequence[Mapping[str, Any]]
"""The lines of a run's `metrics.jsonl`."""

LEVEL = 0.03
"""The action error is level if it lies within this share of its lowest value."""


def learning(runs: Mapping[str, Metrics]) -> str:
    """Panels with a line for each run, all over the same steps; empty if nothing was measured.

    runs: name -> metrics.
    """
    named = list(enumerate(runs.values()))
    last = max((line["step"] for metrics in runs.values() for line in metrics), default=0)
    loss = [Series(place, [(s, v) for s, v in _points(metrics, "loss") if v > 0]) for place, metrics in named]
    error = [Series(place, [(s, 100 * v) for s, v in _points(metrics, "action_error")]) for place, metrics in named]
    bits = [Series(place, _points(metrics, "bits_per_dimension")) for place, metrics in named]
    successes = [_successes(place, metrics) for place, metrics in named]
    unit = "not comparable between policies" if sum(bool(line.points) for line in loss) > 1 else "mean over batches"
    stacked = _panel("Success during training", "% with 95 % interval", successes, last=last, at_least=100)
    stacked += _panel("Held-out action error", "% of the range of each action", error, last=last)
    stacked += "".join(_errors_of_each(name if len(runs) > 1 else "", metrics, last) for name, metrics in runs.items())
    stacked += _panel("Held-out variational bound", "bits per dimension of normalised chunks", bits, last=last)
    drawn = (tag("div", stacked) if stacked else "") + _panel("Training loss", unit, loss, last=last, is_log=True)
    if not drawn:
        return ""
    return (_legend(list(runs)) if len(runs) > 1 else "") + tag("div", drawn, class_="multiples")


def write_training_page(path: Path, name: str, metrics: Metrics, choices: Sequence[tuple[str, str]] = ()) -> None:
    """Write the page of one training. It appears whole or not at all.

    choices: (`key=value`, reason) of the settings that were chosen from the data.
    """
    listed = "".join(tag("dt", escape(setting)) + tag("dd", escape(reason)) for setting, reason in choices)
    write_page(
        path,
        title=f"{name}: training",
        verdict=unbroken(escape(f"{outlook(metrics)} The same command with more steps continues this run.".lstrip())),
        cards=[],
        sections=[
            section("Error and success", learning({name: metrics})),
            section("Chosen from the data", tag("dl", listed) if listed else ""),
        ],
    )


def outlook(metrics: Metrics) -> str:
    """How the error and the success went on at the end of a training; empty if neither was measured.

    >>> errors = [{"step": step, "action_error": error} for step, error in ((100, 0.09), (200, 0.08), (300, 0.085))]
    >>> outlook([*errors, {"step": 300, "success_rate": 0.5, "episodes": 20}])
    'The held-out action error rose from 8.0 % at step 200, its lowest, to 8.5 % at step 300. Success was \
50 % [30, 70] of 20 episodes at step 300.'
    """
    sentences = (_error_trend(metrics), _last_of_each(metrics), _success_trend(metrics))
    return " ".join(sentence for sentence in sentences if sentence)


def _error_trend(metrics: Metrics) -> str:
    points = _points(metrics, "action_error")
    if not points:
        return ""
    (step, last), (lowest_step, lowest) = points[-1], min(points, key=lambda point: point[1])
    place, error = f"at step {step}", f"{100 * last:.1f} %"
    if last > (1 + LEVEL) * lowest:
        rise = f"rose from {100 * lowest:.1f} % at step {lowest_step}, its lowest, to"
        return f"The held-out action error {rise} {error} {place}."
    earlier = [value for s, value in points if s <= 0.75 * step]
    if earlier and last < (1 - LEVEL) * min(earlier):
        return (
            f"The held-out action error was still falling: it is {error} {place}, and was {100 * min(earlier):.1f} %."
        )
    if earlier:
        return f"The held-out action error is level: {error} {place}."
    return f"The held-out action error was {error} {place}."


def _last_of_each(metrics: Metrics) -> str:
    """The last error in each of several datasets."""
    last = {name: _points(metrics, key)[-1][1] for name, key in _error_keys(metrics).items()}
    return (
        f"Of each dataset it is {', '.join(f'{100 * v:.1f} % ({name})' for name, v in last.items())}." if last else ""
    )


def _success_trend(metrics: Metrics) -> str:
    line = _successes(0, metrics)
    if not line.points:
        return ""
    episodes = next(entry["episodes"] for entry in reversed(metrics) if "success_rate" in entry and "episodes" in entry)
    (step, last), (low, high) = line.points[-1], line.intervals[-1]
    now = f"{last:.0f} % [{low:.0f}, {high:.0f}] of {episodes} episodes at step {step:.0f}"
    if len(line.points) == 1:
        return f"Success was {now}."
    place = max(range(len(line.points) - 1), key=lambda index: line.points[index][1])
    (best_step, best), (best_low, best_high) = line.points[place], line.intervals[place]
    before = f"{best:.0f} % [{best_low:.0f}, {best_high:.0f}] at step {best_step:.0f}, the best before it"
    if low > best_high:
        return f"Success still rose: it was {now}, and {before}."
    if high < best_low:
        return f"Success fell: it was {now}, and {before}."
    return f"Success was {now}, and {before}: too few episodes to tell them apart."


def _errors_of_each(name: str, metrics: Metrics, last: float) -> str:
    """A panel with a line for each of several datasets of the run `name`; empty if it has one dataset."""
    errors = _error_keys(metrics)
    series = [Series(i, [(s, 100 * v) for s, v in _points(metrics, key)]) for i, key in enumerate(errors.values())]
    unit = f"{name}, % of the range of each action" if name else "% of the range of each action"
    return _panel("Held-out action error of each dataset", unit, series, legend=_legend(list(errors)), last=last)


def _error_keys(metrics: Metrics) -> dict[str, str]:
    """Name of each of several datasets -> the key of its action error, in the order of the datasets."""
    keys = dict.fromkeys(key for line in metrics for key in line if key.startswith(ERROR_OF))
    return {key.removeprefix(ERROR_OF): key for key in keys}


def _legend(names: Sequence[str]) -> str:
    """The names of the lines, each in its colour."""
    return tag(
        "p", "".join(tag("span", escape(name), class_=f"key s{i}") for i, name in enumerate(names)), class_="legend"
    )


def _panel(title: str, unit: str, series: Sequence[Series], *, legend: str = "", **axis: Any) -> str:
    series = [line for line in series if line.points]
    if not series:
        return ""
    caption = tag("figcaption", tag("b", escape(title)) + " " + tag("span", escape(unit)))
    return tag("figure", caption + legend + curve(series, label=f"{title} over training steps", **axis))


def _points(metrics: Metrics, key: str) -> list[tuple[float, float]]:
    """(step, value) of one metric."""
    return [(line["step"], line[key]) for line in metrics if key in line]


def _successes(place: int, metrics: Metrics) -> Series:
    """Success rates in per cent during training, of the evaluations whose number of episodes is known."""
    lines = [line for line in metrics if "success_rate" in line and "episodes" in line]
    bounds = [wilson(round(line["success_rate"] * line["episodes"]), line["episodes"]) for line in lines]
    points = [(line["step"], 100 * line["success_rate"]) for line in lines]
    return Series(place, points, [(100 * low, 100 * high) for low, high in bounds])
