"""What an array says of itself on disk is checked before zarr opens it: codecs, kinds of values, sizes."""

import json
import pickle

import numcodecs
import numpy as np
import pytest
import zarr
from recede.datasets.formats.replay_buffer import ReplayBuffer
from recede.datasets.store import DemonstrationStore
from stores import FOREIGN, SOURCES, SPECIFICATION, buffer, make_episode
from zarr.codecs import numcodecs as filters


class Runs(numcodecs.abc.Codec):  # pyright: ignore[reportUntypedBaseClass]
    """A codec that runs what it decodes, as `pickle` of old versions of numcodecs does."""

    codec_id = "pickle"

    def encode(self, buf):
        return buf

    def decode(self, buf, out=None):
        return pickle.loads(bytes(buf))


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def version_two(tmp_path):
    """A Recede store of one episode in zarr v2."""
    store = DemonstrationStore.create(tmp_path / "three", SPECIFICATION)
    store.append(make_episode(0, 5))
    source, target = zarr.open_group(store.path, mode="r"), zarr.create_group(tmp_path / "two", zarr_format=2)
    target.attrs["recede"] = source.attrs["recede"]
    keys = [f"data/{stream.name}" for stream in SPECIFICATION.streams]
    for key in [*keys, "meta/episode_ends", "meta/episode_seeds"]:
        target.create_array(key, data=source[key][:], config={"write_empty_chunks": True})
    return tmp_path / "two"


HOSTILE = [
    {"dtype": "|O", "filters": [{"id": "vlen-utf8"}], "compressor": {"id": "pickle"}},
    {"filters": [{"id": "pickle"}], "compressor": None},
    {"compressor": {"id": "pickle"}, "filters": None},
]


@pytest.mark.parametrize("changes", HOSTILE)
@pytest.mark.parametrize("key", ["meta/episode_ends", "data/action"])
def test_nothing_of_the_data_is_run(recede, tmp_path, monkeypatch, version_two, changes, key):
    monkeypatch.setitem(numcodecs.registry.codec_registry, "pickle", Runs)
    foreign, mark = buffer(tmp_path / "foreign"), tmp_path / "mark"
    for path in (foreign, version_two):
        edit(path / key / ".zarray", **changes)
        for chunk in (path / key).glob("[0-9]*"):
            chunk.write_bytes(pickle.dumps(Payload(mark)))

    def read_all(demonstrations):
        for stream in demonstrations.specification.streams:
            demonstrations.read(stream.name)

    for reading in (
        lambda: read_all(DemonstrationStore.open(version_two)),
        lambda: read_all(ReplayBuffer(foreign, FOREIGN, SOURCES)),
    ):
        with pytest.raises(ValueError, match=rf"{key}/.zarray: codecs must be .*'(pickle|vlen-utf8)'.*write the array"):
            reading()
    result = recede("inspect", version_two)
    assert result.status == 2
    assert "codecs must be among" in result.line
    assert not mark.exists()


@pytest.mark.parametrize(
    "codecs",
    [
        ["vlen-utf8"],
        [{"name": "bytes"}, {"name": "numcodecs.pickle", "configuration": {}}],
        [{"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 2], "codecs": ["vlen-bytes"]}}],
        [{"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 2], "index_codecs": ["vlen-bytes"]}}],
        [{"name": {}}],
    ],
)
def test_codecs_of_version_three_are_checked_within_shards_too(tmp_path, codecs):
    path = buffer(tmp_path / "foreign", zarr_format=3)
    edit(path / "data/action/zarr.json", codecs=codecs)
    with pytest.raises(ValueError, match=r"data/action/zarr.json: codecs must be among"):
        ReplayBuffer(path, FOREIGN, SOURCES)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"compressor": {"id": "imagecodecs_jpegxl"}}, "'imagecodecs_jpegxl' .*package imagecodecs: install it"),
        ({"filters": [{"id": "delta", "dtype": "|O"}]}, r"got '\|O'.*as numbers"),
        ({"dtype": "<U8"}, "got '<U8'.*as numbers"),
        ({"dtype": [["x", "<f4"]]}, r"got \[\['x'.*as numbers"),
        ({"dtype": "<M8[s]"}, "as numbers"),
        ({"shape": [float("inf"), 2]}, r"shape must be whole numbers, got \[inf, 2\]"),
        ({"shape": [10.5, 2]}, "shape must be whole"),
        ({"shape": [-10, 2]}, "shape must be whole"),
        ({"shape": []}, "shape must be whole"),
        ({"shape": [10, 0]}, "shape must be whole"),
        ({"shape": [10**15, 2]}, "at most .*steps, got"),
        ({"shape": [10, 2**40]}, "smaller chunks"),
        ({"shape": [10, 2**20], "chunks": [1, 1]}, "chunks"),
        ({"chunks": [0, 2]}, r"chunks must be 2 positive whole numbers, got \[0, 2\]"),
        ({"chunks": [10**6, 10**6]}, "smaller chunks"),
        ({"chunks": [5]}, "chunks must be 2"),
        ({"chunks": None}, "chunks must be 2"),
    ],
)
def test_other_values_and_impossible_sizes_are_refused_in_a_line(tmp_path, changes, remedy):
    path = buffer(tmp_path / "foreign")
    edit(path / "data/state/.zarray", **changes)
    with pytest.raises(ValueError, match=rf"{path}/data/state/.zarray: .*{remedy}"):
        ReplayBuffer(path, FOREIGN, SOURCES)


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 2]}}},
        {"chunk_grid": {"name": "regular", "configuration": {}}},
        {"chunk_grid": 3},
        {"codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": [0, 2], "codecs": ["bytes"]}}]},
        {"codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": [2**40, 2], "codecs": ["bytes"]}}]},
    ],
)
def test_chunks_of_version_three_are_checked_within_shards_too(tmp_path, changes):
    path = buffer(tmp_path / "foreign", zarr_format=3)
    edit(path / "data/state/zarr.json", **changes)
    with pytest.raises(ValueError, match=r"data/state/zarr.json: .*chunk.*restore it"):
        ReplayBuffer(path, FOREIGN, SOURCES)


