"""From a policy to a folder that needs no PyTorch: its graphs, and what the loop around them has to know.

engine.json holds what `folder.load` needs: specification, horizons, times, ranges, the policy's parts, versions, and
the digests of the other files. times.npy is what the network makes of each step of the sampler, (N, ...) float32. The
graphs "encode" and "denoise" are in the format of the engine: .onnx, with .onnx.data beside it where the weights are
more than the 2 GB that the format can hold; or .xml, with the weights in .bin.
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

from ...files import write_json, writing
from ..diffusion import DiffusionPolicy
from .folder import FORMAT, digest
from .interface import FORMATS
from .open_vino import library
from .torch_modules import Denoise, Encode, embedded

ROWS = 3
"""Of the batch that is traced: a number that no other dimension is mistaken for, as 1 and 2 would be."""

LARGEST = 1024
"""Rows that the graphs are traced for at most, which the exporter wants to know; their dimension is free."""


def write_onnx(policy: DiffusionPolicy, folder: Path) -> None:
    """Write `encode.onnx` and `denoise.onnx` into a new folder; the rows are a free dimension.

    Raises ValueError where the packages that it takes are not installed, or the network cannot be exported.
    """
    if next(policy.parameters()).device.type != "cpu":
        policy = deepcopy(policy).to("cpu")
    batch, streams = {0: torch.export.Dim("batch", min=1, max=LARGEST)}, policy.specification.observations
    observation = [
        torch.zeros(
            (ROWS, policy.horizons.observation, *stream.shape), dtype=torch.uint8 if stream.is_image else torch.float32
        )
        for stream in streams
    ]
    encode, time = Encode(policy).eval(), embedded(policy)[:1]
    with torch.no_grad():
        condition = encode(*observation)
    noisy = torch.zeros(ROWS, policy.horizons.prediction, policy.specification.action.size)
    folder.mkdir(parents=True)
    names = [f"observation.{stream.name}" for stream in streams]
    _write(folder / "encode.onnx", encode, dict(zip(names, observation, strict=True)), ((batch,) * len(names),))
    denoised = {"noisy": noisy, "time": time, "condition": condition}
    _write(folder / "denoise.onnx", Denoise(policy).eval(), denoised, (batch, {}, batch))


def to_openvino(source: Path, folder: Path) -> None:
    """Make the graphs of a folder of `write_onnx` into those of OpenVINO, weights in fp32, in a new folder."""
    openvino = library()
    core = openvino.Core()
    folder.mkdir(parents=True)
    for name in ("encode", "denoise"):
        openvino.save_model(core.read_model(source / f"{name}.onnx"), folder / f"{name}.xml", compress_to_fp16=False)


def _write(path: Path, module: torch.nn.Module, given: Mapping[str, torch.Tensor], shapes: Any) -> None:
    try:
        with _quietly(), torch.no_grad():
            program: Any = torch.onnx.export(
                module,
                tuple(given.values()),
                input_names=list(given),
                output_names=["output"],
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
    except ImportError as error:
        raise ValueError(f"the export needs onnx and onnxscript ({error}): pip install 'recede[onnx]'") from None
    except Exception as error:  # of many kinds, according to what the exporter stumbles over
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path.stem} cannot be exported ({reason}): use engine=eager or engine=cuda_graph") from error
    for part in (program.model, program.model.graph, *program.model.graph):
        part.metadata_props.clear()  # from which line of which file each came: half of a small graph, nobody's affair
    with writing(path):
        program.save(path)


@contextlib.contextmanager
def _quietly() -> Generator[None]:
    """The exporter tells of packages that it does not need, and warns of itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def fill(
    folder: Path, policy: DiffusionPolicy, graphs: Path, *, engine: str, description: Mapping[str, Any], **more: Any
) -> None:
    """Fill a folder that exists, with the graphs of another.

    description: the policy's parts as JSON, of `configs.notation.describe`. more: what else to note in `engine.json`.
    """
    for path in sorted(graphs.iterdir()):
        with writing(folder / path.name):
            shutil.copy(path, folder)
    np.save(folder / "times.npy", embedded(policy).cpu().numpy())
    horizons, affines = policy.horizons, policy.normalizer.streams.items()
    content = {
        "format": FORMAT,
        "engine": engine,
        "versions": {name: version(name) for name in ("recede", "torch", "numpy", FORMATS[engine])},
        "specification": policy.specification.to_json(),
        "horizons": {"observation": horizons.observation, "prediction": horizons.prediction, "action": horizons.action},
        "policy": dict(description),
        "levels": policy.sampler.levels,
        "ranges": {
            name: {"centre": affine.centre.tolist(), "half_range": affine.half_range.tolist()}  # type: ignore[union-attr]
            for name, affine in affines
        },
        **more,
        "sha256": {path.name: digest(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / "engine.json", content)
