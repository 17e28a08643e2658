"""Guidance against closed forms: sampling a Gaussian is linear in the noise and the plan."""

import itertools
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from policies import USUAL
from recede.configs.components.denoising import EulerMaruyamaConfig, KarrasSamplerConfig, LangevinConfig
from recede.policy.denoising.diffusers_samplers import diffusers_sampler
from recede.policy.denoising.guidance import Prefix, Sampling, error_gain, gradient_gain, inpainting, sample
from recede.policy.denoising.levels import NoiseLevel, spaced
from recede.policy.denoising.prediction import SAMPLE, clipped
from recede.policy.denoising.sampling import Sampler, ddim, ddpm, dpm_solver_2m, euler_maruyama, heun, langevin
from recede.policy.denoising.schedule import cosine, rectified_flow
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons, Specification, Stream

NUM_STEPS, HELD, END = 16, 4, 8
STEPS = torch.arange(NUM_STEPS, dtype=torch.float64)
EYE = torch.eye(NUM_STEPS, dtype=torch.float64)
COVARIANCES = {
    "ar": 0.98 ** (STEPS[:, None] - STEPS).abs(),
    "rbf": torch.exp(-(((STEPS[:, None] - STEPS) / 3) ** 2) / 2) + 1e-4 * EYE,
}
"""Covariances of chunks with one number per step, of variance 1: a rough autoregressive walk, and smooth motions."""

SCHEDULES = {"cosine": cosine(100), "flow": rectified_flow(100)}
STDS = 1.0, 0.35, 0.2
ANY_CLIP = 1e9
DDIM = partial(ddim, eta=0.0)


@pytest.fixture(params=SCHEDULES.values(), ids=SCHEDULES.keys())
def schedule(request):
    return request.param


def denoiser(covariance):
    """The exact denoiser of a Gaussian x_0."""
    matrices = {}

    def denoise(x_t, now, then):
        if now not in matrices:
            noisy = now.alpha**2 * covariance + now.sigma**2 * EYE
            matrices[now] = now.alpha * covariance @ torch.linalg.inv(noisy)
        # Contiguous, because the last bit of a product depends on how its factors lie in memory.
        return torch.einsum("ij,bjd->bid", matrices[now].to(x_t), x_t.contiguous()).contiguous()

    return denoise


