"""Read a folder that `recede export` wrote, without torch and without executing anything in it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ...files import check_digest, interpreting, read_json
from ...specification import interface_from_json
from ..affine import Affine, Normalised
from ..denoising.levels import NoiseLevel
from ..denoising.prediction import PREDICTIONS
from .exported import ExportedEngine
from .interface import FORMATS, Session
from .onnx_runtime import OnnxSession
from .open_vino import OpenVinoSession

FORMAT = 4
"""Raised whenever older folders can no longer be read."""

KEYS = (
    *("engine", "versions", "specification", "horizons", "policy", "task", "step", "seed", "num_parameters"),
    *("levels", "ranges", "action_std", "sha256"),
)
"""What `engine.json` holds at least, beside its format."""

REMEDY = "export the policy again, or restore the folder from a copy"


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_exported(folder: Path) -> bool:
    """Whether `recede export` wrote this folder."""
    return (folder / "engine.json").is_file()


def read_content(folder: Path) -> dict[str, Any]:
    """The content of `engine.json`, with its specification and its horizons built.

    Raises FileNotFoundError if the folder is not an exported policy. Raises ValueError if it is of another format, if
    `engine.json` is damaged, or if a file does not have the SHA-256 that is noted there.
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
    check_digest(path, content, REMEDY)
    if missing := [key for key in KEYS if key not in content]:
        raise ValueError(f"{path} is damaged: it lacks {missing}; {REMEDY}")
    if not isinstance(content["engine"], str) or content["engine"] not in FORMATS:
        raise ValueError(f"{path} is damaged: engine must be one of {', '.join(FORMATS)}; {REMEDY}")
    with interpreting(path, REMEDY):
        for name, expected in content["sha256"].items():
            _check_file(folder, name, expected)
    with interpreting(path, REMEDY, ValueError):
        content["specification"], content["horizons"] = interface_from_json(content)
    return content


def _check_file(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise ValueError(f"{path} is missing; {REMEDY}")
    if digest(path) != expected:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one noted in engine.json; {REMEDY}")


def open_session(engine: str, folder: Path) -> Session:
    """The session of the named engine on the graphs of a folder. Raises ValueError if its package is not installed."""
    if engine not in FORMATS:
        raise ValueError(f"the engine of an exported policy must be one of {', '.join(FORMATS)}, got {engine!r}")
    return OnnxSession(folder) if engine == "onnx" else OpenVinoSession(folder, is_fp32=engine == "openvino_fp32")


def open_engine(folder: Path, content: dict[str, Any], *, config: Any) -> ExportedEngine:
    """The engine of a folder.

    content: of its `engine.json`, as `read_content` returns it. config: the configuration of the policy's sampler,
    prediction, clip and representation.
    """
    with interpreting(folder / "engine.json", REMEDY):
        levels = tuple(NoiseLevel(*level) for level in content["levels"])
        action = content.get("learned", content["ranges"]["action"])
        affine = Affine(*(np.asarray(action[key], dtype=np.float32) for key in Affine._fields))
        return ExportedEngine(
            content["specification"],
            content["horizons"],
            session=open_session(content["engine"], folder),
            space=Normalised(affine, np.asarray(content["action_std"], dtype=np.float32)),
            representation=config.representation.build(content["specification"]),
            sampler=config.sampler.along(levels),
            prediction=PREDICTIONS[config.prediction],
            clip=config.clip,
            has_noise=config.has_noise,
            embedded=np.load(folder / "times.npy", allow_pickle=False),
        )
