"""A store becomes a data set of LeRobot v3.0 and a store again, and nothing is lost on the way."""

import json
import os
import shutil
import signal
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_data import picture, write_v3
from PIL import Image
from recede.commands.convert import run
from recede.configs.datasets import ConvertConfig
from recede.datasets.facts import EpisodeFacts
from recede.datasets.formats import lerobot_export, lerobot_statistics
from recede.datasets.formats.lerobot_comparison import compare
from recede.datasets.formats.lerobot_export import export, exported, frames_a_second
from recede.datasets.formats.lerobot_statistics import ImageStatistics, VectorStatistics
from recede.datasets.formats.recognising import open_foreign
from recede.datasets.mapping import propose
from recede.datasets.store import DemonstrationStore
from recede.specification import Specification, Stream
from waiting import until

LENGTHS = (7, 5, 9, 4)
STARTS = np.cumsum([0, *LENGTHS])
SPECIFICATION = Specification(
    (
        Stream("joints", (3,), units="rad", labels=("waist", "shoulder", "elbow"), low=-9, high=9),
        Stream("half", (2,), "float16"),
        Stream("count", (1,), "uint16"),
        Stream("touch", (2,), "bool"),
        Stream("goal", (2,), context=True),
        Stream("top", (48, 64, 3), "uint8"),
        Stream("odd", (49, 65, 1), "uint8"),
    ),
    Stream("action", (2,), hold=("zero", "last")),
    control_dt=0.1,
)
FACTS = (
    EpisodeFacts(outcome="success", task="pick", sentence="lift", notes={"action": "input"}, rates={"top": 9.9}),
    EpisodeFacts(outcome="failure", task="pick", notes={"action": "commanded"}),
    EpisodeFacts(sentence="lift", operator="me", notes={"action": "commanded"}),
    EpisodeFacts(outcome="success", sentence="drop", notes={"action": "commanded", "more": [1]}),
)


