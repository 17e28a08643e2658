"""Actions are drawn over a camera where its task says they are, and nowhere else."""

from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest
from recede.commands.view import _projection
from recede.datasets.store import DemonstrationStore
from recede.envs.catalogue import load_task
from recede.envs.task import Task
from recede.evaluation.viewing.projection import Projection
from recede.evaluation.viewing.showing import Showing
from recede.specification import Specification, Stream
from viewed import SPECIFICATION, decoded


class Filmed(gymnasium.Env):
    """Its camera stands still and looks at the square from (-1, -1) to (1, 1); depth is seen from the hand."""

    def pixels_in(self, stream, actions):
        return (1 + np.asarray(actions)) * (16, 12) if stream == "camera" else None


TASK = Task("filmed", SPECIFICATION, 10, Filmed)


class Oracle:
    """A policy with three chunks of two steps."""

    def chunks(self, episode, step):
        return np.linspace(-1, 1, 12).reshape(3, 2, 2).astype(np.float32)


def test_the_fan_and_the_recorded_actions_are_shares_of_the_picture(seen_store):
    showing = Showing(demonstrations=seen_store, name="x", foresight=Oracle(), projection=Projection(TASK, seen_store))
    over = showing.fan(0, 3)["over"]
    assert over.keys() == {"camera"}
    np.testing.assert_allclose(decoded(over["camera"]), (1 + np.linspace(-1, 1, 12)) / 2, atol=1e-6)
    ahead = showing.images(0, 27)["ahead"]
    expected = (1 + seen_store.read("action", 27, 30)) / 2
    np.testing.assert_allclose(decoded(ahead["camera"]).reshape(3, 2), expected, atol=1e-6)
    plain = Showing(demonstrations=seen_store, name="x", foresight=Oracle())
    assert plain.fan(0, 3)["over"] == plain.images(0, 3)["ahead"] == {}


def test_a_camera_without_a_projection_is_named(seen_store):
    projection, remarks = _projection(TASK, seen_store)
    assert projection.cameras == ["camera"]
    assert remarks == [
        "no fan over depth: the camera moves, or the task 'filmed' does not say where actions are in them"
    ]
    assert _projection(None, seen_store) == (
        None,
        ["no fan over camera, depth: no task says where actions are in them; name one with task="],
    )
    other = Specification(SPECIFICATION.observations, Stream("action", (3,)), 0.1)
    projection, (remark,) = _projection(Task("other", other, 10, Filmed), seen_store)
    assert projection is None
    assert "camera, depth: the action is another one than that of the task 'other'" in remark


TASKS = {"pick_place_image": "scene", "push_t_image": "scene", "reach_arm_image": "scene", "pusht_image": "image"}


@pytest.mark.parametrize("name", TASKS)
def test_the_tasks_with_cameras_know_where_actions_are(name, tmp_path):
    if name == "pusht_image" and find_spec("gym_pusht") is None:
        pytest.skip("needs the package gym-pusht")
    task = load_task(name)
    store = DemonstrationStore.create(tmp_path / "store", task.specification)
    low, high = np.array(task.specification.action.low), np.array(task.specification.action.high)
    actions = (low + np.linspace(0.3, 0.7, 5)[:, None] * (high - low)).astype(np.float32)
    rows = {stream.name: np.zeros((5, *stream.shape), stream.dtype) for stream in task.specification.observations}
    store.append(rows | {"action": actions})
    projection = Projection(task, store)
    assert projection.cameras == [TASKS[name]]
    points = projection.points(actions[None])[TASKS[name]]
    assert points.shape == (1, 5, 2)
    env = task.make(render_mode="rgb_array", render_size=200).unwrapped  # pictures of the same place
    np.testing.assert_allclose(points[0], env.pixels(actions) / 200)
