"""Folders of LeRobot's diffusion policies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...files import read_json
from ...policy.affine import Affine
from ...policy.weights import read_state_dict
from .interface import REMEDY, Cameras, Foreign, check_reach, under
from .layouts import GROUPS, LEROBOT_RULES, Layout, cameras, renamed, unet1d

# --- LeRobot

OBSERVATIONS = {"observation.state": "state", "observation.environment_state": "environment_state"}
"""LeRobot's vectors -> our streams, in the order in which its network sees them; images are between the two."""

BACKBONES = {"resnet18": 18, "resnet34": 34, "resnet50": 50}
"""LeRobot's name of an encoder's network -> its depth."""

EPSILON = 1e-8
"""What LeRobot adds to a standard deviation."""

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
    "vision_backbone",
    "crop_shape",
    "use_group_norm",
    "use_separate_rgb_encoder_per_camera",
)
"""What we need to know of LeRobot's config.json."""


def lerobot(folder: Path) -> tuple[Foreign, dict[str, Any]]:
    """A policy for vectors and images from a folder of LeRobot, and its config.json.

    Raises ValueError where it is of another kind, or is made or normalised as ours cannot be.
    """
    config = lerobot_settings(folder / "config.json")
    weights = read_state_dict(folder / "model.safetensors", remedy=REMEDY)
    layout = unet1d({renamed(name, LEROBOT_RULES): each for name, each in under("diffusion.unet.", weights).items()})
    features, modes = config["input_features"], config["normalization_mapping"]
    statistics = _statistics(folder, weights, [*features, "action"])
    affines = {name: _observed(name, features[name], statistics.get(name, {}), modes) for name in features}
    vectors = [name for name in OBSERVATIONS if name in features]
    for name in vectors:
        check_reach(name, affines[name], *(statistics.get(name, {}).get(limit) for limit in ("min", "max")))
    observations = {OBSERVATIONS[name]: affines[name] for name in vectors}
    seen = _cameras(config, weights, affines)
    action = _normalised("action", statistics.get("action", {}), modes.get("ACTION", "IDENTITY"), layout.action_size)
    return Foreign(_vectors_first(layout, config, observations, seen), observations, action, seen), config


def _cameras(config: Mapping[str, Any], weights: Mapping[str, Tensor], affines: Mapping[str, Affine]) -> Cameras:
    """The images of a config.json and their encoder. Raises ValueError where ours cannot be the same."""
    images, crop, is_shared = images_of(config), config["crop_shape"], not config["use_separate_rgb_encoder_per_camera"]
    if not images:
        return Cameras({}, {}, {})
    pixels = {name: [each.tolist() for each in affines[name]] for name in images}
    mean, std = next(iter(pixels.values()))
    if any(each != [mean, std] for each in pixels.values()):
        raise ValueError(
            f"the pixels of all cameras must be normalised alike, got means and deviations {pixels}: train it again "
            "with the statistics of ImageNet, or here"
        )
    channels, height, width = next(iter(images.values()))
    seen_height, seen_width = crop or (height, width)
    options, converted = cameras(
        under("diffusion.rgb_encoder.", weights),
        prefixes=[""] if is_shared else [f"{index}." for index in range(len(images))],
        depth=BACKBONES[config["vision_backbone"]],
        norm="group" if config["use_group_norm"] else "frozen",
        shape=(seen_height, seen_width, channels),
    )
    options |= {"relu": True, "crop": crop, "shared": is_shared, "mean": mean, "std": std}
    streams = [re.sub(r"\W", "_", name.removeprefix("observation.").lower()) for name in images]
    return Cameras(dict.fromkeys(streams, (height, width, channels)), options, converted)


def _vectors_first(
    layout: Layout, config: Mapping[str, Any], observations: Mapping[str, Affine], seen: Cameras
) -> Layout:
    """The network for our order of the numbers of a step: the vectors, then the features of images.

    Raises ValueError unless the weights are for so many.
    """
    sizes = {name: len(affine.centre) for name, affine in observations.items()}
    state, environment = (sizes.get(name, 0) for name in OBSERVATIONS.values())
    images, num_steps = len(seen.shapes) * seen.options.get("features", 0), config["n_obs_steps"]
    per_step = state + images + environment
    if layout.conditioning_size != per_step * num_steps:
        raise ValueError(
            f"n_obs_steps must be {layout.conditioning_size} numbers of conditioning by {per_step} a step, "
            f"got {num_steps}: config.json and model.safetensors must be of the same policy"
        )
    first, between, last = torch.arange(per_step).split([state, images, environment])
    films = layout.weights["conditioning.2.weight"].unflatten(1, (num_steps, per_step))
    films = films[:, :, torch.cat([first, last, between])].flatten(1)
    return layout._replace(weights=layout.weights | {"conditioning.2.weight": films})


