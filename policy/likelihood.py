"""How likely a chunk is under a policy: along its probability flow, and by the variational bound.

The probability flow of a policy is the ordinary differential equation whose solutions carry noise to chunks (Song et
al. 2021, eq. 13). It runs over all noise levels of the schedule, whatever sampler the policy has. In the time of a
flow, tau = `NoiseLevel.share`, and for u = x / (alpha + sigma), it is du / dtau = (x_0 - u) / (1 - tau).

Steps are of the trapezoidal rule, which is of second order and the same backwards, so inverting a chunk and generating
it again leads back to the chunk. Estimates of x_0 are not clipped.

Shapes: B chunks of L rows of size Dz, D = L Dz numbers; Tp prediction horizon, Da size of the action; T noise levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from .denoising.levels import Levels, NoiseLevel
from .diffusion import DiffusionPolicy
from .interface import Observation

MOST_EXACT = 256
"""Largest D of which the trace of the Jacobian is computed exactly, with D backward passes at each level."""

MOST_ITERATIONS = 200
"""Evaluations after which an implicit step must have converged."""


def log_likelihood(
    policy: DiffusionPolicy, observation: Observation, chunk: Tensor, *, probes: Tensor | None = None
) -> Tensor:
    """The logarithm of the density (B,) of chunks, in nats: the instantaneous change of variables (Chen et al. 2018).

    It is the density of the normalised chunk with the noise of the first level, sigma / alpha, added to it: chunks
    without any noise have no estimate. In the units of the specification it is smaller by Tp times the sum of the
    logarithms of the half ranges of the actions. Of a policy with a representation it is the density of what it learns,
    such as 6D, which says nothing of densities in units.

    chunk: (B, Tp, Da) in units. probes: (P, B, L, Dz) of mean 0 and variance 1, best of -1 and 1, with which the trace
    is estimated (Hutchinson 1990; Grathwohl et al. 2019); the estimate is unbiased. None computes the trace exactly.

    Raises ValueError if the policy has no likelihood or the chunk does not fit, or D is above `MOST_EXACT` without
    probes.
    """
    x_0 = _checked(policy, observation, chunk)
    size = x_0[0].numel()
    if probes is None and size > MOST_EXACT:
        raise ValueError(
            f"the exact trace needs chunks of at most {MOST_EXACT} numbers, got {size}: pass probes (P, B, L, Dz) of "
            "-1 and 1 to estimate it"
        )
    if probes is None:
        basis = math.sqrt(size) * torch.eye(size, dtype=x_0.dtype, device=x_0.device)
        probes = basis.view(size, 1, *x_0.shape[1:]).expand(-1, len(x_0), -1, -1)
    if probes.ndim != 4 or probes.shape[1:] != x_0.shape:
        raise ValueError(f"probes must be (P, B, L, Dz) = (P, {', '.join(map(str, x_0.shape))}), got {probes.shape}")
    levels = policy.schedule.levels[1:]
    u, change = _carried(_velocity(policy, observation), x_0 * levels[0].share, levels, probes)
    x = u * (levels[-1].alpha + levels[-1].sigma)
    normal = -(x.square() + math.log(2 * math.pi)).flatten(1).sum(dim=1) / 2
    return normal + change + size * math.log((levels[-1].alpha + levels[-1].sigma) * levels[0].share)


@torch.no_grad()
def invert(policy: DiffusionPolicy, observation: Observation, chunk: Tensor) -> Tensor:
    """The noise (B, L, Dz) that the probability flow carries to these chunks (B, Tp, Da), in units; see `generate`.

    Raises ValueError if the policy starts from no noise, or the chunk does not fit.
    """
    levels = policy.schedule.levels[1:]
    x_0 = _checked(policy, observation, chunk)
    u, _ = _carried(_velocity(policy, observation), x_0 * levels[0].share, levels)
    return u * (levels[-1].alpha + levels[-1].sigma)


@torch.no_grad()
def generate(policy: DiffusionPolicy, observation: Observation, noise: Tensor) -> Tensor:
    """The chunks (B, Tp, Da), in units, to which the probability flow carries noise (B, L, Dz): `invert` backwards."""
    levels = policy.schedule.levels[:0:-1]
    u, _ = _carried(_velocity(policy, observation), noise / (levels[0].alpha + levels[0].sigma), levels)
    return policy.space.at(observation).decode(u / levels[-1].share)


def _checked(policy: DiffusionPolicy, observation: Observation, chunk: Tensor) -> Tensor:
    """The normalised chunk (B, L, Dz). Raises ValueError if its likelihood does not exist."""
    if not policy.has_noise or policy.has_teacher:
        raise ValueError(
            "a policy that starts from no noise, such as regression, or was distilled has no likelihood: use a "
            "diffusion policy"
        )
    rows = len(next(iter(observation.values())))
    shape = rows, policy.horizons.prediction, policy.specification.action.size
    if tuple(chunk.shape) != shape:
        raise ValueError(
            f"the chunk must have shape (B, Tp, Da) = {shape}, as the observation has, got {tuple(chunk.shape)}"
        )
    still = (policy.learned.affine("action").half_range == 0).nonzero().flatten().tolist()
    if still:
        raise ValueError(
            f"dimensions {still} of the action are still in the training data, so a chunk has no density: train on "
            "demonstrations in which they move, or without them"
        )
    return policy.space.at(observation).encode(chunk)


Velocity = Callable[[Tensor, NoiseLevel], Tensor]
"""(u, level) -> du / dtau, both (B, L, Dz)."""


def _velocity(policy: DiffusionPolicy, observation: Observation) -> Velocity:
    conditioning = policy.encode(observation).detach()

    def velocity(u: Tensor, level: NoiseLevel) -> Tensor:
        t = torch.full((len(u),), level.time, device=u.device)  # type: ignore[arg-type]
        x_t = u * (level.alpha + level.sigma)
        x_0 = policy.prediction.clean(policy.network(x_t, t, conditioning), x_t, level.alpha, level.sigma)
        return (x_0 - u) / (1 - level.share)

    return velocity


def _carried(velocity: Velocity, u: Tensor, levels: Levels, probes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """U at the last level, and the integral of the divergence on the way (B,), which is 0 without probes."""
    change = u.new_zeros(len(u))
    v, divergence = _diverging(velocity, u, levels[0], probes)
    for now, then in pairwise(levels):
        span = then.share - now.share
        u = _converged(velocity, u, v, span=span, level=then)
        before, (v, divergence) = divergence, _diverging(velocity, u, then, probes)
        change = change + span * (before + divergence) / 2
    return u, change


@torch.no_grad()
def _converged(velocity: Velocity, u: Tensor, v: Tensor, *, span: float, level: NoiseLevel) -> Tensor:
    """The implicit step: the u' with u' = u + span (v + velocity(u')) / 2."""
    ahead = u + span * v
    for _ in range(MOST_ITERATIONS):
        last, ahead = ahead, u + span * (v + velocity(ahead, level)) / 2
        if (ahead - last).abs().max() <= 8 * torch.finfo(u.dtype).eps * (1 + ahead.abs().max()):
            return ahead
    raise ValueError(
        f"the probability flow does not converge at time {level.time:g} of the schedule, where the estimate of the "
        "network changes too much: train longer, or with more noise levels (policy.schedule.num_times)"
    )


def _diverging(velocity: Velocity, u: Tensor, level: NoiseLevel, probes: Tensor | None) -> tuple[Tensor, Tensor]:
    """The velocity, and its divergence (B,) by the mean over probes (P, B, L, Dz) of probe^T Jacobian probe."""
    if probes is None:
        return velocity(u, level), u.new_zeros(len(u))
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        v = velocity(u, level)
        products = [
            torch.autograd.grad(v, u, probe, retain_graph=True)[0].mul(probe).flatten(1).sum(dim=1) for probe in probes
        ]
    return v.detach(), torch.stack(products).mean(dim=0)


@torch.no_grad()
def bound_terms(
    policy: DiffusionPolicy, observation: Observation, chunk: Tensor, *, noise: Tensor, level: Tensor
) -> Tensor:
    """What single denoising steps add to the variational bound of chunks, (K, B), in bits per dimension.

    The bound on minus the logarithm of the density is that of ancestral sampling over all T noise levels (Ho et al.
    2020, eq. 5; Kingma et al. 2021, eq. 13): the sum of these terms, in expectation over the noise, and `bound_rest`.
    Level 0 is the first noisy one, from which chunks are reconstructed with its noise, sigma / alpha. Estimates of x_0
    are clipped as in sampling. Still dimensions do not count.

    chunk: (B, Tp, Da) in units. noise: (K, B, L, Dz), standard normal. level: (K, B), integers from 0 to T - 1.
    """
    times = torch.tensor([level.time for level in policy.schedule.levels[1:]], device=noise.device)
    t = times[level].flatten()
    alpha, sigma = (coefficient[:, None, None] for coefficient in policy.schedule(t))
    x_0 = policy.space.at(observation).encode(chunk).expand_as(noise).flatten(0, 1)
    conditioning = policy.encode(observation)
    conditioning = conditioning.expand(len(noise), *conditioning.shape).flatten(0, 1)
    x_t = alpha * x_0 + sigma * noise.flatten(0, 1)
    estimate = policy.prediction.clean(policy.network(x_t, t, conditioning), x_t, alpha, sigma)
    error = (estimate.clamp(-policy.clip, policy.clip) - x_0)[..., _is_moving(policy)].square().flatten(1).mean(dim=1)
    return bound_gains(policy)[level] / 2 * error.view(level.shape) / math.log(2)


def bound_gains(policy: DiffusionPolicy) -> Tensor:
    """By how much the signal-to-noise ratio rises in the step from each noise level, (T,); at level 0, the ratio.

    Half of it is the factor of the squared error of x_0 in a term of the bound, in nats.
    """
    levels, device = policy.schedule.levels[1:], policy.normalizer.action_std.device
    ratio = torch.tensor([(level.alpha / level.sigma) ** 2 for level in levels], device=device)
    return torch.cat([ratio[:1], ratio[:-1] - ratio[1:]])


def bound_rest(policy: DiffusionPolicy, observation: Observation, chunk: Tensor) -> Tensor:
    """What the bound of `bound_terms` has beside its terms, (B,), in bits per dimension.

    The divergence of the noisiest level from pure noise, and the normalising constant of the reconstruction.
    """
    first, last = policy.schedule.levels[1], policy.schedule.levels[-1]
    x = last.alpha * policy.space.at(observation).encode(chunk)[..., _is_moving(policy)]
    prior = (x.square() + last.sigma**2 - 1) / 2 - math.log(last.sigma)
    constant = math.log(2 * math.pi * (first.sigma / first.alpha) ** 2) / 2
    return (prior.flatten(1).mean(dim=1) + constant) / math.log(2)


def _is_moving(policy: DiffusionPolicy) -> Tensor:
    return policy.learned.affine("action").half_range > 0
