"""Images in demonstration stores, and decoded for training windows."""

import asyncio
import errno
import io
import shutil
import struct
import time
import zlib

import numcodecs
import numpy as np
import pytest
import torch
import zarr
from PIL import Image
from recede.datasets import image_cache
from recede.datasets.formats.replay_buffer import ReplayBuffer
from recede.datasets.image_cache import decode_stream
from recede.datasets.image_codec import IMAGE_COMPRESSIONS, LOSSY, ImageCodec
from recede.datasets.mirror import Mirrored
from recede.datasets.store import DemonstrationStore
from recede.datasets.windows import Windows
from recede.specification import Horizons, Specification, Stream
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.dtype import UInt8

SPECIFICATION = Specification(
    (Stream("state", (2,)), Stream("scene", (12, 16, 3), "uint8"), Stream("wrist", (8, 8, 3), "uint8")),
    Stream("action", (2,)),
    control_dt=0.1,
)
HORIZONS = Horizons(2, 4, 2)
CPU = torch.device("cpu")


def episode(seed, length=9):
    """An episode with smooth images, as of a camera."""
    rng = np.random.default_rng(seed)
    streams = {name: rng.normal(size=(length, 2)).astype("float32") for name in ("state", "action")}
    for stream in SPECIFICATION.observations[1:]:
        height, width, _ = stream.shape
        rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
        picture = 100 + 60 * np.sin(rows / 4 + rng.uniform(0, 6, 3)) + 60 * np.cos(columns / 5 + rng.uniform(0, 6, 3))
        shifts = rng.uniform(-20, 20, (length, 1, 1, 1))
        streams[stream.name] = (picture + shifts).clip(0, 255).astype(np.uint8)
    return streams


@pytest.fixture
def recorded(tmp_path):
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION)
    for seed in range(3):
        store.append(episode(seed), seed=seed)
    return store


@pytest.mark.parametrize("images", IMAGE_COMPRESSIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_zstd_and_png_are_lossless_and_the_others_are_close(tmp_path, images, channels):
    specification = Specification((Stream("camera", (12, 16, channels), "uint8"),), Stream("action", (2,)), 0.1)
    store = DemonstrationStore.create(tmp_path / "demos", specification, images=images)
    episodes = [
        {"camera": streams["scene"][..., :channels], "action": streams["action"]} for streams in map(episode, range(4))
    ]
    for streams in episodes:
        store.append(streams)
    store = DemonstrationStore.open(tmp_path / "demos")
    for index, streams in enumerate(episodes):
        error = np.abs(store.episode(index)["camera"].astype(int) - streams["camera"])
        assert error.max() <= (16 if images in LOSSY else 0)
        assert error.mean() <= (2 if images in LOSSY else 0)


@pytest.mark.parametrize(
    ("shape", "images"),
    [
        ((12, 16, 4), "jpeg"),
        ((12, 16, 4), "h264"),
        ((8200, 2, 3), "h264"),
        ((12, 16, 2), "jpeg"),
        ((12, 16, 5), "png"),
        ((70_000, 2, 3), "jpeg"),
    ],
)
def test_images_that_a_compression_cannot_hold_are_refused_when_the_store_is_made(tmp_path, shape, images):
    specification = Specification((Stream("camera", shape, "uint8"),), Stream("action", (2,)), 0.1)
    with pytest.raises(
        ValueError, match=rf"'camera': {images} images .*{shape[0]}, .*: compress them with images=zstd"
    ):
        DemonstrationStore.create(tmp_path / "demos", specification, images=images)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("channels", "images"), [(2, "png"), (4, "png"), (6, "zstd"), (32, "zstd")])
def test_images_of_more_or_fewer_channels_are_recorded_and_read(tmp_path, channels, images):
    specification = Specification((Stream("camera", (6, 5, channels), "uint8"),), Stream("action", (2,)), 0.1)
    store = DemonstrationStore.create(tmp_path / "demos", specification, images=images)
    frames = np.random.default_rng(0).integers(0, 256, (4, 6, 5, channels), dtype=np.uint8)
    store.append({"camera": frames, "action": np.zeros((4, 2), "float32")})
    np.testing.assert_array_equal(store.read("camera"), frames)


