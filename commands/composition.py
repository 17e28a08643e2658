"""Hydra composes a command's configuration; its errors become one line each."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import import_module
from traceback import format_list
from typing import Any

from ..configs.changes import rule
from ..configs.choices import CHOICES, MANY, names
from ..configs.packages import import_packages
from ..envs.faults import is_addressed, one_line, own_frames, place
from .grammar import is_sweep, jobs, requested_imports
from .keys import help_of, keys_of, nearest_keys

MOST_LETTERS = 1000
"""Letters of an error that are shown: its beginning names the file, and its end the remedy."""

MOST_FRAMES = 3
"""Lines of a user's own code that are shown of an error in it."""


class JobFailed(Exception):
    """A job of a sweep failed. job: which one. why: the reason, unless it is the cause of this exception."""

    def __init__(self, job: str, why: str = "") -> None:
        super().__init__(f"{job}: {why}" if why else job)
        self.job, self.why = job, why


def compose_and_run(command: str, arguments: Sequence[str]) -> int:
    """Compose the command's configuration and run it; returns its exit status. A sweep is that of `sweeping`."""
    import_packages(requested_imports(arguments))  # they may add choices
    (configurations, failures) = compose(command, arguments)
    if failures:
        raise failures[0]
    return run_of(command)(configurations[0]) or 0


def run_of(command: str) -> Callable[[Any], int | None]:
    """The function that carries out a command."""
    return import_module(f".{command.replace('-', '_')}", __package__).run


def compose(command: str, arguments: Sequence[str]) -> tuple[list[Any], list[Exception]]:
    """The configuration of every job whose values are possible, and the errors of the others.

    Raises what `compose_each` raises.
    """
    composed = compose_each(command, arguments)
    failures = [one for one in composed if isinstance(one, Exception)]
    return [one for one in composed if not isinstance(one, Exception)], failures


def compose_each(command: str, arguments: Sequence[str]) -> list[Any]:
    """The configuration of every job, or the error of its values. Each job of a sweep writes to a numbered folder.

    Raises ValueError, HydraException or OmegaConfBaseException if no job can be composed of the arguments.
    """
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from ..configs.commands import register

    register()
    result = list[Any]()
    with _without_its_own(), initialize_config_module("recede.configs", job_name=command, version_base="1.3"):
        for number, overrides in enumerate(jobs(command, arguments)):
            composed = compose(command, overrides)
            try:
                configuration: Any = OmegaConf.to_object(composed)
            except Exception as error:
                result.append(error)
                continue
            if is_sweep(arguments) and hasattr(configuration, "out"):
                configuration.out = f"{configuration.out}/{number}"
            result.append(configuration)
    return result


@contextmanager
def _without_its_own() -> Generator[None]:
    """Keep Hydra from composing its ten configurations for logs, sweeps and help too, of which no command reads any."""
    from hydra.core.config_store import ConfigStore

    bare, table = _bare_node(), ConfigStore.instance().repo["hydra"]
    whole = table["config.yaml"]
    table["config.yaml"] = replace(whole, node=bare)
    try:
        yield
    finally:
        table["config.yaml"] = whole  # a launcher of sweeps needs it


@cache
def _bare_node() -> Any:
    """Hydra's configuration of itself, which chooses no others."""
    from hydra.conf import HydraConf
    from omegaconf import OmegaConf

    return OmegaConf.structured(HydraConf(defaults=[]))


def explain(error: BaseException, command: str) -> str | None:
    """One line for an error that a user can correct, or None for a bug."""
    from hydra.errors import HydraException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    if isinstance(error, JobFailed):
        reason = error.why if error.__cause__ is None else explain(error.__cause__, command)
        return None if reason is None else f"{error.job}: {reason}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is required: give {error.full_key}=..."
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain_composition(error, command)
    torch = sys.modules.get("torch")  # whoever raises its error has imported it
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return explain_memory(error, command)
    if isinstance(error, SyntaxError) or not is_addressed(error):
        return explain_own(error)
    if isinstance(error, ValueError | OSError | FloatingPointError | ImportError):
        return _shown(error)
    return None


def explain_own(error: BaseException) -> str:
    """The error of a user's own code: what it is, and the last lines that led to it."""
    text = _shown(error)
    if isinstance(error, SyntaxError):  # it has no frame of its own
        return f"{type(error).__name__}: {text}, in {error.filename}"
    frames = own_frames(error)[-MOST_FRAMES:]
    return "\n".join([f"{type(error).__name__}: {text} ({place(error)})", *format_list(frames)]).rstrip()


def _shown(error: BaseException) -> str:
    """The message of an error in one line; the middle of a long one is left out."""
    line = one_line(str(error))
    return line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS // 2]} ... {line[-MOST_LETTERS // 2 :]}"


def explain_memory(error: BaseException, command: str) -> str:
    """What did not fit into the memory of a GPU, and how to need less."""
    # torch names the sizes in its first two sentences; advice on its own settings follows.
    reason = ". ".join(" ".join(str(error).split()).split(". ")[:2]).rstrip(".")
    if command == "train":
        return f"{reason}: lower batch_size or draws, or keep the images out of it with image_cache=mapped"
    return f"{reason}: end other programs that use the GPU, or use the CPU with device=cpu"


def explain_composition(error: Exception, command: str) -> str:
    """One line for a key or a value that Hydra refuses."""
    text, cause = str(error), error.__cause__
    if getattr(cause, "key", None) is not None and " not in " in str(cause):
        return explain_key(cause, command)
    if override := re.match("Error merging override (.*)", text):
        return f"{override[1]}: {rule(cause if isinstance(cause, Exception) else error)}"
    if required := re.match(r"You must specify '(\w+)'", text):
        return f"{required[1]} is required: give {required[1]}=NAME, one of {', '.join(names(required[1]))}"
    if absent := re.match("Could not override '(.*?)'", text):
        return f"none of the choices has a slot {absent[1]}: see {help_of(command)}"
    return f"{' '.join(text.splitlines()[0].split())} (see {help_of(command)})"


def explain_key(error: Any, command: str) -> str:
    """One line for a key that the chosen configuration does not have."""
    key, keys = str(error.full_key), keys_of(command)
    owner, *rest = key.split(".")
    if owner in MANY and rest and rest[0] in CHOICES[owner]:
        return f"{owner}.{rest[0]} is not chosen: add {owner}={rest[0]} (see {help_of(command)})"
    slot, name = "/".join([owner, *rest[:-1]]), rest[-1] if rest else ""
    options = CHOICES.get(slot, {})
    others = [f"{slot}={other}" for other, option in options.items() if name in option.__dataclass_fields__]
    chosen = [f"{slot}={other}" for other, option in options.items() if option is error.object_type]
    if others and chosen:
        return f"{chosen[0]} has no key {key!r}: add {' or '.join(others)} to use it (see {help_of(command)})"
    return f"there is no key {key!r}: {nearest_keys(key, key.rpartition('.')[0], keys, command)}"
