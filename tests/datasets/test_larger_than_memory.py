"""Windows of 50 GB of images and 3 GB of vectors in a process that may fill 2 GB of memory."""

import json
import resource
import subprocess
import sys

import pytest

PROGRAM = """
import hashlib, json, resource, sys
from pathlib import Path
import numpy as np
resource.setrlimit(resource.RLIMIT_DATA, (2 * 10**9, -1))
import torch
from recede.datasets import image_cache
from recede.datasets.demonstrations import Demonstrations
from recede.datasets.windows import Windows
from recede.specification import Horizons, Specification, Stream

STEPS, LENGTH, MARKED = 54_300, 543, 997

class Large(Demonstrations):
    path = Path("large")
    specification = Specification(
        (Stream("camera", (480, 640, 3), "uint8"), Stream("touch", (14_000,))), Stream("action", (1,)), 0.1
    )
    episode_ends = np.arange(LENGTH, STEPS + 1, LENGTH)
    episode_seeds = np.full(STEPS // LENGTH, -1)

    def content(self, name):
        return name  # an earlier run has decoded it, see `keep`

    def read(self, name, start=0, stop=None):
        assert name == "action", f"{name} was decoded a second time"
        start, stop = self.step_range(start, stop)
        return np.arange(start, stop, dtype=np.float32)[:, None]

def keep(stream):
    "The file of an earlier run: zeros that take no disk, but the number of every 997th step."
    shape, dtype = (STEPS, *stream.shape), np.dtype(stream.dtype)
    path = image_cache.cache_folder() / image_cache._cache_key(stream.name, shape) / f"{stream.name}.npy"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        header = image_cache._header(shape, dtype)
        file.write(header)
        for step in range(0, STEPS, MARKED):
            file.seek(len(header) + step * stream.size * dtype.itemsize)
            file.write(np.full(4, step // MARKED, dtype).tobytes())
        file.truncate(image_cache._size(shape, dtype))

large = Large()
for stream in large.specification.observations:
    keep(stream)
windows = Windows(large, Horizons(2, 4, 2))
first_read = {name: values.numel() * values.element_size() for name, values in windows.streams.items()}
generator = torch.Generator().manual_seed(0)
currents = windows.current
marked = torch.nonzero((currents % MARKED == 0) & (currents % LENGTH > 0)).flatten()
for indices in (marked, *torch.randint(len(windows), (20, 16), generator=generator)):
    for part in indices.split(16):
        batch = windows.batch(part)
        steps = batch.action[:, 1, 0].long()  # the current step
        expected = torch.where(steps % MARKED == 0, steps // MARKED, 0)
        assert torch.equal(batch.observation["camera"][:, 1, 0, 0, 0].long(), expected)
        assert torch.equal(batch.observation["touch"][:, 1, 0].long(), expected)
        assert not batch.observation["camera"][:, :, 1:].any()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({"bytes": first_read, "anonymous": 1024 * int(status["RssAnon"].split()[0]), "marked": len(marked)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_DATA"), reason="this system cannot limit the memory of a process")
def test_windows_of_more_than_memory_are_gathered_within_a_limit(tmp_path, monkeypatch):
    """The limit holds for memory without a file and for private maps to write to; mapped files to read are free."""
    monkeypatch.setenv("RECEDE_CACHE", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = subprocess.run([sys.executable, "-P", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["bytes"]["camera"] > 50e9
    assert report["bytes"]["touch"] > 3e9
    assert report["anonymous"] < 2e9
    assert report["marked"] > 40
    assert sum(512 * file.stat().st_blocks for file in tmp_path.rglob("*.npy")) < 50e6
