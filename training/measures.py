"""What is measured while training: the loss, where the time goes, and the error of held-out actions."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..datasets.windows import Windows
from .run import Run


class Meter:
    """Means of the loss and the gradient's norm since they were last drained.

    sums: (3,), of the loss, of the norm and of the steps, on the device, because reading them would wait for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)
        self._seconds: dict[str, float] = {}

    def add(self, loss: Tensor, gradient_norm: Tensor, **seconds: float) -> None:
        """Take one step."""
        self.sums += torch.stack([loss, gradient_norm, torch.ones_like(loss)])
        for name, taken in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + taken

    def drain(self) -> dict[str, float]:
        """Mean loss and gradient norm, and seconds in all; then start anew."""
        loss, norm, count = self.sums.tolist()
        measured = {"loss": loss / count, "gradient_norm": norm / count, **self._seconds}
        self.sums.zero_()
        self._seconds = {}
        return measured


def is_finite(meter: Meter, policy: nn.Module) -> bool:
    """Whether every loss and gradient of late, and every weight, is finite; waits for the device."""
    return all(bool(tensor.isfinite().all()) for tensor in (meter.sums, *policy.parameters()))


@torch.no_grad()
def action_error(policy: Any, windows: Windows, *, seed: int, most: int = 512) -> float:
    """How far predicted actions are from the demonstrated ones, on at most `most` windows spread evenly.

    The mean absolute difference over the executed steps, as a share of each dimension's range in the training data. It
    does not fall to zero: a demonstrator who might do either of two things does one of them.

    policy: a `Policy` that has a normalizer.
    """
    batch = windows.batch(torch.linspace(0, len(windows) - 1, min(most, len(windows))).long())
    draws, *shape = policy.noise_shape
    noise = torch.randn(draws, len(batch.action), *shape, generator=torch.Generator().manual_seed(seed))
    predicted = policy.predict(batch.observation, noise.to(batch.action.device))
    normalise = policy.normalizer.action
    error = (normalise(predicted) - normalise(batch.action)).abs()[:, policy.horizons.executed]
    return error.mean().item() / 2  # the range is [-1, 1]


@contextmanager
def metrics_writer(run: Run, tensorboard: bool) -> Generator[Callable[..., None]]:
    """A function `write(step=..., loss=..., ...)` for the run's JSON lines, and for TensorBoard on request.

    Raises ValueError where TensorBoard is asked for and not installed.
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
