"""Damage to the files of a demonstration store is detected, wherever it is, in zarr v3 and v2."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from recede.datasets.store import DemonstrationStore
from stores import assert_episodes, files, make_episode, read_all


def chunk_files(path):
    return [file for file in files(path) if "c" in file.parts and file.name.isdigit()]


def read_array_of(file, store):
    """Read the array of a chunk file: a stream, or the arrays that opening a store reads."""
    group, key = file.relative_to(store.path).parts[:2]
    return store.read(key) if group == "data" else DemonstrationStore.open(store.path).episode_facts


@pytest.mark.slow
@pytest.mark.parametrize("recorded", ["zstd", "png", "jpeg", "h264"], indirect=True)
def test_a_flipped_bit_or_a_cut_of_any_chunk_file_is_detected(recorded):
    chunks = chunk_files(recorded)
    assert {file.relative_to(recorded).parts[1] for file in chunks} == {
        *("gripper", "image", "contact", "action", "episode_ends", "episode_seeds"),
        *("facts", "fact_ends"),
    }
    rng, store = np.random.default_rng(0), DemonstrationStore.open(recorded)
    for file in chunks:
        intact = file.read_bytes()
        places = {0, 4, 5, 19, len(intact) // 2, len(intact) - 5, len(intact) - 1, int(rng.integers(len(intact)))}
        damaged = [intact[: int(length)] for length in (0, 3, len(intact) // 2, len(intact) - 1)]
        for place in places & {*range(len(intact))}:  # bytes 4 and 19 hold the unused bits of zstd's header
            damaged.append(bytearray(intact))
            damaged[-1][place] ^= 1 << int(rng.integers(8))
        for content in damaged:
            file.write_bytes(content)
            with pytest.raises(ValueError, match="damaged") as error:
                read_array_of(file, store)
            assert str(recorded) in str(error.value)
            assert str(file) in str(error.value)
        file.write_bytes(intact)
    read_all(recorded)


def test_a_missing_chunk_file_is_detected(recorded):
    store = DemonstrationStore.open(recorded)
    for file in chunk_files(recorded):
        intact = file.read_bytes()
        file.unlink()
        with pytest.raises(ValueError, match=f"{file} is missing: restore it from a copy"):
            read_array_of(file, store)
        file.write_bytes(intact)
    read_all(recorded)


def test_a_read_needs_only_the_chunks_of_its_steps(recorded):
    whole = read_all(recorded)["action"]
    (recorded / "data/action/c/1/0").unlink()
    store = DemonstrationStore.open(recorded)
    np.testing.assert_array_equal(store.read("action", 0, 16), whole[:16])
    np.testing.assert_array_equal(store.read("action", 32, 57), whole[32:])
    for start, stop in [(15, 17), (31, 33), (16, 17)]:
        with pytest.raises(ValueError, match=r"data/action: chunk file .*c/1/0 is missing"):
            store.read("action", start, stop)


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"\0" * 40)])
@pytest.mark.parametrize("key", ["data/action/c/3/0", "data/image/c/3/0/0/0", "meta/episode_ends/c/0"])
def test_an_append_does_not_overwrite_a_damaged_chunk(recorded, key, damage):
    intact = (recorded / key).read_bytes()
    store = DemonstrationStore.open(recorded)
    damage(recorded / key)
    with pytest.raises(ValueError, match=f"{key} is (missing|damaged)"):
        store.append(make_episode(4, 20))
    (recorded / key).write_bytes(intact)
    assert len(DemonstrationStore.open(recorded)) == 3
    store.append(make_episode(4, 20))
    np.testing.assert_array_equal(store.episode(3)["image"], make_episode(4, 20)["image"])


def test_rows_of_an_unfinished_append_are_ignored_and_overwritten(recorded):
    episodes = [DemonstrationStore.open(recorded).episode(index) for index in range(3)]
    group = zarr.open_group(recorded, mode="r+")
    for key, size in [("data/action", 200), ("data/image", 90), ("meta/episode_ends", 4)]:
        array = group[key]
        end = 3 if key.startswith("meta") else 57
        array.resize((size, *array.shape[1:]))
        array[end:] = 5
    (recorded / "data/action/c/7/0").write_bytes(b"half a chunk")
    (recorded / "data/action/c/12/0").unlink()
    assert_episodes(DemonstrationStore.open(recorded), episodes)
    episodes += [make_episode(5, 60), make_episode(6, 4)]
    for episode in episodes[3:]:
        DemonstrationStore.open(recorded).append(episode)
    assert_episodes(DemonstrationStore.open(recorded), episodes)
    assert zarr.open_group(recorded, mode="r")["data/action"].shape == (121, 2)


@pytest.mark.slow
def test_a_damaged_description_raises_a_value_error_or_is_harmless(recorded):
    rng = np.random.default_rng(0)
    for file in files(recorded, "zarr.json"):
        intact = file.read_bytes()
        for place in rng.integers(0, len(intact), 12):
            content = bytearray(intact)
            content[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(content)
            try:
                read_all(recorded)
            except ValueError as error:
                assert str(recorded) in str(error)  # noqa: PT017
        file.write_bytes(intact)


# --- zarr v2


@pytest.fixture
def version_two(recorded, tmp_path):
    """The recorded store, copied to zarr v2, with one big-endian stream."""
    source, target = zarr.open_group(recorded, mode="r"), zarr.create_group(tmp_path / "v2", zarr_format=2)
    target.attrs["recede"] = source.attrs["recede"]
    for key in ["data/action", "data/contact", "data/gripper", "data/image", "meta/episode_ends", "meta/episode_seeds"]:
        values = source[key][:]
        if key == "data/gripper":
            values = values.astype(">f4")
        array = target.create_array(
            key,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(16, *values.shape[1:]),
            config={"write_empty_chunks": True},
        )
        array[:] = values
    return tmp_path / "v2"


def test_a_zarr_v2_store_is_read_only(recorded, version_two):
    store = DemonstrationStore.open(version_two)
    assert_episodes(store, [DemonstrationStore.open(recorded).episode(index) for index in range(3)])
    with pytest.raises(ValueError, match=r"zarr v2 .*new store"):
        store.append(make_episode(0, 3))


def test_a_missing_or_truncated_chunk_of_a_zarr_v2_store_is_detected(version_two):
    file = version_two / "data/image/1.0.0.0"
    intact = file.read_bytes()
    for length in (0, 7, len(intact) // 2, len(intact) - 1):
        file.write_bytes(intact[:length])
        with pytest.raises(ValueError, match=f"{file} is damaged"):
            DemonstrationStore.open(version_two).read("image")
    file.unlink()
    with pytest.raises(ValueError, match=f"{file} is missing"):
        DemonstrationStore.open(version_two).read("image")
