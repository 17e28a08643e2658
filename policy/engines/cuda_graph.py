"""PyTorch on an NVIDIA GPU, captured once and replayed: a chunk is one launch, not thousands."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...specification import Prefix
from ..diffusion import DiffusionPolicy
from ..inputs import check_noise, check_observation, check_prefix, num_rows
from .eager import EagerEngine
from .interface import Arrays, check_is_inexact
from .torch_modules import Exportable, embedded

HALVED = nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d
"""Layers whose weights are held in bf16; norms and what is added stay in fp32, as in training with precision=bf16."""


MOST_CAPTURED = 32
"""Graphs that are held at once; each holds its own memory."""


@dataclass(frozen=True)
class Captured:
    """A captured prediction: its graph, the buffers that it reads, and the one that it writes."""

    graph: Any
    observation: dict[str, Tensor]
    noise: Tensor
    prefix: Prefix
    chunk: Tensor


class CudaGraphEngine(EagerEngine):
    """Encoder and sampler as one CUDA graph with static buffers, weights in bf16. See `Engine`.

    It is captured anew for each number of rows, start and limit, which a graph holds as constants; no prefix is zeros
    with zero weights. What the network makes of the times is a constant too. Raises ValueError where there is no GPU.
    """

    name, precision = "cuda_graph", "bf16"

    def __init__(self, policy: Exportable) -> None:
        if not torch.cuda.is_available():
            raise ValueError(
                "engine=cuda_graph needs an NVIDIA GPU that torch can use, and there is none here: "
                "use engine=onnx or engine=openvino"
            )
        policy = deepcopy(policy).to("cuda").eval().requires_grad_(False)
        if isinstance(policy, DiffusionPolicy):
            table = embedded(policy)
            policy.embed = lambda times, device: table  # type: ignore[method-assign]
        for part in (policy.encoder, policy.network):
            for layer in part.modules():  # type: ignore[attr-defined]
                if isinstance(layer, HALVED):
                    layer.bfloat16()
        super().__init__(policy)
        self._captured: dict[tuple[int, float, float], Captured] = {}

    def predict(self, observation: Arrays, noise: NDArray[Any], prefix: Prefix | None = None) -> NDArray[Any]:
        """An action chunk in units; see `Engine.predict`."""
        check_is_inexact(prefix, self.name)
        given = {name: torch.as_tensor(values) for name, values in observation.items()}
        check_observation(given, self.specification, self.horizons)
        drawn = torch.as_tensor(noise).float()
        check_noise(drawn, self.noise_shape, num_rows(given))
        if prefix is None:
            prefix = Prefix(torch.zeros(drawn.shape[1:]), torch.zeros(drawn.shape[1:-1]))
        check_prefix(prefix, drawn)
        key = drawn.shape[1], prefix.start, prefix.limit
        if key not in self._captured:
            if len(self._captured) >= MOST_CAPTURED:
                del self._captured[next(iter(self._captured))]  # the oldest
            self._captured[key] = self._capture(given, drawn, prefix)
        captured = self._captured[key]
        for name, values in given.items():
            captured.observation[name].copy_(values)
        captured.noise.copy_(drawn)
        captured.prefix.actions.copy_(torch.as_tensor(prefix.actions))
        captured.prefix.weights.copy_(torch.as_tensor(prefix.weights))
        captured.graph.replay()
        return captured.chunk.cpu().numpy()  # the copy waits for the device

    def encode(self, observation: Arrays) -> NDArray[Any]:
        """What depends on the observation alone, not captured; see `Engine.encode`."""
        with self._half():
            return super().encode(observation)

    def denoise(self, noisy: NDArray[Any], t: float, condition: NDArray[Any]) -> NDArray[Any]:
        """One denoising step, not captured; see `Engine.denoise`."""
        with self._half():
            return super().denoise(noisy, t, condition)

    def _half(self) -> torch.autocast:
        # Weights are never converted twice, and a cache of conversions must not outlive a capture.
        return torch.autocast("cuda", torch.bfloat16, cache_enabled=False)

    def _capture(self, observation: dict[str, Tensor], noise: Tensor, prefix: Prefix) -> Captured:
        held = {name: values.to("cuda") for name, values in observation.items()}
        actions, weights = (torch.as_tensor(each).float().to("cuda") for each in (prefix.actions, prefix.weights))
        drawn, planned = noise.to("cuda"), replace(prefix, actions=actions, weights=weights)

        def predict() -> Tensor:
            with self._half():
                return self.policy.predict(held, drawn, planned).float()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their kernels before anything is captured
                predict()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            chunk = predict()
        return Captured(graph, held, drawn, planned, chunk)
