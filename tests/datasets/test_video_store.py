"""Images of a store in H.264: groups that decode alone, exactly what the decoder gives, and never encoded twice."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.datasets import video_codec
from recede.datasets.check import check_demonstrations
from recede.datasets.copying import copy, verify
from recede.datasets.episode_writer import NewEpisode
from recede.datasets.image_codec import as_stored
from recede.datasets.store import DemonstrationStore
from recede.datasets.video_codec import as_video, decode, encode
from recede.specification import Specification, Stream
from stores import files

CAMERA = Stream("camera", (13, 18, 3), "uint8")
SPECIFICATION = Specification(
    (CAMERA, Stream("grey", (6, 4, 1), "uint8"), Stream("goal", (6, 4, 3), "uint8", context=True)),
    Stream("action", (1,)),
    control_dt=0.1,
)
LENGTHS = (40, 1, 16, 5)


def episode(seed, length):
    """Smooth pictures that move, whose goal is the last one."""
    rng, times = np.random.default_rng(seed), np.arange(length)[:, None, None, None]
    streams = {"action": rng.normal(size=(length, 1)).astype("float32")}
    for stream in SPECIFICATION.observations[:2]:
        rows, columns = np.arange(stream.shape[0])[:, None, None], np.arange(stream.shape[1])[:, None]
        picture = 120 + 50 * np.sin(rows / 4 + times / 9 + rng.uniform(0, 6, 3)) + 50 * np.cos(columns / 5 + times / 7)
        streams[stream.name] = picture.astype(np.uint8)[..., : stream.shape[2]]
    streams["goal"] = np.broadcast_to(streams["camera"][-1:, :6, :4], (length, 6, 4, 3))
    return streams


def decoded(streams):
    """The streams of an episode as the decoder gives them."""
    images = {stream.name: as_stored(streams[stream.name], stream, "h264") for stream in SPECIFICATION.observations}
    return streams | images


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = DemonstrationStore.create(tmp_path_factory.mktemp("video") / "demos.zarr", SPECIFICATION, images="h264")
    for seed, length in enumerate(LENGTHS):
        store.append(episode(seed, length), seed=seed)
    return DemonstrationStore.open(store.path)


@pytest.fixture(scope="module")
def expected():
    episodes = [decoded(episode(seed, length)) for seed, length in enumerate(LENGTHS)]
    return {name: np.concatenate([streams[name] for streams in episodes]) for name in episodes[0]}


@pytest.mark.parametrize("shape", [(13, 18), (48, 64), (97, 95)])
def test_equal_images_become_equal_bytes(shape):
    """With AVX-512, x264 by itself makes others of the second and third of these each time."""
    times, rows, columns = np.ix_(
        *(np.linspace(0, end, count) for end, count in zip((6, 2, 2), (34, *shape), strict=True))
    )
    images = 128 + 90 * np.sin((times + 2 * rows + columns)[..., None] + 2 * np.arange(3))
    assert len({encode(images.astype(np.uint8)) for _ in range(8)}) == 1


def test_a_store_of_video_keeps_every_promise(store, expected):
    check_demonstrations(store)
    assert store.images == "h264"
    for name, rows in expected.items():
        np.testing.assert_array_equal(store.read(name), rows)
    error = np.abs(
        store.read("camera").astype(int) - np.concatenate([episode(*e)["camera"] for e in enumerate(LENGTHS)])
    )
    assert 0 < error.mean() < 2


@given(st.lists(st.tuples(st.integers(0, sum(LENGTHS)), st.integers(0, sum(LENGTHS))), min_size=1, max_size=6))
@settings(max_examples=5, deadline=None)
def test_images_are_read_in_any_order(store, expected, ranges):
    for one, other in ranges:
        start, stop = sorted((one, other))
        for name in ("camera", "grey", "goal"):
            np.testing.assert_array_equal(store.read(name, start, stop), expected[name][start:stop])


def test_steps_that_come_one_by_one_are_those_of_an_append(store, tmp_path, monkeypatch):
    monkeypatch.setattr("recede.datasets.store.SHARD_FRAMES", 20)  # a file is one group
    other = DemonstrationStore.create(tmp_path / "demos.zarr", SPECIFICATION, images="h264")
    for seed, length in enumerate(LENGTHS):
        with other.begin() as writer:
            for step in range(length):
                writer.add({name: rows[step : step + 1] for name, rows in episode(seed, length).items()})
            writer.keep(seed=seed)
        with other.begin() as writer:
            writer.add(episode(9, 37))  # discarded
    assert len(files(other.path / "data/camera/c")) > len(files(store.path / "data/camera/c")) == 1
    for name in ("camera", "grey", "goal", "action"):
        np.testing.assert_array_equal(other.read(name), store.read(name))
    while len(other) > 1:
        other.drop_last()
    other.append(episode(1, LENGTHS[1]), seed=1)
    np.testing.assert_array_equal(other.read("camera"), store.read("camera", 0, 41))
    assert len(files(other.path / "data/camera/c")) == 4  # 40 images and 1, in groups of 16


def test_episodes_that_are_appended_at_once_are_those_of_as_many_appends(store, tmp_path, monkeypatch):
    monkeypatch.setattr("recede.datasets.store.SHARD_FRAMES", 20)  # a file is one group
    other = DemonstrationStore.create(tmp_path / "demos.zarr", SPECIFICATION, images="h264")
    assert other.append_many([NewEpisode(episode(*one), one[0]) for one in enumerate(LENGTHS)]) == len(LENGTHS) - 1
    for name in ("camera", "grey", "goal", "action"):
        np.testing.assert_array_equal(DemonstrationStore.open(other.path).read(name), store.read(name))


def test_a_copy_is_what_the_encoder_makes_of_its_source(tmp_path, store, monkeypatch):
    source = DemonstrationStore.create(tmp_path / "source.zarr", SPECIFICATION)
    for seed, length in enumerate(LENGTHS):
        source.append(episode(seed, length), seed=seed)
    monkeypatch.setattr("recede.datasets.copying.PIECE_BYTES", 5 * CAMERA.size)  # pieces end within groups
    digests = copy(source, tmp_path / "copy.zarr", images="h264", provenance={})
    copied = DemonstrationStore.open(tmp_path / "copy.zarr")
    assert verify(source, copied) == digests
    np.testing.assert_array_equal(copied.read("camera"), store.read("camera"))
    assert copied.content("camera") == store.content("camera") != source.content("camera")


def test_the_digest_of_video_depends_on_where_episodes_end(tmp_path):
    contents = set()
    for lengths in ((10, 6), (9, 7)):
        store = DemonstrationStore.create(tmp_path / f"{lengths[0]}.zarr", SPECIFICATION, images="h264")
        for length in lengths:
            still = {name: np.repeat(rows[:1], length, axis=0) for name, rows in episode(0, 1).items()}
            store.append(still)
        contents.add(store.content("camera"))
    assert len(contents) == 2


def test_a_damaged_group_is_named_with_its_episode_and_stream(tmp_path):
    store = DemonstrationStore.create(tmp_path / "demos.zarr", SPECIFICATION, images="h264")
    for seed, length in enumerate(LENGTHS):
        store.append(episode(seed, length))
    (file,) = files(store.path / "data/camera/c")
    intact, rng = file.read_bytes(), np.random.default_rng(0)
    first = intact.index(b"\x00\x00\x00\x01")
    for place in [first, first + 7, *rng.integers(first, first + 200, 4).tolist()]:
        content = bytearray(intact)
        content[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(content)
        words = rf"^episode 0, stream 'camera': {store.path}: data/camera: chunk file {file} is damaged .*restore it"
        with pytest.raises(ValueError, match=words):
            store.read("camera", 3, 50)
        assert len(store.read("camera", 40, 62)) == 22  # no other group needs these bytes


def test_what_is_no_group_of_the_right_images_is_refused():
    images = episode(0, 16)["camera"]
    content = encode(images)
    np.testing.assert_array_equal(decode(content, images.shape), as_video(images, 16))
    for shape, words in {
        (15, 13, 18, 3): "image 15 of 15 .*one too many",
        (17, 13, 18, 3): "must have 17 images, got 16",
        (16, 13, 16, 3): "of 13 x 16 pixels is .*of 13 x 18",
    }.items():
        with pytest.raises(ValueError, match=words):
            decode(content, shape)
    for wrong in (b"", b"\x00" * 50, content[: len(content) // 3], b"RIFF" + bytes(100)):
        with pytest.raises(ValueError, match=r"image|group"):
            decode(wrong, images.shape)


def test_a_group_that_claims_huge_images_takes_no_memory():
    content = encode(np.zeros((1, 1024, 1024, 3), np.uint8))
    with pytest.raises(ValueError, match=r"H\.264|images"):
        decode(content, (1, 64, 64, 3))


def test_a_store_names_no_other_format(tmp_path):
    store = DemonstrationStore.create(tmp_path / "demos.zarr", SPECIFICATION, images="h264")
    description = store.path / "data/camera/zarr.json"
    content = json.loads(description.read_text())
    assert "h264" in json.dumps(content["codecs"])
    description.write_text(json.dumps(content).replace('"h264"', '"h265"'))
    with pytest.raises(ValueError, match=r"description of data/camera is damaged .*png, jpeg, h264.*h265"):
        DemonstrationStore.open(store.path)


def test_without_the_decoder_the_extra_is_named(store, tmp_path):
    program = (
        "import sys; sys.modules['av'] = None\n"
        "from recede.datasets.store import DemonstrationStore as Store\n"
        "store = Store.open(sys.argv[1]); print(store.read('action', 0, 1).shape)\n"
        "for work in (lambda: store.read('camera', 0, 1),\n"
        "             lambda: Store.create(sys.argv[2], store.specification, images='h264')):\n"
        "    try: work()\n"
        "    except ValueError as error: print(error)\n"
    )
    command = [sys.executable, "-P", "-c", program, str(store.path), str(tmp_path / "new")]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert lines[0] == "(1, 1)"
    assert all("needs av: pip install 'recede[lerobot]'" in line for line in lines[1:])
    assert len(lines) == 3
    assert video_codec.ENCODER  # the module itself needs no decoder
