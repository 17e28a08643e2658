"""The noise schedule of EDM, and how often each noise level is drawn in training."""

import math

import numpy as np
import pytest
import torch
from gaussians import law
from policies import HORIZONS, RANGES, SPECIFICATION
from recede.configs.choices import CHOICES
from recede.configs.components.denoising import (
    BetaTimesConfig,
    KarrasScheduleConfig,
    LogNormalTimesConfig,
    UniformTimesConfig,
)
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.policy.denoising import prediction, schedule
from recede.policy.denoising.levels import spaced
from recede.policy.normalizer import Normalizer

EDM = KarrasScheduleConfig().build()
SCHEDULES = {"karras": EDM, "cosine": schedule.cosine(100), "flow": schedule.rectified_flow(100)}


def test_the_schedule_of_edm_is_that_of_its_equation_5():
    noise = [level.sigma / level.alpha for level in EDM.levels[:0:-1]]
    even = np.arange(100) / 99
    published = (80 ** (1 / 7) + even * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(noise, published, rtol=1e-9)
    assert EDM.preserves_variance
    few = [level.sigma / level.alpha for level in spaced(EDM.levels, 12, "linspace")]
    even = np.arange(12) / 11
    published = (80 ** (1 / 7) + even * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(few, [*published, 0.0], rtol=1e-9)
    assert KarrasScheduleConfig(num_times=1).build().levels[1].sigma == pytest.approx(80 / math.hypot(80, 1))


def test_a_prediction_of_v_is_the_preconditioned_network_of_edm():
    """Karras et al. 2022, table 1, for data of standard deviation 1; F is -v."""
    level, generator = EDM.levels[60], torch.Generator().manual_seed(0)
    x_0, output = torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)
    sigma = level.sigma / level.alpha
    y = x_0 + sigma * torch.randn(5, 2, generator=generator, dtype=torch.float64)
    c_skip, c_out, c_in = 1 / (sigma**2 + 1), sigma / math.hypot(sigma, 1), 1 / math.hypot(sigma, 1)
    denoised = prediction.V.clean(-output, c_in * y, level.alpha, level.sigma)
    torch.testing.assert_close(denoised, c_skip * y + c_out * output, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(CHOICES["sampler"]))
def test_every_sampler_of_the_schedule_of_edm_draws_a_gaussian(name):
    sampler = CHOICES["sampler"][name](num_steps=10 if name == "diffusers" else 50).build(EDM)
    if not sampler.runs_on_arrays:
        return  # it was tried when it was built
    error, ratio = law(sampler, 0.2)
    assert abs(error) < 0.01
    assert ratio == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("kind", prediction.PREDICTIONS)
@pytest.mark.parametrize("times", [UniformTimesConfig(), LogNormalTimesConfig(), BetaTimesConfig()])
@pytest.mark.parametrize("name", ["karras", "rectified_flow"])
def test_every_prediction_works_with_the_schedule_and_the_times_or_is_refused(name, times, kind):
    network = UNet1dConfig(channels=[8, 16], time_size=8)
    config = DiffusionConfig(schedule=CHOICES["policy/schedule"][name](), times=times, prediction=kind, network=network)
    arguments = SPECIFICATION, HORIZONS, Normalizer(SPECIFICATION, RANGES)
    if (name, kind) == ("rectified_flow", "epsilon"):  # also if the last level is hardly ever drawn
        with pytest.raises(ValueError, match=r"at time 99 .* choose another policy.prediction"):
            config.build(*arguments)
        return
    made = config.build(*arguments)
    observation = {"state": torch.zeros(2, 2, 3), "target": torch.zeros(2, 2, 2)}
    assert made.predict(observation, torch.randn(1, 2, 6, 2)).isfinite().all()


def drawn(made, count=200_000):
    return made.time((torch.arange(count) + 0.5) / count)


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_normal_times_have_the_mean_and_the_deviation_of_the_logarithm(name):
    made = LogNormalTimesConfig().build(KarrasScheduleConfig().build() if name == "karras" else fresh(name))
    levels = [made.levels[1 + t] for t in drawn(made).tolist()]
    logs = torch.tensor([-level.log_snr for level in levels])
    logs = logs[logs.isfinite()]
    assert logs.mean().item() == pytest.approx(-1.2, abs=0.05)
    assert logs.std().item() == pytest.approx(1.2, abs=0.05)


def fresh(name):
    return {"cosine": schedule.cosine, "flow": schedule.rectified_flow}[name](100)


@pytest.mark.parametrize(("a", "b"), [(1.5, 1.0), (1.0, 1.0), (2.0, 5.0)])
def test_beta_times_are_those_of_the_beta_law(a, b):
    times = (drawn(BetaTimesConfig(a=a, b=b).build(fresh("flow"))) + 0.5) / 100
    assert times.mean().item() == pytest.approx(a / (a + b), abs=2e-3)
    assert times.var().item() == pytest.approx(a * b / ((a + b) ** 2 * (a + b + 1)), abs=1e-3)


def test_uniform_times_are_drawn_as_without_a_choice_and_the_ends_are_in_the_table():
    level = torch.linspace(0, 1, 1001)
    plain = UniformTimesConfig().build(fresh("flow"))
    assert plain.cumulative is None
    assert torch.equal(plain.time(level), fresh("flow").time(level))
    for config in (LogNormalTimesConfig(), BetaTimesConfig()):
        times = config.build(fresh("flow")).time(level)
        assert (times.diff() >= 0).all()
        assert 0 <= times.min() <= times.max() <= 99
    assert drawn(BetaTimesConfig(a=1.0, b=1.0).build(fresh("flow")), 1000).bincount().tolist() == [10] * 100


def test_the_shares_of_the_draws_follow_the_policy_to_another_dtype_and_are_not_weights():
    made = BetaTimesConfig().build(fresh("flow")).double()
    assert made.cumulative.dtype == torch.float64
    assert not made.state_dict()


class Continuous:
    """A schedule that is no table."""

    levels = EDM.levels


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LogNormalTimesConfig(mean=6.0).build(fresh("cosine")),
            r"draws \d+ % .* beyond .* mean=6 .* change them",
        ),
        (lambda: LogNormalTimesConfig(mean=-9.0).build(EDM), r"beyond the noise levels .* -6.21 to 4.38, got mean=-9"),
        (lambda: LogNormalTimesConfig(std=1e-3).build(fresh("cosine")), r"level \d+ of 100 in .* wider distribution"),
        (lambda: BetaTimesConfig(a=1000.0).build(fresh("flow")), r"level 99 of 100 in 100% .* wider distribution"),
        (lambda: LogNormalTimesConfig(std=0.0), "std must be above 0, got 0"),
        (lambda: LogNormalTimesConfig(mean=math.nan), "mean must lie between -20 and 20, got nan"),
        (lambda: BetaTimesConfig(b=-1.0), "b must be above 0, got -1"),
        (lambda: BetaTimesConfig().build(Continuous()), "needs a schedule that is a table .* got Continuous"),
        (lambda: KarrasScheduleConfig(sigma_max=1.0), "sigma_max must be at least 10.* got 1: choose the published 80"),
        (lambda: KarrasScheduleConfig(sigma_min=0.0), "sigma_min must be above 0"),
        (lambda: KarrasScheduleConfig(rho=-7.0), "rho must be above 0"),
    ],
)
def test_a_distribution_or_a_schedule_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
