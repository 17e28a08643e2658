"""Checkpoints: a policy as a folder of two files, `policy.json` and `policy.safetensors`; neither holds code.

The folder appears whole or not at all. `policy.json` says what the weights are for (specification with units and
control period, horizons, the configuration to build the network from, versions) and the SHA-256 of the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import read_json, write_json, writing
from ..specification import Horizons, Specification

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
"""Raised whenever older checkpoints can no longer be read."""

KEYS = ("versions", "specification", "horizons", "policy", "task", "step", "weights_sha256")
"""What `policy.json` holds at least, beside its format."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors as safetensors; returns the SHA-256 of the file."""
    import safetensors.torch

    data = safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    with writing(path):  # safetensors' own writer reports a full disk as an error of its own
        path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of `write_tensors`.

    Raises FileNotFoundError where the file is missing, and ValueError where it is not the one that was written.
    """
    import safetensors.torch

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing from its checkpoint: restore it, or use another checkpoint")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one noted beside it; use another checkpoint")
    return safetensors.torch.load(data)


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
    """The manifest and the weights of a checkpoint; see `read_manifest`. Raises ValueError where they are damaged."""
    manifest = read_manifest(folder)
    return manifest, read_tensors(folder / "policy.safetensors", manifest["weights_sha256"])


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `policy.json` says, with its specification and its horizons built; torch is not loaded.

    Raises FileNotFoundError where there is none, and ValueError where it is of another format or damaged.
    """
    if not (folder / "policy.json").is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint: it has no policy.json")
    manifest = read_json(folder / "policy.json")
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"{folder / 'policy.json'}: format must be {FORMAT}, which this version of recede reads, "
            f"got {manifest.get('format')!r}: load it with the version noted in it, or train again"
        )
    missing = [key for key in KEYS if key not in manifest]
    if missing:
        raise ValueError(f"{folder / 'policy.json'} is damaged: it lacks {missing}; use another checkpoint")
    try:
        manifest["specification"] = Specification.from_json(manifest["specification"])
        manifest["horizons"] = Horizons(**manifest["horizons"])
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'policy.json'} is damaged ({error}): use another checkpoint") from None
    return manifest


def steps(run: Path) -> list[int]:
    """The steps of the checkpoints of a run, ascending."""
    return sorted(int(path.name) for path in (run / "checkpoints").glob("[0-9]*"))


def of_step(run: Path, step: int) -> Path:
    """The checkpoint of a run after `step` updates."""
    return run / "checkpoints" / f"{step:08d}"


def best(run: Path) -> int | None:
    """The step of the checkpoint that scored best of those evaluated while training, the earliest of equals."""
    kept = set(steps(run))
    measured = [entry for entry in metrics(run) if "mean_score" in entry and entry["step"] in kept]
    return max(measured, key=lambda entry: entry["mean_score"], default={}).get("step")


def metrics(run: Path) -> list[dict[str, Any]]:
    """Every line of a run's metrics so far; a last line that was cut short is left out."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it from a copy, or remove it") from None


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
