"""Every world of a batch equals the environment of its task to the last bit, whatever the others do."""

import sys
from dataclasses import replace
from functools import partial

import gymnasium
import numpy as np
import pytest
import toys
from recede.envs import physics
from recede.envs.catalogue import TASKS, load_task
from recede.envs.check import check_task
from recede.envs.disturbances import RANDOMISED, disturbed, randomised
from recede.envs.physics import mujoco
from recede.envs.table_worlds import TableWorlds, table_worlds
from recede.envs.tasks.reach import Reach
from recede.envs.vector import LoopedWorlds

BATCHED = [name for name in TASKS if not name.startswith("pusht") and not name.endswith("_image")]
IMAGES = [f"{name}_image" for name in BATCHED if f"{name}_image" in TASKS]


class Twins:
    """The environments that worlds must equal."""

    def __init__(self, task, count):
        self.envs = [task.make() for _ in range(count)]
        self.rows: list = [()] * count

    def reset(self, index, seed):
        self.rows[index] = *self.envs[index].reset(seed=seed), 0.0, False, False

    def step(self, index, action):
        observation, *results, info = self.envs[index].step(action)
        self.rows[index] = observation, info, *results

    def assert_equal(self, observation, info, *results):
        for index, (expected, expected_info, *expected_results) in enumerate(self.rows):
            assert {name: value[index].tobytes() for name, value in observation.items()} == bits(expected)
            assert {name: value[index].tobytes() for name, value in info["state"].items()} == bits(
                expected_info["state"]
            )
            for name in ("success", "score", "sentence"):
                assert info[name][index] == expected_info[name], name
            assert info["error"][index] is None
            if results:
                assert [values[index] for values in results] == expected_results


def bits(arrays):
    return {name: value.tobytes() for name, value in arrays.items()}


def mask(count, *ids):
    chosen = np.zeros(count, bool)
    chosen[list(ids)] = True
    return {"reset_mask": chosen}


def made_worlds(way, task, count):
    return task.make_batch(count) if way == "batch" else LoopedWorlds(task.make, task.specification, count)


@pytest.fixture(params=["batch", "loop"])
def make_worlds(request):
    """Makes the worlds of a task in either way."""
    return partial(made_worlds, request.param)


VARIANTS = {"pick_place_arm_joints", "reach_arm", "sort_reworded"}
"""Tasks of the code of others that the quick tests run."""


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *(pytest.param(name, "batch", marks=[pytest.mark.slow] if name in VARIANTS else []) for name in BATCHED),
        *(("reach", "loop"), ("sort", "loop")),
    ],
)
def test_every_world_equals_its_environment(name, way):
    """Experts act; some worlds begin again in the middle, with a seed and without, and others go on after their end."""
    if "_arm" in name and "joints" not in name:
        pytest.importorskip("mink", reason="an arm that is commanded by poses needs the extra 'arm_ik'")
    task, count = load_task(name), 5
    worlds, twins = made_worlds(way, task, count), Twins(task, count)
    experts, num_ended = [task.expert(seed) for seed in range(count)], 0
    observation, info = worlds.reset(seed=40)
    for index in range(count):
        twins.reset(index, 40 + index)
    twins.assert_equal(observation, info)
    for step in range(45):
        if step in (10, 20):
            chosen, seeds = ([1, 3], [0, 7, 0, 9, 0]) if step == 10 else ([0, 1], None)
            observation, info = worlds.reset(seed=seeds, options=mask(count, *chosen))
            for index in chosen:
                twins.reset(index, seeds and seeds[index])
                experts[index] = task.expert(index)
            twins.assert_equal(observation, info)
        actions = np.stack([expert(row[1]["state"]) for expert, row in zip(experts, twins.rows, strict=True)])
        actions[4] *= 1.3  # also beyond the limits
        observation, *results, info = worlds.step(actions)
        for index, action in enumerate(actions):
            twins.step(index, action)
        twins.assert_equal(observation, info, *results)
        num_ended += results[1].sum()
    assert num_ended or name != "reach"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("reach_image", []),
        ("pick_place_image", RANDOMISED),
        ("stack", ["mass", "friction"]),
        *(pytest.param(name, RANDOMISED, marks=pytest.mark.slow) for name in IMAGES if "_arm" not in name),
    ],
)
def test_worlds_with_images_and_models_of_their_own_equal_environments(name, kinds):
    """Some begin again in the middle. A world that nobody looks at keeps its images."""
    task, count = randomised(load_task(name), kinds), 2
    worlds, twins = task.make_batch(count), Twins(task, count)
    assert isinstance(worlds, TableWorlds)
    expert = task.expert(0)
    observation, info = worlds.reset(seed=30)
    for index in range(count):
        twins.reset(index, 30 + index)
    twins.assert_equal(observation, info)
    for step in range(10):
        if step in (3, 6):
            seeds = [0, 7] if step == 3 else None
            observation, info = worlds.reset(seed=seeds, options=mask(count, 1))
            twins.reset(1, seeds and seeds[1])
            twins.assert_equal(observation, info)
        actions = np.stack([expert(row[1]["state"]) for row in twins.rows])
        observation, *results, info = worlds.step(actions)
        for index, action in enumerate(actions):
            twins.step(index, action)
        twins.assert_equal(observation, info, *results)
    for env in (worlds, *twins.envs):
        env.close()


