"""Sweeps: `-m` runs a command once with each combination of comma-separated values, in numbered folders.

The jobs run one after another in this process, or where `hydra/launcher=` says. A sweep may be interrupted and
repeated: a job keeps the number that `sweep.json` notes for its values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..configs.commands import COMMANDS
from ..configs.packages import import_packages
from ..configs.texts import home
from .composition import JobFailed, compose_each, run_of
from .grammar import is_for_launcher, read, requested_imports, swept
from .launching import Job, check_launcher, launch
from .next_lines import print_compare


def sweep(command: str, arguments: Sequence[str]) -> int:
    """Run all jobs; returns the highest exit status.

    Raises ValueError, before any job runs, if the sweep is impossible or its folder holds another one, and in the end
    an ExceptionGroup with a `JobFailed` for each job that failed.
    """
    import_packages(requested_imports(arguments))  # they may add choices
    launcher = [argument for argument in arguments if is_for_launcher(argument)]
    check_launcher(launcher)
    jobs = [
        Job(number, values, config)
        for number, (values, config) in enumerate(
            zip(swept(command, arguments), compose_each(command, arguments), strict=True)
        )
    ]
    _check_different(jobs)
    if "out" in COMMANDS[command].config.__dataclass_fields__:
        return _in_folder(command, jobs, Path(home(read(command, arguments)["out"])), launcher)
    if launcher:
        raise ValueError(
            f"{launcher[0]}: `recede {command}` has no out=, so its jobs run one after another: leave it out"
        )
    return _ended(*_in_turn(command, jobs))


def _check_different(jobs: Sequence[Job]) -> None:
    """Raises ValueError if two jobs would do the same, as with learning_rate=1e-3,0.001."""
    names = dict[str, str]()
    for job in jobs:
        if isinstance(job.config, Exception):
            continue
        same = names.setdefault(repr({**vars(job.config), "out": None}), job.name)
        if same != job.name:
            raise ValueError(f"{same} and {job.name} are the same: leave one of the values out")


def _in_folder(command: str, jobs: Sequence[Job], folder: Path, launcher: Sequence[str]) -> int:
    """Run jobs that write to numbered folders in `folder`; returns the exit status as `sweep` does."""
    from ..files import check_writable, exclusive

    check_writable(folder)
    with exclusive(folder, "being swept", name=".sweep.lock"):
        jobs = _numbered(command, jobs, folder)
        status, failures = launch(command, jobs, folder, launcher) if launcher else _in_turn(command, jobs)
    if not failures:
        print_compare(command, [job.config for job in jobs], folder)
    return _ended(status, failures)


def _in_turn(command: str, jobs: Sequence[Job]) -> tuple[int, list[JobFailed]]:
    """Run jobs one after another in this process; returns the highest exit status, and the jobs that failed."""
    run, status, failures = run_of(command), 0, list[JobFailed]()
    for job in jobs:  # a failed job does not stop the others
        try:
            status = max(status, _run(run, job) or 0)
        except Exception as error:
            failure = JobFailed(job.name)
            failure.__cause__ = error
            failures.append(failure)
    return status, failures


def _run(run: Callable[[Any], int | None], job: Job) -> int | None:
    if isinstance(job.config, Exception):
        raise job.config
    print(f"{job.name}:", flush=True)
    return run(job.config)


def _ended(status: int, failures: Sequence[JobFailed]) -> int:
    """The exit status. Raises an ExceptionGroup if jobs failed."""
    if failures:
        raise ExceptionGroup(f"{len(failures)} jobs failed", failures)
    return status


def _numbered(command: str, jobs: Sequence[Job], folder: Path) -> list[Job]:
    """The jobs with the numbers that the folder notes for their values, which it then notes for new ones too.

    Raises ValueError if the folder holds a sweep of another command or over other keys.
    """
    from ..evaluation.sweeps import Sweep, read_sweep, write_sweep

    keys = tuple(jobs[0].values)
    before = read_sweep(folder)
    if before is None or not any((folder / str(number)).exists() for number in before.jobs):  # nothing is there yet
        before = Sweep(command, keys)
    if (before.command, set(before.keys)) != (command, set(keys)):
        raise ValueError(
            f"{folder} holds a sweep of `recede {before.command}` over {_listed(before.keys)}, this one is of `recede "
            f"{command}` over {_listed(keys)}: give another out="
        )
    numbers = dict(before.jobs)
    result = list[Job]()
    for job in jobs:
        number = before.number_of(job.values)
        number = max(numbers, default=-1) + 1 if number is None else number
        numbers[number] = job.values
        if not isinstance(job.config, Exception):
            job.config.out = f"{folder}/{number}"
        result.append(Job(number, job.values, job.config))
    if not all(isinstance(job.config, Exception) for job in jobs):
        write_sweep(folder, Sweep(command, keys, numbers))
    return result


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys) or "no key"
