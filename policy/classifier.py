"""A small network that tells from a noisy chunk and the observation whether the chunk's episode has a property.

Shapes: B chunks; L rows of size Dz of x_0, which is denoised; S tokens of conditioning of size Dc.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import interpreting
from .denoising.classified import Classified, LogProbability
from .denoising.guidance import posterior
from .denoising.levels import NoiseLevel
from .diffusion import DiffusionPolicy
from .interface import Lesson
from .weights import digest_of, read_part, write_part

NAME = "classifier"
"""The name of its files."""

REMEDY = "train the classifier again with recede train-classifier"


class Classifier(nn.Module):
    """The probability that the episode of a noisy chunk has the property. It sees what the policy's encoder sees.

    policy: trained; its weights are not part of the classifier and do not change. size: of the two hidden layers.
    """

    def __init__(self, policy: DiffusionPolicy, *, size: int) -> None:
        super().__init__()
        self.size = size
        (tokens, features), (rows, width) = policy.encoder.conditioning_shape, policy.space.shape
        inputs = rows * width + 1 + tokens * features
        self.layers = nn.Sequential(
            nn.Linear(inputs, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU(), nn.Linear(size, 1)
        )

    def forward(self, u: Tensor, share: Tensor, conditioning: Tensor) -> Tensor:
        """The logit of the probability, (B,).

        u: (B, L, Dz), the mean of x_0 by `posterior`. share: (B,), `NoiseLevel.share`. conditioning: (B, S, Dc), by
        `policy.encode`.
        """
        return self.layers(torch.cat([u.flatten(1), share[:, None], conditioning.flatten(1)], dim=1))[:, 0]

    def logits(self, policy: DiffusionPolicy, lesson: Lesson) -> Tensor:
        """The logits (K B,) of the windows of a lesson, with the noise of each of its K draws added."""
        noise, draws = lesson.noise.flatten(0, 1), len(lesson.noise)
        alpha, sigma = policy.schedule(policy.schedule.time(lesson.uniform[..., 0].flatten()))
        x_0 = policy.space.at(lesson.observation).encode(lesson.action).repeat(draws, 1, 1)
        x_t = alpha[:, None, None] * x_0 + sigma[:, None, None] * noise
        gain, _ = posterior(alpha[:, None, None], sigma[:, None, None], policy.space.std)
        return self(gain * x_t, alpha / (alpha + sigma), policy.encode(lesson.observation).repeat(draws, 1, 1))

    def guidance(self, policy: DiffusionPolicy, *, holds: bool, weight: float) -> Classified:
        """Guidance towards chunks that have the property, or do not have it."""
        sign = 1 if holds else -1

        def classify(observation: Mapping[str, Tensor]) -> LogProbability:
            conditioning = policy.encode(observation)

            def log_probability(u: Tensor, level: NoiseLevel) -> Tensor:
                share = torch.full((len(u),), level.share, device=u.device)
                return nn.functional.logsigmoid(sign * self(u, share, conditioning))

            return log_probability

        return Classified(classify, weight)

    def save(self, folder: Path, policy: DiffusionPolicy, **notes: Any) -> None:
        """Write `classifier.json` and `classifier.safetensors` into an existing folder. notes: further JSON."""
        policy_digest = digest_of(policy.encoder, policy.learned)
        write_part(folder, NAME, self.state_dict(), size=self.size, policy=policy_digest, **notes)

    @classmethod
    def load(cls, folder: Path, policy: DiffusionPolicy) -> Classifier:
        """The classifier of a folder, on the device of the policy.

        Raises FileNotFoundError if there is none, and ValueError if it is damaged or of another policy.
        """
        content, tensors = read_part(folder, NAME, remedy=REMEDY)
        with interpreting(folder, REMEDY):
            if content["policy"] != digest_of(policy.encoder, policy.learned):
                raise ValueError(f"{folder} is the classifier of a policy that sees in another way: {REMEDY}")
            classifier = cls(policy, size=content["size"])
            classifier.load_state_dict(tensors)
        return classifier.to(policy.normalizer.action_std.device).eval().requires_grad_(False)