def test_only_worlds_that_are_looked_at_are_drawn():
    task = load_task("reach_image")
    worlds, env = task.make_batch(2), task.make()
    before, _ = worlds.reset(seed=4)
    env.reset(seed=5)
    worlds.is_looked_at[0] = False
    for _ in range(2):
        after = worlds.step(np.zeros((2, 5)))[0]
        expected = env.step(np.zeros(5))[0]
    for name in ("scene", "wrist"):
        assert np.array_equal(after[name][0], before[name][0])
        assert np.array_equal(after[name][1], expected[name])
        assert not np.array_equal(after[name][1], before[name][1])
    worlds.close()
    env.close()


def test_worlds_that_are_disturbed_in_every_step_are_no_batch():
    assert disturbed(load_task("stack"), "push", 1.0).make_batch is None
    assert disturbed(disturbed(load_task("stack"), "push", 1.0), "mass", 0.5).make_batch is None


class Unlit(Reach):
    """A task whose images cannot be drawn after its reset."""

    def images(self, poses, model=None):
        raise OSError("no light")


def test_a_world_whose_image_fails_is_reported():
    worlds = table_worlds(partial(Unlit, specification=load_task("reach_image").specification), 2)
    worlds.reset(seed=0)
    worlds.is_looked_at[0] = False
    *_, truncated, info = worlds.step(np.zeros((2, 5)))
    assert [type(error) for error in info["error"]] == [type(None), OSError]
    assert truncated.tolist() == [False, True]
    worlds.close()


def test_some_worlds_advance_alone(make_worlds):
    task = load_task("sort")
    worlds, twins = make_worlds(task, 4), Twins(task, 4)
    rows = {}
    worlds.reset(seed=0)
    for index in range(4):
        twins.reset(index, index)
    for ids in ([0, 2], [1, 2, 3], [2]):
        actions = np.stack([task.expert(index)(twins.rows[index][1]["state"]) for index in ids])
        observation, *results, info = worlds.advance(np.array(ids), actions)
        for row, index in enumerate(ids):
            twins.step(index, actions[row])
            rows[index] = observation["offset"][row], info["score"][row], results[0][row]
    for index, (offset, score, reward) in rows.items():
        assert np.array_equal(offset, twins.rows[index][0]["offset"])
        assert (score, reward) == (twins.rows[index][1]["score"], twins.rows[index][2])


def test_worlds_are_a_vector_environment_of_gymnasium(make_worlds):
    worlds = make_worlds(load_task("reach"), 3)
    assert isinstance(worlds, gymnasium.vector.VectorEnv)
    assert worlds.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.DISABLED
    observation, _ = worlds.reset(seed=0)
    assert observation in worlds.observation_space
    assert worlds.single_action_space == load_task("reach").make().action_space
    recorded = gymnasium.wrappers.vector.RecordEpisodeStatistics(worlds)
    recorded.reset(seed=0)
    for _ in range(100):
        *_, truncated, info = recorded.step(np.zeros((3, 5), np.float32))
    assert truncated.all()
    assert info["episode"]["l"].tolist() == [100, 100, 100]
    worlds.close()


