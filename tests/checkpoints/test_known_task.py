"""No checkpoint, exported folder or server decides what is imported; the command line does."""

import asyncio
import json
import shutil
import sys
import threading
from contextlib import contextmanager

import pytest
from recede.checkpoints.opening import open_policy
from recede.checkpoints.runs import resolve_checkpoint
from recede.envs.catalogue import known_task, load_task
from recede.files import write_json_with_digest
from recede.serving.server import Server

EVIL = "evil_module:TASK"
REFUSED = f"the policy was trained for the task '{EVIL}', which does not come with recede and is not imported"


@pytest.fixture(autouse=True)
def marker(tmp_path, monkeypatch):
    """A file that is written when `evil_module`, which can be imported, is imported."""
    path = tmp_path / "imported"
    source = f"from pathlib import Path\nfrom toys import REACH as TASK\nPath({str(path)!r}).touch()\n"
    (tmp_path / "evil_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECEDE_TOKEN", raising=False)
    yield path
    sys.modules.pop("evil_module", None)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, recede, trained):
    """A folder of `recede export`, read only."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="exporting needs the extra 'onnx'")
    folder = tmp_path_factory.mktemp("exported") / "engine"
    result = recede("export", trained, f"out={folder}", "engine=onnx")
    assert result.status == 0, result.err
    return folder


@pytest.fixture
def policies(request, tmp_path, trained):
    """A run or an exported folder that names the evil task, by what it is."""

    def named(kind):
        source = trained if kind == "checkpoint" else request.getfixturevalue("exported")
        folder = shutil.copytree(source, tmp_path / kind)
        path = folder / "engine.json" if kind == "exported" else resolve_checkpoint(folder) / "policy.json"
        write_json_with_digest(path, json.loads(path.read_text()) | {"task": EVIL})
        return folder

    return named


@contextmanager
def served(folder, task):
    """The address of a server that says that its policy is for `task`."""
    server, address, ready = Server(open_policy(folder).engine, task=task), [], threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def is_ready(at):
        address.append(at)
        ready.set()

    thread = threading.Thread(
        target=lambda: loop.run_until_complete(server.run("127.0.0.1", 0, ready=is_ready, stop=stop))
    )
    thread.start()
    try:
        assert ready.wait(30)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["checkpoint", "exported"])
@pytest.mark.parametrize(("command", "key"), [("evaluate", "task="), ("control", "robot.task=")])
def test_the_task_that_a_folder_names_is_not_imported(recede, policies, marker, kind, command, key):
    refused = recede(command, policies(kind))
    assert refused.status == 2
    assert REFUSED in refused.line
    assert refused.line.endswith(f"add imports=[the package that adds it], or name it on the command line with {key}")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (EVIL, REFUSED),
        ([EVIL], "its task must be a name, got ['evil_module:TASK']"),
        ("pick\x1b[2Jplace", "its task must be a name"),
        (None, "the policy was trained without a task: give robot.task="),
    ],
)
def test_the_task_that_a_server_names_is_not_imported(recede, trained, marker, task, message):
    with served(trained, task) as address:
        refused = recede("control", address)
    assert refused.status == 2
    assert message in refused.line
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["checkpoint", pytest.param("exported", marks=pytest.mark.slow)])
def test_a_policy_is_served_without_its_task(recede, policies, marker, monkeypatch, kind):
    async def run(self, host, port, *, ready, stop):
        ready("ws://127.0.0.1:1")

    monkeypatch.setattr(Server, "run", run)
    result = recede("serve", policies(kind))
    assert result.status == 0, result.err
    assert f"{EVIL} is served at" in result.out
    assert not marker.exists()


@pytest.mark.slow
def test_a_policy_is_exported_without_its_task(recede, policies, exported, marker, tmp_path):
    result = recede("export", policies("checkpoint"), f"out={tmp_path / 'out'}", "engine=onnx")
    assert result.status == 0, result.err
    assert json.loads((tmp_path / "out" / "engine.json").read_text())["task"] == EVIL
    assert not marker.exists()


def test_a_policy_is_trained_further_without_its_task(recede, policies, reaches, small, marker, tmp_path):
    options = [
        f"dataset={reaches}",
        f"out={tmp_path / 'out'}",
        "steps=1",
        f"init_from={policies('checkpoint')}",
        *small,
    ]
    result = recede("train", *options)
    assert result.status == 0, result.err
    assert not marker.exists()


def test_a_store_is_replayed_in_the_task_of_the_command_line_alone(recede, reaches, marker, tmp_path):
    store = shutil.copytree(reaches, tmp_path / "store.zarr")
    path = store / "zarr.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"attributes": content["attributes"] | {"task": EVIL}}))
    assert recede("replay", "task=toys:REACH", f"dataset={store}", "episodes=episode<1").status == 0
    assert not marker.exists()


@pytest.mark.slow
def test_the_task_of_the_command_line_is_imported(recede, policies, marker):
    options = ["episodes=1", "videos=0", "device=cpu", "out=results"]
    result = recede("evaluate", policies("checkpoint"), f"task={EVIL}", *options)
    assert result.status == 0, result.err
    assert marker.exists()


@pytest.mark.parametrize("name", [EVIL, "toys:REACH", "pushd", "", ["pick_place"], 3])
def test_only_the_tasks_of_recede_are_known(marker, name):
    with pytest.raises(ValueError, match=r"which does not come with recede .* name it on the command line with task="):
        known_task(name, key="task")
    assert not marker.exists()


def test_the_tasks_of_recede_are_known():
    assert known_task("pick_place", key="task") is load_task("pick_place")