@pytest.mark.parametrize("images", LOSSY)
def test_a_later_append_does_not_recompress_earlier_images(tmp_path, images):
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION, images=images)
    store.append(episode(0))
    first = store.episode(0)["scene"]
    for seed in range(1, 6):
        store.append(episode(seed))
    np.testing.assert_array_equal(DemonstrationStore.open(store.path).episode(0)["scene"], first)


@pytest.mark.parametrize(("images", "most"), [("zstd", 1.02), ("png", 0.7), ("jpeg", 0.4), ("h264", 0.03)])
def test_compressed_images_are_small(tmp_path, images, most):
    specification = Specification((Stream("camera", (96, 96, 3), "uint8"),), Stream("action", (2,)), 0.1)
    store = DemonstrationStore.create(tmp_path / "demos", specification, images=images)
    rows, columns = np.arange(96)[:, None, None], np.arange(96)[None, :, None]
    picture = 120 + 60 * np.sin(rows / np.array([4, 5, 6])) + 60 * np.cos(columns / np.array([5, 6, 7]))
    store.append({"camera": np.tile(picture.astype(np.uint8), (30, 1, 1, 1)), "action": np.zeros((30, 2), "float32")})
    size = sum(file.stat().st_size for file in (store.path / "data/camera").rglob("*") if file.is_file())
    assert size < most * 30 * 96 * 96 * 3


def test_an_unknown_compression_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"png.*'webp'"):
        DemonstrationStore.create(tmp_path / "demos", SPECIFICATION, images="webp")
    assert not list(tmp_path.iterdir())


def test_zarr_opens_stores_of_png_by_itself(tmp_path):
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION, images="png")
    store.append(episode(0))
    np.testing.assert_array_equal(zarr.open_group(store.path, mode="r")["data/scene"][:9], episode(0)["scene"])


@pytest.mark.parametrize("images", IMAGE_COMPRESSIONS)
def test_a_truncated_image_file_is_named(tmp_path, images):
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION, images=images)
    store.append(episode(0))
    (file,) = [file for file in (store.path / "data/wrist/c").rglob("*") if file.is_file()]
    content = file.read_bytes()
    for kept in (0, 10, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=f"data/wrist: .*{file} is damaged .*restore"):
            Windows(DemonstrationStore.open(store.path), HORIZONS).batch(torch.tensor([0]))


# --- decoded images


