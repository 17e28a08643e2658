"""The two pieces of a policy that are exported, as modules, and how an engine of graphs is made of a policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .. import sampling
from ..diffusion import DiffusionPolicy
from ..regression import RegressionPolicy
from .graph import ActionRange, DiffusionEngine, GraphEngine, Levels, RegressionEngine
from .interface import Session

Exportable: TypeAlias = DiffusionPolicy | RegressionPolicy

SAMPLERS: tuple[Callable[..., Any], ...] = (sampling.ddim, sampling.ddpm, sampling.dpm_solver_2m, sampling.heun)
"""Samplers that take arrays of numpy."""


class Encode(nn.Module):
    """Streams in units, (B, To, ...) each, in the order of the specification -> what the network makes of them."""

    def __init__(self, policy: Exportable) -> None:
        super().__init__()
        self.names = [stream.name for stream in policy.specification.observations]
        self.normalizer, self.encoder, self.network = policy.normalizer, policy.encoder, policy.network

    def forward(self, *streams: Tensor) -> Tensor:
        """Normalise, encode and condition, once a chunk."""
        observation = dict(zip(self.names, streams, strict=True))
        return self.network.condition(self.encoder(self.normalizer.observation(observation)))


class Denoise(nn.Module):
    """The network at one step: (B, Tp, Da), an embedded time (1, ...), the condition (B, ...) -> (B, Tp, Da)."""

    def __init__(self, policy: Exportable) -> None:
        super().__init__()
        self.network = policy.network

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """All rows share the time."""
        return self.network.denoise(noisy, time.expand(noisy.shape[0], *time.shape[1:]), condition)


def check_exportable(policy: Any) -> Exportable:
    """The policy, where engines other than PyTorch can run it. Raises ValueError where they cannot."""
    if isinstance(policy, RegressionPolicy):
        return policy
    if not isinstance(policy, DiffusionPolicy):
        raise ValueError(f"only diffusion and regression policies leave PyTorch, got {type(policy).__name__}")
    if getattr(policy.sampler, "func", policy.sampler) not in SAMPLERS:
        raise ValueError(
            f"the sampler must be one of {', '.join(each.__name__ for each in SAMPLERS)} to run outside of PyTorch; "
            "schedulers of diffusers need it: choose sampler=ddim, or engine=eager"
        )
    return policy


def levels(policy: Exportable) -> list[Levels]:
    """Every time that the sampler meets, with alpha and sigma there; of a regression policy time 0, as it was asked."""
    if isinstance(policy, RegressionPolicy):
        return [(0, 0.0, 1.0)]
    return [(t, *policy.schedule.at(t)) for t in policy.times]


@torch.no_grad()
def embedded(policy: Exportable) -> Tensor:
    """What the network makes of each time but the last, clean data: (N, ...); of a regression policy of time 0."""
    device = next(policy.parameters()).device
    if isinstance(policy, RegressionPolicy):
        return policy.network.embed(torch.zeros(1, device=device))
    return policy.embed(policy.times[:-1], device)


def action_range(policy: Exportable) -> ActionRange:
    """The range of the action, as arrays."""
    affine: Any = policy.normalizer.streams["action"]
    return ActionRange(affine.centre.cpu().numpy(), affine.half_range.cpu().numpy())


def engine_of(policy: Exportable, session: Session) -> GraphEngine:
    """The policy with its network run by `session`."""
    given: Any = {
        "session": session,
        "action": action_range(policy),
        "levels": levels(policy),
        "embedded": embedded(policy).cpu().numpy(),
    }
    if isinstance(policy, RegressionPolicy):
        return RegressionEngine(policy.specification, policy.horizons, **given)
    given |= {"sampler": policy.sampler, "prediction": policy.prediction}
    given |= {"num_draws": policy.num_draws, "clip": policy.clip}
    return DiffusionEngine(policy.specification, policy.horizons, **given)