def chunks(count, seed, covariance=COVARIANCES["rbf"]):
    """Samples of the Gaussian."""
    noise = torch.randn(count, NUM_STEPS, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.cholesky(covariance) @ noise


def weights(*, is_soft=True, held=HELD):
    """1 for the held steps; if soft, then falling to 0 at `END`."""
    c = (END - STEPS) / (END - held + 1)
    falling = torch.where(STEPS < END, c * torch.expm1(c) / math.expm1(1), 0.0)
    return torch.where(held > STEPS, 1.0, falling if is_soft else 0.0)


class Itself:
    """A space in which actions are denoised as they are."""

    def __init__(self, std=None):
        self.std = std

    def encode(self, action):
        return action


def sampled(denoise, noise, *, sampler, clip, std=None, guidance=()):
    """The sample from this noise with this denoiser."""
    sampling = Sampling(None, lambda condition: denoise, Itself(std), clip, dict, {})
    return sample(sampling, noise, sampler=sampler, guidance=guidance)


def guided(covariance, planned, weighting, noise, *, sampler, std=1.0, clip=ANY_CLIP, denoise=None, **options):
    """The sample from this noise guided by a plan, with the same weights (Tp,) in every row."""
    prefix = Prefix(planned, weighting.expand(len(planned), -1), **options)
    stds = torch.full((1,), std, dtype=planned.dtype)
    denoise = denoise or denoiser(covariance)
    return sampled(denoise, noise, sampler=sampler, clip=clip, std=stds, guidance=[prefix])


def sampler_of(schedule, num_steps, *, solve=DDIM, spacing="trailing", num_draws=0):
    return Sampler(solve, spaced(schedule.levels, num_steps, spacing), num_draws=num_draws)


def root(matrix):
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T


class Law:
    """Compares the law of guided samples with the true conditional law. Exact: both are linear in noise and plan.

    seam: rms of the step from the last held action to the first free one, in natural steps of the data, so that 1 is
    ideal. mean: rms error of the conditional mean of the free steps; spread: Wasserstein-2 distance between their
    conditional covariance and the true one; both in standard deviations of the data.
    """

    def __init__(self, kind, std, schedule, num_steps, *, weighting, held=HELD, solve=DDIM, num_draws=0, **options):
        covariance = std**2 * COVARIANCES[kind]
        sampler = sampler_of(schedule, num_steps, solve=solve, num_draws=num_draws)
        num_noises = (1 + num_draws) * NUM_STEPS
        unit = torch.eye(num_noises, dtype=torch.float64).reshape(num_noises, 1 + num_draws, NUM_STEPS)
        noise = torch.cat([unit, torch.zeros(NUM_STEPS, *unit.shape[1:], dtype=torch.float64)]).transpose(0, 1)
        planned = torch.cat([torch.zeros(num_noises, NUM_STEPS, dtype=torch.float64), EYE])
        chunk = guided(covariance, planned[..., None], weighting, noise[..., None], sampler=sampler, std=std, **options)
        of_noise, of_plan = chunk[:num_noises, :, 0].T, chunk[num_noises:, :, 0].T

        past = covariance[:held, :held]
        onward = covariance[:, :held] @ torch.linalg.inv(past)  # from held actions to the true mean of all
        rest = covariance - onward @ covariance[:held]
        error = (of_plan @ onward - onward)[held:]
        self.mean = (error @ past @ error.T).diagonal().mean().sqrt().item() / std
        actual, true = (of_noise @ of_noise.T + of_plan @ rest @ of_plan.T)[held:, held:], rest[held:, held:]
        both = root(root(true) @ actual @ root(true))
        self.spread = torch.trace(actual + true - 2 * both).clamp(min=0).sqrt().item() / std
        step = of_plan[held] - EYE[held - 1]
        natural = 2 * (covariance[0, 0] - covariance[0, 1])
        self.seam = ((step @ covariance @ step + of_noise[held] @ of_noise[held]) / natural).sqrt().item()
        self.held = chunk[:, :held, 0] - planned[:, :held]


def laws(kind, *, num_steps, **options):
    cases = itertools.product(STDS, SCHEDULES.values())
    return [Law(kind, std, schedule, num_steps, **options) for std, schedule in cases]


# name -> schedules, std, weights, exact -> what the pull that was published for unit variance reaches at most: seam,
# error of the mean and of the spread, of 10 steps of DDIM, AR(1), 4 held steps. The seam of the table is from above.
PUBLISHED = {
    "hard": (1.0, False, False, 1.711, 0.288, 0.542),
    "soft": (1.0, True, False, None, 0.189, 0.315),
    "hard, exact": (1.0, False, True, 1.078, 0.182, 0.451),
    "soft, exact": (1.0, True, True, None, 0.191, 0.544),
    "hard, exact, std .35": (0.35, False, True, 1.12, 0.30, 0.62),
    "hard, exact, std .2": (0.2, False, True, 1.095, 0.31, 0.75),
    "hard, std .2": (0.2, False, False, 1.35, 0.19, 0.49),
}


@pytest.mark.parametrize(("std", "is_soft", "exact", "seam", "mean", "spread"), PUBLISHED.values(), ids=PUBLISHED)
def test_a_chunk_continues_the_plan_at_least_as_well_as_published(std, is_soft, exact, seam, mean, spread):
    law = Law("ar", std, SCHEDULES["cosine"], 10, weighting=weights(is_soft=is_soft), exact=exact)
    assert law.mean < mean
    assert law.spread < spread
    assert seam is None or 0.9 < law.seam < seam


@pytest.mark.parametrize("kind", COVARIANCES)
@pytest.mark.parametrize(
    ("num_steps", "is_soft", "seams", "mean", "spread"),
    [
        (4, False, (1.1, 3.0), 0.47, 1.2),
        (4, True, (0.73, 1.55), 0.35, 1.1),
        (10, False, (0.94, 1.35), 0.40, 0.75),
        (10, True, (0.69, 1.0), 0.3, 0.56),
        (100, False, (0.84, 1.13), 0.3, 0.44),
        (100, True, (0.74, 1.13), 0.25, 0.29),
    ],
)
def test_a_chunk_continues_the_plan_at_any_scale_of_the_data(kind, num_steps, is_soft, seams, mean, spread):
    """Along the error. A chunk without any spread would have too small a seam."""
    for law in laws(kind, num_steps=num_steps, weighting=weights(is_soft=is_soft)):
        assert seams[0] < law.seam < seams[1]
        assert law.mean < mean
        assert law.spread < spread
        assert not law.held[:, :HELD].any()


@pytest.mark.parametrize("kind", COVARIANCES)
@pytest.mark.parametrize(
    ("num_steps", "is_soft", "seams", "mean", "spread"),
    [
        (4, False, (0.9, 1.3), 0.45, 1.15),
        (4, True, (0.6, 1.1), 0.32, 1.15),
        (10, False, (1.0, 1.2), 0.42, 0.76),
        (10, True, (0.7, 0.85), 0.3, 0.79),
        (100, False, (0.95, 1.3), 0.42, 0.71),
        (100, True, (0.72, 0.9), 0.34, 0.46),
    ],
)
def test_a_chunk_continues_the_plan_along_the_gradient_at_any_scale_of_the_data(
    kind, num_steps, is_soft, seams, mean, spread
):
    for law in laws(kind, num_steps=num_steps, weighting=weights(is_soft=is_soft), exact=True):
        assert seams[0] < law.seam < seams[1]
        assert law.mean < mean
        assert law.spread < spread


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("held", [1, 4, 8, 12, 15])
def test_a_pull_stays_bounded_with_few_denoising_steps_and_many_held_steps(exact, held):
    """Never worse than without guidance, and clearly better with 4 denoising steps."""
    for kind, num_steps in itertools.product(COVARIANCES, (1, 2, 3, 4)):
        options = {"num_steps": num_steps, "held": held}
        for is_soft in (False, True):
            weighting = weights(held=held, is_soft=is_soft)
            free = laws(kind, weighting=torch.zeros_like(STEPS), **options)
            for law, without in zip(laws(kind, weighting=weighting, exact=exact, **options), free, strict=True):
                assert law.seam < 1.001 * without.seam
                assert law.mean < 1.001 * without.mean
                assert num_steps < 4 or held < 4 or law.seam < 3.2


LANGEVIN, REVERSE = partial(langevin, corrections=1, size=0.3), partial(euler_maruyama, diffusion=1.0)


@pytest.mark.parametrize(
    "solve",
    [dpm_solver_2m, heun, ddpm, LANGEVIN, REVERSE],
    ids=["dpm_solver_2m", "heun", "ddpm", "langevin", "reverse"],
)
@pytest.mark.parametrize("exact", [False, True])
def test_a_chunk_continues_the_plan_with_every_sampler(schedule, solve, exact):
    num_steps = 30 if solve is REVERSE else 10
    draws = num_steps if solve in (ddpm, LANGEVIN, REVERSE) else 0
    for std, is_soft in itertools.product(STDS, (False, True)):
        options = {"solve": solve, "num_draws": draws, "weighting": weights(is_soft=is_soft)}
        law = Law("ar", std, schedule, num_steps, exact=exact, **options)
        assert 0.7 < law.seam < (1.25 if is_soft else 2.0)
        assert law.mean < 0.36
        assert law.spread < 0.83


def test_without_guidance_a_chunk_does_not_continue_the_plan(schedule):
    """The measures can tell: all of them are bad."""
    law = Law("ar", 1.0, schedule, 10, weighting=torch.zeros_like(STEPS))
    assert law.seam > 6
    assert law.mean > 0.85
    assert law.spread > 1.3
    assert law.held.abs().max() > 0.5


def test_many_steps_along_the_error_sample_the_conditional_distribution(schedule):
    """As `error_gain` claims, the estimate of the free steps becomes the estimate given the held steps."""
    law = Law("ar", 1.0, schedule, 100, weighting=weights(is_soft=False))
    assert law.seam == pytest.approx(1, abs=0.02)
    assert law.mean < 0.08
    assert law.spread < 0.06


def test_the_pull_is_along_the_error_or_the_gradient(schedule):
    """For a linear estimate D x_t the gradient is D^T W (Y - x_0), in the time of a flow."""
    covariance = COVARIANCES["rbf"]
    denoise, planned, x = denoiser(covariance), chunks(5, 0), chunks(5, 1)
    weighting = weights().expand(5, -1)
    for now, then in pairwise(spaced(schedule.levels, 10, "trailing")):
        estimate = denoise(x, now, then)
        error = weighting[..., None] * (planned - estimate)
        matrix = denoise(EYE[..., None], now, then)[..., 0]  # row j: what unit vector j is estimated as
        gradient = (now.alpha + now.sigma) * torch.einsum("ji,bid->bjd", matrix, error)
        tau = now.share
        published = min(5 * (1 - tau), (tau**2 + (1 - tau) ** 2) / tau if tau else math.inf)
        gain = torch.full_like(error, published)
        gain[weighting == 1] = (1 - tau) / (then.share - tau)
        along_error = gain * error
        for exact, pull in ((False, along_error), (True, published * gradient)):
            pulled = inpainting(denoise, planned, weighting, limit=5.0, exact=exact)(x, now, then)
            torch.testing.assert_close(pulled, estimate + pull, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("is_soft", [False, True])
def test_for_a_flow_the_guided_step_is_the_published_one(is_soft):
    """A' = A + (v + k g) / n with v = (x_0 - A) / (1 - tau), Black et al. 2025, algorithm 1."""
    covariance, planned, weighting = COVARIANCES["rbf"], chunks(50, 0), weights(is_soft=is_soft)
    denoise, sampler = denoiser(covariance), sampler_of(SCHEDULES["flow"], 10)
    noise = torch.randn(1, 50, NUM_STEPS, 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    x = noise[0]
    for now, then in pairwise(sampler.levels):
        tau, after = now.alpha, then.alpha
        x_0 = denoise(x, now, then)
        matrix = denoise(EYE[..., None], now, then)[..., 0]
        pull = torch.einsum("ji,bid->bjd", matrix, weighting[:, None] * (planned - x_0))
        variance = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
        k = 5.0 if tau == 0 else min(5.0, (1 - tau) / (tau * variance))
        x = x + (after - tau) * ((x_0 - x) / (1 - tau) + k * pull)
    chunk = guided(covariance, planned, weighting, noise, sampler=sampler, exact=True)
    torch.testing.assert_close(chunk[:, HELD:], x[:, HELD:], rtol=1e-7, atol=1e-9)
    assert torch.equal(chunk[:, :HELD], planned[:, :HELD])


def test_the_gain_of_the_gradient_depends_on_the_scale_of_each_dimension():
    """Data s times as large, with s times the noise, is pulled alike. A still dimension has a finite gain."""
    std = torch.tensor([1.0, 0.35, 0.0], dtype=torch.float64)
    for tau in (0.0, 0.02, 0.3, 0.9):
        now, end = NoiseLevel(0, tau, 1 - tau), NoiseLevel(-1, 1.0, 0.0)
        gain = gradient_gain(now, end, std=std, limit=5.0, num_pulled=1.0)
        for s, value in zip((1.0, 0.35, 1.0), gain.tolist(), strict=True):
            posterior = math.inf if tau == 0 else (tau**2 * s**2 + (1 - tau) ** 2) / (tau * s**2)
            assert value == pytest.approx(min(5 * (1 - tau) / s**2, posterior), rel=1e-12)
    assert error_gain(end, end) == 1.0


def test_guidance_is_the_same_for_every_schedule():
    """Noise levels of two schedules with the same share of signal give the same guided estimates."""
    denoise, planned, x = denoiser(COVARIANCES["rbf"]), chunks(20, 0), chunks(20, 3)
    now, then = SCHEDULES["cosine"].levels[41], SCHEDULES["cosine"].levels[31]
    same, after = (NoiseLevel(level.time, level.share, 1 - level.share) for level in (now, then))
    std = torch.tensor([0.4], dtype=torch.float64)
    for exact in (False, True):
        pulled = inpainting(denoise, planned, weights().expand(20, -1), std=std, limit=5.0, exact=exact)
        expected = pulled(x / (now.alpha + now.sigma), same, after)
        torch.testing.assert_close(pulled(x, now, then), expected, rtol=1e-9, atol=1e-12)


SAMPLERS = {
    "ddim": lambda schedule: sampler_of(schedule, 10),
    "eta": lambda schedule: sampler_of(schedule, 10, solve=ddpm, num_draws=10),
    "dpm_solver_2m": lambda schedule: sampler_of(schedule, 8, solve=dpm_solver_2m, spacing="log_snr"),
    "heun": lambda schedule: sampler_of(schedule, 6, solve=heun),
    "karras": KarrasSamplerConfig(num_steps=6).build,
    "langevin": LangevinConfig(num_steps=8, corrections=2).build,
    "euler_maruyama": EulerMaruyamaConfig(num_steps=10).build,
    "leading": lambda schedule: sampler_of(schedule, 10, spacing="leading"),
    **{
        name: lambda schedule, name=name: diffusers_sampler(name, schedule, 10)
        for name in ("DDIMScheduler", "DDPMScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler")
    },
}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_a_prefix_without_weight_changes_nothing_and_a_held_step_is_the_plan(make, exact):
    """Bit for bit, in the precision and with the clip that policies have."""
    sampler = make(SCHEDULES["cosine"])
    planned, generator = chunks(8, 0).float(), torch.Generator().manual_seed(7)
    noise = torch.randn(1 + sampler.num_draws, *planned.shape, generator=generator)
    linear = denoiser(COVARIANCES["rbf"])

    def denoise(x_t, now, then):
        return clipped(linear(x_t, now, then), 1.0)

    plain = sampled(denoise, noise, sampler=sampler, clip=1.0)
    options = {"sampler": sampler, "clip": 1.0, "denoise": denoise, "exact": exact}
    nothing = guided(None, planned, torch.zeros(NUM_STEPS), noise, **options)
    assert torch.equal(nothing, plain)
    held = guided(None, planned, weights().float(), noise, **options)
    assert torch.equal(held[:, :HELD], planned[:, :HELD])
    assert held[:, HELD:].abs().max() <= 1
    assert not torch.equal(held[:, HELD:], plain[:, HELD:])


def test_numpy_and_torch_agree(schedule):
    sampler = sampler_of(schedule, 10)
    planned, noise = chunks(8, 0).float(), chunks(8, 1).float()[None]
    linear = denoiser(COVARIANCES["rbf"])
    expected = guided(None, planned, weights().float(), noise, sampler=sampler, clip=1.0, denoise=linear)
    prefix = Prefix(planned.numpy(), weights().expand(8, -1).float().numpy())

    def denoise(x_t, now, then):
        return linear(torch.from_numpy(x_t), now, then).numpy()

    chunk = sampled(denoise, noise.numpy(), sampler=sampler, clip=1.0, guidance=[prefix])
    assert chunk.dtype == np.float32
    np.testing.assert_allclose(chunk, expected.numpy(), atol=2e-5)
    assert np.array_equal(chunk[:, :HELD], prefix.actions[:, :HELD])


@pytest.mark.parametrize("exact", [False, True])
def test_a_clip_does_not_weaken_the_guidance(exact):
    """Regress the fifth free step on its true conditional mean, of data that the clip hardly touches; ideal is 1."""
    std, count = 0.35, 4000
    covariance = std**2 * COVARIANCES["ar"]
    linear, planned = denoiser(covariance), chunks(count, 0, covariance).clamp(-1, 1)
    noise = torch.randn(1, count, NUM_STEPS, 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    true = (covariance[HELD + 4, :HELD] @ torch.linalg.inv(covariance[:HELD, :HELD])) @ planned[:, :HELD, 0].T
    options = {"sampler": sampler_of(SCHEDULES["cosine"], 10), "std": std, "exact": exact}
    slopes = []
    for clip in (1.0, ANY_CLIP):
        options |= {"clip": clip, "denoise": lambda *arguments, clip=clip: clipped(linear(*arguments), clip)}
        chunk = guided(covariance, planned, weights(is_soft=False), noise, **options)
        slopes.append((chunk[:, HELD + 4, 0] @ true / (true @ true)).item())
    assert slopes[0] > 0.72
    assert slopes[0] == pytest.approx(slopes[1], abs=0.06)


def test_an_estimate_that_is_clipped_everywhere_is_still_pulled():
    """At high noise all estimates are clipped: the gradient is taken before the clip."""
    now, then = SCHEDULES["cosine"].levels[100], SCHEDULES["cosine"].levels[90]
    planned, x = torch.zeros(2, NUM_STEPS, 1), torch.full((2, NUM_STEPS, 1), 2.0)

    def saturated(x_t, now, then):
        return clipped(30 * x_t, 1.0)

    assert (saturated(x, now, then) == 1).all()
    for exact in (False, True):
        pulled = inpainting(saturated, planned, torch.ones(2, NUM_STEPS), limit=5.0, exact=exact)
        assert (pulled(x, now, then) < 0.9).all()


class Still(torch.nn.Module):
    """A network and an encoder without parameters: the estimate is nearly the noisy chunk."""

    conditioning_shape, num_context, crop = (1, 1), 0, None

    def forward(self, observation):
        return observation["state"]

    def embed(self, now, then):
        return now

    def condition(self, conditioning):
        return conditioning

    def denoise(self, noisy, time, condition):
        return 0.8 * noisy


def test_a_policy_guides_by_the_scale_of_its_own_data():
    specification = Specification((Stream("state", (1,)),), Stream("action", (1,)), control_dt=0.1)
    ranges = {name: (np.full(1, -2.0), np.full(1, 2.0)) for name in ("state", "action")}
    schedule, generator = SCHEDULES["cosine"], torch.Generator().manual_seed(0)
    noise, planned = torch.randn(2, 1, 3, NUM_STEPS, 1, generator=generator).unbind()
    prefix = Prefix(planned[0], weights().float().expand(3, -1), exact=True)
    sampler, chunks_of = sampler_of(schedule, 10), {}
    for std in (1.0, 0.3):
        policy = DiffusionPolicy(
            specification,
            Horizons(1, NUM_STEPS, 4),
            normalizer=Normalizer(specification, ranges, action_std=np.full(1, std)),
            encoder=Still(),
            network=Still(),
            schedule=schedule,
            prediction=SAMPLE,
            sampler=sampler,
            **USUAL,
        )
        chunks_of[std] = policy.predict({"state": torch.zeros(3, 1, 1)}, noise, [prefix])
        expected = guided(
            None,
            planned[0] / 2,
            weights().float(),
            noise,
            sampler=sampler,
            std=std,
            clip=1.0,
            denoise=lambda x_t, *_: clipped(0.8 * x_t, 1.0),
            exact=True,
        )
        torch.testing.assert_close(chunks_of[std], 2 * expected, rtol=1e-5, atol=1e-5)
    assert (chunks_of[1.0] - chunks_of[0.3])[:, HELD:].abs().max() > 0.01
