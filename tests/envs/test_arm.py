"""The arm: where its hand is, what its inverse kinematics bear, and how its experts recover."""

import copy
import pickle
import sys
from functools import partial

import experts
import numpy as np
import pytest
from recede.envs.arm import AHEAD, HIGH, JOINTS, LOW, POSE_KINDS, SPEED, Arm, Foot
from recede.envs.arm_kinematics import forward, inverse
from recede.envs.catalogue import load_task
from recede.envs.experts.gantry import OPEN
from recede.envs.physics import mujoco
from recede.envs.tabletop import cube_at
from recede.policy.rotations import to_matrix
from scipy.spatial.transform import Rotation

LIMITS = np.array([LOW, HIGH])[:, :6]
BESIDE = {"cube": cube_at((-0.09, 0.0), 0.2), "target": np.array([0.09, 0.0])}
"""Where cube and target may be in `pick_place_arm`."""


def drawn_joints(count):
    return np.random.default_rng(0).uniform(*LIMITS, (count, 6))


def drawn_poses(count):
    """Poses (count, 6) within reach, from the foot of the arm."""
    return np.random.default_rng(0).uniform(
        (0.2, -0.1, 0.02, -0.8, -0.3, -0.3), (0.3, 0.1, 0.1, 0.8, 0.3, 0.3), (count, 6)
    )


def solver():
    pytest.importorskip("mink", reason="an arm that is commanded by poses needs the extra 'arm_ik'")
    from recede.envs.inverse_kinematics import PoseSolver

    return PoseSolver(speed=SPEED, duration=0.1)


# --- kinematics


def test_the_closed_form_is_where_the_model_has_the_hand():
    model = load_task("reach_arm_joints").make()._model
    data, foot = mujoco.MjData(model), Arm.feet["arm_"]
    for joints in drawn_joints(20):
        data.qpos[:6] = joints
        mujoco.mj_kinematics(model, data)
        position, (yaw, pitch, roll) = forward(joints)
        np.testing.assert_allclose(data.body("arm_hand").xpos, foot.outside(position), atol=1e-12)
        axes = data.body("arm_hand").xmat.reshape(3, 3) * np.array([[foot.forward[0]], [foot.forward[0]], [1]])
        cosine, sine = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
        about_z = np.array([[cosine[0], -sine[0], 0], [sine[0], cosine[0], 0], [0, 0, 1]])
        about_y = np.array([[cosine[1], 0, sine[1]], [0, 1, 0], [-sine[1], 0, cosine[1]]])
        about_x = np.array([[1, 0, 0], [0, cosine[2], -sine[2]], [0, sine[2], cosine[2]]])
        np.testing.assert_allclose(axes, about_y @ about_x @ about_z, atol=1e-12)


def test_the_limits_are_those_of_the_model():
    model = load_task("reach_arm_joints").make()._model
    assert [model.joint(index).name for index in range(6)] == [f"arm_{name}" for name in JOINTS]
    np.testing.assert_array_equal(model.jnt_range[:6].T, LIMITS)
    assert 2 * model.jnt_range[6, 1] == HIGH[6]


def test_the_inverse_brings_the_hand_to_its_pose():
    poses = drawn_poses(200).reshape(2, 100, 6)
    position, orientation = forward(inverse(poses[..., :3], poses[..., 3:]))
    np.testing.assert_allclose(np.concatenate([position, orientation], axis=-1), poses, atol=1e-12)


def test_the_declared_kind_is_the_orientation_of_the_hand():
    """A turn of the whole arm about z turns the hand by just this turn, as the kind of the stream says."""
    joints = drawn_joints(100)
    turned = joints + np.array([0.3, 0, 0, 0, 0, 0])
    before, after = (to_matrix(POSE_KINDS[3], forward(q)[1]) for q in (joints, turned))
    np.testing.assert_allclose(after, Rotation.from_euler("z", 0.3).as_matrix() @ before, atol=1e-12)


def test_an_arm_points_to_what_is_out_of_reach():
    joints = inverse(np.array([[1.0, 1.0, 0.1], [0.0, 0.0, 0.04]]), np.zeros((2, 3)))
    assert np.isfinite(joints).all()
    assert joints[0, 0] == pytest.approx(np.pi / 4)
    assert joints[:, 2].tolist() == pytest.approx([0.0, np.pi])


@pytest.mark.parametrize("forward_axis", [(1, 0), (0, 1), (-1, 0), (0, -1)])
def test_an_arm_may_face_any_side(forward_axis):
    foot, ahead = Foot(0.1, 0.2, forward_axis), np.array([0.25, 0.0, 0.1])
    np.testing.assert_allclose(foot.outside(ahead), [*(0.1, 0.2) + 0.25 * np.array(forward_axis), 0.1], atol=1e-12)
    np.testing.assert_allclose(foot.inside(foot.outside(ahead)), ahead, atol=1e-12)
    pose = np.array([*foot.outside(ahead), 0.3, -0.1, 0.2, 0.05])
    np.testing.assert_allclose(foot.pose(foot.joints(pose)), pose, atol=1e-12)


