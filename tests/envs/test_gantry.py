"""What the tasks of the gantry gripper share: many worlds are read and judged as one alone."""

import numpy as np
import pytest
from recede.envs.tasks.pick_place import PICK_PLACE

TASKS = {task.name: task for task in (PICK_PLACE,)}


@pytest.fixture(params=TASKS)
def task(request):
    return TASKS[request.param]


def worlds(env, expert, *, seed):
    """Positions, marks, velocities and what stays as it is in every step of an episode, with the outcome of each."""
    _, info = env.reset(seed=seed)
    rows, is_over = [], False
    while not is_over:
        state, data = info["state"], env._data
        rows.append([data.qpos.copy(), data.mocap_pos.copy(), data.qvel.copy(), env._whole, state, info])
        _, _, terminated, truncated, info = env.step(expert(state))
        is_over = terminated or truncated
    state, data = info["state"], env._data
    return [*rows, [data.qpos.copy(), data.mocap_pos.copy(), data.qvel.copy(), env._whole, state, info]]


def test_many_worlds_are_read_and_judged_to_the_bit_as_each_alone(task):
    env = task.make()
    rows = [row for seed in (0, 1) for row in worlds(env, task.expert(seed), seed=seed)]
    rows = rows[: len(rows) // 2 * 2]
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
