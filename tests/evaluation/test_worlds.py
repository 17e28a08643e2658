"""An evaluation in the worlds of a task has the outcomes of one in environments, to the last bit."""

import sys
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
import toys
from recede.checkpoints.opening import load_policy
from recede.configs.components.denoising import DDIMConfig
from recede.configs.components.encoders import ResNetEncoderConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.envs.catalogue import load_task
from recede.envs.disturbances import randomised
from recede.envs.tasks.reach import Reach
from recede.envs.vector import LoopedWorlds
from recede.evaluation.rollout import rollout
from recede.execution.guided import RealTimeChunking
from recede.execution.receding import RecedingHorizon
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons
from representatives import representatives

SEEDS = range(100_000, 100_012)


def in_worlds(task, worlds=LoopedWorlds):
    """The task with worlds of its own environments."""
    return replace(task, make_batch=partial(worlds, task.make, task.specification))


@pytest.fixture(scope="module")
def policy(trained):
    return load_policy(trained, sampler={"num_steps": 3})[0]


def roll(policy, seeds=SEEDS, *, task, execution=RecedingHorizon, filmed=(), **options):
    options |= {"execution": partial(execution, policy.horizons), "filmed": dict.fromkeys(filmed)}
    return rollout(policy, task, seeds, progress=False, **options)


@pytest.fixture(scope="module")
def outcomes(policy):
    return roll(policy, task=toys.REACH)


class Noted(LoopedWorlds):
    """Worlds that note the ids of every call."""

    calls: ClassVar[list] = []

    def begin(self, ids, seeds):
        self.calls.append(ids)
        return super().begin(ids, seeds)

    def advance(self, ids, actions):
        self.calls.append(ids)
        return super().advance(ids, actions)


@pytest.mark.slow
@pytest.mark.parametrize("num_parallel", [1, 5, 64])
def test_outcomes_are_those_of_environments(policy, outcomes, num_parallel):
    task, Noted.calls = in_worlds(toys.REACH, Noted), []
    assert roll(policy, task=task, num_parallel=num_parallel) == outcomes
    assert roll(policy, SEEDS[::-1], task=task, num_parallel=num_parallel) == outcomes[::-1]
    assert max(map(len, Noted.calls)) == min(num_parallel, len(SEEDS))
    assert all((np.diff(ids) > 0).all() for ids in Noted.calls)


@pytest.mark.slow
def test_outcomes_of_delayed_chunks_are_those_of_environments(policy):
    """With a delay, episodes ask in different steps, so some worlds advance while others wait."""
    options = {"execution": partial(RealTimeChunking, delay=3, limit=5.0, exact=True), "delay": 3}
    in_environments = roll(policy, task=toys.REACH, **options)
    assert roll(policy, task=in_worlds(toys.REACH), num_parallel=5, **options) == in_environments


class Recorded(RecedingHorizon):
    """Notes all that it observes."""

    rows: ClassVar[list] = []

    def observe(self, observation, *, commanded=None):
        self.rows.append({name: value.tobytes() for name, value in observation.items()})
        super().observe(observation, commanded=commanded)


def recorded(policy, task, **options):
    """The outcomes of three episodes, and all that was observed in them."""
    Recorded.rows = []
    outcomes = roll(policy, SEEDS[:3], task=task, execution=Recorded, **options)
    return outcomes, sorted(map(str, Recorded.rows))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pick_place", "reach", "sort", "stack"])
def test_outcomes_in_a_batch_of_mujoco_are_those_of_environments(name):
    torch.manual_seed(0)
    task = load_task(name)
    streams = task.specification.streams
    ranges = {stream.name: (np.array(stream.low), np.array(stream.high)) for stream in streams}
    config = DiffusionConfig(network=UNet1dConfig(channels=[8, 16], time_size=8), sampler=DDIMConfig(num_steps=1))
    policy = config.build(task.specification, Horizons(), Normalizer(task.specification, ranges)).eval()
    assert recorded(policy, task, num_parallel=2) == recorded(policy, replace(task, make_batch=None))


class Requested(RecedingHorizon):
    """Notes all that it plans from."""

    rows: ClassVar[list] = []

    def request(self):
        request = super().request()
        if request is not None:
            self.rows.append({name: values.tobytes() for name, values in request.history.items()})
        return request


def requested(policy, task, **options):
    """The outcomes of three episodes, and all that chunks were predicted from."""
    Requested.rows = []
    outcomes = roll(policy, SEEDS[:3], task=task, execution=Requested, **options)
    return outcomes, sorted(map(str, Requested.rows))


@pytest.mark.parametrize("delay", representatives([0, 3], 3))
def test_outcomes_of_a_policy_that_sees_are_those_of_environments(monkeypatch, delay):
    """Also in worlds that differ. Only those images are drawn that a chunk is predicted from."""
    monkeypatch.setattr(Reach, "max_steps", 12)
    task = randomised(replace(load_task("reach_image"), max_steps=12), ["mass", "colour", "camera", "light"])
    torch.manual_seed(0)
    encoder = ResNetEncoderConfig(width=16, stages=1, keypoints=4, features=8)
    network = UNet1dConfig(channels=[8, 16], time_size=8)
    config = DiffusionConfig(encoder=encoder, network=network, sampler=DDIMConfig(num_steps=1))
    streams = [stream for stream in task.specification.streams if not stream.is_image]
    ranges = {stream.name: (np.array(stream.low), np.array(stream.high)) for stream in streams}
    policy = config.build(task.specification, Horizons(), Normalizer(task.specification, ranges)).eval()
    in_environments = requested(policy, replace(task, make_batch=None), delay=delay)
    drawn, draw = [], Reach.images
    monkeypatch.setattr(Reach, "images", lambda *arguments: drawn.append(1) or draw(*arguments))
    assert requested(policy, task, num_parallel=2, delay=delay) == in_environments
    outcomes, requests = in_environments
    steps = sum(outcome.num_steps for outcome in outcomes)
    assert len(requests) < len(drawn) < steps if delay else len(drawn) == 2 * (len(requests) - 3)


