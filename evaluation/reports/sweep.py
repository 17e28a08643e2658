"""The evaluations of a sweep: a row for each combination of values, pooled over seeds, and a picture."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ...configs.notation import shown
from ..intervals import MIN_TRAININGS, over_trainings, wilson
from ..pairs import LEVEL, bootstrap_difference, holm, letters, sign_flip
from ..sweeps import Sweep
from .comparison import OUTCOMES, Result, outcome_cells, outcomes_of
from .page import markdown_table
from .paired import find_one, paired

POOLED = "seed"
"""The key over whose values a row pools."""

LEGEND = f"""\
A row is one combination of the values that the sweep tried, and pools the episodes of its trainings. All intervals are
95 % intervals. Over episodes: these trained policies in other episodes (Wilson; bootstrap for a score). Over trainings:
other seeds of training (Student's t, from {MIN_TRAININGS} trainings on).

Rows that share a letter were not told apart in the episodes that they share (sign-flip test over episodes, mid-p, which
for one training each is McNemar's; Holm's correction for all pairs). Letters and differences are of these trained
policies. Whether other trainings would differ too, only the intervals over trainings say.
"""


@dataclass(frozen=True, eq=False)
class Row:
    """The jobs of a sweep that differ in their seed alone."""

    values: Mapping[str, str]
    """The other keys that the sweep has values for -> the value."""
    results: Sequence[Result]
    """Their evaluations."""

    @property
    def name(self) -> str:
        """What sentences call it."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items()) or "all"


def find_rows(folder: Path, sweep: Sweep) -> tuple[list[Row], list[int]]:
    """The rows of a sweep with an evaluation or more, and the jobs that have none.

    Raises FileNotFoundError if no job has an evaluation, and what `find_one` raises.
    """
    places = {number: folder / str(number) for number in sorted(sweep.jobs)}
    results = {number: find_one(place) for number, place in places.items() if (place / "evaluation.json").is_file()}
    missing = [number for number in places if number not in results]
    if not results:
        command = shown("evaluate", *map(str, places.values()))
        raise FileNotFoundError(f"{folder}: no job of this sweep has an evaluation.json: run `{command}` first")
    groups: dict[tuple[str, ...], list[Result]] = {}
    for number, result in results.items():
        groups.setdefault(tuple(_others(sweep, number).values()), []).append(result)
    keys = [key for key in sweep.keys if key != POOLED]
    return [Row(dict(zip(keys, values, strict=True)), results) for values, results in groups.items()], missing


def _others(sweep: Sweep, number: int) -> dict[str, str]:
    return {key: value for key, value in sweep.jobs[number].items() if key != POOLED}


def sweep_text(
    folder: Path, rows: Sequence[Row], missing: Sequence[int], *, picture: str = "", command: str | None = None
) -> str:
    """The table of a sweep and the pairs of rows that differ, for a terminal or as a document.

    missing: jobs without an evaluation. picture: its file, for a document. command: what writes the document.
    """
    differences = {pair: difference for pair in combinations(rows, 2) if (difference := _difference(*pair)).num}
    corrected = holm(difference.p_value for difference in differences.values())
    apart = [pair for pair, p_value in zip(differences, corrected, strict=True) if p_value < LEVEL]
    ranked = sorted(rows, key=lambda row: -_rate(row))
    shared = letters([row.name for row in ranked], [(one.name, other.name) for one, other in apart])
    table = [("", *rows[0].values, *OUTCOMES)]
    table += [(shared[row.name], *row.values.values(), *outcome_cells(row.results)) for row in rows]
    keys, tasks = ", ".join(rows[0].values) or POOLED, ", ".join(sorted({row.results[0]["task"] for row in rows}))
    return "\n".join(
        [
            *([f"# A sweep over {keys}", "", f"Written by `{command}`: {tasks}.", ""] if command else []),
            *([f"![Success against {keys}, with intervals]({picture})", ""] if picture else []),
            *markdown_table(table),
            "",
            *_differing(differences, corrected),
            *_missing(folder, missing),
            LEGEND,
        ]
    )


def _missing(folder: Path, missing: Sequence[int]) -> list[str]:
    if not missing:
        return []
    command = shown("evaluate", *(str(folder / str(number)) for number in missing))
    return [f"Without an evaluation: job {', '.join(map(str, missing))}. Make it with `{command}`.", ""]


def _rate(row: Row) -> float:
    return float(np.concatenate([*outcomes_of(row.results).values()])[:, 0].mean())


@dataclass(frozen=True)
class Difference:
    """Two rows in the episodes that they share."""

    trainings: int
    """The trainings of each that have partners of the same seed in the other."""
    totals: Sequence[int]
    """For each episode, the successes of the first row minus those of the second."""

    @property
    def num(self) -> int:
        """The number of episodes."""
        return len(self.totals)

    @property
    def p_value(self) -> float:
        """Of the test that equal policies differ so much."""
        return sign_flip(self.totals)

    @property
    def text(self) -> str:
        """The difference of the rates in points, with its interval."""
        shares = np.array(self.totals) / self.trainings
        low, high = bootstrap_difference(shares)
        return f"{100 * shares.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _difference(one: Row, other: Row) -> Difference:
    """Both rows by pairs: of trainings with the same seed, and of episodes. Raises what `paired` raises."""
    partners = {(result["training_seed"], result["seed"]): result for result in other.results}
    totals, trainings = Counter[int](), 0
    shared = list[set[int]]()
    for result in one.results:
        partner = partners.get((result["training_seed"], result["seed"]))
        if partner is None:
            continue
        pairs, seeds = paired(result, partner)
        trainings += 1
        shared.append(set(seeds))
        for seed, first, second in zip(seeds, pairs.first, pairs.second, strict=True):
            totals[seed] += int(first) - int(second)
    episodes = sorted(set.intersection(*shared)) if shared else []
    return Difference(trainings, [totals[seed] for seed in episodes])


def _differing(differences: Mapping[tuple[Row, Row], Difference], corrected: Sequence[float]) -> list[str]:
    """A table of the pairs that were told apart, the clearest first."""
    rows = [("first", "second", "trainings", "episodes", "difference, points", "p", "p, Holm")]
    order = sorted(zip(corrected, differences.items(), strict=True), key=lambda item: item[0])
    for p_value, ((one, other), difference) in order:
        if p_value < LEVEL:
            counts = str(difference.trainings), str(difference.num)
            p_values = f"{difference.p_value:.2g}", f"{p_value:.2g}"
            rows.append((one.name, other.name, *counts, difference.text, *p_values))
    count = len(corrected) - len(rows) + 1
    lines = [*markdown_table(rows), ""] if len(rows) > 1 else []
    return [*lines, f"{count} of {len(corrected)} pairs of rows were not told apart.", ""] if corrected else lines


# --- the picture


def draw(rows: Sequence[Row]) -> bytes:
    """A PNG of success against the values of the first key, with a line for each combination of the others.

    Thick intervals are over episodes, thin ones over trainings, and pale dots are trainings. A sweep over seeds alone
    has a point for each.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if not rows[0].values:
        rows = [Row({POOLED: str(result["training_seed"])}, [result]) for result in rows[0].results]
    key, *others = rows[0].values
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(", ".join(f"{other}={row.values[other]}" for other in others), []).append(row)
    places = _places([row.values[key] for row in rows])
    figure = Figure(figsize=(7.5, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for index, (name, line) in enumerate(lines.items()):
        line.sort(key=lambda row: places[row.values[key]])
        aside = 0.06 * (index - (len(lines) - 1) / 2)  # keeps intervals apart
        moved = [places[row.values[key]] + aside for row in line]
        _draw_line(axes, line, moved, name=name, colour=colormaps["tab10"](index % 10))
    axes.set_xticks(list(places.values()), list(places))
    counts = sorted({sum(map(len, outcomes_of(row.results).values())) for row in rows})
    episodes = " to ".join(dict.fromkeys((str(counts[0]), str(counts[-1]))))
    axes.set(xlabel=key, ylabel="success, %", ylim=(-3, 103))
    axes.set_title(
        f"{rows[0].results[0]['task']}: {episodes} episodes a point, 95 % intervals", loc="left", fontsize=10
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if others:
        figure.legend(loc="outside right upper", frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _places(values: Sequence[str]) -> dict[str, int]:
    """Where each value stands on the axis: side by side, numbers in ascending order."""
    different = list(dict.fromkeys(values))
    with suppress(ValueError):
        different.sort(key=float)
    return {value: place for place, value in enumerate(different)}


def _draw_line(axes: Any, line: Sequence[Row], places: Sequence[float], *, name: str, colour: Any) -> None:
    """Rates in points of one hundred at their places, with their intervals and the rate of each training."""
    rates = [100 * _rate(row) for row in line]
    axes.plot(places, rates, color=colour, marker="o", markersize=4, lw=1.2, label=name)
    for place, row in zip(places, line, strict=True):
        outcomes = [*outcomes_of(row.results).values()]
        rate_of_each = [float(pairs[:, 0].mean()) for pairs in outcomes]
        successes = np.concatenate(outcomes)[:, 0]
        low, high = over_episodes = wilson(int(successes.sum()), len(successes))
        axes.vlines(place, 100 * low, 100 * high, color=colour, lw=3, alpha=0.5)
        if len(rate_of_each) >= MIN_TRAININGS:
            low, high = over_trainings(rate_of_each, over_episodes)
            axes.vlines(place, 100 * low, 100 * high, color=colour, lw=0.8)
        if len(outcomes) > 1:
            for rate in rate_of_each:
                axes.plot(place, 100 * rate, "o", color=colour, markersize=3, alpha=0.35)
