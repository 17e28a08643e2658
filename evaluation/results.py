"""From a trained policy to what people look at: `evaluation.json`, films and the report, written beside it."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..checkpoints.opening import check_exported, load_engine, load_policy, read_description
from ..checkpoints.runs import read_metrics
from ..configs.evaluation import EvaluateConfig
from ..configs.notation import describe
from ..envs.catalogue import known_task, load_task
from ..envs.task import Task
from ..files import read_json, write_json
from ..policy.device import device
from ..policy.engines.folder import is_exported
from ..policy.engines.interface import FORMATS, Engine
from ..policy.engines.making import make_engine
from .evaluate import CHOICE_SEED, Evaluation, evaluate


@dataclass(frozen=True)
class Measured:
    """A policy, what was measured of it, and the folder of its run or checkpoint.

    engine: what ran it. num_parameters: of the whole policy, the encoder included.
    """

    name: str
    engine: Engine
    task: Task
    manifest: dict[str, Any]
    evaluation: Evaluation
    folder: Path
    execution: Any
    delay_ms: float
    num_parameters: int

    def to_json(self) -> dict[str, Any]:
        """The content of `evaluation.json`. training_s: of the run whose folder was given, None for a checkpoint's."""
        seconds = sum(
            line["data_s"] + line["update_s"]
            for line in read_metrics(self.folder)
            if "update_s" in line and line["step"] <= self.manifest["step"]
        )
        return {
            **subject(self.manifest),
            "training_s": seconds or None,
            "num_parameters": self.num_parameters,
            "execution": describe(self.execution),
            "delay_ms": self.delay_ms,
            "engine": self.engine.name,
            **self.evaluation.to_json(),
        }


