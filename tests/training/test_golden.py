"""Three trainings of twenty steps have the golden losses in this file.

    PYTHONSAFEPATH=1 .venv/bin/python tests/training/test_golden.py

prints the losses of this machine. If you change training on purpose, write the new losses here and say why in the
commit. Rounding depends on the processor and on the release of torch: with those of `MEASURED_ON` every digit must be
equal, with others the first five. No training uses images, because rounding alone moves the losses of a ResNet by up to
2 % within twenty steps.
"""

import contextlib
import json
import platform
import sys
import tempfile
from pathlib import Path
from pprint import pformat

import numpy as np
import pytest
import torch
from recede.commands.main import main
from recede.datasets.store import DemonstrationStore
from recede.specification import Specification, Stream

STATE, ACTION = Stream("state", (3,), low=0.0, high=1.0), Stream("action", (2,), low=0.0, high=1.0)

UNET = ["policy.network.channels=[16,32]", "policy.network.time_size=16"]
DIT = ["policy/network=dit", "policy.network.num_layers=2", "policy.network.num_heads=2", "policy.network.size=32"]
TRANSFORMER = [
    "policy/network=transformer",
    *(f"policy.network.{key}" for key in ("num_layers=2", "num_heads=2", "size=32")),
]
OPTIONS = {
    "diffusion": ["policy=diffusion", *UNET, "batch_size=32"],
    "flow": ["policy=flow", *DIT, "batch_size=32"],
    "regression": ["policy=regression", *TRANSFORMER, "batch_size=32"],
}
"""Name -> arguments of `recede train`."""

USUAL = [
    *("steps=20", "warmup=5", "log_every=5", "held_out=0.25", "device=cpu", "precision=fp32"),
    *("horizons.observation=2", "horizons.prediction=16", "horizons.action=8", "ema_maximum=0.9999"),
]

MEASURED_ON = {"torch": "2.13.0+cpu", "processor": "x86_64 AuthenticAMD 25 17", "instructions": "AVX512"}

GOLDEN = {
    "diffusion": [
        0.2578261852264404,
        0.14529294967651368,
        0.10175898075103759,
        0.08875389099121093,
        0.16951532661914825,
    ],
    "flow": [1.224606418609619, 1.1496572494506836, 1.0619434356689452, 1.0979985237121581, 0.3404473066329956],
    "regression": [
        0.5866242408752441,
        0.1865423083305359,
        0.09297478795051575,
        0.08173804879188537,
        0.11494717001914978,
    ],
}
"""Name -> the mean loss of steps 1 to 5, 6 to 10, 11 to 15 and 16 to 20, and the held-out action error after them."""


def processor():
    """The last digits depend on these: the release of torch, the processor, and the instructions that torch uses."""
    with contextlib.suppress(OSError):
        lines = [line.split(":") for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
        about = {line[0].strip(): line[1].strip() for line in reversed(lines)}
        names = ("vendor_id", "cpu family", "model")
        model = " ".join(about.get(name, "") for name in names)
        return {
            "torch": torch.__version__,
            "processor": f"{platform.machine()} {model}",
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }
    return {"torch": torch.__version__}


def record(path):
    """Record four episodes whose action is a function of the state three steps before."""
    rng = np.random.default_rng(2026)
    store = DemonstrationStore.create(path, Specification((STATE,), ACTION, control_dt=0.1))
    for seed in range(4):
        state = (0.5 + (rng.random((40, 3)) - 0.5).cumsum(axis=0) / 40).astype(np.float32)
        action = np.roll(state, 3, axis=0)[:, :2] ** 2
        store.append({"state": state, "action": action}, seed=seed)


def losses(name, folder):
    """The losses and errors that `recede train` writes to `metrics.jsonl`, in the order of `GOLDEN`."""
    record(folder / "demos.zarr")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        places = [f"dataset={folder / 'demos.zarr'}", f"out={folder / 'run'}"]
        assert main(["train", *places, *USUAL, *OPTIONS[name]]) == 0
    finally:
        torch.set_num_threads(threads)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for key in ("loss", "action_error") for line in lines if key in line]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_short_training_has_the_golden_losses(name, tmp_path):
    measured, golden = losses(name, tmp_path), GOLDEN[name]
    if processor() == MEASURED_ON:
        assert measured == golden
    assert measured == pytest.approx(golden, rel=1e-5)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        values = {name: losses(name, Path(scratch) / name) for name in OPTIONS}
    print(f"MEASURED_ON = {pformat(processor(), width=100, sort_dicts=False)}\n\nGOLDEN = {pformat(values, width=100)}")