def lerobot_settings(path: Path) -> dict[str, Any]:
    """The content of a config.json. Raises ValueError unless it is of a diffusion policy that can be imported."""
    config = read_json(path)
    missing = [key for key in SETTINGS if key not in config]
    if config.get("type") != "diffusion" or missing:
        raise ValueError(
            f"{path} must be of LeRobot's policy of type 'diffusion', got type {config.get('type')!r} without "
            f"{missing}: save it again with a newer version of LeRobot"
        )
    others = sorted(config["input_features"].keys() - OBSERVATIONS.keys() - images_of(config).keys())
    if others:
        raise ValueError(f"{path}: only {sorted(OBSERVATIONS)} and images can be imported, got {others} too")
    if config["n_groups"] != GROUPS or not config["use_film_scale_modulation"]:
        raise ValueError(
            f"{path}: n_groups must be {GROUPS} and use_film_scale_modulation true, got {config['n_groups']} and "
            f"{config['use_film_scale_modulation']}: a network that differs there cannot be imported"
        )
    if images_of(config):
        _check_images(path, config)
    return config


def images_of(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """Name -> [C, H, W] of the images, in the order in which LeRobot's network sees them."""
    features = config["input_features"].items()
    return {name: feature["shape"] for name, feature in features if feature["type"] == "VISUAL"}


def _check_images(path: Path, config: Mapping[str, Any]) -> None:
    """Raises ValueError unless our encoder can do with the images what LeRobot's does."""
    if config["vision_backbone"] not in BACKBONES:
        raise ValueError(
            f"{path}: vision_backbone must be one of {sorted(BACKBONES)} to be imported, "
            f"got {config['vision_backbone']!r}: train it again with one of them"
        )
    if config.get("resize_shape") is not None:
        raise ValueError(
            f"{path}: resize_shape must be null, as recede crops images but does not resize them, "
            f"got {config['resize_shape']}: train it again on images of that size"
        )
    images, crop = images_of(config), config["crop_shape"]
    shape = next(iter(images.values()))
    if len(shape) != 3 or any(each != shape for each in images.values()):
        raise ValueError(f"{path}: images must all have the same shape (C, H, W), got {images}: resize them there")
    # Half a margin is rounded to an even number there, and down here: they differ where it is 1.5, 3.5, 5.5, ...
    margins = [] if crop is None else [size - cropped for size, cropped in zip(shape[1:], crop, strict=True)]
    if any(margin % 4 == 3 for margin in margins):
        raise ValueError(
            f"{path}: crop_shape must not leave a margin of 3, 7, 11, ... pixels, half of which is rounded otherwise "
            f"here, got {crop} of {shape[1:]}: train it again with a margin that is even"
        )


def _statistics(folder: Path, weights: Mapping[str, Tensor], signals: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """Signal -> its statistics by name, from the preprocessor's files, or from the weights as in older versions."""
    flat: dict[str, Tensor] = {}
    for name in signals:
        for prefix in ("normalize_inputs.buffer_", "unnormalize_outputs.buffer_"):
            found = under(f"{prefix}{name.replace('.', '_')}.", weights)
            flat |= {f"{name}.{statistic}": tensor for statistic, tensor in found.items()}
    if (folder / "policy_preprocessor.json").is_file():
        for step in read_json(folder / "policy_preprocessor.json").get("steps", []):
            if "state_file" in step:
                flat |= read_state_dict(folder / step["state_file"], remedy=REMEDY)
    statistics: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        signal, _, statistic = name.rpartition(".")
        statistics.setdefault(signal, {})[statistic] = tensor.float().flatten()  # those of images are (C, 1, 1)
    return statistics


def _observed(
    name: str, feature: Mapping[str, Any], statistics: Mapping[str, Tensor], modes: Mapping[str, str]
) -> Affine:
    """How LeRobot normalises an observation: the numbers of a vector, or the channels of an image."""
    mode = modes.get(feature["type"], "IDENTITY")
    centre, half_range = _normalised(name, statistics, mode, feature["shape"][0])
    if mode == "MEAN_STD":
        return Affine(centre, half_range + EPSILON)
    # Where a value never changed, LeRobot's network sees -1, as it does of every minimum.
    still = half_range == 0
    return Affine(centre + still, half_range + still)


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
