"""The gradients of an update: computed operation by operation, or on a GPU as one CUDA graph.

A GPU computes the small networks of a policy faster than Python launches their operations, about a thousand an update.
A graph launches them all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from inspect import signature
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..configs.training import TrainConfig
from ..policy.interface import Lesson
from .measures import mean_where
from .processes import ALONE, Processes

WARM_UPS = 2
"""Updates before the capture. In the first, libraries and parts prepare themselves; the last must wait for nothing."""

BACKEND = "inductor"
"""The compiler of `compile=true`; a test may take one that needs no C++."""


class Part(NamedTuple):
    """Rows of a batch that go through the policy together."""

    lesson: Lesson
    is_padding: Tensor
    """(B, Tp), where the steps lie beyond their episodes."""
    weight: Tensor | float = 1.0
    """Its share in the mean loss of the batch; the shares of all parts, in all processes, add up to 1."""


class Result(NamedTuple):
    """What an update tells of itself; a captured one is overwritten by the next."""

    loss: Tensor
    """(), the mean loss."""
    norm: Tensor
    """(), the norm of the gradient before it was clipped."""


Update: TypeAlias = Callable[[Sequence[Part]], Result]
"""Sets the gradients of all parameters, for the parts of a batch that this process computes."""


class Loss(nn.Module):
    """The loss of a policy as a module that is called, which is how DistributedDataParallel watches the gradients.

    compute: the policy's loss, perhaps compiled. The policy itself stays as it is, with the names of its weights.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy, self.compute = policy, policy.loss

    def forward(self, lesson: Lesson) -> Tensor:
        """Lesson -> error (K, B, L) of every step."""
        return self.compute(lesson)


class Gradients:
    """The gradients of a policy's loss, clipped to a norm. See `Update`.

    is_masked: whether padding is left out of the loss. is_bf16: whether matrix products are in 16 bits. processes:
    those that have the other parts of each batch; their gradients are added while they are computed.
    """

    def __init__(
        self, policy: Any, *, clip: float, is_masked: bool, is_bf16: bool, processes: Processes = ALONE
    ) -> None:
        self.clip, self.is_masked, self.is_bf16, self.processes = clip, is_masked, is_bf16, processes
        self.parameters = list[Tensor](policy.parameters())
        self.own = Loss(policy)
        self.loss: Any = self.own
        if processes.count > 1:
            self.loss = DistributedDataParallel(self.own, **_no_exchange_of_buffers())

    def __call__(self, parts: Sequence[Part]) -> Result:
        """Compute them anew. The processes exchange them once, with the last part."""
        for parameter in self.parameters:
            parameter.grad = None
        losses = list[Tensor]()
        for part in parts:
            is_last = part is parts[-1]
            with nullcontext() if is_last or self.processes.count == 1 else self.loss.no_sync():
                losses.append(self._backward(part))
        total = self.processes.total(losses[0] if len(losses) == 1 else torch.stack(losses).sum())
        return Result(total, torch.nn.utils.clip_grad_norm_(self.parameters, self.clip))

    def _backward(self, part: Part) -> Tensor:
        """Add the gradients of a part; returns its share of the mean loss, ()."""
        error = self._error(self.loss, part)
        mean = mean_where(error, ~part.is_padding) if self.is_masked else error.mean()
        loss = mean * part.weight
        (loss * self.processes.count).backward()  # the processes average their gradients
        return loss.detach()

    def _error(self, loss: Any, part: Part) -> Tensor:
        """The error (K, B, L) of every step."""
        with torch.autocast(part.is_padding.device.type, torch.bfloat16, enabled=self.is_bf16):
            return loss(part.lesson)

    def compile(self, part: Part) -> str:
        """Compile the loss and its gradients, for parts like this one; returns why that failed, or "".

        If it fails, the loss is computed as before. No gradient is set.
        """
        policy = self.own.policy
        # Dropout draws what it draws without a compiler.
        options: Any = {"fallback_random": True} if BACKEND == "inductor" else None
        self.own.compute = torch.compile(policy.loss, backend=BACKEND, options=options)
        try:
            learned = [parameter for parameter in self.parameters if parameter.requires_grad]
            torch.autograd.grad(self._error(self.own, part).mean(), learned, allow_unused=True)
        except Exception as error:  # a compiler may fail in any way
            self.forget_compiled()
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return ""

    def forget_compiled(self) -> None:
        """Compute the loss without a compiler."""
        self.own.compute = self.own.policy.loss


def compile_loss(gradients: Gradients, part: Part, processes: Processes = ALONE) -> None:
    """Compile the loss in all processes. If that fails in one of them, none has it compiled, and the first says so."""
    reason = gradients.compile(part)
    failed = int(processes.total(torch.tensor(int(bool(reason)))))
    if failed:
        gradients.forget_compiled()
    if failed and processes.is_first:
        print(f"compile: training goes on without it, because {reason or f'it failed in {failed} other processes'}")


class CapturedGradients:
    """Gradients that a CUDA graph computes from the third batch on, of one part each; all have the same shapes.

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

    def __call__(self, parts: Sequence[Part]) -> Result:
        """Replay the graph; capture it first if the warm-up is over. See `Update`."""
        [(lesson, is_padding, _)] = parts
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
            result = self.gradients([Part(lesson, is_padding)])
        current.wait_stream(self.stream)
        self.num_warm_ups += 1
        return result

    def _capture(self, lesson: Lesson, is_padding: Tensor) -> tuple[Any, list[Tensor], Result]:
        inputs = [x.clone() for x in (*_tensors(lesson), is_padding)]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            result = self.gradients([Part(_lesson_of(lesson, inputs), inputs[-1])])
        return graph, inputs, result


def update_of(config: TrainConfig, policy: Any, device: torch.device, processes: Processes = ALONE) -> Any:
    """The update of a training, captured if `config` and the device allow it."""
    gradients = Gradients(
        policy,
        clip=config.gradient_clip,
        is_masked=config.mask_padding,
        is_bf16=config.precision == "bf16",
        processes=processes,
    )
    is_one_pass = processes.count * config.accumulate == 1
    is_plain = not (config.compile or config.gradient_checkpointing)
    if config.capture and device.type == "cuda" and is_one_pass and is_plain:
        return CapturedGradients(gradients, device)
    return gradients


def recompute_images(policy: Any, *, is_on: bool) -> None:
    """Set whether the image encoders compute their activations again in the backward pass.

    Raises ValueError if the policy has no image encoder, or one that cannot.
    """
    recompute = getattr(getattr(policy, "encoder", None), "recompute", None)
    if recompute is None:
        raise ValueError(
            f"gradient_checkpointing=true needs a policy whose encoder has recompute, got {type(policy).__name__}: "
            "leave it out, or give accumulate="
        )
    recompute(is_on=is_on)


def _no_exchange_of_buffers() -> dict[str, Any]:
    """The option of DistributedDataParallel by which no update exchanges buffers; newer releases have renamed it."""
    names = "forward_sync_buffers", "broadcast_buffers"
    return {next(name for name in names if name in signature(DistributedDataParallel).parameters): False}


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
