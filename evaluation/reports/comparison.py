"""One table of many evaluations, with a row for all trainings of a recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...configs.choices import CHOICES
from ...configs.notation import default_of, describe
from ...files import DIGEST, check_digest, interpreting, read_json_with_digest, taking_turns, with_digest, write_text
from ..intervals import MIN_TRAININGS, Interval, bootstrap, over_trainings, wilson

Result = Mapping[str, Any]
"""The content of one `evaluation.json`, with the path of that file as "path"."""

DAMAGED = "remove it, and evaluate that policy again"
"""What to do with an `evaluation.json` that is damaged."""

LINES = ".jsonl"
"""The suffix of a file with an evaluation on each line."""

KEYS = (
    *("path", "task", "policy", "checkpoint", "recipe", "step", "training_seed", "num_parameters", "training_s"),
    *("execution", "delay_ms"),
)
"""Keys that a result must have."""

COLUMNS = (
    *("task", "network", "sampler", "execution", "delay, ms", "steps", "recipe", "trainings", "episodes"),
    *("success [over episodes]", "success [over trainings]", "score [over episodes]", "score [over trainings]"),
    *("parameters", "training time", "latency"),
)

OUTCOMES = COLUMNS[COLUMNS.index("trainings") :]
"""The columns that say how the evaluations of a row went."""

LEGEND = f"""\
A row is one recipe of training, evaluated after the number of steps in the column steps. It pools the episodes of all
trainings of the recipe; an episode that was evaluated twice counts once. If rows would look alike, the column recipe
names the settings that differ.

- An episode that broke off, by an error of its environment, counts as failed with a score of 0.
- All intervals are 95 % intervals. Over episodes: the same trained policies in other episodes. It is Wilson's interval
  for a rate, and the percentile bootstrap for a mean score, with a score of 0 and one of 1 added.
- Over trainings: the same recipe with other seeds of training. It is Student's t interval of the trainings' means,
  widened to include the interval over episodes. It needs {MIN_TRAININGS} trainings: with fewer, two rows may differ by
  their seeds alone.
- Parameters are those of the whole policy. Training time is the mean over trainings. Latency is the median time of one
  prediction for one robot, averaged over trainings. Compare times only if the machines were alike and idle. Times are
  left out if a processor was not noted.
"""


def find_evaluations(source: Path) -> Sequence[Result]:
    """Every `evaluation.json` in a folder and its subfolders, or every line of a file of `write_lines`, by path.

    Raises FileNotFoundError if there is none, and ValueError if one is damaged or lacks a key.
    """
    results = dict(_read_lines(source) if source.suffix == LINES else _read_folder(source))
    if not results:
        raise FileNotFoundError(f"{source}: there is no evaluation.json in it: run `recede evaluate` first")
    for place, result in results.items():
        if missing := [key for key in KEYS if key not in result]:
            raise ValueError(f"{place} lacks {missing}: evaluate that policy again")
        with interpreting(place, DAMAGED):
            _check(result)
    return sorted(results.values(), key=_path)


def _check(result: Result) -> None:
    """Raises some error unless a table can be made of the result."""
    texts = (
        result["path"],
        result["task"],
        result["recipe"],
        result["policy"]["network"]["choice"],
        result["execution"]["choice"],
    )
    seeds = [result["seed"], *result["seeds"], *(fault["seed"] for fault in result.get("broken", ()))]
    numbers = [result["delay_ms"], result["num_parameters"], result["latency"]["p50_ms"], *result["score"]]
    optional = [value for value in (result["training_seed"], result["training_s"]) if value is not None]
    if not all(isinstance(text, str) for text in (*texts, result.get("engine", ""), result.get("processor", ""))):
        raise TypeError(f"the names of its parts must be texts, got {texts}")
    if not all(type(value) is int for value in (result["step"], *seeds)):
        raise TypeError("step and the seeds must be whole numbers")
    if not all(type(value) in (int, float) and math.isfinite(value) for value in (*numbers, *optional)):
        raise TypeError("delays, sizes, times and scores must be finite numbers")
    if not all(type(value) is bool for value in result["success"]) or not all(0 <= one <= 1 for one in result["score"]):
        raise TypeError("success must be true or false, and a score lie in [0, 1]")
    if not 0 < len(result["seeds"]) == len(result["success"]) == len(result["score"]):
        raise TypeError("it must hold a seed, a success and a score for each episode")
    _label(result)
    dict(_flat(result.get("training") or {}))


def write_lines(path: Path, results: Iterable[Result]) -> int:
    """Add results to a file with an evaluation on each line. Replaces those of the same path; returns their number.

    Commands that add to the same file take turns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with taking_turns(path):
        lines = {_path(result): result for result in (*(find_evaluations(path) if path.exists() else ()), *results)}
        write_text(path, "".join(f"{json.dumps(with_digest(lines[name]))}\n" for name in sorted(lines)))
    return len(lines)


