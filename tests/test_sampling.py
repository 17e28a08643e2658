"""The step rule and the samplers, against diffusers step by step and against closed forms."""

import math
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.policy import prediction, sampling, schedule

PREDICTIONS = {"epsilon": prediction.EPSILON, "sample": prediction.SAMPLE, "v_prediction": prediction.V}
SHAPE = (3, 16, 2)


@pytest.fixture(autouse=True)
def _double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


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
    """Something smooth that depends on all its inputs and leaves [-1, 1]."""
    return torch.sin(3 * x) + 0.3 * math.cos(t / 7) * x.flip(1)


def denoiser(kind, noise_schedule):
    def denoise(x, t):
        alpha, sigma = noise_schedule.at(t)
        return PREDICTIONS[kind].clean(network(x, t), x, alpha, sigma).clamp(-1, 1)

    return denoise


def test_the_cosine_schedule_is_that_of_diffusers():
    ours = schedule.cosine(100)
    theirs = diffusers.DDPMScheduler(100, beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(ours.alpha[1:] ** 2, theirs.alphas_cumprod.double(), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(ours.alpha[1:] ** 2, exact(theirs).alphas_cumprod, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.alpha**2 + ours.sigma**2, torch.ones(101))


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_schedules_of_diffusers_are_theirs(name):
    ours = schedule.from_diffusers(name, 50, 1e-4, 0.02)
    theirs = diffusers.DDPMScheduler(50, 1e-4, 0.02, name)
    torch.testing.assert_close(ours.alpha[1:] ** 2, theirs.alphas_cumprod.double(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_ddpm_equals_diffusers_step_by_step(kind):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(101, *SHAPE, generator=generator)
    ours = schedule.cosine(100)
    theirs = exact(diffusers.DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", prediction_type=kind))
    theirs.set_timesteps(100)
    x = noise[0]
    for index, t in enumerate(theirs.timesteps.tolist()):
        x_0 = denoiser(kind, ours)(x, t)
        mine = sampling.step(x, x_0, noise[index + 1], now=ours.at(t), then=ours.at(t - 1), eta=1.0)
        # Their variance noise is what makes their step; draw it as ours by seeding it with our tensor.
        mean_of = theirs.step(network(x, t), t, x, generator=FixedNoise(noise[index + 1]))
        torch.testing.assert_close(mine, mean_of.prev_sample, rtol=0, atol=5e-14)
        x = mine
    whole = sampling.ddpm(denoiser(kind, ours), noise, ours, ours.spacing(100))
    torch.testing.assert_close(whole, x, rtol=0, atol=1e-12)


class FixedNoise(torch.Generator):
    """Carries the noise that `diffusers` should draw; see the fixture below."""

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


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("num_steps", [1, 7, 10, 100])
def test_ddim_equals_diffusers_step_by_step(kind, eta, num_steps):
    noise = torch.randn(num_steps + 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    ours = schedule.cosine(100)
    theirs = exact(
        diffusers.DDIMScheduler(
            100, beta_schedule="squaredcos_cap_v2", prediction_type=kind, timestep_spacing="trailing"
        )
    )
    theirs.final_alpha_cumprod = torch.tensor(1.0)
    theirs.set_timesteps(num_steps)
    times = ours.spacing(num_steps)
    if num_steps != 7:  # at 7 steps, theirs leave the even spacing: they step back by 100 // 7
        assert times[:-1] == theirs.timesteps.tolist()
        x = noise[0]
        for index, t in enumerate(theirs.timesteps.tolist()):
            x = theirs.step(
                network(x, t),
                t,
                x,
                eta=eta,
                use_clipped_model_output=True,
                generator=FixedNoise(noise[index + 1]),
            ).prev_sample
        mine = sampling.ddim(denoiser(kind, ours), noise, ours, times, eta=eta)
        torch.testing.assert_close(mine, x, rtol=0, atol=1e-12)
    else:
        assert times[0] == 99
        assert times[-1] == -1
        assert all(after < before for before, after in pairwise(times))


@pytest.mark.parametrize("kind", ["DDIM", "DPMSolverMultistep", "EulerDiscrete", "HeunDiscrete"])
def test_any_scheduler_of_diffusers_samples_a_gaussian(kind):
    noise_schedule = schedule.cosine(100)
    sampler = sampling.from_diffusers(f"{kind}Scheduler")
    noise = torch.randn(1, 2000, 1, 1, generator=torch.Generator().manual_seed(0))
    found = sampler(gaussian_denoiser(noise_schedule), noise, noise_schedule, noise_schedule.spacing(50))
    assert abs(found.mean().item() - MEAN) < 0.03
    assert abs(found.std().item() - STD) < 0.05


def test_a_stochastic_scheduler_of_diffusers_draws_for_each_row_alone():
    noise_schedule = schedule.cosine(100)
    sampler = sampling.from_diffusers("DDPMScheduler")
    denoise = gaussian_denoiser(noise_schedule)
    noise = torch.randn(1, 5, 16, 2, generator=torch.Generator().manual_seed(0))
    together = sampler(denoise, noise, noise_schedule, noise_schedule.spacing(100))
    alone = sampler(denoise, noise[:, 2:3], noise_schedule, noise_schedule.spacing(100))
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 1e-3


MEAN, STD = 0.3, 0.2


def gaussian_denoiser(noise_schedule):
    """The exact E[x_0 | x_t] where x_0 is normal with MEAN and STD."""

    def denoise(x, t):
        alpha, sigma = noise_schedule.at(t)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return MEAN + gain * (x - alpha * MEAN)

    return denoise


def test_ddpm_samples_a_gaussian_whose_denoiser_is_known():
    noise_schedule = schedule.cosine(100)
    noise = torch.randn(101, 4000, 1, 1, generator=torch.Generator().manual_seed(0))
    found = sampling.ddpm(gaussian_denoiser(noise_schedule), noise, noise_schedule, noise_schedule.spacing(100))
    assert abs(found.mean().item() - MEAN) < 0.02
    assert abs(found.std().item() - STD) < 0.02


class Smooth:
    """A schedule in continuous time, alpha = cos and sigma = sin, from pure noise at 1 to data at 0."""

    def at(self, t):
        return math.cos(t * math.pi / 2) if t < 1 else 0.0, math.sin(t * math.pi / 2)

    def spacing(self, num_steps):
        return [1 - index / num_steps for index in range(num_steps + 1)]


class Straight(Smooth):
    """The path of a rectified flow in continuous time."""

    def at(self, t):
        return 1 - t, t


SAMPLERS = {"ddim": (sampling.ddim, 1), "dpm_solver_2m": (sampling.dpm_solver_2m, 2), "heun": (sampling.heun, 2)}


@pytest.mark.parametrize("noise_schedule", [Smooth(), Straight()], ids=["cosine", "rectified flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_converges_to_the_flow_of_a_gaussian_with_its_order(name, noise_schedule):
    # Between its ends, where the logarithm of the signal-to-noise ratio is infinite and a solver loses its order.
    sampler, order = SAMPLERS[name]
    z = torch.linspace(-2, 2, 9)[:, None, None]
    errors = []
    for num_steps in (100, 200, 400, 800):
        times = [0.95 - 0.9 * index / num_steps for index in range(num_steps + 1)]
        start, end = (
            flow_of_the_gaussian(z, noise_schedule, times[0]),
            flow_of_the_gaussian(z, noise_schedule, times[-1]),
        )
        found = sampler(gaussian_denoiser(noise_schedule), start[None], noise_schedule, times)
        errors.append((found - end).abs().max().item())
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(abs(found - order) < 0.15 for found in orders), (errors, orders)


def flow_of_the_gaussian(z, noise_schedule, t):
    """Where the probability flow carries the standard normal z."""
    alpha, sigma = noise_schedule.at(t)
    return alpha * MEAN + math.hypot(alpha * STD, sigma) * z


@pytest.mark.parametrize("noise_schedule", [Smooth(), Straight()], ids=["cosine", "rectified flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_carries_noise_to_data(name, noise_schedule):
    noise = torch.linspace(-2, 2, 9)[None, :, None, None]
    found = SAMPLERS[name][0](gaussian_denoiser(noise_schedule), noise, noise_schedule, noise_schedule.spacing(400))
    torch.testing.assert_close(found, MEAN + STD * noise[0], rtol=0, atol=5e-3)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 10])
@pytest.mark.parametrize("noise_schedule", [schedule.cosine(100), schedule.rectified_flow(100)], ids=["cosine", "flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_few_steps_reach_a_known_answer_exactly(name, noise_schedule, num_steps):
    answer = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = SAMPLERS[name][0](lambda x, t: answer, noise, noise_schedule, noise_schedule.spacing(num_steps))
    torch.testing.assert_close(found, answer, rtol=0, atol=1e-12)


def test_dpm_solver_2m_equals_diffusers_step_by_step():
    ours = schedule.cosine(100)
    theirs = diffusers.DPMSolverMultistepScheduler(
        100, trained_betas=schedule_betas(), prediction_type="sample", timestep_spacing="trailing"
    )
    theirs.alphas_cumprod = theirs.alphas_cumprod.numpy()  # of which they make an array, with a warning
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    for num_steps in (2, 5, 10, 20):
        theirs.set_timesteps(num_steps)
        times = ours.spacing(num_steps)
        assert times[:-1] == theirs.timesteps.tolist()
        theirs.sigmas = torch.tensor([sigma / alpha for alpha, sigma in map(ours.at, times)])  # theirs are float32
        x = noise[0]
        for t in theirs.timesteps:
            x = theirs.step(denoiser("sample", ours)(x, t.item()), t, x).prev_sample
        mine = sampling.dpm_solver_2m(denoiser("sample", ours), noise, ours, times)
        torch.testing.assert_close(mine, x, rtol=0, atol=5e-5)  # their step rounds the sample to float32


def test_heun_needs_two_evaluations_a_step_and_one_in_the_last():
    asked = []
    ours, noise = schedule.cosine(100), torch.randn(1, *SHAPE)
    sampling.heun(lambda x, t: asked.append(t) or x, noise, ours, ours.spacing(4))
    assert asked == [99, 74, 74, 49, 49, 24, 24]


def test_a_rectified_flow_is_a_table_of_the_straight_path():
    flow = schedule.rectified_flow(100)
    assert flow.at(-1) == (1.0, 0.0)
    assert flow.at(99) == (0.0, 1.0)
    alpha, sigma = flow(torch.tensor([24, 49]))
    torch.testing.assert_close(sigma, torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(alpha + sigma, torch.ones(2))
    assert not flow.preserves_variance
    assert schedule.cosine(100).preserves_variance


def test_ddim_on_the_straight_path_is_the_euler_method_of_a_rectified_flow():
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    times = Straight().spacing(10)

    def velocity(x, t):
        return torch.sin(x) + t

    def denoise(x, t):
        return prediction.VELOCITY.clean(velocity(x, t), x, 1 - t, t)

    x = noise[0]
    for now, then in pairwise(times):
        x = x + (then - now) * velocity(x, now)
    torch.testing.assert_close(sampling.ddim(denoise, noise, Straight(), times), x, rtol=0, atol=1e-13)


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


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_noising_and_velocity_are_those_of_diffusers(kind):
    theirs = exact(diffusers.DDPMScheduler(100, beta_schedule="squaredcos_cap_v2"))
    ours = schedule.cosine(100)
    x_0, epsilon = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0, 42, 99])
    alpha, sigma = (value[:, None, None] for value in ours(t))
    torch.testing.assert_close(alpha * x_0 + sigma * epsilon, theirs.add_noise(x_0, epsilon, t), rtol=0, atol=1e-12)
    wanted = {"epsilon": epsilon, "sample": x_0, "v_prediction": theirs.get_velocity(x_0, epsilon, t)}[kind]
    torch.testing.assert_close(PREDICTIONS[kind].target(x_0, epsilon, alpha, sigma), wanted, rtol=0, atol=1e-12)


def test_every_noise_level_is_trained_equally_often():
    ours = schedule.cosine(100)
    times = ours.time((torch.arange(1000) + 0.5) / 1000)
    assert times.bincount().tolist() == [10] * 100
    assert ours.time(torch.tensor([0.0, 1.0])).tolist() == [0, 99]


@pytest.mark.parametrize("num_steps", range(1, 101))
def test_any_number_of_steps_descends_from_noise_to_data(num_steps):
    times = schedule.cosine(100).spacing(num_steps)
    assert len(times) == num_steps + 1
    assert times[0] == 99
    assert times[-1] == -1
    assert all(after < before for before, after in pairwise(times))


@pytest.mark.parametrize("num_steps", [0, 101])
def test_an_impossible_number_of_steps_is_refused(num_steps):
    with pytest.raises(ValueError, match=f"between 1 and the 100 noise levels.*got {num_steps}"):
        schedule.cosine(100).spacing(num_steps)


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_a_scheduler_of_diffusers_does_not_clip_what_the_denoiser_has_left(kind):
    noise_schedule = schedule.cosine(100)
    sampler = sampling.from_diffusers(f"{kind}Scheduler")
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    found = sampler(lambda x, t: torch.full_like(x, 2.5), noise, noise_schedule, noise_schedule.spacing(50))
    torch.testing.assert_close(found, torch.full_like(found, 2.5), rtol=0, atol=0.02)
    clipped = sampling.from_diffusers(f"{kind}Scheduler", clip_sample=True)
    found = clipped(lambda x, t: torch.full_like(x, 2.5), noise, noise_schedule, noise_schedule.spacing(50))
    assert found.max() < 1.02


def test_an_unknown_scheduler_or_option_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'DDIMScheduler'"):
        sampling.from_diffusers("DDIMSheduler")
    with pytest.raises(ValueError, match="has no option 'solver_ordr': did you mean 'solver_order'"):
        sampling.from_diffusers("DPMSolverMultistepScheduler", solver_ordr=3)
    with pytest.raises(ValueError, match="has no option 'prediction_type'"):
        sampling.from_diffusers("DDIMScheduler", prediction_type="epsilon")
    with pytest.raises(ValueError, match="takes betas, FlowMatchEulerDiscreteScheduler does not: use ddim"):
        sampling.from_diffusers("FlowMatchEulerDiscreteScheduler")
    with pytest.raises(ValueError, match="beta_schedule must be one that diffusers knows"):
        schedule.from_diffusers("cubic", 100, 1e-4, 0.02)
    with pytest.raises(ValueError, match="betas must be"):
        schedule.from_betas(torch.tensor([0.1, 1.0]))
    with pytest.raises(ValueError, match="become noisier with every time"):
        schedule.DiscreteSchedule(torch.tensor([1.0, 0.5, 0.6]), torch.tensor([0.0, 0.5, 0.4]))
    with pytest.raises(ValueError, match="begin with clean data"):
        schedule.DiscreteSchedule(torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.5]))


@pytest.mark.parametrize("noise_schedule", [Smooth(), schedule.rectified_flow(100)], ids=["continuous", "flow"])
def test_a_schedule_without_betas_is_refused_by_the_schedulers_of_diffusers(noise_schedule):
    sampler = sampling.from_diffusers("DDIMScheduler")
    with pytest.raises(ValueError, match="DDIMScheduler needs a noise schedule that is made of betas"):
        sampler(network, torch.zeros(1, *SHAPE), noise_schedule, noise_schedule.spacing(2))
