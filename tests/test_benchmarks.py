"""Every benchmark runs from end to end, at sizes that say nothing about speed."""

import importlib
import json
import math
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"

TINY = {
    "denoising": {"SIZES": {"tiny": (16, 32)}, "SECONDS": 0},
    "inference": {"CHANNELS": (16, 32), "STEPS": 2, "ENGINES": ("eager",), "SECONDS": 0},
    "modes": {"NUM_DEMONSTRATIONS": 12, "NUM_SAMPLES": 2},
    "serving": {"ROUNDS": 3},
    "windows": {"SIZES": {"low-dimensional": (3, 100), "image": (2, 60)}, "SECONDS": 0},
}
"""Benchmark -> its constants that a test makes small."""


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a benchmark and returns the rows that it writes: name -> value."""

    def run(name, *arguments):
        module = importlib.import_module(f"recede.benchmarks.{name}")
        assert Path(module.__file__) == FOLDER / f"{name}.py"
        for constant, value in TINY[name].items():
            assert hasattr(module, constant)
            monkeypatch.setattr(module, constant, value)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments), f"json={tmp_path / 'rows.json'}"])
        module.main()
        rows = json.loads((tmp_path / "rows.json").read_text())
        values = {row["name"]: row["value"] for row in rows}
        assert len(values) == len(rows)
        assert all(math.isfinite(value) for value in values.values())
        return values

    return run


def test_every_benchmark_is_run_here():
    assert {path.stem for path in FOLDER.glob("*.py")} - {"measure"} == set(TINY)


def test_denoising(run):
    names = ("whole network at each step", "time and conditioning once", "whole / once")
    assert list(run("denoising")) == [f"tiny, {name}" for name in names]


def test_windows(run):
    rows = run("windows")
    assert len([name for name in rows if name.startswith("low-dimensional")]) == 4
    assert len([name for name in rows if name.startswith("image")]) == 6


def test_serving(run):
    assert len(run("serving")) == 6


def test_modes(run, recede, demonstrations, small, tmp_path):
    trained = tmp_path / "run"
    options = ["task=pick_place", f"dataset={demonstrations}", f"out={trained}", "steps=2", *small]
    assert recede("train", *options).status == 0
    rows = run("modes", trained)
    assert len(rows) == 6
    assert all(0 <= value <= 1 for name, value in rows.items() if "share" in name)


def test_inference(run):
    rows = run("inference")
    assert rows["U-Net, plain loop / eager (fp32)"] > 0
    assert any(name.startswith("ResNet-18 and U-Net, eager") for name in rows)
