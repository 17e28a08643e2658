"""Plain behaviour cloning with the same parts: the baseline that must take the mean of what demonstrators do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..specification import Horizons, Prefix, Specification
from .guidance import blended
from .inputs import check_observation, check_prefix
from .interface import Encoder, Network, Observation
from .normalizer import Normalizer


class RegressionPolicy(nn.Module):
    """The network answers with the action chunk at once, from an empty chunk at time 0; trained by squared error."""

    def __init__(
        self,
        specification: Specification,
        horizons: Horizons,
        *,
        normalizer: Normalizer,
        encoder: Encoder,
        network: Network,
    ) -> None:
        super().__init__()
        self.specification, self.horizons = specification, horizons
        self.normalizer, self.encoder, self.network = normalizer, encoder, network

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """No draws: the prediction is deterministic."""
        return 0, self.horizons.prediction, self.specification.action.size

    def forward(self, observation: Observation) -> Tensor:
        """The normalised chunk (B, Tp, Da)."""
        conditioning = self.encoder(self.normalizer.observation(observation))
        size = len(conditioning), self.horizons.prediction, self.specification.action.size
        return self.network(conditioning.new_zeros(size), conditioning.new_zeros(size[0]), conditioning)

    def loss(self, observation: Observation, action: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Squared error per step, (1, B, Tp); noise and level are not used. See `Policy.loss`."""
        check_observation(observation, self.specification, self.horizons, crop=self.encoder.crop)
        return (self(observation) - self.normalizer.action(action)).square().mean(dim=-1)[None]

    @torch.no_grad()
    def predict(self, observation: Observation, noise: Tensor, prefix: Prefix | None = None) -> Tensor:
        """An action chunk (B, Tp, Da) in the units of the specification; noise is not used. See `Policy.predict`.

        There is one estimate and nothing to guide: it is drawn towards what is planned by its weights.
        """
        check_observation(observation, self.specification, self.horizons)
        chunk = self.normalizer.unnormalised_action(self(observation))
        if prefix is None:
            return chunk
        check_prefix(prefix, noise)
        return blended(chunk, prefix)