def _read_folder(folder: Path) -> Iterator[tuple[str, Result]]:
    for path in folder.rglob("evaluation.json"):
        yield str(path), {"path": path.as_posix(), **read_json_with_digest(path, DAMAGED)}


def _read_lines(path: Path) -> Iterator[tuple[str, Result]]:
    """The place of each line, as "results.jsonl, line 2", and its result."""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        place = f"{path}, line {number}"
        try:
            result = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place} is damaged ({error}): write the file again with lines=") from None
        if not isinstance(result, dict):
            raise ValueError(f"{place} must hold a JSON object, got {line[:100]}: write the file again with lines=")
        check_digest(place, result, "write the file again with lines=")
        del result[DIGEST]
        yield place, result


def _path(result: Result) -> str:
    return result["path"]


def sampler(policy: Mapping[str, Any]) -> str:
    """A short name of a policy's sampler: "ddim-10", "flow-4"; "-" if it has none.

    >>> sampler({"schedule": {"choice": "cosine"}, "sampler": {"choice": "ddim", "num_steps": 10, "eta": 1.0}})
    'ddim-10, eta 1'
    """
    if "sampler" not in policy:
        return "-"
    values = policy["sampler"]
    is_flow = policy["schedule"]["choice"] == "rectified_flow" and values["choice"] == "ddim"
    name = "flow" if is_flow else values["choice"]
    steps = f"-{values['num_steps']}" if "num_steps" in values else ""  # your own sampler may not have it
    return ", ".join([f"{name}{steps}", *_changed_options(values, CHOICES["sampler"], skip="num_steps")])


def execution(result: Result) -> str:
    """A short name of an execution.

    >>> execution({"execution": {"choice": "rtc", "limit": 8.0, "exact": False}})
    'rtc, limit 8'
    """
    values = result["execution"]
    return ", ".join([values["choice"], *_changed_options(values, CHOICES["execution"])])


def table(results: Iterable[Result]) -> str:
    """A markdown table with a row for each task, network, sampler, execution and recipe of training."""
    rows: list[list[str]] = []
    for label, alike in groupby(sorted(results, key=_label), _label):
        recipes = {name: list(group) for name, group in groupby(sorted(alike, key=_recipe), _recipe)}
        differing = differences({name: group[0] for name, group in recipes.items()})
        cells = [f"{part:g}" if isinstance(part, float) else str(part) for part in label]
        rows += [[*cells, differing[name], *outcome_cells(group)] for name, group in recipes.items()]
    return "\n".join(map(_line, [COLUMNS, ["---"] * len(COLUMNS), *rows])) + "\n"


