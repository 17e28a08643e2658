"""A run folder: configuration, metrics, and checkpoints from which a killed training resumes.

    run/
      config.json               the configuration of the last command; `training.resuming` says what it may change
      metrics.jsonl             one line a measurement, with a digest of itself
      training.html             loss, action error and success over the steps
      checkpoints/00002000/     policy.json, policy.safetensors (averaged weights, evaluated and deployed),
                                training.json, training.safetensors (the rest of the training state)

Only the last and the best checkpoint are kept. A checkpoint appears whole or not at all.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..checkpoints.folder import write_checkpoint, write_tensors
from ..checkpoints.runs import best_step, checkpoint_of_step, checkpoint_steps, read_metrics
from ..files import whole_folder, with_digest, write_json_with_digest, write_text, writing


class Run:
    """One run folder. Steps count finished updates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config, self.metrics = folder / "config.json", folder / "metrics.jsonl"
        self.last_loss = float("nan")

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints, ascending."""
        return checkpoint_steps(self.folder)

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint after `step` updates."""
        return checkpoint_of_step(self.folder, step)

    @contextmanager
    def exclusive(self) -> Generator[None]:
        """Lock the folder. Raises ValueError if another process trains in it."""
        is_new = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"{self.folder} is being trained by another process: wait for it, or use another out="
            ) from None
        try:
            yield
        finally:
            lock.release()
            if is_new and not self.config.exists():  # the training did not start
                shutil.rmtree(self.folder)

    def begin(self, config: dict[str, Any]) -> int:
        """Start or resume the run with this configuration; returns the step of the last checkpoint, or 0."""
        for leftover in list(self.folder.rglob(".*.partial*")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        write_json_with_digest(self.config, config)
        start = max(self.steps, default=0)
        self._forget_after(start)
        return start

    def save(
        self, step: int, *, weights: Mapping[str, Tensor], training: Mapping[str, Tensor], manifest: Mapping[str, Any]
    ) -> Path:
        """Write the checkpoint after `step` updates, then delete all but the last and the best.

        weights: of the averaged policy. training: the rest of the training state. manifest: see `write_checkpoint`.
        """
        path = self.checkpoint(step)
        with whole_folder(path) as folder:
            write_checkpoint(folder, weights, step=step, **manifest)
            digest = write_tensors(folder / "training.safetensors", training)
            state = {"step": step, "threads": torch.get_num_threads(), "training_sha256": digest}
            write_json_with_digest(folder / "training.json", state)
        self.prune()
        return path

    def prune(self) -> None:
        """Delete every checkpoint except the last and the best."""
        kept = {self.steps[-1], best_step(self.folder)}
        for step in set(self.steps) - kept:
            shutil.rmtree(self.checkpoint(step))

    def log(self, **entry: Any) -> None:
        """Append a line to the metrics."""
        self.last_loss = entry.get("loss", self.last_loss)
        with writing(self.metrics), self.metrics.open("a") as file:
            file.write(_line(entry))

    def _forget_after(self, step: int) -> None:
        """Delete the measurements after `step`: a resumed training repeats them."""
        kept = [entry for entry in read_metrics(self.folder) if entry["step"] <= step]
        write_text(self.metrics, "".join(map(_line, kept)))


def _line(entry: Mapping[str, Any]) -> str:
    """A line of the metrics, which holds a digest of itself."""
    return json.dumps(with_digest(entry)) + "\n"


@contextmanager
def stop_requests() -> Generator[Callable[[], bool]]:
    """A function that returns whether SIGINT or SIGTERM has arrived, so that training can stop between two steps.

    A second signal acts as usual and ends the process.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield requested.is_set
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request_stop(number: int, frame: object) -> None:
        requested.set()
        signal.signal(number, handlers[signal.Signals(number)])

    for number in handlers:
        signal.signal(number, request_stop)
    try:
        yield requested.is_set
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
