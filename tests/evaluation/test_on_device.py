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


def test_the_goal_of_each_episode_reaches_the_policy(monkeypatch):
    monkeypatch.setattr("recede.evaluation.on_device.WarpTable", Table)
    monkeypatch.setattr("recede.evaluation.on_device.check_offered", lambda *_: None)
    task, seeds, goals = replace(load_task("sort"), max_steps=3), range(5), []

    class Asked(Experts):
        """Experts, which notes the goals that it observes."""

        def predict(self, observation, noise, guidance=()):
            goals.append(observation["goal"][:, -1].numpy())
            return super().predict(observation, noise)

    list(OnDevice(EagerEngine(Asked(task, seeds)), task, execution=partial(RecedingHorizon, HORIZONS))(seeds, 5))
    env = task.make()
    drawn = np.stack([env.reset(seed=seed)[0]["goal"] for seed in seeds])
    assert len(np.unique(drawn, axis=0)) > 1
    np.testing.assert_array_equal(goals, [drawn] * 3)


def test_another_execution_or_engine_is_refused():
    task, policy = load_task("reach"), Proportional()
    engine = EagerEngine(policy)
    with pytest.raises(ValueError, match="execution=receding, got AsyncReplace"):
        OnDevice(engine, task, execution=partial(AsyncReplace, policy.horizons))
    with pytest.raises(ValueError, match=r"engine=eager.*got onnx"):
        OnDevice(SimpleNamespace(name="onnx"), task, execution=partial(RecedingHorizon, policy.horizons))


# --- with MuJoCo Warp, whose kernels take minutes to compile on a new machine, and then seconds to load

needs_warp = pytest.mark.skipif(
    importlib.util.find_spec("mujoco_warp") is None, reason="needs the extra: pip install 'recede[warp]'"
)
BOUNDS = {
    "reach": (1e-5, 1e-5),
    "reach_arm_joints": (1e-5, 1e-5),
    "pick_place": (5e-5, 5e-5),
    "stack": (5e-5, 5e-5),
    "sort": (5e-5, 5e-5),
    "drawer": (5e-5, 5e-5),
    "pick_place_arm_joints": (5e-4, 2e-3),
    "transfer": (5e-4, 2e-3),
    "peg_insertion": (2e-3, 1e-2),
    "push_t": (3e-3, 0.1),
}
"""Task -> the largest differences within 50 control steps: of positions and angles (m, rad); of cosines and sines."""


@pytest.fixture(scope="module", params=BOUNDS)
def worlds(request):
    """A task, and eight worlds of it on the device, which load their kernels once for the tests that use them."""
    task = load_task(request.param)
    return task, WarpTable(task, 8, CPU)


def departure(task, state, other):
    """The largest differences of two states, as in `BOUNDS`."""
    off = [0.0, 0.0]
    for stream in task.specification.observations:
        gaps = np.abs(state[stream.name] - other[stream.name]).reshape(-1, stream.size).max(0)
        for label, gap in zip(stream.labels, gaps, strict=True):
            kind = label.startswith(("cos_", "sin_"))
            off[kind] = max(off[kind], gap)
    return np.array(off)


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
def test_worlds_go_as_those_of_mujoco(worlds):
    """The same actions from the same states: 50 control steps of experts."""
    task, table = worlds
    batch = task.make_batch(8)
    table.begin(lambda env, index: env.reset(seed=index))
    _, info = batch.reset(seed=0)
    experts = [task.expert(seed) for seed in range(8)]
    for _ in range(50):
        states = [{key: rows[index] for key, rows in info["state"].items()} for index in range(8)]
        actions = np.stack([expert(state) for expert, state in zip(experts, states, strict=True)])
        *_, info = batch.step(actions)
        reading = table.advance(torch.tensor(actions))
        assert not reading.fault.any()
        off = departure(task, info["state"], {name: values.numpy() for name, values in reading.state.items()})
        assert (off <= BOUNDS[task.name]).all(), off


@pytest.mark.slow
def test_mujoco_departs_from_itself_as_far_if_its_solver_stops_as_early():
    """Why a pushed block has wide bounds: MuJoCo Warp stops its solver at a tolerance of 1e-6, MuJoCo at 1e-8."""
    task, off = load_task("push_t"), np.zeros(2)
    for seed in range(8):
        envs, expert = [task.make() for _ in range(2)], task.expert(seed)
        envs[1].model.opt.tolerance = 1e-6
        states = [env.reset(seed=seed)[1]["state"] for env in envs]
        for _ in range(50):
            action = expert(states[0])
            states = [env.step(action)[4]["state"] for env in envs]
            off = np.maximum(off, departure(task, *states))
    assert (np.array(BOUNDS["push_t"]) / 5 < off).all()
    assert (off <= BOUNDS["push_t"]).all()


@needs_warp
@pytest.mark.slow
def test_experts_succeed_as_often_as_in_mujoco(worlds, monkeypatch):
    task, table = worlds
    monkeypatch.setattr("recede.evaluation.on_device.WarpTable", lambda *_: table)
    seeds = range(100, 108)
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
