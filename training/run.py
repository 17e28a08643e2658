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
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.folder import write_checkpoint
from ..checkpoints.runs import best_step, checkpoint_of_step, checkpoint_steps, read_metrics
from ..files import (
    exclusive,
    remove_leftovers,
    whole_folder,
    with_digest,
    write_json_with_digest,
    write_tensors,
    write_text,
    writing,
)
from ..realtime import on_signals


class Run:
    """One run folder. Steps count finished updates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config, self.metrics = folder / "config.json", folder / "metrics.jsonl"

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
        with exclusive(self.folder, "being trained"):
            try:
                yield
            finally:
                if is_new and not self.config.exists():  # the training did not start
                    shutil.rmtree(self.folder)

    def begin(self, config: dict[str, Any]) -> int:
        """Start or resume the run with this configuration; returns the step of the last checkpoint, or 0."""
        remove_leftovers(self.folder.rglob(".*.partial*"))
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
def stop_requests() -> Generator[Callable[[], int]]:
    """A function that returns the signal that has asked to stop, or 0, so that training can stop between two steps.

    A second signal acts as it did before.
    """
    requests: list[int] = []
    with ExitStack() as handlers:

        def request_stop(number: int, _: object) -> None:
            requests.append(number)
            handlers.close()

        handlers.enter_context(on_signals(request_stop))
        yield lambda: requests[0] if requests else 0