def test_what_was_returned_stays(make_worlds):
    worlds = make_worlds(load_task("reach"), 3)
    first, _ = worlds.reset(seed=0)
    before = bits(first)
    again, info = worlds.reset(seed=5, options=mask(3, 1))
    for values in (again["gripper"], info["score"]):
        values[:] = 7
    latest, info = worlds.reset(seed=5, options=mask(3, 1))
    assert latest["gripper"].max() < 7 > info["score"].max()
    assert bits(first) == before
    assert np.array_equal(latest["gripper"][[0, 2]], first["gripper"][[0, 2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": [1, 2]}, "each of the 3 worlds, got 2"),
        ({"options": {"reset_mask": np.zeros(3, bool)}}, "at least one .*got "),
        ({"options": {"reset_mask": np.ones(2, bool)}}, "3 booleans"),
        ({"options": {"reset_mask": np.ones(3)}}, "3 booleans"),
        ({"options": {"state": {}}}, r"'reset_mask', got \['state'\]"),
    ],
)
def test_a_reset_that_cannot_be_is_refused(options, message):
    worlds = load_task("reach").make_batch(3)
    with pytest.raises(ValueError, match=message):
        worlds.reset(**options)


@pytest.mark.parametrize("actions", [np.zeros(5), np.zeros((3, 4)), np.full((3, 5), np.nan)])
def test_actions_of_another_kind_are_refused(actions, make_worlds):
    worlds = make_worlds(load_task("reach"), 3)
    worlds.reset(seed=0)
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        worlds.step(actions)


def test_worlds_need_a_reset_and_there_must_be_one(make_worlds):
    with pytest.raises(ValueError, match="at least 1 world, got 0"):
        make_worlds(load_task("reach"), 0)
    worlds = make_worlds(load_task("reach"), 2)
    worlds.reset(seed=0, options=mask(2, 1))
    with pytest.raises(gymnasium.error.ResetNeeded):
        worlds.step(np.zeros((2, 5)))


def speed_up(worlds, index):
    """Make a world diverge in the next step."""
    if isinstance(worlds, LoopedWorlds):
        worlds.envs[index]._data.qvel[0] = 1e12
    else:
        worlds._batch.bind("qvel")[index, 0] = 1e12


def test_a_world_that_diverges_is_reported_until_its_reset(make_worlds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo leaves a log file
    task, hold = load_task("pick_place"), np.tile(np.float32([-0.15, 0, 0.08, 0, 0.08]), (3, 1))
    worlds, alone = make_worlds(task, 3), task.make()
    worlds.reset(seed=0)
    alone.reset(seed=2)
    worlds.step(hold)
    alone.step(hold[0])
    speed_up(worlds, 1)
    for _ in range(2):
        observation, reward, terminated, truncated, info = worlds.step(hold)
        expected = alone.step(hold[0])
        assert isinstance(info["error"][1], FloatingPointError)
        assert "step 2 (mjWARN_BADQVEL)" in str(info["error"][1])
        assert (info["success"][1], info["score"][1], reward[1]) == (False, 0.0, 0.0)
        assert (truncated.tolist(), terminated.any()) == ([False, True, False], False)
        assert info["error"][2] is None
        assert observation["offset"][2].tobytes() == expected[0]["offset"].tobytes()
    alone.reset(seed=8)
    observation, info = worlds.reset(seed=7, options=mask(3, 1))
    assert info["error"].tolist() == [None] * 3
    observation = worlds.step(hold)[0]
    assert observation["offset"][1].tobytes() == alone.step(hold[0])[0]["offset"].tobytes()


class Undrawable(Reach):
    """A task in which nothing can be drawn from one seed."""

    def draw(self, random):
        drawn = super().draw(random)
        if self.np_random_seed == 1:
            raise ArithmeticError("there is no room")
        return drawn


@pytest.mark.parametrize("make", [partial(table_worlds, Undrawable), partial(LoopedWorlds, Undrawable, Reach.streams)])
def test_a_world_whose_reset_fails_is_reported(make):
    worlds = make(3)
    _, info = worlds.reset(seed=10)
    for reported in (worlds.reset(seed=0)[1], worlds.step(np.zeros((3, 5)))[-1]):
        assert [type(error) for error in reported["error"]] == [type(None), ArithmeticError, type(None)]
        assert not reported["success"][1]
        assert reported["score"][1] == 0
    assert worlds.reset(seed=10)[1]["score"].tolist() == info["score"].tolist()


class Failing:
    """A batch in which MuJoCo raises an error in one simulation."""

    def __init__(self, batch, index):
        self.batch, self.status, self.error = batch, np.arange(batch.nsim) == index, "out of memory: {}".format

    def __getattr__(self, name):
        return getattr(self.batch, name)

    def step(self, ids, nstep):
        self.batch.step(ids[~self.status[ids]], nstep=nstep)
        if self.status[ids].any() or not len(ids):
            raise RuntimeError("MuJoCo raised")


def test_an_error_of_mujoco_is_that_of_its_world():
    worlds = load_task("reach").make_batch(3)
    worlds.reset(seed=0)
    before = worlds.step(np.zeros((3, 5)))
    worlds._batch = Failing(worlds._batch, 1)
    after = worlds.step(np.ones((3, 5)))
    assert [str(error) for error in after[-1]["error"]] == ["None", "out of memory: 1", "None"]
    assert isinstance(after[-1]["error"][1], mujoco.FatalError)
    moved = (after[0]["gripper"] != before[0]["gripper"]).any(1)
    assert moved.tolist() == [True, False, True]
    with pytest.raises(RuntimeError, match="MuJoCo raised"):  # not of a world
        worlds.advance(np.arange(0), np.zeros((0, 5)))


def test_without_a_batch_environments_are_stepped_one_by_one_which_is_said_once(monkeypatch, recwarn):
    monkeypatch.setitem(sys.modules, "mujoco.batch", None)  # as with MuJoCo 3
    physics._say_that_there_is_no_batch.cache_clear()
    task = load_task("reach")
    with pytest.warns(UserWarning, match=rf"{mujoco.__version__} .*install mujoco 4"):
        worlds = task.make_batch(2)
    assert isinstance(worlds, LoopedWorlds)
    assert isinstance(task.make_batch(2), LoopedWorlds)
    assert not recwarn.list


def test_worlds_are_stepped_by_the_processors_that_this_process_may_use():
    many, one = (load_task("reach").make_batch(count) for count in (64, 1))
    assert isinstance(many, TableWorlds)
    assert (many._batch.nthread, one._batch.nthread) == (min(64, physics.num_processors()), 1)


# --- check_task


class Uneven(LoopedWorlds):
    """Worlds with a fault of one kind from the second step of one seed on."""

    def __init__(self, kind, count):
        super().__init__(toys.Reach, toys.SPECIFICATION, count)
        self.kind = kind

    def advance(self, ids, actions):
        observation, rewards, terminated, truncated, info = super().advance(ids, actions)
        for row, index in enumerate(ids):
            if self.envs[index].np_random_seed == 4 and self.envs[index].num_steps == 2:
                self.damage(row, observation, rewards, info)
        return observation, rewards, terminated, truncated, info

    def damage(self, row, observation, rewards, info):
        if self.kind == "stream":
            observation["target"][row] = np.nextafter(observation["target"][row], 1)
        if self.kind == "reward":
            rewards[row] += 1e-16
        if self.kind == "score":
            info["score"][row] = 0.5
        if self.kind == "error":
            info["error"][row] = ArithmeticError("nothing")
        if self.kind == "info":
            del info["error"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("stream", r"'target' is \[.*\] and not \[.*\] for seed 4 in step 2: "),
        ("reward", r"'reward' is 1e-16 and not 0.0 for seed 4 in step 2"),
        ("score", "'score' is 0.5 and not 0.* for seed 4 in step 2"),
        ("error", "failed for seed 4 in step 2"),
        ("info", r"must hold \['error'\]"),
    ],
)
def test_a_world_that_differs_from_its_environment_is_named(kind, message):
    with pytest.raises(ValueError, match=message):
        check_task(replace(toys.REACH, make_batch=partial(Uneven, kind)))


def test_worlds_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"must return recede.envs.vector.Worlds, got str"):
        check_task(replace(toys.REACH, make_batch=str))
    whole = partial(LoopedWorlds, toys.Reach, toys.SPECIFICATION)
    assert "3 worlds equal as many environments" in check_task(replace(toys.REACH, make_batch=whole))
