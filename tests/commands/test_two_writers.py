"""Commands that write to one folder at the same time: the second is refused before it computes anything."""

import json
import os
import shutil
import signal
import threading
import time

import pytest
from recede.datasets.store import DemonstrationStore
from recede.evaluation.reports.comparison import find_evaluations, write_lines
from recede.files import exclusive, taking_turns, with_digest
from recede.recording.stores import open_or_create

EVALUATE = ["task=toys:REACH", "device=cpu", "videos=0"]


@pytest.mark.parametrize(
    ("arguments", "lock"),
    [
        (["evaluate", "{trained}", *EVALUATE, "out={out}"], ".results.lock"),
        (["evaluate", "{trained}", *EVALUATE, "delay_ms=[0,200]", "out={out}"], ".results.lock"),
        (["control", "{trained}", "robot.task=toys:REACH", "out={out}"], ".lock"),
        (["demo", "out={out}", "device=cpu"], ".lock"),
        (["collect", "task=toys:REACH", "out={out}/demos.zarr"], ".lock"),
        (["train", "task=toys:REACH", "dataset={reaches}", "out={out}"], ".lock"),
    ],
    ids=["evaluate", "sweep", "control", "demo", "collect", "train"],
)
def test_a_folder_has_one_writer(recede, trained, reaches, small, tmp_path, arguments, lock):
    out = tmp_path / "out"
    more = small if arguments[0] == "train" else []
    folder = out / "demos.zarr" if arguments[0] == "collect" else out
    if arguments[0] == "collect":
        DemonstrationStore.create(folder, DemonstrationStore.open(reaches).specification)
    with exclusive(folder, "being tried", name=lock):
        before = sorted(folder.rglob("*"))
        result = recede(*[text.format(trained=trained, reaches=reaches, out=out) for text in arguments], *more)
        assert result.status == 2
        assert f"{folder} is being " in result.last
        assert "by another process: wait for it, or use another out=" in result.last
        assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_a_second_evaluation_is_refused_while_the_first_runs(recede, nursery, trained, tmp_path):
    out, options = tmp_path / "out", ["episodes=100000", *EVALUATE]
    process = nursery.start("evaluate", trained, *options, f"out={out}")
    end = time.monotonic() + 60
    while not (out / ".results.lock").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    line = recede("evaluate", trained, *options, f"out={out}").line
    os.kill(process, signal.SIGINT)
    assert nursery.wait()[0] == 130
    assert f"{out} is being written by another process: wait for it, or use another out=" in line
    assert not (out / "evaluation.json").exists()  # the first may have noted some episodes
    options[0] = "episodes=1"
    assert recede("evaluate", trained, *options, f"out={out}").status == 0


def test_a_policy_is_evaluated_while_its_training_goes_on(recede, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    with exclusive(run, "being trained"):
        assert recede("evaluate", run, "episodes=1", *EVALUATE).status == 0
    assert (run / "evaluation.json").exists()


def test_the_second_of_two_first_recordings_opens_the_store_of_the_first(recede, reaches, tmp_path, monkeypatch):
    path, specification = tmp_path / "demos.zarr", DemonstrationStore.open(reaches).specification
    create = DemonstrationStore.create

    def create_after_another(*arguments, **options):
        create(*arguments, **options)
        return create(*arguments, **options)

    monkeypatch.setattr(DemonstrationStore, "create", create_after_another)
    store = open_or_create(path, specification, images="zstd", of="reach")
    assert (store.path, len(store)) == (path, 0)
    shutil.rmtree(path)
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match=f"{path} already exists"):
        open_or_create(path, specification, images="zstd", of="reach")


def test_a_recording_deletes_what_a_killed_append_left(recede, reaches, tmp_path):
    path = tmp_path / "demos.zarr"
    assert recede("collect", "task=toys:REACH", f"out={path}", "episodes=1").status == 0
    left = [path / f"zarr.{'0f' * 16}.partial", path / f"data/action/c/0/0.{'0f' * 16}.partial"]
    others = [path / "notes.partial", path / "data" / f"{'0f' * 16}"]
    for file in [*left, *others]:
        file.touch()
    assert recede("collect", "task=toys:REACH", f"out={path}", "episodes=2").status == 0
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in others)


def test_commands_that_add_to_a_file_of_lines_take_turns(recede, trained, tmp_path):
    recede("evaluate", trained, "episodes=1", *EVALUATE, f"out={tmp_path / 'results'}")
    (evaluation,) = find_evaluations(tmp_path / "results")
    lines = tmp_path / "lines.jsonl"
    with taking_turns(lines):
        writer = threading.Thread(target=write_lines, args=(lines, [dict(evaluation) | {"path": "a"}]))
        writer.start()
        time.sleep(0.2)
        assert not lines.exists()
        lines.write_text(json.dumps(with_digest(dict(evaluation) | {"path": "b"})) + "\n")
    writer.join(10)
    assert [one["path"] for one in find_evaluations(lines)] == ["a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines.jsonl", "results"]
