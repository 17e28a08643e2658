"""Every command that our documents show is one that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest
import recede
from recede.commands.composition import compose
from recede.configs.commands import COMMANDS
from recede.configs.notation import command_line

ROOT = Path(recede.__file__).parent


def shown():
    """The arguments of every `recede ...` in a code block or between backticks, but for those with an ellipsis.

    Those with a package of one's own are run by tests/test_open_tables.py.
    """
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        if document.name == "commands.md":  # generated, see test_help.py
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
                yield pytest.param(arguments[1:], id=f"{document.name}: {' '.join(arguments[1:])}")


@pytest.mark.parametrize("arguments", list(shown()))
def test_a_command_that_is_shown_is_understood(arguments):
    command, *rest = arguments
    assert command in COMMANDS
    if not rest:  # named, not typed
        return
    (config,), _ = compose(command, rest)
    assert type(config) is COMMANDS[command].config
    assert compose(command, shlex.split(command_line(command, config))[2:]) == ([config], [])


def test_the_documents_show_every_command():
    assert {parameter.values[0][0] for parameter in shown()} == set(COMMANDS)
