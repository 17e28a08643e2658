"""The answers of the page of `recede view` are what the demonstrations hold."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from recede.datasets.demonstrations import Demonstrations
from recede.datasets.facts import EpisodeFacts
from recede.datasets.selection import selected
from recede.datasets.store import DemonstrationStore
from recede.evaluation.viewing.showing import Pictures, Showing, answered
from viewed import LED, SPECIFICATION, decoded, streams


@pytest.fixture
def showing(seen_store):
    return Showing(demonstrations=seen_store, name="seen")


def image_of(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_hello_describes_streams_and_lists_every_episode(showing):
    hello = json.loads(json.dumps(showing.hello(), allow_nan=False))
    assert hello["summary"] == "4 episodes, 135 steps, 0.2 min, 10 Hz"
    assert [stream["name"] for stream in hello["streams"]] == ["hand", "goal", "camera", "depth", "action"]
    assert [stream["is_action"] for stream in hello["streams"]] == [False] * 4 + [True]
    assert hello["streams"][0]["labels"] == ["x", "y"]
    assert hello["streams"][1] | {"labels": ["0"], "is_context": True} == hello["streams"][1]
    assert hello["streams"][2]["size"] == [24, 32]
    rows = [(row["number"], row["steps"], row["outcome"], row.get("operator")) for row in hello["episodes"]]
    assert rows == [
        (0, 30, "success", "script"),
        (1, 30, "failure", "Ada"),
        (2, 45, "unknown", None),
        (3, 30, "unknown", None),
    ]
    assert (hello["scene"], hello["policy"]) == (None, None)


def test_an_episode_has_its_vectors_to_the_last_bit(showing, seen_store):
    for index in range(4):
        answer, rows = showing.episode(index), seen_store.episode(index)
        assert answer["vectors"].keys() == {"hand", "goal", "action"}
        for name, text in answer["vectors"].items():
            np.testing.assert_array_equal(decoded(text).reshape(rows[name].shape), rows[name])


def test_an_episode_says_who_led_it_and_where_nothing_moves(showing):
    first, second = showing.episode(0), showing.episode(1)
    assert (first["led"], first["is_noted"]) == ([[0, 30]], False)
    assert (second["led"], second["is_noted"], second["is_recorded"]) == (LED, True, False)
    assert first["idle"] == [11, 0]  # the action of step 11 is the first that moves
    assert ["outcome", "success"] in first["facts"]
    assert ["seed", "7"] in first["facts"]
    assert [name for name, _ in showing.episode(3)["facts"]] == ["outcome", "steps", "seconds"]


def test_nobody_but_the_hands_led_a_recording(tmp_path):
    store = DemonstrationStore.create(tmp_path / "x.zarr", SPECIFICATION)
    store.append(streams(0), facts=EpisodeFacts(notes={"led": LED, "action": "commanded"}))
    answer = Showing(demonstrations=store, name="x").episode(0)
    assert (answer["led"], answer["is_recorded"]) == (LED, True)


def test_a_damaged_note_is_said_and_the_episode_is_shown(tmp_path):
    store = DemonstrationStore.create(tmp_path / "x.zarr", SPECIFICATION)
    store.append(streams(0), facts=EpisodeFacts(notes={"led": [[3, 99]]}))
    answer = Showing(demonstrations=store, name="x").episode(0)
    assert "notes.led of episode 0" in answer["faults"][0]
    assert answer["led"] == [[0, 30]]


def test_images_are_those_of_the_step(showing, seen_store):
    start, _ = seen_store.bounds(2)
    pictures = showing.images(2, 17)["pictures"]
    np.testing.assert_array_equal(image_of(pictures["camera"]), seen_store.read("camera", start + 17, start + 18)[0])
    depth = seen_store.read("depth", start + 17, start + 18)[0]
    np.testing.assert_array_equal(image_of(pictures["depth"]), depth[..., 0])


def test_large_images_become_small_jpegs():
    image = np.random.default_rng(0).integers(0, 256, (300, 600, 4), np.uint8)
    address = Pictures(side=200).address(image)
    assert address.startswith("data:image/jpeg;base64,")
    assert image_of(address).shape == (100, 200, 3)


def test_a_listing_is_that_of_the_conditions_of_the_command_line(showing, seen_store):
    assert showing.listing("")["episodes"] == [0, 1, 2, 3]
    assert showing.listing("outcome=failure or steps>40")["episodes"] == [1, 2]
    some = Showing(demonstrations=selected(seen_store, "outcome!=success"), name="seen")
    assert some.listing("episode>1")["episodes"] == [1, 2]  # by their numbers in the store
    with pytest.raises(ValueError, match=r"outcome is one of .*'lost'"):
        showing.listing("outcome=lost")
    with pytest.raises(ValueError, match=r"seen\.zarr: no episode of 4 fulfils"):
        showing.listing("steps<3")


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"episode": 4},
        {"episode": -1},
        {"episode": "0"},
        {"images": [0, 30]},
        {"images": [0, -1]},
        {"images": [0]},
        {"scene": [4, 0]},
        {"fan": [0, 1e3]},
        {"listing": 3},
    ],
    ids=str,
)
def test_a_wrong_question_is_refused(showing, question):
    with pytest.raises(ValueError):
        answered(showing, question)


def test_without_a_policy_and_a_scene_both_answers_are_empty(showing):
    for kind in ("scene", "fan"):
        assert answered(showing, {kind: [1, 2]}) == {"kind": kind, "episode": 1, "step": 2}


class Watched(Demonstrations):
    """Counts the values that are read."""

    def __init__(self, whole):
        self.path, self.specification = whole.path, whole.specification
        self.episode_ends, self.episode_seeds, self._whole, self.num_read = (
            whole.episode_ends,
            whole.episode_seeds,
            whole,
            0,
        )

    def read(self, name, start=0, stop=None):
        rows = self._whole.read(name, start, stop)
        self.num_read = max(self.num_read, len(rows))
        return rows


def test_nothing_is_read_whole(seen_store):
    watched = Watched(seen_store)
    showing = Showing(demonstrations=watched, name="seen")
    showing.hello()
    showing.listing("seconds>1")
    assert watched.num_read == 0
    showing.images(1, 3)
    assert watched.num_read == 1
    showing.episode(2)
    assert watched.num_read == 45
