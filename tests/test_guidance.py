"""Guidance, against closed forms: of a Gaussian everything is known."""

import math
from itertools import pairwise

import pytest
import torch
from recede.policy.guidance import inpainting
from recede.policy.sampling import ddim, heun, step
from recede.policy.schedule import cosine, rectified_flow

NUM_STEPS, HELD, END = 16, 4, 8
STEPS = torch.arange(NUM_STEPS, dtype=torch.float64)
COVARIANCE = torch.exp(-(((STEPS[:, None] - STEPS) / 3) ** 2) / 2) + 1e-4 * torch.eye(NUM_STEPS, dtype=torch.float64)
"""Of smooth chunks of one number a step."""

SCHEDULES = {"cosine": cosine(100), "flow": rectified_flow(100)}


@pytest.fixture(params=SCHEDULES.values(), ids=SCHEDULES.keys())
def schedule(request):
    return request.param


def matrix(schedule, t):
    """The best estimate of x_0 from x_t is this times x_t."""
    alpha, sigma = schedule.at(t)
    eye = torch.eye(NUM_STEPS, dtype=torch.float64)
    return alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * eye)


def denoiser(schedule):
    # Contiguous, because the last bit of a product depends on how its factors lie in memory.
    return lambda x, t: torch.einsum("ij,bjd->bid", matrix(schedule, t), x.contiguous()).contiguous()


