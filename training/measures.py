"""Measurements during training: the loss, the time of each part, and the error of held-out actions."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..datasets.windows import Windows
from .run import Run


class Meter:
    """Means of the loss and of the gradient norm since the last `drain`.

    sums: (3,) sums of loss, gradient norm and steps. They stay on the device, because reading them waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)
        self._seconds: dict[str, float] = {}

    def add(self, loss: Tensor, gradient_norm: Tensor, **seconds: float) -> None:
        """Add one step."""
        self.sums += torch.stack([loss, gradient_norm, torch.ones_like(loss)])
        for name, duration in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + duration

    def drain(self) -> dict[str, float]:
        """Mean loss, mean gradient norm and total seconds by name; then reset."""
        loss, norm, count = self.sums.tolist()
        means = {"loss": loss / count, "gradient_norm": norm / count, **self._seconds}
        self.sums.zero_()
        self._seconds = {}
        return means


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
