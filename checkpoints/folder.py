"""The format of a checkpoint: a folder with `policy.json` and `policy.safetensors`, neither of which holds code.

`policy.json` describes the policy: specification with units and control period, horizons, configuration, versions, and
the SHA-256 of the weights and of its own entries. The folder appears whole or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import check_digest, interpreting, read_json, write_json_with_digest, writing
from ..specification import Horizons, Specification, interface_from_json, interface_to_json
from ..version import __version__

if TYPE_CHECKING:
    from torch import Tensor


FORMAT = 3
"""Raised whenever older checkpoints can no longer be read."""

KEYS = ("versions", "specification", "horizons", "policy", "task", "step", "seed", "weights_sha256")
"""What `policy.json` holds at least, besides its format."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors as safetensors; returns the SHA-256 of the file."""
    import safetensors.torch

    data = safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    with writing(path):  # safetensors itself does not raise OSError if the disk is full
        path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """Read the tensors of `write_tensors`. digest: the SHA-256 that it returned.

    Raises FileNotFoundError if the file is missing, and ValueError if its SHA-256 differs.
    """
    import safetensors.torch

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: restore it, or use another checkpoint")
    try:
        data = path.read_bytes()
    except MemoryError:
        raise ValueError(f"{path} does not fit into memory: use a machine with more, or another checkpoint") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one noted beside it; use another checkpoint")
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, RuntimeError, MemoryError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}): use another checkpoint") from None


def write_checkpoint(folder: Path, weights: Mapping[str, Tensor], **manifest: Any) -> None:
    """Write `policy.json` and `policy.safetensors` into an existing folder.

    manifest: the entries of `policy.json`, among them specification, horizons, policy, task and step.
    """
    digest = write_tensors(folder / "policy.safetensors", weights)
    specification: Specification = manifest.pop("specification")
    horizons: Horizons = manifest.pop("horizons")
    content = {
        "format": FORMAT,
        "versions": {"recede": __version__} | {name: version(name) for name in ("torch", "numpy")},
        **interface_to_json(specification, horizons),
        **manifest,
        "weights_sha256": digest,
    }
    write_json_with_digest(folder / "policy.json", content)


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest and the weights of a checkpoint. Raises what `read_manifest` and `read_tensors` raise."""
    manifest = read_manifest(folder)
    return manifest, read_tensors(folder / "policy.safetensors", manifest["weights_sha256"])


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of `policy.json`, with its specification and its horizons built. Does not load torch.

    Raises FileNotFoundError if there is none, and ValueError if it is of another format or damaged.
    """
    if not (folder / "policy.json").is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint: it has no policy.json")
    manifest = read_json(folder / "policy.json")
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"{folder / 'policy.json'}: format must be {FORMAT}, which this version of recede reads, "
            f"got {manifest.get('format')!r}: load it with the version noted in it, or train again"
        )
    check_digest(folder / "policy.json", manifest, "use another checkpoint")
    missing = [key for key in KEYS if key not in manifest]
    if missing:
        raise ValueError(f"{folder / 'policy.json'} is damaged: it lacks {missing}; use another checkpoint")
    with interpreting(folder / "policy.json", "use another checkpoint", ValueError):
        manifest["specification"], manifest["horizons"] = interface_from_json(manifest)
    return manifest
