"""The commands that a command proposes next. Each runs as it is printed; none is printed where none would run."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from typing import Any

from ..configs.notation import shown
from ..envs.catalogue import TASKS
from ..specification import Specification

CROP = 84
"""Pixels of the crop in `preset=cpu` and `preset=gpu`."""

_IS_PRINTED = ContextVar("whether next commands are printed", default=True)


def run_name(task: str) -> str:
    """What a run of a task is called: the last word of the task as typed.

    >>> [run_name(task) for task in ("reach", "toys:REACH", "gymnasium:gym_pusht:gym_pusht/PushT-v0@{dt: 0.1}")]
    ['reach', 'REACH', 'PushT-v0']
    """
    return re.split("[:/]", task.partition("@")[0])[-1]


@contextmanager
def no_next_lines() -> Generator[None]:
    """Meanwhile none is printed, because it would not run where the user types it."""
    token = _IS_PRINTED.set(False)
    try:
        yield
    finally:
        _IS_PRINTED.reset(token)


def print_next(command: str) -> None:
    """Print the line of a command."""
    if _IS_PRINTED.get():
        print(f"next: {command}", flush=True)


def print_train(task: str | None, dataset: str, imports: list[str], specification: Specification) -> None:
    """How to train on demonstrations, in a new run folder, which has the name of the task or else that of the store.

    specification: of the demonstrations; images need an encoder, and a crop that fits into them.
    """
    name = run_name(task) if task else Path(dataset).resolve().name.removesuffix(".zarr")
    folders = (f"runs/{name}{f'-{number}' if number > 1 else ''}" for number in count(1))
    out = next(folder for folder in folders if not Path(folder).exists())
    print_next(shown("train", task=task, dataset=dataset, out=out, **_for_images(specification), imports=imports))


def _for_images(specification: Specification) -> dict[str, Any]:
    """The settings that a training on images needs."""
    sides = [side for stream in specification.observations if stream.is_image for side in stream.shape[:2]]
    if not sides:
        return {}
    from ..policy.device import device

    settings: dict[str, Any] = {"preset": "cpu" if device("auto").type == "cpu" else "gpu"}
    return settings | ({"policy.encoder.crop": 2 * [7 * min(sides) // 8]} if min(sides) < CROP else {})


def print_evaluate(folder: str, task: str | None, imports: list[str], **settings: str) -> None:
    """How to evaluate a policy, if the user named its task; the location of a task is repeated."""
    if task is not None:
        print_next(shown("evaluate", folder, task=None if task in TASKS else task, **settings, imports=imports))


def print_evaluate_known(folder: str, imports: list[str], **settings: str) -> None:
    """How to evaluate a policy, if its folder names a task that needs no location: no file decides what is imported."""
    from ..checkpoints.opening import read_description

    task = read_description(folder)["task"]
    print_evaluate(folder, task if task in TASKS else None, imports, **settings)


def print_compare(command: str, configs: Sequence[Any], folder: Path) -> None:
    """How to compare the jobs of a sweep: trained policies are evaluated first, all in the same episodes."""
    if command == "train":
        tasks = {config.task for config in configs}
        if None in tasks or len(tasks) > 1:
            return
        (task,), runs = tasks, [config.out for config in configs]
        own = None if task in TASKS else task
        print(f"next: {shown('evaluate', *runs, task=own, imports=configs[0].imports)}")
    if command in ("train", "evaluate"):
        print(f"{'then' if command == 'train' else 'next'}: {shown('compare', str(folder))}")
