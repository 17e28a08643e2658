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
loaded = {}
for names, watched in json.loads(sys.argv[1]):
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


def first_to_load(*rounds: tuple[list[str], list[str]]) -> dict[str, Any]:
    """What a fresh interpreter loads of the modules that a round watches, and the name whose import did it.

    rounds: each is the names that are imported in turn, and what is watched meanwhile.
    """
    command = [sys.executable, "-P", "-c", PROGRAM, json.dumps(rounds)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


def test_the_light_half_loads_no_torch_and_nothing_loads_what_only_some_functions_need() -> None:
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
    some = ["diffusers", "imageio", "matplotlib", "tensorboard", "gym_pusht", "pygame", "cv2", "transformers"]
    some += ["onnx", "onnxscript", "onnxruntime", "openvino", "serial", "websockets"]
    everything = [name for package in PACKAGES for name in modules(package)]
    assert first_to_load((light, ["torch", *some]), (everything, some)) == {}


def test_the_proofs_on_a_gpu_need_few_packages() -> None:
    absent = ["zarr", "hydra", "omegaconf", "gymnasium", "mujoco", "diffusers", "websockets"]
    assert first_to_load((["recede.benchmarks.gpu"], absent)) == {}


@pytest.mark.slow
def test_the_watch_sees_torch() -> None:
    module = "recede.policy.denoising.schedule"
    assert first_to_load((["recede", module], ["torch"])) == {"torch": module}
