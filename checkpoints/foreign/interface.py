"""What is read of a policy that another library has trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...policy.normalizer import CLIP
from .layouts import Layout


class Affine(NamedTuple):
    """A signal (..., D) as a network sees it: (x - centre) / half_range, each (D,)."""

    centre: Tensor
    half_range: Tensor


class Cameras(NamedTuple):
    """The images that a policy sees, and their encoder as one of ours.

    shapes: name -> (H, W, C), in the order in which the network sees their features. options: of the configuration of
    our encoder. weights: of our `ObservationEncoder`.
    """

    shapes: dict[str, tuple[int, int, int]]
    options: dict[str, Any]
    weights: dict[str, Tensor]


class Foreign(NamedTuple):
    """A policy of another implementation: its network, how its signals are normalised, and what encodes its images.

    observations: name of a vector -> Affine, in the order in which the network sees them side by side, the features of
    images behind them.
    """

    network: Layout
    observations: dict[str, Affine]
    action: Affine
    cameras: Cameras = Cameras({}, {}, {})


def under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What lies under a prefix, without it; and without the reference's empty parameters, which only know a device."""
    names = (name for name in weights if name.startswith(prefix) and not name.endswith("_dummy_variable"))
    return {name.removeprefix(prefix): weights[name] for name in names}


# --- the reference implementation

SAVE = (
    "where it was trained, save the weights alone: payload = torch.load(checkpoint, pickle_module=dill); "
    "torch.save(payload['state_dicts']['ema_model'], 'weights.pt')"
)


def check_reach(name: str, affine: Affine, low: Tensor | None, high: Tensor | None) -> None:
    """Raises ValueError unless observations between these limits stay as they are when we clip them to CLIP.

    Limits that are not known are those of Affine.
    """
    if low is not None and high is not None:
        found = torch.stack([(limit - affine.centre) / affine.half_range for limit in (low, high)]).abs().max().item()
        if found <= CLIP:
            return
        problem = f"reaches {found:.3g}"
    else:
        problem = "is of unknown range"
    raise ValueError(
        f"observation {name}, as it is normalised there, must lie in [-{CLIP}, {CLIP}], to which recede clips it, but "
        f"{problem}: train it again here, or there with normalisation by minimum and maximum"
    )
