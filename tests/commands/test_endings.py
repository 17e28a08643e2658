"""How a command ends: by a signal, with standard streams that are closed or full, and what it leaves then."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recede.commands.main import main
from recede.datasets.store import DemonstrationStore
from recede.files import read_json
from recede.realtime import Interrupted, on_signals


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by SIGTERM"), (signal.SIGHUP, "ended by SIGHUP")],
)
def test_a_signal_ends_a_command_with_128_more_in_one_line(nursery, tmp_path, number, words):
    process = nursery.start("collect", "task=toys:REACH", f"out={tmp_path / 'x.zarr'}", "episodes=100000")
    wait_for((tmp_path / "x.zarr/.lock").exists)
    wait_for(lambda: len(DemonstrationStore.open(tmp_path / "x.zarr")))
    os.kill(process, number)
    status, output = nursery.wait()
    assert status == 128 + number, output
    assert output.splitlines()[-1] == f"recede collect: {words}"
    assert "Traceback" not in output
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name or path == tmp_path / "x.zarr/.lock"]


def test_a_terminated_evaluation_leaves_its_episodes_and_nothing_else(nursery, trained, tmp_path):
    options = ["task=toys:REACH", "device=cpu", "videos=0", "episodes=100000"]
    process = nursery.start("evaluate", trained, *options, f"out={tmp_path / 'out'}")
    wait_for((tmp_path / "out/.results.lock").exists)
    time.sleep(0.2)
    os.kill(process, signal.SIGTERM)
    status, output = nursery.wait()
    assert (status, output.splitlines()[-1]) == (143, "recede evaluate: ended by SIGTERM")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"episodes.jsonl"}  # the next one goes on


def test_signals_that_are_ignored_stay_ignored_and_handlers_come_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        handlers, numbers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], []
        with on_signals(lambda number, _: numbers.append(number)):
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
        assert numbers == [signal.SIGTERM, signal.SIGINT]
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    finally:
        signal.signal(signal.SIGHUP, before)
    assert str(Interrupted(signal.SIGTERM)) == "ended by SIGTERM"


def test_closed_streams_cost_nothing_but_what_they_would_have_shown(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parents[1] / "helpers"), *sys.path])
    shell = 'exec "$0" -P -m recede collect task=toys:REACH out=x.zarr episodes=2 <&- >&- 2>&-'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, timeout=60
    )
    assert done.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.zarr"]
    store = DemonstrationStore.open(tmp_path / "x.zarr")
    assert len(store) == 2
    assert all(np_array.size for np_array in store.episode(1).values())


class ClosedPipe(io.TextIOWrapper):
    """A pipe that nobody reads any more."""

    def __init__(self):
        reading, writing = os.pipe()
        os.close(reading)
        super().__init__(os.fdopen(writing, "wb", buffering=0), write_through=True)


def full():
    return Path("/dev/full").open("w")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_command_goes_on_if_nobody_reads(monkeypatch, tmp_path, name):
    with ClosedPipe() as stream:
        monkeypatch.setattr(sys, name, stream)
        assert main(["collect", "task=toys:REACH", f"out={tmp_path / 'x.zarr'}", "episodes=2"]) == 0
        assert getattr(sys, name) is stream
    assert len(DemonstrationStore.open(tmp_path / "x.zarr")) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_to_a_full_disk_is_an_error_in_one_line(monkeypatch, capsys):
    with full() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["--version"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "standard output could not be written (No space left on device): make sure that the disk has room" in error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_messages_to_a_full_disk_are_dropped(monkeypatch):
    with full() as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(["--version"]) == 0
        assert main(["nothing"]) == 2


@pytest.mark.slow
def test_a_robot_that_was_stopped_for_safety_is_an_error_after_all_is_written(recede, trained, tmp_path):
    limits = ["safety.stale_ms=1", "safety.patience_ms=1", "robot.sensor_delay_ms=60"]
    result = recede("control", trained, "robot.task=toys:REACH", "episodes=2", *limits, f"out={tmp_path}")
    assert result.status == 2, result.out
    assert "2 of 2 episodes were stopped for safety: " in result.last
    assert f"{tmp_path / 'report.html'} shows" in result.last
    episodes = read_json(tmp_path / "control.json")["episodes"]
    assert [episode["reason"] for episode in episodes] == 2 * ["stopped for safety"]