def test_mapped_images_equal_those_on_the_device(recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("RECEDE_CACHE", str(tmp_path / "cache"))
    resident, mapped = (Windows(recorded, HORIZONS, image_cache=place) for place in ("device", "mapped"))
    everything = torch.arange(len(resident))
    for name, values in resident.batch(everything).observation.items():
        assert torch.equal(values, mapped.batch(everything).observation[name])
        assert values.dtype == getattr(torch, next(s.dtype for s in SPECIFICATION.streams if s.name == name))
    assert sorted(file.name for file in (tmp_path / "cache").rglob("*.npy")) == ["scene.npy", "wrist.npy"]


def test_images_are_mapped_if_the_device_has_no_room(recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("RECEDE_CACHE", str(tmp_path / "cache"))
    streams = recorded.specification.streams
    sizes = {stream.name: recorded.num_steps * stream.size * np.dtype(stream.dtype).itemsize for stream in streams}
    whole, vectors = sum(sizes.values()), sizes["state"] + sizes["action"]
    monkeypatch.setattr(image_cache, "free_memory", lambda device: whole / image_cache.RESIDENT_SHARE)
    assert Windows(recorded, HORIZONS).streams
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(image_cache, "free_memory", lambda device: (whole - 1) / image_cache.RESIDENT_SHARE)
    assert Windows(recorded, HORIZONS).streams
    assert sorted(file.name for file in (tmp_path / "cache").rglob("*.npy")) == ["scene.npy", "wrist.npy"]
    expected = Windows(recorded, HORIZONS, image_cache="device")
    monkeypatch.setattr(image_cache, "free_memory", lambda device: (vectors - 1) / image_cache.RESIDENT_SHARE)
    assert image_cache.choose_places(recorded, device=CPU, place="device") == dict.fromkeys(sizes, "device")
    mapped = Windows(recorded, HORIZONS)
    assert mapped.streams
    assert len([*(tmp_path / "cache").rglob("*.npy")]) == 4
    for one, other in zip(mapped.batch(torch.arange(9)), expected.batch(torch.arange(9)), strict=True):
        pairs = [(one[name], other[name]) for name in one] if isinstance(one, dict) else [(one, other)]
        assert all(torch.equal(*pair) and pair[0].dtype == pair[1].dtype for pair in pairs)


def test_decoded_images_are_reused_until_the_store_grows(recorded, tmp_path):
    def load():
        return decode_stream(recorded, recorded.stream("scene"), device=CPU, place="mapped", cache=tmp_path / "cache")

    load()
    (file,) = (tmp_path / "cache").rglob("*.npy")
    written = file.stat().st_mtime_ns
    load()
    assert file.stat().st_mtime_ns == written
    recorded.append(episode(5))
    assert len(load()) == recorded.num_steps
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2


def test_decoded_images_of_another_length_are_decoded_again(recorded, tmp_path):
    intact = mapped(recorded, tmp_path / "cache").clone()
    (file,) = (tmp_path / "cache").rglob("*.npy")
    for damaged in (file.read_bytes()[:-1], b"", b"x" * file.stat().st_size):
        file.write_bytes(damaged)
        assert torch.equal(mapped(recorded, tmp_path / "cache"), intact)


def mapped(demonstrations, cache):
    return decode_stream(demonstrations, demonstrations.stream("scene"), device=CPU, place="mapped", cache=cache)


@pytest.mark.parametrize("images", IMAGE_COMPRESSIONS)
def test_decoded_images_are_reused_wherever_their_store_lies(tmp_path, images):
    store = DemonstrationStore.create(tmp_path / "demos", SPECIFICATION, images=images)
    store.append(episode(0))
    first = mapped(store, tmp_path / "cache")
    shutil.copytree(store.path, tmp_path / "copy", copy_function=shutil.copyfile)
    again = mapped(DemonstrationStore.open(tmp_path / "copy"), tmp_path / "cache")
    assert torch.equal(first, again)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1


def test_decoded_images_follow_their_source(foreign, tmp_path):
    """Another source function, another mirror, and pixels that are written in place."""
    cache = tmp_path / "cache"

    def reader(convert):
        sources = {"scene": ("img", convert), "action": ("action", lambda rows: rows)}
        return ReplayBuffer(foreign, opened(foreign).specification, sources)

    def check(demonstrations, num_files):
        assert torch.equal(mapped(demonstrations, cache), torch.from_numpy(demonstrations.read("scene")))
        assert len(list(cache.rglob("*.npy"))) == num_files

    plain = reader(lambda rows: rows)
    check(plain, 1)
    check(reader(lambda rows: rows[..., ::-1]), 2)
    check(Mirrored(plain, {"scene": lambda rows: rows[:, :, ::-1], "action": np.negative}), 3)
    check(Mirrored(plain, {"scene": lambda rows: rows[:, ::-1], "action": np.negative}), 4)
    check(reader(lambda rows: rows), 4)
    before = (foreign / "data" / "img" / ".zarray").stat()
    zarr.open_group(foreign, mode="r+")["data/img"][3] = 7.0
    assert (foreign / "data" / "img" / ".zarray").stat().st_mtime_ns == before.st_mtime_ns
    check(plain, 5)


def test_a_source_that_cannot_be_identified_is_decoded_by_every_run(foreign, tmp_path):
    class Shift:
        def __init__(self, by):
            self.by = by

        def __call__(self, rows):
            return np.roll(rows, self.by, axis=-1)

    for by in (0, 1):
        sources = {"scene": ("img", Shift(by)), "action": ("action", lambda rows: rows)}
        buffer = ReplayBuffer(foreign, opened(foreign).specification, sources)
        images = mapped(buffer, tmp_path / "cache")
        np.testing.assert_array_equal(images, np.roll(episode(0)["scene"], by, axis=-1))
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("convert", [lambda rows: rows[..., ::-1], lambda rows: np.asfortranarray(rows)])
def test_sources_may_return_views_of_any_order(foreign, tmp_path, convert):
    sources = {
        "scene": ("img", lambda rows: convert(rows).astype(np.uint8)[:, ::-1]),
        "action": ("action", np.negative),
    }
    buffer = ReplayBuffer(foreign, opened(foreign).specification, sources)
    expected = convert(episode(0)["scene"])[:, ::-1]
    for options in ({}, {"image_cache": "mapped"}):
        np.testing.assert_array_equal(Windows(buffer, HORIZONS, **options).streams["scene"], expected)


def test_a_cache_folder_that_cannot_be_made_names_its_variable(recorded, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RECEDE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match=r"27 .*'scene'.*set RECEDE_CACHE to another folder.*image_cache=device"):
        Windows(recorded, HORIZONS, image_cache="mapped").batch(torch.tensor([0]))


def test_another_store_at_the_same_path_is_decoded_again(recorded, tmp_path):
    cache = tmp_path / "cache"
    before = decode_stream(recorded, recorded.stream("scene"), device=CPU, place="mapped", cache=cache).clone()
    shutil.rmtree(recorded.path)
    time.sleep(0.01)
    other = DemonstrationStore.create(recorded.path, SPECIFICATION)
    for seed in range(10, 13):
        other.append(episode(seed))
    after = decode_stream(other, other.stream("scene"), device=CPU, place="mapped", cache=cache)
    assert not torch.equal(before, after)
    assert torch.equal(after, torch.from_numpy(other.read("scene")))


def test_images_are_decoded_in_pieces(recorded, monkeypatch):
    sizes = []
    monkeypatch.setattr(image_cache, "BYTES_AT_ONCE", 5 * 12 * 16 * 3)
    read = recorded.read
    monkeypatch.setattr(
        recorded, "read", lambda name, start, stop: sizes.append(stop - start) or read(name, start, stop)
    )
    images = decode_stream(recorded, recorded.stream("scene"), device=CPU, place="device", cache=recorded.path)
    assert sizes == [5, 5, 5, 5, 5, 2]
    assert torch.equal(images, torch.from_numpy(read("scene")))


def test_a_full_disk_leaves_no_incomplete_cache(recorded, tmp_path, monkeypatch):
    class Full:
        def __init__(self, decoded):
            self.decoded = decoded

        def __call__(self, demonstrations, stream):
            yield from self.decoded(demonstrations, stream)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image_cache, "_decoded_pieces", Full(image_cache._decoded_pieces))
    with pytest.raises(OSError, match=r"27 .*'scene'.*No space left.*RECEDE_CACHE"):
        decode_stream(recorded, recorded.stream("scene"), device=CPU, place="mapped", cache=tmp_path / "cache")
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_an_unknown_place_is_refused(recorded):
    with pytest.raises(ValueError, match=r"image_cache.*auto, device, mapped.*disk"):
        Windows(recorded, HORIZONS, image_cache="disk")


def test_only_observed_images_are_gathered(recorded):
    batch = Windows(recorded, HORIZONS).batch(torch.tensor([0, 3]))
    assert batch.observation["scene"].shape == (2, 2, 12, 16, 3)
    assert torch.equal(batch.observation["scene"][1], torch.from_numpy(recorded.read("scene", 2, 4)))


# --- images that other programs stored as floating-point numbers


@pytest.fixture
def foreign(tmp_path):
    group = zarr.create_group(tmp_path / "foreign", zarr_format=2)
    streams = episode(0)
    for key, values in {"data/img": streams["scene"].astype("float32"), "data/action": streams["action"]}.items():
        group.create_array(key, data=values)
    group.create_array("meta/episode_ends", data=np.array([9]))
    return tmp_path / "foreign"


def opened(path):
    specification = Specification((Stream("scene", (12, 16, 3), "uint8"),), Stream("action", (2,)), 0.1)
    return ReplayBuffer(
        path, specification, {"scene": ("img", lambda rows: rows), "action": ("action", lambda rows: rows)}
    )


def test_whole_float_images_are_read_as_bytes_exactly(foreign):
    images = opened(foreign).read("scene")
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, episode(0)["scene"])


