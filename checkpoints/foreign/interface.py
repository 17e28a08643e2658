"""The parts of a policy that another library trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...policy.affine import Affine
from ...policy.normalizer import CLIP
from .layouts import Layout

REMEDY = (
    "where it was trained, save the weights alone: payload = torch.load(checkpoint, pickle_module=dill); "
    "torch.save(payload['state_dicts']['ema_model'], 'weights.pt')"
)
"""What to do about a file that is not a state dict."""


class Cameras(NamedTuple):
    """The images of a policy, and their encoder as one of ours."""

    shapes: dict[str, tuple[int, int, int]]
    """Name -> (H, W, C), in the order in which the network takes their features."""

    options: dict[str, Any]
    """Fields of the configuration of our encoder."""

    weights: dict[str, Tensor]
    """State dict of our `ObservationEncoder`."""


class Foreign(NamedTuple):
    """A policy of another implementation."""

    network: Layout
    """The network."""

    observations: dict[str, Affine]
    """Name of a vector -> its range, in the order in which the network takes them, before the features of images."""

    action: Affine
    """The range of the action."""

    cameras: Cameras = Cameras({}, {}, {})
    """The images and their encoder."""


def under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights whose names start with a prefix, without the prefix and without the reference's empty parameters."""
    names = (name for name in weights if name.startswith(prefix) and not name.endswith("_dummy_variable"))
    return {name.removeprefix(prefix): weights[name] for name in names}


def check_reach(name: str, affine: Affine, low: Tensor | None, high: Tensor | None) -> None:
    """Raises ValueError if our clipping to CLIP would change normalised observations between `low` and `high`.

    The limits (D,) are in units; None stands for unknown limits, which raise ValueError too.
    """
    if low is None or high is None:
        problem = "is of unknown range"
    else:
        limits = torch.stack([(limit - affine.centre) / affine.half_range for limit in (low, high)])
        reach = limits.abs().max().item()
        if reach <= CLIP:
            return
        problem = f"reaches {reach:.3g}"
    raise ValueError(
        f"the normalised observation {name} must lie in [-{CLIP}, {CLIP}], to which recede clips it, but {problem}: "
        "train it again here, or there with normalisation by minimum and maximum"
    )
