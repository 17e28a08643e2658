"""The likelihood and the inversion of chunks, of policies whose network is the exact denoiser of a mixture."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import recede
import torch
from gaussians import Mixture
from policies import USUAL, diffusion, regression
from recede.configs.components.denoising import DDIMConfig, HeunConfig
from recede.configs.components.encoders import LowdimEncoderConfig
from recede.policy.denoising import prediction
from recede.policy.denoising.levels import NoiseLevel
from recede.policy.denoising.schedule import cosine, karras, rectified_flow
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.likelihood import bound_rest, bound_terms, generate, invert, log_likelihood
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons, Specification, Stream
from torch import nn

SPECIFICATION = Specification((Stream("state", (2,)),), Stream("action", (2,)), control_dt=0.1)
RANGES = {"state": (-np.ones(2), np.ones(2)), "action": (np.array([-3.0, 10.0]), np.array([5.0, 12.0]))}
HORIZONS = Horizons(observation=1, prediction=1, action=1)
MODES = Mixture([0.2, 0.3, 0.5], [[-0.6, -0.4], [0.5, -0.3], [0.0, 0.5]], [0.1, 0.15, 0.08], dtype=torch.float32)
SCHEDULES = {"cosine": cosine(800), "flow": rectified_flow(800), "karras": karras(800, 0.002, 1e4, 7.0)}
FEWER = {"cosine": cosine(200), "flow": rectified_flow(200), "karras": karras(200, 0.002, 80.0, 7.0)}
KINDS = {"cosine": prediction.EPSILON, "flow": prediction.VELOCITY, "karras": prediction.V}


class Exact(nn.Module):
    """A network that knows the law of the chunks: a mixture, moved by the observation."""

    def __init__(self, schedule, kind):
        super().__init__()
        self.schedule, self.kind = schedule, kind

    def forward(self, noisy, t, conditioning):
        alpha, sigma = self.schedule(t)
        level = NoiseLevel(0, alpha[:, None], sigma[:, None])
        moved = noisy - alpha[:, None, None] * shift(conditioning)
        x_0 = MODES.denoise(moved, level, level) + shift(conditioning)
        alpha, sigma = alpha[:, None, None], sigma[:, None, None]
        return self.kind.target(x_0, (noisy - alpha * x_0) / sigma, alpha, sigma)

    def embed(self, now, then):
        return now

    def condition(self, conditioning):
        return conditioning

    def denoise(self, noisy, time, condition):
        return self(noisy, time, condition)


def shift(state):
    return 0.1 * state


def policy_of(name, schedule=None, ranges=RANGES):
    schedule = schedule or SCHEDULES[name]
    return DiffusionPolicy(
        SPECIFICATION,
        HORIZONS,
        normalizer=Normalizer(SPECIFICATION, ranges),
        encoder=LowdimEncoderConfig().build(SPECIFICATION, HORIZONS),
        network=Exact(schedule, KINDS[name]),
        schedule=schedule,
        prediction=KINDS[name],
        sampler=HeunConfig(num_steps=20).build(schedule),
        **(USUAL | {"clip": math.inf}),
    )


def drawn(policy, count=40, seed=0):
    """Observations, and normalised chunks (B, 1, 2) of the law of the policy."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.rand(count, 1, 2, generator=generator) * 2 - 1
    mode = torch.multinomial(MODES.weights, count, replacement=True, generator=generator)
    noise = torch.randn(count, 2, generator=generator)
    x_0 = (MODES.means[mode] + MODES.stds[mode, None] * noise)[:, None] + shift(state)
    return {"state": state}, x_0


def closed_form(policy, observation, x_0):
    """The logarithm of the density (B,) of the chunk with the noise of the first level."""
    level = policy.schedule.levels[1]
    blurred = replace_stds((MODES.stds**2 + (level.sigma / level.alpha) ** 2).sqrt())
    return blurred.log_density(x_0 - shift(observation["state"]), NoiseLevel(0, 1.0, 0.0))[:, 0]


def replace_stds(stds):
    return Mixture(MODES.weights.tolist(), MODES.means.tolist(), stds.tolist(), dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_likelihood_of_a_chunk_is_that_of_the_closed_form(name):
    policy = policy_of(name)
    observation, x_0 = drawn(policy)
    actual = log_likelihood(policy, observation, policy.space.decode(x_0))
    expected = closed_form(policy, observation, x_0)
    assert expected.std() > 0.5
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-3)


