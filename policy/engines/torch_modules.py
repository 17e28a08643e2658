"""The two pieces of a policy that are exported, as modules, and how an engine of graphs is made of a policy."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..diffusion import DiffusionPolicy
from ..levels import Levels, NoiseLevel
from ..regression import RegressionPolicy
from .graph import ActionRange, DiffusionEngine, GraphEngine, RegressionEngine
from .interface import Session

Exportable: TypeAlias = DiffusionPolicy | RegressionPolicy


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
    if not policy.sampler.runs_on_arrays:
        raise ValueError("schedulers of diffusers need PyTorch: choose sampler=ddim, or engine=eager")
    return policy


def levels(policy: Exportable) -> Levels:
    """The noise levels that the sampler visits; of a regression policy time 0, at which its network is asked."""
    return [NoiseLevel(0, 0.0, 1.0)] if isinstance(policy, RegressionPolicy) else policy.sampler.levels


@torch.no_grad()
def embedded(policy: Exportable) -> Tensor:
    """What the network makes of each time but the last, clean data: (N, ...); of a regression policy of time 0."""
    device = next(policy.parameters()).device
    if isinstance(policy, RegressionPolicy):
        return policy.network.embed(torch.zeros(1, device=device))
    return policy.embed([level.time for level in policy.sampler.levels[:-1]], device)


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
    given |= {"sampler": policy.sampler, "prediction": policy.prediction, "clip": policy.clip}
    return DiffusionEngine(policy.specification, policy.horizons, **given)
