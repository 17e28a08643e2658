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
from recede.policy.denoising.sampling import ddpm, step, transition
from recede.policy.denoising.weighting import uniform
from recede.policy.distillation import implied
from recede.policy.engines.eager import EagerEngine
from recede.policy.objective import Denoising, levels_at
from recede.policy.requests import Request, batch
from tiny import MLP, STD, Exact, draw, policy, state, train


def estimated(made, x, now, then, conditioning):
    """The estimate of x_0 for steps whose times differ from row to row."""
    network = made.network
    return network.denoise(x, network.embed(now.float(), then.float()), network.condition(conditioning))


# --- consistency distillation (Song et al. 2023, algorithm 2): a frozen teacher, and the average as the target


@dataclass(frozen=True)
class Consistency:
    num_uniforms: int = 1
    has_teacher: bool = True

    def check(self, schedule, prediction, sampler):
        pass

    def loss(self, made, x_0, conditioning, lesson):
        t = made.schedule.time(lesson.uniform[..., 0]).flatten()
        now, then, clean = levels_at(made.schedule, t), levels_at(made.schedule, t - 1), torch.full_like(t, -1)
        x = now.alpha * x_0 + now.sigma * lesson.noise.flatten(0, 1)
        with torch.no_grad():
            ahead = step(x, estimated(lesson.teacher, x, t, t - 1, conditioning), now=now, then=then)
            target = estimated(lesson.average, ahead, t - 1, clean, conditioning)
            target = torch.where((t == 0)[:, None, None], ahead, target)  # at clean data it is the sample itself
        return (estimated(made, x, t, clean, conditioning) - target).square().mean(dim=-1)


@pytest.mark.slow
def test_a_consistency_policy_lands_in_one_step_where_its_teacher_lands_in_many():
    torch.manual_seed(0)
    teacher = policy(Exact(), num_steps=20).requires_grad_(False)
    student = train(policy(MLP(), num_steps=1, objective=Consistency()), teacher=teacher, num_steps=2000)
    noise = draw(student)
    chunk, expected = student.predict(state(), noise), teacher.predict(state(), noise)
    assert expected.std() > 0.8 * STD
    assert (chunk - expected).abs().mean() < 0.15 * STD


# --- shortcut models (Frans et al. 2024): one step lands where two of half its length land


@dataclass(frozen=True)
class Shortcut:
    num_uniforms: int = 3
    has_teacher: bool = False

    def check(self, schedule, prediction, sampler):
        pass

    def loss(self, made, x_0, conditioning, lesson):
        level, length, share = lesson.uniform.flatten(0, 1).unbind(dim=-1)
        t = made.schedule.time(level)
        half = ((t + 1) * length / 2).long()  # times to go, twice
        half = torch.where(share < 0.5, 0, half)  # half of all lessons are plain denoising
        now, mid, then = (levels_at(made.schedule, t - count) for count in (0 * half, half, 2 * half))
        x = now.alpha * x_0 + now.sigma * lesson.noise.flatten(0, 1)
        with torch.no_grad():
            first = estimated(lesson.average, x, t, t - half, conditioning)
            halfway = step(x, first, now=now, then=mid)
            second = estimated(lesson.average, halfway, t - half, t - 2 * half, conditioning)
            landed = step(halfway, second, now=mid, then=then)
            target = torch.where((half > 0)[:, None, None], implied(x, landed, now=now, then=then), x_0)
        return (estimated(made, x, t, t - 2 * half, conditioning) - target).square().mean(dim=-1)


@pytest.mark.slow
def test_a_shortcut_policy_keeps_its_spread_in_a_single_step():
    torch.manual_seed(0)
    made = train(policy(MLP(), num_steps=1, objective=Shortcut()), num_steps=1200)
    assert made.predict(state(), draw(made)).std().item() == pytest.approx(STD, rel=0.25)
    plain = policy(Exact(), num_steps=1)  # one step of denoising ends at the mean
    assert plain.predict(state(), draw(plain)).std() < 0.1 * STD


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


@pytest.mark.parametrize(
    "objective", [Consistency(), Shortcut(), Dropping(uniform)], ids=lambda made: type(made).__name__
)
def test_a_policy_with_a_custom_objective_keeps_every_promise(objective):
    check_policy(lambda: policy(MLP(), num_steps=2, objective=objective))


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
