"""The gradients of an update: computed operation by operation, or on a GPU as one CUDA graph.

A GPU computes the small networks of a policy faster than Python launches their operations, about a thousand an update.
A graph launches them all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..policy.interface import Lesson
from .measures import mean_where

WARM_UPS = 2
"""Updates before the capture. In the first, libraries and parts prepare themselves; the last must wait for nothing."""


class Result(NamedTuple):
    """What an update tells of itself; a captured one is overwritten by the next."""

    loss: Tensor
    """(), the mean loss."""
    norm: Tensor
    """(), the norm of the gradient before it was clipped."""


Update: TypeAlias = Callable[[Lesson, Tensor], Result]
"""Sets the gradients of all parameters, for a lesson and where its steps are padding (B, Tp)."""


class Gradients:
    """The gradients of a policy's loss, clipped to a norm. See `Update`.

    is_masked: whether padding is left out of the loss. is_bf16: whether matrix products are in 16 bits.
    """

    def __init__(self, policy: Any, *, clip: float, is_masked: bool, is_bf16: bool) -> None:
        self.policy, self.clip, self.is_masked, self.is_bf16 = policy, clip, is_masked, is_bf16
        self.parameters = list[Tensor](policy.parameters())

    def __call__(self, lesson: Lesson, is_padding: Tensor) -> Result:
        """Compute them anew."""
        for parameter in self.parameters:
            parameter.grad = None
        with torch.autocast(lesson.action.device.type, torch.bfloat16, enabled=self.is_bf16):
            error = self.policy.loss(lesson)  # (K, B, L)
        loss = mean_where(error, ~is_padding) if self.is_masked else error.mean()
        loss.backward()
        return Result(loss.detach(), torch.nn.utils.clip_grad_norm_(self.parameters, self.clip))


class CapturedGradients:
    """Gradients that a CUDA graph computes from the third lesson on; all lessons have the same shapes. See `Update`.

    The graph reads the weights, which the optimiser changes in place, and buffers that each lesson is copied to. It has
    the average and the teacher of the lesson that it was captured with. Whatever else a part computes on the host, it
    has computed for that lesson.

    Raises ValueError if the loss waits for the GPU or does anything else that a graph cannot hold.
    """

    def __init__(self, gradients: Gradients, device: torch.device) -> None:
        self.gradients, self.device = gradients, device
        with torch.cuda.device(device):
            self.stream = torch.cuda.Stream()
        self.num_warm_ups = 0
        self._captured: tuple[Any, list[Tensor], Result] | None = None

    def __call__(self, lesson: Lesson, is_padding: Tensor) -> Result:
        """Replay the graph; capture it first if the warm-up is over."""
        with torch.cuda.device(self.device), _explained():
            if self.num_warm_ups < WARM_UPS:
                return self._warm_up(lesson, is_padding)
            self._captured = self._captured or self._capture(lesson, is_padding)
            graph, inputs, result = self._captured
            for buffer, x in zip(inputs, [*_tensors(lesson), is_padding], strict=True):
                buffer.copy_(x)
            graph.replay()
            return result

    def _warm_up(self, lesson: Lesson, is_padding: Tensor) -> Result:
        """An update like any other, on the stream of the capture."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream), _no_waits(self.num_warm_ups == WARM_UPS - 1):
            result = self.gradients(lesson, is_padding)
        current.wait_stream(self.stream)
        self.num_warm_ups += 1
        return result

    def _capture(self, lesson: Lesson, is_padding: Tensor) -> tuple[Any, list[Tensor], Result]:
        inputs = [x.clone() for x in (*_tensors(lesson), is_padding)]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            result = self.gradients(_lesson_of(lesson, inputs), inputs[-1])
        return graph, inputs, result


def _tensors(lesson: Lesson) -> list[Tensor]:
    return [*lesson.observation.values(), lesson.action, lesson.noise, lesson.uniform, lesson.progress]


def _lesson_of(lesson: Lesson, tensors: list[Tensor]) -> Lesson:
    """The lesson with other tensors, in the order of `_tensors`."""
    rest = iter(tensors)
    observation: Mapping[str, Tensor] = {name: next(rest) for name in lesson.observation}
    action, noise, uniform, progress = (next(rest) for _ in range(4))
    return replace(lesson, observation=observation, action=action, noise=noise, uniform=uniform, progress=progress)


@contextmanager
def _no_waits(is_forbidden: bool) -> Generator[None]:
    """Whatever waits for the GPU raises RuntimeError while the block lasts, if that is forbidden."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error" if is_forbidden else before)
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _explained() -> Generator[None]:
    """Raise ValueError with the remedy for what a graph cannot hold."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if not any(word in str(error) for word in ("synchroniz", "captur")):
            raise
        raise ValueError(
            f"the loss cannot become a CUDA graph: {' '.join(str(error).split())[:200]}; compute it without waiting "
            "for the GPU, or give capture=false"
        ) from error
