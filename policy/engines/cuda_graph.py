"""PyTorch on an NVIDIA GPU, captured once and replayed: a chunk is one launch, not thousands."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..denoising.guidance import Guidance, Prefix, check_guidance, mapped
from ..diffusion import DiffusionPolicy
from ..inputs import check_noise, check_observation, num_rows
from .eager import EagerEngine
from .interface import Arrays, check_without_gradient

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
    guidance: tuple[Guidance, ...]
    chunk: Tensor


class CudaGraphEngine(EagerEngine):
    """Encoder and sampler as one CUDA graph with static buffers, weights in bf16. See `Engine`.

    It is captured anew for each number of rows and each kind of guidance, whose settings a graph holds as constants. No
    guidance is a prefix without weight, so that the first prefix of an episode does not wait for a capture. What the
    network makes of the times is a constant too. Raises ValueError if there is no GPU.
    """

    name, precision = "cuda_graph", "bf16"

    def __init__(self, policy: DiffusionPolicy) -> None:
        if not torch.cuda.is_available():
            raise ValueError(
                "engine=cuda_graph needs an NVIDIA GPU that torch can use, and there is none here: "
                "use engine=onnx or engine=openvino"
            )
        policy = deepcopy(policy).to("cuda").eval().requires_grad_(False)
        policy.hold_times()
        for part in (policy.encoder, policy.network):
            for layer in part.modules():  # type: ignore[attr-defined]
                if isinstance(layer, HALVED):
                    layer.bfloat16()
        super().__init__(policy)
        self._captured: dict[Hashable, Captured] = {}

    def predict(self, observation: Arrays, noise: NDArray[Any], guidance: Sequence[Guidance] = ()) -> NDArray[Any]:
        """An action chunk in units; see `Engine.predict`."""
        check_without_gradient(guidance, self.name)
        given = {name: torch.as_tensor(values) for name, values in observation.items()}
        check_observation(given, self.specification, self.horizons)
        drawn = torch.as_tensor(noise).float()
        check_noise(drawn, self.noise_shape, num_rows(given))
        guidance = guidance or [Prefix(torch.zeros(drawn.shape[1:]), torch.zeros(drawn.shape[1:-1]))]
        check_guidance(guidance, drawn)
        key = drawn.shape[1], *(guide.kind for guide in guidance)
        if key not in self._captured:
            if len(self._captured) >= MOST_CAPTURED:
                del self._captured[next(iter(self._captured))]  # the oldest
            self._captured[key] = self._capture(given, drawn, guidance)
        captured = self._captured[key]
        for name, values in given.items():
            captured.observation[name].copy_(values)
        captured.noise.copy_(drawn)
        for held, guide in zip(captured.guidance, guidance, strict=True):
            for name, values in guide.arrays.items():
                held.arrays[name].copy_(torch.as_tensor(values))
        captured.graph.replay()
        return captured.chunk.cpu().numpy()  # the copy waits for the device

    def _half(self) -> torch.autocast:
        # Weights are never converted twice, and a cache of conversions must not outlive a capture.
        return torch.autocast("cuda", torch.bfloat16, cache_enabled=False)

    def _capture(self, observation: dict[str, Tensor], noise: Tensor, guidance: Sequence[Guidance]) -> Captured:
        seen, drawn = {name: values.to("cuda") for name, values in observation.items()}, noise.to("cuda")
        guides = tuple(mapped(guide, lambda array: torch.as_tensor(array).float().to("cuda")) for guide in guidance)

        def predict() -> Tensor:
            with self._half():
                return self.policy.predict(seen, drawn, guides).float()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their kernels before anything is captured
                predict()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            chunk = predict()
        return Captured(graph, seen, drawn, guides, chunk)
