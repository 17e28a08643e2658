"""A text is taken as typed, in every key that holds one, and reads back from the command line that recede prints."""

import shlex
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from recede.commands.composition import compose
from recede.commands.help import slots
from recede.configs.commands import COMMANDS
from recede.configs.documentation import choices, sections
from recede.configs.notation import command_line, default_of, quoted, shown, typed
from recede.configs.texts import Text, text_of

TEXTS = [
    "2025_11_25",
    "1e5",
    "1.50",
    "true",
    "Null",
    "a b",
    "a,b",
    "{x}",
    "[x]",
    "(x)",
    "$x",
    "${x}",
    "${oc.env:HOME}",
    "\\${x}",
    "a=b",
    "'a'",
    '"a"',
    "it's",
    "a\\",
    "\\'",
    "två",
    "日本",
    " a ",
    "x/~/y",
    "a:b",
    "# a",
    "range(1,3)",
    "a\nb",
    "\udcff",
]
"""What Hydra's grammar or OmegaConf would make something else of."""

ANY = st.text(st.characters(exclude_characters="\0"), min_size=1) | st.text("a'\"\\${},[] =~.:1_\t\n", min_size=1)
REQUIRED = {
    "condition": "steps>1",
    "dataset": "d",
    "name": "n",
    "out": "o",
    "recipe": "r",
    "results": "r",
    "run": "r",
    "source": "s",
    "task": "t",
}


def keys_of(command):
    """Every key of a command and of the choices for its slots, and the choice that each one needs."""
    for keys in sections(COMMANDS[command].config).values():
        yield from ((key.path, None) for key in keys)
    for slot in slots(command):
        for choice in choices(slot):
            yield from ((key.path, choice.argument) for key in choice.keys)


TEXT_KEYS = [
    (command, key, choice)
    for command in COMMANDS
    for key, choice in keys_of(command)
    if "/" not in key and text_of(COMMANDS[command].config, key) is not None
]


def is_required(command, name):
    return any(field.name == name and default_of(field) is MISSING for field in fields(COMMANDS[command].config))


def value_at(config, key):
    for name in key.split("."):
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    return config


def composed(command, *arguments):
    (config,), failures = compose(command, arguments)
    assert not failures
    return config


def test_every_text_of_a_configuration_is_one_on_the_command_line():
    paths = {(command, key) for command, key, _ in TEXT_KEYS if text_of(COMMANDS[command].config, key).is_path}
    assert {("collect", "out"), ("train", "init_from"), ("train", "policy.encoder.weights")} < paths
    assert {("control", "robot.calibration"), ("compare", "lines"), ("evaluate", "run")} < paths
    assert not {("train", "task"), ("serve", "host"), ("train", "device")} & paths
    assert text_of(COMMANDS["train"].config, "steps") is None
    assert text_of(COMMANDS["train"].config, "nowhere.else") is None
    assert text_of(COMMANDS["import-checkpoint"].config, "streams") == Text(is_list=True)


def test_a_text_reads_back_from_the_grammar_of_hydra():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parse = OverridesParser.create().parse_override

    @given(ANY)
    @settings(max_examples=200, deadline=None)
    def check(text):
        for form, value in ((quoted(text), text), (typed([text, "b"]), [text, "b"]), (typed({"a": text}), {"a": text})):
            override = parse(f"x={form}").value()
            assert OmegaConf.to_object(OmegaConf.create({"x": override})) == {"x": value}

    for text in TEXTS:
        check = example(text)(check)
    check()


@pytest.mark.slow
@given(st.data())
@settings(max_examples=6, deadline=None)
def test_what_recede_prints_reads_back(data):
    plain = {"task": "toys:REACH", "device": "cpu", "out": "x", "dataset": "d", "init_from": "i", "teacher": "t"}
    texts = {key: data.draw(ANY | st.sampled_from(TEXTS)) for key in plain}
    texts = {key: text if text[0] != "~" and text != "null" else f"./{text}" for key, text in texts.items()}
    config = composed("train", *(f"{key}={text}" for key, text in texts.items()))
    assert {key: getattr(config, key) for key in texts} == texts
    assert composed("train", *shlex.split(command_line("train", config))[2:]) == config


@pytest.mark.parametrize("start", range(0, len(TEXTS), 4))
def test_every_text_is_taken_as_typed(start):
    keys = ["task", "dataset", "out", "policy.encoder.weights"]
    texts = dict(zip(keys, TEXTS[start:], strict=False))
    arguments = [f"{key}={text}" for key, text in texts.items()]
    config = composed("train", "dataset=d", "out=o", "policy/encoder=resnet", *arguments)
    assert {key: value_at(config, key) for key in texts} == texts


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_a_bare_and_a_named_text_as_typed(command):
    text, positional = "[it's] 1,{2}", COMMANDS[command].positional
    others = [f"{name}={value}" for name, value in REQUIRED.items() if is_required(command, name)]
    others += ["robot=simulated"] if command == "check" or is_required(command, "robot") else []
    others += ["input=keyboard"] if is_required(command, "input") else []
    others += ["monitors=true"] if command == "evaluate" else []  # its dataset is for monitors
    others += [f"{positional}=x"] if positional and not is_required(command, positional) else []
    arguments = [text if argument.startswith(f"{positional}=") else argument for argument in others]
    config = composed(command, *arguments)
    assert positional is None or getattr(config, positional) == text
    names = {"out", "device", "dataset"} & COMMANDS[command].config.__dataclass_fields__.keys()
    named = next(iter(sorted(names)), "robot.task")
    assert value_at(composed(command, *others, f"{named}={text}"), named) == text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "arguments", "key"),
    [
        ("train", ["policy/encoder=vit", "policy.encoder.architecture={a:1}"], "policy.encoder.weights"),
        ("control", ["robot=serial_arm", "robot.calibration=x"], "robot.port"),
        ("collect", [], "out"),
        ("evaluate", [], "run"),
    ],
)
def test_a_tilde_is_a_home_at_the_beginning_of_a_path(command, arguments, key, monkeypatch):
    monkeypatch.setenv("HOME", "/homes/me")
    others = [f"{name}={value}" for name, value in REQUIRED.items() if is_required(command, name)]
    root = Path("~root").expanduser()
    for text, path in {"~": "/homes/me", "~/x y": "/homes/me/x y", "~root/x": f"{root}/x", "./~": "./~"}.items():
        assert value_at(composed(command, *others, *arguments, f"{key}={text}"), key) == path
    with pytest.raises(ValueError, match=r"'~nobody-at-all'.* \./~nobody-at-all/x"):
        composed(command, *others, *arguments, f"{key}=~nobody-at-all/x")