class Refused:
    """Worlds that must not be."""

    def __init__(self, count):
        raise AssertionError(f"{count} worlds")


def test_worlds_serve_unless_there_are_workers_or_films(policy, outcomes):
    task = replace(toys.REACH, make_batch=Refused)
    assert roll(policy, SEEDS[:1], task=task, workers=1) == outcomes[:1]
    filmed = roll(policy, SEEDS[:1], task=task, filmed=SEEDS[:1])
    assert replace(filmed[0], frames={}, chunks=()) == outcomes[0]
    faults = [outcome.fault for outcome in roll(policy, SEEDS[:2], task=task)]
    assert [(fault.during, fault.message) for fault in faults] == [("make_batch()", "2 worlds")] * 2
    mixed = roll(policy, SEEDS[:4], task=in_worlds(toys.REACH), filmed=SEEDS[1:2])
    assert [bool(outcome.frames) for outcome in mixed] == [False, True, False, False]
    assert [replace(outcome, frames={}, chunks=()) for outcome in mixed] == outcomes[:4]


KINDS = ["reset", "step", "nan", "shape", "missing", "score", "success", "old step"]


@pytest.mark.parametrize("kind", representatives(KINDS, "reset", "nan", "success"))
def test_an_episode_that_breaks_off_is_described_and_the_others_are_kept(policy, kind):
    in_environments = roll(policy, SEEDS[:4], task=toys.faulty(kind))
    assert in_environments[1].fault is not None
    assert roll(policy, SEEDS[:4], task=in_worlds(toys.faulty(kind)), num_parallel=3) == in_environments


def test_an_episode_in_a_world_that_never_ends_breaks_off(policy, outcomes):
    first, endless, third = roll(policy, SEEDS[:3], task=in_worlds(toys.faulty("endless")))
    assert [first, third] == [outcomes[0], outcomes[2]]
    assert (endless.fault.step, endless.fault.message.partition(" steps")[0]) == (
        toys.MAX_STEPS,
        "an episode must be over after max_steps=40",
    )


class Unchecked(LoopedWorlds):
    """Worlds that return what they should not, for the bad seed from its fifth step on."""

    def __init__(self, kind, count):
        super().__init__(toys.Reach, toys.SPECIFICATION, count)
        self.kind = kind

    def advance(self, ids, actions):
        observation, rewards, terminated, truncated, info = super().advance(ids, actions)
        for row, index in enumerate(ids):
            env = self.envs[index]
            if env.np_random_seed in toys.BAD_SEEDS and env.num_steps == 5:
                self.damage(row, observation, info)
        return observation, rewards, terminated, truncated, info

    def damage(self, row, observation, info):
        if self.kind == "error":
            raise ArithmeticError("something about all of them")
        if self.kind == "exit":
            sys.exit(3)
        if self.kind == "nan":
            observation["position"][row] = np.nan
        if self.kind == "score":
            info["score"][row] = 7


FAULTS = {
    "error": ("ArithmeticError", "something about all of them"),
    "exit": ("RuntimeError", r"it called sys.exit(3)"),
    "nan": ("PromiseError", "step() must return 'position' as finite numbers, got [nan nan]"),
    "score": ("PromiseError", "info['score'] must be a number in [0, 1], step() gave "),
}
"""The kind of a fault -> the error, and how its message begins."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_of_a_step_of_all_worlds_is_that_of_one(policy, outcomes, kind):
    noted = []
    task = replace(toys.REACH, make_batch=partial(Unchecked, kind))
    broken = roll(policy, SEEDS[:6], task=task, num_parallel=4, note=noted.append)
    assert [broken[0], *broken[2:]] == [outcomes[0], *outcomes[2:6]]
    error, message = FAULTS[kind]
    fault = broken[1].fault
    assert (fault.seed, fault.step, fault.during, fault.error) == (SEEDS[1], 5, "step()", error)
    assert fault.message.startswith(message)
    assert sorted(outcome.seed for outcome in noted) == list(SEEDS[:6])  # each once


class Nothing(RecedingHorizon):
    """Plans what is no number, in episodes that begin on the left."""

    def _join(self, actions, late):
        actions = super()._join(actions, late)
        return np.where(self._history[-1]["position"][0] < -0.5, np.nan, actions).astype(np.float32)


def test_an_execution_that_fails_is_the_fault_of_its_episode(policy):
    in_environments = roll(policy, task=toys.REACH, execution=Nothing)
    assert len({outcome.fault is None for outcome in in_environments}) == 2
    assert roll(policy, task=in_worlds(toys.REACH), execution=Nothing, num_parallel=5) == in_environments
