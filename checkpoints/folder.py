"""The format of a checkpoint: a folder with `policy.json` and `policy.safetensors`, neither of which holds code.

`policy.json` describes the policy: specification with units and control period, horizons, configuration, versions, and
the SHA-256 of the weights and of its own entries. The folder appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import check_digest, interpreting, read_json, read_tensors, write_json_with_digest, write_tensors
from ..specification import Horizons, Specification, interface_from_json, interface_to_json
from ..version import __version__

if TYPE_CHECKING:
    from torch import Tensor


FORMAT = 3
"""Raised whenever older checkpoints can no longer be read."""

KEYS = ("versions", "specification", "horizons", "policy", "task", "step", "seed", "weights_sha256")
"""What `policy.json` holds at least, besides its format."""


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
