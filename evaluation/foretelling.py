"""How well monitors foretell that an episode fails, and from which number on they raise an alarm.

Two questions are answered. *Shortly before the end*: is the number of a chunk higher in episodes that failed than in
those that succeeded, the same time before their ends? Failed episodes end late, so the elapsed time alone answers that
well. *At equal times*: is the largest number so far higher in those that failed, when the first tenth of the successful
episodes has ended? There the elapsed time says nothing.

Alarms are calibrated by the first half of the successful episodes, and counted in the other half and in those that
failed. An episode that broke off counts nowhere.

Shapes: n episodes of m chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..policy.monitor import alarm_above, fewest
from .episode import Outcome
from .intervals import Interval, wilson

BEFORE_S = (0.5, 1.0, 2.0)
"""Seconds before the end of an episode."""

ELAPSED = "elapsed time"
"""The row beside the monitors: the seconds since the episode began."""

NUM_RESAMPLES = 1000


def auroc(failed: ArrayLike, succeeded: ArrayLike) -> float:
    """How often a number of a failed episode is larger than one of a successful episode; equal ones count half.

    >>> auroc([3, 2], [1, 2])
    0.875
    """
    return float(_wins(failed, succeeded).mean())


def auroc_interval(failed: ArrayLike, succeeded: ArrayLike) -> Interval:
    """The 95 % interval of `auroc`: a bootstrap over the episodes of each kind.

    Each kind has two episodes more, one below and one above all others, because a few episodes may show no exception.
    Memory grows with the pairs of a failed and a successful episode.

    >>> [round(bound, 2) for bound in auroc_interval([2] * 20, [1] * 20)]
    [0.79, 1.0]
    """
    more, less = (np.concatenate([[-np.inf], np.asarray(kind, np.float64), [np.inf]]) for kind in (failed, succeeded))
    wins, rng = _wins(more, less), np.random.default_rng(0)
    rows, columns = (rng.multinomial(n, np.full(n, 1 / n), NUM_RESAMPLES) / n for n in wins.shape)
    low, high = np.quantile((rows @ wins * columns).sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _wins(failed: ArrayLike, succeeded: ArrayLike) -> NDArray[np.float64]:
    """For each pair, 1 if the number of the failed episode is larger, and 0.5 if they are equal."""
    more, less = np.asarray(failed)[:, None], np.asarray(succeeded)
    return (more > less) + (more == less) / 2


def foretelling(outcomes: Sequence[Outcome], *, control_dt: float, false_alarms: float) -> dict[str, Any]:
    """What monitors say of episodes, as JSON; see the module.

    control_dt: seconds of a control step. false_alarms: the share of successful episodes that may raise an alarm.
    """
    whole = [outcome for outcome in outcomes if outcome.fault is None]
    succeeded, failed = ([one for one in whole if one.success is is_success] for is_success in (True, False))
    calibrating, testing = succeeded[::2], succeeded[1::2]
    ends = sorted(_end(one) for one in succeeded)
    equal = ends[len(ends) // 10] if ends else 1
    rows = dict[str, Any]()
    for name in (*whole[0].monitors, ELAPSED):
        before = {
            f"{seconds:g}": _area(
                [_before(one, name, round(seconds / control_dt)) for one in failed],
                [_before(one, name, round(seconds / control_dt)) for one in succeeded],
            )
            for seconds in BEFORE_S
        }
        equally = [[_largest(one, name, before=equal) for one in kind] for kind in (failed, succeeded)]
        largest = [_largest(one, name) for one in calibrating]
        limit = alarm_above(largest, false_alarms)
        raised = [[_alarm(one, name, limit) for one in kind] for kind in (testing, failed)]
        ahead = [
            (_end(one) - step) * control_dt for one, step in zip(failed, raised[1], strict=True) if step is not None
        ]
        rows[name] = {
            "auroc_before": before,
            "auroc_at_equal_time": _area(*equally),
            "largest": largest,
            "alarm_above": limit,
            "false_alarms": _share(raised[0]),
            "foretold": _share(raised[1]),
            "foretold_s": float(np.median(ahead)) if ahead else None,
        }
    return {
        "false_alarm_rate": false_alarms,
        "failed": len(failed),
        "succeeded": len(succeeded),
        "calibrating": len(calibrating),
        "equal_time_s": equal * control_dt,
        "control_dt": control_dt,
        "monitors": rows,
    }


def _end(outcome: Outcome) -> int:
    """The control step at which an episode succeeded, or ended."""
    return outcome.num_steps if outcome.success_step is None else outcome.success_step


def _numbers(outcome: Outcome, name: str) -> NDArray[np.float64]:
    """(m,): a number for each chunk."""
    return np.array(outcome.requested if name == ELAPSED else outcome.monitors[name], np.float64)


def _before(outcome: Outcome, name: str, steps: int) -> float | None:
    """The number of the last chunk that was requested so many steps before the end; None if there was none."""
    is_early = np.array(outcome.requested) <= _end(outcome) - steps
    return float(_numbers(outcome, name)[is_early][-1]) if is_early.any() else None


def _largest(outcome: Outcome, name: str, *, before: int | None = None) -> float:
    """The largest number of the chunks before a step, or until the end; the first chunk is requested in step 0."""
    last = _end(outcome) if before is None else before - 1
    return float(_numbers(outcome, name)[np.array(outcome.requested) <= min(last, _end(outcome))].max())


def _alarm(outcome: Outcome, name: str, limit: float | None) -> int | None:
    """The step of the first chunk that raises an alarm before the end; None if there is none."""
    is_alarm = (_numbers(outcome, name) > (np.inf if limit is None else limit)) & (
        np.array(outcome.requested) <= _end(outcome)
    )
    return outcome.requested[int(is_alarm.argmax())] if is_alarm.any() else None


def _area(failed: Sequence[float | None], succeeded: Sequence[float | None]) -> dict[str, Any] | None:
    """The area with its interval and the episodes behind it; None without episodes of both kinds."""
    more, less = ([number for number in kind if number is not None] for kind in (failed, succeeded))
    if not more or not less:
        return None
    interval = auroc_interval(more, less)
    return {"auroc": auroc(more, less), "auroc_95": interval, "failed": len(more), "succeeded": len(less)}


def _share(alarms: Sequence[int | None]) -> dict[str, Any]:
    """How many episodes raised an alarm, with the interval of the rate."""
    count = sum(step is not None for step in alarms)
    return {"episodes": len(alarms), "alarms": count, "rate_95": wilson(count, len(alarms)) if alarms else None}


def heads(content: Mapping[str, Any]) -> list[str]:
    """What the cells of `cells` are."""
    before = [f"AUROC {seconds:g} s before the end" for seconds in BEFORE_S]
    return [*before, f"AUROC at {content['equal_time_s']:.1f} s", "false alarms", "failures foretold", "ms"]


def cells(content: Mapping[str, Any], name: str) -> list[str]:
    """What there is to say of a monitor. content: of `foretelling`, and `ms`, the times of the monitors."""
    row = content["monitors"][name]
    areas = [_area_text(area) for area in (*row["auroc_before"].values(), row["auroc_at_equal_time"])]
    foretold = _share_text(row["foretold"], row["alarm_above"])
    if row["foretold_s"] is not None:
        foretold += f", {row['foretold_s']:.1f} s before the end"
    time = f"{content['ms'][name]:.3g}" if name in content["ms"] else "–"
    return [*areas, _share_text(row["false_alarms"], row["alarm_above"]), foretold, time]


def table(content: Mapping[str, Any]) -> str:
    """A table of Markdown, with a row for each monitor. content: see `cells`."""
    head = ["monitor", *heads(content)]
    rows = [[name, *cells(content, name)] for name in content["monitors"]]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def shortage(content: Mapping[str, Any]) -> list[str]:
    """Why there are no alarms, in a sentence; empty if there are."""
    needed = fewest(content["false_alarm_rate"])
    if content["calibrating"] >= needed:
        return []
    return [
        f"no alarms: they are calibrated by {needed} successful episodes, half of those there are, and there were "
        f"{content['succeeded']}: evaluate more episodes, or accept more false_alarms="
    ]


def _area_text(area: Mapping[str, Any] | None) -> str:
    if area is None:
        return "–"
    low, high = area["auroc_95"]
    return f"{area['auroc']:.2f} [{low:.2f}, {high:.2f}]"


def _share_text(share: Mapping[str, Any], limit: float | None) -> str:
    if limit is None or not share["episodes"]:
        return "–"
    low, high = (100 * bound for bound in share["rate_95"])
    return f"{share['alarms']} of {share['episodes']} [{low:.0f}, {high:.0f}] %"
