"""One table of many evaluations: what `evaluation.json` files say, side by side, training seeds taken together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..configs.executions import EXECUTIONS
from ..configs.schema import describe
from ..policy.checkpoint import read_json
from .intervals import bootstrap, wilson

Result = Mapping[str, Any]
"""The content of one `evaluation.json`."""

COLUMNS = (
    *(
        "task",
        "network",
        "sampler",
        "execution",
        "delay, ms",
        "steps",
        "success",
        "score",
        "episodes",
        "training seeds",
    ),
    *("parameters", "training", "latency"),
)


def find(folder: Path) -> Sequence[Result]:
    """Every `evaluation.json` in a folder and below, by path.

    Raises FileNotFoundError where there is none, and ValueError for one that lacks what is compared.
    """
    paths = sorted(folder.rglob("evaluation.json"))
    if not paths:
        raise FileNotFoundError(f"{folder}: there is no evaluation.json here or below: run `recede evaluate` first")
    results = [read_json(path) for path in paths]
    needed = ("task", "policy", "checkpoint", "recipe", "step", "training_seed", "num_parameters", "training_s")
    needed += ("execution", "delay_ms")
    for path, result in zip(paths, results, strict=True):
        if missing := [key for key in needed if key not in result]:
            raise ValueError(f"{path} lacks {missing}: evaluate that policy again")
    return results


def sampler(policy: Mapping[str, Any]) -> str:
    """A short name of how a policy denoises: "ddim-10", "flow-4"; "-" where it does not.

    >>> sampler({"schedule": {"choice": "cosine"}, "sampler": {"choice": "ddim", "num_steps": 10, "eta": 1.0}})
    'ddim-10, eta 1'
    """
    if "sampler" not in policy:
        return "-"
    chosen = policy["sampler"]
    is_flow = policy["schedule"]["choice"] == "rectified_flow" and chosen["choice"] == "ddim"
    eta = f", eta {chosen['eta']:g}" if chosen.get("eta") else ""
    return f"{'flow' if is_flow else chosen['choice']}-{chosen['num_steps']}{eta}"


def execution(result: Result) -> str:
    """A short name of how chunks followed one another.

    >>> execution({"execution": {"choice": "rtc", "limit": 8.0, "exact": False}})
    'rtc, limit 8.0'
    """
    chosen = result["execution"]
    usual = describe(EXECUTIONS[chosen["choice"]]()) if chosen["choice"] in EXECUTIONS else {}
    options = [f"{name} {value}" for name, value in chosen.items() if name != "choice" and value != usual.get(name)]
    return ", ".join([chosen["choice"], *options])


def table(results: Iterable[Result]) -> str:
    """A markdown table with a row for each task, network, sampler, execution and recipe of training."""

    def key(result: Result) -> tuple[str, str, str, str, float, int, str]:
        network = result["policy"]["network"]["choice"]
        engine = result.get("engine", "eager")
        sampled, executed = sampler(result["policy"]), execution(result)
        sampled += "" if engine == "eager" else f", {engine}"
        return result["task"], network, sampled, executed, result["delay_ms"], result["step"], result["recipe"]

    rows = [_row(*names[:-1], group=list(group)) for names, group in groupby(sorted(results, key=key), key)]
    return "\n".join(map(_line, [COLUMNS, ["---"] * len(COLUMNS), *rows])) + "\n"


def document(results: Sequence[Result], *, command: str) -> str:
    """The table as a page of its own, with the command that wrote it and what its numbers mean."""
    return (
        f"# Results\n\nWritten by `{command}` from {len(results)} evaluations.\n\n{table(results)}\n"
        "A row is a recipe of training, steps its length. Success and score are over all episodes of all its training\n"
        "seeds, an episode that was evaluated twice counting once, with 95 % intervals (Wilson, bootstrap): of\n"
        "these trained policies in other episodes, not of others that might be trained. Parameters are those of the\n"
        "whole policy. Training is the mean time of a run; latency is the median of one prediction for one robot, and\n"
        "the mean of it over runs. Both were taken on the machine of the evaluation.\n"
    )


def _row(*about: str | float, group: Sequence[Result]) -> list[str]:
    episodes = {  # an episode is determined by the policy, the seed of its noise, and its own
        (result["checkpoint"], result["seed"], seed): outcome
        for result in group
        for seed, *outcome in zip(result["seeds"], result["success"], result["score"], strict=True)
    }
    successes, scores = map(list, zip(*episodes.values(), strict=True))
    rate, score = wilson(sum(successes), len(successes)), bootstrap(scores)
    seconds = [result["training_s"] for result in group if result["training_s"] is not None]
    return [
        *(f"{each:g}" if isinstance(each, float) else str(each) for each in about),
        f"{100 * np.mean(successes):.0f} % [{100 * rate[0]:.0f}, {100 * rate[1]:.0f}]",
        f"{np.mean(scores):.3f} [{score[0]:.3f}, {score[1]:.3f}]",
        str(len(successes)),
        str(len({result["training_seed"] for result in group})),
        f"{group[0]['num_parameters'] / 1e6:.1f} M",
        f"{np.mean(seconds):.0f} s" if seconds else "-",
        f"{np.mean([result['latency']['p50_ms'] for result in group]):.1f} ms",
    ]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