def test_more_episodes_than_the_files_hold_are_refused_before_memory_is_taken(tmp_path):
    path = buffer(tmp_path / "foreign")
    edit(path / "meta/episode_ends/.zarray", shape=[10**12])
    with pytest.raises(ValueError, match=r"meta/episode_ends: chunk file .*/1 is missing: restore it"):
        ReplayBuffer(path, FOREIGN, SOURCES)


def test_more_steps_than_the_files_hold_are_refused_before_memory_is_taken(tmp_path):
    path = buffer(tmp_path / "foreign")
    zarr.open_group(path, mode="r+")["meta/episode_ends"][:] = [5, 10**12]
    for key in ("state", "action"):
        edit(path / "data" / key / ".zarray", shape=[10**12, 2])
    with pytest.raises(ValueError, match=r"data/action must have at least \d+ chunk files .*restore it"):
        ReplayBuffer(path, FOREIGN, SOURCES)


@pytest.mark.parametrize("file", ["data/state/zarr.json", "zarr.json"])
def test_a_deeply_nested_description_is_refused_in_a_line(tmp_path, file):
    path = buffer(tmp_path / "foreign", zarr_format=3)
    (path / file).write_text('{"a": ' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(ValueError, match=rf"{file}.* is damaged .*restore"):
        ReplayBuffer(path, FOREIGN, SOURCES)


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": numcodecs.LZ4()},
        {"compressors": numcodecs.LZMA()},
        {"compressors": numcodecs.BZ2()},
        {"compressors": numcodecs.Zlib()},
        {"compressors": numcodecs.GZip(), "filters": [numcodecs.Shuffle(4)]},
        {"compressors": None},
        {"compressors": numcodecs.Zstd(), "filters": [numcodecs.Delta("<f4")]},
    ],
)
def test_the_codecs_of_published_arrays_are_read(tmp_path, options):
    store = ReplayBuffer(buffer(tmp_path / "foreign", **options), FOREIGN, SOURCES)
    np.testing.assert_array_equal(store.read("state"), np.arange(20).reshape(10, 2))


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
def test_the_codecs_of_published_arrays_of_version_three_are_read(tmp_path):
    options = {"filters": [filters.Delta(dtype="float32")], "compressors": [filters.BZ2()]}
    store = ReplayBuffer(buffer(tmp_path / "foreign", 3, **options), FOREIGN, SOURCES)
    np.testing.assert_array_equal(store.read("state"), np.arange(20).reshape(10, 2))


def test_a_codec_that_was_registered_on_purpose_is_read(tmp_path, monkeypatch):
    class Image(numcodecs.Zlib):
        codec_id = "imagecodecs_own"

    monkeypatch.setitem(numcodecs.registry.codec_registry, "imagecodecs_own", Image)
    store = ReplayBuffer(buffer(tmp_path / "foreign", compressors=Image()), FOREIGN, SOURCES)
    np.testing.assert_array_equal(store.read("state"), np.arange(20).reshape(10, 2))
