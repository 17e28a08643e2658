"""Small policies of every kind, and the engines of them."""

from functools import partial

import cameras
import numpy as np
import pytest
import torch
from policies import HORIZONS, RANGES, SPECIFICATION, USUAL, diffusion, regression
from recede.configs.components import denoising, networks
from recede.policy.denoising import prediction
from recede.policy.denoising.guidance import Prefix
from recede.policy.denoising.schedule import cosine
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.encoders.observation import ObservationEncoder
from recede.policy.engines.choice import TOLERANCES, difference
from recede.policy.engines.cuda_graph import CudaGraphEngine
from recede.policy.engines.eager import EagerEngine
from recede.policy.engines.export import to_openvino, write_onnx
from recede.policy.engines.folder import open_session
from recede.policy.engines.interface import FORMATS
from recede.policy.engines.pieces import action_affine, exported_engine
from recede.policy.normalizer import Normalizer

CLOSE = {"fp32": 2e-4, "bf16": TOLERANCES["bf16"]}
"""Precision -> the largest difference of two engines, root mean square over a chunk, in half ranges."""


def attention_policy(config):
    """A policy of SPECIFICATION with a transformer, none of whose weights is 0."""
    torch.manual_seed(0)
    encoder = ObservationEncoder(SPECIFICATION, HORIZONS, hidden=())
    network = config.build(action_size=2, num_steps=6, conditioning_shape=encoder.conditioning_shape)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return DiffusionPolicy(
        SPECIFICATION,
        HORIZONS,
        normalizer=Normalizer(SPECIFICATION, RANGES),
        encoder=encoder,
        network=network,
        schedule=cosine(20),
        prediction=prediction.SAMPLE,
        sampler=denoising.DDIMConfig(num_steps=4).build(cosine(20)),
        **USUAL,
    )


POLICIES = {
    "unet1d": partial(diffusion, prediction=prediction.SAMPLE),
    "transformer": partial(attention_policy, networks.TransformerConfig(num_layers=2, num_heads=2, size=16)),
    "dit": partial(attention_policy, networks.DiTConfig(num_layers=2, num_heads=2, size=16)),
    "images": partial(cameras.policy_of, cameras.SCENE, cameras.WRIST, cameras.STATE, crop=[14, 12]),
    "regression": partial(regression, channels=(8,)),
}


class Workshop:
    """Policies by name, and sessions of their graphs; each is made on first use."""

    def __init__(self, root):
        self.root, self.policies, self.sessions = root, {}, {}

    def policy(self, name):
        if name not in self.policies:
            self.policies[name] = POLICIES[name]().eval().requires_grad_(False)
        return self.policies[name]

    def graphs(self, name, kind):
        folder = self.root / name
        if not folder.exists():
            write_onnx(self.policy(name), folder / "onnx")
            to_openvino(folder / "onnx", folder / "openvino")
        return folder / kind

    def session(self, name, engine):
        if (name, engine) not in self.sessions:
            self.sessions[name, engine] = open_session(engine, self.graphs(name, FORMATS[engine]))
        return self.sessions[name, engine]

    def engine(self, name, engine, policy=None):
        policy = policy or self.policy(name)
        if engine == "eager":
            return EagerEngine(policy)
        if engine == "cuda_graph":
            if not torch.cuda.is_available():
                pytest.skip("there is no NVIDIA GPU")
            return CudaGraphEngine(policy)
        return exported_engine(policy, self.session(name, engine))


def random_input(policy, rows=5, seed=0):
    """An observation and noise with this number of rows."""
    rng = np.random.default_rng(seed)
    observation = {}
    for stream in policy.specification.observations:
        shape = (rows, policy.horizons.observation, *stream.shape)
        if stream.is_image:
            observation[stream.name] = rng.integers(0, 256, shape, dtype=np.uint8)
        else:
            observation[stream.name] = rng.uniform(-1, 1, shape).astype(stream.dtype)
    draws, *chunk = policy.noise_shape
    return observation, rng.standard_normal((draws, rows, *chunk), dtype=np.float32)


def random_prefix(policy, rows=5, weights=(1.0, 1.0, 0.5, 0.2), seed=3, **options):
    """A prefix within the range of the actions."""
    steps, size = policy.noise_shape[1:]
    normalised = np.random.default_rng(seed).uniform(-0.9, 0.9, (rows, steps, size)).astype(np.float32)
    padded = np.tile(np.array([*weights, *[0.0] * steps][:steps], dtype=np.float32), (rows, 1))
    return Prefix(action_affine(policy.normalizer).decode(normalised), padded, **options)


def policy_chunk(policy, observation, noise, guidance=()):
    """The chunk of a policy itself, without an engine."""
    tensors = {name: torch.from_numpy(values) for name, values in observation.items()}
    return policy.predict(tensors, torch.from_numpy(noise), guidance).numpy()


def assert_close(engine, chunk, expected, policy):
    """The chunks agree as well as the precision of the engine allows."""
    assert difference(chunk, expected, action_affine(policy.normalizer).half_range) <= CLOSE[engine.precision]
