"""The layout of a run: `checkpoints/<step>/` and `metrics.jsonl`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..files import DIGEST, has_digest

Content = TypeVar("Content")

MEASURED = {
    "step": (0, sys.maxsize),
    "learning_rate": (0, sys.float_info.max),
    "action_error": (0, sys.float_info.max),
    "bits_per_dimension": (-sys.float_info.max, sys.float_info.max),
    "loss": (-sys.float_info.max, sys.float_info.max),
    "gradient_norm": (0, sys.float_info.max),
    "data_s": (0, sys.float_info.max),
    "update_s": (0, sys.float_info.max),
    "data_share": (0, 1),
    "windows_per_s": (0, sys.float_info.max),
    "tflops": (0, sys.float_info.max),
    "peak_share": (0, sys.float_info.max),
    "memory_gib": (0, sys.float_info.max),
    "mean_score": (0, 1),
    "success_rate": (0, 1),
    "episodes": (1, sys.maxsize),
    "broken": (1, sys.maxsize),
}
"""What a line of `metrics.jsonl` may hold, and the lowest and the highest value of each."""
ERROR_OF = "action_error/"
"""Before the name of a dataset, if there are several: the action error of its held-out episodes."""
BITS_OF = "bits_per_dimension/"
"""Before the number of a tenth of the noise levels, 1 for the least noise: what its steps add to the bound."""


def checkpoint_steps(run: Path) -> list[int]:
    """The steps of a run's checkpoints, in ascending order. Other files and folders beside them do not count."""
    steps = [
        int(path.parent.name) for path in (run / "checkpoints").glob("[0-9]*/policy.json") if _is_step(path.parent)
    ]
    return sorted(steps)


def _is_step(path: Path) -> bool:
    return path.name.isascii() and path.name.isdigit() and path.name == f"{int(path.name):08d}"


def checkpoint_of_step(run: Path, step: int) -> Path:
    """The folder of a run's checkpoint after `step` updates."""
    return run / "checkpoints" / f"{step:08d}"


def best_step(run: Path) -> int | None:
    """The step of the checkpoint with the best score during training, the earliest of equals; None without scores."""
    steps = set(checkpoint_steps(run))
    evaluations = [entry for entry in read_metrics(run) if "mean_score" in entry and entry["step"] in steps]
    return max(evaluations, key=lambda entry: entry["mean_score"], default={}).get("step")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Every line of a run's `metrics.jsonl`, without its digest and without an unfinished last line.

    Raises ValueError, with the number of the line, if one is damaged.
    """
    path, entries = run / "metrics.jsonl", []
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n") and number == len(lines) and not _is_whole(line[:-1]):
            break
        try:
            entries.append(_checked_entry(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"line {number} of {path} is damaged ({error}): restore the file from a copy, or remove it"
            ) from None
    return entries


def _is_whole(line: bytes) -> bool:
    """Whether a line needs no end, so that what follows it is damage."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _checked_entry(entry: Any) -> dict[str, Any]:
    """Raises ValueError if an entry of the metrics cannot have been written by a training."""
    if not isinstance(entry, dict) or not has_digest(entry):
        raise ValueError(f"its SHA-256 is not the {DIGEST} in it")
    del entry[DIGEST]
    kind_of = {name: name.partition("/")[0] for name in entry}
    if not set(kind_of.values()) <= set(MEASURED):
        raise ValueError(f"it must be an object of {', '.join(MEASURED)}")
    for name, value in entry.items():
        low, high = MEASURED[kind_of[name]]
        kinds = int if name in ("step", "episodes", "broken") else (int, float)
        if type(value) is bool or not isinstance(value, kinds) or not low <= value <= high:
            raise ValueError(f"{name} must lie in [{low}, {high}], got {value!r}")
    if "step" not in entry or ("mean_score" in entry) != ("episodes" in entry):
        raise ValueError("it must have a step, and a mean_score if it has episodes")
    if ("data_s" in entry) != ("update_s" in entry):
        raise ValueError("it must have both data_s and update_s, or neither")
    return entry


def existing(folder: Path) -> Path:
    """The folder itself. Raises FileNotFoundError if there is none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no run or checkpoint folder {folder}")
    return folder


def holds_policy(folder: Path) -> bool:
    """Whether a folder is a run, a checkpoint or an exported folder."""
    return (folder / "checkpoints").is_dir() or any(
        (folder / name).is_file() for name in ("policy.json", "engine.json")
    )


def resolve_checkpoint(folder: Path, which: str = "last") -> Path:
    """The folder itself if it is a checkpoint; the "last" or "best" checkpoint if it is a run.

    Raises FileNotFoundError if there is none.
    """
    if (existing(folder) / "policy.json").exists():
        return folder
    if not checkpoint_steps(folder):
        raise FileNotFoundError(f"{folder} is neither a run folder nor a checkpoint: it holds no checkpoints")
    if which == "last":
        return checkpoint_of_step(folder, checkpoint_steps(folder)[-1])
    step = best_step(folder)
    if step is None:
        raise FileNotFoundError(f"{folder} has no best checkpoint: train with evaluate_every=N, or use the last one")
    return checkpoint_of_step(folder, step)


def read_resolved(folder: Path, which: str, read: Callable[[Path], Content]) -> tuple[Path, Content]:
    """The folder of `resolve_checkpoint`, and what `read` makes of it.

    Looks again if a training deletes the checkpoint meanwhile. Raises what both raise.
    """
    path = resolve_checkpoint(folder, which)
    while True:
        try:
            return path, read(path)
        except FileNotFoundError:
            before, path = path, resolve_checkpoint(folder, which)
            if path == before:
                raise
