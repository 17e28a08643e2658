"""A key that a command does not have is refused as it was typed, with keys that it has, and with where to read."""

import random
import re

import pytest
from recede.commands.help import slots
from recede.commands.keys import check_key, keys_of
from recede.configs.commands import COMMANDS
from recede.configs.documentation import choices, sections

NUMBER = 40
"""Refused keys of each command."""


def documented(command):
    """Every key that the help of a command prints."""
    keys = [key.path for group in sections(COMMANDS[command].config).values() for key in group]
    return keys + [key.path for slot in slots(command) for choice in choices(slot) for key in choice.keys]


def misspelt(rng, key):
    """A key with a wrong part: a letter more, fewer or another; a part more; a part left out; parts of another key."""
    parts, kind = key.split("."), rng.randrange(4)
    index = rng.randrange(len(parts))
    if kind == 0:
        place = rng.randrange(len(parts[index]))
        parts[index] = parts[index][:place] + rng.choice("qxz_") + parts[index][place + rng.randrange(2) :]
    elif kind == 1:
        parts.insert(index + 1, rng.choice(["x", "0", "every", "x.y", "NAME", "num_step", "options"]))
    elif kind == 2:
        del parts[index]
    else:
        parts.reverse()
    return ".".join(parts)


def refusal(command, key):
    try:
        check_key(command, key)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_documented_key_is_accepted(command):
    assert [key for key in documented(command) if refusal(command, key)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_refused_key_is_named_as_typed_with_keys_that_exist(command):
    rng, keys, existing, lines = random.Random(0), documented(command), {*keys_of(command), *slots(command)}, 0
    while lines < NUMBER:
        key = misspelt(rng, rng.choice(keys))
        if not (line := refusal(command, key)):
            assert key in existing or any(key.startswith(f"{owner}.") for owner in existing), key
            continue
        lines += 1
        assert repr(key) in line
        assert f"`recede {command} --help`" in line
        named = {*re.findall(r"'([^']*)'", line)} - {key}
        assert named <= existing, line
        if "give it whole as" in line:
            assert re.search(r"as ([\w./]+)=", line)[1] in existing, line


@pytest.mark.parametrize(
    ("key", "proposed"),
    [
        ("policy.samplr.num_steps", "policy.sampler.num_steps"),
        ("policy.sampler.num_step", "policy.sampler.num_steps"),
        ("num_steps", "policy.sampler.num_steps"),
        ("policy.channels", "policy.network.channels"),
        ("policy.network.crop", "policy.encoder.crop"),
        ("batchsize", "batch_size"),
        ("horizons.batch_size", "batch_size"),
    ],
)
def test_the_nearest_key_is_proposed_wherever_it_lies(key, proposed):
    assert repr(proposed) in refusal("train", key)
