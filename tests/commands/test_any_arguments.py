"""Whatever one types, a command ends with status 0, or with status 2 and one line, within seconds."""

import random
import re
import shlex
import time
from importlib import import_module

import pytest
from foreign_data import write_npz
from recede.commands.help import slots
from recede.configs.choices import names
from recede.configs.commands import COMMANDS
from recede.configs.documentation import choices, sections

VALUES = [
    *("-1", "0", "1", "3", "0.5", "1e300", "inf", "-inf", "nan", "1000000000000", "1" + 30 * "0", "1_0", "007", "0x1"),
    *("", " ", "null", "Null", "true", "FALSE", "abc", "a b", "it's", '"a"', "'", "\\", "a\\", "é", "\udcff", "\t"),
    *("[]", "[1]", "[1,2]", "[a,b]", "[[1],[2]]", "[1", "]", "{}", "{a:1}", "{a:{b:[1]}}", "{", "[1e300,-1]", "[null]"),
    *("1,2", "a,b", "1,", ",", "range(1,3)", "range(0,1e18)", "choice(1,2)", "glob(*)", "interval(0,1)", "int(1)"),
    *("${x}", "${oc.env:HOME}", "$HOME", "???", "~", "~/x", "~nobody", "/dev/null", "..", "../x", "x/y=z", "..:x"),
    *("a:b", "os:x", "toys:REACH", "toys:NOTHING", "pick_place", "cpu", "cuda:99", "meta", "ddim", "last", "ws://x:1"),
    *("shuffle(1,2)", "a\nb"),
]
FREE = ["--help", "-h", "-m", "--multirun", "-x", "--", "-", "+a=1", "~a", "a=b=c", "=1", "=", "hydra.x=1", "x@y=z"]
"""Arguments of other forms than key=value."""


def keys_of(command):
    """Every key of a command and of the choices for its slots, and the choice that each one needs."""
    keys = [key.path for group in sections(COMMANDS[command].config).values() for key in group]
    pairs = [(key, "") for key in keys]
    for slot in slots(command):
        pairs += [(slot, "")] + [(key.path, choice.argument) for choice in choices(slot) for key in choice.keys]
    return pairs


KEYS = {command: keys_of(command) for command in COMMANDS}
VALID = {
    "demo": ["out=demo"],
    "doctor": ["{reaches}", "machine=false", "json=doctor.json"],
    "collect": ["task=toys:REACH", "out=collected.zarr", "episodes=1"],
    "download": ["pusht", "url=file:///nowhere", "out=downloaded.zarr"],
    "inspect": ["{reaches}", "out=picture.png"],
    "view": ["nowhere", "out=seen.html"],
    "edit": ["{reaches}", "out=edited.zarr", "episodes=episode<1"],
    "convert": ["{arrays}", "out=converted.zarr", "rate=10", "images=png"],
    "reproduce": ["pick_place_short", "out=reproduced"],
    "replay": ["task=toys:REACH", "dataset={reaches}", "episodes=episode<1"],
    "train": ["task=toys:REACH", "dataset={reaches}", "out=run", "steps=1"],
    "train-classifier": ["run={trained}", "dataset={reaches}", "condition=episode<10", "out=classifier", "steps=1"],
    "import-checkpoint": ["nowhere.pt", "out=imported"],
    "export": ["{trained}", "out=exported", "engine=onnx"],
    "evaluate": ["{trained}", "task=toys:REACH", "episodes=1", "videos=0", "out=evaluated"],
    "compare": ["{trained}"],
    "control": ["{trained}", "robot.task=toys:REACH", "episodes=1", "seconds=0.3", "out=controlled"],
    "record": ["task=toys:REACH", "out=recorded.zarr", "input=expert", "episodes=1", "seconds=0.3"],
    "check": ["robot=simulated", "robot.task=toys:REACH", "seconds=0.2"],
    "serve": ["nowhere"],
}


def test_every_command_has_arguments_to_try():
    assert VALID.keys() == COMMANDS.keys()