@pytest.mark.parametrize("wrong", [-1.0, 256.0, 0.5, np.nan, np.inf])
def test_other_float_images_are_refused(foreign, wrong):
    zarr.open_group(foreign, mode="r+")["data/img"][3, 2, 1, 0] = wrong
    with pytest.raises(ValueError, match=f"data/img: .*whole numbers.*got {wrong}"):
        opened(foreign).read("scene")


# --- images and chunks that claim to be larger than they may be


def picture(size, mode, kind):
    """A file of a few kilobytes, however large the picture."""
    content = io.BytesIO()
    if kind == "png":
        header = struct.pack(">IIBBBBB", *size, 8, {"L": 0, "RGB": 2}[mode], 0, 0, 0)
        content.write(b"\x89PNG\r\n\x1a\n")
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
            content.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    else:
        Image.new(mode, size).save(content, format="jpeg")
    return content.getvalue()


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 10_000), (16, 13)])
def test_a_picture_of_another_size_is_refused_before_it_is_decoded(size):
    decode(picture((16, 12), "RGB", "jpeg"), "jpeg")
    for mode in ("RGB", "L"):
        with pytest.raises(ValueError, match=rf"must be \(\(16, 12\), 'RGB'\), got \(\({size[0]}, {size[1]}"):
            decode(picture(size, mode, "png"), "png")
    with pytest.raises(ValueError, match=r"must be .*'RGB'.*got .*'L'"):
        decode(picture((16, 12), "L", "jpeg"), "jpeg")


