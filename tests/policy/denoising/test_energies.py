"""Guidance by energies and classifiers against closed forms, of Gaussians and of mixtures of them."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.policy.affine import Affine, Normalised
from recede.policy.denoising.classified import Classified
from recede.policy.denoising.energies import (
    Energies,
    Function,
    HalfSpace,
    KeepOut,
    Near,
    Path,
    RateLimit,
    Reach,
    most_likely,
)
from recede.policy.denoising.guidance import Prefix, Sampling, sample
from recede.policy.denoising.levels import spaced
from recede.policy.denoising.sampling import Sampler, ddim, ddpm, dpm_solver_2m, heun
from recede.policy.denoising.schedule import cosine, rectified_flow
from representatives import representatives
from scipy.optimize import minimize

NUM_STEPS = 6
STEPS = torch.arange(NUM_STEPS, dtype=torch.float64)
EYE = torch.eye(NUM_STEPS, dtype=torch.float64)
CORRELATIONS = {
    "ar": 0.95 ** (STEPS[:, None] - STEPS).abs(),
    "rbf": torch.exp(-(((STEPS[:, None] - STEPS) / 3) ** 2) / 2) + 1e-4 * EYE,
    "independent": EYE,
}
SCHEDULES = {"cosine": cosine(1000), "flow": rectified_flow(1000)}
SAMPLERS = {"ddim": (partial(ddim, eta=0.0), 0), "ddpm": (ddpm, 1), "heun": (heun, 0), "dpm": (dpm_solver_2m, 0)}
WAVE = torch.sin(STEPS / 3)
CENTRE, HALF_RANGE = 2.0, 4.0
"""The units of the actions: action = CENTRE + HALF_RANGE x_0."""


def denoiser(covariance):
    """The exact denoiser of a Gaussian x_0 of mean 0."""
    variances, directions = torch.linalg.eigh(covariance)

    def denoise(x_t, now, then):
        gains = now.alpha * variances / (now.alpha**2 * variances + now.sigma**2)
        return (directions * gains @ directions.T).to(x_t) @ x_t

    return denoise


def space(std, dtype=torch.float64):
    return Normalised(
        Affine(*(torch.full((1,), x, dtype=dtype) for x in (CENTRE, HALF_RANGE))), torch.full((1,), std, dtype=dtype)
    )


def sampled(covariance, guidance, noise, *, schedule, num_steps, solve=SAMPLERS["ddim"][0], clip=1e9, observation=None):
    """The guided samples from this noise. The space knows the standard deviation of the data."""
    sampler = Sampler(solve, spaced(SCHEDULES[schedule].levels, num_steps, "trailing"))
    std = covariance[0, 0].sqrt().item()
    sampling = Sampling(
        None, lambda condition: denoiser(covariance), space(std, noise.dtype), clip, dict, observation or {}
    )
    return sample(sampling, noise, sampler=sampler, guidance=guidance)


def law(covariance, guidance, *, num_steps, dtype=torch.float64, **options):
    """Mean and covariance of the guided samples of a deterministic sampler, which are linear in the noise."""
    noise = torch.cat([EYE, torch.zeros(1, NUM_STEPS)]).to(dtype)[None, :, :, None]
    samples = sampled(covariance, guidance, noise, num_steps=num_steps, **options)[..., 0].double()
    mean = samples[-1]
    return mean, (samples[:-1] - mean).T @ (samples[:-1] - mean)


def posterior(covariance, precision, pull):
    """Mean and covariance of a Gaussian times exp(-(x precision x / 2 - pull x))."""
    after = torch.linalg.inv(torch.linalg.inv(covariance) + torch.diag(precision))
    return after @ pull, after


def in_units(x):
    return CENTRE + HALF_RANGE * x


def reach(width, point=1.0, step=5):
    """The energy, its precision and its pull, in normalised units."""
    precision = (step == STEPS).double() / width**2
    return Reach((HALF_RANGE * width,), (in_units(point),), step), precision, precision * point


def near(width):
    chunk = tuple((in_units(value),) for value in WAVE.tolist())
    return Near((HALF_RANGE * width,), chunk), torch.full_like(STEPS, 1 / width**2), WAVE / width**2


@pytest.mark.parametrize(
    ("schedule", "correlation", "std", "exact"),
    [
        pytest.param("cosine", "ar", 1.0, True, marks=pytest.mark.slow),
        pytest.param("flow", "ar", 0.3, True, marks=pytest.mark.slow),
        pytest.param("cosine", "rbf", 0.3, True, marks=pytest.mark.slow),
        ("flow", "rbf", 1.0, True),
        ("cosine", "independent", 0.3, False),
        pytest.param("flow", "independent", 1.0, False, marks=pytest.mark.slow),
    ],
)
def test_samples_have_the_law_of_the_posterior(schedule, correlation, std, exact):
    covariance = std**2 * CORRELATIONS[correlation]
    for energies in ([reach(0.02)], [near(0.3)], [reach(0.1), reach(0.2, -0.5, 2), near(1.0)]):
        names, precisions, pulls = zip(*energies, strict=True)
        mean, after = posterior(covariance, sum(precisions), sum(pulls))
        guidance = [Energies(names, exact=exact, rounds=NUM_STEPS)]
        few, _ = law(covariance, guidance, schedule=schedule, num_steps=10)
        torch.testing.assert_close(few, mean, atol=0.03 * std, rtol=0)
        many, spread = law(covariance, guidance, schedule=schedule, num_steps=100)
        torch.testing.assert_close(many, mean, atol=0.003 * std, rtol=0)
        torch.testing.assert_close(spread, after, atol=0.06 * std**2, rtol=0)


@pytest.mark.parametrize("solve", representatives(SAMPLERS, "ddim", "ddpm"))
def test_every_sampler_can_be_guided(solve):
    covariance, (energy, precision, pull) = 0.25 * CORRELATIONS["ar"], near(0.3)
    mean, after = posterior(covariance, precision, pull)
    solver, num_draws = SAMPLERS[solve]
    num_steps = 60 if not num_draws else 200
    shape = 1 + num_steps * num_draws, 4000, NUM_STEPS, 1
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    options = {"schedule": "cosine", "num_steps": num_steps, "solve": solver}
    samples = sampled(covariance, [Energies((energy,), exact=True)], noise, **options)
    torch.testing.assert_close(samples[..., 0].mean(dim=0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(samples[..., 0].T.cov(), after, atol=0.004, rtol=0)


def test_the_strength_depends_neither_on_the_schedule_nor_on_the_number_of_steps():
    covariance, guidance = CORRELATIONS["rbf"], [Energies((reach(0.1)[0],), exact=True)]
    means = [
        law(covariance, guidance, schedule=schedule, num_steps=num_steps)[0]
        for schedule, num_steps in (("cosine", 5), ("cosine", 50), ("flow", 20))
    ]
    torch.testing.assert_close(means[1], means[0], atol=0.01, rtol=0)
    torch.testing.assert_close(means[2], means[0], atol=0.02, rtol=0)


def test_without_exactness_points_pull_their_own_step_alone():
    """Why `exact` is the default on the command line: the other steps hardly follow."""
    covariance, (energy, precision, pull) = CORRELATIONS["rbf"], reach(0.1)
    mean, _ = posterior(covariance, precision, pull)
    errors = {
        exact: (law(covariance, [Energies((energy,), exact=exact)], schedule="cosine", num_steps=10)[0] - mean)
        .abs()
        .max()
        for exact in (True, False)
    }
    assert errors[True] < 0.01
    assert errors[False] > 0.3


CHUNKS = torch.tensor(np.random.default_rng(0).normal(scale=2, size=(5, NUM_STEPS, 3)))
WIDTH = (0.5, 1.0, 2.0)


def squared(x):
    return x.square().sum(dim=(1, 2)) / 2


def segments(action, points):
    """Squared distance (B, Tp) from the nearest of the segments, by brute force, in widths."""
    shares = torch.linspace(0, 1, 2001, dtype=torch.float64)
    line = torch.cat([a + shares[:, None] * (b - a) for a, b in itertools.pairwise(points)])
    return (action[:, :, None] - line).square().sum(-1).amin(-1)


def box_depth(action, low, high):
    depths = torch.cat([action - torch.tensor(low), torch.tensor(high) - action], -1) / torch.tensor(WIDTH * 2)
    return depths.amin(-1).clip(0)


INF = math.inf
READY = {
    "reach": (
        Reach(WIDTH, (1.0, None, -1.0), 2),
        lambda a: squared(((a - torch.tensor([1.0, 0, -1])) / torch.tensor(WIDTH) * torch.tensor([1, 0, 1]))[:, 2:3]),
    ),
    "box": (
        KeepOut(WIDTH, (-1.0, None, -3.0), (2.0, 1.0, None)),
        lambda a: squared(box_depth(a, (-1, -INF, -3), (2, 1, INF))[..., None]),
    ),
    "half-space": (
        HalfSpace(WIDTH, (1.0, 2.0, 0.0), 0.5),
        lambda a: squared(((a[..., :1] + 2 * a[..., 1:2] - 0.5) / math.hypot(0.5, 2.0)).clip(0)),
    ),
    "velocity": (
        RateLimit(WIDTH, (1.0, None, 3.0), 0.1),
        lambda a: squared((a.diff(dim=1).abs() - torch.tensor([0.1, INF, 0.3])).clip(0) / torch.tensor(WIDTH)),
    ),
    "acceleration": (
        RateLimit(WIDTH, (10.0, 20.0, 30.0), 0.1, order=2),
        lambda a: squared((a.diff(2, dim=1).abs() - torch.tensor([0.1, 0.2, 0.3])).clip(0) / torch.tensor(WIDTH)),
    ),
    "path": (
        Path(WIDTH, ((0.0, None, 0.0), (1.0, None, 1.0), (1.0, None, 4.0))),
        lambda a: (
            segments((a / torch.tensor(WIDTH))[..., [0, 2]], torch.tensor([[0.0, 0], [2, 0.5], [2, 2]])).sum(-1) / 2
        ),
    ),
    "near": (
        Near(WIDTH, tuple(map(tuple, CHUNKS[0].tolist()))),
        lambda a: squared((a - CHUNKS[0]) / torch.tensor(WIDTH)),
    ),
}


@pytest.mark.parametrize(("energy", "stated"), READY.values(), ids=READY)
def test_gradients_are_those_of_the_stated_energies(energy, stated):
    expected = Function(lambda action, observation: stated(action)).gradient(CHUNKS, {})
    assert expected.abs().max() > 0
    gradient = energy.gradient(CHUNKS, {})
    torch.testing.assert_close(gradient, expected, atol=3e-3, rtol=0)
    for dtype in (np.float64, np.float32):
        array = energy.gradient(CHUNKS.numpy().astype(dtype), {})
        assert array.dtype == dtype
        np.testing.assert_allclose(array, gradient.numpy(), atol=1e-4)
    energy.check(tuple(CHUNKS.shape))
    assert hash(energy) == hash(energy)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.3, 2.0]), st.sampled_from(["ar", "rbf", "independent"]))
def test_the_guided_estimate_is_the_most_likely_one(seed, width, correlation):
    """Limits, half-spaces and points together, against a general optimiser."""
    random, covariance = np.random.default_rng(seed), CORRELATIONS[correlation].numpy() * 0.3
    mean = random.normal(size=NUM_STEPS)
    energies = RateLimit((width,), (3.0,), 0.1), HalfSpace((width,), (1.0,), 0.4), Reach((width,), (-0.2,), 3)
    inverse = np.linalg.inv(covariance)

    def gradient(x):
        return sum(energy.gradient(x, {}) for energy in energies)

    def cost(x):
        beyond = np.r_[np.clip(np.abs(np.diff(x)) - 0.3, 0, None), np.clip(x - 0.4, 0, None), x[3] + 0.2] / width
        return (x - mean) @ inverse @ (x - mean) / 2 + beyond @ beyond / 2

    x = most_likely(mean[None, :, None], lambda x: covariance @ x, gradient, rounds=60)[0, :, 0]
    best = minimize(cost, mean, jac=lambda x: inverse @ (x - mean) + gradient(x[None, :, None])[0, :, 0], tol=1e-10).fun
    assert cost(x) <= best + 0.02 * (cost(mean) - best) + 1e-9


def test_a_held_step_stays_at_its_plan_beside_an_energy():
    covariance = 0.25 * CORRELATIONS["ar"]
    noise = torch.randn(1, 7, NUM_STEPS, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    planned = in_units(torch.full((7, NUM_STEPS, 1), 0.2, dtype=torch.float64))
    prefix = Prefix(planned, (STEPS < 2).double().expand(7, -1))
    energy = Energies((HalfSpace((0.01,), (1.0,), CENTRE),), exact=True)
    options = {"schedule": "cosine", "num_steps": 10}
    both = sampled(covariance, [energy, prefix], noise, **options)
    torch.testing.assert_close(both[:, :2], torch.full((7, 2, 1), 0.2, dtype=torch.float64))
    alone = sampled(covariance, [prefix], noise, **options)
    assert (alone[:, 4:] > 0.05).any()
    assert (both[:, 4:] < 0.05).all()


def test_an_energy_of_the_user_sees_the_observation_and_must_be_finite():
    covariance, noise = EYE, torch.zeros(1, 2, NUM_STEPS, 1, dtype=torch.float64)
    goal = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)

    def towards(action, observation):
        return ((action[..., 0] - in_units(observation["goal"])) / (0.01 * HALF_RANGE)).square().sum(dim=1) / 2

    options = {"schedule": "cosine", "num_steps": 10, "observation": {"goal": goal}}
    samples = sampled(covariance, [Energies((Function(towards),))], noise, **options)
    torch.testing.assert_close(samples[..., 0], goal.expand(-1, NUM_STEPS), atol=0.01, rtol=0)
    for wrong, message in (
        (lambda action, observation: action.sum(dim=(1, 2)) * math.nan, "finite"),
        (lambda action, observation: action.sum(), "a number for each chunk"),
    ):
        with pytest.raises(ValueError, match=message):
            sampled(covariance, [Energies((Function(wrong),))], noise, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Energies(()), "one or more"),
        (lambda: Energies((Near((1.0,), ((0.0,),)),), rounds=0), "rounds"),
        (lambda: Reach((0.0,), (1.0,), 0), "above 0"),
        (lambda: KeepOut((1.0,), (1.0,), (0.0,)), "low < high"),
        (lambda: KeepOut((1.0,), (None,), (None,)), "bound"),
        (lambda: HalfSpace((1.0,), (0.0,), 0.0), "normal"),
        (lambda: Path((1.0,), ((0.0,),)), "two points"),
        (lambda: Path((1.0, 1.0), ((0.0, None), (0.0, 1.0))), "same dimensions"),
    ],
)
def test_impossible_energies_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "energy",
    [
        Reach((1.0,), (1.0,), 4),
        Reach((1.0, 1.0), (1.0, 1.0), 6),
        KeepOut((1.0, 1.0), (1.0,), (2.0, 2.0)),
        HalfSpace((1.0, 1.0), (1.0, 1.0, 1.0), 0.0),
        RateLimit((1.0, 1.0), (1.0, 1.0), 0.1, order=6),
        Near((1.0, 1.0), ((0.0, 0.0),)),
        Path((1.0, 1.0), ((0.0,), (1.0,))),
    ],
)
def test_energies_that_do_not_suit_the_chunks_are_refused(energy):
    with pytest.raises(ValueError, match="must"):
        Energies((energy,)).check((3, 6, 2))


MEANS = torch.stack([WAVE, -0.5 - WAVE])
SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)


def mixture(covariances):
    """The exact denoiser of two Gaussians, and the exact logarithms of p(component | x_t) (B, 2)."""

    def evidence(x_t, now):
        logarithms, estimates = [], []
        for mean, covariance, share in zip(MEANS, covariances, SHARES, strict=True):
            noisy = now.alpha**2 * covariance + now.sigma**2 * EYE
            off = x_t[..., 0] - now.alpha * mean
            solved = off @ torch.linalg.inv(noisy)
            logarithms.append(share.log() - (off * solved).sum(-1) / 2 - torch.logdet(noisy) / 2)
            estimates.append(mean + now.alpha * solved @ covariance)
        return torch.stack(logarithms, -1).log_softmax(-1), torch.stack(estimates, -1)

    def denoise(x_t, now, then):
        logarithms, estimates = evidence(x_t, now)
        return (logarithms.exp()[:, None] * estimates).sum(-1)[..., None]

    return denoise, evidence


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_classifier_picks_a_component_of_a_mixture(schedule):
    covariances = 0.1 * CORRELATIONS["ar"], 0.05 * CORRELATIONS["rbf"]
    denoise, evidence = mixture(covariances)
    own = space(0.6)

    def classify(label, observation):
        def log_probability(u, level):
            x_t = u * (level.alpha**2 * own.std**2 + level.sigma**2) / (level.alpha * own.std**2)
            return evidence(x_t, level)[0][:, label]

        return log_probability

    levels = spaced(SCHEDULES[schedule].levels, 200, "trailing")
    levels = levels if levels[0].alpha else levels[1:]  # the classifier of this test divides by alpha
    sampler = Sampler(SAMPLERS["ddim"][0], levels)
    sampling = Sampling(None, lambda condition: denoise, own, 1e9, dict, {})
    noise = torch.randn(1, 1500, NUM_STEPS, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = sample(sampling, noise, sampler=sampler)[..., 0]
    assert evidence(plain[..., None], levels[-2])[0][:, 0].exp().mean().item() == pytest.approx(0.3, abs=0.04)
    for label in (0, 1):
        guidance = [Classified(partial(classify, label))]
        samples = sample(sampling, noise, sampler=sampler, guidance=guidance)[..., 0]
        torch.testing.assert_close(samples.mean(dim=0), MEANS[label], atol=0.04, rtol=0)
        torch.testing.assert_close(samples.T.cov(), covariances[label], atol=0.015, rtol=0)
    unguided = sample(sampling, noise, sampler=sampler, guidance=[Classified(partial(classify, 0), weight=0.0)])
    torch.testing.assert_close(unguided[..., 0], plain)


def test_a_classifier_without_a_finite_gradient_is_refused():
    guidance = [Classified(lambda observation: lambda u, level: u.sum((1, 2)) * math.nan)]
    with pytest.raises(ValueError, match="finite"):
        sampled(EYE, guidance, torch.zeros(1, 2, NUM_STEPS, 1, dtype=torch.float64), schedule="cosine", num_steps=5)
