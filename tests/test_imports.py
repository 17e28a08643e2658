"""What loads quickly stays so: torch takes a second and more, and neither `--help` nor a data set needs it."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]

PROGRAM = """
import importlib, json, sys
names, watched = json.loads(sys.argv[1])
loaded = {}
for name in names:
    before = set(sys.modules)
    importlib.import_module(name)
    for heavy in (set(sys.modules) - before) & set(watched):
        loaded[heavy] = name
print(json.dumps(loaded))
"""


def modules(package: str) -> list[str]:
    """The package and every module directly in it."""
    files = ROOT.joinpath(*package.split(".")[1:]).glob("*.py")
    return [package, *sorted(f"{package}.{path.stem}" for path in files if path.stem != "__init__")]


def first_to_load(watched: list[str], names: list[str]) -> dict[str, Any]:
    """The watched modules that a fresh interpreter loads when it imports `names` in turn, and the name that did it."""
    command = [sys.executable, "-P", "-c", PROGRAM, json.dumps([names, watched])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


def test_the_light_half_loads_no_torch() -> None:
    light = ["recede", "recede.specification", "recede.files", "recede.realtime", "recede.datasets.store"]
    folders = ("execution", "robots", "robots.feetech", "serving", "teleoperation", "control", "recording")
    folders += ("envs", "commands")
    light += [module for folder in folders for module in modules(f"recede.{folder}")]
    light += [
        "recede.checkpoints.folder",
        "recede.checkpoints.opening",
        "recede.policy.engines.folder",
        "recede.policy.engines.choice",
        "recede.evaluation.reports.control",
        "recede.web.access",
        *(f"recede.evaluation.viewing.{name}" for name in ("showing", "scene", "server", "one_file")),
    ]
    heavy = ["torch", "diffusers", "imageio", "matplotlib", "tensorboard", "gym_pusht", "pygame", "cv2", "transformers"]
    assert first_to_load(heavy, light) == {}


def test_nothing_loads_what_only_some_functions_need() -> None:
    heavy = ["diffusers", "imageio", "matplotlib", "tensorboard", "gym_pusht", "pygame", "cv2", "transformers"]
    heavy += ["onnx", "onnxscript", "onnxruntime", "openvino", "serial", "websockets"]
    assert first_to_load(heavy, [name for package in PACKAGES for name in modules(package)]) == {}


def test_the_proofs_on_a_gpu_need_few_packages() -> None:
    absent = ["zarr", "hydra", "omegaconf", "gymnasium", "mujoco", "diffusers", "websockets"]
    assert first_to_load(absent, ["recede.benchmarks.gpu"]) == {}


@pytest.mark.slow
def test_the_watch_sees_torch() -> None:
    module = "recede.policy.denoising.schedule"
    assert first_to_load(["torch"], ["recede", module]) == {"torch": module}
