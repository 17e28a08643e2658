"""The two pieces of a policy that are exported, as modules, and how an engine of graphs is made of a policy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion import DiffusionPolicy
from ..space import NormalisedActions
from .graph import ActionRange, GraphEngine
from .interface import Session


class Encode(nn.Module):
    """Streams in units, (B, To, ...) each, in the order of the specification -> what the network makes of them."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.names = [stream.name for stream in policy.specification.observations]
        self.normalizer, self.encoder, self.network = policy.normalizer, policy.encoder, policy.network

    def forward(self, *streams: Tensor) -> Tensor:
        """Normalise, encode and condition, once a chunk."""
        observation = dict(zip(self.names, streams, strict=True))
        return self.network.condition(self.encoder(self.normalizer.observation(observation)))


class Denoise(nn.Module):
    """The network at one step: (B, Tp, Da), an embedded time (1, ...), the condition (B, ...) -> (B, Tp, Da)."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.network = policy.network

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """All rows share the time."""
        return self.network.denoise(noisy, time.expand(noisy.shape[0], *time.shape[1:]), condition)


def check_exportable(policy: Any) -> DiffusionPolicy:
    """The policy, if engines other than PyTorch can run it. Raises ValueError if they cannot."""
    if not isinstance(policy, DiffusionPolicy):
        raise ValueError(f"only a DiffusionPolicy leaves PyTorch, got {type(policy).__name__}: use engine=eager")
    if not policy.sampler.runs_on_arrays:
        raise ValueError("schedulers of diffusers need PyTorch: choose sampler=ddim, or engine=eager")
    if not isinstance(policy.space, NormalisedActions):
        raise ValueError(f"only normalised actions leave PyTorch, got {type(policy.space).__name__}: use engine=eager")
    return policy


@torch.no_grad()
def embedded(policy: DiffusionPolicy) -> Tensor:
    """What the network makes of every step that the sampler may ask for, in the order of `Sampler.steps`."""
    return torch.stack(list(policy.embedded().values()))


def action_range(policy: DiffusionPolicy) -> ActionRange:
    """The range of the action, as arrays."""
    affine: Any = policy.normalizer.streams["action"]
    return ActionRange(affine.centre.cpu().numpy(), affine.half_range.cpu().numpy())


def engine_of(policy: DiffusionPolicy, session: Session) -> GraphEngine:
    """The policy with its network run by `session`."""
    return GraphEngine(
        policy.specification,
        policy.horizons,
        session=session,
        space=action_range(policy),
        sampler=policy.sampler,
        prediction=policy.prediction,
        clip=policy.clip,
        has_noise=policy.has_noise,
        embedded=embedded(policy).cpu().numpy(),
    )
