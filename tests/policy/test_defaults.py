"""A default is written once: in the configuration of a component, and not again in what the configuration builds."""

import inspect

import pytest
from recede.policy.denoising import sampling, schedule, times, weighting
from recede.policy.denoising.levels import churned, spaced
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.encoders.observation import Cameras, ObservationEncoder
from recede.policy.encoders.resnet import ResNetEncoder
from recede.policy.encoders.vit import ViTEncoder
from recede.policy.networks.dit import DiT
from recede.policy.networks.transformer import Transformer
from recede.policy.networks.unet1d import UNet1d
from recede.policy.objective import Denoising
from recede.training.ema import EMA

NETWORKS = [UNet1d, Transformer, DiT]
ENCODERS = [ObservationEncoder, Cameras, ResNetEncoder, ViTEncoder]
SCHEDULES = [schedule.cosine, schedule.rectified_flow, schedule.from_diffusers, schedule.karras]
SAMPLERS = [
    *(spaced, churned, sampling.ddim, sampling.ddpm, sampling.dpm_solver_2m, sampling.heun),
    *(sampling.karras, sampling.langevin, sampling.euler_maruyama),
]
WEIGHTINGS = [weighting.uniform, weighting.by_snr, weighting.min_snr, weighting.edm, times.log_normal, times.beta]

NOT_CONFIGURED = {"space", "representation", "cameras", "num_context", "num_uniforms", "has_teacher"}
"""Parameters that no configuration of recede states."""


@pytest.mark.parametrize(
    "built",
    [*NETWORKS, *ENCODERS, *SCHEDULES, *SAMPLERS, *WEIGHTINGS, DiffusionPolicy, Denoising, EMA],
    ids=lambda built: built.__name__,
)
def test_a_configured_parameter_has_no_second_default(built):
    parameters = inspect.signature(built).parameters.values()
    defaults = {parameter.name for parameter in parameters if parameter.default is not parameter.empty}
    assert defaults <= NOT_CONFIGURED
