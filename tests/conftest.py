"""What several test files share: small demonstrations, small trained runs, and the command line in many ways."""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # small tensors are slower with more, and resumed runs must have the same number
sys.path.append(str(Path(__file__).parent))  # where `task=toys:REACH` is found; worker processes inherit it

SMALL = ["policy.network.channels=[16,32]", "policy.network.time_size=16", "batch_size=32", "device=cpu"]
"""A network and batches that train in milliseconds a step."""


@dataclass
class Result:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def line(self):
        """The one line that an error is."""
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err


def recede(*arguments):
    """Run the command line in this process."""
    from recede.commands.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return Result(status, out.getvalue(), err.getvalue())


@pytest.fixture(name="recede", scope="session")
def recede_fixture():
    return recede


@pytest.fixture(scope="session")
def small():
    return SMALL


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory):
    """Six episodes of `pick_place`, read only."""
    path = tmp_path_factory.mktemp("pick_place") / "demos.zarr"
    assert recede("collect", "task=pick_place", f"out={path}", "episodes=6").status == 0
    return path


@pytest.fixture(scope="session")
def reaches(tmp_path_factory):
    """Twenty episodes of `toys.REACH`, read only."""
    path = tmp_path_factory.mktemp("reach") / "demos.zarr"
    assert recede("collect", "task=toys:REACH", f"out={path}", "episodes=20").status == 0
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, reaches):
    """A diffusion policy of `toys.REACH` that reaches sometimes, read only."""
    out = tmp_path_factory.mktemp("trained") / "run"
    steps = ["steps=150", "warmup=10", "learning_rate=2e-3", "save_every=50", "log_every=25"]
    result = recede("train", "task=toys:REACH", f"dataset={reaches}", f"out={out}", *SMALL, *steps)
    assert result.status == 0, result.err
    return out


NURSERY = """
import json, os, resource, sys

import recede.training.loop
from recede.commands.main import main

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        status = 1
        try:
            output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(order["folder"])
            if order["limit"]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], resource.RLIM_INFINITY))
            status = main(order["arguments"])
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.write(int(sys.argv[1]), f"{child}\\n".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(int(sys.argv[1]), f"{code}\\n".encode())
"""


class Nursery:
    """Processes that run a command each, forked from one that has imported everything: a start takes milliseconds."""

    def __init__(self, folder):
        self.output = folder / "output.txt"
        read, write = os.pipe()
        command = [sys.executable, "-c", NURSERY, str(write)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
        self._mother = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[write], env=environment, text=True, bufsize=1
        )
        os.close(write)
        self._answers = os.fdopen(read)

    def start(self, *arguments, folder=".", limit=0):
        """Start a command and return its process id. limit: the largest size of a file, in bytes; 0 for none."""
        order = {"arguments": [str(each) for each in arguments], "folder": str(folder), "limit": limit}
        self._mother.stdin.write(json.dumps(order | {"output": str(self.output)}) + "\n")
        return int(self._answers.readline())

    def wait(self):
        """The exit status of the command (negative for a signal) and all that it printed."""
        return int(self._answers.readline()), self.output.read_text()

    def run(self, *arguments, **options):
        """Start a command and wait for it."""
        self.start(*arguments, **options)
        return self.wait()

    def close(self):
        self._mother.stdin.close()
        assert self._mother.wait(60) == 0
        self._answers.close()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    opened = Nursery(tmp_path_factory.mktemp("nursery"))
    yield opened
    opened.close()
