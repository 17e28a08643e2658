"""Policies of one and two steps beside their teacher and plain controls, in the same episodes of a task.

    python benchmarks/few_steps.py FOLDER [task=pick_place|pusht] [json=FILE]

Everything is a `recede` command, which is printed before it runs; one that was interrupted goes on where it stopped.
All policies have one network and learn from the same demonstrations: scripted ones of `pick_place`, or the published
ones of Push-T. Each acts in the same `SEEDS` episodes, which nothing else has used. A row is a policy with a number of
steps: its success, the difference from the teacher's in the same episodes, and the median time of a chunk for one
robot by each engine. All take turns, so that a busy machine slows all alike. Of `pick_place` it also says how the
chunks part at the wall (see `benchmarks/modes.py`). There is one training of each, so the intervals are over episodes
alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from recede.benchmarks.measure import Row, interleaved_medians, output, recede, report
from recede.benchmarks.modes import measures, sampled, windows
from recede.checkpoints.opening import load_policy, open_policy
from recede.evaluation.intervals import wilson
from recede.evaluation.pairs import bonett_price
from recede.files import read_json
from recede.policy.engines import interface
from recede.policy.engines.making import choose_engine
from recede.policy.engines.pieces import check_diffusion

SEEDS, FIRST_SEED = 500, 700_000
TRAINING: tuple[str, ...] = ("save_every=1000000", "validate_every=500")
"""More arguments of every training."""
EVALUATION: tuple[str, ...] = ("videos=0",)
"""More arguments of every evaluation."""
SECONDS = 30.0
"""How long all policies take turns for the time of a chunk."""
ENGINES: tuple[str, ...] = tuple(interface.ENGINES)
"""Engines that are tried; those of other machines are left out."""
TEACHER = "diffusion"


def distilled(num_steps: int) -> tuple[str, ...]:
    """Arguments of a training from the teacher. "teacher" and "init_from" stand for its run."""
    steps = f"policy.objective.num_steps={num_steps}", f"policy.sampler.num_steps={num_steps}"
    return "policy/objective=progressive", *steps, "teacher", "init_from"


POLICIES: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    TEACHER: ((), (10, 2, 1)),
    "flow": (("policy=flow",), (4, 2, 1)),
    "regression": (("policy=regression",), ()),
    "progressive-2": (("warmup=20", *distilled(2)), (2,)),
    "progressive": (("warmup=20", *distilled(1)), (1,)),
}
"""Name -> arguments of its training, and the numbers of steps that it is measured with."""


@dataclass(frozen=True)
class Setting:
    """The demonstrations of a task, and how much the policies learn from them."""

    demonstrations: tuple[str, ...]
    """Arguments of the command that makes the store, without `out`."""
    updates: Mapping[str, int]
    """Name of a policy -> updates of its training."""
    training: tuple[str, ...] = ()
    """More arguments of every training."""


SETTINGS = {
    "pick_place": Setting(
        ("collect", "task=pick_place", "episodes=150"),
        {TEACHER: 1000, "flow": 800, "regression": 500, "progressive-2": 100, "progressive": 120},
    ),
    "pusht": Setting(
        ("download", "pusht"),
        {TEACHER: 3400, "flow": 3400, "regression": 3400, "progressive-2": 450, "progressive": 340},
        ("mirror=true", "policy.network.kernel_size=3"),
    ),
}
"""Task -> its setting."""


def main() -> None:
    """Make the demonstrations, train and evaluate; prints a table."""
    folder, *rest = sys.argv[1:]
    task = "pick_place"
    if rest and rest[0].startswith("task="):
        task = rest.pop(0).removeprefix("task=")
    if task not in SETTINGS:
        raise SystemExit(f"task={task}: choose one of {', '.join(SETTINGS)}")
    path = output(rest)
    report(list(rows(Path(folder), task)), path)


def rows(folder: Path, task: str) -> Iterator[Row]:
    """The measurements of each policy with each number of steps."""
    command, *arguments = SETTINGS[task].demonstrations
    data = folder / "demonstrations.zarr"
    if not data.exists():
        recede(command, *arguments, f"out={data}")
    for name in POLICIES:
        train(folder, name, task, data)
    chosen = {
        f"{name}, {count} steps" if count else name: (folder / name, {"num_steps": count} if count else None)
        for name, (_, counts) in POLICIES.items()
        for count in counts or (0,)
    }
    evaluations = {label: evaluated(label, task, *choice) for label, choice in chosen.items()}
    teacher = next(iter(evaluations.values()))
    for label, evaluation in evaluations.items():
        low, high = (100 * bound for bound in wilson(sum(evaluation["success"]), SEEDS))
        yield Row(name=f"{label}, success", value=100 * evaluation["success_rate"], unit=f"% [{low:.1f}, {high:.1f}]")
        pairs = list(zip(evaluation["success"], teacher["success"], strict=True))
        only = pairs.count((True, False)), pairs.count((False, True))
        low, high = (100 * bound for bound in bonett_price(*only, SEEDS))
        difference = 100 * (only[0] - only[1]) / SEEDS
        yield Row(name=f"{label}, beyond the teacher", value=difference, unit=f"points [{low:+.1f}, {high:+.1f}]")
    if task == "pick_place":
        yield from modes(chosen)
    yield from times(chosen)


def train(folder: Path, name: str, task: str, data: Path) -> None:
    """Train a policy, or go on with its training."""
    setting, teacher = SETTINGS[task], folder / TEACHER
    arguments = [f"{key}={teacher}" if key in ("teacher", "init_from") else key for key in POLICIES[name][0]]
    places = [f"task={task}", f"dataset={data}", f"out={folder / name}"]
    recede("train", *places, f"steps={setting.updates[name]}", *setting.training, *arguments, *TRAINING)


def evaluated(label: str, task: str, policy: Path, sampler: dict[str, Any] | None) -> dict[str, Any]:
    """The content of `evaluation.json` of a policy with this number of steps."""
    out = policy.parent / f"evaluation-{label.replace(', ', '-').replace(' ', '-')}"
    if not (out / "evaluation.json").exists():
        changes = [f"sampler.{key}={value}" for key, value in (sampler or {}).items()]
        seeds = [f"episodes={SEEDS}", f"first_seed={FIRST_SEED}", f"out={out}"]
        recede("evaluate", str(policy), f"task={task}", *seeds, *changes, *EVALUATION)
    return read_json(out / "evaluation.json")


def modes(chosen: dict[str, tuple[Path, Any]]) -> Iterator[Row]:
    """How chunks part at the wall, beside the demonstrators'."""
    cached = dict[Any, Any]()
    for label, (policy, sampler) in chosen.items():
        horizons = open_policy(policy).engine.horizons
        observation, own = cached.get(horizons) or cached.setdefault(horizons, windows(horizons))
        ends = sampled(policy, sampler, observation)
        for name, function in measures(own).items():
            yield Row(name=f"{label}, {name}", value=function(ends, own), unit="")
    for own in [own for _, own in cached.values()]:
        yield Row(name="demonstrators, share left", value=float(np.mean(own > 0)), unit="")


def times(chosen: dict[str, tuple[Path, Any]]) -> Iterator[Row]:
    """The time of a chunk for one robot, by each engine of this machine that agrees with PyTorch."""
    labels, works = list[str](), list[Any]()
    with TemporaryDirectory() as scratch:
        for number, (label, (folder, sampler)) in enumerate(chosen.items()):
            policy, _ = load_policy(folder, sampler=sampler)
            draws, *chunk = policy.noise_shape
            streams, num_steps = policy.specification.observations, policy.horizons.observation
            observation = {stream.name: np.zeros((1, num_steps, *stream.shape), np.float32) for stream in streams}
            noise = np.zeros((draws, 1, *chunk), np.float32)
            for engine in choose_engine(check_diffusion(policy), ENGINES, Path(scratch) / str(number)).engines:
                labels.append(f"{label}, {engine.name} ({engine.precision})")
                works.append(partial(engine.predict, observation, noise))
        medians = interleaved_medians(works, seconds=SECONDS)
    for label, seconds in zip(labels, medians, strict=True):
        yield Row(name=f"{label}, time of a chunk", value=1e3 * seconds, unit="ms")


if __name__ == "__main__":
    main()
