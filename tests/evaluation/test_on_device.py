"""Episodes on one device: what is refused and noted, and, where MuJoCo Warp is installed, that they go as MuJoCo's."""

import importlib.util
import re
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluations import WORLD, write
from recede.configs.evaluation import EvaluateConfig
from recede.envs.catalogue import load_task
from recede.envs.physics import mujoco
from recede.envs.tasks.reach import Reach
from recede.evaluation.intervals import difference
from recede.evaluation.on_device import OnDevice
from recede.evaluation.rollout import rollout
from recede.evaluation.warp_table import Reading, WarpTable, check_offered
from recede.execution.overlapping import AsyncReplace
from recede.execution.receding import RecedingHorizon
from recede.policy.engines.eager import EagerEngine
from recede.specification import Horizons

CPU = torch.device("cpu")
HORIZONS = Horizons(observation=1, prediction=1, action=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"simulation": "mjx"}, r"simulation must be one of mujoco, warp, got 'mjx'"),
        ({"workers": 2}, r"workers= is not for simulation=warp, .*: leave one out"),
        ({"randomise": ["mass"]}, r"randomise= is not for simulation=warp"),
        ({"disturb": {"push": [5]}}, r"disturb= is not for simulation=warp"),
        ({"monitors": True}, r"monitors= is not for simulation=warp"),
        ({"words": "go"}, r"words= is not for simulation=warp"),
        ({"delay_ms": [0, 100]}, r"delay_ms= is not for simulation=warp"),
        ({"run": ["a", "b"]}, r"not reproducible bit for bit.*one by one"),
    ],
)
def test_what_the_device_does_not_offer_is_refused_by_name(options, words):
    with pytest.raises(ValueError, match=words):
        EvaluateConfig(**({"run": "a", "simulation": "warp"} | options))


def test_nothing_is_filmed():
    assert EvaluateConfig(run="a", simulation="warp").videos == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("reach_image", "nothing renders on the device"),
        ("reach_arm", r"mink.* run on the CPU"),
        ("toys:REACH", "no task on a table"),
        ("drawer", "compared with those of MuJoCo only in reach"),
    ],
)
def test_tasks_that_are_not_offered_are_refused_with_the_reason(name, words):
    if name == "reach_arm":
        pytest.importorskip("mink", reason="an arm that is commanded by poses needs the extra 'arm_ik'")
    with pytest.raises(ValueError, match=rf"does not offer task '.*', because .*{words}.*leave simulation out"):
        check_offered(load_task(name), CPU)


def test_another_device_is_refused():
    with pytest.raises(ValueError, match=r"a CPU or an NVIDIA GPU, got device=mps"):
        check_offered(load_task("reach"), torch.device("mps"))


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "warp", None)
    with pytest.raises(ImportError, match=r"needs MuJoCo Warp.*recede\[warp\]"):
        check_offered(load_task("reach"), CPU)


def test_the_command_refuses_before_any_episode(recede, trained):
    result = recede("evaluate", trained, "task=toys:REACH", "simulation=warp", "device=cpu")
    assert (result.status, result.out) == (2, "")
    assert "simulation=warp does not offer task 'reach'" in result.line


def test_results_of_a_simulation_that_is_not_reproducible_have_no_pairs(recede, tmp_path):
    warp = WORLD | {"simulation": "warp", "is_reproducible": False}
    folders = [write(tmp_path / name, [True, False], world=world) for name, world in (("a", WORLD), ("b", warp))]
    line = recede("compare", *folders).line
    assert re.search(r"b/evaluation.json was simulated by warp.*not reproducible.*simulation=mujoco", line)
    old = {name: value for name, value in WORLD.items() if name not in ("simulation", "is_reproducible")}
    assert recede("compare", folders[0], write(tmp_path / "old", [True, True], world=old)).status == 0


