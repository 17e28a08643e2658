"""What a policy would do in the steps of demonstrations: sampled chunks.

Shapes: N sampled chunks; Tp prediction horizon; Da size of the action.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...datasets.demonstrations import Demonstrations
from ...policy.engines.interface import Engine
from ..rollout import sample_chunks
from ..surprise import histories_of


class Foresight:
    """A policy beside demonstrations that have its streams. Only one thread may use it.

    samples: number of chunks; a policy without noise has one. seed: of the noise, the same in every step.

    Raises ValueError if the demonstrations have other streams than the policy.
    """

    def __init__(
        self, name: str, engine: Engine, demonstrations: Demonstrations, *, samples: int = 16, seed: int = 0
    ) -> None:
        if differences := demonstrations.specification.differences(engine.specification):
            raise ValueError(
                f"{demonstrations.path} must have the streams of the policy in {name} (those of the demonstrations are "
                f"named first): {'; '.join(differences)}: name demonstrations of its kind with dataset="
            )
        self.name, self._engine, self._demonstrations = name, engine, demonstrations
        self.samples = samples if engine.noise_shape[0] else 1
        self._seed = seed

    def described(self) -> dict[str, Any]:
        """What the page must know of it, in JSON."""
        horizons = self._engine.horizons
        return {
            "name": Path(self.name).name,
            "samples": self.samples,
            "observation": horizons.observation,
            "prediction": horizons.prediction,
            "action": horizons.action,
        }

    def chunks(self, episode: int, step: int) -> NDArray[Any]:
        """(N, Tp, Da) in units: what it would do after the recorded observations up to a step of an episode."""
        place = self._demonstrations.bounds(episode)[0] + step
        (history,) = histories_of(self._demonstrations, self._engine, [(episode, place)])
        return sample_chunks(self._engine, history, count=self.samples, seed=self._seed)
