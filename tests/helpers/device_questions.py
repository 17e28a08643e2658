"""Small policies of every kind, and questions to them, for the tests on a simulated GPU."""

import copy
from dataclasses import replace
from functools import partial

import cameras
import numpy as np
import policies
import torch
from recede.configs.components import denoising, networks
from recede.configs.components.encoders import ResNetEncoderConfig
from recede.configs.components.policies import DiffusionConfig
from recede.evaluation.rollout import noise_generator, predict
from recede.policy.denoising.guidance import Prefix
from recede.policy.denoising.prediction import SAMPLE
from recede.policy.engines.eager import EagerEngine
from recede.policy.normalizer import Normalizer
from recede.policy.requests import Request

UNET = networks.UNet1dConfig(channels=[8, 16], groups=2, time_size=8)
TRANSFORMER = networks.TransformerConfig(num_layers=1, num_heads=2, size=16)
DROPPING = replace(TRANSFORMER, dropout=0.1)
DIT = networks.DiTConfig(num_layers=1, num_heads=2, size=16)
SHORT = denoising.DDIMConfig(num_steps=2)
CAMERA = ResNetEncoderConfig(width=16, stages=1, keypoints=4, features=6, crop=[14, 12])


def attending(network):
    """An untrained policy with a network of attention."""
    torch.manual_seed(0)
    normalizer = Normalizer(policies.SPECIFICATION, policies.RANGES)
    config = DiffusionConfig(network=network, sampler=denoising.DDIMConfig(num_steps=3))
    return config.build(policies.SPECIFICATION, policies.HORIZONS, normalizer)


def sampled_by(sampler):
    return policies.diffusion(channels=(8, 16), sampler=sampler, prediction=SAMPLE)


POLICIES = {
    "unet1d": partial(sampled_by, denoising.DDIMConfig(num_steps=3)),
    "transformer": partial(attending, TRANSFORMER),
    "dit": partial(attending, DIT),
    "regression": partial(policies.regression, channels=(8,)),
    "images": partial(
        cameras.policy_of,
        *(cameras.SCENE, cameras.STATE),
        config=partial(DiffusionConfig, sampler=SHORT),
        crop=[14, 12],
    ),
}
SAMPLERS = {
    "ddim with noise": denoising.DDIMConfig(num_steps=3, eta=0.5),
    "ddim, keeping epsilon": denoising.DDIMConfig(num_steps=3, keeps_epsilon=True),
    "ddpm": denoising.DDPMConfig(num_steps=5),
    "dpm_solver_2m": denoising.DPMSolver2MConfig(num_steps=3),
    "heun": denoising.HeunConfig(num_steps=2),
    "karras": denoising.KarrasSamplerConfig(num_steps=3, churn=9.0),
    "langevin": denoising.LangevinConfig(num_steps=2, corrections=2),
    "euler_maruyama": denoising.EulerMaruyamaConfig(num_steps=3),
}
CHUNK = {"policy/engines/transfer.py": 1, "policy/engines/eager.py": 1}
"""The inputs of a chunk are uploaded, and the chunk is downloaded."""
TIMES = {"policy/diffusion.py": 1}
"""The times of the sampler are uploaded before the first chunk."""
PREFIXES = {"no prefix": None, "pull": {}, "gradient": {"exact": True}, "warm start": {"start": 0.5}}
"""Name -> the options of a prefix."""


def ready(make):
    return make().eval().requires_grad_(False)


def question(policy, options=None, seed=0):
    """A request, with a prefix if it has options."""
    rng, history = np.random.default_rng(seed), {}
    for stream in policy.specification.observations:
        values = rng.uniform(0, 255 if stream.is_image else 1, (policy.horizons.observation, *stream.shape))
        history[stream.name] = values.astype(stream.dtype)
    if options is None:
        return Request(history)
    steps, size = policy.noise_shape[1:]
    actions, weights = rng.uniform(-0.5, 0.5, (steps, size)), np.linspace(1, 0, steps)
    return Request(history, (Prefix(actions.astype(np.float32), weights.astype(np.float32), **options),))


def answers(policy, options=None):
    """The chunks for three questions, as an evaluation asks them."""
    requests = [question(policy, options, seed) for seed in range(3)]
    generators = [noise_generator(0, seed) for seed in range(3)]
    return [one.chunk for one in predict(EagerEngine(policy), requests, generators)]


def answers_on_gpu(gpu, policy, options=None):
    on_gpu = copy.deepcopy(policy).to("cuda")
    gpu.clear()
    return answers(on_gpu, options)
