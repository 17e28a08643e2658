"""Evaluate a trained policy, with all that its results say of it."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.opening import OpenedPolicy, open_chosen, read_description, text_encoder_of
from ..checkpoints.runs import best_step, read_metrics
from ..cluster import joined
from ..configs.evaluation import EvaluateConfig
from ..configs.notation import describe
from ..configs.packages import import_packages
from ..envs.catalogue import known_task, load_task
from ..envs.disturbances import disturbed, randomised
from ..envs.faults import RunningEnv
from ..envs.task import Task
from ..execution.interface import Execution
from ..policy.encoders.text import TextEncoder
from ..policy.engines.interface import Engine
from ..policy.engines.wrapping import without_absent
from ..policy.inputs import absent_streams
from ..policy.monitor import Monitor
from ..version import __version__
from . import journal as journals
from .elsewhere import Elsewhere, Share
from .episode import Filmed, Outcome
from .evaluate import CHOICE_SEED, Evaluation, evaluate
from .foretelling import foretelling
from .journal import Journal
from .monitoring import make_monitor, milliseconds
from .rollout import Roll, rolling, rollout
from .world import world, world_differences


@dataclass(frozen=True)
class Measurement:
    """A policy and its evaluation."""

    policy: OpenedPolicy
    """The policy and the engine that ran it."""

    folder: Path
    """The policy's run, checkpoint or exported folder."""

    task: Task
    """The task that it was evaluated in."""

    execution: Any
    """The configuration of its execution."""

    delay_ms: float
    """Time from requesting a chunk to receiving it, in milliseconds."""

    evaluation: Evaluation
    """The outcomes and the latency."""

    world: dict[str, Any]
    """What the episodes depend on beside the policy; see `world.world`."""

    journal: Journal
    """Has the episodes until the results are written."""

    text: TextEncoder | None
    """Embeds the sentences of the episodes, if the policy observes them."""

    monitor: Monitor | None = None
    """Monitored its chunks, if they were."""

    false_alarms: float = EvaluateConfig.false_alarms
    """The share of successful episodes in which a monitor may raise an alarm."""

    undrawn: str = ""
    """Why the task has no pictures on this machine; empty if it has, or if nobody tried."""

    def again(self, filmed: Filmed) -> list[Outcome]:
        """Roll some of its episodes out once more, and film them. They go as before; see `rollout`."""
        engine, task = self.policy.engine, self.task
        delay = delay_steps(self.delay_ms, task.specification.control_dt)
        execution, seed = execution_of(self.execution, engine, delay=delay), self.evaluation.seed
        options: dict[str, Any] = {"execution": execution, "delay": delay, "seed": seed, "filmed": filmed}
        return rollout(engine, task, list(filmed), **options, embed=self.text, purpose="draw the worst of")

    def followed_by(self, other: Measurement) -> Measurement:
        """Its episodes, and behind them those of another measurement of the same policy."""
        return replace(self, evaluation=self.evaluation.followed_by(other.evaluation))

    @property
    def name(self) -> str:
        """The kind of the policy, as `diffusion`."""
        return self.policy.manifest["policy"]["choice"]

    def to_json(self) -> dict[str, Any]:
        """The content of `evaluation.json`. training_s: training time of the run, None for a checkpoint folder."""
        seconds = sum(
            line["data_s"] + line["update_s"]
            for line in read_metrics(self.folder)
            if "update_s" in line and line["step"] <= self.policy.manifest["step"]
        )
        return {
            **identity(self.policy.manifest),
            "training_s": seconds or None,
            "num_parameters": self.policy.num_parameters,
            "execution": describe(self.execution),
            "delay_ms": self.delay_ms,
            "engine": self.policy.engine.name,
            "world": self.world,
            **self.evaluation.to_json(),
            **({} if self.foretelling is None else {"monitors": self.foretelling | self._numbers}),
        }

    @cached_property
    def foretelling(self) -> dict[str, Any] | None:
        """What the monitors say of the episodes; see `foretelling`. None without monitors."""
        if self.monitor is None:
            return None
        control_dt = self.task.specification.control_dt
        content = foretelling(self.evaluation.outcomes, control_dt=control_dt, false_alarms=self.false_alarms)
        return content | {"ms": milliseconds(self.monitor)}

    @property
    def _numbers(self) -> dict[str, Any]:
        """The numbers of each monitor for the chunks of each episode, and the steps at which these were requested."""
        outcomes = self.evaluation.outcomes
        names = next((outcome.monitors.keys() for outcome in outcomes if outcome.monitors), ())
        numbers = {name: [list(outcome.monitors.get(name, ())) for outcome in outcomes] for name in names}
        return {"requested": [list(outcome.requested) for outcome in outcomes], "numbers": numbers}


def identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `evaluation.json` that say which policy was evaluated.

    training: how it was trained, without the seed; see `training.recipe`. recipe: a digest of `training`. The training
    of an imported policy is unknown, so its recipe is its path. chosen_on: the episodes that chose the best checkpoint
    of a run, none of which is evaluated again.
    """
    training = manifest.get("training")
    digest = hashlib.sha256(json.dumps(training, sort_keys=True).encode()).hexdigest()[:12]
    return {
        "checkpoint": manifest["path"],
        "step": manifest["step"],
        "training_seed": manifest["seed"],
        "recipe": str(manifest["path"]) if training is None else digest,
        "training": training,
        "chosen_on": manifest.get("chosen_on"),
        "policy": manifest["policy"],
    }


def choice_episodes(config: EvaluateConfig) -> dict[str, float] | None:
    """The episodes that chose the best checkpoint of a run, and its figures there; None unless `config` evaluates it.

    Raises ValueError if `config` would evaluate the policy on one of them: its score there is too high, as the best of
    many.
    """
    scored = [line for line in read_metrics(Path(config.run)) if "mean_score" in line]
    if config.checkpoint != "best" or not scored:
        return None
    episodes, best = max(line["episodes"] for line in scored), best_step(Path(config.run))
    last = CHOICE_SEED + episodes - 1
    if config.first_seed <= last and config.first_seed + config.episodes > CHOICE_SEED:
        raise ValueError(
            f"first_seed={config.first_seed} episodes={config.episodes} must avoid the seeds {CHOICE_SEED} to {last}, "
            f"which chose the best policy of {config.run}: leave first_seed out"
        )
    chosen = next(line for line in scored if line["step"] == best)
    figures = f"success {100 * chosen['success_rate']:.0f} %, score {chosen['mean_score']:.3f}"
    print(
        f"the seeds {CHOICE_SEED} to {last} chose the best of {len(scored)} checkpoints of {config.run} ({figures} "
        "there, too high by the choice); none of them is evaluated"
    )
    return {
        "first_seed": CHOICE_SEED,
        "episodes": episodes,
        "checkpoints": len(scored),
        **{name: chosen[name] for name in ("success_rate", "mean_score")},
    }


def open_subject(config: EvaluateConfig) -> OpenedPolicy:
    """Open the policy that `config` evaluates. Raises what `choice_episodes` and `open_chosen` raise."""
    chosen_on = choice_episodes(config)
    policy = open_chosen(config)
    if config.engine not in (None, "eager"):
        print(policy.report)
    return replace(policy, manifest=policy.manifest | {"chosen_on": chosen_on})


@dataclass(frozen=True)
class Subject:
    """A policy that is ready to be evaluated with its one execution and its one delay."""

    config: EvaluateConfig
    """What names it."""

    policy: OpenedPolicy
    """The policy and the engine that runs it."""

    task: Task
    """The task that it acts in."""

    text: TextEncoder | None
    """Embeds the sentences of the episodes, if the policy observes them."""

    @cached_property
    def world(self) -> dict[str, Any]:
        """What the episodes depend on beside the policy; see `world.world`."""
        return world(self.task, simulation=self.config.simulation)

    @cached_property
    def elsewhere(self) -> Callable[[Filmed], Roll] | None:
        """Rolls its episodes out on the device or the cluster that its configuration names, if it does; see `rollout`.

        Raises ValueError unless every node of a cluster opens the same policy in the same world, and what `OnDevice`
        and `joined` raise.
        """
        if self.config.simulation == "warp":
            from .on_device import OnDevice

            how = self.how
            roll = OnDevice(
                self.policy.engine, self.task, execution=how["execution"], seed=how["seed"], embed=how["embed"]
            )
            return lambda _: roll
        if self.config.cluster is None:
            return None
        cluster = joined(self.config.cluster, self.config.workers)
        return partial(Elsewhere, cluster, cluster.check(partial(Acting, self.config), self._differences))

    @property
    def how(self) -> dict[str, Any]:
        """How its episodes are rolled out; see `rollout`."""
        (execution,), (delay_ms,) = self.config.execution.values(), self.config.delays
        delay = delay_steps(delay_ms, self.task.specification.control_dt)
        build = execution_of(execution, self.policy.engine, delay=delay)
        return {"execution": build, "delay": delay, "seed": self.config.seed, "embed": self.text}

    def measure(self, episodes: int, *, skip: int = 0, videos: int = 0) -> Measurement:
        """Evaluate it in so many episodes, after `skip` of them, and film the first `videos`."""
        config, engine = self.config, self.policy.engine
        undrawn = undrawable(self.task) if videos else ""
        journal = Journal(Path(config.out or config.run) / journals.NAME, self.decisive)
        monitor = make_monitor(config, engine, self.task) if config.monitors else None
        evaluation = evaluate(
            engine,
            self.task,
            episodes=episodes,
            first_seed=config.first_seed + skip,
            workers=0 if config.cluster else config.workers,
            num_parallel=config.parallel,
            videos=0 if undrawn else min(videos, episodes),
            journal=journal,
            is_timed=not skip,
            monitor=monitor,
            elsewhere=self.elsewhere,
            **self.how,
        )
        (execution,), (delay_ms,) = config.execution.values(), config.delays
        return Measurement(
            self.policy,
            Path(config.run),
            self.task,
            execution,
            delay_ms,
            evaluation,
            self.world,
            journal,
            self.text,
            monitor=monitor,
            false_alarms=config.false_alarms,
            undrawn=undrawn,
        )

    def _differences(self, there: Mapping[str, Any]) -> list[str]:
        """What differs on another node. there: the facts of `Acting` on it."""
        here = self.decisive
        names = [name for name in ("policy", "engine", "versions") if there[name] != here[name]]
        plain = [f"the {name} is {there[name]} there and {here[name]} here" for name in names]
        return plain + world_differences(self.world, there["whole world"])

    @property
    def decisive(self) -> dict[str, Any]:
        """What decides the outcome of an episode, beside its seed."""
        manifest = {name: value for name, value in self.policy.manifest.items() if name != "path"}
        return {
            "policy": hashlib.sha256(json.dumps(manifest, sort_keys=True, default=str).encode()).hexdigest(),
            "engine": self.policy.engine.name,
            "execution": describe(self.config.execution),
            "delay_ms": self.config.delays,
            "seed": self.config.seed,
            "monitors": [self.config.monitors, self.config.dataset],
            "versions": {"recede": __version__, "torch": torch.__version__},
            # Which versions are noted depends on what this process has loaded; the probe shows what they do.
            "world": {name: value for name, value in self.world.items() if name != "versions"},
        }


def subject_of(config: EvaluateConfig) -> Subject:
    """Open the policy that `config` names, and its task.

    Raises ValueError if the policy was trained for no task, or if its chunks are too short for the delay.
    """
    (execution,), (delay_ms,) = config.execution.values(), config.delays
    description = read_description(config.run, config.checkpoint)
    task = load_task(config.task) if config.task else known_task(description["task"], key="task")
    task = randomised(task, config.randomise)
    for kind, (severity,) in config.disturb.items():
        task = disturbed(task, kind, severity)
    policy = _fitted(open_subject(config), task)
    delay = delay_steps(delay_ms, task.specification.control_dt)
    execution_of(execution, policy.engine, delay=delay)()
    text = None if config.words is not None else text_encoder_of(policy.manifest, config.text_encoder)
    subject = Subject(config, policy, task, text)
    subject.elsewhere  # noqa: B018 - it raises
    return subject


def _fitted(policy: OpenedPolicy, task: Task) -> OpenedPolicy:
    """The policy without those of its observations that may be absent, and that the task lacks; prints them."""
    engine, offered = policy.engine, {stream.name for stream in task.specification.observations}
    if absent := absent_streams(engine.specification, offered):
        print(f"absent in {task.name}, which the policy knows: {', '.join(stream.name for stream in absent)}")
    return replace(policy, engine=without_absent(engine, offered))


class Acting:
    """The policy of an evaluation in a process of a cluster; a `cluster.Work`.

    config: names the policy, and the cluster. Raises what `subject_of` raises.
    """

    def __init__(self, config: EvaluateConfig) -> None:
        import_packages(config.imports)  # as the command line has done
        self._subject = subject_of(replace(config, cluster=None, workers=0))
        engine, task = self._subject.policy.engine, self._subject.task
        self._monitor = make_monitor(config, engine, task) if config.monitors else None
        self.facts = {**self._subject.decisive, "whole world": self._subject.world}

    def run(self, share: Share) -> Iterator[Outcome]:
        """The outcomes of the episodes of a share, which run at once."""
        seeds, filmed = share
        options: dict[str, Any] = {"filmed": filmed, "monitor": self._monitor, **self._subject.how}
        with rolling(self._subject.policy.engine, self._subject.task, most=len(seeds), **options) as roll:
            yield from roll(seeds, len(seeds))


def check_same_world(subjects: Sequence[Subject]) -> None:
    """Raise ValueError, with every difference, unless all policies act in the same world; see `world.world`."""
    for subject in subjects[1:]:
        if differences := world_differences(subjects[0].world, subject.world):
            raise ValueError(
                f"{subjects[0].config.run} and {subject.config.run} do not act in the same world: "
                f"{'; '.join(differences)}: compare policies of one task"
            )


def measure(config: EvaluateConfig) -> Measurement:
    """Evaluate the policy that `config` names; see `subject_of` for the errors."""
    return subject_of(config).measure(config.episodes, videos=config.videos)


def delay_steps(delay_ms: float, control_dt: float) -> int:
    """A delay in whole control steps of `control_dt` seconds, rounded up.

    >>> [delay_steps(delay_ms, 0.1) for delay_ms in (0, 50, 100, 300, 301)]
    [0, 1, 1, 3, 4]
    """
    return math.ceil(round(delay_ms / (1e3 * control_dt), 9))  # 300 ms are 3 steps of 0.1 s in spite of rounding errors


def execution_of(config: Any, engine: Engine, *, delay: int) -> Callable[[], Execution]:
    """Makes the execution of an episode from its configuration. delay: in control steps."""
    return partial(config.build, engine.horizons, delay=delay, hold=engine.specification.action.hold)


def undrawable(task: Task) -> str:
    """Why the task has no pictures on this machine, which is printed; empty if it has. Other errors show later."""
    env = RunningEnv(partial(task.make, render_mode="rgb_array"), task.specification)
    try:
        env.reset(0)
        env.picture()
    except Exception as error:  # each simulation and each graphics library raises errors of its own
        cause = env.fault(error).cause
        print(f"no pictures and no films: {cause}", file=sys.stderr)
        return cause
    finally:
        env.close()
    return ""
