"""Policies of other implementations, as far as ours can be the same: the weights of their network, and how their
signals are normalised.

Only tensors and JSON are read: of Python's pickles nothing but what torch's weights_only admits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checkpoint import read_json
from .layouts import GROUPS, LEROBOT_RULES, Layout, renamed, transformer, unet1d
from .normalizer import CLIP
from .weights import read_state_dict


class Affine(NamedTuple):
    """A signal (..., D) as a network sees it: (x - centre) / half_range, each (D,)."""

    centre: Tensor
    half_range: Tensor


class Foreign(NamedTuple):
    """A policy of another implementation: its network, and how its signals are normalised.

    observations: name -> Affine, in the order in which the network sees them side by side.
    """

    network: Layout
    observations: dict[str, Affine]
    action: Affine


def under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What lies under a prefix, without it; and without the reference's empty parameters, which only know a device."""
    names = (name for name in weights if name.startswith(prefix) and not name.endswith("_dummy_variable"))
    return {name.removeprefix(prefix): weights[name] for name in names}


# --- the reference implementation

SAVE = (
    "where it was trained, save the weights alone: payload = torch.load(checkpoint, pickle_module=dill); "
    "torch.save(payload['state_dicts']['ema_model'], 'weights.pt')"
)


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
        raise ValueError(f"normalizer.params_dict.{name} must hold scale and offset, got {sorted(parameters)}: {SAVE}")
    scale, offset = (parameters[key].double() for key in ("scale", "offset"))
    if scale.shape != offset.shape or scale.shape not in ((1,), (wanted,)):
        raise ValueError(
            f"normalizer.params_dict.{name} must be of {wanted} numbers a step, got {tuple(scale.shape)}: give "
            "horizons.observation=N as it was trained with"
        )
    return Affine((-offset / scale).expand(wanted).float(), (1 / scale).expand(wanted).float())


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


# --- LeRobot

OBSERVATIONS = {"observation.state": "state", "observation.environment_state": "environment_state"}
"""LeRobot's vectors -> our streams, in the order in which its network sees them."""

SETTINGS = (
    "input_features",
    "output_features",
    "normalization_mapping",
    "n_obs_steps",
    "horizon",
    "n_action_steps",
    "n_groups",
    "use_film_scale_modulation",
    "noise_scheduler_type",
    "num_train_timesteps",
    "num_inference_steps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "prediction_type",
    "clip_sample",
    "clip_sample_range",
)
"""What we need to know of LeRobot's config.json."""


def lerobot(folder: Path) -> tuple[Foreign, dict[str, Any]]:
    """A policy for vectors from a folder of LeRobot, and its config.json.

    Raises ValueError where it is of another kind, or is made or normalised as ours cannot be.
    """
    config = lerobot_settings(folder / "config.json")
    weights = read_state_dict(folder / "model.safetensors", remedy=SAVE)
    layout = unet1d({renamed(name, LEROBOT_RULES): each for name, each in under("diffusion.unet.", weights).items()})
    statistics = _statistics(folder, weights)
    modes, observations = config["normalization_mapping"], {}
    for name, stream in OBSERVATIONS.items():
        if name in config["input_features"]:
            mode = modes.get(config["input_features"][name]["type"], "IDENTITY")
            found, num_numbers = statistics.get(name, {}), config["input_features"][name]["shape"][0]
            affine = _normalised(name, found, mode, num_numbers)
            # Where a value never changed, LeRobot's network sees -1, as it does of every minimum.
            still = affine.half_range == 0
            affine = Affine(affine.centre + still, affine.half_range + still)
            check_reach(name, affine, found.get("min"), found.get("max"))
            observations[stream] = affine
    action = _normalised("action", statistics.get("action", {}), modes.get("ACTION", "IDENTITY"), layout.action_size)
    return Foreign(layout, observations, action), config


def lerobot_settings(path: Path) -> dict[str, Any]:
    """The content of a config.json. Raises ValueError unless it is of a diffusion policy that can be imported."""
    config = read_json(path)
    missing = [key for key in SETTINGS if key not in config]
    if config.get("type") != "diffusion" or missing:
        raise ValueError(
            f"{path} must be of LeRobot's policy of type 'diffusion', got type {config.get('type')!r} without "
            f"{missing}: save it again with a newer version of LeRobot"
        )
    others = sorted(config["input_features"].keys() - OBSERVATIONS.keys())
    if others:
        raise ValueError(f"{path}: only policies for vectors can be imported, {sorted(OBSERVATIONS)}, got {others} too")
    if config["n_groups"] != GROUPS or not config["use_film_scale_modulation"]:
        raise ValueError(
            f"{path}: n_groups must be {GROUPS} and use_film_scale_modulation true, got {config['n_groups']} and "
            f"{config['use_film_scale_modulation']}: a network that differs there cannot be imported"
        )
    return config


def _statistics(folder: Path, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Signal -> its statistics by name, from the preprocessor's files, or from the weights as in older versions."""
    flat: dict[str, Tensor] = {}
    for name in ("observation.state", "observation.environment_state", "action"):
        for prefix in ("normalize_inputs.buffer_", "unnormalize_outputs.buffer_"):
            found = under(f"{prefix}{name.replace('.', '_')}.", weights)
            flat |= {f"{name}.{statistic}": tensor for statistic, tensor in found.items()}
    if (folder / "policy_preprocessor.json").is_file():
        for step in read_json(folder / "policy_preprocessor.json").get("steps", []):
            if "state_file" in step:
                flat |= read_state_dict(folder / step["state_file"], remedy=SAVE)
    statistics: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        signal, _, statistic = name.rpartition(".")
        statistics.setdefault(signal, {})[statistic] = tensor.float()
    return statistics


def _normalised(name: str, statistics: Mapping[str, Tensor], mode: str, num_numbers: int) -> Affine:
    """How LeRobot normalises a signal of so many numbers; half_range is 0 where a value never changed."""
    needed = {"IDENTITY": (), "MIN_MAX": ("min", "max"), "MEAN_STD": ("mean", "std")}
    if mode not in needed:
        raise ValueError(f"the normalization of {name} must be one of {sorted(needed)} to be imported, got {mode!r}")
    shapes = [tuple(statistics[key].shape) for key in needed[mode] if key in statistics]
    if shapes != [(num_numbers,)] * len(needed[mode]):
        raise ValueError(
            f"the statistics of {name} must be {needed[mode]} of {num_numbers} numbers each, got {sorted(statistics)} "
            f"of shapes {shapes}: keep the files policy_preprocessor* beside config.json"
        )
    if mode == "IDENTITY":
        return Affine(torch.zeros(num_numbers), torch.ones(num_numbers))
    if mode == "MEAN_STD":
        return Affine(statistics["mean"], statistics["std"])
    low, high = statistics["min"], statistics["max"]
    return Affine((low + high) / 2, (high - low) / 2)
