"""A run folder: its configuration, its metrics, and checkpoints that a killed training goes on from.

    run/
      config.json               what was asked for; a resumed training must ask for the same
      metrics.jsonl             one line for each time something was measured
      checkpoints/00002000/     policy.json, policy.safetensors (the averaged weights: what is evaluated and deployed),
                                training.json, training.safetensors (what else is needed to go on)

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
from ..files import read_json, whole_folder, write_json, write_text, writing


class Run:
    """One run folder. Steps are counted in updates that are done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config, self.metrics = folder / "config.json", folder / "metrics.jsonl"
        self.last_loss = float("nan")

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints, ascending."""
        return checkpoint_steps(self.folder)

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint after `step` updates."""
        return checkpoint_of_step(self.folder, step)

    @contextmanager
    def exclusive(self) -> Generator[None]:
        """Hold the folder against a second training. Raises ValueError where one is under way."""
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
            if is_new and not self.config.exists():  # nothing came of it
                shutil.rmtree(self.folder)

    def begin(self, config: dict[str, Any]) -> int:
        """Start or resume; returns the step to go on from.

        Raises ValueError, naming what differs, where the folder holds a run of another configuration.
        """
        for leftover in list(self.folder.rglob(".*.partial*")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        before = read_json(self.config) if self.config.exists() else config
        if found := differences(before, config):
            raise ValueError(
                f"{self.folder} holds a run of another configuration ({'; '.join(found)}): "
                f"repeat its command to resume it, or choose another out="
            )
        write_json(self.config, config)
        start = max(self.steps, default=0)
        self._forget_after(start)
        return start

    def save(
        self, step: int, *, weights: Mapping[str, Tensor], training: Mapping[str, Tensor], manifest: Mapping[str, Any]
    ) -> Path:
        """Write the checkpoint after `step` updates and drop what is neither last nor best.

        weights: of the averaged policy. training: what else a resumed training needs. manifest: see `write_checkpoint`.
        """
        path = self.checkpoint(step)
        with whole_folder(path) as folder:
            write_checkpoint(folder, weights, step=step, **manifest)
            digest = write_tensors(folder / "training.safetensors", training)
            state = {"step": step, "threads": torch.get_num_threads(), "training_sha256": digest}
            write_json(folder / "training.json", state)
        self.prune()
        return path

    def prune(self) -> None:
        """Remove every checkpoint but the last and the best."""
        kept = {self.steps[-1], best_step(self.folder)}
        for step in set(self.steps) - kept:
            shutil.rmtree(self.checkpoint(step))

    def log(self, **entry: Any) -> None:
        """Append one line to the metrics."""
        self.last_loss = entry.get("loss", self.last_loss)
        with writing(self.metrics), self.metrics.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _forget_after(self, step: int) -> None:
        """Drop what was measured after `step`, because a resumed training measures it again."""
        kept = [entry for entry in read_metrics(self.folder) if entry["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(entry) + "\n" for entry in kept))


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """What differs between two configurations, a clause each.

    >>> differences({"seed": 0, "horizons": {"action": 8}}, {"seed": 0, "horizons": {"action": 4}})
    ['horizons.action was 8 and is 4']
    """
    found = []
    for key in [*before, *(key for key in now if key not in before)]:
        one, other = before.get(key), now.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{path}{key}.")
        elif one != other:
            found.append(f"{path}{key} was {one!r} and is {other!r}")
    return found


@contextmanager
def stop_requests() -> Generator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM has come, so that the state is saved between two steps.

    A second signal ends the process at once, as usual.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
