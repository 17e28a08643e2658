"""Measurements during training: the loss, the time of each part, and the error and the bound of held-out actions."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..checkpoints.runs import BITS_OF
from ..datasets.windows import Windows
from ..policy.diffusion import DiffusionPolicy
from ..policy.likelihood import bound_gains, bound_rest, bound_terms
from ..policy.objective import Denoising
from .run import Run

Moment: TypeAlias = "float | torch.cuda.Event"
"""A moment on the clock of the host in seconds, or in the work of a GPU."""

MOST_SPANS = 1000
"""Spans of time that wait to be summed; a GPU sums them once it has come so far."""


class Meter:
    """Means of the loss and of the gradient norm since the last `drain`, and how long the parts of the steps took.

    Nothing waits for the device: a GPU notes the moments itself, when it comes to them. So the time of a part is the
    time that the GPU spent on it, idle or not, and not the time in which the host gave it the work.

    sums: (3,) sums of loss, gradient norm and steps. They stay on the device, because reading them waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)
        self._seconds: dict[str, float] = {}
        self._spans: list[tuple[str, Moment, Moment]] = []

    def moment(self) -> Moment:
        """Now; on a GPU, when it has done the work that it was given so far."""
        if self.sums.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.sums.device))
        return event

    def add(self, loss: Tensor, gradient_norm: Tensor, **spans: tuple[Moment, Moment]) -> None:
        """Add one step. spans: a part's name -> when it began and ended."""
        self.sums += torch.stack([loss, gradient_norm, torch.ones_like(loss)])
        self._spans += [(name, *span) for name, span in spans.items()]
        if len(self._spans) > MOST_SPANS:
            self._sum_spans()

    def drain(self) -> dict[str, float]:
        """Mean loss, mean gradient norm and total seconds by name; then reset."""
        loss, norm, count = self.sums.tolist()
        self._sum_spans()
        means = {"loss": loss / count, "gradient_norm": norm / count, **self._seconds}
        self.sums.zero_()
        self._seconds = {}
        return means

    def _sum_spans(self) -> None:
        for name, began, ended in self._spans:
            self._seconds[name] = self._seconds.get(name, 0.0) + _seconds_between(began, ended)
        self._spans = []


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has taken so far, of a GPU or else of the machine, GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _seconds_between(began: Moment, ended: Moment) -> float:
    if isinstance(began, float) and isinstance(ended, float):
        return ended - began
    ended.synchronize()  # type: ignore[union-attr]
    return began.elapsed_time(ended) / 1e3  # type: ignore[union-attr, arg-type]


def mean_where(error: Tensor, is_counted: Tensor) -> Tensor:
    """The mean of errors (K, B, L) over the counted steps (B, L). Nothing waits for the device."""
    return error.where(is_counted, 0).sum() / (len(error) * is_counted.sum())


def is_finite(meter: Meter, policy: nn.Module) -> bool:
    """Whether the losses and gradients since the last `drain` and all weights are finite. Waits once."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in (meter.sums, *policy.parameters())]).all())


@torch.no_grad()
def action_error(policy: Any, windows: Windows, *, seed: int, most: int = 512) -> float:
    """Mean absolute error of predicted actions on at most `most` evenly spread windows.

    It covers the executed steps, and is a share of each dimension's range in the training data. It does not fall to
    zero on multimodal data: the demonstrator chose one of several good actions.

    policy: a `Policy` with a normalizer.
    """
    batch = windows.batch(torch.linspace(0, len(windows) - 1, min(most, len(windows))).long())
    draws, *shape = policy.noise_shape
    noise = torch.randn(draws, len(batch.action), *shape, generator=torch.Generator().manual_seed(seed))
    predicted = policy.predict(batch.observation, noise.to(batch.action.device))
    normalise = policy.normalizer.action
    error = (normalise(predicted) - normalise(batch.action)).abs()[:, policy.horizons.executed]
    return error.mean().item() / 2  # normalised values span [-1, 1]


BOUND_ROWS = 1024
"""Noisy chunks by which the variational bound is estimated."""


@torch.no_grad()
def held_out_bits(policy: Any, windows: Windows, *, seed: int, most: int = 512) -> dict[str, float]:
    """The variational bound of at most `most` evenly spread windows, as `bits_per_dimension` of normalised chunks.

    It is an estimate with about `BOUND_ROWS` draws of noise, the same at every checkpoint. Half of them are spread over
    all noise levels, and half over the levels by their weight in the bound, where an untrained network errs most.
    `BITS_OF` names what the steps of each tenth of the noise levels add to it. Empty for policies that are not trained
    to denoise.
    """
    if not (isinstance(policy, DiffusionPolicy) and policy.has_noise and type(policy.objective) is Denoising):
        return {}
    batch = windows.batch(torch.linspace(0, len(windows) - 1, min(most, len(windows))).long())
    generator, size = torch.Generator().manual_seed(seed), len(batch.action)
    count, gains = max(1, BOUND_ROWS // size), bound_gains(policy).cpu()
    shares = (1 / len(gains) + gains / gains.sum()) / 2
    even = (torch.randperm(count * size, generator=generator) + 0.5) / (count * size)
    level = torch.searchsorted(shares.cumsum(dim=0), even).clamp_(max=len(gains) - 1).view(count, size)
    noise = torch.randn(count, size, *policy.noise_shape[1:], generator=generator).to(batch.action)
    terms = bound_terms(policy, batch.observation, batch.action, noise=noise, level=level.to(noise.device))
    added, tenth = (terms / shares[level].to(noise)).cpu(), 10 * level // len(gains)
    parts = {f"{BITS_OF}{number + 1}": (added * (tenth == number)).mean().item() for number in range(10)}
    return {
        "bits_per_dimension": (added.mean() + bound_rest(policy, batch.observation, batch.action).mean().cpu()).item(),
        **parts,
    }


@contextmanager
def metrics_writer(run: Run, tensorboard: bool) -> Generator[Callable[..., None]]:
    """A function `write(step=..., loss=..., ...)` that appends to the run's JSON lines and, if set, to TensorBoard.

    Raises ValueError if `tensorboard` is set and TensorBoard is not installed.
    """
    if not tensorboard:
        yield run.log
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("tensorboard=true needs TensorBoard: pip install 'recede[tensorboard]'") from None
    with SummaryWriter(str(run.folder / "tensorboard")) as board:

        def write(*, step: int, **values: Any) -> None:
            run.log(step=step, **values)
            for name, value in values.items():
                board.add_scalar(name, value, step)

        yield write
