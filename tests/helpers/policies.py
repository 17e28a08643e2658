"""Small untrained policies."""

import numpy as np
import torch
from recede.configs.components.denoising import DDIMConfig
from recede.configs.components.encoders import LowdimEncoderConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import RegressionConfig
from recede.policy.denoising import prediction
from recede.policy.denoising.schedule import cosine
from recede.policy.denoising.weighting import uniform
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.normalizer import Normalizer
from recede.policy.objective import Denoising
from recede.specification import Horizons, Specification, Stream

SPECIFICATION = Specification(
    (Stream("state", (3,)), Stream("target", (2,), "float64")), Stream("action", (2,)), control_dt=0.1
)
HORIZONS = Horizons(observation=2, prediction=6, action=3)
RANGES = {
    "state": (-np.ones(3), np.ones(3)),
    "target": (np.zeros(2), np.full(2, 10.0)),
    "action": (np.array([100.0, -3.0]), np.array([200.0, -1.0])),
}


USUAL = {"clip": 1.0, "objective": Denoising(uniform), "has_noise": True, "drop_context": 0.0}
"""The arguments of a `DiffusionPolicy` that few tests change."""


def network_config(channels):
    return UNet1dConfig(channels=list(channels), kernel_size=3, groups=4, time_size=16)


def parts(specification, ranges, channels):
    encoder = LowdimEncoderConfig().build(specification, HORIZONS)
    network = network_config(channels).build(
        action_size=specification.action.size,
        num_steps=HORIZONS.prediction,
        conditioning_shape=encoder.conditioning_shape,
    )
    return {"normalizer": Normalizer(specification, ranges), "encoder": encoder, "network": network}


def diffusion(specification=SPECIFICATION, ranges=RANGES, channels=(16, 32), **options):
    torch.manual_seed(0)
    options = USUAL | {"schedule": cosine(20), "prediction": prediction.EPSILON} | options
    sampler = options.pop("sampler", DDIMConfig(num_steps=4)).build(options["schedule"])
    components = parts(specification, ranges, channels)
    return DiffusionPolicy(specification, HORIZONS, **components, sampler=sampler, **options)


def regression(specification=SPECIFICATION, ranges=RANGES, channels=(16, 32)):
    torch.manual_seed(0)
    config = RegressionConfig(network=network_config(channels))
    return config.build(specification, HORIZONS, Normalizer(specification, ranges))