# --- poses by mink


def test_a_pose_nearby_is_solved_as_in_closed_form():
    solved, random = solver(), np.random.default_rng(1)
    for pose in drawn_poses(20):
        start = inverse(pose[:3], pose[3:]) + random.uniform(-0.04, 0.04, 6)
        np.testing.assert_allclose(solved.solve(start, pose), inverse(pose[:3], pose[3:]), atol=2e-3)


@pytest.mark.parametrize(
    "pose",
    [
        (3.0, 0.0, 0.1, 0, 0, 0),  # far out of reach
        (-1.0, 0.2, -2.0, 0, 0, 0),
        (0.0, 0.0, 0.04, 0, 0, 0),  # on the axis of the shoulder
        (0.25, 0.0, 0.1, 3.1, 3.1, 0),  # a hand that points up
        (0.25, 0.0, 0.1, 0, 0, np.pi / 2),  # beyond the range of the wrist
    ],
)
def test_no_pose_makes_the_joints_leave_their_limits_or_speed(pose):
    solved, joints = solver(), inverse(np.array([0.25, 0.05, 0.1]), np.zeros(3))
    for _ in range(60):
        before, joints = joints, solved.solve(joints, np.array(pose, float))
        assert np.all(np.abs(joints - before) <= AHEAD + 1e-6)
        assert np.all((joints >= LIMITS[0] - 1e-6) & (joints <= LIMITS[1] + 1e-6))
    assert np.abs(joints - before).max() < 0.02  # it has come to rest


def test_an_arm_out_of_reach_stretches_towards_the_pose():
    solved, joints = solver(), inverse(np.array([0.25, 0.0, 0.1]), np.zeros(3))
    for _ in range(60):
        joints = solved.solve(joints, np.array([0.2, 1.0, 0.2, 0, 0, 0]))
    position, _ = forward(joints)
    assert np.arctan2(position[1], position[0]) == pytest.approx(np.arctan2(1.0, 0.2), abs=0.05)
    assert np.hypot(*position[:2]) > 0.4


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_solver_remembers_nothing(copied):
    solved, pose = solver(), drawn_poses(1)[0]
    first = solved.solve(inverse(pose[:3], pose[3:]), pose + 0.02)
    solved.solve(np.zeros(6), -pose)
    for twin in (solved, copied(solved)):
        np.testing.assert_array_equal(twin.solve(inverse(pose[:3], pose[3:]), pose + 0.02), first)


def test_poses_without_mink_are_refused_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mink", None)
    with pytest.raises(ImportError, match=r"needs mink.*recede\[arm_ik\]"):
        load_task("reach_arm").make()
    load_task("reach_arm_joints").make().reset(seed=0)


# --- commands


@pytest.mark.parametrize("far", [LOW, HIGH])
def test_a_far_target_moves_the_joints_at_their_speed(far):
    env = load_task("reach_arm_joints").make()
    env.reset(seed=0)
    for _ in range(10):
        env.step(np.array(far, np.float32))
        assert np.abs(env._data.qvel[:6]).max() < 1.5 * SPEED


def test_the_mirror_turns_the_joints_about_upright_axes():
    mirror = load_task("pick_place_arm_joints").mirror
    assert mirror["joints"](np.ones((1, 7)))[0].tolist() == [-1, 1, 1, 1, -1, -1, 1]
    assert mirror["gripper"](np.ones((1, 7)))[0].tolist() == [1, -1, 1, -1, 1, -1, 1]
    assert mirror["cube"](np.ones((1, 5)))[0].tolist() == [1, -1, 1, 1, -1]


# --- experts


def begin(name, pose, **state):
    env = load_task(name).make()
    return env, env.reset(options={"state": {**Arm.at(pose), **state}})[1]


finish = partial(experts.finish, fingers=6, opening=OPEN)


def test_the_expert_takes_the_cube_round_either_end_of_the_wall():
    sides = set()
    for seed in range(6):
        env, info = begin("pick_place_arm_joints", (-0.09, 0, 0.08, 0, OPEN), **BESIDE)
        states, info = finish("pick_place_arm_joints", env, info, seed=seed)
        assert info["success"], seed
        path = np.array([state["cube"][:3] for state in states])
        sides.add(np.sign(np.interp(0.0, path[:, 0], path[:, 1])))
        assert path[:, 2].max() < 0.12  # it is not lifted over the wall
    assert sides == {-1, 1}


@pytest.mark.parametrize("seed", range(3))
def test_the_expert_takes_a_cube_again_that_fell(seed):
    env, info = begin("pick_place_arm_joints", (-0.09, 0, 0.08, 0, OPEN), **BESIDE)
    states, info = finish("pick_place_arm_joints", env, info, seed=seed, drop=range(12, 17))
    assert info["success"]
    assert max(state["cube"][2] for state in states[:14]) > 0.04 > states[17]["cube"][2] + 0.01
