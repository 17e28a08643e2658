"""Replay buffers of any task become demonstrations; small ones, and the published Push-T demonstrations."""

import hashlib
import os

import numcodecs
import numpy as np
import pytest
import zarr
from recede.datasets.check import check_demonstrations
from recede.datasets.converted import Converted
from recede.datasets.copying import copy, verify
from recede.datasets.formats.recognising import open_foreign
from recede.datasets.mapping import DatasetMapping, propose
from recede.datasets.store import DemonstrationStore

ENDS = [4, 9, 20]


def arrays():
    rng = np.random.default_rng(0)
    return {
        "action": rng.normal(size=(20, 2)).astype(">f4"),
        "keypoint": rng.normal(size=(20, 9, 2)),
        "camera0_rgb": rng.integers(0, 256, (20, 24, 20, 3), dtype=np.uint8),
        "img": rng.integers(0, 256, (20, 24, 20, 3)).astype("float32"),
        "depth": rng.random((20, 40, 30, 1)).astype("float32"),
    }


@pytest.fixture(params=[2, 3])
def path(request, tmp_path):
    """Blosc for version 2, the default of zarr for version 3."""
    group = zarr.create_group(tmp_path / "buffer.zarr", zarr_format=request.param)
    codec = {"compressors": numcodecs.Blosc(cname="zstd", shuffle=2)} if request.param == 2 else {}
    for key, values in arrays().items():
        array = group.create_array(
            f"data/{key}", shape=values.shape, dtype=values.dtype, chunks=(7, *values.shape[1:]), **codec
        )
        array[:] = values
    group.create_array("meta/episode_ends", data=np.asarray(ENDS), **codec)
    return tmp_path / "buffer.zarr"


def converted(path):
    dataset = open_foreign(path)
    return Converted(dataset, DatasetMapping.from_json(propose(dataset, rate=10), "the proposal"))


def test_every_value_arrives(path, tmp_path):
    demonstrations = converted(path)
    check_demonstrations(demonstrations)
    assert demonstrations.episode_lengths.tolist() == [4, 5, 11]
    expected, begin = arrays(), 0
    for index, end in enumerate(ENDS):
        episode = demonstrations.episode(index)
        np.testing.assert_array_equal(episode["action"], expected["action"][begin:end])
        np.testing.assert_array_equal(
            episode["keypoint"], expected["keypoint"][begin:end].reshape(-1, 18).astype("float32")
        )
        np.testing.assert_array_equal(episode["camera0_rgb"], expected["camera0_rgb"][begin:end])
        np.testing.assert_array_equal(episode["img"], expected["img"][begin:end])
        begin = end
    assert "neither an image of uint8 nor a vector" in propose(demonstrations.dataset)["left_out"]["depth"]
    digests = copy(demonstrations, tmp_path / "out.zarr", images="png", provenance={})
    assert verify(converted(path), DemonstrationStore.open(tmp_path / "out.zarr")) == digests


def test_the_digest_of_a_source_covers_every_file(path):
    before = converted(path).content("action")
    zarr.open_group(path, mode="r+")["data/depth"][19, 0, 0, 0] += 1
    assert converted(path).content("action") != before


def test_an_image_that_is_no_whole_number_is_named(path):
    zarr.open_group(path, mode="r+")["data/img"][13, 0, 0, 0] = 0.5
    with pytest.raises(ValueError, match=r"data/img: images in floating point must hold whole numbers .* got 0.5"):
        converted(path).episode(2)


def test_damage_is_refused_with_its_file(path):
    group = zarr.open_group(path, mode="r+")
    file = next(file for file in (path / "data" / "action").rglob("*") if file.name in ("1", "1.0"))
    file = file if file.is_file() else next(file.iterdir())
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"chunk file {file} is damaged"):
        converted(path).episode(1)
    group["meta/episode_ends"][1] = 4
    with pytest.raises(ValueError, match="meta/episode_ends must ascend"):
        open_foreign(path)
    group["meta/episode_ends"][:] = [4, 9, 21]
    with pytest.raises(ValueError, match=r"data/\w+ must reach the last episode's end at step 21, got 20"):
        open_foreign(path)


def test_a_buffer_without_episodes_and_a_store_of_recede_are_refused(path, tmp_path):
    copy(converted(path), tmp_path / "out.zarr", images="png", provenance={})
    with pytest.raises(ValueError, match="is a store of Recede already: recede edit"):
        open_foreign(tmp_path / "out.zarr")
    zarr.open_group(path, mode="r+")["meta/episode_ends"].resize((0,))
    with pytest.raises(ValueError, match="must name an episode or more, got none"):
        open_foreign(path)


@pytest.mark.slow
def test_pusht_as_it_was_published():
    path = os.environ.get("RECEDE_PUSHT_STORE")
    if not path:
        pytest.skip("RECEDE_PUSHT_STORE does not name the published store pusht_cchi_v7_replay.zarr")
    demonstrations = converted(path)
    assert (len(demonstrations), demonstrations.num_steps) == (206, 25_650)
    for name, digest in {
        "state": "dcdc539bfdba9fc01cba8d2fe91cc580539ec046a88b0ffbe91be5511948d4dc",
        "action": "6691b085749144b8db1aede97a80fb380afd08953fcd03660b441d0ffe9d6a8f",
    }.items():
        assert hashlib.sha256(demonstrations.read(name).tobytes()).hexdigest() == digest
    images = hashlib.sha256()
    for index in range(len(demonstrations)):
        images.update(demonstrations.read("img", *demonstrations.bounds(index)).tobytes())
    assert images.hexdigest() == "65dd40b1f0e3ccceb65db847224c4d85e922174c7a3e98c1cd5f3d84cb272700"