class Table:
    """Worlds on the CPU by MuJoCo, in the place of a `WarpTable`."""

    def __init__(self, task, count, device):
        self.envs, self.step = [task.make() for _ in range(count)], 0

    def begin(self, reset):
        self.step = 0
        for index, env in enumerate(self.envs):
            reset(env, index)

    def advance(self, actions):
        self.step += 1
        infos = [env.step(action.numpy())[4] for env, action in zip(self.envs, actions, strict=True)]
        state = {name: torch.tensor(np.stack([info["state"][name] for info in infos])) for name in infos[0]["state"]}
        fault = [int(self.step == 3 and index == 1) for index in range(len(infos))]
        score = torch.tensor([info["score"] for info in infos], dtype=torch.float64)
        return Reading(state, torch.tensor([info["success"] for info in infos]), score, torch.tensor(fault))

    def failure(self, fault, step):
        return FloatingPointError(f"fault {fault} at step {step}")


class Proportional:
    """Goes to the ball, a little ahead of where it was in the step before; it is late where the noise is large."""

    noise_shape, horizons = (1, 1, 3), Horizons(observation=2, prediction=5, action=3)
    specification = load_task("reach").specification

    def predict(self, observation, noise, guidance=()):
        gripper, target = observation["gripper"], observation["target"][:, -1]
        place = target + 0.2 * (gripper[:, -1, :3] - gripper[:, -2, :3]) + 0.02 * noise[0, :, 0]
        return torch.cat([place, gripper[:, -1, 3:]], dim=-1)[:, None].repeat(1, 5, 1)


def test_episodes_on_a_device_are_those_of_a_rollout(monkeypatch):
    """Policy, history, noise and judgement; more episodes than worlds, of which one breaks off, and two repeat."""
    monkeypatch.setattr("recede.evaluation.on_device.WarpTable", Table)
    monkeypatch.setattr("recede.evaluation.on_device.check_offered", lambda *_: None)
    task, policy, seeds = load_task("reach"), Proportional(), range(7)
    execution = partial(RecedingHorizon, policy.horizons)
    there = list(OnDevice(EagerEngine(policy), task, execution=execution, seed=3)(seeds, 3))
    here = rollout(policy, task, seeds, execution=execution, seed=3, progress=False)
    assert {outcome.success for outcome in here} == {True, False}
    assert [outcome.seed for outcome in there] == list(seeds)
    for index, (one, other) in enumerate(zip(there, here, strict=True)):
        if index % 3 == 1:
            assert (one.success, one.score, one.num_steps) == (False, 0.0, 3)
            assert str(one.fault) == f"seed {index}, step 3, in step(): FloatingPointError: fault 1 at step 3"
            continue
        assert one == replace(other, score=one.score, final_score=one.final_score)
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert one.final_score == pytest.approx(other.final_score, abs=1e-5)


def test_another_execution_or_engine_is_refused():
    task, policy = load_task("reach"), Proportional()
    engine = EagerEngine(policy)
    with pytest.raises(ValueError, match="execution=receding, got AsyncReplace"):
        OnDevice(engine, task, execution=partial(AsyncReplace, policy.horizons))
    with pytest.raises(ValueError, match=r"engine=eager.*got onnx"):
        OnDevice(SimpleNamespace(name="onnx"), task, execution=partial(RecedingHorizon, policy.horizons))


# --- with MuJoCo Warp, whose kernels take minutes to compile on a new machine

needs_warp = pytest.mark.skipif(
    importlib.util.find_spec("mujoco_warp") is None, reason="needs the extra: pip install 'recede[warp]'"
)
BOUNDS = {"reach": 1e-5, "pick_place": 2e-3}
"""Task -> the largest difference of a stream within 50 control steps; that of cubes is in the cosine of four yaws."""


