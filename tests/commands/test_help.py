"""What help prints fits a terminal and leaves out no key, and the reference page says the same."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import recede as library
from recede.commands.help import overview, slots, usage
from recede.commands.reference import page
from recede.configs.choices import CHOICES, MANY, names
from recede.configs.commands import COMMANDS

COMMAND_LINE = "python -m recede.commands.reference > docs/commands.md"


def test_the_overview_shows_every_command_under_its_group():
    heading, shown = "", {}
    for line in overview().splitlines():
        if match := re.match(r"  ([a-z-]+) {2,}(.+)$", line):
            shown[match[1]] = (heading, match[2])
        else:
            heading = line
    assert shown == {name: (command.group, command.summary) for name, command in COMMANDS.items()}


@pytest.mark.parametrize("text", [overview(), *map(usage, COMMANDS)], ids=["overview", *COMMANDS])
def test_a_line_has_at_most_a_hundred_characters(text):
    assert max(map(len, text.splitlines())) <= 100
    assert not any(line != line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_key_and_every_choice(command):
    text = usage(command)
    lines = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    config = COMMANDS[command].config
    for field in fields(config):
        assert field.name in lines
    for slot in slots(command):
        for name in names(slot):
            assert f"{slot}={name}" in lines
        for name, option in CHOICES.get(slot, {}).items():
            path = f"{slot}.{name}" if slot in MANY else slot.replace("/", ".")
            for field in fields(option):
                assert f"{path}.{field.name}" in lines or f"{slot}/{field.name}" in lines


def test_the_columns_of_a_page_are_aligned():
    lines = usage("train").splitlines()
    (steps,) = [line for line in lines if line.startswith("  steps ")]
    (kernel,) = [line for line in lines if line.startswith("    policy.network.kernel_size ")]
    assert steps.index("null") == kernel.index("5")
    assert steps.index("Number") == kernel.index("Control")


def test_python_words_are_not_shown():
    for command in COMMANDS:
        assert not re.search(r" (None|True|False)( |$)", usage(command), re.MULTILINE)


def test_the_reference_page_is_the_generated_one():
    committed = (Path(library.__file__).parent / "docs" / "commands.md").read_text()
    assert committed == page(), f"run {COMMAND_LINE}"
