"""How much each noise level counts in the loss, and which predictions a schedule allows."""

import numpy as np
import pytest
import torch
from policies import USUAL
from recede.configs.components.denoising import DDIMConfig, EDMWeightingConfig, MinSNRConfig
from recede.configs.components.encoders import LowdimEncoderConfig
from recede.policy.denoising import prediction, schedule
from recede.policy.denoising.weighting import by_snr, uniform
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.interface import Lesson
from recede.policy.normalizer import Normalizer
from recede.policy.objective import Denoising
from recede.specification import Horizons, Specification, Stream
from torch import nn

SPECIFICATION = Specification((Stream("state", (2,)),), Stream("action", (2,)), control_dt=0.1)
HORIZONS = Horizons(observation=1, prediction=4, action=2)
RANGES = {name: (np.full(2, -1.0), np.full(2, 1.0)) for name in ("state", "action")}
PREDICTIONS = {
    "epsilon": prediction.EPSILON,
    "sample": prediction.SAMPLE,
    "v": prediction.V,
    "velocity": prediction.VELOCITY,
}
SCHEDULES = {"cosine": schedule.cosine(100), "flow": schedule.rectified_flow(100)}
WEIGHTINGS = {
    "uniform": uniform,
    "snr": by_snr,
    "min_snr": MinSNRConfig().build(),
    "min_snr 2": MinSNRConfig(limit=2.0).build(),
    "edm": EDMWeightingConfig().build(),
}


class Knowing(nn.Module):
    """A network whose x_0 is a parameter, for any prediction type."""

    def __init__(self, kind, noise_schedule):
        super().__init__()
        self.kind, self.schedule = kind, noise_schedule
        self.x_0 = nn.Parameter(torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(5)))

    def forward(self, noisy, t, conditioning):
        return self.denoise(noisy, t, conditioning)

    def embed(self, now, then):
        return now

    def condition(self, conditioning):
        return conditioning

    def denoise(self, noisy, time, condition):
        alpha, sigma = (value[:, None, None] for value in self.schedule(time))
        return self.kind.target(self.x_0, (noisy - alpha * self.x_0) / sigma, alpha, sigma)


def policy(kind, noise_schedule, *, weighting=uniform):
    return DiffusionPolicy(
        SPECIFICATION,
        HORIZONS,
        normalizer=Normalizer(SPECIFICATION, RANGES),
        encoder=LowdimEncoderConfig().build(SPECIFICATION, HORIZONS),
        network=Knowing(kind, noise_schedule),
        schedule=noise_schedule,
        prediction=kind,
        sampler=DDIMConfig(num_steps=4).build(noise_schedule),
        **(USUAL | {"objective": Denoising(weighting)}),
    )


def loss(made, times):
    """Actions, and their loss (3, Tp) at these times. Actions and noise are always the same."""
    generator = torch.Generator().manual_seed(0)
    action = torch.rand(3, 4, 2, generator=generator) * 2 - 1
    noise = torch.randn(1, 3, 4, 2, generator=generator)
    uniforms = (torch.tensor([times]) + 0.5)[..., None] / 100
    return action, made.loss(Lesson({"state": torch.zeros(3, 1, 2)}, action, noise, uniforms))[0]


def weights(name, snr, alpha, sigma, kind):
    """The weight of the squared error of x_0, written out."""
    by_itself = {
        "epsilon": snr,
        "sample": 1.0,
        "v": (alpha**2 + sigma**2) ** 2 / sigma**2,
        "velocity": (alpha + sigma) ** 2 / sigma**2,
    }
    ratio = sigma / alpha if alpha else np.inf
    return {
        "uniform": by_itself[kind],
        "snr": snr,
        "min_snr": min(snr, 5.0),
        "min_snr 2": min(snr, 2.0),
        "edm": 1 / ratio**2 + 1 / 0.5**2,  # (ratio^2 + std^2) / (ratio std)^2
    }[name]


@pytest.mark.parametrize("times", [(0, 10, 30), (50, 80, 98)])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_gradient_of_the_estimate_has_the_weight_of_its_noise_level(name, kind, weighting, times):
    if kind == "epsilon" and (name == "flow" or weighting == "edm"):
        return  # refused, see below
    made = policy(PREDICTIONS[kind], SCHEDULES[name], weighting=WEIGHTINGS[weighting])
    action, per_step = loss(made, times)
    per_step.sum().backward()
    levels = [SCHEDULES[name].levels[t + 1] for t in times]
    expected = [
        weights(weighting, (level.alpha / level.sigma) ** 2, level.alpha, level.sigma, kind) for level in levels
    ]
    expected = torch.tensor(expected)[:, None, None] * (made.network.x_0 - action).detach()  # 2 w (x - x_0) / Da
    torch.testing.assert_close(made.network.x_0.grad, expected, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_uniform_weighting_is_the_unweighted_loss_bit_for_bit(name, kind):
    if (name, kind) == ("flow", "epsilon"):
        return
    made, times = policy(PREDICTIONS[kind], SCHEDULES[name]), (0, 57, 99)
    action, per_step = loss(made, times)
    noise = torch.randn(1, 3, 4, 2, generator=_after_the_action())[0]
    alpha, sigma = (value[:, None, None] for value in SCHEDULES[name](torch.tensor(times)))
    output = made.network(alpha * action + sigma * noise, torch.tensor(times), None)
    target = PREDICTIONS[kind].target(action, noise, alpha, sigma)
    assert torch.equal(per_step, (output - target).square().mean(dim=-1))


def _after_the_action():
    generator = torch.Generator().manual_seed(0)
    torch.rand(3, 4, 2, generator=generator)
    return generator


@pytest.mark.parametrize("weighting", WEIGHTINGS.values(), ids=WEIGHTINGS.keys())
def test_a_prediction_of_epsilon_is_refused_on_a_rectified_flow(weighting):
    with pytest.raises(
        ValueError, match=r"at time 99 of this schedule.*choose another policy.prediction, such as sample"
    ):
        policy(prediction.EPSILON, SCHEDULES["flow"], weighting=weighting)


def test_a_weight_that_dominates_the_loss_is_refused():
    with pytest.raises(ValueError, match=r"at most 1e\+06 times.*got 1.65e\+07: choose policy/weighting=uniform"):
        policy(prediction.EPSILON, SCHEDULES["cosine"], weighting=WEIGHTINGS["edm"])
    policy(prediction.V, SCHEDULES["cosine"], weighting=WEIGHTINGS["edm"])


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_the_limits_of_weightings_are_checked(value):
    with pytest.raises(ValueError, match="limit must be above 0, got"):
        MinSNRConfig(limit=value)
    with pytest.raises(ValueError, match="data_std must be above 0, got"):
        EDMWeightingConfig(data_std=value)


def test_weightings_receive_their_options():
    snr = torch.tensor([0.5, 3.0, 100.0])
    assert MinSNRConfig(limit=2.0).build()(snr, snr).tolist() == [0.5, 2.0, 2.0]
    assert EDMWeightingConfig(data_std=0.25).build()(snr, snr).tolist() == [16.5, 19.0, 116.0]
