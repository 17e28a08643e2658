"""Every number of every configuration has bounds, which are checked when the configuration is made."""

import math
from dataclasses import MISSING, fields
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from recede.configs.augmentation import AugmentationConfig
from recede.configs.choices import CHOICES
from recede.configs.commands import COMMANDS
from recede.configs.components.policies import DiffusionConfig, HorizonsConfig
from recede.configs.components.robots import SafetyConfig
from recede.configs.deployment import CheckConfig
from recede.configs.normalisation import NormalisationConfig
from recede.configs.notation import default_of

CONFIGS = {
    *(command.config for command in COMMANDS.values()),
    *(option for options in CHOICES.values() for option in options.values()),
    AugmentationConfig,
    HorizonsConfig,
    NormalisationConfig,
    SafetyConfig,
}
ABSURD = {int: [10**12, 10**30, -(10**12)], float: [1e300, 1e12, -1e12, math.inf, -math.inf, math.nan]}
UNBOUNDED = {"DiffusionConfig.clip": [1e300, 1e12, math.inf], "TrainConfig.learning_rate": [1e12]}
"""What a field may be none the less: estimates may go unclipped, and a training that diverges names its rate."""


def hint_of(config, name) -> Any:
    """The type of a field without its None."""
    hint = get_type_hints(config)[name]
    options = [option for option in get_args(hint) if option is not type(None)]
    return options[0] if type(None) in get_args(hint) else hint


def absurd_values(config):
    """Each field that holds numbers with each absurd value of it."""
    for field in fields(config):
        hint = hint_of(config, field.name)
        for value in ABSURD.get(hint, []):
            if value not in UNBOUNDED.get(f"{config.__name__}.{field.name}", []):
                yield field.name, value
        for value in ABSURD.get(get_args(hint)[0], []) if get_origin(hint) is list else []:
            yield field.name, [value, value]


VALUES = {config: list(absurd_values(config)) for config in sorted(CONFIGS, key=lambda config: config.__name__)}
"""Configuration -> all of these. One test takes them all: hundreds of tests would take longer than what they try."""


def make(config, **values):
    required = {field.name: "x" for field in fields(config) if default_of(field) is MISSING}
    required |= {"task": "x"} if config is CheckConfig else {}  # it checks a robot or a task
    required |= {"condition": "steps>1"} if "condition" in required else {}
    return config(**(required | ({"policy": DiffusionConfig()} if "policy" in required else {}) | values))


def refusal(config, name, value):
    """What the configuration says of such a value of a field: nothing if it takes the value."""
    more = {"std": [1.0, 1.0]} if name == "mean" else {"mean": [0.0, 0.0]} if name == "std" else {}
    more = more if config is NormalisationConfig else {}
    more |= {"augment": True} if name == "crop" and "augment" in config.__dataclass_fields__ else {}
    try:
        make(config, **{name: value}, **more)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("config", [config for config in VALUES if VALUES[config]], ids=lambda config: config.__name__)
def test_absurd_numbers_are_refused(config):
    make(config)
    taken = [f"{name}={value}" for name, value in VALUES[config] if name not in refusal(config, name, value)]
    assert not taken, f"{config.__name__} takes these, or its error does not name the field"


def test_there_are_hundreds_of_absurd_numbers():
    assert sum(map(len, VALUES.values())) > 500


@pytest.mark.parametrize("value", [[[-1e300, 0], [1, 1]], [[0], [math.nan]], [[0]], ["a", "b"], [1, 2], [[0], ["x"]]])
def test_an_absurd_workspace_is_refused(value):
    with pytest.raises(ValueError, match="workspace"):
        SafetyConfig(workspace=value)