def chunks(count, seed):
    """Samples of the Gaussian."""
    noise = torch.randn(count, NUM_STEPS, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.cholesky(COVARIANCE) @ noise


def weights(count, *, is_soft=True):
    """Held for `HELD` steps, then, where soft, falling until `END`."""
    c = (END - STEPS) / (END - HELD + 1)
    falling = torch.where(STEPS < END, c * torch.expm1(c) / math.expm1(1), 0.0)
    return torch.where(STEPS < HELD, 1.0, falling if is_soft else 0.0).expand(count, -1)


def sample(schedule, planned, given, *, num_steps=10, sampler=ddim, **options):
    noise = torch.randn(1, *planned.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    denoise = inpainting(denoiser(schedule), schedule, planned, given, **{"limit": 5.0} | options)
    return sampler(denoise, noise, schedule, schedule.spacing(num_steps))


def rms(x):
    return x.square().mean().sqrt().item()


def test_the_exact_pull_is_along_the_gradient(schedule):
    """For a linear estimate D x_t it is D^T W (Y - x_0), in the time of a flow."""
    planned, x = chunks(5, 0), chunks(5, 1)
    for t in schedule.spacing(10)[:-1]:
        alpha, sigma = schedule.at(t)
        share = alpha / (alpha + sigma)
        gain = min(5 * (1 - share), (share**2 + (1 - share) ** 2) / share if share else math.inf)
        estimate = denoiser(schedule)(x, t)
        error = weights(5, is_soft=True)[..., None] * (planned - estimate)
        for is_exact in (False, True):
            pull = (alpha + sigma) * torch.einsum("ji,bjd->bid", matrix(schedule, t), error) if is_exact else error
            found = inpainting(denoiser(schedule), schedule, planned, weights(5), limit=5.0, exact=is_exact)(x, t)
            torch.testing.assert_close(found[:, HELD:], (estimate + gain * pull)[:, HELD:], rtol=1e-9, atol=1e-12)
            assert torch.equal(found[:, :HELD], planned[:, :HELD])


@pytest.mark.parametrize("exact", [False, True])
def test_of_a_flow_it_is_the_published_step(exact):
    """A' = A + (v + k g) / n with v = (x_0 - A) / (1 - tau), Black et al. 2025, algorithm 1."""
    schedule, planned, given = SCHEDULES["flow"], chunks(50, 0), 0.9 * weights(50)  # nothing is held
    x = torch.randn(50, NUM_STEPS, 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for t, then in pairwise(schedule.spacing(10)):
        tau, after = schedule.at(t)[0], schedule.at(then)[0]
        x_0 = denoiser(schedule)(x, t)
        error = given[..., None] * (planned - x_0)
        pull = torch.einsum("ji,bjd->bid", matrix(schedule, t), error) if exact else error
        spread = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
        k = 5.0 if tau == 0 else min(5.0, (1 - tau) / (tau * spread))
        x = x + (after - tau) * ((x_0 - x) / (1 - tau) + k * pull)
    torch.testing.assert_close(sample(schedule, planned, given, exact=exact), x, rtol=1e-7, atol=1e-9)


def test_it_is_the_same_for_every_schedule():
    """Times at which two schedules have the same share of signal give the same guided estimates."""
    planned, given, variance = chunks(20, 0), weights(20), SCHEDULES["cosine"]
    t, x = 40, chunks(20, 3)
    alpha, sigma = variance.at(t)
    share = alpha / (alpha + sigma)

    class Same:
        """A flow at just that time."""

        def at(self, _):
            return share, 1 - share

    for exact in (False, True):
        guided = inpainting(denoiser(variance), variance, planned, given, limit=5.0, exact=exact)(x, t)
        same = inpainting(denoiser(Same()), Same(), planned, given, limit=5.0, exact=exact)(x / (alpha + sigma), t)
        torch.testing.assert_close(guided, same, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_steps", [4, 10])
@pytest.mark.parametrize("sampler", [ddim, heun])
def test_chunks_go_on_from_what_is_planned(schedule, sampler, num_steps):
    """The seam is about as smooth as the data, and the step after it is what the prefix makes probable."""
    planned = chunks(2000, 0)
    natural = rms(planned[:, 1:] - planned[:, :-1])
    mean = COVARIANCE[HELD:, :HELD] @ torch.linalg.inv(COVARIANCE[:HELD, :HELD]) @ planned[:, :HELD]

    def seam(chunk):
        return rms(chunk[:, HELD] - planned[:, HELD - 1]) / natural

    def deviation(chunk):
        return rms((chunk[:, HELD:] - mean)[:, :4])

    options = {"num_steps": num_steps, "sampler": sampler}
    free = sample(schedule, planned, torch.zeros(2000, NUM_STEPS, dtype=torch.float64), exact=False, **options)
    hard = sample(schedule, planned, weights(2000, is_soft=False), exact=False, **options)
    soft = sample(schedule, planned, weights(2000), exact=False, **options)
    exact = sample(schedule, planned, weights(2000), exact=True, **options)
    for found in (hard, soft, exact):
        assert torch.equal(found[:, :HELD], planned[:, :HELD])
    assert seam(free) > 3
    assert max(seam(soft), seam(exact)) < 1.3
    assert seam(hard) > seam(soft) > seam(exact)
    assert deviation(free) > deviation(hard) > deviation(soft)
    assert deviation(soft) < 0.5 * deviation(free)
    assert deviation(exact) < 0.5 * deviation(free)


def test_nothing_is_guided_without_weight(schedule):
    planned, nothing = chunks(8, 0), torch.zeros(8, NUM_STEPS, dtype=torch.float64)
    x = torch.randn(1, *planned.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    plain = ddim(denoiser(schedule), x, schedule, schedule.spacing(10))
    for exact in (False, True):
        assert torch.equal(sample(schedule, planned, nothing, exact=exact), plain)


def test_the_step_rule_is_that_of_a_flow_in_its_time():
    """Divided by alpha + sigma, x moves along a straight line to the data, by the change of the share of signal."""
    schedule, x = SCHEDULES["cosine"], chunks(3, 0)
    for t, then in pairwise(schedule.spacing(5)):
        now, after = schedule.at(t), schedule.at(then)
        (a, s), (b, r) = now, after
        flow = x / (a + s)
        moved = flow + (b / (b + r) - a / (a + s)) * (x * 0.3 - flow) / (1 - a / (a + s))
        torch.testing.assert_close(step(x, 0.3 * x, None, now=now, then=after) / (b + r), moved, rtol=1e-8, atol=1e-10)
