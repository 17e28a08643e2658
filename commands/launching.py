"""The jobs of a sweep where a launcher plug-in of Hydra runs them: side by side here, or in the queue of a cluster.

The plug-in carries one number to each process that it starts: that of the job. The process runs the command line of
the job as a process of its own, so a job that is killed takes no other one with it. In the folder of the sweep,
`logs/N.txt` holds what job N printed, and `logs/N.json` how it ended. While the file `logs/stop` exists, no job begins,
and those that run are asked to end.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..configs.notation import command_line, quoted
from ..realtime import Interrupted, on_signals
from ..specification import nearest
from .composition import JobFailed

PACKAGES = {
    "joblib": ("hydra_joblib_launcher", "'recede[sweeps]'"),
    "submitit_local": ("hydra_submitit_launcher", "'recede[sweeps]'"),
    "submitit_slurm": ("hydra_submitit_launcher", "'recede[sweeps]'"),
    "ray": ("hydra_ray_launcher", "hydra-ray-launcher"),
}
"""Launcher -> the module of its plug-in, and what pip installs."""

HERE = ("basic", "joblib", "submitit_local")
"""Launchers whose jobs run on this machine, and end with the sweep."""

POLL_S = 0.25
"""How often it is asked whether a job must end."""

_QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null", "hydra.sweep.subdir=logs")
"""What keeps Hydra from files and messages of its own."""


@dataclass(frozen=True)
class Job:
    """One combination of values."""

    number: int
    """Its number, and the name of its folder."""
    values: Mapping[str, str]
    """The value of each key that differs between jobs."""
    config: Any
    """Its configuration, or the error of its values."""

    @property
    def name(self) -> str:
        """What messages call it.

        >>> Job(3, {"seed": "1", "policy": "regression"}, None).name
        'job 3 (seed=1, policy=regression)'
        """
        values = ", ".join(f"{key}={value}" for key, value in self.values.items())
        return f"job {self.number} ({values})" if values else f"job {self.number}"


def check_launcher(launcher: Sequence[str]) -> None:
    """Raises ValueError unless the arguments name an installed launcher and keys that it has; there may be none."""
    if not launcher:
        return
    names = [argument.partition("=")[2] for argument in launcher if argument.startswith("hydra/launcher=")]
    if not names:
        raise ValueError(f"{launcher[0]} is a key of a launcher: add hydra/launcher=NAME, one of {', '.join(PACKAGES)}")
    name = names[-1]
    if name in PACKAGES and not _is_installed(PACKAGES[name][0]):
        raise ValueError(f"hydra/launcher={name} needs a plug-in of Hydra: pip install {PACKAGES[name][1]}")
    with _hydra("sweep"):
        from hydra.core.global_hydra import GlobalHydra

        options = GlobalHydra.instance().config_loader().get_group_options("hydra/launcher")
        if name not in options:
            raise ValueError(f"hydra/launcher cannot be {name!r}: {nearest(name, sorted({*options, *PACKAGES}))}")
        keys = [key for key in _composed([f"hydra/launcher={name}"]).hydra.launcher if key != "_target_"]
    for argument in launcher:
        key = argument.partition("=")[0].removeprefix("hydra.launcher.")
        if argument.startswith("hydra.launcher.") and key.partition(".")[0] not in keys:
            raise ValueError(f"hydra/launcher={name} has no key {key!r}: {nearest(key, keys)}")


def launch(command: str, jobs: Sequence[Job], folder: Path, launcher: Sequence[str]) -> tuple[int, list[JobFailed]]:
    """Run the jobs that are not done where the launcher says; returns the highest exit status and the failed jobs.

    Raises Interrupted after a signal, once the jobs have ended, and ValueError if the launcher cannot start any.
    """
    (folder / "logs").mkdir(exist_ok=True)
    stop_file(folder).unlink(missing_ok=True)
    failures = [_failed(job.name, cause=job.config) for job in jobs if isinstance(job.config, Exception)]
    possible = [job for job in jobs if not isinstance(job.config, Exception)]
    lines = {job.number: command_line(command, job.config) for job in possible}
    waiting = [job for job in possible if not _is_done(command, folder, job.number, lines[job.number])]
    for job in possible:
        outlook = _outlook(command, folder, job.number) if job in waiting else "done before"
        print(f"{job.name}: {outlook}")
    print(f"{len(waiting)} of {len(jobs)} jobs run by {' '.join(launcher)}; job N prints to {folder}/logs/N.txt")
    sys.stdout.flush()
    for job in waiting:
        (folder / "logs" / f"{job.number}.json").unlink(missing_ok=True)
    problem = _run(command, folder.absolute(), {job.number: lines[job.number] for job in waiting}, launcher)
    statuses = {job.number: _status(folder, job.number, lines[job.number]) for job in waiting}
    if problem is not None and not any(status is not None for status in statuses.values()):
        raise ValueError(f"{launcher[0]}: {problem}") from problem
    failures += [
        _failed(job.name, why=_reason(command, folder, job.number, statuses[job.number]))
        for job in waiting
        if statuses[job.number] not in (0, 1)
    ]
    print(f"{len(jobs) - len(failures)} of {len(jobs)} jobs are done")
    return max((status or 0 for status in statuses.values()), default=0), failures


def _failed(job: str, *, why: str = "", cause: Exception | None = None) -> JobFailed:
    failure = JobFailed(job, why)
    failure.__cause__ = cause
    return failure


def _is_done(command: str, folder: Path, number: int, line: str) -> bool:
    """Whether a training is finished. Other commands run again: what they measure may have changed."""
    return command == "train" and (folder / str(number)).is_dir() and _status(folder, number, line) == 0


def _outlook(command: str, folder: Path, number: int) -> str:
    """What a job that is not done will do."""
    from ..checkpoints.runs import checkpoint_steps

    steps = checkpoint_steps(folder / str(number)) if command == "train" else []
    return f"resumes after step {steps[-1]}" if steps else "starts"


def _reason(command: str, folder: Path, number: int, status: int | None) -> str:
    """Why a job failed, and where its log is."""
    log = log_of(folder, number)
    printed = re.split("[\r\n]+", log.read_text(errors="replace").strip()) if log.exists() else [""]
    reason = printed[-1].removeprefix(f"recede {command}: ")
    if status is None:
        reason = "it was not run to its end"
    elif status < 0:
        reason = f"it was ended by {signal.Signals(-status).name}"
    return f"{reason} (its log: {log})"


# --- the plug-in


def _run(command: str, folder: Path, lines: Mapping[int, str], launcher: Sequence[str]) -> Exception | None:
    """Run the jobs of these command lines, and return when all have ended; returns the error of the launcher."""
    if not lines:
        return None
    is_here = launcher_name(launcher) in HERE
    runner = Runner(folder, dict(lines), str(Path.cwd()), os.getpid() if is_here else None)
    signals = list[int]()

    def stop(number: int, _: object) -> None:
        stop_file(folder).touch()
        signals.append(number)
        if len(signals) > 1:
            raise Interrupted(number, "stopped without waiting for the jobs: repeat the command to go on")

    with _hydra(f"recede-{command}"), on_signals(stop):
        problem = _apart(lambda: _plugin(folder, launcher, runner).launch([[f"job={number}"] for number in lines], 0))
    if signals:
        done = sum(_status(folder, number, line) == 0 for number, line in lines.items())
        raise Interrupted(signals[0], f"stopped: {done} of {len(lines)} jobs are done: repeat the command to go on")
    return problem


def launcher_name(launcher: Sequence[str]) -> str:
    """The launcher that the arguments name."""
    return next(argument for argument in reversed(launcher) if argument.startswith("hydra/")).partition("=")[2]


def _apart(task: Callable[[], object]) -> Exception | None:
    """Run a task whose processes do not receive the signals of a terminal; returns its error.

    They inherit the mask of the thread that starts them. Otherwise Ctrl-C would end the processes of the launcher
    before their jobs are saved.
    """
    errors = list[Exception]()

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            task()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="launcher", daemon=True)
    thread.start()
    thread.join()
    return errors[0] if errors else None


@contextmanager
def _hydra(job_name: str) -> Generator[None]:
    from hydra import initialize_config_module

    with initialize_config_module("recede.configs", job_name=job_name, version_base="1.3"):
        yield


def _composed(overrides: Sequence[str]) -> Any:
    """The configuration of the job number 0, with Hydra's own."""
    from hydra import compose
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="job-of-sweep", node={"job": 0})
    return compose("job-of-sweep", [*overrides], return_hydra_config=True)


