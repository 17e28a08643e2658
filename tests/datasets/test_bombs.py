"""Small chunks that become large: they are refused before memory is taken, whatever compressed them."""

import bz2
import gzip
import json
import lzma
import zlib
from functools import cache

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


COMPRESS = {
    "Zlib": zlib.compress,
    "GZip": gzip.compress,
    "BZ2": bz2.compress,
    "LZMA": lzma.compress,
    "Zstd": lambda content: bytes(numcodecs.Zstd().encode(content)),
    "LZ4": lambda content: bytes(numcodecs.LZ4().encode(content)),
    "Blosc": lambda content: bytes(numcodecs.Blosc().encode(content)),
}
SEVERAL = ("GZip", "BZ2", "LZMA", "Zstd")
"""Their chunks may be several frames, of which the first is small."""


@cache
def bombs(name):
    """Chunks of a codec that become large."""
    bomb, small = COMPRESS[name](LARGE), COMPRESS[name](b"1")
    unknown = zstd_of_unknown_size(len(LARGE))
    more = [unknown, small + b"P*M\x18\1\0\0\0x" + unknown] if name == "Zstd" else []
    return [bomb, *([small + bomb] if name in SEVERAL else []), *more]


COUNTS = dict.fromkeys(COMPRESS, 1) | dict.fromkeys(SEVERAL, 2) | {"Zstd": 4}


@pytest.mark.parametrize(("name", "index"), [(name, index) for name in COUNTS for index in range(COUNTS[name])])
def test_a_bomb_is_refused_and_a_chunk_of_the_same_codec_is_read(tmp_path, name, index):
    chunk = bombs(name)[index]
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
    codec = name.removesuffix("Codec").replace("Gzip", "GZip")
    for intact in bombs(codec) if codec in COMPRESS else []:
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
