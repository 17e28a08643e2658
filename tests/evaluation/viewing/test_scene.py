"""The scene of a step is that of the recorded state, or says that it is not."""

from dataclasses import replace

import numpy as np
import pytest
import toys
from recede.datasets.store import DemonstrationStore
from recede.envs.task import Task
from recede.evaluation.viewing.scene import Scene
from recede.evaluation.viewing.showing import Showing
from recede.specification import Specification, Stream
from viewed import decoded


class Drawn(toys.Reach):
    """Renders its place as two numbers, and knows where actions are in its picture."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        if options is None:
            return observation, info
        self.position, self.target = options["position"].astype(float), options["target"].astype(float)
        return self._observe()

    def render(self):
        image = np.zeros((10, 20, 3), np.uint8)
        image[0, 0, :2] = np.round(100 + 100 * self.position)
        return image

    def pixels(self, actions):
        return (1 + np.asarray(actions)) * (10, 5)


def restore(observation):
    return dict(observation)


def place(image):
    return (image[0, 0, :2].astype(float) - 100) / 100


TASKS = {
    "replays": replace(toys.REACH, make=Drawn, restore=None),
    "restores": replace(toys.REACH, make=Drawn, restore=restore),
}


@pytest.mark.parametrize("kind", TASKS)
def test_steps_in_any_order_show_the_recorded_place(reaches, kind):
    store = DemonstrationStore.open(reaches)
    scene = Scene(TASKS[kind], store)
    longest = int(store.episode_lengths.argmax())
    for episode, step in ((longest, 5), (longest, 9), (longest, 2), (longest - 1, 0), (longest, 1)):
        image = scene.picture(episode, step)
        assert not scene.fault
        recorded = store.read("position", start := store.bounds(episode)[0] + step, start + 1)[0]
        np.testing.assert_allclose(place(image), recorded, atol=0.006)
        assert not scene.differs
    scene.close()


def test_an_answer_has_the_recorded_actions_ahead_as_shares_of_the_picture(reaches):
    store = DemonstrationStore.open(reaches)
    showing = Showing(demonstrations=store, name="x", scene=Scene(TASKS["replays"], store))
    start, stop = store.bounds(1)
    answer = showing.show_scene(1, stop - start - 3)

    expected = (1 + store.read("action", stop - 3, stop)) / 2
    np.testing.assert_allclose(decoded(answer["ahead"]).reshape(3, 2), expected, atol=1e-6)
    assert answer["picture"].startswith("data:image/png;base64,")
    assert answer["differs"] is False


def test_another_state_than_the_recorded_one_is_said(reaches, tmp_path):
    whole = DemonstrationStore.open(reaches)
    other = DemonstrationStore.create(tmp_path / "other.zarr", whole.specification)
    other.append(whole.episode(0), seed=int(whole.episode_seeds[1]))
    scene = Scene(TASKS["replays"], other)
    assert scene.picture(0, 4) is not None
    assert scene.differs


def test_what_cannot_be_shown_says_why(reaches, tmp_path):
    store = DemonstrationStore.open(reaches)
    showing = Showing(demonstrations=store, name="x", scene=Scene(toys.faulty("no render"), store))
    answer = showing.show_scene(0, 0)
    assert "this simulation has no window" in answer["fault"]
    assert showing.scene.points(np.zeros((1, 1, 2))) is None
    unknown = DemonstrationStore.create(tmp_path / "unknown.zarr", store.specification)
    unknown.append(store.episode(0))
    with pytest.raises(ValueError, match="no episode has its seed"):
        Scene(TASKS["replays"], unknown)
    unknown.append(store.episode(0), seed=0)
    scene = Scene(TASKS["replays"], unknown)
    assert scene.picture(0, 0) is None
    assert "the seed of the episode is unknown" in scene.fault
    assert scene.picture(1, 0) is not None
    assert Scene(TASKS["restores"], unknown).picture(0, 3) is not None


def test_a_task_of_other_streams_is_refused(reaches):
    streams = Specification((Stream("place", (3,)),), Stream("action", (2,)), 0.1)
    task = Task("other", streams, 10, Drawn)
    with pytest.raises(ValueError, match="must have the streams of the task 'other'"):
        Scene(task, DemonstrationStore.open(reaches))