def subject(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Which policy was measured, as its checkpoint says.

    training: how it was trained, apart from the seed; see `training.recipe`. recipe: its digest. Nobody knows how an
    imported policy was trained: it is a recipe of its own, which goes by its place.
    chosen_on: of a run's best policy, the episodes that it was chosen by, none of which is among those measured.
    """
    training = manifest.get("training")
    recipe = hashlib.sha256(json.dumps(training, sort_keys=True).encode()).hexdigest()[:12]
    return {
        "checkpoint": manifest["path"],
        "step": manifest["step"],
        "training_seed": manifest["seed"],
        "recipe": str(manifest["path"]) if training is None else recipe,
        "training": training,
        "chosen_on": manifest.get("chosen_on"),
        "policy": manifest["policy"],
    }


def chosen_on(config: EvaluateConfig) -> dict[str, int] | None:
    """The episodes that chose the policy that `config` names, if it asks for the best one of a run.

    Raises ValueError if `config` would measure the policy on one of them: the best of many is flattered there.
    """
    counts = [line["episodes"] for line in read_metrics(Path(config.run)) if "mean_score" in line]
    if config.checkpoint != "best" or not counts:
        return None
    last = CHOICE_SEED + max(counts) - 1
    if config.first_seed <= last and config.first_seed + config.episodes > CHOICE_SEED:
        raise ValueError(
            f"first_seed={config.first_seed} episodes={config.episodes} must keep clear of the seeds {CHOICE_SEED} to "
            f"{last}, on which the best policy of {config.run} was chosen: leave first_seed out"
        )
    print(f"the best policy of {config.run} was chosen on the seeds {CHOICE_SEED} to {last}, not on those measured")
    return {"first_seed": CHOICE_SEED, "episodes": max(counts)}


@dataclass(frozen=True)
class Loaded:
    """What is to be measured: the engine of a policy, and its manifest; see `Measured`."""

    engine: Engine
    manifest: dict[str, Any]
    num_parameters: int


def load(config: EvaluateConfig) -> Loaded:
    """The policy that `config` names, run by the engine that it names.

    Raises ValueError where the engine is not available, or an exported folder is asked for what it does not have; see
    also `chosen_on`.
    """
    folder = Path(config.run)
    if is_exported(folder):
        engine, content = load_engine(folder), read_json(folder / "engine.json")
        check_exported(folder, engine.name, config.engine, which=config.checkpoint, sampler=config.sampler)
        manifest = content | {"path": str(folder)}
        return Loaded(engine, manifest, content["num_parameters"])
    name = config.engine or "eager"
    place = device("cpu" if name in FORMATS else config.device)
    chosen_by = chosen_on(config)
    policy, manifest = load_policy(folder, which=config.checkpoint, device=place, sampler=config.sampler)
    manifest["chosen_on"] = chosen_by
    num_parameters = sum(parameter.numel() for parameter in policy.parameters())  # type: ignore[attr-defined]
    engine, choice = make_engine(policy, name)
    if name != "eager":
        print(choice)
    return Loaded(engine, manifest, num_parameters)


def measure(config: EvaluateConfig) -> Measured:
    """Load and roll out the policy that `config` names, which has one execution and one delay.

    Raises ValueError where it was trained for no task, or its chunks are too short for the delay.
    """
    (execution,), (delay_ms,) = config.execution.values(), config.delays
    described = read_description(Path(config.run), config.checkpoint)
    task = load_task(config.task) if config.task else known_task(described["task"], key="task")
    loaded = load(config)
    engine, manifest = loaded.engine, loaded.manifest
    delay = delay_steps(delay_ms, task.specification.control_dt)
    make = partial(execution.build, engine.horizons, delay=delay, hold=engine.specification.action.hold)
    make()  # refuses a delay that the chunks are too short for
    found = evaluate(
        engine,
        task,
        execution=make,
        delay=delay,
        episodes=config.episodes,
        first_seed=config.first_seed,
        seed=config.seed,
        workers=config.workers,
        num_parallel=config.parallel,
        videos=min(config.videos, config.episodes) if can_render(task) else 0,
    )
    return Measured(
        name=manifest["policy"]["choice"],
        engine=engine,
        task=task,
        manifest=manifest,
        evaluation=found,
        folder=Path(config.run),
        execution=execution,
        delay_ms=delay_ms,
        num_parameters=loaded.num_parameters,
    )


def delay_steps(delay_ms: float, control_dt: float) -> int:
    """Control steps until a chunk is there that takes so many milliseconds, with control_dt in seconds.

    >>> [delay_steps(delay_ms, 0.1) for delay_ms in (0, 50, 100, 300, 301)]
    [0, 1, 1, 3, 4]
    """
    return math.ceil(round(delay_ms / (1e3 * control_dt), 9))  # 300 ms are 3 steps of 0.1 s, whatever the rounding


def can_render(task: Task) -> bool:
    """Whether pictures of the task can be made here; says why where not."""
    env = task.make(render_mode="rgb_array")
    try:
        env.reset(seed=0)
        env.render()
    except OSError as error:
        print(f"no pictures and no films: {error}", file=sys.stderr)
        return False
    finally:
        env.close()
    return True


def write_results(
    out: Path, measured: Sequence[Measured], *, title: str, command: str, next_steps: Iterable[tuple[str, str]]
) -> None:
    """Write `evaluation.json` of the first policy, films of its filmed episodes, and the report on all of them."""
    from .reports import pictures
    from .reports.evaluation import installed_versions, write_report

    out.mkdir(parents=True, exist_ok=True)
    first = measured[0]
    write_json(out / "evaluation.json", first.to_json())
    filmed = [outcome for outcome in first.evaluation.outcomes if outcome.frames]
    pixels = _pixels(first.task) if filmed else None
    films, fan = {}, None
    for outcome in tqdm(filmed, desc="film", unit="episode", disable=not filmed):
        path = out / f"episode-{outcome.seed}.mp4"
        pictures.film(outcome, path, fps=1 / first.task.specification.control_dt, pixels=pixels)
        verdict = "succeeded" if outcome.success else "failed"
        films[f"{first.name}, seed {outcome.seed}: {verdict} in {outcome.num_steps} steps"] = path
    if pixels is not None:
        shown = sorted(filmed, key=lambda outcome: not outcome.success)[:1]  # a success, where there is one
        fan = pictures.fan({each.name: each.engine for each in measured}, shown, pixels)
        (out / "fan.png").write_bytes(pictures.draw_fan(fan))
    write_report(
        out / "report.html",
        [entry(each) for each in measured],
        title=title,
        command=command,
        versions=installed_versions(),
        fan=fan,
        films=films,
        next_steps=next_steps,
    )


def _pixels(task: Task) -> Any:
    """Where actions lie in the task's pictures, or None where the task cannot say."""
    env = task.make(render_mode="rgb_array")
    env.reset(seed=0)
    try:
        env.unwrapped.pixels(np.zeros((1, task.specification.action.size)))  # type: ignore[attr-defined]
    except (AttributeError, ValueError):
        return None
    return env.unwrapped.pixels  # type: ignore[attr-defined]


def entry(measured: Measured) -> Any:
    """What the report says of one policy."""
    from .reports.evaluation import Entry

    return Entry(
        name=measured.name,
        evaluation=measured.to_json(),
        metrics=read_metrics(measured.folder),
        num_parameters=measured.num_parameters,
        training_seed=measured.manifest["seed"],
    )
