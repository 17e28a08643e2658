"""The `recede` command line: `recede <command> [folder] key=value ...`.

Hydra composes the configuration; every error that a user can mend is one line with the nearest valid name, and exit
status 2. `HYDRA_FULL_ERROR=1` shows where it came from.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

from ..configs.choices import CHOICES, MANY, names
from ..configs.commands import COMMANDS
from ..configs.notation import default_of, describe
from ..configs.packages import CommandConfig, check_names, import_packages
from ..specification import nearest

SWEEP = ("-m", "--multirun")
"""Options that run every combination of the comma-separated values."""

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
        if command not in COMMANDS:
            raise ValueError(f"there is no command {command!r}: {nearest(command, COMMANDS)}")
        if any(argument in ("-h", "--help") for argument in rest):
            import_packages(requested(rest))
            print(usage(command))
            return 0
        compose_and_run(command, overrides(command, rest))
    except KeyboardInterrupt as interrupt:
        print(f"recede {command}: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130
    except Exception as error:
        messages = [explain(each, command) for each in getattr(error, "exceptions", [error])]
        if is_verbose or None in messages:
            raise
        for message in messages:
            print(f"recede {command}: {message}", file=sys.stderr)
        return 2
    return 0


def overview() -> str:
    """What `recede --help` prints."""
    lines = [f"  {name:<19}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: recede <command> [folder] key=value ...",
            "",
            *lines,
            "",
            "recede <command> --help lists its keys. Lists are key=[a,b], truth values key=true;",
            "-m out=folder key=a,b runs each, in a folder of its own.",
        ]
    )


def usage(command: str) -> str:
    """What `recede <command> --help` prints: the documentation of its configuration, and every key with its default."""
    config, key = COMMANDS[command].config, COMMANDS[command].positional
    positional = f" <{key}>" if key else ""
    lines = [f"usage: recede {command}{positional} key=value ...", "", documentation(config), ""]
    common = CommandConfig.__dataclass_fields__
    for each in sorted(fields(config), key=lambda each: each.name in common):  # those of every command last
        default = default_of(each)
        if each.name in CHOICES:
            value = "one of " + ", ".join(names(each.name)) + "; see below"
        elif is_dataclass(default):
            value = " ".join(keys(type(default), each.name))
        else:
            value = "(required)" if default is MISSING else str(default)
        lines.append(f"  {each.name:<20}{value}")
    slots = [slot for slot in CHOICES if slot.split("/")[0] in config.__dataclass_fields__]
    for slot in slots:
        lines.append("")
        for name, option in CHOICES[slot].items():
            path = f"{slot}.{name}" if slot in MANY else slot.replace("/", ".")
            lines.append(f"  {slot}={name:<12} {' '.join(keys(option, path))}".rstrip())
    return "\n".join(lines)


def documentation(config: type) -> str:
    """What a configuration says of its keys, and what all of them say."""
    return "\n\n    ".join((each.__doc__ or "").strip() for each in (config, CommandConfig))


def keys(config: Any, path: str) -> list[str]:
    """The plain values of a kind of configuration at `path`, as arguments; "..." for what must be given."""
    values = {each.name: default_of(each) for each in fields(config)}
    return [
        f"{path}.{name}={'...' if value is MISSING else describe(value)}"
        for name, value in values.items()
        if not is_dataclass(value)
    ]


def overrides(command: str, arguments: Sequence[str]) -> list[str]:
    """Hydra's form of the arguments: the first bare one gets its key.

    >>> overrides("evaluate", ["runs/my run", "episodes=5"])
    ["run='runs/my run'", 'episodes=5']
    >>> overrides("control", ["policy=ws://127.0.0.1:8765"])
    ['run=ws://127.0.0.1:8765']

    Raises ValueError for what is neither an option, nor of the form key=value, nor the one bare argument.
    """
    result: list[str] = []
    for argument in arguments:
        positional = COMMANDS[command].positional
        if positional == "run":  # a trained policy; Hydra takes this word for the group of untrained ones
            argument = re.sub("^policy=", "run=", argument)
        key, equals, value = argument.partition("=")
        is_path = positional is not None and "/" in key and key not in CHOICES  # a path may have a = in it
        is_bare = not equals or is_path
        if argument in SWEEP:
            result.append(argument)
        elif argument.startswith("-"):
            raise ValueError(f"there is no option {argument!r}: {nearest(argument, (*SWEEP, '--help'))}")
        elif is_bare and positional is not None and not any(given.startswith(f"{positional}=") for given in result):
            result.append(f"{positional}={quoted(argument)}")
        elif is_bare or key[0:1] in "+~":
            raise ValueError(f"{argument!r} is not of the form key=value: see `recede {command} --help`")
        else:
            result.append(argument if is_readable(argument) else f"{key}={quoted(value)}")
    return result


def requested(arguments: Sequence[str]) -> list[str]:
    """The packages of the last imports=[...] among these arguments; nothing else names any.

    >>> requested(["dataset=d", "imports=[my_package,other.module]"])
    ['my_package', 'other.module']

    Raises ValueError unless it is a list of names.
    """
    given = [argument for argument in arguments if argument.startswith("imports=")]
    if not given:
        return []
    from hydra.core.override_parser.overrides_parser import OverridesParser

    value: Any = OverridesParser.create().parse_override(given[-1]).value() if is_readable(given[-1]) else given[-1]
    return check_names([getattr(each, "text", each) for each in value] if isinstance(value, list) else value)


def quoted(value: str) -> str:
    """The value as a string of Hydra's grammar, whatever is in it."""
    # Backslashes are doubled only where they stand before a quote: elsewhere Hydra keeps them as they are.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return "'" + escaped.replace("${", "\\${") + "'"