def episode(index, length):
    rng, start = np.random.default_rng(index), STARTS[index]
    top = np.stack([picture(start + step) for step in range(length)])
    odd = [np.asarray(Image.fromarray(image[..., 0]).resize((65, 49)))[..., None] for image in top]
    return {
        "joints": rng.normal(size=(length, 3)).astype("float32"),
        "half": rng.normal(size=(length, 2)).astype("float16"),
        "count": rng.integers(0, 2**16, (length, 1)).astype("uint16"),
        "touch": rng.random((length, 2)) < 0.5,
        "goal": np.tile(rng.normal(size=2).astype("float32"), (length, 1)),
        "top": top,
        "odd": np.stack(odd),
        "action": rng.normal(size=(length, 2)).astype("float32"),
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = DemonstrationStore.create(tmp_path_factory.mktemp("store") / "store.zarr", SPECIFICATION)
    for index, length in enumerate(LENGTHS):
        store.append(episode(index, length), seed=100 + index, facts=FACTS[index])
    return store


@pytest.fixture(scope="module")
def written(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("lerobot") / "data"
    assert export(store, out, video=False, provenance={}) == []
    return out


def rows(root, kind="data"):
    return pa.concat_tables([pq.read_table(file) for file in sorted((root / kind).rglob("*.parquet"))])


def convert(source, **settings):
    run(
        ConvertConfig(
            source=str(source), **{name: str(value) if name == "out" else value for name, value in settings.items()}
        )
    )


def test_a_store_comes_back_bit_by_bit(store, tmp_path, capsys):
    out, back = tmp_path / "lerobot", tmp_path / "back.zarr"
    convert(store.path, out=out, to="lerobot")
    assert "half: float16 is written as float32" in capsys.readouterr().out
    convert(out, out=back)
    again = DemonstrationStore.open(back)
    assert again.specification == store.specification
    assert again.episode_seeds.tolist() == store.episode_seeds.tolist()
    assert list(again.episode_facts) == list(FACTS)
    for name in (stream.name for stream in SPECIFICATION.streams):
        np.testing.assert_array_equal(again.read(name), store.read(name))
    convert(out, out=back, verify=True)
    convert(store.path, out=out, to="lerobot", verify=True)
    with pytest.raises(ValueError, match="exists already"):
        convert(store.path, out=out, to="lerobot")


def test_the_tables_are_as_lerobot_describes_them(store, written):
    info = json.loads((written / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["video_path"]) == ("v3.0", 10, None)
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (4, 25, 3)
    assert info["features"]["observation.joints"] == {
        "dtype": "float32", "shape": [3], "names": ["waist", "shoulder", "elbow"],
    }  # fmt: skip
    table = rows(written)
    assert table.schema.field("observation.joints").type == pa.list_(pa.float32(), 3)
    assert table.schema.field("observation.count").type == pa.int32()
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.schema.names
    assert features["observation.images.top"] == {"_type": "Image"}
    assert set(table.schema.names) == set(info["features"])
    np.testing.assert_array_equal(table["index"], np.arange(25))
    np.testing.assert_array_equal(table["episode_index"], np.repeat(np.arange(4), LENGTHS))
    steps = np.concatenate([np.arange(length) for length in LENGTHS])
    np.testing.assert_array_equal(table["frame_index"], steps)
    np.testing.assert_array_equal(table["timestamp"], (steps / 10).astype("float32"))
    np.testing.assert_array_equal(np.flatnonzero(table["next.success"]), [6, 24])
    tasks = pq.read_table(written / "meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0, 1, 2], "task": ["lift", "pick", "drop"]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    np.testing.assert_array_equal(table["task_index"], np.repeat([0, 1, 0, 2], LENGTHS))


def test_statistics_are_those_of_numpy(store, written):
    stats, episodes = json.loads((written / "meta/stats.json").read_text()), rows(written, "meta/episodes").to_pylist()
    table, streams = rows(written), {"joints": "observation.joints", "top": "observation.images.top"}
    values = {key: np.asarray(store.read(name), "float64") for name, key in streams.items()}
    values["index"] = np.asarray(table["index"], "float64")[:, None]
    assert set(stats) == set(table.schema.names)
    for key, whole in values.items():
        pieces = [(stats[key], whole)]
        for number, row in enumerate(episodes):
            noted = {name: row[f"stats/{key}/{name}"] for name in stats[key]}
            pieces.append((noted, whole[STARTS[number] : STARTS[number + 1]]))
        for noted, part in pieces:
            assert noted["count"] == [len(part)]
            is_image = part.ndim == 4
            flat = part.reshape(-1, part.shape[-1]) / (255 if is_image else 1)
            quantiles = {f"q{q:02d}": np.quantile(flat, q / 100, axis=0) for q in (1, 10, 50, 90, 99)}
            expected = {"min": flat.min(0), "max": flat.max(0), "mean": flat.mean(0), "std": flat.std(0)} | quantiles
            for name, value in expected.items():
                shape = (3, 1, 1) if is_image else value.shape
                np.testing.assert_allclose(np.array(noted[name]), value.reshape(shape), atol=1e-9, rtol=1e-9)


def test_quantiles_of_many_steps_are_of_evenly_spaced_ones(monkeypatch):
    monkeypatch.setattr(lerobot_statistics, "SAMPLE_BYTES", 8 * 100)
    statistics, values = VectorStatistics(1), np.arange(1000.0)[:, None]
    for start, stop in ((0, 3), (3, 4), (4, 250), (250, 999), (999, 1000)):
        statistics.add(values[start:stop])
        assert sum(map(len, statistics._kept)) <= 100
    result = statistics.result()
    assert (result["min"], result["max"], result["count"]) == ([0], [999], [1000])
    np.testing.assert_allclose([result["mean"], result["std"]], [[values.mean()], [values.std()]])
    np.testing.assert_array_equal(np.concatenate(statistics._kept)[:, 0], np.arange(0, 1000, 16))


def test_statistics_keep_none_of_the_rows_that_they_leave_out(monkeypatch):
    monkeypatch.setattr(lerobot_statistics, "SAMPLE_BYTES", 2**13)
    statistics, values = VectorStatistics(1), np.arange(10_000.0, dtype=np.float32)[:, None]
    tracemalloc.start()
    for _ in range(100):
        statistics.add(values)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 5e4  # of 8 MB


@pytest.mark.parametrize("count", [1, 2, 7])
def test_quantiles_of_images_are_those_of_all_pixels(count):
    images = np.random.default_rng(count).integers(0, 256, (count, 3, 5, 1), dtype=np.uint8)
    statistics = ImageStatistics(1)
    statistics.add(images)
    np.testing.assert_allclose(statistics.result()["q90"], [[[np.quantile(images / 255, 0.9)]]])


def test_files_end_at_the_size_that_they_may_have(store, tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot_export, "DATA_MB", 0.03)
    monkeypatch.setattr(lerobot_export, "VIDEO_MB", 0.003)
    monkeypatch.setattr(lerobot_export, "EPISODES_AT_ONCE", 3)
    export(store, tmp_path / "lerobot", video=True, provenance={})
    places = {
        key: [row[f"{key}/file_index"] for row in rows(tmp_path / "lerobot", "meta/episodes").to_pylist()]
        for key in ("videos/observation.images.top", "videos/observation.images.odd")
    }
    begins = rows(tmp_path / "lerobot", "meta/episodes")["videos/observation.images.top/from_timestamp"].to_pylist()
    files = places["videos/observation.images.top"]
    assert files == sorted(files), files
    assert 1 < len(set(files)) <= 4
    assert [begin == 0 for begin in begins] == [
        number != before for number, before in zip(files, [-1, *files], strict=False)
    ]


def test_a_video_differs_by_what_the_codec_loses(store, tmp_path, capsys):
    out = tmp_path / "lerobot"
    convert(store.path, out=out, to="lerobot", video=True)
    printed, agreements = capsys.readouterr().out, compare(store, out)
    assert {agreement.stream for agreement in agreements} == {"top", "odd"}
    for agreement in agreements:
        assert 38 < agreement.worst <= agreement.psnr < 100
        assert f"{agreement.stream}: the video differs from the images, PSNR {agreement.psnr:.1f} dB" in printed
    assert not any("images" in name for name in rows(out).schema.names)
    convert(out, out=tmp_path / "back.zarr")
    back = DemonstrationStore.open(tmp_path / "back.zarr")
    np.testing.assert_array_equal(back.read("joints"), store.read("joints"))
    error = (back.read("top").astype(float) - store.read("top")) ** 2
    assert 10 * np.log10(255**2 / error.mean(axis=(1, 2, 3))).min() == pytest.approx(agreements[0].worst, abs=1e-3)


def test_a_changed_value_is_found(store, tmp_path):
    out = tmp_path / "lerobot"
    export(store, out, video=False, provenance={})
    file = next((out / "data").rglob("*.parquet"))
    table = pq.read_table(file)
    values = table["action"].to_pylist()
    values[13][1] = np.nextafter(np.float32(values[13][1]), np.float32(9))
    column = pa.array(values, table.schema.field("action").type)
    pq.write_table(table.set_column(table.schema.get_field_index("action"), "action", column), file)
    with pytest.raises(ValueError, match="'action' of episode 2 does not come back"):
        compare(store, out)


def test_a_data_set_that_was_changed_since_has_another_sidecar(store, tmp_path, written):
    root = shutil.copytree(written, tmp_path / "data")
    sidecar = root / "meta/recede.json"
    whole = sidecar.read_text()
    content = json.loads(whole)
    content["episodes"].pop()
    sidecar.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"recede.json is of other episodes .* delete it"):
        compare(store, root)
    sidecar.write_text(json.dumps({"episodes": 3}))
    with pytest.raises(ValueError, match="not as recede convert writes it"):
        compare(store, root)
    sidecar.write_text(json.dumps({"mapping": {"foo": 1}, "episodes": json.loads(whole)["episodes"]}))
    with pytest.raises(ValueError, match=r"the mapping that .* keeps has no entry 'foo'"):
        propose(open_foreign(root))
    sidecar.unlink()
    with pytest.raises(ValueError, match=r"has no meta/recede.json"):
        compare(store, root)


@pytest.mark.parametrize(
    ("stream", "video", "message"),
    [
        (Stream("x", (2,), "uint64"), False, "'x': tensors have no uint64"),
        (Stream("x", (48, 64, 4), "uint8"), False, r"1 or 3 channels .* got \(48, 64, 4\)"),
        (Stream("x", (16, 16, 3), "uint8"), False, "more than 1024 values"),
        (Stream("x", (2,)), True, "video=true is for stores with images"),
    ],
)
def test_what_lerobot_cannot_hold_is_refused(stream, video, message):
    with pytest.raises(ValueError, match=message):
        exported(Specification((stream,), Stream("action", (2,)), control_dt=0.1), video=video)


@pytest.mark.parametrize("control_dt", [0.1, 1 / 30, 0.02, 0.07, 1 / 29.97, 0.123456])
def test_the_rate_brings_back_the_control_period(control_dt):
    rate = frames_a_second(control_dt)
    assert 1 / rate == control_dt
    assert isinstance(rate, int) == (control_dt in (0.1, 1 / 30, 0.02))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out": "x", "to": "lerobt"}, "did you mean 'lerobot'"),
        ({"to": "lerobot"}, "give its folder as out="),
        ({"out": "x", "to": "lerobot", "rate": 10}, "rate is for making a store"),
        ({"out": "x", "to": "lerobot", "images": "jpeg"}, "images is for making a store"),
        ({"out": "x", "video": True}, "add to=lerobot"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ConvertConfig(source="a.zarr", **settings)


def test_nothing_is_left_of_an_export_that_fails(store, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lerobot_export, "_write_tasks", fail)
    with pytest.raises(OSError, match=r"lerobot could not be written .* disk has room"):
        export(store, tmp_path / "lerobot", video=True, provenance={})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_export_leaves_nothing_that_looks_whole_and_the_next_one_cleans_up(store, nursery, tmp_path):
    long = DemonstrationStore.create(tmp_path / "long.zarr", SPECIFICATION)
    for _ in range(15):
        long.append(episode(2, 9))
    out = tmp_path / "lerobot"
    child = nursery.start("convert", long.path, f"out={out}", "to=lerobot")
    until(lambda: list(tmp_path.glob(".lerobot*.partial/data/chunk-000/*")))
    os.kill(child, signal.SIGKILL)
    assert nursery.wait()[0] == -signal.SIGKILL
    assert not out.exists()
    assert nursery.run("convert", long.path, f"out={out}", "to=lerobot")[0] == 0
    assert not list(tmp_path.glob(".*"))
    assert compare(long, out) == []


@pytest.mark.slow
@pytest.mark.parametrize("video", ["", "h264"])
def test_a_killed_conversion_goes_on(nursery, tmp_path, video):
    lengths = (5,) * 24
    root = write_v3(tmp_path / "data", lengths=lengths, files=(tuple(range(12)), tuple(range(12, 24))), video=video)
    whole, killed = tmp_path / "whole.zarr", tmp_path / "killed.zarr"
    convert(root, out=whole)
    child = nursery.start("convert", root, f"out={killed}")
    until(lambda: (tmp_path / "killed.unfinished.zarr/data/action").exists())
    unfinished = tmp_path / "killed.unfinished.zarr"
    until(lambda: len(DemonstrationStore.open(unfinished)) >= 2)
    os.kill(child, signal.SIGKILL)
    assert nursery.wait()[0] == -signal.SIGKILL
    assert 2 <= len(DemonstrationStore.open(unfinished)) < 24
    status, output = nursery.run("convert", root, f"out={killed}")
    assert status == 0
    assert "the copy goes on behind them" in output
    for name in ("top", "state", "action"):
        np.testing.assert_array_equal(
            DemonstrationStore.open(killed).read(name), DemonstrationStore.open(whole).read(name)
        )