def _plugin(folder: Path, launcher: Sequence[str], runner: Runner) -> Any:
    """The launcher, ready to run jobs."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    config = _composed([*launcher, *_QUIET, f"hydra.sweep.dir={quoted(str(folder))}"])
    context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=runner, config=config)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(f"hydra_plugins.{module}") is not None
    except ModuleNotFoundError:  # no plug-in at all
        return False


# --- one job, in a process of the launcher


@dataclass(frozen=True)
class Runner:
    """Runs the jobs of a sweep, each in a process that a launcher started."""

    folder: Path
    """The folder of the sweep, absolute."""
    commands: Mapping[int, str]
    """Number -> the command line of the job."""
    current: str
    """The folder in which the command lines are typed."""
    sweep: int | None
    """The process that the jobs end with; None if they outlive it."""

    def __call__(self, config: Any) -> None:
        """Run the job whose number is `config.job`, and note how it ended."""
        number = int(config.job)
        if self._must_end():
            return
        log, command = log_of(self.folder, number), self.commands[number]
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which then stops the jobs
        with log.open("ab") as output:
            output.write(f"$ {command}\n".encode())
            output.flush()
            arguments = [sys.executable, "-P", "-m", "recede.commands.job", *shlex.split(command)[1:]]
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.current,
                start_new_session=True,  # no signal of a terminal reaches it
            )
            status = self._wait(process)
        _note(self.folder, number, command, status)
        if self._is_orphan():
            os._exit(0)  # else the process of the launcher waits for jobs that nobody sends any more

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """The exit status of the job, whose input is closed when it must end, or whatever else ends this process."""
        try:
            while not self._must_end():
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(POLL_S)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
        return process.returncode

    def _must_end(self) -> bool:
        return stop_file(self.folder).exists() or self._is_orphan()

    def _is_orphan(self) -> bool:
        return self.sweep is not None and not _lives(self.sweep)


def log_of(folder: Path, number: int) -> Path:
    """The file of what a job printed."""
    return folder / "logs" / f"{number}.txt"


def stop_file(folder: Path) -> Path:
    """The file that ends the jobs of a sweep."""
    return folder / "logs" / "stop"


def _lives(process: int) -> bool:
    """Whether a process runs. One that was killed keeps its number until its parent has asked how it ended."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except (PermissionError, FileNotFoundError):  # it is another user's, or the system has no /proc
        return True


def _note(folder: Path, number: int, command: str, status: int) -> None:
    from ..files import write_json_with_digest

    write_json_with_digest(folder / "logs" / f"{number}.json", {"command": command, "status": status})


def _status(folder: Path, number: int, command: str) -> int | None:
    """How this command line of a job ended; None if it did not."""
    from ..files import read_json_with_digest

    path = folder / "logs" / f"{number}.json"
    if not path.is_file():
        return None
    content = read_json_with_digest(path, "delete it to run the job again")
    return content["status"] if content["command"] == command else None
