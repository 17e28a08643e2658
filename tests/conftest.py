"""What several test files share: small demonstrations, small trained runs, and the command line in many ways."""

import contextlib
import gc
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from hydra.core.config_store import ConfigStore

# Hydra copies its whole table of configurations for each composition, a quarter of its time, and changes none of them.
ConfigStore.__deepcopy__ = lambda self, memo: self
os.environ["OMP_NUM_THREADS"] = "1"  # small tensors are slower with more, and resumed runs must have the same number
# Commands under test inherit what a shell ignores for what it runs behind it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.append(str(Path(__file__).parent / "helpers"))  # `task=toys:REACH` is there; worker processes inherit it


def pytest_collection_finish():
    """Keep all that is imported by now out of the garbage collector, which would look through it again and again."""
    gc.collect()
    gc.freeze()


SMALL = [
    *("policy.network.channels=[16,32]", "policy.network.time_size=16", "batch_size=32", "device=cpu"),
    *("horizons.observation=2", "horizons.prediction=16", "horizons.action=8"),
]
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
        return self.last

    @property
    def last(self):
        """The line that an error is, after progress bars."""
        assert "Traceback" not in self.err
        return self.err.splitlines()[-1]


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


def once(tmp_path_factory, name, make):
    """A path of this name, which the first process of the tests makes and the others read. make: called with it."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    is_made = Path(f"{path.parent}.made")
    with FileLock(f"{path.parent}.lock"):
        if not is_made.exists():
            make(path)
            is_made.touch()
    return path


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory):
    """Six episodes of `pick_place`, read only."""

    def make(path):
        assert recede("collect", "task=pick_place", f"out={path}", "episodes=6").status == 0

    return once(tmp_path_factory, "pick_place/demos.zarr", make)


@pytest.fixture(scope="session")
def reaches(tmp_path_factory):
    """Twenty episodes of `toys.REACH`, read only."""

    def make(path):
        assert recede("collect", "task=toys:REACH", f"out={path}", "episodes=20").status == 0

    return once(tmp_path_factory, "reach/demos.zarr", make)


@pytest.fixture(scope="session")
def filmed(tmp_path_factory):
    """Three episodes with two cameras and a vector, read only."""
    import numpy as np
    from cameras import ACTION, SCENE, STATE, WRIST, specification
    from recede.datasets.store import DemonstrationStore

    path = tmp_path_factory.mktemp("filmed") / "demos.zarr"
    store = DemonstrationStore.create(path, specification(SCENE, WRIST, STATE))
    rng = np.random.default_rng(0)
    for seed in range(3):
        images = {s.name: rng.integers(0, 256, (12, *s.shape), dtype=np.uint8) for s in (SCENE, WRIST)}
        vectors = {s.name: rng.uniform(-1, 1, (12, *s.shape)).astype("float32") for s in (STATE, ACTION)}
        store.append(images | vectors, seed=seed)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, reaches):
    """A diffusion policy of `toys.REACH` that reaches sometimes, read only."""
    steps = ["steps=200", "warmup=10", "learning_rate=4e-3", "save_every=50", "log_every=25"]

    def make(out):
        result = recede("train", "task=toys:REACH", f"dataset={reaches}", f"out={out}", *SMALL, *steps)
        assert result.status == 0, result.err

    return once(tmp_path_factory, "trained/run", make)


NURSERY = """
import json, os, resource, sys

import hydra, torch._dynamo, zarr

import recede.training.loop
from recede.commands.main import main

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        status = 1
        try:
            os.chdir(order["folder"])
            sys.path[:] = order["path"]
            if order["limit"]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], resource.RLIM_INFINITY))
            status = main(order["arguments"])
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.write(1, f"{child}\\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(1, f"\\0{status}\\n".encode())
os._exit(0)  # to tear down all these imports takes a second
"""


class Nursery:
    """Processes that run a command each, forked from one that has imported everything: a start takes milliseconds."""

    def __init__(self):
        self._child = 0
        self._mother = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
            bufsize=1,
        )

    def start(self, *arguments, folder=".", limit=0):
        """Start a command and return its process id. limit: the largest size of a file, in bytes; 0 for none."""
        if self._child:  # a test that failed has left it
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            self.wait()
        order = {"arguments": [str(argument) for argument in arguments], "folder": str(Path(folder).absolute())}
        self._mother.stdin.write(json.dumps(order | {"path": sys.path, "limit": limit}) + "\n")
        self._child = int(self._mother.stdout.readline())
        return self._child

    def wait(self):
        """The exit status of the command (negative for a signal) and all that it printed."""
        output = ""
        while "\0" not in output:
            line = self._mother.stdout.readline()
            assert line, "the mother of the processes has died"
            output += line
        output, _, status = output.partition("\0")
        self._child = 0
        return int(status), output

    def run(self, *arguments, **options):
        """Start a command and wait for it."""
        self.start(*arguments, **options)
        return self.wait()

    def close(self):
        self._mother.stdin.close()
        assert self._mother.wait(60) == 0
        self._mother.stdout.close()


@pytest.fixture(scope="session")
def nursery():
    opened = Nursery()
    yield opened
    opened.close()
