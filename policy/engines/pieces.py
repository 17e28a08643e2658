"""The two pieces of a policy that are exported, as modules, and the engine that runs them as graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..affine import Affine, Normalised
from ..diffusion import DiffusionPolicy
from ..interface import Policy
from ..normalizer import Normalizer
from ..representation import RepresentedActions
from ..space import NormalisedActions
from .exported import ExportedEngine
from .interface import Session


class Encode(nn.Module):
    """From streams in units, (B, To, ...) each in the order of the specification, to the network's condition.

    If the policy has context, a last input (B,) is 1 in the rows whose context is unknown and 0 in the others.
    """

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.names = [stream.name for stream in policy.specification.observations]
        self.learned, self.encoder, self.network = policy.learned, policy.encoder, policy.network
        self.representation = policy.representation

    def forward(self, *streams: Tensor) -> Tensor:
        """Normalise, encode and condition; runs once a chunk."""
        observation = dict(zip(self.names, streams, strict=False))
        conditioning = self.encoder(self.learned.observation(self.representation.observation(observation)))
        if len(streams) > len(self.names):
            conditioning = self.encoder.without_context(conditioning, streams[-1] > 0)
        return self.network.condition(conditioning)


class Denoise(nn.Module):
    """The network at one step: (B, L, Dz), an embedded time (1, ...), the condition (B, ...) -> (B, L, Dz)."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.network = policy.network

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Run the network; all rows share the time."""
        return self.network.denoise(noisy, time.expand(noisy.shape[0], *time.shape[1:]), condition)


def check_diffusion(policy: Policy) -> DiffusionPolicy:
    """The policy itself. Raises ValueError if eager is the only engine for policies of its class."""
    if not isinstance(policy, DiffusionPolicy):
        raise ValueError(
            f"other engines than eager run a DiffusionPolicy only, got {type(policy).__name__}: use engine=eager"
        )
    return policy


def check_sampler(policy: Policy) -> DiffusionPolicy:
    """The policy itself. Raises ValueError if its sampler computes with numbers that only eager can give it."""
    policy = check_diffusion(policy)
    if not policy.sampler.runs_on_arrays:
        raise ValueError("schedulers of diffusers run in eager only: choose sampler=ddim, or engine=eager")
    return policy


def check_exportable(policy: Policy) -> DiffusionPolicy:
    """The policy itself. Raises ValueError if only PyTorch can run it."""
    policy = check_sampler(policy)
    if not isinstance(policy.space, NormalisedActions | RepresentedActions):
        raise ValueError(
            f"only a policy of normalised actions can be exported, got {type(policy.space).__name__}: use engine=eager"
        )
    return policy


@torch.no_grad()
def embedded_times(policy: DiffusionPolicy) -> Tensor:
    """What the network makes of every step of the sampler, in the order of `Sampler.steps`."""
    return torch.stack(list(policy.embedded().values()))


def action_affine(normalizer: Normalizer) -> Affine:
    """The range of the action, as arrays of numpy."""
    centre, half_range = normalizer.affine("action")
    return Affine(centre.cpu().numpy(), half_range.cpu().numpy())


def exported_engine(policy: DiffusionPolicy, session: Session) -> ExportedEngine:
    """The engine of a policy whose exported graphs are run by `session`."""
    return ExportedEngine(
        policy.specification,
        policy.horizons,
        session=session,
        space=Normalised(action_affine(policy.learned), policy.learned.action_std.cpu().numpy()),
        representation=policy.representation,
        sampler=policy.sampler,
        prediction=policy.prediction,
        clip=policy.clip,
        has_noise=policy.has_noise,
        embedded=embedded_times(policy).cpu().numpy(),
    )
