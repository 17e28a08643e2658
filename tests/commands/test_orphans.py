"""No process that a command starts outlives it, even if the command is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = "import sys; from recede.commands.main import main; sys.exit(main())"


def descendants(pid):
    """The processes that a process has started, and those that they have started."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for file in threads for child in file.read_text().split()]
    return children + [below for child in children for below in descendants(child)]


@pytest.mark.parametrize(
    ("arguments", "number", "file"),
    [
        (["evaluate", "task=toys:REACH", "episodes=100000", "workers=2", "videos=0"], 2, "episodes.jsonl"),
        (["control", "robot.task=toys:REACH", "episodes=1000"], 3, "ticks.zarr"),
    ],
    ids=["evaluate", "control"],
)
@pytest.mark.slow
@pytest.mark.parametrize("is_early", [True, False], ids=["starting", "running"])
def test_no_process_outlives_a_command_that_is_killed(trained, tmp_path, arguments, number, file, is_early):
    command, *options = arguments
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, command, trained, *options, f"out={tmp_path / 'out'}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"},
    )
    with process:
        try:
            end, noted = time.monotonic() + 60, tmp_path / "out" / file
            while len(descendants(process.pid)) < number or not (is_early or (noted.exists() and noted.stat().st_size)):
                assert time.monotonic() < end, noted
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.01)
        finally:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)  # they hold the same pipe, so they have all ended as well
