"""How every chunk of a policy is guided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...policy.denoising import energies
from ...policy.denoising.classified import Classified
from ...policy.denoising.guidance import WHOLE_STEPS, ClassifierFree
from ...policy.engines.interface import Engine
from ..checks import MOST_CHUNK, PathName, not_negative, positive


@dataclass(kw_only=True)
class ClassifierFreeConfig:
    """Classifier-free guidance: act more, or less, as the context asks than in the demonstrations."""

    weight: float = 2.0
    """Weight of the context. 1 is the policy as it was trained, 0 ignores the context, more than 1 exaggerates it."""

    def __post_init__(self) -> None:
        not_negative(self, "weight", most=1000)

    def build(self, engine: Engine, policy: Mapping[str, Any]) -> ClassifierFree:
        """The guidance of an engine. policy: its parts, as its checkpoint notes them.

        Raises ValueError if the policy has no context, or never had to act without it.
        """
        if not engine.specification.context:
            raise ValueError("guidance=classifier_free needs a policy with context, got none: leave guidance out")
        if self.weight != 1 and not policy.get("drop_context"):
            raise ValueError(
                f"guidance.weight={self.weight:g} needs a policy that was also trained without its context, got "
                f"policy.drop_context={policy.get('drop_context')}: train with policy.drop_context=0.1, or leave "
                "guidance out"
            )
        return ClassifierFree(self.weight)


@dataclass(kw_only=True)
class EnergyConfig:
    """Prefer chunks that reach a point, keep out of boxes or stay within limits; what is chosen acts together."""

    width: Any
    """How exactly, in the units of the action: the standard deviation of a step about what is preferred. A number, or
one per dimension."""
    reach: list[Any] | None = None
    """Point to be at after reach_after, as [0.1,null,0.2]. In a list, null leaves a dimension free."""
    reach_after: float = 0.5
    """Seconds from the present step to the step of a chunk that is at reach."""
    keep_out: list[Any] | None = None
    """Boxes to keep out of, as [[low,high],...], where low and high are points."""
    stay_below: list[Any] | None = None
    """Planes to stay below, as [[normal,offset],...]: normal . action <= offset."""
    max_velocity: Any = None
    """Largest velocity of the action, in units per second. A number, or one per dimension."""
    max_acceleration: Any = None
    """Largest acceleration of the action, in units per second squared. A number, or one per dimension."""
    path: list[Any] | None = None
    """Points of a path to follow, two or more."""
    exact: bool = True
    """Whether the steps of a chunk move together as in the data, by the gradient of the network: for points, paths and
sides. It needs engine=eager. false moves only the steps that cost something: for limits and boxes."""
    rounds: int = 4
    """Iterations to the chunk of least cost, at each denoising step."""

    def __post_init__(self) -> None:
        positive(self, "rounds", most=1000)
        not_negative(self, "reach_after", most=MOST_CHUNK)

    def build(self, engine: Engine, policy: Mapping[str, Any]) -> energies.Energies:
        """The guidance of an engine. policy: its parts, as its checkpoint notes them.

        Raises ValueError if a point has not as many numbers as the action, if the chunks end before `reach_after`, if
        nothing is chosen, or if the policy is distilled.
        """
        _check_estimates(policy)
        control_dt, point = engine.specification.control_dt, partial(_point, size=engine.specification.action.size)
        width, made = point("width", self.width), list[energies.Energy]()
        if self.reach is not None:
            made.append(energies.Reach(width, point("reach", self.reach), self._step(engine)))
        for low, high in _pairs("keep_out", self.keep_out):
            made.append(energies.KeepOut(width, point("keep_out", low), point("keep_out", high)))
        for normal, offset in _pairs("stay_below", self.stay_below):
            made.append(energies.HalfSpace(width, point("stay_below", normal), offset))
        for order, name in enumerate(("max_velocity", "max_acceleration"), start=1):
            if (most := getattr(self, name)) is not None:
                made.append(energies.RateLimit(width, point(name, most), control_dt, order))
        if self.path is not None:
            made.append(energies.Path(width, tuple(point("path", values) for values in self.path)))
        if not made:
            raise ValueError(
                "guidance=energy needs something to prefer, got nothing: give guidance.keep_out, for example"
            )
        return energies.Energies(tuple(made), exact=self.exact, rounds=self.rounds)

    def _step(self, engine: Engine) -> int:
        """The step of a chunk that is at `reach`."""
        horizons, control_dt = engine.horizons, engine.specification.control_dt
        step = horizons.observation - 1 + round(self.reach_after / control_dt)
        if step >= horizons.prediction:
            most = (horizons.prediction - horizons.observation) * control_dt
            raise ValueError(
                f"guidance.reach_after must be at most {most:g} s, where chunks end, got {self.reach_after:g}"
            )
        return step


def _check_estimates(policy: Mapping[str, Any]) -> None:
    if policy.get("objective", {}).get("choice") == "progressive":
        raise ValueError(WHOLE_STEPS)


def _point(name: str, value: Any, *, size: int) -> tuple[Any, ...]:
    """A number or None per dimension. One number stands for all."""
    numbers = [value] * size if isinstance(value, int | float) else value
    if not isinstance(numbers, list) or len(numbers) != size:
        raise ValueError(f"guidance.{name} needs {size} numbers, one per dimension of the action, got {value}")
    if not all(isinstance(number, int | float | None) for number in numbers):
        raise ValueError(f"guidance.{name} must hold numbers and null, got {value}")
    if name in ("width", "stay_below") and None in numbers:
        raise ValueError(f"guidance.{name} needs a number per dimension of the action, got {value}: write 0 or a width")
    return tuple(numbers)


def _pairs(name: str, values: list[Any] | None) -> list[Any]:
    if any(not isinstance(pair, list) or len(pair) != 2 for pair in values or []):
        raise ValueError(f"guidance.{name} must be a list of pairs, got {values}")
    return values or []


@dataclass(kw_only=True)
class ClassifierConfig:
    """Prefer chunks of episodes that fulfil a condition, by a classifier of `recede train-classifier`."""

    folder: PathName
    """Folder of the classifier."""
    weight: float = 1.0
    """Weight of the condition. 0 is the policy as it was trained, more than 1 exaggerates."""
    holds: bool = True
    """Whether the condition shall hold. false prefers the other episodes."""

    def __post_init__(self) -> None:
        not_negative(self, "weight", most=1000)

    def build(self, engine: Engine, policy: Mapping[str, Any]) -> Classified:
        """The guidance of an engine. policy: its parts, as its checkpoint notes them.

        Raises FileNotFoundError or ValueError if the folder holds no classifier of this policy, if the engine is not
        eager, or if the policy is distilled.
        """
        _check_estimates(policy)
        from ...policy.classifier import Classifier
        from ...policy.engines.pieces import check_diffusion

        if engine.name != "eager":
            raise ValueError(f"guidance=classifier needs gradients, got engine={engine.name}: use engine=eager")
        guided = check_diffusion(engine.policy)  # type: ignore[attr-defined]
        return Classifier.load(Path(self.folder), guided).guidance(guided, holds=self.holds, weight=self.weight)


GUIDANCE: dict[str, Any] = {
    "classifier_free": ClassifierFreeConfig,
    "energy": EnergyConfig,
    "classifier": ClassifierConfig,
}
"""Name -> configuration."""
