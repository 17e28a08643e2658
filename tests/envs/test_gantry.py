"""The tasks of the gantry gripper: what they share, when each is solved, and how its expert recovers."""

from collections import Counter
from functools import partial

import experts
import numpy as np
import pytest
from recede.envs.catalogue import load_task
from recede.envs.experts.gantry import OPEN, bowed, facing
from recede.envs.experts.push_t import LENGTHS, PushTExpert
from recede.envs.tabletop import cube_at, draw_apart
from recede.envs.tasks.sort import GOALS

HIGH = (0.0, 0.0, 0.1, 0.0, OPEN)
"""A gripper that is out of the way of everything."""


def begin(name, **state):
    """An environment that begins in a state, and its first info."""
    env = load_task(name).make()
    state = {key: np.asarray(value, np.float32) for key, value in ({"gripper": HIGH} | state).items()}
    return env, env.reset(options={"state": state})[1]


finish = partial(experts.finish, fingers=4, opening=OPEN)


# --- what they share


def steps_of(env, expert, *, seed):
    """Positions, marks, velocities and the whole way in every step of an episode, with its state and info."""
    _, info = env.reset(seed=seed)
    rows, is_over = [], False
    while True:
        data = env._data
        rows.append([data.qpos.copy(), data.mocap_pos.copy(), data.qvel.copy(), env._whole, info["state"], info])
        if is_over:
            return rows
        _, _, terminated, truncated, info = env.step(expert(info["state"]))
        is_over = terminated or truncated