def test_a_tilde_elsewhere_is_a_tilde():
    config = composed("train", "out=a/~/b", "dataset=a~", "task=~/x", "init_from=null")
    assert (config.out, config.dataset, config.task, config.init_from) == ("a/~/b", "a~", "~/x", None)
    assert composed("evaluate", "~/a=b").run == str(Path("~/a=b").expanduser())


def test_null_is_no_text_where_there_may_be_none():
    config = composed("train", "out=null", "dataset=d", "task=null")
    assert (config.out, config.task) == ("null", None)
    config = composed("record", "task=pick_place", "out=o", "input=gamepad", "input.axes=null")
    assert config.input.axes is None
    config = composed("record", "task=pick_place", "out=o", "input=gamepad", "input.axes=[null,-x]")
    assert list(config.input.axes) == ["null", "-x"]


@pytest.mark.parametrize("argument", ["out=", "task=", "device="])
def test_a_text_is_not_empty(recede, argument):
    line = recede("train", "dataset=d", "out=o", argument).line
    assert f"{argument[:-1]} is empty: give a value" in line
    assert ("null" in line) == (argument == "task=")


def test_a_sweep_separates_texts_at_commas_but_for_those_after_a_backslash():
    arguments = ["runs/a,it's 1_0,b\\,c", "out=x,y", "checkpoint=last,best", "-m"]
    configs, failures = compose("evaluate", arguments)
    assert not failures
    jobs = [(config.run, config.out, config.checkpoint) for config in configs]
    runs = ["runs/a", "it's 1_0", "b,c"]
    assert jobs == [(run, f"x,y/{2 * i + j}", ("last", "best")[j]) for i, run in enumerate(runs) for j in range(2)]


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("seed=3,1", [3, 1]),
        ("seed=range(0,3)", [0, 1, 2]),
        ("seed=choice(1,5)", [1, 5]),
        ("policy=regression,diffusion", ["RegressionConfig", "DiffusionConfig"]),
        ("betas=[0.5,0.6],[0.7,0.8]", [[0.5, 0.6], [0.7, 0.8]]),
    ],
)
def test_a_sweep_has_values_of_every_type(argument, values):
    configs, _ = compose("train", ["out=x", "dataset=d", argument, "--multirun"])
    swept = [getattr(config, argument.partition("=")[0]) for config in configs]
    assert values in (swept, [type(value).__name__ for value in swept])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed=range(0,1000000000000)"], ["10000"]),
        (["seed=shuffle(range(0,1000000000000))"], ["10000"]),
        (["seed=range(0,inf)"], ["10000"]),
        (["seed=range(0,1,0)"], ["10000"]),
        (["seed=range(0,1000)", "steps=range(1,1000)"], ["10000", "999000"]),
        (["seed=interval(0,1)"], ["key=a,b"]),
    ],
)
def test_an_endless_sweep_is_refused(recede, arguments, words):
    line = recede("train", "out=x", "dataset=d", *arguments, "-m").line
    assert all(word in line for word in words)


@pytest.mark.slow
def test_the_results_lie_where_one_typed_them(recede, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for out in ("2025_11_25", "1e3", "true", "~/demos", "a,b"):
        result = recede("collect", "task=toys:REACH", f"out={out}", "episodes=1")
        assert result.status == 0, result.err
    assert {path.name for path in tmp_path.iterdir()} == {"2025_11_25", "1e3", "true", "home", "a,b"}
    assert (tmp_path / "home/demos/zarr.json").exists()
    assert recede("inspect", "1e3").status == 0


def test_the_next_command_can_be_pasted(recede, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = recede("collect", "task=toys:REACH", "out=it's a $HOME", "episodes=1")
    program, command, *arguments = shlex.split(result.out.splitlines()[-1].removeprefix("next: "))
    assert (program, command) == ("recede", "train")
    assert composed(command, *arguments).dataset == "it's a $HOME"


@pytest.mark.parametrize("path", ["a=b", "-m", "~x", "x/a=b", "it's", "ws://host:1"])
def test_a_bare_path_that_is_printed_reads_back(path):
    (_, command, *arguments) = shlex.split(shown("evaluate", path))
    assert composed(command, *arguments).run in (path, f"./{path}")
