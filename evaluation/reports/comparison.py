"""One table of many evaluations: what `evaluation.json` files say, side by side, the trainings of a recipe together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ...configs.choices import CHOICES
from ...configs.notation import default_of, describe
from ...files import read_json, write_text
from ..intervals import MIN_TRAININGS, Interval, bootstrap, over_trainings, wilson

Result = Mapping[str, Any]
"""The content of one `evaluation.json`, and the path of that file."""

LINES = ".jsonl"
"""How the name of a file ends that holds many evaluations, a line each."""

NEEDED = (
    *("path", "task", "policy", "checkpoint", "recipe", "step", "training_seed", "num_parameters", "training_s"),
    *("execution", "delay_ms"),
)
"""What a result must hold to be compared."""

COLUMNS = (
    *("task", "network", "sampler", "execution", "delay, ms", "steps", "recipe", "trainings", "episodes"),
    *("success [over episodes]", "success [over trainings]", "score [over episodes]", "score [over trainings]"),
    *("parameters", "training time", "latency"),
)

LEGEND = f"""\
A row is a recipe of training, evaluated after so many steps. Its episodes are those of all its trainings; an episode
that was evaluated twice counts once. If rows would look alike, the column recipe names the settings that differ.

- Intervals are of 95 %. Over episodes: what these trained policies do in other episodes. Of a rate it is Wilson's
  interval, of a mean score the percentile bootstrap's with a score of 0 and one of 1 added.
- Over trainings: what the recipe does with other seeds of training, by Student's t interval of the trainings' means,
  widened to hold the interval over episodes. It needs {MIN_TRAININGS} trainings: with fewer, two rows may differ by
  nothing but their seeds.
- Parameters are those of the whole policy. Training time is the mean over trainings; latency is the median of one
  prediction for one robot, and the mean of that over trainings. Both depend on the machine and on what else it does:
  they compare only if it did nothing else.
"""


def find(source: Path) -> Sequence[Result]:
    """Every `evaluation.json` in a folder and below, or the lines of a file of `write_lines`, by path.

    A result has the path of its file as `path`. Raises FileNotFoundError if there is none, and ValueError for one that
    is damaged or lacks what is compared.
    """
    results = dict(_read_lines(source) if source.suffix == LINES else _read_folder(source))
    if not results:
        raise FileNotFoundError(f"{source}: there is no evaluation.json here or below: run `recede evaluate` first")
    for place, result in results.items():
        if missing := [key for key in NEEDED if key not in result]:
            raise ValueError(f"{place} lacks {missing}: evaluate that policy again")
    return sorted(results.values(), key=_path)


def write_lines(path: Path, results: Iterable[Result]) -> int:
    """Add results to a file with a line an evaluation; the last one of a path stays. Returns how many it then holds."""
    kept = {_path(result): result for result in (*(find(path) if path.exists() else ()), *results)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{json.dumps(kept[name], allow_nan=False)}\n" for name in sorted(kept)))
    return len(kept)


def _read_folder(folder: Path) -> Iterator[tuple[str, Result]]:
    for path in folder.rglob("evaluation.json"):
        yield str(path), {"path": path.as_posix(), **read_json(path)}


def _read_lines(path: Path) -> Iterator[tuple[str, Result]]:
    """Line by line, "results.jsonl, line 2" -> its result."""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        place = f"{path}, line {number}"
        try:
            result = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place} is damaged ({error}): write the file again with lines=") from None
        if not isinstance(result, dict):
            raise ValueError(f"{place} must hold a JSON object, got {line}: write the file again with lines=")
        yield place, result


def _path(result: Result) -> str:
    return result["path"]


def sampler(policy: Mapping[str, Any]) -> str:
    """A short name of how a policy denoises: "ddim-10", "flow-4"; "-" if it does not.

    >>> sampler({"schedule": {"choice": "cosine"}, "sampler": {"choice": "ddim", "num_steps": 10, "eta": 1.0}})
    'ddim-10, eta 1'
    """
    if "sampler" not in policy:
        return "-"
    chosen = policy["sampler"]
    is_flow = policy["schedule"]["choice"] == "rectified_flow" and chosen["choice"] == "ddim"
    name = "flow" if is_flow else chosen["choice"]
    steps = f"-{chosen['num_steps']}" if "num_steps" in chosen else ""  # a sampler of yours may not have them
    return ", ".join([f"{name}{steps}", *_options(chosen, CHOICES["sampler"], but="num_steps")])


def execution(result: Result) -> str:
    """A short name of how chunks followed one another.

    >>> execution({"execution": {"choice": "rtc", "limit": 8.0, "exact": False}})
    'rtc, limit 8'
    """
    chosen = result["execution"]
    return ", ".join([chosen["choice"], *_options(chosen, CHOICES["execution"])])


def table(results: Iterable[Result]) -> str:
    """A markdown table with a row for each task, network, sampler, execution and recipe of training."""
    rows: list[list[str]] = []
    for label, alike in groupby(sorted(results, key=_label), _label):
        recipes = {name: list(group) for name, group in groupby(sorted(alike, key=_recipe), _recipe)}
        differing = differences({name: group[0] for name, group in recipes.items()})
        shown = [f"{part:g}" if isinstance(part, float) else str(part) for part in label]
        rows += [[*shown, differing[name], *_measured(group)] for name, group in recipes.items()]
    return "\n".join(map(_line, [COLUMNS, ["---"] * len(COLUMNS), *rows])) + "\n"


def differences(recipes: Mapping[str, Result]) -> dict[str, str]:
    """What tells recipes apart: name -> its settings that are not those of all others; "-" if there is but one.

    recipes: the name of a recipe -> one of its evaluations. If settings do not tell one apart, its name does.

    >>> settings = [{"learning_rate": 1e-3, "policy": {"prediction": name}} for name in ("sample", "epsilon")]
    >>> differences({"81a2": {"training": settings[0]}, "c07d": {"training": settings[1]}})
    {'81a2': 'prediction=sample', 'c07d': 'prediction=epsilon'}
    """
    if len(recipes) == 1:
        return dict.fromkeys(recipes, "-")
    is_known = all(result.get("training") is not None for result in recipes.values())
    settings = {
        name: dict(_flat(result["training"] if is_known else {"policy": result["policy"]}))
        for name, result in recipes.items()
    }
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    differing = [key for key in keys if len({str(values.get(key)) for values in settings.values()}) > 1]
    texts = {
        name: ", ".join(f"{key.removeprefix('policy.')}={values[key]}" for key in differing if key in values)
        for name, values in settings.items()
    }
    is_unique = {name: list(texts.values()).count(text) == 1 and text != "" for name, text in texts.items()}
    return {name: text if is_unique[name] else ", ".join(filter(None, [text, name])) for name, text in texts.items()}


def document(results: Sequence[Result], *, command: str) -> str:
    """The table as a page of its own, with the command that wrote it and what its numbers mean."""
    return f"# Results\n\nWritten by `{command}` from {len(results)} evaluations.\n\n{table(results)}\n{LEGEND}"


def _options(chosen: Mapping[str, Any], choices: Mapping[str, Any], but: str = "") -> list[str]:
    """The options of a sampler or an execution that are not its defaults."""
    option = choices.get(chosen["choice"])
    usual = {each.name: describe(default_of(each)) for each in fields(option)} if option else {}
    shown = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in chosen.items()}
    differing = [name for name in chosen if name not in ("choice", but) and chosen[name] != usual.get(name)]
    return [f"{name} {shown[name]}" for name in differing]


def _label(result: Result) -> tuple[str, str, str, str, float, int]:
    engine = result.get("engine", "eager")
    sampled = sampler(result["policy"]) + ("" if engine == "eager" else f", {engine}")
    network = result["policy"]["network"]["choice"]
    return result["task"], network, sampled, execution(result), result["delay_ms"], result["step"]


def _recipe(result: Result) -> str:
    return result["recipe"]


def _flat(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting by the name it is typed with, "network.channels"; the sampler is a column of its own."""
    for key, value in settings.items():
        if key == "choice":
            yield path.removesuffix("."), value
        elif isinstance(value, Mapping) and key != "sampler":
            yield from _flat(value, f"{path}{key}.")
        elif key != "sampler":
            yield f"{path}{key}", value