@pytest.mark.parametrize("name", ["drawer", "peg_insertion", "pick_place", "push_t", "reach", "sort", "stack"])
def test_many_worlds_are_read_and_judged_to_the_bit_as_each_alone(name):
    task = load_task(name)
    env = task.make()
    rows = [row for seed in range(3) for row in steps_of(env, task.expert(seed), seed=seed)]
    rows = rows[len(rows) % 2 :]
    shape = (len(rows) // 2, 2)  # two leading axes
    positions, marks, velocities, whole = (
        np.stack([row[index] for row in rows]).reshape(*shape, *np.shape(rows[0][index])) for index in range(4)
    )
    fixed = {name: np.stack([row[4][name] for row in rows]).reshape(*shape, -1) for name in env._fixed}
    state = env.read(positions, marks, fixed)
    success, score = env.judge(state, velocities, whole)
    assert (success.shape, score.shape) == (shape, shape)
    assert set(state) == {stream.name for stream in task.specification.observations}
    for place, row in zip(np.ndindex(shape), rows, strict=True):
        assert {name: value[place].tobytes() for name, value in state.items()} == {
            name: value.tobytes() for name, value in row[4].items()
        }
        assert (success[place], score[place]) == (row[5]["success"], row[5]["score"])
    assert {row[5]["success"] for row in rows} == {False, True}


def test_the_offset_points_from_the_gripper_to_everything():
    env, info = begin("sort", **sorting("orange", "red", orange=(-0.1, 0.05), blue=(-0.15, -0.1)))
    offset = dict(zip(env.streams.observations[-1].labels, info["state"]["offset"], strict=True))
    assert offset["orange_x"] == pytest.approx(-0.1 - HIGH[0])
    assert offset["blue_z"] == pytest.approx(0.02 - HIGH[2])
    assert offset["red_y"] == pytest.approx(-0.1 - HIGH[1])
    assert "teal_z" not in offset


def test_the_opening_is_the_way_of_both_fingers():
    env, info = begin("reach", target=(0, 0, 0.05))
    assert info["state"]["gripper"][4] == pytest.approx(OPEN)
    env._data.qpos[env._robot._place[4:]] = (0.01, 0.025)
    assert env._state()["gripper"][4] == pytest.approx(0.035)


def test_drawn_points_are_apart():
    random = np.random.default_rng(0)
    for _ in range(50):
        points = draw_apart(random, (-0.1, -0.2), (0.1, 0.2), gap=0.15, count=3)
        steps = np.linalg.norm(points[:, None] - points, axis=-1)[np.triu_indices(3, 1)]
        assert steps.min() >= 0.15
        assert np.all(np.abs(points) <= (0.1, 0.2))


def test_a_hand_takes_the_faces_that_nothing_stands_beside():
    cube = cube_at((0.0, 0.0), 0.6)
    assert facing(cube, 0.5) == pytest.approx(0.6)
    assert facing(cube, -0.5) == pytest.approx(0.6 - np.pi / 2)
    beside = cube_at((-0.05 * np.sin(0.6), 0.05 * np.cos(0.6)), 0.6)  # where a finger would come down
    assert facing(cube, 0.5, [beside]) == pytest.approx(0.6 - np.pi / 2)
    assert facing(cube_at((0, 0), 0.1), 0.9, [cube_at((0, 0.05), 0.1)]) == pytest.approx(0.1)  # it turns no further


def test_a_bow_leaves_the_straight_way_and_ends_at_its_goal():
    position, goal = np.array([0.0, 0.0]), np.array([0.3, 0.0])
    np.testing.assert_allclose(bowed(position, goal, 0.5), 0.3 * np.array([np.cos(0.5), np.sin(0.5)]))
    np.testing.assert_allclose(bowed(goal - 1e-4, goal, 0.5), goal, atol=1e-6)


# --- reach


@pytest.mark.parametrize(("gap", "is_success"), [(0.009, True), (0.011, False)])
def test_success_is_a_gripper_that_stands_in_the_ball(gap, is_success):
    target = (0.1, 0.05, 0.06)
    env, info = begin("reach", gripper=(0.1, 0.05, 0.06 - gap, 0, 0), target=target)
    assert info["success"] == is_success
    assert env.step([0.1, 0.05, 0.06 - gap, 0, 0])[2] == is_success


def test_a_gripper_that_flies_through_the_ball_is_no_success():
    env, info = begin("reach", gripper=(0.1, 0, 0.06, 0, 0), target=(0.1, 0, 0.06))
    for axis in env._robot._speeds[:3]:
        for speed in (0.019, 0.021):
            velocities = np.zeros(env._model.nv)
            velocities[axis] = -speed
            assert env.is_solved(info["state"], velocities) == (speed < 0.02)


def test_the_expert_of_reach_takes_three_ways():
    ends = {"gripper": (-0.15, 0.0, 0.03, 0, 0), "target": (0.15, 0.0, 0.1)}
    middles = {}
    for seed in range(12):
        env, info = begin("reach", **ends)
        states, info = finish("reach", env, info, seed=seed)
        assert info["success"], seed
        path = np.array([state["gripper"][:3] for state in states])
        middles[load_task("reach").expert(seed)._way] = np.interp(0.0, path[:, 0], path[:, 2])
    assert middles["across first"] < 0.05 < middles["straight"] < 0.08 < middles["height first"]


# --- stack


def stacked(*, offset=0.0, height=0.06):
    return {"cube": [*cube_at((0.1 + offset, 0.0), 0.3)[:2], height, 1, 0], "base": cube_at((0.1, 0.0), 0.0)}


@pytest.mark.parametrize(
    ("offset", "height", "gripper_height", "is_success"),
    [
        (0.0, 0.06, 0.105, True),
        (0.014, 0.06, 0.105, True),
        (0.016, 0.06, 0.105, False),  # too near to the edge
        (0.0, 0.06, 0.095, False),  # the fingers are still around it
        (0.0, 0.064, 0.105, False),  # in the air
        (0.05, 0.02, 0.105, False),  # beside the base
    ],
)
def test_success_is_a_cube_at_rest_on_the_other(offset, height, gripper_height, is_success):
    gripper = (0.1, 0, gripper_height, 0, OPEN)
    env, info = begin("stack", gripper=gripper, **stacked(offset=offset, height=height))
    assert info["success"] == is_success
    assert not is_success or env.step(gripper)[2]


def test_a_stack_in_the_air_is_no_success():
    state = stacked(height=0.07)
    state["base"][2] = 0.03
    _, info = begin("stack", gripper=(0.1, 0, 0.105, 0, OPEN), **state)
    assert not info["success"]


def test_a_stack_that_moves_is_no_success():
    env, info = begin("stack", gripper=(0.1, 0, 0.105, 0, OPEN), **stacked())
    assert info["success"]
    for cube in (0, 6):
        velocities = np.zeros(env._model.nv)
        velocities[env._cube_velocity[cube]] = 0.02
        assert not env.is_solved(info["state"], velocities)


@pytest.mark.parametrize("seed", range(4))
def test_the_expert_of_stack_takes_a_cube_again_that_fell_or_leans_out(seed):
    env = load_task("stack").make()
    _, info = env.reset(seed=seed)
    states, info = finish("stack", env, info, seed=seed, drop=range(22, 28))
    assert info["success"]
    assert min(state["cube"][2] for state in states[24:32]) < 0.03
    env, info = begin("stack", gripper=(-0.1, 0, 0.1, 0, OPEN), **stacked(offset=0.016))
    assert finish("stack", env, info, seed=seed)[1]["success"]


# --- sort


def sorting(cube, mark, *, orange=(-0.15, 0.08), blue=(-0.15, -0.08)):
    goal = np.eye(4)[GOALS.index((cube, mark))]
    marks = {"teal": (0.14, 0.1), "red": (0.14, -0.1)}
    return {"orange": cube_at(orange, 0.0), "blue": cube_at(blue, 0.0), "goal": goal, **marks}


@pytest.mark.parametrize(
    ("cube", "mark", "offset", "is_success"),
    [
        ("orange", "teal", 0.029, True),
        ("orange", "teal", 0.031, False),  # beside the middle
        ("orange", "red", 0.0, False),  # another mark
        ("blue", "teal", 0.0, False),  # another cube
    ],
)
def test_success_is_the_named_cube_on_the_named_mark(cube, mark, offset, is_success):
    env, info = begin("sort", **sorting(cube, mark, orange=(0.14, 0.1 + offset)))
    assert info["success"] == is_success
    assert info["sentence"] == f"put the {cube} cube onto the {mark} mark"
    assert env.step(HIGH)[2] == is_success
    raised = np.array([0.14, 0.1, 0.03, 1, 0])
    for change in ({"gripper": (0.14, 0.1, 0.05, 0, OPEN)}, {"orange": raised, "blue": raised}):
        assert not env.reset(options={"state": {**info["state"], **change}})[1]["success"]


@pytest.mark.parametrize(("cube", "index"), [("orange", 0), ("blue", 1)])
def test_only_the_named_cube_must_rest(cube, index):
    env, info = begin("sort", **sorting(cube, "red", **{cube: (0.14, -0.1)}))
    for moving in range(2):
        velocities = np.zeros(env._model.nv)
        velocities[env._cube_velocity[6 * moving]] = 0.02
        assert env.is_solved(info["state"], velocities) == (moving != index)


def test_every_goal_is_drawn_and_done():
    env, counts = load_task("sort").make(), Counter()
    for seed in range(200):
        observation, info = env.reset(seed=seed)
        assert observation["goal"].sum() == 1
        counts[int(observation["goal"].argmax())] += 1
        cube, mark = GOALS[int(observation["goal"].argmax())]
        assert cube in info["sentence"]
        assert mark in info["sentence"]
    assert len(counts) == 4
    assert max(counts.values()) - min(counts.values()) < 4 * np.sqrt(200 / 4)
    for cube, mark in GOALS:
        env, info = begin("sort", **sorting(cube, mark))
        states, info = finish("sort", env, info)
        assert info["success"], (cube, mark)
        other = "blue" if cube == "orange" else "orange"
        assert np.hypot(*(states[-1][other] - states[0][other])[:2]) < 5e-3


@pytest.mark.parametrize("seed", range(3))
def test_the_expert_of_sort_takes_a_cube_again_that_fell(seed):
    env = load_task("sort").make()
    _, info = env.reset(seed=seed)
    assert finish("sort", env, info, seed=seed, drop=range(25, 31))[1]["success"]


# --- push_t


def pushed(x=0.0, y=0.0, *, degrees=0.0, height=0.0125):
    """A state in which the block is off the mark by x, y (m) and a turn."""
    yaw = np.deg2rad(degrees)
    return {"block": (0.05 + x, y, height, np.cos(yaw), np.sin(yaw)), "target": (0.05, 0.0)}


@pytest.mark.parametrize(
    ("change", "gripper_height", "is_success"),
    [
        ({"x": 0.009, "degrees": 7.5}, 0.065, True),
        ({"y": -0.009, "degrees": -7.5}, 0.065, True),
        ({"x": 0.011}, 0.065, False),
        ({"degrees": 8.5}, 0.065, False),
        ({"degrees": -90}, 0.065, False),  # a block looks the same only after a full turn
        ({"height": 0.0165}, 0.065, False),  # in the air
        ({}, 0.055, False),  # the fingertips have not withdrawn
    ],
)
def test_success_is_a_block_that_rests_on_the_mark_and_is_turned_like_it(change, gripper_height, is_success):
    gripper = (0.15, 0.15, gripper_height, 0, 0)
    env, info = begin("push_t", gripper=gripper, **pushed(**change))
    assert info["success"] == is_success
    assert not is_success or env.step(gripper)[2]
    velocities = np.zeros(env._model.nv)
    velocities[env._cube_velocity[0]] = 0.02
    assert not env.is_solved(info["state"], velocities)


def test_the_way_of_a_block_is_its_distance_and_its_turn():
    env, info = begin("push_t", **pushed(0.03, 0.04, degrees=-90))
    assert env.remaining(info["state"]) == pytest.approx(0.05 + 0.05 * np.pi / 2)


def test_a_push_through_the_middle_moves_the_block_straight_and_one_beside_it_turns_it():
    expert = PushTExpert(0)
    forward = np.array([[1.0, 0.0]])
    middle = expert._gains(np.array([[-0.073, 0.0]]), forward, np.array([-0.1, 0.0]), 0.0)
    np.testing.assert_allclose(middle[0], LENGTHS)
    far = np.array([[-0.073, 1e6]])  # so far from the middle that the block turns about it
    np.testing.assert_allclose(expert._gains(far, forward, np.array([-0.1, 0.0]), 0.0), 0, atol=1e-6)
    left, right, mirrored = (
        expert._gains(np.array([[-0.073, y]]), forward, np.array([-0.1, 0.0]), yaw)[0, -1]
        for y, yaw in ((0.03, 0.5), (-0.03, 0.5), (-0.03, -0.5))
    )
    assert left > right  # a push on the left turns it to the right, which a yaw of 0.5 needs
    assert left == pytest.approx(mirrored)


def test_the_expert_of_push_t_never_lifts_the_block_and_pushes_again_what_was_moved_away():
    firsts = set()
    for seed in range(3):
        env, info = begin("push_t", gripper=(0, 0, 0.08, 0, 0), **pushed(-0.15, 0.05, degrees=100))
        states, info = finish("push_t", env, info, seed=seed)
        assert info["success"], seed
        assert max(state["block"][2] for state in states) < 0.0155
        start = next(s for s in states if s["gripper"][2] < 0.025)
        firsts.add(tuple(np.round((start["gripper"] - start["block"])[:2], 2)))
        state = {**info["state"], "gripper": (*info["state"]["gripper"][:2], 0.05, 0, 0)}
        state["block"] = state["block"] + np.array([0.02, -0.03, 0, 0, 0])
        assert finish("push_t", *begin("push_t", **state), seed=seed)[1]["success"], seed
    assert len(firsts) > 1


# --- drawer


def stored(x=0.05, y=0.0, *, opening=0.0, height=0.026):
    """A state in which the cube is in the drawer, at x, y (m) from its front."""
    return {
        "cube": [*cube_at((0.1 - opening + x, y), 0.0)[:2], height, 1, 0],
        "drawer": [opening],
        "cabinet": (0.1, 0.0),
    }


@pytest.mark.parametrize(
    ("change", "gripper_height", "is_success"),
    [
        ({}, 0.065, True),
        ({"x": 0.025, "y": 0.035, "opening": 0.004}, 0.065, True),
        ({"opening": 0.006}, 0.065, False),
        ({"x": 0.015}, 0.065, False),  # in the front of the drawer
        ({"y": 0.045}, 0.065, False),  # in a wall
        ({"height": 0.031}, 0.065, False),  # in the air
        ({"x": -0.1, "height": 0.02}, 0.065, False),  # on the table
        ({}, 0.055, False),  # the fingertips have not withdrawn
    ],
)
def test_success_is_a_cube_at_rest_in_the_closed_drawer(change, gripper_height, is_success):
    gripper = (-0.1, 0.1, gripper_height, 0, 0)
    env, info = begin("drawer", gripper=gripper, **stored(**change))
    assert info["success"] == is_success
    assert not is_success or env.step(gripper)[2]
    velocities = np.zeros(env._model.nv)
    velocities[env._cube_velocity[0]] = 0.02
    assert not env.is_solved(info["state"], velocities)


@pytest.mark.parametrize("opening", [0.0, 0.04, 0.09])
def test_the_way_of_the_drawer_is_to_open_it_to_bring_the_cube_and_to_close_it(opening):
    state = stored(opening=opening)
    env, info = begin("drawer", **state)
    assert env.remaining(info["state"]) == pytest.approx(opening, abs=1e-6)
    middle = np.array([0.1 - 0.09 + 0.05, 0.0])
    env, info = begin("drawer", **{**state, "cube": cube_at(middle - (0.2, 0.0), 0.0)})
    assert info["state"]["drawer"] == pytest.approx(opening)
    assert env.remaining(info["state"]) == pytest.approx((0.09 - opening) + 0.2 + 0.09, abs=1e-6)


def test_the_expert_of_drawer_pinches_the_handle_or_hooks_behind_it():
    openings = {}
    for seed in range(6):
        env, info = begin("drawer", **{**stored(), "cube": cube_at((-0.15, 0.1), 0.0)})
        states, info = finish("drawer", env, info, seed=seed)
        assert info["success"], seed
        pull = next(state for state in states if state["drawer"][0] > 0.05)
        openings[load_task("drawer").expert(seed)._is_hook] = pull["gripper"][4]
    assert openings[True] < 0.005  # closed fingers
    assert openings[False] == pytest.approx(0.02, abs=0.004)  # around the post


@pytest.mark.parametrize("seed", range(2))
def test_the_expert_of_drawer_takes_a_cube_again_that_fell_and_opens_a_drawer_that_slid_back(seed):
    env = load_task("drawer").make()
    _, info = env.reset(seed=seed)
    assert finish("drawer", env, info, seed=seed, drop=range(50, 58))[1]["success"]
    carried = next(
        state for state in finish("drawer", env, env.reset(seed=seed)[1], seed=seed)[0] if state["cube"][2] > 0.06
    )
    env, info = begin("drawer", **{**carried, "drawer": [0.0]})
    assert finish("drawer", env, info, seed=seed)[1]["success"]


# --- peg_insertion


def inserted(x=0.0, y=0.0, *, height=0.04):
    """A state in which the peg is off the hole by x, y (m); height: of its centre (m)."""
    return {"peg": (0.1 + x, y, height, 1, 0), "hole": (0.1, 0.0)}


@pytest.mark.parametrize(
    ("change", "gripper_height", "is_success"),
    [
        ({}, 0.101, True),
        ({"height": 0.0415}, 0.101, True),
        ({"height": 0.0425}, 0.101, False),  # not deep enough
        ({"height": 0.07}, 0.101, False),  # on the rim
        ({"y": -0.1}, 0.101, False),  # beside the hole
        ({}, 0.099, False),  # the fingertips have not withdrawn
    ],
)
def test_success_is_a_peg_at_rest_in_the_hole(change, gripper_height, is_success):
    gripper = (-0.1, 0.1, gripper_height, 0, 0)
    env, info = begin("peg_insertion", gripper=gripper, **inserted(**change))
    assert info["success"] == is_success
    velocities = np.zeros(env._model.nv)
    velocities[env._cube_velocity[0]] = 0.02
    assert not env.is_solved(info["state"], velocities)


@pytest.mark.parametrize(
    ("x", "y", "degrees", "is_in"),
    [(0, 0, 0, True), (0.0004, -0.0004, 0, True), (0.0012, 0, 0, False), (0, -0.0012, 0, False), (0, 0, 5, False)],
)
def test_the_hole_is_a_millimetre_wider_than_the_peg(x, y, degrees, is_in):
    """A peg that is let go just above it drops into it only if it is aligned; else it tips over or stays on the rim."""
    turn = 4 * np.deg2rad(degrees)
    state = {"peg": (0.1 + x, y, 0.0705, np.cos(turn), np.sin(turn)), "hole": (0.1, 0.0)}
    env, _ = begin("peg_insertion", gripper=(-0.1, 0.1, 0.12, 0, 0), **state)
    for _ in range(10):
        *_, info = env.step((-0.1, 0.1, 0.12, 0, 0))
    assert info["success"] == is_in


def test_the_expert_of_peg_insertion_aligns_in_the_air_or_slides_over_the_rim():
    on_rim = {}
    for seed in range(6):
        env, info = begin("peg_insertion", peg=(-0.1, 0.05, 0.04, 1, 0), hole=(0.1, 0.0))
        states, info = finish("peg_insertion", env, info, seed=seed)
        assert info["success"], seed
        pegs = np.array([state["peg"] - (0.1, 0, 0.07, 0, 0) for state in states])
        slides = load_task("peg_insertion").expert(seed)._slides
        on_rim[slides] = np.any((np.abs(pegs[:, 2]) < 0.001) & (np.hypot(*pegs[:, :2].T) < 0.01))
    assert on_rim == {True: True, False: False}


@pytest.mark.parametrize("seed", range(3))
def test_the_expert_of_peg_insertion_takes_a_peg_again_that_fell_or_stands_on_the_rim(seed):
    env = load_task("peg_insertion").make()
    _, info = env.reset(seed=seed)
    states, info = finish("peg_insertion", env, info, seed=seed, drop=range(20, 26))
    assert info["success"]
    assert min(state["peg"][2] for state in states[26:32]) < 0.045
    state = {"gripper": (0.104, 0.003, 0.085, 0, OPEN), **inserted(0.004, 0.003, height=0.07)}
    assert finish("peg_insertion", *begin("peg_insertion", **state), seed=seed)[1]["success"]


@pytest.mark.parametrize("name", ["reach", "stack"])
def test_a_sparse_reward_is_one_on_success_alone(name):
    task = load_task(name)
    env, expert, rewards, is_over = task.make(reward="sparse"), task.expert(1), [], False
    _, info = env.reset(seed=1)
    while not is_over:
        _, reward, is_over, _, info = env.step(expert(info["state"]))
        rewards.append(reward)
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    with pytest.raises(ValueError, match="reward must be 'dense' or 'sparse', got 'sparce'"):
        task.make(reward="sparce")
