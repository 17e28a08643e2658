"""Guidance by a classifier of noisy chunks. Shapes: B chunks; L rows of size Dz of x_0, which is denoised."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .guidance import Guidance, Sampling, posterior
from .levels import NoiseLevel

LogProbability = Callable[[Any, NoiseLevel], Any]
"""(u (B, L, Dz), level) -> log p(class | x_t) of each chunk, (B,). u: the mean of x_0 by `guidance.posterior`."""


@dataclass(frozen=True)
class Classified(Guidance):
    """Prefer chunks of a class, by a classifier of noisy chunks (Dhariwal & Nichol 2021, section 4).

    The guided chunks have the distribution of the policy's times p(class | chunk)^weight, exactly for a weight of 1.

    The classifier takes the mean of x_0 by `posterior` instead of x_t, which says the same. The pull on x_0 is then its
    gradient times the variance. A gradient in x_t would have to be divided by alpha, which is nearly 0 at pure noise.

    >>> Classified(print, weight=-1.0)
    Traceback (most recent call last):
        ...
    ValueError: the weight of a classifier must be 0 or more, got -1.0
    """

    classify: Callable[[Mapping[str, Any]], LogProbability]
    """The observation in units -> the logarithm of the probability of the class. Called once per chunk."""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"the weight of a classifier must be 0 or more, got {self.weight}")

    @property
    def needs_gradient(self) -> bool:
        """That of the classifier."""
        return True

    @property
    def needs_mean(self) -> bool:
        """It weighs the mean of x_0 against its covariance."""
        return True

    def denoiser(self, denoise: Any, sampling: Sampling) -> Any:
        """The guided denoiser, with clipped estimates. Raises ValueError if the classifier has no finite gradient."""
        import torch

        log_probability = self.classify(sampling.observation)

        def guided(x_t: Any, now: NoiseLevel, then: NoiseLevel) -> Any:
            gain, variance = posterior(now.alpha, now.sigma, sampling.space.std)
            with torch.enable_grad():
                u = (gain * x_t).detach().requires_grad_()
                logarithm = log_probability(u, now)
                (gradient,) = torch.autograd.grad(logarithm.sum(), u)
            if not bool(torch.isfinite(gradient).all()):
                raise ValueError(f"a classifier must have a finite gradient, got log p = {logarithm.tolist()}")
            pulled = denoise(x_t, now, then) + self.weight * variance * gradient
            return pulled.clip(-sampling.clip, sampling.clip)

        return guided
