"""Samplers that add noise, against closed forms: scores, laws, orders of convergence and mixtures of Gaussians."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from gaussians import MEAN, Mixture, along, carried, cosine_path, gaussian, straight_path
from recede.configs.components import denoising
from recede.policy.denoising import sampling
from recede.policy.denoising.levels import MOST_CHURN, churned, spaced
from recede.policy.denoising.sampling import Sampler
from recede.policy.denoising.schedule import cosine, rectified_flow

SCHEDULES = {"cosine": cosine(100), "flow": rectified_flow(100)}
PATHS = pytest.mark.parametrize("path", [cosine_path, straight_path])
MODES = Mixture([0.2, 0.3, 0.5], [[-0.6, -0.4], [0.6, -0.3], [0.0, 0.6]], [0.1, 0.15, 0.08])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@PATHS
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 1.0])
def test_the_score_of_a_denoiser_is_the_gradient_of_the_log_density(path, share):
    level, x = path(share), randn(7, 2).requires_grad_()
    (expected,) = torch.autograd.grad(MODES.log_density(x, level).sum(), x)
    actual = sampling.score(x, MODES.denoise(x, level, level), level)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


# For mixtures, `SAMPLES` samples: errors of the covariance, as a share of the largest variance, and of the standard
# deviation within each mode. The mean and the weights of the modes are within `CHANCE` for every sampler.
SAMPLES, CHANCE = 10_000, 0.015
STATED = {
    "ddim, 50 steps": (denoising.DDIMConfig(num_steps=50), 0.04, 0.15),
    "ddim": (denoising.DDIMConfig(), 0.14, 0.16),
    "ddim with noise": (denoising.DDIMConfig(num_steps=20, eta=0.5), 0.09, 0.25),
    "ddpm": (denoising.DDPMConfig(), 0.04, 0.18),
    "dpm_solver_2m": (denoising.DPMSolver2MConfig(), 0.14, 0.35),
    "heun": (denoising.HeunConfig(), 0.20, 0.40),
    "karras": (denoising.KarrasSamplerConfig(), 0.08, 0.16),
    "karras, 20 steps": (denoising.KarrasSamplerConfig(num_steps=20), 0.03, 0.07),
    "langevin": (denoising.LangevinConfig(), 0.06, 0.08),
    "euler_maruyama": (denoising.EulerMaruyamaConfig(), 0.04, 0.06),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("name", STATED)
def test_every_sampler_draws_from_a_mixture_of_gaussians_within_its_stated_error(name, schedule):
    config, of_covariance, of_spread = STATED[name]
    sampler = config.build(schedule)
    noise = randn(1 + sampler.num_draws, SAMPLES, 1, 2)
    x = sampler.solve(MODES.denoise, noise, sampler.levels)[:, 0]
    assert (x.mean(dim=0) - MODES.mean).abs().max() < CHANCE
    assert (MODES.shares(x) - MODES.weights).abs().max() < CHANCE
    error = (torch.cov(x.T) - MODES.covariance).abs().max() / MODES.covariance.max()
    assert error < of_covariance
    nearest = torch.cdist(x, MODES.means).argmin(dim=1)
    for mode, std in enumerate(MODES.stds):
        within = (x[nearest == mode] - MODES.means[mode]).square().mean().sqrt()
        assert within / std == pytest.approx(1, abs=of_spread)


def law_along(solver, levels, num_draws, std):
    """Mean and standard deviation at the last level, from the law of a Gaussian at the first. Exact."""
    noise = torch.zeros(1 + num_draws, 2 + num_draws, 1, 1, dtype=torch.float64)
    first = carried(0.0, std, levels[0])
    noise[0] = first
    noise[0, 1] = carried(1.0, std, levels[0])
    noise[1:, 2:, 0, 0] = torch.eye(num_draws)
    centre, *moved = solver(gaussian(std), noise, levels).flatten().tolist()
    return centre, math.hypot(*(end - centre for end in moved))


def orders(solver, make_levels, num_steps, *, draws_per_step=1):
    """The order of convergence in law between successive numbers of steps."""
    errors = []
    for steps in num_steps:
        levels = make_levels(steps)
        _, spread = law_along(solver, levels, draws_per_step * (len(levels) - 1), 0.2)
        errors.append(abs(spread - carried(1.0, 0.2, levels[-1]) + carried(0.0, 0.2, levels[-1])))
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


@PATHS
@pytest.mark.parametrize("diffusion", [0.5, 1.0])
def test_euler_maruyama_is_of_first_order_in_law(path, diffusion):
    solver = partial(sampling.euler_maruyama, diffusion=diffusion)
    between = partial(along, path, begin=0.95, end=0.05)
    assert orders(solver, between, (100, 200, 400, 800)) == pytest.approx([1] * 3, abs=0.15)


@PATHS
@pytest.mark.parametrize("size", [0.1, 0.5])
def test_langevin_corrections_bring_any_law_to_that_of_their_level(path, size):
    level, corrections = path(0.4), 2000
    x = torch.tensor([3.0, -2.0], dtype=torch.float64)
    for draw in randn(corrections, 2) * 0:  # the mean moves as without noise
        x = x + sampling.diffused(x, gaussian(0.2)(x, level, level), draw, level=level, size=size * level.sigma**2)
    assert x.tolist() == pytest.approx([level.alpha * MEAN] * 2, abs=1e-6)
    variance = (level.alpha * 0.2) ** 2 + level.sigma**2
    moved = sampling.diffused(x + 1, gaussian(0.2)(x + 1, level, level), 0 * x, level=level, size=size * level.sigma**2)
    slope = 1 + moved[0].item()
    stationary = size * level.sigma**2 / (1 - slope**2)
    assert stationary == pytest.approx(variance / (1 - size * level.sigma**2 / (4 * variance)), rel=1e-9)


@PATHS
def test_langevin_dynamics_are_of_the_order_of_their_steps(path):
    solver = partial(sampling.langevin, corrections=2, size=1e-6)
    between = partial(along, path, begin=0.95, end=0.05)
    assert orders(solver, between, (100, 200, 400), draws_per_step=2) == pytest.approx([1] * 2, abs=0.15)


def raised(path, num_steps, churn, **ends):
    return churned(along(path, num_steps, **ends), along(path, 3000)[::-1], churn=churn, low=0.0, high=math.inf)


@PATHS
def test_the_stochastic_sampler_of_edm_is_of_second_order_in_law(path):
    between = partial(raised, path, churn=1.0, begin=0.95, end=0.05)
    assert orders(sampling.karras, between, (20, 40, 80, 160)) == pytest.approx([2] * 3, abs=0.25)


@PATHS
def test_the_stochastic_sampler_of_edm_follows_its_algorithm_2(path):
    """Many steps of either, with the same noise: theirs averages epsilon where ours averages velocities."""
    differences = []
    for num_steps in (40, 80, 160):
        levels = raised(path, num_steps, 2.0, begin=0.95, end=0.05)
        noise = randn(len(levels), 5, 1, 2)
        ours = sampling.karras(MODES.denoise, noise, levels)
        differences.append((ours - algorithm_2(MODES.denoise, noise, levels)).abs().max().item())
    assert differences[-1] < 2e-3
    assert differences[0] / differences[-1] > 8


def algorithm_2(denoise, noise, levels):
    """Karras et al. 2022, algorithm 2, written out for y = x / alpha and t = sigma / alpha."""

    def slope(y, level):
        x_0 = denoise(level.alpha * y, level, level)
        return (y - x_0) / (level.sigma / level.alpha)

    y = noise[0] / levels[0].alpha
    for (now, then), fresh in zip(pairwise(levels), noise[1:], strict=True):
        t, t_next = now.sigma / now.alpha, then.sigma / then.alpha
        if t_next > t:
            y = y + (t_next**2 - t**2) ** 0.5 * fresh
            continue
        d = slope(y, now)
        ahead = y + (t_next - t) * d
        y = y + (t_next - t) * (d + slope(ahead, then)) / 2
    return levels[-1].alpha * y


def test_without_raised_levels_the_stochastic_sampler_of_edm_is_heun():
    levels, noise = spaced(cosine(100).levels, 8, "karras"), randn(9, 5, 1, 2)
    assert churned(levels, cosine(100).levels, churn=0.0, low=0.0, high=math.inf) == levels
    samples = sampling.karras(MODES.denoise, noise, levels)
    assert torch.equal(samples, sampling.heun(MODES.denoise, noise, levels))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_levels_are_raised_by_their_share_to_levels_of_the_schedule(schedule):
    levels = spaced(schedule.levels, 10, "karras")
    path = churned(levels, schedule.levels, churn=100.0, low=0.1, high=10.0)
    assert [level for level in path if level in levels] == [*path[:1], *levels[1:]]
    assert set(path) <= set(schedule.levels)
    ups = [(now, then) for now, then in pairwise(path) if then.log_snr < now.log_snr]
    assert [now for now, _ in ups] == [x for x in levels if x.alpha and 0.1 <= x.sigma / x.alpha <= 10.0]
    for now, then in ups:
        assert then.sigma / then.alpha / (now.sigma / now.alpha) == pytest.approx(1 + MOST_CHURN, rel=0.25)


@PATHS
def test_added_noise_leads_to_the_law_of_the_noisier_level(path):
    now, then = path(0.3), path(0.4)
    levels = (now, then)
    mean, spread = law_along(sampling.karras, levels, 1, 0.2)
    assert mean == pytest.approx(then.alpha * MEAN, abs=1e-12)
    assert spread == pytest.approx(math.hypot(then.alpha * 0.2, then.sigma), abs=1e-12)


@pytest.mark.parametrize(
    "config", [denoising.KarrasSamplerConfig, denoising.LangevinConfig, denoising.EulerMaruyamaConfig]
)
def test_stochastic_samplers_reach_a_constant_estimate(config):
    answer = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for schedule in SCHEDULES.values():
        sampler = config(num_steps=5).build(schedule)
        noise = randn(1 + sampler.num_draws, 3, 4, 2)
        samples = sampler.solve(lambda x, now, then: answer, noise, sampler.levels)
        torch.testing.assert_close(samples, answer, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: denoising.LangevinConfig(size=2.5), "size must be at most 2, got 2.5"),
        (lambda: denoising.LangevinConfig(corrections=0), "corrections must be above 0, got 0"),
        (lambda: denoising.EulerMaruyamaConfig(diffusion=0.0), "diffusion must be above 0, got 0.0"),
        (lambda: denoising.KarrasSamplerConfig(churn=-1.0), "churn must be at least 0, got -1.0"),
        (lambda: denoising.KarrasSamplerConfig(churn=0.0).build(cosine(100)), "adds no noise .* choose sampler=heun"),
        (lambda: denoising.KarrasSamplerConfig(num_steps=4).build(cosine(5)), "adds no noise .* 5 noise levels"),
    ],
)
def test_an_impossible_stochastic_sampler_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_number_of_draws_follows_the_levels():
    for config, num_draws in (
        (denoising.LangevinConfig(num_steps=4, corrections=3), 12),
        (denoising.EulerMaruyamaConfig(num_steps=4), 4),
        (denoising.DDIMConfig(num_steps=4, eta=0.5), 4),
        (denoising.DDIMConfig(num_steps=4), 0),
    ):
        assert config.build(cosine(100)).num_draws == num_draws
    sampler = denoising.KarrasSamplerConfig(num_steps=4).build(cosine(100))
    assert sampler.num_draws == len(sampler.levels) - 1
    assert isinstance(sampler, Sampler)
