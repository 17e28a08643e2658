"""Policies from their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .schema import policy_config

if TYPE_CHECKING:
    import torch

    from ..policy.interface import Policy


def load_policy(
    folder: str | Path, *, which: str = "last", device: str | torch.device = "cpu"
) -> tuple[Policy, dict[str, Any]]:
    """The trained policy of a run or checkpoint folder, ready to predict, and its manifest.

    which: "last" or "best" of a run. The manifest is the content of `policy.json`, and `manifest["path"]` where it was
    found. Nothing in the folder is executed. Raises FileNotFoundError where there is no policy, and ValueError where it
    is of another format, damaged, or configured for what this version does not know.
    """
    from ..policy import checkpoint
    from ..policy.normalizer import Normalizer

    path = checkpoint.find(Path(folder), which)
    manifest, weights = checkpoint.load(path)
    specification, horizons = manifest["specification"], manifest["horizons"]
    policy: Any = policy_config(manifest["policy"]).build(specification, horizons, Normalizer.empty(specification))
    missing, unexpected = policy.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"{path}: the weights do not fit the configured policy, missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    return policy.to(device).eval().requires_grad_(False), manifest | {"path": str(path)}
