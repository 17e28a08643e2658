"""What tasks read and judge is the same for arrays of numpy and for tensors; nothing is simulated here."""

import numpy as np
import pytest
import torch
from recede.envs.catalogue import TASKS, load_task
from recede.evaluation.device_arrays import DeviceArray

COUNT = 24
ARMS = {name for name in TASKS if "_arm" in name and "joints" not in name}
STATES = [name for name in TASKS if not name.startswith("pusht") and not name.endswith("_image") and name not in ARMS]


def on_device(values):
    return DeviceArray(torch.tensor(values))


@pytest.mark.parametrize("name", STATES)
def test_every_task_reads_and_judges_tensors_as_arrays(name):
    """Of worlds at their resets, near them, and near success."""
    env = load_task(name).make()
    random, rows, fixed, wholes = np.random.default_rng(0), [], [], []
    for seed in range(COUNT):
        env.reset(seed=seed)
        streams, whole = env.start(np.zeros(4096)[: env.simulations(1).state.shape[1]])
        rows.append((env._data.qpos.copy(), env._data.mocap_pos.copy()))
        fixed.append(streams)
        wholes.append(whole)
    positions, marks = (np.stack(parts) for parts in zip(*rows, strict=True))
    streams = {key: np.stack([one[key] for one in fixed]) for key in fixed[0]}
    positions[COUNT // 2 :] += 0.01 * random.standard_normal(positions[COUNT // 2 :].shape)
    if env._cubes and env._marks:  # every third cube on its mark
        positions[::3, env._cube[:2]] = marks[::3, 0, :2]
    velocities = 0.02 * random.standard_normal((COUNT, env.model.nv)) * (np.arange(COUNT) % 2)[:, None]
    state = env.read(positions, marks, streams)
    judged = env.judge(state, velocities, np.array(wholes))
    there = env.read(on_device(positions), on_device(marks), {key: on_device(one) for key, one in streams.items()})
    for key, values in state.items():
        np.testing.assert_allclose(there[key].tensor.numpy(), values, rtol=0, atol=1e-6)
    again = {key: on_device(values) for key, values in state.items()}
    success, score = env.judge(again, on_device(velocities), on_device(np.array(wholes)))
    np.testing.assert_array_equal(success.tensor.numpy(), judged[0])
    np.testing.assert_allclose(score.tensor.numpy(), judged[1], rtol=0, atol=1e-6)
    actions = random.uniform(-2, 2, (COUNT, *env.streams.action.shape)).astype(np.float32)
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
