"""Data sets of other libraries become demonstrations under a mapping, and every value arrives."""

import io
import json
import random
import re
import zipfile

import numpy as np
import pytest
from damage import fate
from foreign_data import names_of, rows, write_npy, write_npz
from recede.datasets.check import check_demonstrations
from recede.datasets.converted import Converted
from recede.datasets.copying import copy, verify
from recede.datasets.formats.recognising import open_foreign
from recede.datasets.mapping import UNSET, DatasetMapping, propose, read_mapping, to_yaml
from recede.datasets.store import DemonstrationStore

LENGTHS = (7, 5, 9)


def mapping_of(dataset, **action):
    content = propose(dataset, rate=10)
    content["action"] |= action
    return DatasetMapping.from_json(content, "the proposal")


@pytest.fixture(scope="module", params=[write_npz, write_npy])
def dataset(request, tmp_path_factory):
    return open_foreign(request.param(tmp_path_factory.mktemp("numpy") / "episodes"))


def test_every_value_arrives_in_the_order_of_numbers(dataset):
    converted = Converted(dataset, mapping_of(dataset))
    assert converted.episode_lengths.tolist() == list(LENGTHS)
    for index, length in enumerate(LENGTHS):
        expected, episode = rows(index, length), converted.episode(index)
        np.testing.assert_array_equal(episode["qpos"], expected["qpos"].astype("float32"))
        np.testing.assert_array_equal(episode["gripper"], expected["gripper"][:, None])
        np.testing.assert_array_equal(episode["image"], np.moveaxis(expected["image"], 1, -1))
        np.testing.assert_array_equal(episode["action"], expected["action"])


def test_it_keeps_every_promise_of_demonstrations(dataset):
    check_demonstrations(Converted(dataset, mapping_of(dataset)))


def test_an_action_that_is_the_next_observation(dataset):
    converted = Converted(dataset, mapping_of(dataset, key="qpos", meaning="next", of="leader"))
    assert converted.episode_lengths.tolist() == [length - 1 for length in LENGTHS]
    for index in range(len(LENGTHS)):
        episode = converted.episode(index)
        np.testing.assert_array_equal(episode["action"][:-1], episode["qpos"][1:])
        expected = rows(index, LENGTHS[index])["qpos"][-1].astype("float32")
        np.testing.assert_array_equal(episode["action"][-1], expected)
        assert converted.episode_facts[index].notes["action"] == "input"


def test_columns_in_turn_make_one_stream(dataset):
    content = propose(dataset, rate=10)
    content["observations"]["qpos"]["key"] = ["qpos", "qpos"]
    converted = Converted(dataset, DatasetMapping.from_json(content, "here"))
    first = rows(0, 7)["qpos"].astype("float32")
    np.testing.assert_array_equal(converted.episode(0)["qpos"], np.concatenate([first, first], 1))


@pytest.mark.parametrize(
    ("meaning", "hold"),
    [("target", ()), ("velocity", ("zero", "zero")), (["difference", "target"], ("zero", "last"))],
)
def test_the_meaning_decides_what_the_action_does_without_a_command(dataset, meaning, hold):
    assert Converted(dataset, mapping_of(dataset, meaning=meaning)).specification.action.hold == hold


def test_a_mapping_says_what_the_dimensions_are(dataset):
    content = propose(dataset, rate=10)
    content["observations"]["qpos"]["kinds"] = "axis_angle"
    mapping = DatasetMapping.from_json(content, "here")
    assert Converted(dataset, mapping).stream("qpos").kinds == ("axis_angle",) * 3
    assert DatasetMapping.from_json(mapping.to_json(), "provenance") == mapping
    content["observations"]["qpos"]["kinds"] = "quaternion_xyzw"
    with pytest.raises(ValueError, match="qpos"):
        DatasetMapping.from_json(content, "here").specification(dataset)


def test_the_file_of_a_mapping_gives_it_back(dataset, tmp_path):
    file = tmp_path / "mapping.yaml"
    content = propose(dataset, rate=12.5)
    file.write_text(to_yaml(content))
    assert read_mapping(file) == content
    again = DatasetMapping.from_json(json.loads(json.dumps(mapping_of(dataset).to_json())), "provenance")
    assert again == mapping_of(dataset)


def test_a_conversion_is_verified_and_a_changed_source_is_found(tmp_path):
    folder = write_npz(tmp_path / "episodes")
    converted = Converted(open_foreign(folder), mapping_of(open_foreign(folder)))
    digests = copy(converted, tmp_path / "a.zarr", images="png", provenance={})
    store = DemonstrationStore.open(tmp_path / "a.zarr")
    assert verify(converted, store) == digests
    changed = rows(1, 5)
    changed["image"][4, 0, 0, 0] ^= 1
    np.savez(folder / "episode_9.npz", **changed)
    dataset = open_foreign(folder)
    with pytest.raises(ValueError, match=r"'image' of episode 1 is not what .*episodes holds"):
        verify(Converted(dataset, mapping_of(dataset)), store)


def test_the_digest_of_a_source_covers_every_byte(tmp_path):
    folder = write_npz(tmp_path / "episodes")
    digests = set()
    for key in ("nothing", "qpos", "image"):
        changed = rows(2, 9)
        if key in changed:
            changed[key].flat[-1] += 1
        np.savez(folder / "episode_10.npz", **changed)
        dataset = open_foreign(folder)
        digests.add(Converted(dataset, mapping_of(dataset)).content("qpos"))
    assert len(digests) == 3