def test_the_block_of_the_page_leads_back_to_the_chunk():
    page = (Path(recede.__file__).parent / "docs" / "choices.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    policy = policy_of("flow", rectified_flow(40))
    observation, x_0 = drawn(policy, 3)
    names = {"policy": policy, "observation": observation, "chunk": policy.space.decode(x_0)}
    exec(program, names)
    assert names["nats"].shape == (3,)
    torch.testing.assert_close(generate(policy, observation, names["noise"]), names["chunk"], rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_chunk_is_inverted_to_its_noise_and_back(name):
    policy = policy_of(name, FEWER[name])
    observation, x_0 = drawn(policy, 400)
    chunk = policy.space.decode(x_0)
    noise = invert(policy, observation, chunk)
    assert noise.shape == (400, 1, 2)
    back = policy.space.encode(generate(policy, observation, noise))
    torch.testing.assert_close(back, x_0, rtol=0, atol=1e-4)
    assert abs(noise.mean().item()) < 4 / math.sqrt(800)  # noise of the flow is standard normal
    assert noise.var().item() == pytest.approx(1, abs=4 * math.sqrt(2 / 800))
    sampled = policy.space.encode(policy.predict(observation, noise[None]))
    assert (sampled - x_0).abs().mean() < 0.03  # by another solver, in 20 steps


def test_a_network_is_inverted_to_the_noise_and_back():
    """Of few noise levels, and of a network that knows nothing yet."""
    policy = diffusion(prediction=prediction.SAMPLE, schedule=cosine(10), sampler=DDIMConfig(num_steps=4)).eval()
    generator = torch.Generator().manual_seed(0)
    observation = {
        "state": torch.rand(3, 2, 3, generator=generator),
        "target": torch.rand(3, 2, 2, generator=generator) * 10,
    }
    chunk = policy.space.decode(torch.rand(3, 6, 2, generator=generator) * 2 - 1)
    noise = invert(policy, observation, chunk)
    back = policy.space.encode(generate(policy, observation, noise) - chunk) - policy.space.encode(0 * chunk)
    assert back.abs().max() < 1e-4
    assert log_likelihood(policy, observation, chunk).isfinite().all()


def test_the_error_of_the_likelihood_falls_with_the_number_of_levels_squared():
    errors = []
    for num_times in (80, 160, 320):
        policy = policy_of("flow", rectified_flow(num_times))
        observation, x_0 = drawn(policy)
        actual = log_likelihood(policy, observation, policy.space.decode(x_0))
        errors.append((actual - closed_form(policy, observation, x_0)).square().mean().sqrt().item())
    assert errors[0] < 0.01
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.4)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.4)


