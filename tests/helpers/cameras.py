"""Small cameras, encoders and trainings for the tests of images."""

import numpy as np
import torch
from recede.configs.components.encoders import ResNetEncoderConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.policy.encoders.resnet import ResNet
from recede.policy.interface import Lesson
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons, Specification, Stream

HORIZONS = Horizons(2, 4, 2)
STATE, TARGET, ACTION = Stream("state", (3,)), Stream("target", (2,), "float64"), Stream("action", (2,))
SCENE, WRIST = Stream("scene", (24, 32, 3), "uint8"), Stream("wrist", (16, 20, 3), "uint8")
SMALL = {"width": 16, "stages": 1, "keypoints": 4, "features": 6}


def specification(*streams):
    return Specification(streams, ACTION, control_dt=0.1)


def observe(*streams, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        s.name: torch.randint(0, 256, (batch, 2, *s.shape), generator=generator, dtype=torch.uint8)
        if s.is_image
        else torch.rand(batch, 2, *s.shape, generator=generator) * 2 - 1
        for s in streams
    }


def encoder_of(*streams, **options):
    torch.manual_seed(0)
    return ResNetEncoderConfig(**(SMALL | options)).build(specification(*streams), HORIZONS)


def policy_of(*streams, config=DiffusionConfig, **options):
    torch.manual_seed(0)
    scene = specification(*streams)
    vectors = [stream for stream in scene.streams if not stream.is_image]
    ranges = {stream.name: (-np.ones(stream.shape), np.ones(stream.shape)) for stream in vectors}
    network = UNet1dConfig(channels=[8, 16], groups=2, time_size=8)
    policy = config(encoder=ResNetEncoderConfig(**(SMALL | options)), network=network)
    return policy.build(scene, HORIZONS, Normalizer(scene, ranges))


def lesson(observation, batch=3, draws=4):
    """A lesson whose actions and noise are the same for every observation."""
    generator = torch.Generator().manual_seed(0)
    action, noise = torch.rand(batch, 4, 2, generator=generator), torch.randn(draws, batch, 4, 2, generator=generator)
    return Lesson(observation, action, noise, torch.rand(draws, batch, 1, generator=generator))


NETWORK = [
    *("policy.network.channels=[8,16]", "policy.network.time_size=8"),
    *("horizons.observation=2", "horizons.prediction=4", "horizons.action=2"),
]
ENCODER = ["policy/encoder=resnet", *(f"policy.encoder.{key}={value}" for key, value in SMALL.items())]
CHANGES = ["policy.encoder.crop=[14,12]", "augmentation.brightness=0.3", "augmentation.rotation=5"]


def training(dataset, out, *more, steps=8):
    every = ["save_every=3", "log_every=4", "validate_every=8", "warmup=2", "held_out=0.3", "batch_size=6"]
    return ["train", f"dataset={dataset}", f"out={out}", f"steps={steps}", "device=cpu", *NETWORK, *every, *more]


def shaken(network, seed=0):
    """Weights and statistics as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim == 1:
                low = 0.5 if name.endswith(("weight", "running_var")) else -0.3
                value.copy_(low + torch.rand(value.shape, generator=generator))
    return network


def as_torchvision(*, norm="batch", **options):
    """Weights of a narrow network as torchvision saves them: with statistics, counters and a classifier."""
    torch.manual_seed(1)
    network = shaken(ResNet(3, **({"depth": 18, "width": 16, "stages": 4} | options), norm="frozen"), seed=1)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    weights |= {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(7) for name in weights if "var" in name
    }
    return weights | {"fc.weight": torch.randn(10, 128), "fc.bias": torch.randn(10)}
