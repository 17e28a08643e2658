"""The arguments of the command line, in the form that Hydra reads."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from ..configs.choices import CHOICES, MANY, names
from ..configs.commands import COMMANDS
from ..configs.notation import quoted
from ..configs.packages import check_names
from ..configs.texts import Text, home, text_of
from ..specification import nearest
from .help import slots
from .keys import check_key, help_of

SWEEP = ("-m", "--multirun")
"""Options that run every combination of comma-separated values."""

MOST_JOBS = 10_000
"""Most jobs of a sweep: the configuration of each is composed before the first one runs."""


def jobs(command: str, arguments: Sequence[str]) -> list[list[str]]:
    """Hydra's overrides of every job: of one, or of each combination of comma-separated values in a sweep.

    A text is taken as typed. Only the commas of a sweep separate texts, and a comma after a backslash does not.

    >>> jobs("evaluate", ["runs/my run", "out=2025_11_25", "episodes=5"])
    [["run='runs/my run'", "out='2025_11_25'", 'episodes=5']]
    >>> jobs("collect", ["task=reach", "out=x", "first_seed=0,9", "-m"])
    [["task='reach'", "out='x'", 'first_seed=0'], ["task='reach'", "out='x'", 'first_seed=9']]

    Raises ValueError for an unknown option or key, for a bare argument that the command does not take, for a choice
    that does not exist, for an empty text, and for an impossible sweep.
    """
    options = [
        [form and f"{key}={form}" for form in forms] for key, forms in _forms_of_each(command, arguments).items()
    ]
    return [[override for override in job if override] for job in product(*options)]


def swept(command: str, arguments: Sequence[str]) -> list[dict[str, str]]:
    """The values of the keys that differ between the jobs, as typed, for each job in the order of `jobs`.

    >>> swept("collect", ["task=reach,pick_place", "out=x", "first_seed=9", "-m"])
    [{'task': 'reach'}, {'task': 'pick_place'}]

    Raises as `jobs` does, and if a key has a value twice.
    """
    keys = {key: forms for key, forms in _forms_of_each(command, arguments).items() if len(forms) > 1}
    values = {key: [_plain(form) for form in forms] for key, forms in keys.items()}
    for key, texts in values.items():
        if twice := [text for text in texts if texts.count(text) > 1]:
            raise ValueError(
                f"{key} has the value {twice[0]} twice, and jobs of the same values are one: leave one out"
            )
    return [dict(zip(values, job, strict=True)) for job in product(*values.values())]


def _forms_of_each(command: str, arguments: Sequence[str]) -> dict[str, list[str]]:
    """Key -> Hydra's forms of its values. Raises as `jobs` does."""
    settings, sweeps = read(command, arguments), is_sweep(arguments)
    if not sweeps and (misplaced := [argument for argument in arguments if is_for_launcher(argument)]):
        raise ValueError(f"{misplaced[0]} says where the jobs of a sweep run: add -m, or leave it out")
    if sweeps and "out" in COMMANDS[command].config.__dataclass_fields__ and settings.get("out", "null") == "null":
        raise ValueError("a sweep needs out=FOLDER: each job writes to a numbered folder in it")
    forms = {key: _forms(command, key, value, is_sweep=sweeps and key != "out") for key, value in settings.items()}
    if (count := math.prod(map(len, forms.values()))) > MOST_JOBS:
        raise ValueError(f"a sweep may have {MOST_JOBS} jobs, got {count}: give fewer values")
    return forms


def _plain(form: str) -> str:
    """The value of which this is Hydra's form, as one types it."""
    override = _parsed(f"key={form}") if form.startswith(("'", '"')) else None
    return form or "null" if override is None else str(override.value())


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for a sweep."""
    return any(argument in SWEEP for argument in arguments)


def is_for_launcher(argument: str) -> bool:
    """Whether an argument says where the jobs of a sweep run, and not what they do."""
    return argument.startswith(("hydra/launcher=", "hydra.launcher."))


def read(command: str, arguments: Sequence[str]) -> dict[str, str]:
    """Key -> value as typed, the last one of each key; bare arguments get their key. Raises as `jobs` does.

    >>> read("control", ["policy=ws://127.0.0.1:8765"])
    {'run': 'ws://127.0.0.1:8765'}
    >>> read("compare", ["runs/a", "runs/b"])
    {'results': "['runs/a','runs/b']"}
    """
    result: dict[str, str] = {}
    bare = list[str]()
    positional = COMMANDS[command].positional
    for argument in arguments:
        if positional == "run":  # a trained policy; to Hydra, `policy` is the group of untrained ones
            argument = re.sub("^policy=", "run=", argument)
        key, equals, value = argument.partition("=")
        is_path = positional is not None and "/" in key and key not in CHOICES  # a path may contain "="
        is_bare = not equals or is_path
        if argument in SWEEP or is_for_launcher(argument):
            continue
        if argument.startswith("-"):
            raise ValueError(f"there is no option {argument!r}: {nearest(argument, (*SWEEP, '--help'))}")
        may_follow = not bare or key.partition("/")[0] not in slots(command)  # else it is meant as a slot
        if is_bare and may_follow and positional is not None and _takes_one_more(command, positional, bare, result):
            bare.append(argument)
            key, value = positional, bare[0] if len(bare) == 1 else f"[{','.join(quoted(home(one)) for one in bare)}]"
        elif (is_bare and key.partition("/")[0] not in slots(command)) or key[0:1] in ("", "+", "~"):
            raise ValueError(f"{argument!r} is not of the form key=value: see {help_of(command)}")
        try:
            check_key(command, key)
        except ValueError:
            if positional is None or not Path(argument).exists():
                raise
            raise ValueError(f"{argument!r} is a path with '=' in it: type ./{argument}") from None
        result.pop(key, None)  # the last one counts, and it stands last
        result[key] = value
    return result


def _takes_one_more(command: str, key: str, bare: Sequence[str], result: Mapping[str, str]) -> bool:
    """Whether another bare argument may stand for the key: the first one, or one more of a key that may be a list."""
    text = text_of(COMMANDS[command].config, key)
    return key not in result or (bool(bare) and text is not None and text.can_be_list)


def _forms(command: str, key: str, value: str, *, is_sweep: bool) -> list[str]:
    """Hydra's form of a value, or of every value of a sweep; "" for null in a slot, which overrides nothing."""
    text = text_of(COMMANDS[command].config, key)
    if key in slots(command):
        return _choices(command, key, value, is_sweep=is_sweep)
    is_null = text is not None and text.is_optional and value == "null"
    if text is None or text.is_list:
        return _values(key, value if text is None or is_null else _list(value), is_sweep=is_sweep)
    # A list of paths has commas of its own.
    comma = r"(?<!\\),(?![^\[]*\])" if text.can_be_list else r"(?<!\\),"
    parts = re.split(comma, value) if is_sweep else [value]
    return [_form(key, part, text, is_sweep=is_sweep) for part in parts]


