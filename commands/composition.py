"""Hydra composes a command's configuration; its errors become one line each."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from importlib import import_module
from tempfile import TemporaryDirectory
from traceback import format_list
from typing import Any

from ..configs.choices import CHOICES, names
from ..configs.packages import import_packages
from ..envs.faults import is_addressed, own_frames, place
from ..specification import nearest
from .grammar import SWEEP, is_sweep, quoted, requested_imports

QUIET = ("hydra/job_logging=disabled", "hydra/hydra_logging=disabled", "hydra.run.dir=.", "hydra.output_subdir=null")
"""Hydra writes no files of its own: a run folder holds its configuration already."""


MOST_FRAMES = 3
"""Lines of a user's own code that are shown of an error in it."""

RULES = {
    "could not be converted to Integer": "the value must be a whole number",
    "could not be converted to Float": "the value must be a number",
    "is not a valid bool": "the value must be true or false",
    "is not a ListConfig, list or tuple": "the value must be a list, as in key=[a,b]",
    "is not Optional": "the value must not be null",
    "is not a subclass of": "this key has keys of its own, as in key.name=value",
}
"""What OmegaConf says of a refused value -> the rule that the value breaks."""


def compose_and_run(command: str, arguments: Sequence[str]) -> None:
    """Let Hydra compose the command's configuration and run it, once for every job of a sweep."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from ..configs.commands import register

    import_packages(requested_imports(arguments))  # they may add choices
    register()
    run: Callable[[Any], None] = import_module(f".{command.replace('-', '_')}", __package__).run
    failures: list[Exception] = []

    def job(composed: Any) -> None:
        try:  # a failed job does not stop the others of a sweep
            hydra_config = HydraConfig.get()
            if hydra_config.mode == RunMode.MULTIRUN and "out" in composed:
                composed.out = f"{composed.out}/{hydra_config.job.num}"
            run(OmegaConf.to_object(composed))
        except Exception as error:
            failures.append(error)

    with _hydra_arguments(command, arguments):
        hydra.main(config_path="pkg://recede.configs", config_name=command, version_base="1.3")(job)()
    if failures:
        raise failures[0] if len(failures) == 1 else ExceptionGroup(f"{len(failures)} jobs failed", failures)


@contextmanager
def _hydra_arguments(command: str, arguments: Sequence[str]) -> Generator[None]:
    """`sys.argv` as Hydra reads it. Hydra raises its errors instead of printing them."""
    argv, variables = sys.argv, dict(os.environ)
    options = ["--multirun"] if is_sweep(arguments) else []
    values = [argument for argument in arguments if argument not in SWEEP]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with TemporaryDirectory() as scratch:  # Hydra writes there in a sweep
            sys.argv = [f"recede {command}", *options, *QUIET, f"hydra.sweep.dir={quoted(scratch)}", *values]
            yield
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(variables)


def explain(error: Exception, command: str) -> str | None:
    """One line for an error that a user can correct, or None for a bug."""
    from hydra.errors import HydraException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is required: give {error.full_key}=..."
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain_composition(error, command)
    if isinstance(error, SyntaxError) or not is_addressed(error):
        return explain_own(error)
    if isinstance(error, ValueError | OSError | FloatingPointError | ImportError):
        line = " ".join(str(error).split())
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    torch = sys.modules.get("torch")  # whoever raises its error has imported it
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return explain_memory(error, command)
    return None


def explain_own(error: Exception) -> str:
    """The error of a user's own code: what it is, and the last lines that led to it."""
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError):  # it has no frame of its own
        return f"{type(error).__name__}: {text}, in {error.filename}"
    frames = own_frames(error)[-MOST_FRAMES:]
    return "\n".join([f"{type(error).__name__}: {text} ({place(error)})", *format_list(frames)]).rstrip()


def explain_memory(error: Exception, command: str) -> str:
    """What did not fit into the memory of a GPU, and how to need less."""
    # torch names the sizes in its first two sentences; advice on its own settings follows.
    reason = ". ".join(" ".join(str(error).split()).split(". ")[:2]).rstrip(".")
    if command == "train":
        return f"{reason}: lower batch_size or draws, or keep the images out of it with image_cache=mapped"
    return f"{reason}: end other programs that use the GPU, or use the CPU with device=cpu"


def explain_choice(slot: str, name: str) -> str:
    """One line for a name that no choice of the slot has."""
    return f"{slot} cannot be {name!r}: {nearest(name, names(slot))} (imports=[your_package] adds your own)"


def explain_composition(error: Exception, command: str) -> str:
    """One line for a key or a value that Hydra refuses."""
    text, cause = str(error), error.__cause__
    options = getattr(error, "options", None)
    if options is not None:
        slot, _, name = str(getattr(error, "missing_cfg_file", "")).rpartition("/")
        return explain_choice(slot, name) if slot in CHOICES else f"{slot} cannot be {name!r}: {nearest(name, options)}"
    unknown = re.search(r"Could not load '(\w+)/(\w+)'", text)  # one of several in a slot
    if unknown and unknown[1] in CHOICES:
        return explain_choice(unknown[1], unknown[2])
    key, owner = getattr(cause, "key", None), getattr(cause, "object_type", None)
    if key is not None and " not in " in str(cause):
        if is_dataclass(owner):
            return f"there is no key {key!r}: {nearest(str(key), [field.name for field in fields(owner)])}"
        path = getattr(cause, "full_key", key)
        return f"{path} belongs to none of the choices: choose its owner first, see {_help(command)}"
    if override := re.match("Error merging override (.*)", text):
        rules = [rule for reason, rule in RULES.items() if reason in str(cause)]
        return f"{override[1]}: {rules[0] if rules else str(cause).splitlines()[0]}"
    if several := re.match("Ambiguous value for argument '(.*)'", text):
        return f"{several[1]} has several values: add -m to run once with each, or write a list as key=[a,b]"
    if absent := re.match("Could not override '(.*?)'", text):
        return f"none of the choices has a slot {absent[1]}: see {_help(command)}"
    return f"{' '.join(text.splitlines()[0].split())} (see {_help(command)})"


def _help(command: str) -> str:
    return f"`recede {command} --help`"
