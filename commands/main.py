"""The `recede` command line: `recede <command> [folder] key=value ...`.

Hydra composes the configuration; every error that a user can mend is one line with the nearest valid name, and exit
status 2. `HYDRA_FULL_ERROR=1` shows where it came from.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any

from ..configs.schema import CHOICES, RUNS
from ..specification import nearest

SUMMARIES = {
    "demo": "record, train, evaluate and report on the embedded task, in minutes",
    "collect": "record a task's scripted expert into a store",
    "download": "fetch published demonstrations",
    "inspect": "describe a store: streams, ranges, warnings, a picture",
    "replay": "apply recorded actions in simulation and compare",
    "train": "learn a policy from a store; the same command resumes",
    "evaluate": "roll a policy out and report rates with intervals",
}

POSITIONAL = {"download": "name", "evaluate": "run", "inspect": "dataset"}
"""The key that a command's bare argument stands for."""

QUIET = ("hydra/job_logging=disabled", "hydra/hydra_logging=disabled", "hydra.run.dir=.", "hydra.output_subdir=null")
"""Hydra writes nothing of its own; our run folders say all that it would."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help", "help"):
        print(overview())
        return 0
    if command == "--version":
        from importlib.metadata import version

        print(f"recede {version('recede')}")
        return 0
    is_verbose = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        if command not in RUNS:
            raise ValueError(f"there is no command {command!r}: {nearest(command, RUNS)}")
        if any(argument in ("-h", "--help") for argument in rest):
            print(usage(command))
            return 0
        compose_and_run(command, overrides(command, rest))
    except KeyboardInterrupt as interrupt:
        print(f"recede {command}: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130
    except Exception as error:
        message = explain(error, command)
        if message is None or is_verbose:
            raise
        print(f"recede {command}: {message}", file=sys.stderr)
        return 2
    return 0


def overview() -> str:
    """What `recede --help` prints."""
    lines = [f"  {name:<10}{summary}" for name, summary in SUMMARIES.items()]
    return "\n".join(
        [
            "usage: recede <command> [folder] key=value ...",
            "",
            *lines,
            "",
            "recede <command> --help lists its keys. Lists are key=[a,b], truth values key=true; -m with key=a,b runs each.",
        ]
    )


def usage(command: str) -> str:
    """What `recede <command> --help` prints: the documentation of its configuration, and every key with its default."""
    config = RUNS[command]
    positional = f" <{POSITIONAL[command]}>" if command in POSITIONAL else ""
    lines = [f"usage: recede {command}{positional} key=value ...", "", (config.__doc__ or "").strip(), ""]
    for each in fields(config):
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if each.name in CHOICES:
            value = "one of " + ", ".join(sorted(CHOICES[each.name]))
        elif hasattr(default, "__dataclass_fields__"):
            value = " ".join(f"{each.name}.{inner.name}={getattr(default, inner.name)}" for inner in fields(default))
        else:
            value = "(required)" if default is MISSING else str(default)
        lines.append(f"  {each.name:<20}{value}")
    return "\n".join(lines)


def overrides(command: str, arguments: Sequence[str]) -> list[str]:
    """Hydra's form of the arguments: the first bare one gets its key.

    >>> overrides("evaluate", ["runs/my run", "episodes=5"])
    ["run='runs/my run'", 'episodes=5']
    """
    result = []
    for argument in arguments:
        if "=" in argument or argument.startswith("-"):
            result.append(argument)
            continue
        key = POSITIONAL.get(command)
        if key is None or any(given.startswith(f"{key}=") for given in result):
            raise ValueError(f"{argument!r} is not of the form key=value: see `recede {command} --help`")
        quoted = argument.replace("\\", "\\\\").replace("'", "\\'")
        result.append(f"{key}='{quoted}'")
    return result


def compose_and_run(command: str, given: Sequence[str]) -> None:
    """Let Hydra compose the command's configuration, once or for every job of a sweep, and run it."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, rather than print and exit
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from ..configs.schema import register

    register()
    run: Callable[[Any], None] = import_module(f".{command}", __package__).run
    failures: list[Exception | KeyboardInterrupt] = []

    def job(composed: Any) -> None:
        try:  # Hydra would print an error of its own
            hydra_config = HydraConfig.get()
            if hydra_config.mode == RunMode.MULTIRUN and "out" in composed:
                composed.out = hydra_config.runtime.output_dir
            run(OmegaConf.to_object(composed))
        except (Exception, KeyboardInterrupt) as error:
            failures.append(error)

    sweep = ["hydra.sweep.dir=${out}", "hydra.sweep.subdir=${hydra.job.num}"] if "out" in RUNS[command].__dataclass_fields__ else []
    before, sys.argv = sys.argv, [f"recede {command}", *QUIET, *sweep, *given]
    try:
        hydra.main(config_path="pkg://recede.configs", config_name=command, version_base="1.3")(job)()
    finally:
        sys.argv = before
    if failures:
        raise failures[0]


def explain(error: Exception, command: str) -> str | None:
    """One line for an error that a user can mend; None for what is a fault of ours."""
    from hydra.errors import HydraException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is required: give {error.full_key}=..."
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain_composition(error, command)
    if isinstance(error, ValueError | OSError | FloatingPointError | ImportError):
        return " ".join(str(error).split())
    return None


def explain_composition(error: Exception, command: str) -> str:
    """What Hydra found wrong with the given keys and values, in one line."""
    options = getattr(error, "options", None)
    if options is not None:
        slot, _, name = str(getattr(error, "missing_cfg_file", "")).rpartition("/")
        return f"{slot} cannot be {name!r}: {nearest(name, options)}"
    cause = error.__cause__
    key, owner = getattr(cause, "key", None), getattr(cause, "object_type", None)
    first = " ".join(str(error).split(" To append to your config")[0].split("\n")[0].split())
    if key is not None and owner is not None and " not in " in str(cause):
        return f"there is no key {key!r}: {nearest(str(key), [each.name for each in fields(owner)])}"
    if cause is not None:
        return f"{first}: {str(cause).splitlines()[0]}"
    return f"{first} (see `recede {command} --help`)"
