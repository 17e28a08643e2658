"""PyTorch on an NVIDIA GPU, captured once and replayed: a chunk is one launch instead of thousands."""

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
from ..representation import NEEDS_TORCH
from .interface import Arrays, check_without_gradient
from .pieces import check_sampler
from .transfer import Packed

BF16_LAYERS = nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d
"""Layers whose weights are held in bf16. Norms and sums stay in fp32, as in training with precision=bf16."""


MAX_GRAPHS = 32
"""The most graphs that are kept. Each has its own memory; the least recently used is dropped."""


@dataclass(frozen=True)
class Captured:
    """A captured prediction."""

    graph: torch.cuda.CUDAGraph
    """Replays the prediction."""

    inputs: Packed
    """What the graph reads; see `_inputs`."""

    chunk: Tensor
    """The buffer that the graph writes, (B, Tp, Da)."""

    host: Packed
    """The next inputs, on the CPU."""


class CudaGraphEngine:
    """Encoder and sampler as one CUDA graph with static buffers and weights in bf16. See `Engine`.

    A graph holds what the network makes of the times as constants; the limit of a prefix is an input. Batches are
    padded to 1, 2, 4, 8, ... rows, and a new graph is captured for each of these sizes and each number of denoising
    steps. A prediction without guidance has a prefix without weight, so that the first prefix of an episode does not
    wait for a capture. Raises ValueError if there is no GPU, or if the sampler is a scheduler of diffusers.
    """

    name, precision = "cuda_graph", "bf16"

    def __init__(self, policy: DiffusionPolicy) -> None:
        if not torch.cuda.is_available():
            raise ValueError(
                "engine=cuda_graph needs an NVIDIA GPU that torch can use, and there is none here: "
                "use engine=onnx or engine=openvino"
            )
        check_sampler(policy)
        device = next(policy.parameters()).device
        self.device = device if device.type == "cuda" else torch.device("cuda")
        self.policy = deepcopy(policy).to(self.device).eval().requires_grad_(False)
        self.policy.hold_times()
        for part in (self.policy.encoder, self.policy.network):
            for layer in part.modules():  # type: ignore[attr-defined]
                if isinstance(layer, BF16_LAYERS):
                    layer.bfloat16()
        self.specification, self.horizons = policy.specification, policy.horizons
        self._captured: dict[Hashable, Captured] = {}

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, L, Dz) of one prediction; see `Engine.noise_shape`."""
        return self.policy.noise_shape

    def predict(self, observation: Arrays, noise: NDArray[Any], guidance: Sequence[Guidance] = ()) -> NDArray[Any]:
        """An action chunk in units; see `Engine.predict`."""
        check_without_gradient(guidance, self.name)
        tensors = {name: torch.as_tensor(values) for name, values in observation.items()}
        check_observation(tensors, self.specification, self.horizons)
        drawn = torch.as_tensor(noise).float()
        check_noise(drawn, self.noise_shape, num_rows(tensors))
        if not self.policy.representation.is_plain and any(guide.needs_mean for guide in guidance):
            raise ValueError(NEEDS_TORCH)
        chunk = drawn.shape[1], self.horizons.prediction, *self.specification.action.shape
        guidance = guidance or [Prefix(torch.zeros(chunk), torch.zeros(chunk[:-1]))]
        check_guidance(guidance, chunk)
        num_steps = len(self.policy.sampler.levels) - 1
        guidance = [guide.for_graph(num_steps) if isinstance(guide, Prefix) else guide for guide in guidance]
        rows, inputs = drawn.shape[1], self._inputs(tensors, drawn, guidance)
        num_padded = 1 << max(rows - 1, 0).bit_length()
        key = num_padded, *(guide.kind for guide in guidance)
        with torch.cuda.device(self.device):  # streams and graphs are those of the current GPU
            captured = self._captured.pop(key, None)
            if captured is None:
                if len(self._captured) >= MAX_GRAPHS:
                    del self._captured[next(iter(self._captured))]  # the least recently used
                captured = self._capture(inputs, guidance, num_padded)
            self._captured[key] = captured  # the last is the most recently used
            return self._replay(captured, inputs, rows)

    def _inputs(self, tensors: dict[str, Tensor], drawn: Tensor, guidance: Sequence[Guidance]) -> list[Tensor]:
        """The streams in their order (B, To, ...), the noise (B, draws, L, Dz), and the arrays of guidance."""
        declared = self.specification.observations
        streams = [tensors[s.name] if s.is_image else tensors[s.name].float() for s in declared]
        arrays = [torch.as_tensor(array).float() for guide in guidance for array in guide.arrays.values()]
        return [*streams, drawn.transpose(0, 1), *arrays]

    def _replay(self, captured: Captured, inputs: Sequence[Tensor], rows: int) -> NDArray[Any]:
        """Rows beyond `rows` are those of an earlier prediction, and nobody reads their chunks."""
        for part, x in zip(captured.host.parts, inputs, strict=True):
            (part[:rows] if part.ndim else part).copy_(x)
        captured.inputs.memory.copy_(captured.host.memory)
        captured.graph.replay()
        return captured.chunk[:rows].cpu().numpy()  # the copy waits for the device

    def _capture(self, inputs: Sequence[Tensor], guidance: Sequence[Guidance], num_padded: int) -> Captured:
        like = [x.new_empty(num_padded, *x.shape[1:]) if x.ndim else x for x in inputs]
        buffers, host = Packed(like, self.device), Packed(like, torch.device("cpu"))
        parts = iter(buffers.parts)
        observation = {stream.name: next(parts) for stream in self.specification.observations}
        drawn, guides = next(parts).transpose(0, 1), [mapped(guide, lambda _: next(parts)) for guide in guidance]

        def predict() -> Tensor:
            # The weights are bf16 already, and a cache of conversions must not outlive a capture.
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                return self.policy.predict(observation, drawn, guides).float()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their kernels before the capture
                predict()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile, as a camera's does. The stream is of this GPU; torch's own is of the
        # GPU that it first captured on.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            chunk = predict()
        return Captured(graph, buffers, chunk, host)
