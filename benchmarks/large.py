"""A training on demonstrations that are larger than memory, in a process whose memory is limited.

    python benchmarks/large.py FOLDER [json=FILE]

The store in FOLDER is as large as 50 GB of decoded images, but most of them are black, so it takes little disk. It also
has a vector that does not fit in the memory that is left. The limit (RLIMIT_DATA) is on the memory that a process fills
itself: without a file behind it, or as private maps that it may write to. Mapped files are not among it, and they need
not be: the system takes their pages back whenever it needs them. Both are sampled while the training runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from recede.benchmarks.measure import Row, report
from recede.datasets.store import DemonstrationStore
from recede.specification import Specification, Stream

EPISODES, LENGTH = 100, 543
IMAGE, VECTOR = (480, 640, 3), 6144
LIMIT = 2**31
"""Bytes that the training may fill."""
SEEN = 5
"""Episodes whose images are not black."""
TRAINING = (
    *("device=cpu", "steps=12", "batch_size=8", "warmup=0", "held_out=0.02", "log_every=4", "validate_every=12"),
    *("save_every=12", "policy.network.channels=[16,32]", "policy.network.time_size=16"),
    *("policy/encoder=resnet", "policy.encoder.crop=[48,48]", "policy.encoder.features=16"),
)

PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]), -1))
from recede.commands.main import main
sys.exit(main(sys.argv[2:]))
"""
GB, FIELDS = (
    1e9,
    {"RssAnon": "memory without a file", "VmData": "of the limit used", "RssFile": "pages of mapped files"},
)


def make_store(path: Path) -> DemonstrationStore:
    """Record episodes whose images are black, except in the first few."""
    streams = (Stream("camera", IMAGE, "uint8"), Stream("touch", (VECTOR,)))
    store = DemonstrationStore.create(path, Specification(streams, Stream("action", (2,)), control_dt=0.05))
    images, rng = np.zeros((LENGTH, *IMAGE), np.uint8), np.random.default_rng(0)
    times = np.linspace(0, 6, LENGTH, dtype=np.float32)[:, None]
    for episode in range(EPISODES):
        touch = np.zeros((LENGTH, VECTOR), np.float32)
        touch[:, :2] = np.sin(times + rng.uniform(0, 6, 2))
        images[0] = (episode + 1) if episode < SEEN else 0
        store.append({"camera": images, "touch": touch, "action": np.cos(times + touch[:, :2])}, seed=episode)
    return store


def train(store: Path, folder: Path) -> tuple[dict[str, int], float]:
    """Train within the limit; returns the largest value of each of `FIELDS` in bytes, and the seconds.

    Exits with the status of the training if it fails.
    """
    arguments = ("train", f"dataset={store}", f"out={folder / 'run'}", *TRAINING)
    began, most = time.perf_counter(), dict.fromkeys(FIELDS, 0)
    environment = os.environ | {"RECEDE_CACHE": str(folder / "cache"), "TQDM_DISABLE": "1"}
    with subprocess.Popen([sys.executable, "-P", "-c", PROGRAM, str(LIMIT), *arguments], env=environment) as process:
        while process.poll() is None:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in most:
                    most[name] = max(most[name], 1024 * int(value.split()[0]))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(process.returncode)
    return most, time.perf_counter() - began


def disk(folder: Path) -> int:
    """Bytes of disk that the files in a folder take."""
    return sum(512 * file.stat().st_blocks for file in folder.rglob("*") if file.is_file())


def main() -> None:
    """Make the store, train on it, and print what that took."""
    arguments = sys.argv[1:]
    paths = [Path(argument.removeprefix("json=")) for argument in arguments]
    if not 1 <= len(arguments) <= 2 or not all(argument.startswith("json=") for argument in arguments[1:]):
        print(f"usage: python {sys.argv[0]} FOLDER [json=FILE], got {' '.join(arguments)}", file=sys.stderr)
        raise SystemExit(2)
    folder = paths[0]
    began = time.perf_counter()
    store = make_store(folder / "large.zarr")
    seconds = time.perf_counter() - began
    decoded = sum(
        store.num_steps * stream.size * np.dtype(stream.dtype).itemsize for stream in store.specification.streams
    )
    most, trained = train(store.path, folder)
    last = json.loads((folder / "run/metrics.jsonl").read_text().splitlines()[-1])
    rows: list[Row] = [
        {"name": "decoded demonstrations", "value": decoded / GB, "unit": "GB"},
        {"name": "store on disk", "value": disk(store.path) / GB, "unit": "GB"},
        {"name": "cache on disk", "value": disk(folder / "cache") / GB, "unit": "GB"},
        {"name": "limit", "value": LIMIT / GB, "unit": "GB"},
        *({"name": words, "value": most[name] / GB, "unit": "GB"} for name, words in FIELDS.items()),
        {"name": "recording", "value": seconds, "unit": "s"},
        {"name": "training, with the first decoding", "value": trained, "unit": "s"},
        {"name": "loss", "value": last.get("loss", 0.0), "unit": ""},
    ]
    report(rows, paths[1] if len(paths) > 1 else None)


if __name__ == "__main__":
    main()
