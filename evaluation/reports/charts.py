"""Charts as inline SVG. The page sets their colours, for its light and its dark theme.

The shapes of a policy have the class `s0`, `s1`, ..., by the policy's index in the report; the page gives each a
colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 312, 12, 164
"""The size of a curve, and the corners of its axes, in the units of its view box."""


EMPTY = {"img", "input"}
"""Elements without content, which are not closed."""


def tag(name: str, content: str = "", /, **attributes: object) -> str:
    """An element. Attribute values are escaped; `content` must be markup already. Write `class_` for `class`."""
    markup = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items()
    )
    return f"<{name}{markup}>" if name in EMPTY else f"<{name}{markup}>{content}</{name}>"


def episode_id(place: int, seed: int) -> str:
    """The id of an episode's row in the table of all. place: the policy's index in the report."""
    return f"episode-{place}-{seed}"


def interval(value: float, low: float, high: float, *, place: int, label: str) -> str:
    """A value in [0, 1] as a dot, with its confidence interval as a bar, on a track from 0 to 1."""
    shapes = tag("rect", class_="track", x="0", y="9", width="100%", height="2", rx="1")
    shapes += tag("rect", class_="bar", x=_percent(low), y="5", width=_percent(high - low), height="10", rx="5")
    shapes += tag("circle", class_="dot", cx=_percent(value), cy="10", r="5.5")
    return tag("svg", shapes, class_=f"interval s{place}", role="img", aria_label=label)


def episodes(evaluation: Mapping[str, Any], *, place: int, label: str) -> str:
    """A column for each episode, whose height is the score; full colour is a success, a pale one a failure."""
    columns, width = "", 100 / len(evaluation["seeds"])
    for index, (seed, success, score, steps) in enumerate(
        zip(*(evaluation[key] for key in ("seeds", "success", "score", "steps")), strict=True)
    ):
        text = f"seed {seed}: {'success' if success else 'no success'}, score {score:.2f}, {steps} steps"
        height = max(100 * score, 3)
        column = tag(
            "rect",
            tag("title", text),
            class_="success" if success else "failure",
            x=f"{(index + 0.1) * width:.3f}%",
            y=f"{100 - height:.1f}%",
            width=f"{0.8 * width:.3f}%",
            height=f"{height:.1f}%",
        )
        columns += tag("a", column, href=f"#{episode_id(place, seed)}")
    return tag("svg", columns, class_=f"episodes s{place}", role="img", aria_label=label)


def shares(seconds: Mapping[str, float], *, longest: float, label: str) -> str:
    """Seconds of each kind, stacked in one bar; `longest` seconds fill the width."""
    shapes, start = "", 0.0
    for kind, total in seconds.items():
        title, width = tag("title", escape(f"{kind}: {total:.1f} s")), total / longest
        shapes += tag("rect", title, class_=kind, x=_percent(start), y="0", width=_percent(width), height="14")
        start += width
    return tag("svg", shapes, class_="shares", role="img", aria_label=label)


@dataclass(frozen=True)
class Series:
    """The line of one policy."""

    place: int
    """The policy's index, which selects the colour."""

    points: Sequence[tuple[float, float]]
    """(step, value)."""

    intervals: Sequence[tuple[float, float]] = ()
    """(low, high) of each point, or nothing."""


