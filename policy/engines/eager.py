"""PyTorch as it is: the engine that all others are compared with, and the only one with gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ...specification import Prefix
from ..diffusion import DiffusionPolicy
from ..inputs import check_noise, check_observation, num_rows
from .interface import Arrays
from .torch_modules import Denoise, Encode, Exportable


class EagerEngine:
    """A policy on its device, with arrays of numpy outside. See `Engine`."""

    name, precision = "eager", "fp32"

    def __init__(self, policy: Exportable) -> None:
        self.policy, self.device = policy, next(policy.parameters()).device
        self.specification, self.horizons = policy.specification, policy.horizons
        self._encode = Encode(policy)

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """What one prediction draws; see `Engine.noise_shape`."""
        return self.policy.noise_shape

    @torch.no_grad()
    def encode(self, observation: Arrays) -> NDArray[Any]:
        """What depends on the observation alone; see `Engine.encode`."""
        given = {name: self._tensor(values) for name, values in observation.items()}
        check_observation(given, self.specification, self.horizons)
        return self._encode(*(given[stream.name] for stream in self.specification.observations)).float().cpu().numpy()

    @torch.no_grad()
    def denoise(self, noisy: NDArray[Any], t: float, condition: NDArray[Any]) -> NDArray[Any]:
        """One denoising step; see `Engine.denoise`."""
        x_t, met = self._tensor(noisy), self._tensor(condition)
        if isinstance(self.policy, DiffusionPolicy):
            (level,) = (level for level in self.policy.sampler.levels if level.time == t)
            return self.policy.conditioned(met)(x_t, level, level).cpu().numpy()
        time = self.policy.network.embed(torch.tensor([t], device=self.device))
        return Denoise(self.policy)(x_t, time, met).cpu().numpy()

    def predict(self, observation: Arrays, noise: NDArray[Any], prefix: Prefix | None = None) -> NDArray[Any]:
        """An action chunk in units; see `Engine.predict`."""
        given = {name: self._tensor(values) for name, values in observation.items()}
        check_observation(given, self.specification, self.horizons)
        check_noise(noise, self.noise_shape, num_rows(given))
        if prefix is not None:
            actions, weights = (self._tensor(each).float() for each in (prefix.actions, prefix.weights))
            prefix = replace(prefix, actions=actions, weights=weights)
        return self.policy.predict(given, self._tensor(noise).float(), prefix).cpu().numpy()

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.as_tensor(values, device=self.device)
