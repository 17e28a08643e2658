"""A picture of success against delay."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .drawing import line_style, plain


def draw_delays(results: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG of the success rate against the delay, with 95 % intervals and a line for each execution.

    results: the content of `evaluation.json` of each pair of an execution and a delay.
    """
    from matplotlib.figure import Figure

    lines: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        lines.setdefault(result["execution"]["choice"], []).append(result)
    span = max(result["delay_ms"] for result in results) or 1.0
    figure = Figure(figsize=(7.5, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, (name, line) in enumerate(lines.items()):
        offset = 0.006 * span * (place - (len(lines) - 1) / 2)  # keeps intervals apart
        delays = [result["delay_ms"] + offset for result in line]
        rates = [100 * result["success_rate"] for result in line]
        low, high = 100 * np.transpose([result["success_rate_95"] for result in line])
        errors = np.stack([rates - low, high - rates])
        axes.errorbar(
            delays, rates, yerr=errors, label=name, marker="o", markersize=4, capsize=2, lw=1.5, **line_style(place)
        )
    first = results[0]
    axes.set(xlabel="delay of a chunk, ms", ylabel="success, %", ylim=(0, 103))
    axes.set_title(f"{first['task']}: {first['episodes']} episodes a point, 95 % intervals", loc="left", fontsize=10)
    plain(axes)
    figure.legend(loc="outside right upper", frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
