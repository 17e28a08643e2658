"""Policies of a hand with a pose, which learn it in a representation."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recede.configs.components import policies, representations
from recede.configs.components.networks import UNet1dConfig
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons, Specification, Stream
from scipy.spatial.transform import Rotation

LABELS = ("x", "y", "z", "rx", "ry", "rz", "opening")
KINDS = (*["position"] * 3, *["axis_angle"] * 3, "gripper")
LOW, HIGH = (-1.0,) * 3 + (-4.0,) * 3 + (0.0,), (1.0,) * 3 + (4.0,) * 3 + (0.08,)
QUATERNION = (*["position"] * 3, *["quaternion_xyzw"] * 4)
HAND = Stream("hand", (7,), labels=(*"xyz", "qx", "qy", "qz", "qw"), kinds=QUATERNION)
POSES = Specification((HAND,), Stream("action", (7,), labels=LABELS, kinds=KINDS, low=LOW, high=HIGH), 0.1)
HORIZONS = Horizons(2, 6, 4)
CHOICES = {
    "absolute": representations.AbsoluteConfig,
    "relative": representations.RelativeConfig,
    "difference": representations.DifferenceConfig,
}


def represented_policy(mode: str, **options: Any) -> DiffusionPolicy:
    """A policy with random weights, and with ranges of 1."""
    torch.manual_seed(0)
    config = policies.DiffusionConfig(
        network=UNet1dConfig(channels=[8], time_size=8), representation=CHOICES[mode](**options)
    )
    ranges = {stream.name: (-np.ones(stream.shape), np.ones(stream.shape)) for stream in POSES.streams}
    policy = config.build(POSES, HORIZONS, Normalizer(POSES, ranges))
    with torch.no_grad():
        for parameter in policy.network.parameters():  # type: ignore[attr-defined]
            parameter.add_(0.05 * torch.randn(parameter.shape))
    learned = policy.representation.learned
    whole = {stream.name: (-np.ones(stream.shape), np.ones(stream.shape)) for stream in learned.streams}
    policy.learned.load_state_dict(Normalizer(learned, whole).state_dict())
    return policy.eval().requires_grad_(False)


def hands(rows: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Observations of random poses."""
    rng = np.random.default_rng(seed)
    turns = Rotation.random(rows * 2, random_state=seed).as_quat().reshape(rows, 2, 4)
    return {"hand": np.concatenate([rng.uniform(-1, 1, (rows, 2, 3)), turns], axis=-1).astype(np.float32)}


def plans(rows: int, seed: int = 1) -> NDArray[np.float32]:
    """Chunks of random poses."""
    rng = np.random.default_rng(seed)
    turns = Rotation.random(rows * 6, random_state=seed).as_rotvec().reshape(rows, 6, 3)
    rest = rng.uniform(-0.5, 0.5, (rows, 6, 3)), rng.uniform(0, 0.08, (rows, 6, 1))
    return np.concatenate([rest[0], turns, rest[1]], axis=-1).astype(np.float32)
