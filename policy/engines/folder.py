"""Reading a folder that `export` has written; nothing here needs torch, and nothing in the folder is executed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ...files import read_json
from ...specification import Horizons, Specification
from ..denoising.levels import NoiseLevel
from ..denoising.prediction import PREDICTIONS
from .graph import ActionRange, GraphEngine
from .interface import ENGINES, FORMATS, Session
from .onnx_runtime import OnnxSession
from .open_vino import OpenVinoSession

FORMAT = 2
"""Raised whenever older folders can no longer be read."""

REMEDY = "export the policy again, or restore the folder from a copy"


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_exported(folder: Path) -> bool:
    """Whether `recede export` has written this folder."""
    return (folder / "engine.json").is_file()


def read(folder: Path) -> dict[str, Any]:
    """The content of `engine.json`, every file having the digest that is noted there; specification and horizons built.

    Raises FileNotFoundError where it is no such folder, and ValueError where it is of another format or damaged.
    """
    if not is_exported(folder):
        raise FileNotFoundError(f"{folder} is no exported policy, it has no engine.json: make one with recede export")
    path = folder / "engine.json"
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path}: format must be {FORMAT}, which this version of recede reads, got {content.get('format')!r}: "
            "export the policy again"
        )
    needed = ("engine", "versions", "specification", "horizons", "policy", "task", "levels", "ranges", "sha256")
    if missing := [key for key in needed if key not in content]:
        raise ValueError(f"{path} is damaged: it lacks {missing}; {REMEDY}")
    if content["engine"] not in FORMATS:
        raise ValueError(f"{path} is damaged: engine must be one of {', '.join(FORMATS)}; {REMEDY}")
    for name, expected in content["sha256"].items():
        if Path(name).name != name or not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing; {REMEDY}")
        if digest(folder / name) != expected:
            raise ValueError(f"{folder / name} is damaged: its SHA-256 is not the one noted in engine.json; {REMEDY}")
    try:
        content["specification"] = Specification.from_json(content["specification"])
        content["horizons"] = Horizons(**content["horizons"])
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); {REMEDY}") from None
    return content


def open_session(engine: str, folder: Path) -> Session:
    """What runs the graphs of a folder, which are in the format of that engine. Raises ValueError where it cannot."""
    if engine not in FORMATS:
        raise ValueError(f"an exported policy runs by one of {', '.join(FORMATS)}, got {engine!r} of {list(ENGINES)}")
    return OnnxSession(folder) if engine == "onnx" else OpenVinoSession(folder, is_fp32=engine == "openvino_fp32")


def load(folder: Path, content: dict[str, Any], *, config: Any) -> GraphEngine:
    """The engine of a folder whose content was read. config: the configuration of the policy, as it is noted there."""
    try:
        levels = tuple(NoiseLevel(*level) for level in content["levels"])
        centre, half_range = (
            np.asarray(content["ranges"]["action"][key], dtype=np.float32) for key in ("centre", "half_range")
        )
        return GraphEngine(
            content["specification"],
            content["horizons"],
            session=open_session(content["engine"], folder),
            space=ActionRange(centre, half_range),
            sampler=config.sampler.along(levels),
            prediction=PREDICTIONS[config.prediction],
            clip=config.clip,
            has_noise=config.has_noise,
            embedded=np.load(folder / "times.npy", allow_pickle=False),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'engine.json'} is damaged ({error!r}); {REMEDY}") from None