def is_readable(argument: str) -> bool:
    """Whether Hydra's grammar knows what the argument says; a path with an apostrophe, for one, it cannot read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def compose_and_run(command: str, given: Sequence[str]) -> None:
    """Let Hydra compose the command's configuration, once or for every job of a sweep, and run it."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from ..configs.commands import register

    import_packages(requested(given))  # before the tables are registered
    register()
    run: Callable[[Any], None] = import_module(f".{command.replace('-', '_')}", __package__).run
    failures: list[Exception] = []

    def job(composed: Any) -> None:
        try:  # the other jobs of a sweep go on
            hydra_config = HydraConfig.get()
            if hydra_config.mode == RunMode.MULTIRUN and "out" in composed:
                composed.out = f"{composed.out}/{hydra_config.job.num}"
            run(OmegaConf.to_object(composed))
        except Exception as error:
            failures.append(error)

    argv, variables = sys.argv, dict(os.environ)
    options = ["--multirun"] if is_swept(given) else []
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, rather than print and exit
    try:
        with TemporaryDirectory() as scratch:  # what Hydra writes in a sweep
            values = (each for each in given if each not in SWEEP)
            sys.argv = [f"recede {command}", *options, *QUIET, f"hydra.sweep.dir={quoted(scratch)}", *values]
            hydra.main(config_path="pkg://recede.configs", config_name=command, version_base="1.3")(job)()
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(variables)
    if failures:
        raise failures[0] if len(failures) == 1 else ExceptionGroup(f"{len(failures)} jobs failed", failures)


def is_swept(given: Sequence[str]) -> bool:
    """Whether these are the overrides of a sweep. Raises ValueError unless its jobs have folders of their own."""
    if not any(argument in SWEEP for argument in given):
        return False
    if not any(argument.startswith("out=") for argument in given):
        raise ValueError("a sweep needs out=FOLDER, in which each of its jobs gets a folder of its own")
    return True


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


def explain_choice(slot: str, name: str) -> str:
    """What may fill a slot in place of a name that is in no table."""
    return f"{slot} cannot be {name!r}: {nearest(name, names(slot))} (imports=[your_package] adds your own)"


def explain_composition(error: Exception, command: str) -> str:
    """What Hydra found wrong with the given keys and values, in one line."""
    options = getattr(error, "options", None)
    if options is not None:
        slot, _, name = str(getattr(error, "missing_cfg_file", "")).rpartition("/")
        return explain_choice(slot, name) if slot in CHOICES else f"{slot} cannot be {name!r}: {nearest(name, options)}"
    unknown = re.search(r"Could not load '(\w+)/(\w+)'", str(error))  # one of several in a slot
    if unknown and unknown[1] in CHOICES:
        return explain_choice(unknown[1], unknown[2])
    cause = error.__cause__
    key, owner = getattr(cause, "key", None), getattr(cause, "object_type", None)
    lines = str(error).split(" To append to your config")[0].splitlines()
    first = " ".join(" ".join(lines if "Ambiguous" in lines[0] else lines[:1]).split())  # the others say the remedy
    if key is not None and owner is not None and " not in " in str(cause):
        return f"there is no key {key!r}: {nearest(str(key), [each.name for each in fields(owner)])}"
    if cause is not None:
        return f"{first}: {str(cause).splitlines()[0]}"
    return f"{first} (see `recede {command} --help`)"
