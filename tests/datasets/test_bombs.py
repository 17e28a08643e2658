"""Small chunks that become large: they are refused before memory is taken, whatever compressed them."""

import bz2
import gzip
import json
import lzma
import zlib

import numcodecs
import numpy as np
import pytest
import zarr
from recede.datasets.declared_sizes import SIZES, SLACK
from recede.datasets.formats.replay_buffer import ReplayBuffer
from stores import FOREIGN, SOURCES, buffer

MOST = 80
LARGE = bytes(3 * SLACK)


def zstd_of_unknown_size(size):
    """A zstd frame (RFC 8878) of runs of zeros that does not say its size."""
    blocks = [(2**17 << 3 | 1 << 1 | (end >= size)).to_bytes(3, "little") for end in range(2**17, size + 1, 2**17)]
    return b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(block + b"\0" for block in blocks)


def zstd(content):
    return bytes(numcodecs.Zstd().encode(content))


BOMBS = {
    "Zlib": [zlib.compress(LARGE)],
    "GZip": [gzip.compress(LARGE), gzip.compress(b"1") + gzip.compress(LARGE)],
    "BZ2": [bz2.compress(LARGE), bz2.compress(b"1") + bz2.compress(LARGE)],
    "LZMA": [lzma.compress(LARGE), lzma.compress(b"1") + lzma.compress(LARGE)],
    "Zstd": [zstd(LARGE), zstd(b"1") + zstd(LARGE), zstd_of_unknown_size(len(LARGE)), zstd(b"1") + b"P*M\x18\1\0\0\0x"
             + zstd_of_unknown_size(len(LARGE))],
    "LZ4": [bytes(numcodecs.LZ4().encode(LARGE))],
    "Blosc": [bytes(numcodecs.Blosc().encode(LARGE))],
}  # fmt: skip


@pytest.mark.parametrize(("name", "chunk"), [(name, chunk) for name, chunks in BOMBS.items() for chunk in chunks])
def test_a_bomb_is_refused_and_a_chunk_of_the_same_codec_is_read(tmp_path, name, chunk):
    assert getattr(numcodecs, name)().decode(chunk) is not None  # it is one
    path = buffer(tmp_path / "foreign", compressors=getattr(numcodecs, name)())
    (file,) = (path / "data/state").glob("0.0")
    np.testing.assert_array_equal(ReplayBuffer(path, FOREIGN, SOURCES).read("state"), np.arange(20).reshape(10, 2))
    file.write_bytes(chunk)
    with pytest.raises(ValueError, match=rf"chunk file {file} is damaged .*80 bytes, one claims.*restore it"):
        ReplayBuffer(path, FOREIGN, SOURCES).read("state")


def test_a_zstd_frame_of_unknown_size_is_read(tmp_path):
    path = buffer(tmp_path / "foreign", compressors=numcodecs.Zstd())
    block = bytes(np.arange(20, dtype="float32"))
    header = (len(block) << 3 | 1).to_bytes(3, "little")
    (path / "data/state/0.0").write_bytes(b"\x28\xb5\x2f\xfd\x00\x58" + header + block)
    np.testing.assert_array_equal(ReplayBuffer(path, FOREIGN, SOURCES).read("state"), np.arange(20).reshape(10, 2))


@pytest.mark.parametrize("name", SIZES)
def test_no_chunk_is_too_damaged_for_a_size(name):
    rng = np.random.default_rng(0)
    for intact in BOMBS.get(name.removesuffix("Codec").replace("Gzip", "GZip"), []):
        for _ in range(20):
            damaged = bytearray(intact[: rng.integers(len(intact))] + bytes(6))
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
            assert SIZES[name](bytes(damaged), MOST) >= 0


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"filters": [{"id": "zlib"}], "compressor": {"id": "zstd"}}, "one compressor"),
        ({"filters": [{"id": "bz2"}, {"id": "delta", "dtype": "<f4"}], "compressor": None}, "one compressor"),
        ({"filters": [{"id": "zlib"}], "compressor": {"id": "lzma"}}, "one compressor"),
        ({"compressor": {"id": "lzma", "format": 3, "filters": [{"id": 33, "dict_size": 2**32 - 1}]}}, "write it so"),
    ],
)
def test_chains_of_compressors_are_refused(tmp_path, changes, remedy):
    path = buffer(tmp_path / "foreign")
    file = path / "data/state/.zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=rf"{file}: .*{remedy}"):
        ReplayBuffer(path, FOREIGN, SOURCES)


SHARD = {"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 2], "codecs": ["bytes"]}}
INNER = {"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 2], "codecs": [SHARD]}}


@pytest.mark.parametrize(
    "codecs",
    [
        ["bytes", "gzip", "zstd"],
        ["bytes", {"name": "numcodecs.bz2"}, "zstd", "crc32c"],
        [SHARD, "gzip"],
        ["transpose", SHARD],
        [INNER],
    ],
)
def test_chains_of_version_three_are_refused(tmp_path, codecs):
    path = buffer(tmp_path / "foreign", zarr_format=3)
    file = path / "data/state/zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"codecs": codecs}))
    with pytest.raises(ValueError, match=rf"{file}: .*write the array with"):
        ReplayBuffer(path, FOREIGN, SOURCES)


def test_bombs_in_shards_are_refused(tmp_path):
    path = tmp_path / "foreign"
    group = zarr.create_group(path, zarr_format=3)
    values = np.ones((10, 2), "float32")
    compressors = [zarr.codecs.GzipCodec()]
    group.create_array("data/state", data=values, chunks=(1, 2), shards=(10, 2), compressors=compressors)
    group.create_array("data/action", data=values)
    group.create_array("meta/episode_ends", data=np.array([5, 10]))
    store, bomb = ReplayBuffer(path, FOREIGN, SOURCES), gzip.compress(LARGE)
    assert store.read("state").shape == (10, 2)
    file = path / "data/state/c/0/0"
    index = np.array([[0, len(bomb)]] * 10, "<u8").tobytes()
    file.write_bytes(bomb + index + numcodecs.CRC32C().encode(index).tobytes()[-4:])
    with pytest.raises(ValueError, match=rf"{file} is damaged .*claims"):
        store.read("state", 3, 4)
