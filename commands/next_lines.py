"""The commands that a command proposes next. Each runs as it is printed; none is printed where none would run."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from ..configs.notation import shown
from ..envs.catalogue import TASKS


def print_train(task: str, dataset: str, imports: list[str]) -> None:
    """How to train on demonstrations, in a new run folder."""
    folders = (f"runs/{task}{f'-{number}' if number > 1 else ''}" for number in count(1))
    out = next(folder for folder in folders if not Path(folder).exists())
    print(f"next: {shown('train', task=task, dataset=dataset, out=out, imports=imports)}")


def print_evaluate(folder: str, task: str | None, imports: list[str]) -> None:
    """How to evaluate a policy, if the user named its task; the location of a task is repeated."""
    if task is not None:
        print(f"next: {shown('evaluate', folder, task=None if task in TASKS else task, imports=imports)}")


def print_evaluate_known(folder: str, imports: list[str]) -> None:
    """How to evaluate a policy, if its folder names a task that needs no location: no file decides what is imported."""
    from ..checkpoints.opening import read_description

    task = read_description(folder)["task"]
    print_evaluate(folder, task if task in TASKS else None, imports)
