"""Policies from their checkpoints."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .schema import UnknownChoice, describe, policy_config

if TYPE_CHECKING:
    import torch

    from ..policy.interface import Policy


def load_policy(
    folder: str | Path, *, which: str = "last", device: str | torch.device = "cpu", sampler: Any = None
) -> tuple[Policy, dict[str, Any]]:
    """The trained policy of a run or checkpoint folder, ready to predict, and its manifest.

    which: "last" or "best" of a run. sampler: the configuration of another sampler than the policy's own.

    The manifest is the content of `policy.json`, and `manifest["path"]` where it was found. Nothing in the folder is
    executed. Raises FileNotFoundError where there is no policy, and ValueError where it is of another format, damaged,
    or configured for what this version does not know. A choice that a package of yours added must be added before.
    """
    from ..policy import checkpoint
    from ..policy.normalizer import Normalizer

    path = checkpoint.find(Path(folder), which)
    manifest, weights = checkpoint.load(path)
    specification, horizons = manifest["specification"], manifest["horizons"]
    try:
        config = policy_config(manifest["policy"])
        policy: Any = config.build(specification, horizons, Normalizer.empty(specification))
    except UnknownChoice as error:
        raise ValueError(f"{path / 'policy.json'}: {error}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path / 'policy.json'}: no policy can be built from it ({error}): train again") from error
    if sampler is not None:
        if "sampler" not in {each.name for each in fields(config)}:
            raise ValueError(f"{path}: sampler must be left out, the policy there has none to choose")
        config.sampler = sampler
        policy = config.build(specification, horizons, Normalizer.empty(specification))
        manifest["policy"] = describe(config)
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights must be those of the configured policy: {error}") from None
    return policy.to(device).eval().requires_grad_(False), manifest | {"path": str(path)}