def _measured(group: Sequence[Result]) -> list[str]:
    """The columns that were measured, of all evaluations of one recipe."""
    episodes = {  # an episode is determined by the recipe, the seed of the training, that of the noise, and its own
        (result["training_seed"], result["seed"], seed): outcome
        for result in group
        for seed, *outcome in zip(result["seeds"], result["success"], result["score"], strict=True)
    }
    trainings = sorted({key[0] for key in episodes}, key=lambda seed: (seed is None, seed))
    # An array (episodes, 2) for each training, of success and score.
    outcomes = [np.array([pair for key, pair in episodes.items() if key[0] == seed], float) for seed in trainings]
    successes, scores = np.concatenate(outcomes).T
    rates, means = np.array([pairs.mean(axis=0) for pairs in outcomes]).T
    of_rate, of_score = wilson(int(successes.sum()), len(successes)), bootstrap(scores.tolist())
    seconds = [result["training_s"] for result in group if result["training_s"] is not None]
    return [
        _trainings(trainings),
        str(len(successes)),
        _percent(successes.mean(), of_rate),
        _few(trainings) or _percent(rates.mean(), over_trainings(rates.tolist(), of_rate)),
        _number(scores.mean(), of_score),
        _few(trainings) or _number(means.mean(), over_trainings(means.tolist(), of_score)),
        f"{group[0]['num_parameters'] / 1e6:.1f} M",
        f"{np.mean(seconds):.0f} s" if seconds else "-",
        f"{np.mean([result['latency']['p50_ms'] for result in group]):.1f} ms",
    ]


def _trainings(seeds: Sequence[int | None]) -> str:
    known = ", ".join(map(str, seeds)) if seeds != [None] else "unknown"
    return f"{len(seeds)} (seed{'s' if len(seeds) > 1 else ''} {known})"


def _few(trainings: Sequence[int | None]) -> str:
    """What stands in place of an interval over trainings if there are fewer than `MIN_TRAININGS`."""
    return {1: "one training", 2: "two trainings"}.get(len(trainings), "")


def _percent(rate: float, interval: Interval) -> str:
    return f"{100 * rate:.0f} % [{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]"


def _number(mean: float, interval: Interval) -> str:
    return f"{mean:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
