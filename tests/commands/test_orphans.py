"""No process that a command starts outlives it, even if the command is killed."""

import os
import re
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
    ("arguments", "number", "word"),
    [
        (["evaluate", "task=toys:REACH", "episodes=100000", "workers=2", "videos=0", "device=cpu"], 2, b"[1-9]/100000"),
        pytest.param(
            *(["control", "robot.task=toys:REACH", "episodes=1000"], 3, b"seed 100000"), marks=pytest.mark.slow
        ),
    ],
    ids=["evaluate", "control"],
)
@pytest.mark.parametrize("is_early", [pytest.param(True, marks=pytest.mark.slow), False], ids=["starting", "running"])
def test_no_process_outlives_a_command_that_is_killed(trained, tmp_path, arguments, number, word, is_early):
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
            end, output = time.monotonic() + 60, b""
            while len(descendants(process.pid)) < number:
                assert time.monotonic() < end, process.stdout.read()
                time.sleep(0.01)
            while not is_early and not re.search(word, output):
                output += os.read(process.stdout.fileno(), 1000)
            assert process.poll() is None
        finally:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)  # they hold the same pipe, so they have all ended as well
