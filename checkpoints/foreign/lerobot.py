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

OBSERVATIONS = {"observation.state": "state", "observation.environment_state": "environment_state"}
"""LeRobot's vectors -> our streams, in the order of its network's input; images come between the two."""

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
"""Keys that LeRobot's config.json must have."""


def lerobot(folder: Path) -> tuple[Foreign, dict[str, Any]]:
    """A policy for vectors and images from a folder of LeRobot, and the content of its config.json.

    Raises ValueError if the policy is of another kind, or if our network or normalizer cannot do the same.
    """
    config = lerobot_settings(folder / "config.json")
    weights = read_state_dict(folder / "model.safetensors", remedy=REMEDY)
    layout = unet1d(
        {renamed(name, LEROBOT_RULES): tensor for name, tensor in under("diffusion.unet.", weights).items()}
    )
    features, modes = config["input_features"], config["normalization_mapping"]
    statistics = _statistics(folder, weights, [*features, "action"])
    affines = {name: _observed(name, features[name], statistics.get(name, {}), modes) for name in features}
    vectors = [name for name in OBSERVATIONS if name in features]
    for name in vectors:
        check_reach(name, affines[name], *(statistics.get(name, {}).get(limit) for limit in ("min", "max")))
    observations = {OBSERVATIONS[name]: affines[name] for name in vectors}
    images = _cameras(config, weights, affines)
    action = _normalised("action", statistics.get("action", {}), modes.get("ACTION", "IDENTITY"), layout.action_size)
    return Foreign(_vectors_first(layout, config, observations, images), observations, action, images), config


def _cameras(config: Mapping[str, Any], weights: Mapping[str, Tensor], affines: Mapping[str, Affine]) -> Cameras:
    """The images of a config.json and their encoder. Raises ValueError if our encoder cannot do the same."""
    images, crop, is_shared = images_of(config), config["crop_shape"], not config["use_separate_rgb_encoder_per_camera"]
    if not images:
        return Cameras({}, {}, {})
    pixels = {name: [values.tolist() for values in affines[name]] for name in images}
    mean, std = next(iter(pixels.values()))
    if any(statistics != [mean, std] for statistics in pixels.values()):
        raise ValueError(
            f"all cameras must have the same mean and deviation of pixels, got {pixels}: train it again with the "
            "statistics of ImageNet, or here"
        )
    channels, height, width = next(iter(images.values()))
    crop_height, crop_width = crop or (height, width)
    options, converted = cameras(
        under("diffusion.rgb_encoder.", weights),
        prefixes=[""] if is_shared else [f"{index}." for index in range(len(images))],
        depth=BACKBONES[config["vision_backbone"]],
        norm="group" if config["use_group_norm"] else "frozen",
        shape=(crop_height, crop_width, channels),
    )
    options |= {"relu": True, "crop": crop, "shared": is_shared, "mean": mean, "std": std}
    streams = [re.sub(r"\W", "_", name.removeprefix("observation.").lower()) for name in images]
    return Cameras(dict.fromkeys(streams, (height, width, channels)), options, converted)


def _vectors_first(
    layout: Layout, config: Mapping[str, Any], observations: Mapping[str, Affine], images: Cameras
) -> Layout:
    """The network for our order of a step's numbers: the vectors, then the features of images.

    Raises ValueError if the weights are for another number of them.
    """
    sizes = {name: len(affine.centre) for name, affine in observations.items()}
    state, environment = (sizes.get(name, 0) for name in OBSERVATIONS.values())
    features, num_steps = len(images.shapes) * images.options.get("features", 0), config["n_obs_steps"]
    per_step = state + features + environment
    if layout.conditioning_size != per_step * num_steps:
        raise ValueError(
            f"n_obs_steps must be {layout.conditioning_size} numbers of conditioning by {per_step} a step, "
            f"got {num_steps}: config.json and model.safetensors must be of the same policy"
        )
    first, between, last = torch.arange(per_step).split([state, features, environment])
    films = layout.weights["conditioning.2.weight"].unflatten(1, (num_steps, per_step))
    films = films[:, :, torch.cat([first, last, between])].flatten(1)
    return layout._replace(weights=layout.weights | {"conditioning.2.weight": films})