@pytest.mark.slow
def test_probes_estimate_the_trace_without_bias():
    policy = policy_of("flow", rectified_flow(30))
    observation, x_0 = drawn(policy, 8)
    chunk, count = policy.space.decode(x_0), 64
    exact = log_likelihood(policy, observation, chunk)
    signs = torch.randint(0, 2, (count, 8, 1, 2), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    together = log_likelihood(policy, observation, chunk, probes=signs)
    alone = torch.stack([log_likelihood(policy, observation, chunk, probes=signs[k : k + 1]) for k in range(8)])
    assert alone.std(dim=0).max() > 0.1  # one probe is an estimate
    assert (together - exact).abs().max() < 4 * alone.std(dim=0).max() / math.sqrt(count)
    basis = math.sqrt(2) * torch.eye(2).view(2, 1, 1, 2).expand(-1, 8, -1, -1)
    assert torch.equal(log_likelihood(policy, observation, chunk, probes=basis), exact)


def test_a_likelihood_that_does_not_exist_is_refused():
    policy = policy_of("flow", rectified_flow(20))
    observation, x_0 = drawn(policy, 3)
    chunk = policy.space.decode(x_0)
    still = policy_of("flow", rectified_flow(20), RANGES | {"action": (np.array([-3.0, 2.0]), np.array([5.0, 2.0]))})
    for call in (log_likelihood, invert):
        with pytest.raises(ValueError, match=r"\(B, Tp, Da\) = \(3, 1, 2\).*got \(3, 2\)"):
            call(policy, observation, chunk[:, 0])
        with pytest.raises(ValueError, match=r"got \(2, 1, 2\)"):
            call(policy, observation, chunk[:2])
        with pytest.raises(ValueError, match=r"dimensions \[1\] of the action are still .* train on"):
            call(still, observation, chunk)
        with pytest.raises(ValueError, match=r"regression, .*has no likelihood: use a diffusion policy"):
            call(regression(), {"state": torch.zeros(3, 2, 3), "target": torch.zeros(3, 2, 2)}, torch.zeros(3, 6, 2))
    with pytest.raises(ValueError, match=r"probes must be \(P, B, L, Dz\) = \(P, 3, 1, 2\), got"):
        log_likelihood(policy, observation, chunk, probes=torch.ones(3, 1, 2))


def test_long_chunks_need_probes(monkeypatch):
    monkeypatch.setattr("recede.policy.likelihood.MOST_EXACT", 1)
    policy = policy_of("flow", rectified_flow(20))
    observation, x_0 = drawn(policy, 3)
    with pytest.raises(ValueError, match=r"at most 1 numbers, got 2: pass probes"):
        log_likelihood(policy, observation, policy.space.decode(x_0))


def test_a_flow_that_does_not_converge_is_refused():
    policy = policy_of("flow", rectified_flow(20))
    observation, x_0 = drawn(policy, 3)
    policy.network.forward = lambda noisy, t, conditioning: 1e3 * torch.sin(1e3 * noisy)
    with pytest.raises(ValueError, match=r"does not converge at time \d+ .* more noise levels"):
        invert(policy, observation, policy.space.decode(x_0))


# --- the variational bound

GAUSSIAN = Mixture([1.0], [[0.1, -0.2]], [0.2], dtype=torch.float32)


def bound(policy, observation, x_0, seed=7):
    """The bound per level (T,) and the rest, in bits per dimension, by one draw of noise for each chunk and level."""
    chunk, num_levels = policy.space.decode(x_0), len(policy.schedule.levels) - 1
    noise = torch.randn(num_levels, *x_0.shape, generator=torch.Generator().manual_seed(seed))
    level = torch.arange(num_levels)[:, None].expand(-1, len(x_0))
    terms = bound_terms(policy, observation, chunk, noise=noise, level=level)
    return terms.mean(dim=1), bound_rest(policy, observation, chunk).mean()


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_bound_of_a_gaussian_is_its_closed_form_at_each_level(name, monkeypatch):
    monkeypatch.setitem(globals(), "MODES", GAUSSIAN)
    policy = policy_of(name, FEWER[name])
    observation, x_0 = drawn(policy, 1000)
    terms, rest = bound(policy, observation, x_0)
    levels = policy.schedule.levels[1:]
    posterior = torch.tensor([(x.sigma * 0.2) ** 2 / ((x.alpha * 0.2) ** 2 + x.sigma**2) for x in levels])
    snr = torch.tensor([(x.alpha / x.sigma) ** 2 for x in levels])
    expected = torch.cat([snr[:1], -snr.diff()]) * posterior / (2 * math.log(2))
    torch.testing.assert_close(terms, expected, rtol=0.15, atol=1e-6)  # by chance, of 2,000 numbers
    entropy = math.log2(2 * math.pi * math.e * 0.2**2) / 2
    gap = (expected.sum() + rest).item() - entropy  # of steps of finite length
    assert gap > 0
    assert (terms.sum() + rest).item() == pytest.approx(entropy + gap, abs=0.1)


def test_the_bound_is_above_minus_the_log_likelihood_and_falls_to_it_with_more_levels():
    gaps = []
    for num_times in (100, 200, 400):
        policy = policy_of("karras", karras(num_times, 0.01, 80.0, 7.0))
        observation, x_0 = drawn(policy, 1000)
        terms, rest = bound(policy, observation, x_0)
        bits = -closed_form(policy, observation, x_0).mean().item() / (2 * math.log(2))
        gaps.append((terms.sum() + rest).item() - bits)
    assert gaps[0] > 1.6 * gaps[1] > 2.4 * gaps[2] > 0
    assert gaps[2] < 0.25


def test_still_dimensions_do_not_count_in_the_bound():
    still = policy_of("flow", rectified_flow(20), RANGES | {"action": (np.array([-3.0, 2.0]), np.array([5.0, 2.0]))})
    observation, x_0 = drawn(still, 50)
    terms, rest = bound(still, observation, x_0)
    plain = still.network.forward

    def worse(noisy, t, conditioning):
        return plain(noisy, t, conditioning) + torch.tensor([0.0, 1.0])

    still.network.forward = worse
    again, same = bound(still, observation, x_0)
    assert torch.equal(again, terms)
    assert rest == same
