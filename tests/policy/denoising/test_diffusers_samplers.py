"""Samplers from diffusers schedulers, in float32: each samples a known Gaussian or is refused when it is built."""

import inspect
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
import toys
from gaussians import MEAN, cosine_path, gaussian
from recede.configs.components.denoising import DiffusersSamplerConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.policy.denoising import diffusers_samplers, schedule
from recede.policy.denoising.diffusers_samplers import diffusers_sampler
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # schedulers mix tensors with arrays

STD = 0.5
COSINE = schedule.cosine(100)
NAMES = [name for name in dir(diffusers) if name.endswith("Scheduler")]
SERVING = {
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
}
SPREAD_IN_10_STEPS = {  # over that of the data, of a plain loop; the rest of these classes leaves at least 0.84
    "DDPMScheduler": 0.78,
    "DDPMParallelScheduler": 0.78,
    "LCMScheduler": 0.62,
    "TCDScheduler": 0.81,
}


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(name, num_steps, noise, seed):
    """The loop that diffusers documents, with one generator for the whole batch."""
    scheduler_class = getattr(diffusers, name)
    parameters = inspect.signature(scheduler_class).parameters
    betas = [1 - (after.alpha / before.alpha) ** 2 for before, after in pairwise(COSINE.levels)]
    options = {"clip_sample": False} if "clip_sample" in parameters else {}
    scheduler = scheduler_class(100, trained_betas=betas, prediction_type="sample", **options)
    scheduler.set_timesteps(num_steps)
    extra = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        extra = {"generator": torch.Generator().manual_seed(seed)}
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        level = COSINE.levels[round(t.item()) + 1]
        x = scheduler.step(gaussian(STD)(scheduler.scale_model_input(x, t), level, level), t, x, **extra).prev_sample
    return x


def built(name, num_steps):
    """The sampler, or the message of the error that refuses it."""
    try:
        return diffusers_sampler(name, COSINE, num_steps)
    except ValueError as error:
        return str(error)


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [10, 30, 100])
@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_samples_a_gaussian_as_a_plain_loop_does_or_is_refused(name, num_steps):
    sampler = built(name, num_steps)
    if isinstance(sampler, str):
        assert name in sampler
        assert "\n" not in sampler
        return
    assert name in SERVING
    noise = randn(1, 4096, 1, 1)
    samples = sampler.solve(gaussian(STD), noise, sampler.levels)
    assert samples.dtype == torch.float32
    loop = plain(name, num_steps, noise[0].double(), seed=1)
    if torch.equal(loop[:1], plain(name, num_steps, noise[0, :1].double(), seed=2)):  # deterministic
        torch.testing.assert_close(samples.double(), loop, rtol=0, atol=3e-3)
    mean, spread = samples.mean().item(), samples.std().item() / STD
    assert mean == pytest.approx(loop.mean().item(), abs=0.03)
    assert spread == pytest.approx(loop.std().item() / STD, abs=0.04)
    assert mean == pytest.approx(MEAN, abs=0.04)
    least = SPREAD_IN_10_STEPS.get(name, 0.84)
    assert least - 0.02 < spread < (1.16 if name == "HeunDiscreteScheduler" else 1.05)
    if num_steps == 10 and name in SPREAD_IN_10_STEPS:
        assert spread == pytest.approx(least, abs=0.03)


def test_the_accepted_schedulers_are_listed():
    accepted = {name for name in NAMES if not isinstance(built(name, 20), str)}
    assert accepted == SERVING


@pytest.mark.parametrize(
    ("name", "num_steps", "options", "reason"),
    [
        ("EulerAncestralDiscreteScheduler", 10, {}, "prediction_type not implemented yet: sample"),
        ("PNDMScheduler", 10, {}, "prediction_type given as sample"),
        ("CogVideoXDDIMScheduler", 10, {}, "changes the noise levels that the policy was trained at"),
        ("CogVideoXDPMScheduler", 10, {"snr_shift_scale": 1.0}, "missing 2 required positional arguments"),
        ("DDIMInverseScheduler", 10, {}, "standard deviation 0.2 comes out with mean nan"),
        ("DPMSolverMultistepInverseScheduler", 10, {}, "comes out with mean -"),
        ("UniPCMultistepScheduler", 100, {}, "comes out with mean nan"),
        ("LCMScheduler", 100, {}, "original_steps x strength"),
        ("DDIMScheduler", 1, {}, r"comes out with mean 0.0\d+ and standard deviation 0.98"),
        ("DPMSolverMultistepScheduler", 10, {"use_karras_sigmas": True}, r"with {'use_karras_sigmas': True}: index"),
        ("DDPMScheduler", 10, {"variance_type": "learned"}, "scheduler of recede|cannot sample"),
    ],
)
def test_a_scheduler_that_fails_its_trial_is_refused_with_the_reason(name, num_steps, options, reason):
    with pytest.raises(ValueError, match=f"{name} cannot sample in {num_steps} steps.*{reason}.*or use a sampler of"):
        diffusers_sampler(name, COSINE, num_steps, **options)


def test_heun_of_diffusers_needs_more_steps_than_ours():
    """It averages derivatives by sigma / alpha, which falls from 2,029 to 5.8 in the first of ten steps."""
    with pytest.raises(ValueError, match=r"HeunDiscreteScheduler cannot sample in 10 steps.*deviation 0\.26"):
        diffusers_sampler("HeunDiscreteScheduler", COSINE, 10)
    diffusers_sampler("HeunDiscreteScheduler", COSINE, 20)


