"""How a policy learns streams: rotations in 6D, angles by cosine and sine, actions relative to what is observed.

The data keep their own numbers. A `Representation` maps them to the numbers that are normalised and learned, and back.
The functions take tensors and arrays of numpy, so exported policies use the same ones, and nothing loads torch.

Shapes: B chunks; To, Tp observation and prediction horizon; D, D' size of a stream in the data and as it is learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..specification import Specification, Stream
from .denoising.guidance import library
from .elements import Element, as_float, of_type

MODES = ("absolute", "relative", "difference")
"""What the numbers of an action are learned as; see `Part.mode`."""


@dataclass(frozen=True)
class Reference:
    """The observation to which a part of the action refers."""

    stream: str
    start: int
    element: Element
    """How the observation states what the action commands; its rotations may be of another kind."""

    def of(self, observation: Mapping[str, Any], like: Any) -> Any:
        """The members (B, To, ...) of an observation, in the dtype of `like`."""
        rows = of_type(observation[self.stream], like)
        return self.element.lift(rows[..., self.start : self.start + self.element.size])


@dataclass(frozen=True)
class Part:
    """Some dimensions of a stream that are learned together."""

    start: int
    """The first of its dimensions in the data."""
    element: Element
    mode: str = "absolute"
    """absolute, as in the data; relative, from the last observation; or difference. A difference is from the
    observation of its own step, as long as there is one, and then from the action before."""
    reference: Reference | None = None

    def encode(self, rows: Any, observation: Mapping[str, Any] | None) -> Any:
        """Numbers of the stream (B, steps, D) -> those that are learned (B, steps, d')."""
        element = self.element
        value = element.lift(rows[..., self.start : self.start + element.size])
        if self.reference is not None and observation is not None:
            base = self.reference.of(observation, value)
            observed = base.shape[1]
            if self.mode == "relative":
                base = base[:, -1:]
            else:
                base = library(base).concat([base, value[:, observed - 1 : -1]], 1)
            value = element.between(base, value)
        return element.coordinates(value)

    def decode(self, coordinates: Any, observation: Mapping[str, Any] | None) -> Any:
        """The inverse of `encode`, (B, steps, d') -> (B, steps, d)."""
        element = self.element
        value = element.of_coordinates(coordinates)
        if self.reference is not None and observation is not None:
            base = self.reference.of(observation, value)
            if self.mode == "relative":
                value = element.moved(base[:, -1:], value)
            else:
                value = self._summed(base, value)
        return element.data(value)

    def _summed(self, base: Any, steps: Any) -> Any:
        """Actions of which `steps` are the differences."""
        observed = base.shape[1]
        first = self.element.moved(base, steps[:, :observed])
        rows = [first[:, step] for step in range(observed)]
        for step in range(observed, steps.shape[1]):
            rows.append(self.element.moved(rows[-1], steps[:, step]))
        return library(steps).stack(rows, 1)


@dataclass(frozen=True)
class Representation:
    """How a policy learns the streams of a specification.

    parts: stream name -> its parts, which cover its dimensions in their order. A stream without parts is learned as it
    is in the data.
    """

    specification: Specification
    """Of the data."""
    parts: Mapping[str, tuple[Part, ...]]

    @property
    def is_plain(self) -> bool:
        """Whether everything is learned as it is in the data."""
        return not self.parts

    @cached_property
    def learned(self) -> Specification:
        """The streams as they are learned."""
        observations, action = self.specification.observations, self.specification.action
        return replace(
            self.specification,
            observations=tuple(self._learned(stream) for stream in observations),
            action=self._learned(action),
        )

    def _learned(self, stream: Stream) -> Stream:
        if stream.name not in self.parts:
            return stream
        labels, kinds = list[str](), list[str]()
        for part in self.parts[stream.name]:
            names = [stream.label(part.start + i).split(".")[-1] for i in range(part.element.size)]
            labels += part.element.labels(names)
            kinds += part.element.kinds
        return Stream(stream.name, (len(kinds),), labels=tuple(labels), kinds=tuple(kinds), context=stream.context)

    def observation(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Streams (B, To, ...) of the data -> as they are learned."""
        return {
            name: self._encode(name, rows, None) if name in self.parts else rows for name, rows in observation.items()
        }

    def rows(self, name: str, rows: Any) -> Any:
        """Steps (N, D) of a stream that refers to no observation -> as they are learned (N, D')."""
        return self._encode(name, rows, None)

    def action(self, action: Any, observation: Mapping[str, Any]) -> Any:
        """Actions (B, Tp, Da) of the data, after the observation of its first To steps -> as they are learned."""
        return self._encode("action", action, observation)

    def _encode(self, name: str, rows: Any, observation: Mapping[str, Any] | None) -> Any:
        if name not in self.parts:
            return rows
        rows = as_float(rows)
        return library(rows).concat([part.encode(rows, observation) for part in self.parts[name]], -1)

    def data_action(self, learned: Any, observation: Mapping[str, Any]) -> Any:
        """The inverse of `action`: (B, Tp, Da') -> (B, Tp, Da)."""
        if "action" not in self.parts:
            return learned
        columns, start = [], 0
        for part in self.parts["action"]:
            stop = start + part.element.learned_size
            columns.append(part.decode(learned[..., start:stop], observation))
            start = stop
        return library(learned).concat(columns, -1)

    @property
    def reference_streams(self) -> list[str]:
        """The observations to which parts of the action refer."""
        parts = self.parts.get("action", ())
        return list(dict.fromkeys(part.reference.stream for part in parts if part.reference is not None))

    def references(self) -> list[str]:
        """What each part of the action refers to, a sentence each mode and stream."""
        places: dict[tuple[str, str], list[str]] = {}
        for part in self.parts.get("action", ()):
            if part.reference is not None:
                names = [self.specification.action.label(part.start + i) for i in range(part.element.size)]
                places.setdefault((part.mode, part.reference.stream), []).extend(names)
        return [f"{mode}: {', '.join(names)} refer to {stream}" for (mode, stream), names in places.items()]


class RepresentedActions:
    """A space of normalised actions in a representation; see `policy.denoising.interface.Space`.

    normalised: the space of the learned numbers, whose `encode` and `decode` know nothing of the data. observation: of
    the chunks, (B, To, ...) in units; `at` sets it.
    """

    def __init__(
        self, normalised: Any, representation: Representation, observation: Mapping[str, Any] | None = None
    ) -> None:
        self.normalised, self.representation, self.observation = normalised, representation, observation

    @property
    def shape(self) -> tuple[int, int]:
        """(Tp, Da')."""
        return self.normalised.shape

    @property
    def std(self) -> Any:
        """Standard deviation of normalised numbers, (Da',)."""
        return self.normalised.std

    def at(self, observation: Mapping[str, Any]) -> RepresentedActions:
        """The space of chunks with this observation."""
        return RepresentedActions(self.normalised, self.representation, observation)

    def encode(self, action: Any) -> Any:
        """(B, Tp, Da) in units -> normalised (B, Tp, Da')."""
        return self.normalised.encode(self.representation.action(action, self._observed()))

    def decode(self, x_0: Any) -> Any:
        """Normalised (B, Tp, Da') -> (B, Tp, Da) in units."""
        return self.representation.data_action(self.normalised.decode(x_0), self._observed())

    def pull(self, x_0: Any, gradient: Any) -> Any:
        """The gradient in units -> normalised; see `Space.pull`. Tensors only."""
        if isinstance(x_0, np.ndarray):
            raise ValueError(NEEDS_TORCH)
        import torch

        with torch.enable_grad():
            x = x_0.detach().requires_grad_()
            (pulled,) = torch.autograd.grad(self.decode(x), x, gradient)
        return pulled

    def _observed(self) -> Mapping[str, Any]:
        if self.observation is None:
            raise ValueError("actions in a representation need their observation: use space.at(observation)")
        return self.observation


NEEDS_TORCH = (
    "energies need the gradient of the representation of the actions, which only PyTorch computes: use engine=eager, "
    "or train with policy/representation=absolute and policy.representation.rotation=as_is"
)
"""Why an engine without PyTorch cannot be guided by energies."""
