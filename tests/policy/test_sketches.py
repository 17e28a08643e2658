"""Sketches of methods that recede does not ship: the interfaces offer all that they need.

The data is Gaussian, so the right results are known. The author of such a method would write the code below: an
objective, a guidance or a function of the steps.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from recede.policy.check import check_policy
from recede.policy.denoising.guidance import Guidance
from recede.policy.denoising.sampling import ddpm, transition
from recede.policy.denoising.weighting import uniform
from recede.policy.engines.eager import EagerEngine
from recede.policy.objective import Denoising
from recede.policy.requests import Request, batch
from tiny import MLP, Exact, draw, policy, state, train

# --- classifier-free guidance (Ho & Salimans 2022): conditioning that is dropped, and a guidance that needs it twice


@dataclass(frozen=True)
class Dropping(Denoising):
    num_uniforms: int = 2

    def loss(self, policy, x_0, conditioning, lesson):
        is_dropped = (lesson.uniform[..., 1] < 0.3).flatten()
        return super().loss(policy, x_0, torch.where(is_dropped[:, None, None], 0.0, conditioning), lesson)


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    weight: float

    def denoiser(self, denoise, sampling):
        free = sampling.denoiser(torch.zeros_like(sampling.condition))

        def guided(x_t, now, then):
            without = free(x_t, now, then)
            return without + self.weight * (denoise(x_t, now, then) - without)

        return guided


def test_classifier_free_guidance_combines_two_denoisers():
    """The exact denoiser of mean m, guided with weight w, is the exact denoiser of mean w m."""
    made = policy(Exact())
    noise = draw(made)
    for weight in (0.0, 1.0, 2.0):
        chunk = made.predict(state(value=0.3), noise, [ClassifierFree(weight)])
        expected = made.predict(state(value=0.3 * weight), noise)
        torch.testing.assert_close(chunk, expected, rtol=0, atol=1e-5)


def test_conditioning_is_dropped_in_training():
    """Without conditioning, the policy predicts the mean of all data."""
    torch.manual_seed(0)
    made = train(policy(MLP(), objective=Dropping(uniform)), mean=0.5)
    chunk = made.predict(state(value=0.0), draw(made)).mean()
    assert chunk == pytest.approx(0.5, abs=0.1)


def test_a_policy_with_a_custom_objective_keeps_every_promise():
    check_policy(lambda: policy(MLP(), num_steps=2, objective=Dropping(uniform)))


def test_custom_guidance_works_in_engines_and_batches():
    made = policy(Exact())
    engine, noise = EagerEngine(made), draw(made, rows=2)
    history = {"state": np.full((1, 1), 0.3, np.float32)}
    requests = [Request(history, (ClassifierFree(2.0),))] * 2
    assert requests[0].kind == requests[1].kind != Request(history, (ClassifierFree(1.0),)).kind
    observation, guidance = batch(requests)
    expected = made.predict(state(2, 0.3), noise, [ClassifierFree(2.0)])
    np.testing.assert_array_equal(engine.predict(observation, noise.numpy(), guidance), expected.numpy())
    with pytest.raises(ValueError, match="only one Prefix can be passed to another process"):
        requests[0].prefix  # noqa: B018 - it raises


# --- policy gradients on the denoising steps (DPPO, Ren et al. 2024): a step has a density


def chain(denoise, noise, levels):
    """Every x that DDPM visits, (N + 1, B, ...)."""
    x = [noise[0]]
    for index, (now, then) in enumerate(pairwise(levels)):
        mean, std = transition(x[-1], denoise(x[-1], now, then), now=now, then=then, eta=1.0)
        x.append(mean + std * noise[index + 1])
    return torch.stack(x)


def log_density(denoise, x, levels):
    """Log density of the random steps of a chain (B,): all steps but the last, which adds no noise."""
    total = torch.zeros(x.shape[1])
    for index, (now, then) in enumerate(list(pairwise(levels))[:-1]):
        mean, std = transition(x[index], denoise(x[index], now, then), now=now, then=then, eta=1.0)
        total = total + torch.distributions.Normal(mean, std).log_prob(x[index + 1]).sum(dim=(1, 2))
    return total


def test_importance_weights_from_the_density_of_denoising_steps_turn_one_policy_into_another():
    """The mean of importance weights is 1, and weighted samples of one policy have the mean of the other."""
    rows = 20_000
    made = policy(Exact(), num_steps=10, solve=ddpm)
    noise, levels = draw(made, rows), made.sampler.levels
    one, other = (made.denoiser(made.encode(state(rows, value))) for value in (0.0, 0.05))
    x = chain(one, noise, levels)
    torch.testing.assert_close(x[-1], made.space.encode(made.predict(state(rows), noise)), rtol=0, atol=1e-5)
    weights = (log_density(other, x, levels) - log_density(one, x, levels)).exp()
    assert weights.std() > 0.05
    assert weights.mean() == pytest.approx(1, abs=4 * weights.std().item() / math.sqrt(rows))
    early = (weights[:, None, None] * x[-2]).mean() / levels[-2].alpha  # the last random x
    assert early == pytest.approx(0.05, abs=0.01)


def test_the_density_of_denoising_steps_has_a_gradient():
    torch.manual_seed(0)
    made = policy(MLP(), num_steps=4, solve=ddpm)
    with torch.no_grad():
        x = chain(made.denoiser(made.encode(state(8))), draw(made, 8), made.sampler.levels)
    log_density(made.denoiser(made.encode(state(8))), x, made.sampler.levels).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in made.network.parameters())
