"""State dicts of the reference implementation of Diffusion Policy (Chi et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...policy.affine import Affine
from .interface import REMEDY, Foreign, check_reach, under
from .layouts import transformer, unet1d


def reference(weights: Mapping[str, Tensor], *, num_observed: int) -> Foreign:
    """A policy for vectors from the state dict of one of the reference implementation. num_observed: To.

    Raises ValueError where it is of another kind, or has been normalised as we cannot.
    """
    known = ("model.", "normalizer.params_dict.obs.", "normalizer.params_dict.action.")
    others = [name for name in weights if not name.startswith(known) and not name.endswith("_dummy_variable")]
    if others:
        raise ValueError(
            f"the weights must be those of a policy for vectors, model.* and normalizer.* for obs and action, "
            f"got {others[:3]}: encoders of images cannot be imported"
        )
    network = under("model.", weights)
    layout = transformer(network) if "ln_f.weight" in network else unet1d(network)
    observation_size, rest = divmod(layout.conditioning_size, num_observed)
    if rest:
        raise ValueError(
            f"the {layout.conditioning_size} numbers of conditioning must be those of {num_observed} steps: "
            "give horizons.observation=N as it was trained with"
        )
    observation = _scaled(under(known[1], weights), observation_size, "obs")
    action = _scaled(under(known[2], weights), layout.action_size, "action")
    limits = (weights.get(f"{known[1]}input_stats.{name}") for name in ("min", "max"))
    check_reach("obs", observation, *limits)
    return Foreign(layout, {"obs": observation}, action)


def _scaled(parameters: Mapping[str, Tensor], wanted: int, name: str) -> Affine:
    """From x -> scale x + offset, each of one number for all dimensions or of one for each."""
    if not {"scale", "offset"} <= parameters.keys():
        raise ValueError(
            f"normalizer.params_dict.{name} must hold scale and offset, got {sorted(parameters)}: {REMEDY}"
        )
    scale, offset = (parameters[key].double() for key in ("scale", "offset"))
    if scale.shape != offset.shape or scale.shape not in ((1,), (wanted,)):
        raise ValueError(
            f"normalizer.params_dict.{name} must be of {wanted} numbers a step, got {tuple(scale.shape)}: give "
            "horizons.observation=N as it was trained with"
        )
    return Affine((-offset / scale).expand(wanted).float(), (1 / scale).expand(wanted).float())