def lerobot_settings(path: Path) -> dict[str, Any]:
    """The content of a config.json. Raises ValueError if it is not of a diffusion policy that can be imported."""
    config = read_json(path)
    missing = [key for key in SETTINGS if key not in config]
    if config.get("type") != "diffusion":
        raise ValueError(
            f"{path} must be of LeRobot's policy of type 'diffusion', got type {config.get('type')!r}: no other type "
            'can be imported; if it is a diffusion policy, add "type": "diffusion"'
        )
    if missing:
        raise ValueError(f"{path} must hold {missing}: save the policy again with a newer version of LeRobot")
    unknown = sorted(config["input_features"].keys() - OBSERVATIONS.keys() - images_of(config).keys())
    if unknown:
        raise ValueError(f"{path}: only {sorted(OBSERVATIONS)} and images can be imported, got {unknown} too")
    if config["n_groups"] != GROUPS or not config["use_film_scale_modulation"]:
        raise ValueError(
            f"{path}: n_groups must be {GROUPS} and use_film_scale_modulation true, got {config['n_groups']} and "
            f"{config['use_film_scale_modulation']}: a network that differs there cannot be imported"
        )
    if images_of(config):
        _check_images(path, config)
    return config


def images_of(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """Name -> [C, H, W] of the images, in the order of the network's input."""
    features = config["input_features"].items()
    return {name: feature["shape"] for name, feature in features if feature["type"] == "VISUAL"}


def _check_images(path: Path, config: Mapping[str, Any]) -> None:
    """Raises ValueError if our encoder cannot do the same with the images as LeRobot's."""
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
    if len(shape) != 3 or any(other != shape for other in images.values()):
        raise ValueError(f"{path}: images must all have the same shape (C, H, W), got {images}: resize them there")
    # LeRobot rounds half a margin to an even number, we round it down: they differ for 1.5, 3.5, 5.5, ...
    margins = [] if crop is None else [size - cropped for size, cropped in zip(shape[1:], crop, strict=True)]
    if any(margin % 4 == 3 for margin in margins):
        raise ValueError(
            f"{path}: crop_shape must not leave a margin of 3, 7, 11, ... pixels, half of which we round differently, "
            f"got {crop} of {shape[1:]}: train it again with a margin that is even"
        )


def _statistics(folder: Path, weights: Mapping[str, Tensor], signals: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """Signal -> its statistics by name, from the files of the preprocessor, or from the weights of older versions."""
    flat: dict[str, Tensor] = {}
    for name in signals:
        for prefix in ("normalize_inputs.buffer_", "unnormalize_outputs.buffer_"):
            tensors = under(f"{prefix}{name.replace('.', '_')}.", weights)
            flat |= {f"{name}.{statistic}": tensor for statistic, tensor in tensors.items()}
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
    """The range of an observation in LeRobot: of the numbers of a vector, or of the channels of an image."""
    mode = modes.get(feature["type"], "IDENTITY")
    centre, half_range = _normalised(name, statistics, mode, feature["shape"][0])
    if mode == "MEAN_STD":
        return Affine(centre, half_range + EPSILON)
    # LeRobot maps a constant value to -1, like every minimum.
    still = half_range == 0
    return Affine(centre + still, half_range + still)


def _normalised(name: str, statistics: Mapping[str, Tensor], mode: str, num_numbers: int) -> Affine:
    """The range of a signal of `num_numbers` numbers in LeRobot; half_range is 0 for a constant value."""
    keys = {"IDENTITY": (), "MIN_MAX": ("min", "max"), "MEAN_STD": ("mean", "std")}
    if mode not in keys:
        raise ValueError(f"the normalization of {name} must be one of {sorted(keys)} to be imported, got {mode!r}")
    shapes = [tuple(statistics[key].shape) for key in keys[mode] if key in statistics]
    if shapes != [(num_numbers,)] * len(keys[mode]):
        raise ValueError(
            f"the statistics of {name} must be {keys[mode]} of {num_numbers} numbers each, got {sorted(statistics)} "
            f"of shapes {shapes}: keep the files policy_preprocessor* beside config.json"
        )
    if mode == "IDENTITY":
        return Affine(torch.zeros(num_numbers), torch.ones(num_numbers))
    if mode == "MEAN_STD":
        return Affine(statistics["mean"], statistics["std"])
    low, high = statistics["min"], statistics["max"]
    return Affine((low + high) / 2, (high - low) / 2)