def test_keys_of_one_name_get_the_whole_key_as_their_name(tmp_path):
    arrays = rows(0, 5)
    np.savez(
        tmp_path / "0.npz", **{"arm": arrays["qpos"], "observation.arm": 2 * arrays["qpos"], "action": arrays["action"]}
    )
    dataset = open_foreign(tmp_path)
    proposal = propose(dataset, rate=10)
    assert {name: entry["key"] for name, entry in proposal["observations"].items()} == {
        "arm": "arm",
        "observation_arm": "observation.arm",
    }
    converted = Converted(dataset, DatasetMapping.from_json(proposal, "m.yaml"))
    np.testing.assert_array_equal(converted.read("observation_arm"), 2 * converted.read("arm"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "hdf5"}, "is numpy, and the mapping is for hdf5"),
        ({"rate": UNSET}, "steps a second"),
        ({"rate": "fast"}, "rate must be a finite number above 0, got 'fast'"),
        ({"observations": {}}, "must name a stream"),
        ({"observations": {"qpos": {"key": "qposs"}}}, "no column 'qposs': did you mean 'qpos'"),
        ({"observations": {"qpos": {"keys": "qpos"}}}, "observations.qpos has no entry 'keys': did you mean 'key'"),
        ({"observations": {"qpos": {"key": "qpos", "units": ["m", "m"]}}}, "one entry for each of its 3 dimensions"),
        ({"observations": {"qpos": {"key": 3}}}, "name of a column"),
        ({"observations": {"qpos": {"key": ["qpos", "image"]}}}, "one image, or vectors of one dtype"),
        ({"observations": {"Qpos": {"key": "qpos"}}}, "lower-case identifier"),
        ({"observation": {}}, "no entry 'observation': did you mean 'observations'"),
        ({"action": {"key": "action", "meaning": "delta"}}, "action.meaning must be one of"),
        ({"action": {"key": "action", "meaning": ["next", "target"]}}, "write it alone"),
        ({"action": {"key": "action", "of": "robott"}}, "did you mean 'robot'"),
        ({"action": {"key": UNSET}}, "action.key must name a column"),
        ({"action": {"key": "qpos"}}, "observations.qpos must not be qpos, which is the action"),
    ],
)
def test_a_wrong_mapping_is_refused_with_its_entry(dataset, change, message):
    content = propose(dataset, rate=10) | change
    with pytest.raises(ValueError, match=re.escape(message)):
        Converted(dataset, DatasetMapping.from_json(content, "m.yaml"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "episode_9.npz").write_bytes(b"PK"), "episode_9.npz is no whole .npz file"),
        (lambda folder: np.savez(folder / "episode_9.npz", qpos=np.zeros((5, 3))), "has none"),
        (lambda folder: np.savez(folder / "episode_9.npz", **rows(0, 5) | {"qpos": np.zeros((4, 3))}), "rows"),
        (lambda folder: np.savez(folder / "episode_9.npz", **rows(0, 5) | {"qpos": np.zeros((5, 4))}), "float64 (4,)"),
        (lambda folder: (folder / "sub").mkdir() or np.save(folder / "sub/a.npy", np.zeros(3)), "holds both"),
    ],
)
def test_a_damaged_or_odd_source_is_refused_with_its_file(tmp_path, damage, message):
    folder = write_npz(tmp_path / "episodes")
    damage(folder)
    with pytest.raises(ValueError, match=re.escape(message)):
        open_foreign(folder)


def test_random_damage_to_compressed_arrays_is_read_or_refused_in_one_line(tmp_path):
    folder, fates = tmp_path / "episodes", list[str]()
    folder.mkdir()
    np.savez_compressed(folder / "0.npz", **rows(0, 40))
    whole = (folder / "0.npz").read_bytes()
    for seed in range(25):
        damaged, place = bytearray(whole), random.Random(seed).randrange(len(whole))
        damaged[place] ^= 0xFF
        (folder / "0.npz").write_bytes(damaged)

        def read():
            dataset = open_foreign(folder)
            for column in dataset.columns:
                dataset.read(column.key, 0, 0, 40)

        fates.append(fate(read, "convert"))
    assert any("no whole array of numbers" in line for line in fates)


def test_an_array_that_claims_more_values_than_it_has_is_refused_before_it_takes_memory(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**13, 3)})
    (tmp_path / "episodes").mkdir()
    with zipfile.ZipFile(tmp_path / "episodes/0.npz", "w") as archive:
        archive.writestr("action.npy", header.getvalue() + bytes(100))
    with pytest.raises(ValueError, match=r"0\.npz is no whole .*action.npy must hold float64 .* and has 100 bytes"):
        open_foreign(tmp_path / "episodes")


def test_a_digit_that_is_no_number_is_a_letter_of_a_name(tmp_path):
    folder = write_npz(tmp_path / "episodes")
    (folder / "episode_8.npz").rename(folder / "episode_8².npz")
    assert names_of(open_foreign(folder))[-1] == "episode_10.npz"


def test_a_pickle_is_never_loaded(tmp_path):
    episode = tmp_path / "episodes" / "0"
    episode.mkdir(parents=True)
    np.save(episode / "action.npy", np.array([{"a": 1}] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="no whole array of numbers"):
        open_foreign(episode.parent)


def test_a_value_that_is_not_finite_is_named_with_its_episode(tmp_path):
    folder = write_npz(tmp_path / "episodes")
    broken = rows(1, 5)
    broken["qpos"][3, 1] = np.nan
    np.savez(folder / "episode_9.npz", **broken)
    dataset = open_foreign(folder)
    with pytest.raises(ValueError, match=r"episode_9\.npz: stream 'qpos', step 3, dimension qpos\[1\]"):
        Converted(dataset, mapping_of(dataset)).read("qpos")
