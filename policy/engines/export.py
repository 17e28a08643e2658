"""Write a policy to a folder that runs without PyTorch: its graphs, and what the loop around them needs.

engine.json holds the specification, horizons, times, ranges (of actions in a representation also as they are learned),
the policy's parts, versions, and the SHA-256 of the other
files. times.npy is what the network makes of each step of the sampler, (N, ...) float32. The graphs "encode" and
"denoise" are in the format of the engine: .onnx, with an .onnx.data file if the weights exceed the 2 GB limit of the
format; or .xml, with the weights in .bin.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import warnings
from collections.abc import Generator, Mapping
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...files import write_json_with_digest, writing
from ...specification import interface_to_json
from ...version import __version__
from ..affine import Affine
from ..diffusion import DiffusionPolicy
from .folder import FORMAT, digest
from .interface import FORMATS
from .open_vino import library
from .pieces import Denoise, Encode, embedded_times

ROWS = 3
"""Rows of the traced batch: no other dimension has this size, as it might have 1 or 2."""

MAX_ROWS = 1024
"""The upper bound of the free dimension, which the exporter requires."""


def write_onnx(policy: DiffusionPolicy, folder: Path) -> None:
    """Write `encode.onnx` and `denoise.onnx`, for any number of rows, into a folder.

    Raises ValueError if a package is not installed, or if the network cannot be exported.
    """
    if next(policy.parameters()).device.type != "cpu":
        policy = deepcopy(policy).to("cpu")
    batch, streams = {0: torch.export.Dim("batch", min=1, max=MAX_ROWS)}, policy.specification.observations
    observation = [
        torch.zeros(
            (ROWS, policy.horizons.observation, *stream.shape), dtype=torch.uint8 if stream.is_image else torch.float32
        )
        for stream in streams
    ]
    names = [f"observation.{stream.name}" for stream in streams]
    if policy.specification.context:
        observation, names = [*observation, torch.zeros(ROWS)], [*names, "is_unknown"]
    encode, time = Encode(policy).eval(), embedded_times(policy)[:1]
    with torch.no_grad():
        condition = encode(*observation)
    noisy = torch.zeros(ROWS, *policy.space.shape)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "encode.onnx", encode, dict(zip(names, observation, strict=True)), ((batch,) * len(names),))
    inputs = {"noisy": noisy, "time": time, "condition": condition}
    _write(folder / "denoise.onnx", Denoise(policy).eval(), inputs, (batch, {}, batch))


def to_openvino(source: Path, folder: Path) -> None:
    """Convert the graphs of `write_onnx` to those of OpenVINO, weights in fp32, in a folder."""
    openvino = library()
    core = openvino.Core()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("encode", "denoise"):
        openvino.save_model(core.read_model(source / f"{name}.onnx"), folder / f"{name}.xml", compress_to_fp16=False)


def _write(path: Path, module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], shapes: Any) -> None:
    """Trace a module with example inputs and write its graph. shapes: the free dimensions of each input."""
    try:
        with _quiet_exporter(), torch.no_grad():
            program: Any = torch.onnx.export(
                module,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=["output"],
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
    except ImportError as error:
        raise ValueError(f"the export needs onnx and onnxscript ({error}): pip install 'recede[onnx]'") from None
    except Exception as error:  # the exporter raises errors of many kinds
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path.stem} cannot be exported ({reason}): use engine=eager or engine=cuda_graph") from error
    for part in (program.model, program.model.graph, *program.model.graph):
        part.metadata_props.clear()  # source lines: half the size of a small graph, and paths of this machine
    with writing(path):
        program.save(path)


@contextlib.contextmanager
def _quiet_exporter() -> Generator[None]:
    """Silence the exporter's messages about packages that it does not need, and its warnings about its own code."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write_engine(
    folder: Path, policy: DiffusionPolicy, graphs: Path, *, engine: str, description: Mapping[str, Any], **notes: Any
) -> None:
    """Write an exported policy into an existing folder, with the graphs of another.

    description: the policy's parts as JSON, from `configs.notation.describe`. notes: further entries of `engine.json`.
    """
    for path in sorted(graphs.iterdir()):
        with writing(folder / path.name):
            shutil.copy(path, folder)
    np.save(folder / "times.npy", embedded_times(policy).cpu().numpy())
    affines = {name: policy.normalizer.affine(name) for name in policy.normalizer.streams}
    content = {
        "format": FORMAT,
        "engine": engine,
        "versions": {"recede": __version__} | {name: version(name) for name in ("torch", "numpy", FORMATS[engine])},
        **interface_to_json(policy.specification, policy.horizons),
        "policy": dict(description),
        "levels": policy.sampler.levels,
        "ranges": {name: _plain(affine) for name, affine in affines.items()},
        "action_std": policy.learned.action_std.tolist(),
        **({} if policy.representation.is_plain else {"learned": _plain(policy.learned.affine("action"))}),
        **notes,
        "sha256": {path.name: digest(path) for path in sorted(folder.iterdir())},
    }
    write_json_with_digest(folder / "engine.json", content)


def _plain(affine: Affine) -> dict[str, list[float]]:
    return {"centre": affine.centre.tolist(), "half_range": affine.half_range.tolist()}