class Experts:
    """A policy whose rows are the experts of so many episodes."""

    noise_shape, horizons = (0, 1, 1), HORIZONS

    def __init__(self, task, seeds):
        self.specification = task.specification
        self._experts = [task.expert(seed) for seed in seeds]

    def predict(self, observation, noise, guidance=()):
        rows = [
            {name: values[row, -1].numpy() for name, values in observation.items()} for row in range(noise.shape[1])
        ]
        actions = [expert(row) for expert, row in zip(self._experts, rows, strict=True)]
        return torch.tensor(np.stack(actions))[:, None]


def rolled(task, policy, seeds, **options):
    execution = partial(RecedingHorizon, policy.horizons)
    return list(OnDevice(EagerEngine(policy), task, execution=execution, **options)(seeds, len(seeds)))


def alone(task, seed):
    """Whether the expert succeeds in an environment."""
    env, expert, is_over = task.make(), task.expert(seed), False
    _, info = env.reset(seed=seed)
    while not is_over:
        _, _, terminated, truncated, info = env.step(expert(info["state"]))
        is_over = terminated or truncated
    return info["success"]


@needs_warp
@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_worlds_go_as_those_of_mujoco(name):
    """The same actions from the same states: 50 control steps of experts."""
    task, count = load_task(name), 4
    table, worlds = WarpTable(task, count, CPU), task.make_batch(count)
    table.begin(lambda env, index: env.reset(seed=index))
    _, info = worlds.reset(seed=0)
    experts = [task.expert(seed) for seed in range(count)]
    for _ in range(50):
        states = [{key: rows[index] for key, rows in info["state"].items()} for index in range(count)]
        actions = np.stack([expert(state) for expert, state in zip(experts, states, strict=True)])
        *_, info = worlds.step(actions)
        reading = table.advance(torch.tensor(actions))
        assert not reading.fault.any()
        for key, values in info["state"].items():
            np.testing.assert_allclose(reading.state[key].numpy(), values, rtol=0, atol=BOUNDS[name], err_msg=key)


@needs_warp
@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_experts_succeed_as_often_as_in_mujoco(name):
    task, seeds = load_task(name), range(100, 108)
    outcomes = rolled(task, Experts(task, seeds), seeds)
    assert [outcome.fault for outcome in outcomes] == [None] * len(seeds)
    there, here = sum(outcome.success for outcome in outcomes), sum(alone(task, seed) for seed in seeds)
    low, high = difference((there, len(seeds)), (here, len(seeds)))
    assert low <= 0 <= high
    for outcome in outcomes:
        assert outcome.success == (outcome.success_step == outcome.num_steps)
        assert outcome.success or outcome.num_steps == task.max_steps
        assert outcome.score == 1 if outcome.success else outcome.score < 1


@needs_warp
@pytest.mark.slow
def test_a_scene_that_warp_cannot_simulate_is_refused():
    class Planned(Reach):
        """A `reach` whose solver MuJoCo Warp lacks."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.model.opt.solver = mujoco.mjtSolver.mjSOL_PGS

    with pytest.raises(ValueError, match=r"does not offer task 'reach', because .*PGS.*: leave simulation out"):
        WarpTable(replace(load_task("reach"), make=Planned), 1, CPU)


@needs_warp
@pytest.mark.slow
def test_worlds_without_room_or_without_sense_break_their_episodes_off(monkeypatch):
    task, seeds = load_task("pick_place"), range(2)
    monkeypatch.setattr("recede.evaluation.on_device.WarpTable", partial(WarpTable, constraints=8))
    for outcome in rolled(task, Experts(task, seeds), seeds):
        assert not outcome.success
        assert re.search(r"failed at step 1 \(NEFC\): .*simulation=mujoco", outcome.fault.message)
    table = WarpTable(task, 2, CPU)
    table.begin(lambda env, index: env.reset(seed=index))
    table._velocities.tensor[1] = np.nan
    fault = table.advance(torch.zeros(2, 5)).fault.tolist()
    assert not fault[0]
    assert "DIVERGED" in str(table.failure(fault[1], 1))
