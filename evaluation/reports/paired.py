"""Evaluations compared in the episodes that they share: every pair of them, and letters for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ..intervals import bootstrap, wilson
from ..pairs import LEVEL, Pairs, holm, letters, pairs_needed
from ..world import check_reproducible, world_differences
from .comparison import Result, find_evaluations
from .page import markdown_table


def find_one(source: Path) -> Result:
    """The evaluation of a run, checkpoint or result folder.

    Raises FileNotFoundError if there is none, and ValueError if there are several, or if it does not say in which world
    it was made.
    """
    path = source / "evaluation.json"
    results = find_evaluations(source)
    if len(results) > 1:
        results = [result for result in results if result["path"] == path.as_posix()]
    if len(results) != 1:
        raise ValueError(
            f"{source} must hold one evaluation to compare, got {len(find_evaluations(source))}: name the folder of one"
        )
    if "world" not in results[0]:
        raise ValueError(f"{path} does not say what it was measured in: evaluate that policy again")
    return results[0]


def paired(one: Result, other: Result) -> tuple[Pairs, list[int]]:
    """The episodes that two evaluations share, and their seeds in ascending order.

    Raises ValueError if their worlds differ or are not reproducible, or if they share no episode.
    """
    names = f"{one['path']} and {other['path']}"
    for result in (one, other):
        check_reproducible(result["path"], result["world"])
    if differences := world_differences(one["world"], other["world"]):
        raise ValueError(f"{names} were not measured in the same world: {'; '.join(differences)}; evaluate one again")
    outcomes = [dict(zip(result["seeds"], _outcomes(result), strict=True)) for result in (one, other)]
    seeds = sorted(outcomes[0].keys() & outcomes[1].keys())
    if not seeds:
        raise ValueError(
            f"{names} share no episode: their seeds begin at {min(one['seeds'])} and {min(other['seeds'])}; evaluate "
            "both with the same first_seed"
        )
    values = np.array([[outcome[seed] for seed in seeds] for outcome in outcomes])  # (2, N, 2)
    return Pairs(values[0, :, 0] > 0, values[1, :, 0] > 0, values[:, :, 1].T), seeds


def _outcomes(result: Result) -> list[tuple[float, float]]:
    return list(zip(map(float, result["success"]), result["score"], strict=True))


def paired_text(results: Mapping[str, Result], *, command: str | None = None, more: Sequence[str] = ()) -> str:
    """What the episodes say of policies, for a terminal or as a document: rates, differences of every pair, letters.

    results: the name of each policy -> its evaluation. command: what writes the document. more: sentences at its end.

    Raises what `paired` raises.
    """
    compared = {(a, b): paired(results[a], results[b]) for a, b in combinations(results, 2)}
    corrected = dict(zip(compared, holm(pairs.p_value for pairs, _ in compared.values()), strict=True))
    ranked = sorted(results, key=lambda name: -np.mean(results[name]["success"]))
    told_apart = [pair for pair, p_value in corrected.items() if p_value < LEVEL]
    shared = letters(ranked, told_apart)
    lines = [
        *([] if command is None else ["# Policies in the same episodes", "", f"Written by `{command}`.", ""]),
        *_rates({name: results[name] for name in ranked}, shared),
        "",
        *_differences(compared, corrected),
        "",
        *(_verdict(pair, compared[pair][0], corrected[pair]) for pair in compared),
    ]
    return "\n".join([*lines, *more, "", LEGEND])


LEGEND = """\
Policies that share a letter were not told apart. All intervals are 95 % intervals. Difference: the first rate minus the
second, in the episodes that both have, with the interval of Bonett and Price. p: McNemar's mid-p; Holm's correction is
for all pairs. Score: difference of the means, bootstrap over pairs.
"""


def _rates(results: Mapping[str, Result], shared: Mapping[str, str]) -> list[str]:
    rows = [("", "policy", "episodes", "success", "score")]
    for name, result in results.items():
        success, score = result["success"], result["score"]
        low, high = wilson(sum(success), len(success))
        least, most = bootstrap(score)
        rate = f"{100 * np.mean(success):.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
        rows.append((shared[name], name, str(len(success)), rate, f"{np.mean(score):.3f} [{least:.3f}, {most:.3f}]"))
    return markdown_table(rows)


def _differences(compared: Mapping[Any, Any], corrected: Mapping[Any, float]) -> list[str]:
    rows = [("first", "second", "episodes", "only first", "only second", "difference, points", "p", "p, Holm", "score")]
    for pair, (pairs, seeds) in compared.items():
        low, high = pairs.interval
        least, most = pairs.score_interval
        scores = pairs.scores[:, 0] - pairs.scores[:, 1]
        rows.append(
            (
                *pair,
                str(len(seeds)),
                str(pairs.only_first),
                str(pairs.only_second),
                f"{100 * pairs.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
                _p(pairs.p_value),
                _p(corrected[pair]),
                f"{scores.mean():+.3f} [{least:+.3f}, {most:+.3f}]",
            )
        )
    return markdown_table(rows)


def _verdict(pair: tuple[str, str], pairs: Pairs, p_value: float) -> str:
    """A sentence on two policies."""
    first, second = pair
    num, discordant = len(pairs.first), pairs.only_first + pairs.only_second
    if p_value < LEVEL:
        better, worse = (first, second) if pairs.difference > 0 else (second, first)
        return f"{better} succeeds more often than {worse}."
    needed = pairs_needed(pairs.difference, discordant / num)
    if needed is None:
        return f"{first} and {second} are not told apart: they succeed equally often in these {num} episodes."
    points = f"{100 * pairs.difference:+.1f} points"
    return (
        f"{first} and {second} are not told apart by {num} episodes. If they differ by {points}, about {needed} would "
        "show it four times in five."
    )


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}"