def misspelt(rng, text):
    index = rng.randrange(len(text) + 1)
    return text[:index] + rng.choice(["", "x", ".", "/", "é", "=", " ", "_"]) + text[index + 1 :]


def argument(rng, command):
    """One or two arguments: known keys with any value, misspelt ones, bare ones, options."""
    kind = rng.random()
    if kind < 0.1:
        return [rng.choice(FREE)]
    if kind < 0.15:
        return [rng.choice(VALUES)]
    key, choice = rng.choice(KEYS[command])
    if kind < 0.25:
        return [f"{misspelt(rng, key)}={rng.choice(VALUES)}"]
    if kind < 0.3:
        return [misspelt(rng, f"{key}={rng.choice(VALUES)}")]
    value = rng.choice(names(key)) if key in slots(command) and rng.random() < 0.7 else rng.choice(VALUES)
    return [*([choice] if choice and rng.random() < 0.8 else []), f"{key}={value}"]


def arguments(rng, command, **paths):
    """A whole command line: mostly with what the command requires, in any order, and sometimes an argument twice."""
    valid = [text.format(**paths) for text in VALID[command]]
    result = [text for text in valid if rng.random() < 0.95]
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        more = argument(rng, command)
        result += more + (more if rng.random() < 0.1 else [])
    if rng.random() < 0.2:
        rng.shuffle(result)
    return [command, *result]


def check(status, output, command, typed):
    """What any command owes whoever typed it. output: both streams, or the errors alone."""
    shown = f"{shlex.join(typed)}\n{output}"
    assert status in (0, 1, 2) if command == "doctor" else status in (0, 2), shown
    assert "Traceback" not in output, shown
    lines = [line for line in re.split("[\r\n]", output) if line.startswith(f"recede {command}: ")]
    if status == 2 and not {"-m", "--multirun"} & set(typed):
        assert len(lines) == 1, shown
    if status == 2:
        assert output.splitlines()[-1] in lines, shown


def compose_any(recede, monkeypatch, number, seed):
    rng = random.Random(seed)
    statuses = []
    for command in COMMANDS:
        monkeypatch.setattr(import_module(f"recede.commands.{command.replace('-', '_')}"), "run", lambda config: None)
    for _ in range(number):
        command = rng.choice(list(COMMANDS))
        typed = arguments(rng, command, reaches="d.zarr", trained="run", arrays="a")
        start = time.monotonic()
        try:
            result = recede(*typed)
        except BaseException as error:
            error.add_note(shlex.join(typed))
            raise
        assert time.monotonic() - start < 20, shlex.join(typed)
        check(result.status, result.err, command, typed)
        assert result.status == 0 or result.out == "", shlex.join(typed)
        statuses.append(result.status)
    return statuses


@pytest.mark.slow
def test_any_arguments_are_composed_or_refused_in_one_line(recede, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    statuses = compose_any(recede, monkeypatch, 150, seed=0)
    assert 0.2 < sum(status == 0 for status in statuses) / len(statuses) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_arguments_are_composed_or_refused_in_one_line(recede, monkeypatch, tmp_path, seed):
    monkeypatch.chdir(tmp_path)
    compose_any(recede, monkeypatch, 300, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_any_arguments_run_or_are_refused_in_one_line(nursery, tmp_path, reaches, trained, seed):
    arrays = write_npz(tmp_path / "arrays")
    rng = random.Random(seed)
    commands = sorted(COMMANDS.keys() - {"demo", "serve", "reproduce"})  # these go on for long
    for number in range(40):
        command = rng.choice(commands)
        typed = arguments(rng, command, reaches=reaches, trained=trained, arrays=arrays)
        if command == "train" and "steps=1" not in typed:
            typed.append("steps=1")  # the default trains for many minutes
        (tmp_path / str(number)).mkdir()
        start = time.monotonic()
        status, output = nursery.run(*typed, folder=tmp_path / str(number))
        assert time.monotonic() - start < 120, shlex.join(typed)
        check(status, output, command, typed)