def curve(
    series: Sequence[Series], *, label: str, last: float = 0.0, is_log: bool = False, at_least: float = 0.0
) -> str:
    """Lines over steps, up to `last` or farther. The vertical axis is logarithmic, or from 0 to `at_least` or more."""
    values = [value for line in series for _, value in line.points]
    values += [bound for line in series for bounds in line.intervals for bound in bounds]
    last = max(last, *(step for line in series for step, _ in line.points)) or 1.0
    ticks = _log_ticks(min(values), max(values)) if is_log else _ticks(max(*values, at_least, 1e-9))
    transform = math.log10 if is_log else float
    low, high = transform(min([*ticks, *values]) if is_log else 0.0), transform(max([*ticks, *values]))

    def x(step: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * step / last, 1)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (transform(value) - low) / (high - low), 1)

    shapes = ""
    for value in ticks:
        shapes += tag("path", class_="grid", d=f"M{LEFT} {y(value)}H{RIGHT}")
        shapes += tag("text", f"{value:g}", x=LEFT - 6, y=y(value) + 3.5, text_anchor="end")
    for step in _ticks(last, most=4):
        shapes += tag("text", f"{step:,.0f}", x=x(step), y=BOTTOM + 16, text_anchor="middle")
    for line in series:
        markup = tag("path", class_="line", d="M" + "L".join(f"{x(step)} {y(value)}" for step, value in line.points))
        for (step, value), (lowest, highest) in zip(line.points, line.intervals, strict=False):
            markup += tag("path", class_="whisker", d=f"M{x(step)} {y(lowest)}V{y(highest)}")
            markup += tag("circle", class_="dot", cx=x(step), cy=y(value), r=2.6)
        if len(line.points) == 1:
            markup += tag("circle", class_="dot", cx=x(line.points[0][0]), cy=y(line.points[0][1]), r=2.6)
        shapes += tag("g", markup, class_=f"s{line.place}")
    return tag("svg", shapes, class_="curve", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


class Trace(NamedTuple):
    """The line of one episode."""

    kind: str
    """Its class: success or failure."""
    points: Sequence[tuple[float, float]]
    """(s, value)."""
    text: str
    """What is shown above it."""
    target: str
    """The id of the episode's row."""


def traces(lines: Sequence[Trace], *, place: int, level: float | None, label: str) -> str:
    """A thin line for each episode over the seconds, failures above successes, and a broken line at `level`."""
    values = [value for line in lines for _, value in line.points] + ([] if level is None else [level])
    last = max(second for line in lines for second, _ in line.points) or 1.0
    low, high = min(*values, 0.0), max(*values, 0.0)
    high = high if high > low else low + 1.0

    def x(second: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * second / last, 1)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low), 1)

    shapes = ""
    for value in _ticks(high, lowest=low):
        shapes += tag("path", class_="grid", d=f"M{LEFT} {y(value)}H{RIGHT}")
        shapes += tag("text", f"{value:g}", x=LEFT - 6, y=y(value) + 3.5, text_anchor="end")
    for second in _ticks(last, most=4):
        shapes += tag("text", f"{second:g}", x=x(second), y=BOTTOM + 16, text_anchor="middle")
    for line in sorted(lines, key=lambda line: line.kind == "failure"):
        path = "M" + "L".join(f"{x(second)} {y(value)}" for second, value in line.points)
        drawn = tag("path", tag("title", escape(line.text)), class_=f"trace {line.kind}", d=path)
        shapes += tag("a", drawn, href=f"#{line.target}")
    if level is not None:
        shapes += tag("path", class_="level", d=f"M{LEFT} {y(level)}H{RIGHT}")
    view = f"0 0 {WIDTH} {HEIGHT}"
    return tag("svg", shapes, class_=f"curve s{place}", viewBox=view, role="img", aria_label=label)


def _ticks(highest: float, *, lowest: float = 0.0, most: int = 5) -> list[float]:
    """Round values from the lowest to the highest."""
    from matplotlib.ticker import MaxNLocator

    values, margin = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(lowest, highest), 1e-4 * (highest - lowest)
    return [float(value) for value in values if lowest - margin <= value <= highest + margin]


def _log_ticks(lowest: float, highest: float) -> list[float]:
    """1, 2 and 5 times each power of ten in the range; only the powers if the range spans more than two of them."""
    steps = (1, 2, 5) if highest < 100 * lowest else (1,)
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    values = [step * 10.0**power for power in powers for step in steps]
    return [value for value in values if lowest <= value <= highest] or [values[0], values[-1]]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
