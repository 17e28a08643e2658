"""Every command that our documents show is one that the command line takes, and every other line names what exists."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import recede
from recede.commands.composition import compose
from recede.configs.commands import COMMANDS
from recede.configs.notation import command_line

ROOT = Path(recede.__file__).parent


DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), ROOT / "examples" / "README.md"]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SYSTEM = {"git", "python3", ".", "export", "read", "sudo", "chromium", "torchrun", "srun"}
"""Programs of others, whose arguments no test of ours can judge. torchrun and srun start a composed `recede`."""


def lines_of_shell():
    """(document, line) of every line in a block of shell, and of each benchmark and `make` between backticks."""
    for document in DOCUMENTS:
        text = document.read_text()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            yield from ((document.name, line) for line in block.splitlines() if shlex.split(line, comments=True))
        inline = re.findall(
            r"`((?:python (?:benchmarks|examples)/|make )[^`]*)`", re.sub(r"```.*?```", "", text, flags=re.S)
        )
        yield from ((document.name, " ".join(line.split())) for line in inline)


def shown():
    """The arguments of every `recede ...` in a code block or between backticks, once, but for those with an ellipsis.

    Those with a package of one's own are run by tests/test_open_tables.py.
    """
    places = {}
    for document in DOCUMENTS:
        if document.name in (
            "commands.md",
            "CHANGELOG.md",
        ):  # the one is generated, see test_help.py; the other is history
            continue
        text = document.read_text()
        blocks = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
        inline = [
            " ".join(match.split())
            for match in re.findall(r"`(recede [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.S))
        ]
        for line in blocks + inline:
            arguments = shlex.split(line, comments=True)
            if "torchrun" in arguments:  # it starts what follows -m
                arguments = arguments[arguments.index("recede") :]
            left_out = {"...", "<command>", "--help", "-m", "imports=[my_parts]"}
            if arguments[:1] == ["recede"] and not left_out & set(arguments):
                places.setdefault(tuple(arguments[1:]), document.name)
    return [pytest.param(typed, id=f"{name}: {' '.join(typed)}") for typed, name in places.items()]


@pytest.mark.parametrize("arguments", shown())
def test_a_command_that_is_shown_is_understood(arguments):
    command, *rest = arguments
    assert command in COMMANDS
    if not rest:  # named, not typed
        return
    (config,), _ = compose(command, rest)
    assert type(config) is COMMANDS[command].config


def longest():
    """The longest line that is shown of each command; those of the others are slow, as most of them repeat its keys."""
    quick = {parameter.values[0][0]: parameter for parameter in sorted(shown(), key=lambda one: len(one.values[0]))}
    marks = {parameter.id: [] for parameter in quick.values()}
    return [pytest.param(*one.values, id=one.id, marks=marks.get(one.id, pytest.mark.slow)) for one in shown()]


@pytest.mark.parametrize("arguments", longest())
def test_a_configuration_is_written_as_the_command_that_it_comes_from(arguments):
    command, *rest = arguments
    if not rest:  # named, not typed
        return
    (config,), _ = compose(command, rest)
    assert compose(command, shlex.split(command_line(command, config))[2:]) == ([config], [])


def test_the_documents_show_every_command():
    assert {parameter.values[0][0] for parameter in shown()} == set(COMMANDS)


def names_what_exists(line):
    """Whether a line of shell that is no command of recede names files, targets and extras that are there."""
    words = shlex.split(line, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, *arguments = words
    if program == "make":
        return all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for target in arguments)
    if program == "pip":
        extras = re.findall(r"\[([\w,]+)\]", line)
        is_pinned = "-c" not in arguments or (ROOT / arguments[arguments.index("-c") + 1]).is_file()
        return is_pinned and all(extra in EXTRAS for names in extras for extra in names.split(","))
    if program == "python":
        source = (ROOT / arguments[0]).read_text()
        keys = [argument.partition("=")[0] for argument in arguments[1:] if "=" in argument]
        shared = (ROOT / "benchmarks" / "measure.py").read_text()
        return all(f'"{key}"' in source + shared or f"{key}=" in source for key in keys)
    return program in SYSTEM | {"recede"}


def test_every_other_line_of_shell_names_what_exists():
    wrong = [f"{document}: {line}" for document, line in lines_of_shell() if not names_what_exists(line)]
    assert not wrong


@pytest.mark.parametrize(
    "line", ["make nothing", "pip install -e '.[nothing]'", "python benchmarks/ways.py runs picked=1", "wget x"]
)
def test_a_line_that_names_nothing_is_noticed(line):
    assert not names_what_exists(line)
