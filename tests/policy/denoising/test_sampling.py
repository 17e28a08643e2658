"""The step rule and the solvers, against diffusers step by step and against closed forms."""

import math
from functools import partial
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
from gaussians import MEAN, along, carried, cosine_path, gaussian, law, straight_path
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.policy.denoising import prediction, sampling, schedule
from recede.policy.denoising.levels import spaced
from recede.policy.denoising.sampling import Sampler

PREDICTIONS = {"epsilon": prediction.EPSILON, "sample": prediction.SAMPLE, "v_prediction": prediction.V}
SHAPE = (3, 16, 2)


@pytest.fixture
def double():
    """Compute schedules and schedulers in float64, so that they agree to the last digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(scheduler):
    """The tables of a diffusers scheduler in float64: its own are rounded to float32."""
    scheduler.betas = torch.from_numpy(np.asarray(schedule_betas(), dtype=np.float64))
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
    scheduler.one = torch.tensor(1.0)
    return scheduler


def schedule_betas():
    def signal(time):
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - signal((i + 1) / 100) / signal(i / 100), 0.999) for i in range(100)]


def network(x, t):
    """A smooth function of all its inputs that leaves [-1, 1]."""
    return torch.sin(3 * x) + 0.3 * math.cos(t / 7) * x.flip(1)


def estimates(kind, clip=1.0):
    """The denoiser of that network: its estimate before and after it is clipped."""

    def denoise(x, now):
        raw = PREDICTIONS[kind].clean(network(x, now.time), x, now.alpha, now.sigma)
        return raw, raw.clamp(-clip, clip)

    return denoise


def denoiser(kind):
    return lambda x, now, then: estimates(kind)(x, now)[1]


@pytest.mark.usefixtures("double")
def test_the_cosine_schedule_is_that_of_diffusers():
    ours = schedule.cosine(100)
    scheduler = diffusers.DDPMScheduler(100, beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(ours.alpha[1:] ** 2, scheduler.alphas_cumprod.double(), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(ours.alpha[1:] ** 2, exact(scheduler).alphas_cumprod, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.alpha**2 + ours.sigma**2, torch.ones(101))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_beta_schedules_by_name_are_those_of_diffusers(name):
    ours = schedule.from_diffusers(name, 50, 1e-4, 0.02)
    scheduler = diffusers.DDPMScheduler(50, 1e-4, 0.02, name)
    torch.testing.assert_close(ours.alpha[1:] ** 2, scheduler.alphas_cumprod.double(), rtol=1e-4, atol=1e-9)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_ddpm_equals_diffusers_step_by_step(kind):
    noise, ours = randn(101, *SHAPE), schedule.cosine(100)
    levels = spaced(ours.levels, 100, "trailing")
    scheduler = exact(diffusers.DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", prediction_type=kind))
    scheduler.set_timesteps(100)
    assert [level.time for level in levels[:-1]] == scheduler.timesteps.tolist()
    x = noise[0]
    for (now, then), fresh in zip(pairwise(levels), noise[1:], strict=True):
        mean, std = sampling.transition(x, denoiser(kind)(x, now, then), now=now, then=then, eta=1.0)
        # Their variance noise is what makes their step; draw it as ours by seeding it with our tensor.
        step = scheduler.step(network(x, now.time), now.time, x, generator=FixedNoise(fresh)).prev_sample
        torch.testing.assert_close(mean + std * fresh, step, rtol=0, atol=5e-14)
        x = step
    torch.testing.assert_close(sampling.ddpm(denoiser(kind), noise, levels), x, rtol=0, atol=1e-12)


class FixedNoise(torch.Generator):
    """Holds the noise that diffusers is to draw; see the fixture below."""

    def __new__(cls, noise):
        return super().__new__(cls)

    def __init__(self, noise):
        self.noise = noise


@pytest.fixture(autouse=True)
def _diffusers_draws_what_it_is_given(monkeypatch):
    from diffusers.schedulers import scheduling_ddim, scheduling_ddpm
    from diffusers.utils.torch_utils import randn_tensor

    def given_noise(shape, generator=None, **kwargs):
        return generator.noise if isinstance(generator, FixedNoise) else randn_tensor(shape, generator, **kwargs)

    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", given_noise)
    monkeypatch.setattr(scheduling_ddim, "randn_tensor", given_noise)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("num_steps", [1, 4, 10, 100])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("keeps_epsilon", [False, True])
def test_ddim_equals_diffusers_step_by_step(kind, eta, num_steps, spacing, keeps_epsilon):
    if (num_steps == 1 and spacing == "leading") or (eta and keeps_epsilon):
        return  # refused by the spacing and by the configuration
    noise, ours = randn(num_steps + 1, *SHAPE, seed=1), schedule.cosine(100)
    levels = spaced(ours.levels, num_steps, spacing)
    scheduler = exact(
        diffusers.DDIMScheduler(100, beta_schedule="squaredcos_cap_v2", prediction_type=kind, timestep_spacing=spacing)
    )
    scheduler.final_alpha_cumprod = torch.tensor(1.0)
    scheduler.set_timesteps(num_steps)
    assert [level.time for level in levels[:-1]] == scheduler.timesteps.tolist()

    def denoise(x, now, then):
        raw, x_0 = estimates(kind)(x, now)
        return sampling.keeping_epsilon(raw, x_0, now=now, then=then) if keeps_epsilon else x_0

    x = noise[0]
    for (now, then), fresh in zip(pairwise(levels), noise[1:], strict=True):
        mean, std = sampling.transition(x, denoise(x, now, then), now=now, then=then, eta=eta)
        options = {"use_clipped_model_output": not keeps_epsilon, "generator": FixedNoise(fresh)}
        x = scheduler.step(network(x, now.time), now.time, x, eta=eta, **options).prev_sample
        torch.testing.assert_close(mean + std * fresh, x, rtol=1e-11, atol=1e-12)
    if not keeps_epsilon:  # which steps far from data at first, where this network turns roundings into other chunks
        torch.testing.assert_close(sampling.ddim(denoise, noise, levels, eta=eta), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("std", [0.05, 0.5])
@pytest.mark.parametrize("spacing", ["trailing", "log_snr"])
@pytest.mark.parametrize(("eta", "num_steps"), [(0.0, 10), (0.5, 10), (1.0, 10), (1.0, 100)])
def test_the_law_of_the_samples_is_that_of_the_recursion_of_means_and_variances(std, spacing, eta, num_steps):
    levels = spaced(schedule.cosine(100).levels, num_steps, spacing)
    mean, variance = 0.0, 1.0
    for now, then in pairwise(levels):
        gain = now.alpha * std**2 / (now.alpha**2 * std**2 + now.sigma**2)
        ratio = (now.alpha * then.sigma / (then.alpha * now.sigma)) ** 2
        fresh = eta**2 * (1 - ratio) * then.sigma**2
        direction = math.sqrt(then.sigma**2 - fresh) / now.sigma
        slope = direction + gain * (then.alpha - direction * now.alpha)
        mean = slope * mean + (then.alpha - direction * now.alpha) * MEAN * (1 - gain * now.alpha)
        variance = slope**2 * variance + fresh
    error, ratio = law(Sampler(partial(sampling.ddim, eta=eta), levels, num_draws=num_steps), std)
    assert error == pytest.approx(mean - MEAN, abs=1e-12)
    assert ratio == pytest.approx(math.sqrt(variance) / std, rel=1e-9)


def test_ddpm_samples_a_gaussian_whose_denoiser_is_known():
    levels = spaced(schedule.cosine(100).levels, 100, "trailing")
    samples = sampling.ddpm(gaussian(0.2), randn(101, 4000, 1, 1), levels)
    assert samples.dtype == torch.float32
    assert abs(samples.mean().item() - MEAN) < 0.01
    assert abs(samples.std().item() / 0.2 - 0.927) < 0.03  # see `law`


SOLVERS = {
    "ddim": (partial(sampling.ddim, eta=0.0), 1),
    "dpm_solver_2m": (sampling.dpm_solver_2m, 2),
    "heun": (sampling.heun, 2),
}
PATHS = pytest.mark.parametrize("path", [cosine_path, straight_path])
Z = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None, None]


def orders(solver, path, num_steps, **ends):
    """The order of convergence between successive numbers of steps, for a Gaussian of standard deviation 0.2."""
    errors = []
    for steps in num_steps:
        levels = along(path, steps, **ends)
        samples = solver(gaussian(0.2), carried(Z, 0.2, levels[0])[None], levels)
        errors.append((samples - carried(Z, 0.2, levels[-1])).abs().max().item())
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


@PATHS
@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_converges_to_the_flow_of_a_gaussian_with_its_order(name, path):
    # Between its ends, where the logarithm of the signal-to-noise ratio is infinite and dpm_solver_2m loses its order.
    solver, order = SOLVERS[name]
    assert orders(solver, path, (100, 200, 400, 800), begin=0.95, end=0.05) == pytest.approx([order] * 3, abs=0.15)


@PATHS
def test_heun_is_of_second_order_from_noise_to_data(path):
    assert orders(sampling.heun, path, (20, 40, 80, 160)) == pytest.approx([2] * 3, abs=0.15)


@PATHS
@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_carries_noise_to_data(name, path):
    samples = SOLVERS[name][0](gaussian(0.2), Z[None], along(path, 400))
    torch.testing.assert_close(samples, MEAN + 0.2 * Z, rtol=0, atol=5e-3)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 10])
@pytest.mark.parametrize("spacing", ["trailing", "log_snr"])
@pytest.mark.parametrize("noise_schedule", [schedule.cosine(100), schedule.rectified_flow(100)], ids=["cosine", "flow"])
@pytest.mark.parametrize("name", SOLVERS)
def test_few_steps_reach_a_constant_estimate_exactly(name, noise_schedule, spacing, num_steps):
    answer, noise = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)), randn(1, *SHAPE, seed=1)
    levels = spaced(noise_schedule.levels, num_steps, spacing)
    samples = SOLVERS[name][0](lambda x, now, then: answer, noise, levels)
    torch.testing.assert_close(samples, answer, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("spacing", ["trailing", "log_snr"])
@pytest.mark.parametrize("num_steps", [2, 5, 8, 10, 20])
def test_dpm_solver_2m_equals_diffusers_step_by_step(num_steps, spacing):
    levels = spaced(schedule.cosine(100).levels, num_steps, spacing)
    scheduler = diffusers.DPMSolverMultistepScheduler(100, trained_betas=schedule_betas(), prediction_type="sample")
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.numpy()  # of which they make an array, with a warning
    scheduler.set_timesteps(timesteps=[level.time for level in levels[:-1]])
    scheduler.sigmas = torch.tensor([level.sigma / level.alpha for level in levels])  # scheduler are float32
    noise = randn(1, *SHAPE)
    x = noise[0]
    for t, now in zip(scheduler.timesteps, levels, strict=False):
        x = scheduler.step(denoiser("sample")(x, now, now), t, x).prev_sample
    samples = sampling.dpm_solver_2m(denoiser("sample"), noise, levels)
    torch.testing.assert_close(samples, x, rtol=0, atol=5e-5)  # their step rounds the sample to float32


def test_heun_needs_two_evaluations_a_step_and_one_in_the_last():
    steps = []

    def denoise(x, now, then):
        steps.append((now.time, then.time))
        return x

    sampling.heun(denoise, randn(1, *SHAPE), spaced(schedule.cosine(100).levels, 4, "trailing"))
    assert steps == [(99, 74), (74, 74), (74, 49), (49, 49), (49, 24), (24, 24), (24, -1)]


def test_a_rectified_flow_is_a_table_of_the_straight_path():
    flow = schedule.rectified_flow(100)
    assert flow.levels[0] == (-1, 1.0, 0.0)
    assert flow.levels[-1] == (99, 0.0, 1.0)
    alpha, sigma = flow(torch.tensor([24, 49]))
    torch.testing.assert_close(sigma, torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(alpha + sigma, torch.ones(2))
    assert not flow.preserves_variance
    assert schedule.cosine(100).preserves_variance


def test_ddim_on_the_straight_path_is_the_euler_method_of_a_rectified_flow():
    noise, levels = randn(1, *SHAPE).double(), along(straight_path, 10)

    def velocity(x, t):
        return torch.sin(x) + t

    def denoise(x, now, then):
        return prediction.VELOCITY.clean(velocity(x, now.time), x, now.alpha, now.sigma)

    x = noise[0]
    for now, then in pairwise(levels):
        x = x + (then.time - now.time) * velocity(x, now.time)
    torch.testing.assert_close(sampling.ddim(denoise, noise, levels, eta=0.0), x, rtol=0, atol=1e-13)


@settings(deadline=None)
@given(
    kind=st.sampled_from([prediction.EPSILON, prediction.SAMPLE, prediction.V, prediction.VELOCITY]),
    angle=st.floats(0.05, 1.5),
    seed=st.integers(0, 2**16),
)
def test_target_and_decoding_of_every_prediction_agree(kind, angle, seed):
    generator = torch.Generator().manual_seed(seed)
    x_0, epsilon = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    alpha, sigma = (torch.tensor(f(angle), dtype=torch.float64) for f in (math.cos, math.sin))
    output = kind.target(x_0, epsilon, alpha, sigma)
    decoded = kind.clean(output, alpha * x_0 + sigma * epsilon, alpha, sigma)
    torch.testing.assert_close(decoded, x_0, rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_noising_and_velocity_are_those_of_diffusers(kind):
    scheduler = exact(diffusers.DDPMScheduler(100, beta_schedule="squaredcos_cap_v2"))
    ours = schedule.cosine(100)
    x_0, epsilon = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0, 42, 99])
    alpha, sigma = (value[:, None, None] for value in ours(t))
    torch.testing.assert_close(alpha * x_0 + sigma * epsilon, scheduler.add_noise(x_0, epsilon, t), rtol=0, atol=1e-12)
    expected = {"epsilon": epsilon, "sample": x_0, "v_prediction": scheduler.get_velocity(x_0, epsilon, t)}[kind]
    torch.testing.assert_close(PREDICTIONS[kind].target(x_0, epsilon, alpha, sigma), expected, rtol=0, atol=1e-12)


def test_every_noise_level_is_trained_equally_often():
    ours = schedule.cosine(100)
    times = ours.time((torch.arange(1000) + 0.5) / 1000)
    assert times.bincount().tolist() == [10] * 100
    assert ours.time(torch.tensor([0.0, 1.0])).tolist() == [0, 99]


def test_a_schedule_takes_only_the_integer_times_of_its_table():
    ours = schedule.cosine(100)
    alpha, sigma = ours(torch.tensor([[-1, 0], [42, 99]]))
    assert alpha.tolist() == [[1.0, ours.alpha[1]], [ours.alpha[43], ours.alpha[100]]]
    assert sigma.tolist() == [[0.0, ours.sigma[1]], [ours.sigma[43], ours.sigma[100]]]
    for t in (-2, 100):
        with pytest.raises(IndexError):
            ours(torch.tensor([3, t]))
    with pytest.raises(ValueError, match=r"times must be integers from -1 to 99, got torch.float32: round them"):
        ours(torch.tensor([0.9]))


def test_an_impossible_schedule_is_refused():
    with pytest.raises(ValueError, match=r"beta_schedule .* got 'cubic'"):
        schedule.from_diffusers("cubic", 100, 1e-4, 0.02)
    with pytest.raises(ValueError, match="betas must be"):
        schedule.from_betas(torch.tensor([0.1, 1.0]))
    with pytest.raises(ValueError, match="noisier"):
        schedule.DiscreteSchedule(torch.tensor([1.0, 0.5, 0.6]), torch.tensor([0.0, 0.5, 0.4]))
    with pytest.raises(ValueError, match="clean data"):
        schedule.DiscreteSchedule(torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.5]))
