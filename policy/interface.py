"""The nouns of a policy, as types. Everything that trains, measures or deploys a policy knows only these.

Shapes: B batch, K noise draws a window, N denoising steps; To, Tp, Ta observation, prediction and action horizon;
Da size of the action; S tokens of conditioning, each of size Dc.

Times are tensors (B,) in training, where every row has its own, and plain numbers in sampling, where all rows share
one: so a sampler's coefficients are constants, which no accelerator is waited for and which export and capture keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from ..specification import Horizons, Specification
from .denoising.guidance import Guidance
from .denoising.interface import NoiseSchedule
from .denoising.prediction import Prediction
from .denoising.sampling import Sampler

Observation: TypeAlias = Mapping[str, Tensor]
"""A stream's name -> (B, To, ...), in the units of the specification, the current step last."""


class Encoder(Protocol):
    """Turns a normalised observation into conditioning; conditioning_shape is (S, Dc).

    crop: (h, w) of the images that it sees, the centre of larger ones; None where it sees whole images.
    """

    conditioning_shape: tuple[int, int]
    crop: tuple[int, int] | None

    def __call__(self, observation: Observation) -> Tensor:
        """Streams (B, To, ...) -> sequence conditioning (B, S, Dc); a step is a token, the current one last."""
        ...


class Network(Protocol):
    """What is learned: the function of a noisy chunk, its time and the conditioning.

    It comes in three pieces, because what depends on the times alone is computed once for a whole schedule, and what
    depends on the conditioning alone once for a whole chunk: network(x, t, c) = network.denoise(x, network.embed(t, t),
    network.condition(c)).
    """

    def __call__(self, noisy: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        """(B, Tp, Da), times (B,), conditioning (B, S, Dc) -> (B, Tp, Da)."""
        ...

    def embed(self, now: Tensor, then: Tensor) -> Tensor:
        """Times of x (N,), and times (N,) to which a step goes from there -> (N, ...).

        A network that estimates x_0 ignores `then`; one that learns a whole step, as shortcut models do, needs it.
        """
        ...

    def condition(self, conditioning: Tensor) -> Tensor:
        """Conditioning (B, S, Dc) -> (B, ...)."""
        ...

    def denoise(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """(B, Tp, Da), rows of `embed` and of `condition` -> (B, Tp, Da)."""
        ...


@dataclass(frozen=True)
class Lesson:
    """What one update of the weights learns from.

    observation: streams (B, To, ...); action (B, Tp, Da); both in the units of the specification. noise (K, B, L, Dz):
    standard normal, in the shape of what is denoised. uniform (K, B, U): uniform in [0, 1), as many as the policy asks
    for by `num_uniforms`. average: the average of the policy's weights over training, in a policy of its own. teacher:
    another trained policy, if the training has one. progress: the share of the training that is done, from 0 to 1.
    """

    observation: Observation
    action: Tensor
    noise: Tensor
    uniform: Tensor
    average: Policy | None = None
    teacher: Policy | None = None
    progress: float = 0.0


@runtime_checkable
class Policy(Protocol):
    """Observation in, action chunk out; all randomness is an argument."""

    specification: Specification
    horizons: Horizons

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """What one prediction draws: (number of draws, L, Dz), standard normal."""
        ...

    @property
    def num_uniforms(self) -> int:
        """U, the uniform numbers that the loss needs for each draw of noise."""
        ...

    @property
    def has_teacher(self) -> bool:
        """Whether the loss needs a teacher."""
        ...

    def loss(self, lesson: Lesson) -> Tensor:
        """Per step, (K, B, L): the caller masks and reduces. The observation is encoded once for all K draws."""
        ...

    def predict(self, observation: Observation, noise: Tensor, guidance: Sequence[Guidance] = ()) -> Tensor:
        """An action chunk (B, Tp, Da) in the units of the specification, from noise (draws, B, L, Dz).

        guidance: applied in its order, the first of them next to the network.
        """
        ...


class Objective(Protocol):
    """What a network is trained to do. Nothing of it is needed once the policy is trained."""

    @property
    def num_uniforms(self) -> int:
        """U."""
        ...

    @property
    def has_teacher(self) -> bool:
        """Whether a lesson needs a teacher."""
        ...

    def check(self, schedule: NoiseSchedule, prediction: Prediction) -> None:
        """Raise ValueError if the network cannot be trained so with this schedule and this prediction."""
        ...

    def loss(self, policy: Denoised, x_0: Tensor, conditioning: Tensor, lesson: Lesson) -> Tensor:
        """Per step (K B, L), from x_0 (K B, L, Dz) and conditioning (K B, S, Dc), in the order of the draws."""
        ...


class Denoised(Protocol):
    """What an objective may know of the policy that it trains."""

    network: Network
    schedule: NoiseSchedule
    prediction: Prediction
    sampler: Sampler

    def start(self, noise: Tensor) -> Tensor:
        """What denoising starts from, given standard normal noise of any shape."""
        ...