def _form(key: str, value: str, text: Text, *, is_sweep: bool) -> str:
    """Hydra's form of a text."""
    if text.can_be_list and value.startswith("[") and value.endswith("]"):
        return _values(key, _list(value, is_path=text.is_path), is_sweep=False)[0]
    value = value.replace("\\,", ",") if is_sweep else value
    if text.is_optional and value == "null":
        return value
    if not value:
        raise ValueError(f"{key} is empty: give a value" + (", or null for none" if text.is_optional else ""))
    return quoted(home(value) if text.is_path else value)


def _list(value: str, *, is_path: bool = False) -> str:
    """Hydra's form of a list of texts. A quoted text may contain commas and brackets."""

    def form(match: re.Match[str]) -> str:
        text = match[0].strip()
        return match[0] if match[0][0] in "'\"" else quoted(home(text) if is_path else text)

    return re.sub(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^][,]+""", form, value)


def _choices(command: str, slot: str, value: str, *, is_sweep: bool) -> list[str]:
    """Hydra's form of the name of a choice, or of every name of a sweep. Raises ValueError for an unknown name."""
    if slot in MANY:
        forms = _values(slot, value, is_sweep=is_sweep)
        lists = [form[1:-1] if form.startswith("[") else form or "," for form in forms]
        chosen = [name.strip() for line in lists if line for name in line.split(",")]
    else:
        field = COMMANDS[command].config.__dataclass_fields__.get(slot)
        is_optional = slot == "preset" or (field is not None and field.default is None)
        chosen = value.split(",") if is_sweep else [value]
        forms = ["" if is_optional and name == "null" else name for name in chosen]
        chosen = [name for name in chosen if name != "null" or not is_optional]
    for name in chosen:
        if name not in names(slot):
            raise ValueError(explain_choice(slot, name))
    return forms


def explain_choice(slot: str, name: str) -> str:
    """One line for a name that no choice of the slot has."""
    own = " (imports=[your_package] adds your own)" if slot in CHOICES else ""
    return f"{slot} cannot be {name!r}: {nearest(name, names(slot))}{own}"


def _values(key: str, value: str, *, is_sweep: bool) -> list[str]:
    """Hydra's form of a value that is no text, or of every value of a sweep."""
    if not value.strip():
        raise ValueError(f"{key} is empty: give a value, or leave it out for its default")
    if "${" in value:
        raise ValueError(f"{key}={value}: a value cannot refer to another one, write it out")
    override = _parsed(f"{key}={value}")
    if override is None:
        return [quoted(value)]
    if not override.is_sweep_override():
        return [value]
    if not is_sweep:
        raise ValueError(
            f"{key}={value} has several values: add -m to run once with each, or write a list as key=[a,b]"
        )
    return list(_swept(f"{key}={value}", override))


def _swept(argument: str, override: Any) -> Iterator[str]:
    """The values of a sweep. Raises ValueError for a range without an end, and for one that is too long."""
    if override.is_range_sweep():
        swept = override.value()
        ends = [float(number) for number in (swept.start, swept.stop, swept.step)]
        if not all(map(math.isfinite, ends)) or not ends[2] or (ends[1] - ends[0]) / ends[2] > MOST_JOBS:
            raise ValueError(f"{argument} must be a range of at most {MOST_JOBS} values: give other bounds")
    elif not override.is_choice_sweep() or override.value_type.name.startswith("GLOB"):
        raise ValueError(f"{argument} has no values to run one by one: give them as key=a,b")
    return override.sweep_string_iterator()


def _parsed(argument: str) -> Any:
    """The argument as Hydra's grammar reads it; None if it cannot."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def requested_imports(arguments: Sequence[str]) -> list[str]:
    """The packages of the last `imports=[...]` among the arguments.

    >>> requested_imports(["dataset=d", "imports=[my_package,other.module]"])
    ['my_package', 'other.module']

    Raises ValueError unless it is a list of names.
    """
    matches = [argument.partition("=")[2] for argument in arguments if argument.startswith("imports=")]
    if not matches:
        return []
    override = _parsed(f"imports={_list(matches[-1])}")
    value = matches[-1] if override is None else override.value()
    return check_names([getattr(name, "text", name) for name in value] if isinstance(value, list) else value)
