"""Convert the weights of other implementations to networks of ours, which compute the same.

These are `ConditionalUnet1D` and `TransformerForDiffusion` of the reference implementation of Diffusion Policy (Chi et
al. 2023), and LeRobot's U-Net, a few of whose names differ, with its encoders of images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...configs.components.encoders import ResNetEncoderConfig
from ...policy.encoders.resnet import GROUP_SIZE, Norm
from ...policy.networks.transformer import Transformer
from ...policy.networks.unet1d import UNet1d

GROUPS = 8
"""Groups of the U-Net's group norms. The weights do not show it; the last norm always has this number there."""

Rules = tuple[tuple[str, str], ...]
"""Regular expressions and their replacements, in order."""


class Layout(NamedTuple):
    """A network of ours with the weights of another implementation."""

    kind: str
    """The choice of `policy/network`."""

    sizes: dict[str, Any]
    """The options that the weights show."""

    weights: dict[str, Tensor]
    """The state dict of our network."""

    action_size: int
    """Da."""

    conditioning_size: int
    """S times Dc."""

    num_steps: int | None
    """Tp, if the weights show it."""


def renamed(name: str, rules: Rules) -> str:
    """Apply all rules to a name.

    >>> renamed("down.0.1.first.0.weight", UNET1D_RULES)
    'down_modules.0.1.blocks.0.block.0.weight'
    """
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def check_layout(weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raises ValueError, naming the first few, if the names or shapes of the weights differ from the expected ones."""
    wrong = [f"{name} is missing" for name in expected if name not in weights]
    wrong += [f"{name} is not known" for name in weights if name not in expected]
    wrong += [
        f"{name} is of shape {tuple(weights[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if wrong:
        raise ValueError(f"the weights must be those of {what}, but {len(wrong)} names differ: {'; '.join(wrong[:3])}")


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a network's weights."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def size(weights: Mapping[str, Tensor], name: str, dimension: int, what: str) -> int:
    """The size of one dimension of a weight. Raises ValueError if there is no such weight."""
    if name not in weights or weights[name].ndim <= dimension:
        raise ValueError(f"the weights must be those of {what}, but {name} is missing: got {sorted(weights)[:3]} ...")
    return weights[name].shape[dimension]


# --- the U-Net

UNET1D = "a ConditionalUnet1D with global conditioning, scales and shifts"

UNET1D_RULES: Rules = (
    (r"^time\.0\.mlp\.0\.", "diffusion_step_encoder.1."),
    (r"^time\.0\.mlp\.2\.", "diffusion_step_encoder.3."),
    (r"^(down|up)\.", r"\1_modules."),
    (r"^middle\.", "mid_modules."),
    (r"^(down|up)sample\.(\d+)\.", r"\1_modules.\2.2.conv."),
    (r"\.first\.", ".blocks.0.block."),
    (r"\.second\.", ".blocks.1.block."),
    (r"\.skip\.", ".residual_conv."),
    (r"^head\.0\.", "final_conv.0.block."),
    (r"^head\.1\.", "final_conv.1."),
)
"""From our names to those of the reference implementation."""

LEROBOT_RULES: Rules = (
    (r"^_orig_mod\.", ""),
    (r"\.conv1\.block\.", ".blocks.0.block."),
    (r"\.conv2\.block\.", ".blocks.1.block."),
    (r"^(down|up)_modules\.(\d+)\.2\.(weight|bias)$", r"\1_modules.\2.2.conv.\3"),
)
"""From LeRobot's names to those of the reference implementation."""


def unet1d(weights: Mapping[str, Tensor]) -> Layout:
    """A U-Net from its state dict.

    There, every block has a linear layer for time and conditioning. Ours has one matrix for the time and one for the
    conditioning, with the rows of all blocks in the order in which they run. Raises ValueError if names or shapes
    differ.
    """
    levels = sum(
        re.fullmatch(r"down_modules\.\d+\.0\.blocks\.0\.block\.0\.weight", name) is not None for name in weights
    )
    first = [f"down_modules.{level}.0.blocks.0.block.0.weight" for level in range(max(levels, 1))]
    channels = [size(weights, name, 0, UNET1D) for name in first]
    kernel_size, action_size = size(weights, first[0], 2, UNET1D), size(weights, first[0], 1, UNET1D)
    time_size = size(weights, "diffusion_step_encoder.3.weight", 0, UNET1D)
    columns = size(weights, "down_modules.0.0.cond_encoder.1.weight", 1, UNET1D)
    sizes = {"channels": channels, "kernel_size": kernel_size, "groups": GROUPS, "time_size": time_size}
    shape = 1, columns - time_size
    with torch.device("meta"):
        network = UNet1d(action_size=action_size, conditioning_shape=shape, hidden=(), **sizes)  # pyright: ignore[reportArgumentType]
    ours = {name: shape for name, shape in shapes(network).items() if not re.match(r"time\.2|conditioning", name)}
    foreign = {name: renamed(name, UNET1D_RULES) for name in ours}
    films = {f"{block}.cond_encoder.1": 2 * width for block, width in _blocks(channels)}
    expected = {foreign[name]: shape for name, shape in ours.items()}
    expected |= {f"{name}.weight": (rows, columns) for name, rows in films.items()}
    expected |= {f"{name}.bias": (rows,) for name, rows in films.items()}
    check_layout(weights, expected, UNET1D)
    film = torch.cat([weights[f"{name}.weight"] for name in films])
    converted = {name: weights[source] for name, source in foreign.items()}
    converted["time.2.weight"], converted["conditioning.2.weight"] = film[:, :time_size], film[:, time_size:]
    converted["time.2.bias"] = torch.cat([weights[f"{name}.bias"] for name in films])
    return Layout("unet1d", sizes, converted, action_size, columns - time_size, None)


def _blocks(channels: list[int]) -> list[tuple[str, int]]:
    """The names there and the channels of all blocks, in the order in which they run."""
    stages = [(f"down_modules.{level}.", width) for level, width in enumerate(channels)]
    stages += [("mid_modules.", channels[-1])]
    stages += [(f"up_modules.{level}.", width) for level, width in enumerate(reversed(channels[:-1]))]
    return [(f"{stage}{block}", width) for stage, width in stages for block in range(2)]


# --- the transformer

TRANSFORMER = "a TransformerForDiffusion with time and observations as conditions and n_cond_layers 0"

TRANSFORMER_RULES: Rules = (
    (r"^action\.", "input_emb."),
    (r"^action_positions$", "pos_emb"),
    (r"^observation\.", "cond_obs_emb."),
    (r"^memory_positions$", "cond_pos_emb"),
    (r"^memory\.", "encoder."),
    (r"^norm\.", "ln_f."),
    (r"^blocks\.", "decoder.layers."),
    (r"\.norms\.0\.", ".norm1."),
    (r"\.norms\.1\.", ".norm2."),
    (r"\.norms\.2\.", ".norm3."),
    (r"\.query_key_value\.", ".self_attn.in_proj_"),
    (r"\.query\.", ".multihead_attn.in_proj_"),
    (r"\.self_output\.", ".self_attn.out_proj."),
    (r"\.cross_output\.", ".multihead_attn.out_proj."),
    (r"\.expand\.", ".linear1."),
    (r"\.contract\.", ".linear2."),
)
"""From our names to those of the reference implementation."""


def transformer(weights: Mapping[str, Tensor]) -> Layout:
    """A transformer from its state dict.

    There, the cross-attention of a layer has one matrix. Ours has the rows of the queries in each layer, and one matrix
    with those of the keys and values of all layers. Raises ValueError if names or shapes differ.
    """
    masks = {"mask", "memory_mask"} & weights.keys()
    if len(masks) == 1:
        raise ValueError(f"the weights must be those of {TRANSFORMER}, and hold mask and memory_mask, or neither")
    weights = {name: tensor for name, tensor in weights.items() if name not in masks}
    num_layers = sum(re.fullmatch(r"decoder\.layers\.\d+\.norm1\.weight", name) is not None for name in weights)
    width = size(weights, "ln_f.weight", 0, TRANSFORMER)
    shape = size(weights, "cond_pos_emb", 1, TRANSFORMER) - 1, size(weights, "cond_obs_emb.weight", 1, TRANSFORMER)
    num_steps, action_size = size(weights, "pos_emb", 1, TRANSFORMER), size(weights, "head.weight", 0, TRANSFORMER)
    sizes = {"num_layers": num_layers, "size": width, "causal": bool(masks)}
    with torch.device("meta"):
        network = Transformer(
            action_size=action_size,
            conditioning_shape=shape,
            num_steps=num_steps,
            num_heads=1,
            patch=1,
            dropout=0.0,
            embedding_dropout=0.0,
            **sizes,  # pyright: ignore[reportArgumentType]
        )
    ours = {name: shape for name, shape in shapes(network).items() if not name.startswith("keys_values.")}
    cross = [f"decoder.layers.{layer}.multihead_attn.in_proj_" for layer in range(num_layers)]
    expected = {
        renamed(name, TRANSFORMER_RULES): (1, *shape) if name.endswith("positions") else shape
        for name, shape in ours.items()
    }
    expected |= {f"{name}weight": (3 * width, width) for name in cross}
    expected |= {f"{name}bias": (3 * width,) for name in cross}
    check_layout(weights, expected, TRANSFORMER)
    # The matrices of the cross-attention start with the rows of the queries; all others are as long as ours.
    converted = {
        name: weights[renamed(name, TRANSFORMER_RULES)].reshape(-1, *shape[1:])[: shape[0]]
        for name, shape in ours.items()
    }
    for part in ("weight", "bias"):
        converted[f"keys_values.{part}"] = torch.cat([weights[f"{name}{part}"][width:] for name in cross])
    return Layout("transformer", sizes, converted, action_size, shape[0] * shape[1], num_steps)


# --- encoders of images

CAMERA = "ResNets with a spatial softmax and a linear layer, as config.json says"

CAMERA_RULES: Rules = (
    (r"^trunk\.conv1\.", "backbone.0."),
    (r"^trunk\.bn1\.", "backbone.1."),
    *((rf"^trunk\.layer{stage}\.", f"backbone.{stage + 3}.") for stage in range(1, 5)),
    (r"^keypoints\.detect\.", "pool.nets."),
    (r"^project\.", "out."),
)
"""From our names to those of LeRobot, which numbers the layers of torchvision's network."""


def cameras(
    weights: Mapping[str, Tensor], *, prefixes: Sequence[str], depth: int, norm: Norm, shape: tuple[int, int, int]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Encoders of images with the same layout, one for each prefix of the names, from their state dict.

    depth, norm: of the ResNets. shape: (H, W, C) of the cropped image. Returns the options that the weights show, and
    the weights of our `ObservationEncoder`. Raises ValueError if names or shapes differ.
    """
    weights = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    width, num_keypoints, num_features = (
        size(weights, f"{prefixes[0]}{name}.weight", 0, CAMERA) for name in ("backbone.0", "pool.nets", "out")
    )
    with torch.device("meta"):
        camera = ResNetEncoderConfig(
            depth=depth,
            width=max(GROUP_SIZE, width // GROUP_SIZE * GROUP_SIZE),  # another width makes the shapes differ below
            norm=norm,
            keypoints=num_keypoints,
            features=num_features,
        ).camera()(shape[2], shape[:2])
    ours = shapes(camera)
    expected = {renamed(name, CAMERA_RULES): sizes for name, sizes in ours.items()}
    # The coordinates of the last map's cells, 1/32 of the image in height and width; ours are computed.
    expected["pool.pos_grid"] = (-(-shape[0] // 32) * -(-shape[1] // 32), 2)
    check_layout(weights, {f"{prefix}{name}": sizes for prefix in prefixes for name, sizes in expected.items()}, CAMERA)
    converted = {
        f"cameras.{index}.{name}": weights[f"{prefix}{renamed(name, CAMERA_RULES)}"]
        for index, prefix in enumerate(prefixes)
        for name in ours
    }
    options = {"depth": depth, "width": width, "norm": norm, "keypoints": num_keypoints, "features": num_features}
    return options, converted
