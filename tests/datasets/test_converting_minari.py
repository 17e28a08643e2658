"""Data sets of Minari become demonstrations with the seeds and the limits that they note."""

import io
import json

import h5py
import numpy as np
import pytest
from hdf5_data import LENGTHS, minari_episode, write_minari
from PIL import Image
from recede.datasets.check import check_demonstrations
from recede.datasets.converted import Converted
from recede.datasets.copying import copy, verify
from recede.datasets.formats.recognising import open_foreign
from recede.datasets.mapping import UNSET, DatasetMapping, propose
from recede.datasets.store import DemonstrationStore


@pytest.fixture
def folder(tmp_path):
    return write_minari(tmp_path / "human-v0")


def converted(path):
    dataset = open_foreign(path)
    return Converted(dataset, DatasetMapping.from_json(propose(dataset), "the proposal"))


def test_every_value_arrives_without_the_last_observation(folder, tmp_path):
    demonstrations = converted(folder)
    check_demonstrations(demonstrations)
    assert demonstrations.episode_lengths.tolist() == list(LENGTHS)
    assert demonstrations.specification.control_dt == 1 / 12.5
    for index, length in enumerate(LENGTHS):
        expected, episode = minari_episode(index, length), demonstrations.episode(index)
        images = [np.asarray(Image.open(io.BytesIO(content))) for content in expected["observations/image"]]
        np.testing.assert_array_equal(episode["image"], images[:-1])
        np.testing.assert_array_equal(episode["position"], expected["observations/position"][:-1])
        np.testing.assert_array_equal(episode["pair_index_0"], expected["observations/pair/_index_0"][:-1])
        np.testing.assert_array_equal(episode["pair_index_1"][:, 0], expected["observations/pair/_index_1"][:-1])
        np.testing.assert_array_equal(episode["action"], expected["actions"])
    digests = copy(demonstrations, tmp_path / "human.zarr", images="png", provenance={})
    assert verify(converted(folder), DemonstrationStore.open(tmp_path / "human.zarr")) == digests


def test_what_minari_notes_is_kept(folder):
    dataset = open_foreign(folder)
    assert dataset.version == "0.5.4"
    assert dataset.episode_seeds.tolist() == [100, 101, 102]
    assert [facts.outcome for facts in dataset.episode_facts] == ["success", "failure", "success"]
    assert dataset.episode_facts[0].notes["options/light"] == 0.5
    assert dataset.metadata["env_spec"]["id"] == "Push-v1"
    spaces = dataset.metadata["observation_space"]["subspaces"]
    assert spaces["position"] == {"type": "Box", "dtype": "float32", "shape": [3], "low": "-inf", "high": "inf"}
    assert (spaces["image"]["low"], spaces["image"]["high"]) == (0.0, 255)
    json.dumps(dict(dataset.metadata), allow_nan=False)


def test_finite_limits_of_a_box_are_proposed(folder):
    specification = converted(folder).specification
    streams = {stream.name: stream for stream in specification.streams}
    assert (streams["action"].low, streams["action"].high) == ((-1, -2), (1, 2))
    assert (streams["pair_index_0"].low, streams["pair_index_0"].high) == ((-1, -2), (1, 2))
    assert streams["position"].low == streams["image"].low == ()


@pytest.mark.parametrize("place", [".", "data", "data/main_data.hdf5"])
def test_it_is_recognised_by_each_of_its_paths(folder, place):
    assert open_foreign(folder / place).kind == "minari"


def test_a_rate_that_is_not_noted_is_asked_for(tmp_path):
    assert propose(open_foreign(write_minari(tmp_path / "a", lengths=(2,), env_spec="{}")))["rate"] == UNSET


@pytest.mark.parametrize(
    "space", [None, 3, "", "[", "{}", json.dumps({"type": "Box"}), json.dumps({"type": "Dict", "subspaces": 3})]
)
def test_a_space_that_says_nothing_gives_no_limits(tmp_path, space):
    dataset = open_foreign(write_minari(tmp_path / "a", lengths=(2,), action_space=space, observation_space=space))
    assert not any(column.low for column in dataset.columns)


def remove(folder, *keys):
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for key in keys:
            del file[key]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: remove(folder, "episode_1"), "total_episodes must be 3 as metadata.json says, got 2"),
        (lambda folder: remove(folder, "episode_1/actions"), "episode_1 must hold arrays with a row for each"),
        (lambda folder: remove(folder, *(f"episode_{index}/observations/position" for index in (0, 2))), "position"),
        (lambda folder: (folder / "data/metadata.json").write_text("{"), "metadata.json is no JSON"),
        (lambda folder: (folder / "data/metadata.json").write_text("[]"), "metadata.json must hold a JSON object"),
        (
            lambda folder: (folder / "data/metadata.json").write_text('{"data_format": "arrow"}'),
            "data_format must be hdf5, got 'arrow': write the data set anew",
        ),
        (lambda folder: (folder / "data/main_data.hdf5").write_bytes(b""), "main_data.hdf5 is no whole HDF5 file"),
    ],
)
def test_a_damaged_data_set_is_refused_with_its_file(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        open_foreign(folder)
