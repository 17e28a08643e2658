"""An engine in the place of a policy, for rollouts and pictures, which ask with tensors."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..policy.engines.interface import Engine
from ..policy.interface import Observation
from ..specification import Prefix


class Deployed:
    """What a policy is asked in an evaluation, answered by an engine. Everything is on the CPU."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.specification, self.horizons = engine, engine.specification, engine.horizons

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """What one prediction draws; see `Policy.noise_shape`."""
        return self.engine.noise_shape

    def predict(self, observation: Observation, noise: Tensor, prefix: Prefix | None = None) -> Tensor:
        """An action chunk (B, Tp, Da) in the units of the specification; see `Policy.predict`."""
        arrays = {name: values.numpy() for name, values in observation.items()}
        if prefix is not None:
            prefix = replace(prefix, actions=prefix.actions.numpy(), weights=prefix.weights.numpy())
        return torch.from_numpy(self.engine.predict(arrays, noise.numpy(), prefix))
