"""A table and a picture of success against the severity of disturbances."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...envs.disturbance_kinds import KINDS
from ...web.look import colours
from ..intervals import wilson
from ..pairs import Pairs
from .drawing import plain
from .page import markdown_table

LEGEND = """\
All rows are of the same episodes, so each is compared with the undisturbed one by pairs (Bonett and Price; McNemar's
mid-p, which is not corrected for the number of rows). All intervals are 95 % intervals.
"""


def table(arms: Sequence[Any]) -> str:
    """A markdown table with a row for each of the arms of `evaluation.robustness`, the undisturbed one first."""
    usual = arms[0].result
    rows = [("disturbance", "severity", "success", "difference, points", "p", "score")]
    for arm in arms:
        success, score = arm.result["success"], np.array(arm.result["score"])
        low, high = wilson(sum(success), len(success))
        rate = f"{100 * np.mean(success):.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
        if arm is arms[0]:
            rows.append(("none", "-", rate, "-", "-", f"{score.mean():.3f}"))
            continue
        pairs = Pairs(np.array(success), np.array(usual["success"]), np.stack([score, usual["score"]], axis=1))
        least, most = pairs.interval
        difference = f"{100 * pairs.difference:+.0f} [{100 * least:+.0f}, {100 * most:+.0f}]"
        severity = f"{arm.severity:g} {KINDS[arm.kind].unit}"
        rows.append((arm.kind, severity, rate, difference, f"{pairs.p_value:.2g}", f"{score.mean():.3f}"))
    return "\n".join(markdown_table(rows)) + "\n"


def document(arms: Sequence[Any], *, command: str) -> str:
    """A page with the table, the command that wrote it, and what each disturbance is."""
    kinds = dict.fromkeys(arm.kind for arm in arms[1:])
    meanings = "".join(f"- {kind}, s {KINDS[kind].unit}: {KINDS[kind].what}\n" for kind in kinds)
    count, task = len(arms[0].result["seeds"]), arms[0].result["task"]
    return (
        f"# Success of a policy under disturbances\n\nWritten by `{command}`: {task}, {count} episodes a row.\n\n"
        f"{table(arms)}\n{meanings}\n{LEGEND}"
    )


def draw(arms: Sequence[Any]) -> bytes:
    """A PNG with a panel for each disturbance: success against severity, beginning with the undisturbed policy."""
    from matplotlib.figure import Figure

    look = colours()
    first, *rest = arms
    kinds = dict.fromkeys(arm.kind for arm in rest)
    columns = 2 if len(kinds) == 4 else min(len(kinds), 3)
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(3.2 * columns + 0.4, 2.6 * rows + 0.3), dpi=150, layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel()
    for panel in panels[len(kinds) :]:
        panel.set_axis_off()
    for panel, kind in zip(panels, kinds, strict=False):
        line = [first, *sorted((arm for arm in rest if arm.kind == kind), key=lambda arm: arm.severity)]
        severities, rates = [arm.severity for arm in line], [100 * arm.result["success_rate"] for arm in line]
        low, high = 100 * np.transpose([arm.result["success_rate_95"] for arm in line])
        panel.fill_between(severities, low, high, color=look["c1"], alpha=0.18, lw=0)
        panel.plot(severities, rates, color=look["c1"], marker="o", markersize=4, lw=1.5)
        panel.axhline(rates[0], color=look["soft"], lw=0.8, ls="--")
        panel.set(xlabel=f"{kind.replace('_', ' ')}, {KINDS[kind].unit}", ylim=(0, 103), xlim=(0, None))
        plain(panel)
    for panel in panels[::columns]:
        panel.set_ylabel("success, %")
    count, task = len(first.result["seeds"]), first.result["task"]
    figure.suptitle(f"{task}: {count} episodes a point, 95 % intervals", fontsize=10)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
