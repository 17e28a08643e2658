"""PyTorch, operation by operation: the engine that all others are compared with, and the only one with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from ..denoising.guidance import Guidance, mapped
from ..inputs import check_noise, check_observation, num_rows
from ..interface import Policy
from .interface import Arrays, Engine
from .transfer import upload


class EagerEngine:
    """A policy on its device, which takes and returns arrays of numpy. See `Engine`.

    Several threads may use it at once, as an evaluation on a CPU does.
    """

    name, precision = "eager", "fp32"

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        parameters = policy.parameters() if isinstance(policy, nn.Module) else iter(())
        self.device = next((parameter.device for parameter in parameters), torch.device("cpu"))
        self.specification, self.horizons = policy.specification, policy.horizons

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, L, Dz) of one prediction; see `Engine.noise_shape`."""
        return self.policy.noise_shape

    def predict(self, observation: Arrays, noise: NDArray[Any], guidance: Sequence[Guidance] = ()) -> NDArray[Any]:
        """An action chunk in units; see `Engine.predict`."""
        tensors = {name: torch.as_tensor(values) for name, values in observation.items()}
        check_observation(tensors, self.specification, self.horizons)
        drawn = torch.as_tensor(noise).float()
        check_noise(drawn, self.noise_shape, num_rows(tensors))
        guides = [mapped(guide, lambda values: torch.as_tensor(values).float()) for guide in guidance]
        arrays = [array for guide in guides for array in guide.arrays.values()]
        uploaded = iter(upload([*tensors.values(), drawn, *arrays], self.device))
        tensors = {name: next(uploaded) for name in tensors}
        drawn, guides = next(uploaded), [mapped(guide, lambda _: next(uploaded)) for guide in guides]
        return self.policy.predict(tensors, drawn, guides).cpu().numpy()


def as_engine(policy: Policy | Engine) -> Engine:
    """An engine as it is, or a policy of PyTorch as an engine on its device."""
    return policy if hasattr(policy, "precision") else EagerEngine(policy)  # type: ignore[arg-type, return-value]
