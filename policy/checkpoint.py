"""Checkpoints: a policy as a folder of two files, `policy.json` and `policy.safetensors`, read without executing anything.

The folder appears whole or not at all. `policy.json` says what the weights are for (specification with units and control
period, horizons, the configuration to build the network from, versions) and the SHA-256 of the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ..specification import Horizons, Specification

FORMAT = 1
"""Raised whenever older checkpoints can no longer be read."""


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` once the block ends; after an error nothing of it remains.

    Replaces a folder that is there already.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors as safetensors; returns the SHA-256 of the file."""
    # safetensors' own writer reports a full disk as an error of its own; Python's writer says OSError and the file.
    data = safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of `write_tensors`. Raises ValueError where the file is not the one that was written."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one noted beside it; use another checkpoint")
    return safetensors.torch.load(data)


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON in one piece: the file is the old one or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read JSON. Raises ValueError, naming the file, where it is cut short or no JSON."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; use another checkpoint") from None


def save(folder: Path, weights: Mapping[str, Tensor], **manifest: Any) -> None:
    """Write `policy.json` and `policy.safetensors` into a folder that exists.

    manifest: what to note beside the weights; specification, horizons and config are needed to load them again.
    """
    digest = write_tensors(folder / "policy.safetensors", weights)
    specification: Specification = manifest.pop("specification")
    horizons: Horizons = manifest.pop("horizons")
    content = {
        "format": FORMAT,
        "versions": {name: version(name) for name in ("recede", "torch", "numpy")},
        "specification": specification.to_json(),
        "horizons": {"observation": horizons.observation, "prediction": horizons.prediction, "action": horizons.action},
        **manifest,
        "weights_sha256": digest,
    }
    write_json(folder / "policy.json", content)


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest and the weights of a checkpoint; the manifest's specification and horizons are built.

    Raises FileNotFoundError where there is none, and ValueError where it is of another format or damaged.
    """
    if not (folder / "policy.json").is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint: it has no policy.json")
    manifest = read_json(folder / "policy.json")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise ValueError(
            f"{folder / 'policy.json'}: this version of recede reads checkpoints of format {FORMAT}, got {found!r}: "
            f"load it with the version noted in it, or train again"
        )
    try:
        manifest["specification"] = Specification.from_json(manifest["specification"])
        manifest["horizons"] = Horizons(**manifest["horizons"])
        digest = manifest["weights_sha256"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'policy.json'} is damaged: {error}; use another checkpoint") from None
    return manifest, read_tensors(folder / "policy.safetensors", digest)


def steps(run: Path) -> list[int]:
    """The steps of the checkpoints of a run, ascending."""
    return sorted(int(path.name) for path in (run / "checkpoints").glob("[0-9]*"))


def of_step(run: Path, step: int) -> Path:
    """The checkpoint of a run after `step` updates."""
    return run / "checkpoints" / f"{step:08d}"


def best(run: Path) -> int | None:
    """The step of the checkpoint that scored best of those evaluated while training, the earliest of equals."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    measured = [entry for entry in map(json.loads, lines) if "mean_score" in entry]
    kept = set(steps(run))
    return max((entry for entry in measured if entry["step"] in kept), key=lambda e: e["mean_score"], default={}).get("step")


def find(folder: Path, which: str = "last") -> Path:
    """The checkpoint meant by a run folder ("last" or "best" of it) or a checkpoint folder.

    Raises FileNotFoundError where there is none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no run or checkpoint folder {folder}")
    if (folder / "policy.json").exists():
        return folder
    if not steps(folder):
        raise FileNotFoundError(f"{folder} is neither a run folder nor a checkpoint: it holds no checkpoints")
    if which == "last":
        return of_step(folder, steps(folder)[-1])
    chosen = best(folder)
    if chosen is None:
        raise FileNotFoundError(f"{folder} has no best policy: train with evaluate_every=N, or use the last one")
    return of_step(folder, chosen)
