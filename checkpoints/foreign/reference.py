"""State dicts of the reference implementation of Diffusion Policy (Chi et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...policy.affine import Affine
from .interface import REMEDY, Foreign, check_reach, under
from .layouts import transformer, unet1d


def reference(weights: Mapping[str, Tensor], *, num_observed: int) -> Foreign:
    """A policy for vectors, from a state dict of the reference implementation. num_observed: To.

    Raises ValueError if the policy is of another kind, or if our normalizer cannot do what its normalizer does.
    """
    prefixes = ("model.", "normalizer.params_dict.obs.", "normalizer.params_dict.action.")
    unknown = [name for name in weights if not name.startswith(prefixes) and not name.endswith("_dummy_variable")]
    if unknown:
        raise ValueError(
            f"the weights must be those of a policy for vectors, model.* and normalizer.* for obs and action, "
            f"got {unknown[:3]}: encoders of images cannot be imported"
        )
    network = under("model.", weights)
    layout = transformer(network) if "ln_f.weight" in network else unet1d(network)
    observation_size, rest = divmod(layout.conditioning_size, num_observed)
    if rest:
        raise ValueError(
            f"the {layout.conditioning_size} numbers of conditioning must be those of {num_observed} steps: "
            "give horizons.observation=N as it was trained with"
        )
    observation = _scaled(under(prefixes[1], weights), observation_size, "obs")
    action = _scaled(under(prefixes[2], weights), layout.action_size, "action")
    limits = (weights.get(f"{prefixes[1]}input_stats.{name}") for name in ("min", "max"))
    check_reach("obs", observation, *limits)
    return Foreign(layout, {"obs": observation}, action)


def _scaled(parameters: Mapping[str, Tensor], num_numbers: int, name: str) -> Affine:
    """The range of the map x -> scale x + offset, which has one number for all dimensions or one for each."""
    if not {"scale", "offset"} <= parameters.keys():
        raise ValueError(
            f"normalizer.params_dict.{name} must hold scale and offset, got {sorted(parameters)}: {REMEDY}"
        )
    scale, offset = (parameters[key].double() for key in ("scale", "offset"))
    if scale.shape != offset.shape or scale.shape not in ((1,), (num_numbers,)):
        raise ValueError(
            f"normalizer.params_dict.{name} must be of {num_numbers} numbers a step, got {tuple(scale.shape)}: give "
            "horizons.observation=N as it was trained with"
        )
    return Affine((-offset / scale).expand(num_numbers).float(), (1 / scale).expand(num_numbers).float())