def decode(content, kind):
    prototype = default_buffer_prototype()
    spec = ArraySpec((1, 12, 16, 3), UInt8(), 0, ArrayConfig("C", False), prototype)
    return asyncio.run(ImageCodec(kind)._decode_single(prototype.buffer.from_bytes(content), spec))


def frame(size):
    """The beginning of a zstd frame that declares its size."""
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + bytes(100)


def test_a_chunk_that_claims_too_much_is_refused_before_memory_is_taken(recorded, tmp_path):
    for name in ("wrist", "action"):
        (file,) = [file for file in (recorded.path / "data" / name / "c").rglob("*") if file.is_file()]
        content = bytearray(file.read_bytes())
        begin = content.index(b"\x28\xb5\x2f\xfd")
        content[begin : begin + 20] = frame(2**40)[:20]
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"data/{name}: chunk file {file} is damaged .*claims {2**40}.*restore"):
            DemonstrationStore.open(recorded.path).read(name, 0, 1)


@pytest.mark.parametrize(
    ("compressor", "begin"),
    [
        (numcodecs.Blosc(), lambda size: bytes([2, 1, 1, 4]) + (2**31 - 1).to_bytes(4, "little")),
        (numcodecs.LZ4(), lambda size: (2**31 - 1).to_bytes(4, "little")),
        (numcodecs.Zstd(), lambda size: frame(2**31)[:20]),
    ],
)
def test_no_compressor_of_version_two_takes_more_than_a_chunk(tmp_path, compressor, begin):
    group = zarr.create_group(tmp_path / "foreign", zarr_format=2)
    for key in ("data/img", "data/action"):
        group.create_array(key, data=episode(0)[{"data/img": "scene"}.get(key, "action")], compressors=compressor)
    group.create_array("meta/episode_ends", data=np.array([9]))
    opened(tmp_path / "foreign").read("action")
    file = tmp_path / "foreign/data/action/0.0"
    head = begin(0)
    file.write_bytes(head + file.read_bytes()[len(head) :])
    with pytest.raises(ValueError, match=rf"{file} is damaged .*claims"):
        opened(tmp_path / "foreign").read("action")
