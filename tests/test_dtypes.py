"""Streams of every dtype work from the recording to the robot; actions are rounded on their way, never cut off."""

import re
from dataclasses import replace

import grippers
import numpy as np
import pytest
import torch
from policy_server import serve
from recede.checkpoints.opening import open_policy
from recede.datasets.store import DemonstrationStore
from recede.datasets.windows import Windows
from recede.envs.check import check_task
from recede.envs.gymnasium_adapter import box
from recede.evaluation.rollout import rollout
from recede.execution.receding import RecedingHorizon
from recede.realtime import VirtualClock
from recede.recording.scripted import collect
from recede.robots.interface import checked_action
from recede.robots.simulation import Simulation
from recede.specification import DTYPES, Horizons

HORIZONS = Horizons(1, 4, 2)


class Constant:
    """An engine that always predicts the same action, in floats as every policy."""

    name, precision, device, horizons, noise_shape = "constant", "fp32", torch.device("cpu"), HORIZONS, (0, 4, 1)

    def __init__(self, specification, value):
        self.specification, self.value = specification, value

    def predict(self, observation, noise, guidance=()):
        return np.full((len(observation["state"]), 4, 1), self.value, np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_policy_that_says_almost_1_closes_a_gripper_that_knows_0_and_1(dtype):
    task = grippers.TASKS[dtype]
    value = 1.0 if dtype.startswith("float") else 0.51
    (outcome,) = rollout(
        Constant(task.specification, value), task, [3], execution=lambda: RecedingHorizon(HORIZONS), progress=False
    )
    assert outcome.success
    if not dtype.startswith("float"):
        engine = Constant(task.specification, 0.49)
        (outcome,) = rollout(engine, task, [3], execution=lambda: RecedingHorizon(HORIZONS), progress=False)
        assert (outcome.success, outcome.score) == (False, 0.0)
        engine = Constant(task.specification, np.nan)
        (outcome,) = rollout(engine, task, [3], execution=lambda: RecedingHorizon(HORIZONS), progress=False)
        assert re.search(r"'action': values of .* must be finite", outcome.fault.message)


@pytest.mark.parametrize("dtype", DTYPES)
def test_commands_positions_and_logs_are_rounded(tmp_path, dtype):
    task, clock = grippers.TASKS[dtype], VirtualClock()
    expected = task.specification.action.cast([0.75])
    assert checked_action([0.75], 0.0, task.specification) == expected
    with pytest.raises(ValueError, match="finite"):
        checked_action([np.nan], 0.0, task.specification)
    robot = Simulation(task, clock)
    robot.start()
    robot.command(np.array([0.75]), clock.now())
    clock.sleep_until(clock.now() + 0.35)
    position = robot.position()
    assert (position.dtype, position) == (expected.dtype, expected)
    robot.close()


def test_a_float_position_becomes_the_nearest_action():
    for dtype in ("int64", "bool", "uint8"):
        task = grippers.TASKS[dtype]
        specification = replace(task.specification, observations=grippers.TASKS["float64"].specification.observations)
        make = grippers.Make(specification, start=0.8)
        robot = Simulation(replace(task, specification=specification, make=make), VirtualClock())
        robot.start()
        assert robot.position() == task.specification.action.cast([1])
        assert robot._held == robot.position()


@pytest.mark.parametrize("dtype", DTYPES)
def test_tasks_of_every_dtype_keep_every_promise(dtype):
    assert "success" in check_task(grippers.TASKS[dtype])
    stream = grippers.TASKS[dtype].specification.action
    assert box(stream).contains(box(stream).sample())
    unlimited = box(replace(stream, low=(), high=()))
    assert unlimited.contains(stream.cast([1]))


@pytest.fixture(scope="module")
def many(recede, small, tmp_path_factory):
    """A run whose observations are of every dtype and whose action is an int64, trained for two steps."""
    folder = tmp_path_factory.mktemp("many")
    grippers.record(folder / "many.zarr", grippers.MANY)
    options = [f"dataset={folder / 'many.zarr'}", f"out={folder / 'run'}", "task=grippers:MANY", "steps=2", "warmup=1"]
    result = recede("train", *options, *small)
    assert result.status == 0, result.err
    return folder


@pytest.mark.slow
def test_streams_of_every_dtype_are_inspected_trained_on_exported_and_evaluated(recede, many):
    for arguments in (
        ["inspect", many / "many.zarr"],
        ["export", many / "run", f"out={many / 'exported'}"],
        ["evaluate", many / "run", "task=grippers:MANY", "episodes=2", "videos=0", f"out={many / 'evaluation'}"],
        ["evaluate", many / "exported", "task=grippers:MANY", "episodes=2", "videos=0", f"out={many / 'again'}"],
    ):
        result = recede(*arguments)
        assert result.status == 0, (arguments, result.err)


@pytest.mark.slow
def test_streams_of_every_dtype_are_served_and_controlled(recede, many):
    with serve(open_policy(many / "run", engine="eager").engine) as (address, _):
        result = recede("control", address, "robot.task=grippers:MANY", "seconds=1", f"out={many / 'control'}")
    assert result.status == 0, result.err
    for name in ("demonstrations.zarr", "ticks.zarr"):
        store = DemonstrationStore.open(many / "control" / name)
        assert store.specification.action.dtype == "int64"
        assert set(store.read("action").ravel().tolist()) <= {0, 1}


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "bool"])
def test_windows_gather_actions_of_dtypes_that_torch_hardly_knows(tmp_path, dtype):
    store = grippers.record(tmp_path / "demos", grippers.TASKS[dtype])
    batch = Windows(store, HORIZONS).batch(torch.arange(4))
    expected = store.read("action", 0, 7).astype(np.float64)
    for row, action in enumerate(batch.action.double().numpy()):
        np.testing.assert_array_equal(action, expected[row : row + 4])


def test_experts_of_integer_tasks_are_recorded_as_they_act(tmp_path):
    collected = collect(grippers.TASKS["int64"], tmp_path / "demos", episodes=2, first_seed=0, images="zstd")
    assert (collected.successes, collected.failures) == (2, 0)
    actions = DemonstrationStore.open(tmp_path / "demos").read("action", 0, 11)
    assert actions.ravel().tolist() == [0] * 3 + [1] * 8
