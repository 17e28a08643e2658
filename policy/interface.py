"""The parts of a policy, as types. Code that trains, measures or deploys a policy uses only these.

Shapes: B batch, K noise draws per window, U uniform numbers per draw, N denoising steps; To, Tp, Ta observation,
prediction and action horizon; Da size of the action; L rows of size Dz of x_0, which is denoised; S tokens of
conditioning of size Dc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from ..specification import Horizons, Specification
from .denoising.guidance import Guidance
from .denoising.interface import Denoiser, NoiseSchedule
from .denoising.prediction import Prediction
from .denoising.sampling import Sampler

Observation: TypeAlias = Mapping[str, Tensor]
"""Stream name -> values (B, To, ...) in the units of the specification, the current step last."""


class Encoder(Protocol):
    """Turns a normalised observation into conditioning."""

    conditioning_shape: tuple[int, int]
    """(S, Dc)."""
    num_context: int
    """Number of the first tokens that stand for the context, one for each stream of it. 0 if it is one more vector."""
    crop: tuple[int, int] | None
    """(h, w): the encoder sees the centre of larger images. None: it sees whole images."""

    def __call__(self, observation: Observation) -> Tensor:
        """Streams (B, To, ...) -> conditioning (B, S, Dc).

        After the tokens of the context, a token is an observed step, the current step last.
        """
        ...

    def without_context(self, conditioning: Tensor, is_unknown: Tensor) -> Tensor:
        """The conditioning (B, S, Dc) in which the context is unknown in some rows (B,), by tokens that are learned.

        Nobody calls it if there are no tokens of context.
        """
        ...


class Network(Protocol):
    """The learned function of a noisy chunk, its time and the conditioning.

    A network has three pieces: `embed` depends on the times alone and runs once per chunk for all steps, `condition`
    depends on the conditioning alone and runs once per chunk, and `denoise` runs at every step. Together they are the
    network: network(x, t, c) = network.denoise(x, network.embed(t, t), network.condition(c)).
    """

    def __call__(self, noisy: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        """Noisy x (B, L, Dz), times (B,), conditioning (B, S, Dc) -> (B, L, Dz)."""
        ...

    def embed(self, now: Tensor, then: Tensor) -> Tensor:
        """The times (N,) at which steps begin and the times (N,) at which they end -> (N, ...).

        A network that estimates x_0 ignores `then`. A network that learns whole steps needs it, as shortcut models do.
        """
        ...

    def condition(self, conditioning: Tensor) -> Tensor:
        """Conditioning (B, S, Dc) -> (B, ...)."""
        ...

    def denoise(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Noisy x (B, L, Dz), B rows of `embed` and of `condition` -> (B, L, Dz)."""
        ...


@dataclass(frozen=True)
class Lesson:
    """The data of one update of the weights."""

    observation: Observation
    """Streams (B, To, ...) in the units of the specification."""
    action: Tensor
    """(B, Tp, Da) in the units of the specification."""
    noise: Tensor
    """(K, B, L, Dz), standard normal."""
    uniform: Tensor
    """(K, B, U), uniform in [0, 1); U is the policy's `num_uniforms`."""
    average: Policy | None = None
    """A copy of the policy with the average of its weights over training."""
    teacher: Policy | None = None
    """Another trained policy, if the training has one."""
    progress: Tensor = field(default_factory=partial(torch.zeros, ()))
    """(), the share of the training that is done, from 0 to 1."""


@runtime_checkable
class Policy(Protocol):
    """Observation in, action chunk out. All randomness is an argument."""

    specification: Specification
    horizons: Horizons

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, L, Dz) of the standard normal noise of one prediction."""
        ...

    @property
    def num_uniforms(self) -> int:
        """U, the number of uniform numbers that the loss needs per draw of noise."""
        ...

    @property
    def has_teacher(self) -> bool:
        """Whether the loss needs a teacher."""
        ...

    def loss(self, lesson: Lesson) -> Tensor:
        """The loss of each step, (K, B, L); the caller masks and reduces it. Encodes the observation once for all K."""
        ...

    def predict(self, observation: Observation, noise: Tensor, guidance: Sequence[Guidance] = ()) -> Tensor:
        """An action chunk (B, Tp, Da) in the units of the specification, from noise (draws, B, L, Dz).

        guidance: applied in order, the first next to the network.
        """
        ...


class Objective(Protocol):
    """What a network is trained to do. A trained policy does not need it."""

    @property
    def num_uniforms(self) -> int:
        """U; see `Policy.num_uniforms`."""
        ...

    @property
    def has_teacher(self) -> bool:
        """Whether the loss needs a teacher."""
        ...

    def check(self, schedule: NoiseSchedule, prediction: Prediction, sampler: Sampler) -> None:
        """Raise ValueError unless it suits the noise schedule and the prediction type, and the sampler suits it.

        A trained policy with another sampler calls it too.
        """
        ...

    def check_teacher(self, policy: Denoised, teacher: Policy) -> None:
        """Raise ValueError if the policy cannot learn from this teacher. Nobody calls it if it needs none."""
        ...

    def loss(self, policy: Denoised, x_0: Tensor, conditioning: Tensor, lesson: Lesson) -> Tensor:
        """The loss of each step (K B, L), from x_0 (K B, L, Dz) and conditioning (K B, S, Dc); K is the slow axis."""
        ...


class Denoised(Protocol):
    """The parts of a policy that its objective may use."""

    network: Network
    schedule: NoiseSchedule
    prediction: Prediction
    sampler: Sampler
    drop_context: float

    def start(self, noise: Tensor) -> Tensor:
        """Where denoising starts: the noise, or zeros if the policy starts from an empty chunk. Any shape."""
        ...

    def by_row(self, conditioning: Tensor) -> Denoiser:
        """The denoiser of rows that have a step each; its levels are those of `levels_at`."""
        ...