def test_a_scheduler_whose_packages_are_missing_is_refused(monkeypatch):
    from diffusers.utils import DummyObject

    class Needy(metaclass=DummyObject):
        _backends = ("torch", "a_package_that_no_one_has")

    monkeypatch.setattr(diffusers, "NeedyScheduler", Needy, raising=False)
    with pytest.raises(ValueError, match="pip install a_package_that_no_one_has"):
        diffusers_sampler("NeedyScheduler", COSINE, 10)


@pytest.mark.parametrize("num_steps", [0, 101])
def test_an_impossible_number_of_steps_is_refused(num_steps):
    with pytest.raises(ValueError, match=f"between 1 and .*100 .*got {num_steps}"):
        diffusers_sampler("DDIMScheduler", COSINE, num_steps)


def test_an_unknown_scheduler_or_option_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'DDIMScheduler'"):
        diffusers_sampler("DDIMSheduler", COSINE, 10)
    with pytest.raises(ValueError, match="has no option 'solver_ordr': did you mean 'solver_order'"):
        diffusers_sampler("DPMSolverMultistepScheduler", COSINE, 10, solver_ordr=3)
    with pytest.raises(ValueError, match="has no option 'prediction_type'"):
        diffusers_sampler("DDIMScheduler", COSINE, 10, prediction_type="epsilon")
    with pytest.raises(ValueError, match="takes betas, FlowMatchEulerDiscreteScheduler does not: use ddim"):
        diffusers_sampler("FlowMatchEulerDiscreteScheduler", COSINE, 10)


class Continuous:
    """A schedule in continuous time."""

    levels = tuple(cosine_path(index / 10) for index in range(11))


@pytest.mark.parametrize("noise_schedule", [Continuous(), schedule.rectified_flow(100)], ids=["continuous", "flow"])
def test_a_schedule_without_betas_is_refused(noise_schedule):
    with pytest.raises(ValueError, match=r"DDIMScheduler .*betas"):
        diffusers_sampler("DDIMScheduler", noise_schedule, 2)


def test_a_trial_does_not_touch_the_random_state_of_the_process():
    for name in SERVING:
        state = torch.get_rng_state()
        sampler = diffusers_sampler(name, COSINE, 20)
        sampler.solve(gaussian(STD), randn(1, 2, 1, 1), sampler.levels)
        assert torch.equal(torch.get_rng_state(), state), name


@pytest.mark.parametrize("shape", [(1, 1), (16, 2)])
def test_a_thousand_rows_have_a_thousand_random_streams(shape):
    noise = randn(1, 1000, *shape)
    generators = diffusers_samplers._row_generators(diffusers.DDPMScheduler().step, noise)["generator"]
    streams = {torch.randn(4, generator=generator).numpy().tobytes() for generator in generators}
    assert len(streams) == 1000


@pytest.mark.parametrize("name", ["DDPMScheduler", "LCMScheduler", "TCDScheduler"])
def test_a_stochastic_scheduler_draws_for_each_row_separately(name):
    sampler = diffusers_sampler(name, COSINE, 20)
    noise = randn(1, 5, 16, 2)
    noise[0, 4] = noise[0, 3]
    noise[0, 4, 15, 1] += 1e-6  # a single bit tells streams apart
    together = sampler.solve(gaussian(STD), noise, sampler.levels)
    alone = sampler.solve(gaussian(STD), noise[:, 2:3], sampler.levels)
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-6)
    assert (together[3] - together[4]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_a_scheduler_does_not_clip_the_estimates_again(name):
    def denoise(x, now, then):
        return torch.full_like(x, 2.5)

    free = diffusers_sampler(name, COSINE, 50)
    samples = free.solve(denoise, randn(1, 3, 16, 2), free.levels)
    torch.testing.assert_close(samples, torch.full_like(samples, 2.5), rtol=0, atol=0.02)
    bound = diffusers_sampler(name, COSINE, 50, clip_sample=True)
    assert bound.solve(denoise, randn(1, 3, 16, 2), bound.levels).max() < 1.02


def test_a_scheduler_refuses_a_warm_start():
    sampler = diffusers_sampler("DDIMScheduler", COSINE, 10)
    assert [level.time for level in sampler.levels] == [*range(90, -1, -10), -1]
    with pytest.raises(ValueError, match=r"DDIMScheduler .*: use a sampler of recede for a warm start"):
        sampler.solve(gaussian(STD), randn(1, 2, 16, 2), sampler.levels[3:])


@pytest.mark.parametrize("name", sorted(SERVING))
def test_a_policy_predicts_with_every_accepted_scheduler(name):
    config = DiffusionConfig(
        network=UNet1dConfig(channels=[8, 16], time_size=8), sampler=DiffusersSamplerConfig(name=name, num_steps=20)
    )
    ranges = {stream.name: (np.full(2, -1.0), np.full(2, 1.0)) for stream in toys.SPECIFICATION.streams}
    normalizer = Normalizer(toys.SPECIFICATION, ranges)
    policy = config.build(toys.SPECIFICATION, Horizons(prediction=8, action=4), normalizer).eval()
    observation = {name: torch.zeros(2, 2, 2) for name in ("position", "target")}
    chunk = policy.predict(observation, randn(1, 2, 8, 2))
    assert chunk.shape == (2, 8, 2)
    assert bool(chunk.isfinite().all())