def differences(recipes: Mapping[str, Result]) -> dict[str, str]:
    """A recipe's name -> the settings in which it differs from the others; "-" if there is only one recipe.

    recipes: the name of a recipe -> one of its evaluations. A recipe whose settings are not unique keeps its name.

    >>> settings = [{"learning_rate": 1e-3, "policy": {"prediction": name}} for name in ("sample", "epsilon")]
    >>> differences({"81a2": {"training": settings[0]}, "c07d": {"training": settings[1]}})
    {'81a2': 'prediction=sample', 'c07d': 'prediction=epsilon'}
    """
    if len(recipes) == 1:
        return dict.fromkeys(recipes, "-")
    has_training = all(result.get("training") is not None for result in recipes.values())
    settings = {
        name: dict(_flat(result["training"] if has_training else {"policy": result["policy"]}))
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
    """A page with the table, the command that wrote it, and the meaning of its numbers."""
    processors = sorted({result["processor"] for result in results if "processor" in result})
    measured = f"- Latency was measured on {'; '.join(processors)}.\n" if processors else ""
    return (
        f"# Results\n\nWritten by `{command}` from {len(results)} evaluations.\n\n{table(results)}\n{LEGEND}{measured}"
    )


def _changed_options(values: Mapping[str, Any], choices: Mapping[str, Any], skip: str = "") -> list[str]:
    """The options of a sampler or an execution that differ from their defaults."""
    option = choices.get(values["choice"])
    defaults = {field.name: describe(default_of(field)) for field in fields(option)} if option else {}
    texts = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    differing = [name for name in values if name not in ("choice", skip) and values[name] != defaults.get(name)]
    return [f"{name} {texts[name]}" for name in differing]


def _label(result: Result) -> tuple[str, str, str, str, float, int]:
    engine = result.get("engine", "eager")
    denoising = sampler(result["policy"]) + ("" if engine == "eager" else f", {engine}")
    network = result["policy"]["network"]["choice"]
    return result["task"], network, denoising, execution(result), result["delay_ms"], result["step"]


def _recipe(result: Result) -> str:
    return result["recipe"]


def _flat(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting by its name on the command line, "network.channels"; the sampler has its own column."""
    for key, value in settings.items():
        if key == "choice":
            yield path.removesuffix("."), value
        elif isinstance(value, Mapping) and key != "sampler":
            yield from _flat(value, f"{path}{key}.")
        elif key != "sampler":
            yield f"{path}{key}", value


def outcomes_of(group: Iterable[Result]) -> dict[int | None, NDArray[np.float64]]:
    """The seed of each training of a recipe -> success and score of its episodes (N, 2), each of which counts once."""
    episodes = {  # the recipe and these three seeds determine an episode
        (result["training_seed"], result["seed"], seed): outcome
        for result in group
        for seed, *outcome in zip(result["seeds"], result["success"], result["score"], strict=True)
    }
    trainings = sorted({key[0] for key in episodes}, key=lambda seed: (seed is None, seed))
    return {seed: np.array([pair for key, pair in episodes.items() if key[0] == seed], float) for seed in trainings}


def outcome_cells(group: Sequence[Result]) -> list[str]:
    """The cells of `OUTCOMES`, of all evaluations of one recipe."""
    trainings, outcomes = zip(*outcomes_of(group).items(), strict=True)
    successes, scores = np.concatenate(outcomes).T
    rates, means = np.array([pairs.mean(axis=0) for pairs in outcomes]).T
    of_rate, of_score = wilson(int(successes.sum()), len(successes)), bootstrap(scores.tolist())
    timed = group if all("processor" in result for result in group) else ()
    seconds = [result["training_s"] for result in timed if result["training_s"] is not None]
    latencies = [result["latency"]["p50_ms"] for result in timed]
    broken = {
        (result["training_seed"], result["seed"], fault["seed"])
        for result in group
        for fault in result.get("broken", ())
    }
    return [
        _trainings(trainings),
        f"{len(successes)}{f' ({len(broken)} broke off)' if broken else ''}",
        _percent(successes.mean(), of_rate),
        _few(trainings) or _percent(rates.mean(), over_trainings(rates.tolist(), of_rate)),
        _number(scores.mean(), of_score),
        _few(trainings) or _number(means.mean(), over_trainings(means.tolist(), of_score)),
        f"{group[0]['num_parameters'] / 1e6:.1f} M",
        f"{np.mean(seconds):.0f} s" if seconds else "-",
        f"{np.mean(latencies):.1f} ms" if latencies else "-",
    ]


def _trainings(seeds: Sequence[int | None]) -> str:
    numbers = ", ".join(map(str, seeds)) if list(seeds) != [None] else "unknown"
    return f"{len(seeds)} (seed{'s' if len(seeds) > 1 else ''} {numbers})"


def _few(trainings: Sequence[int | None]) -> str:
    """The cell in place of an interval over fewer than `MIN_TRAININGS` trainings; empty if there are enough."""
    return {1: "one training", 2: "two trainings"}.get(len(trainings), "")


def _percent(rate: float, interval: Interval) -> str:
    return f"{100 * rate:.0f} % [{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]"


def _number(mean: float, interval: Interval) -> str:
    return f"{mean:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
