"""What tasks read and judge is the same for arrays of numpy and for tensors; nothing is simulated here."""

import numpy as np
import pytest
import torch
from recede.envs.catalogue import TASKS, load_task
from recede.evaluation.device_arrays import DeviceArray

ARMS = {name for name in TASKS if "_arm" in name and "joints" not in name}
STATES = [name for name in TASKS if not name.startswith("pusht") and not name.endswith("_image") and name not in ARMS]


def on_device(values):
    return DeviceArray(torch.tensor(values))


def visited(task):
    """Of all steps of an expert's episode: positions, marks, velocities, the streams that stay, and the way to go."""
    env, expert, is_over, rows = task.make(), task.expert(0), False, []
    _, info = env.reset(seed=0)
    fixed, whole = env.start(np.zeros(env.simulations(1).state.shape[1]))
    while not is_over:
        rows.append([np.copy(getattr(env._data, name)) for name in ("qpos", "mocap_pos", "qvel")])
        _, _, terminated, truncated, info = env.step(expert(info["state"]))
        is_over = terminated or truncated
    rows.append([getattr(env._data, name) for name in ("qpos", "mocap_pos", "qvel")])
    streams = {name: np.stack([values] * len(rows)) for name, values in fixed.items()}
    return env, *(np.stack(parts) for parts in zip(*rows, strict=True)), streams, np.full(len(rows), whole)


@pytest.mark.parametrize("name", STATES)
def test_every_task_reads_and_judges_tensors_as_arrays(name):
    """Of worlds on the whole way of an expert from a reset to its success."""
    env, positions, marks, velocities, fixed, whole = visited(load_task(name))
    state = env.read(positions, marks, fixed)
    success, score = env.judge(state, velocities, whole)
    assert success.tolist() == [False] * (len(success) - 1) + [True]
    assert len(np.unique(score)) > len(score) / 4
    there = env.read(on_device(positions), on_device(marks), {key: on_device(one) for key, one in fixed.items()})
    for key, values in state.items():
        np.testing.assert_allclose(there[key].tensor.numpy(), values, rtol=0, atol=1e-6)
    again = {key: on_device(values) for key, values in state.items()}
    judged = env.judge(again, on_device(velocities), on_device(whole))
    np.testing.assert_array_equal(judged[0].tensor.numpy(), success)
    np.testing.assert_allclose(judged[1].tensor.numpy(), score, rtol=0, atol=1e-6)
    actions = np.random.default_rng(0).uniform(-2, 2, (len(positions), *env.streams.action.shape)).astype(np.float32)
    controls = env.controls(on_device(positions), on_device(actions))
    np.testing.assert_allclose(controls.tensor.numpy(), env.controls(positions, actions), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 2 * x + (0.5, 0.25) - np.array([1.0, 2.0]) / (x + 3),
        lambda x: ~(x < 0.5) & (np.abs(x) >= 0.1) | (x > 2),
        lambda x: (x % 2.0) ** 2 - -x,
        lambda x: np.where(x > 0, x, 1.0),
        lambda x: np.clip(x, -0.5, 0.5),
        lambda x: np.stack([x, x], axis=-1).max(-1),
        lambda x: np.linalg.norm(x, axis=-1),
        lambda x: np.moveaxis(x, -1, 0)[..., [1, 0]],
        lambda x: x[..., np.array([True, False])].reshape(-1),
        lambda x: np.all(x > -1, axis=-1) | np.any(x > 1, axis=-1),
        lambda x: x.argmax(-1)[..., None],
        lambda x: np.concatenate([x[:, :1], x[:, 1:]], axis=-1).astype(np.float64),
        lambda x: np.minimum(np.maximum(x > 0, 0.9 * x), 1.0),
        lambda x: sum(part for part in x) + len(x),
    ],
)
def test_functions_of_numpy_are_those_of_torch(function):
    values = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    np.testing.assert_allclose(function(on_device(values)).tensor.numpy(), function(values), atol=1e-6)


def test_what_would_wait_for_a_device_or_has_no_function_is_refused():
    values = on_device(np.ones(3))
    with pytest.raises(TypeError, match=r"no one truth value.*np\.where"):
        bool(values)
    with pytest.raises(TypeError, match="median"):
        np.median(values)
    with pytest.raises(TypeError, match="reduce"):
        np.add.reduce(values)
