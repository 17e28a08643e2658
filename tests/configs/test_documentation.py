"""Every key of every configuration says what it means, and help shows it as one types it."""

import inspect
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from recede.configs.augmentation import AugmentationConfig
from recede.configs.choices import CHOICES
from recede.configs.commands import COMMANDS
from recede.configs.components.lazy import load
from recede.configs.components.networks import DiTConfig
from recede.configs.components.policies import HorizonsConfig
from recede.configs.components.robots import SafetyConfig, SerialArmConfig
from recede.configs.documentation import choices, sections, summary
from recede.configs.normalisation import NormalisationConfig
from recede.configs.notation import typed
from recede.configs.packages import CommandConfig
from recede.control.safety import Safety
from recede.datasets.augmentation import Augmentation
from recede.datasets.normalisation import Normalisation
from recede.robots.feetech.arm import SerialArm

OPTIONS = {f"{slot}={name}": option for slot, options in CHOICES.items() for name, option in options.items()}
NESTED = [HorizonsConfig, AugmentationConfig, NormalisationConfig, SafetyConfig]
CONFIGS = [*(command.config for command in COMMANDS.values()), *OPTIONS.values(), *NESTED]


def keys(config):
    return {key.path: key for group in sections(config).values() for key in group}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_field_says_what_it_means(config):
    assert summary(config)
    described = keys(config)
    for item in fields(config):
        assert described[item.name].meaning.endswith("."), item.name


@dataclass(kw_only=True)
class BaseConfig(CommandConfig):
    """What it does.

    And more.
    """

    first: int = 1
    """Means one
    thing."""

    "Others"

    second: float | None = None
    third: list[int] = field(default_factory=lambda: [1, 2])
    """Means three."""

    def method(self) -> None:
        """No field."""


@dataclass(kw_only=True)
class HeirConfig(BaseConfig):
    first: int = 5
    needed: str
    """Means four."""


def test_strings_under_fields_are_their_meanings_and_other_strings_are_headings():
    assert summary(BaseConfig) == "What it does. And more."
    assert list(sections(BaseConfig)) == ["", "Others", "Your own packages"]
    assert sections(BaseConfig)[""] == [("first", "1", "Means one thing.")]
    assert sections(BaseConfig)["Others"] == [("second", "null", ""), ("third", "[1,2]", "Means three.")]


def test_meanings_are_inherited_and_defaults_are_those_of_the_heir():
    described = keys(HeirConfig)
    assert described["first"] == ("first", "5", "Means one thing.")
    assert described["needed"] == ("needed", "(required)", "Means four.")
    assert list(described)[-1] == "imports"
    assert summary(HeirConfig) == ""


def test_a_class_without_source_has_keys_without_meanings():
    namespace = {"__name__": "nowhere"}
    exec("from dataclasses import dataclass\n@dataclass\nclass Typed:\n    size: int = 3\n    'Lost.'", namespace)
    assert sections(namespace["Typed"]) == {"": [("size", "3", "")]}


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (1e-6, "1e-6"), (0.5, "0.5"), ([1.5, 2], "[1.5,2]"), ({}, "{}"), ("a b", "a b")],
)
def test_values_are_shown_as_one_types_them(value, text):
    assert typed(value) == text


def test_slots_show_their_default_choice():
    described = keys(COMMANDS["control"].config)
    assert described["robot"].default == "simulated"
    assert described["execution"].default == "[receding]"
    assert described["sampler"].default == "null"
    assert keys(COMMANDS["import-checkpoint"].config)["policy"].default == "reference"


def test_presets_are_choices_with_the_comment_of_their_file():
    (flow,) = [choice for choice in choices("policy") if choice.argument == "policy=flow"]
    assert flow.summary.startswith("Flow matching")
    assert all(choice.summary for slot in (*CHOICES, "preset") for choice in choices(slot))


# --- a default is written once


def kind_of(option) -> Any:
    kind = getattr(option, "kind", None)
    return load(kind) if isinstance(kind, str) else kind


BUILT = {
    **{name: (option, kind_of(option)) for name, option in OPTIONS.items() if hasattr(option, "kind")},
    "augmentation": (AugmentationConfig, Augmentation),
    "normalisation": (NormalisationConfig, Normalisation),
    "safety": (SafetyConfig, Safety),
    "robot=serial_arm": (SerialArmConfig, SerialArm),
}
WRITTEN_TWICE = {"normalisation", "execution=receding"}
"""One that refers to the default of what it builds, and one whose default is to leave `every` to what it builds."""


def test_a_component_names_what_it_builds():
    assert kind_of(DiTConfig).__name__ == "DiT"
    assert len(BUILT) > 20


@pytest.mark.parametrize("name", sorted(BUILT.keys() - WRITTEN_TWICE))
def test_what_a_component_builds_has_no_defaults_of_its_own(name):
    config, built = BUILT[name]
    parameters = inspect.signature(built).parameters.values()
    has_default = {parameter.name for parameter in parameters if parameter.default is not parameter.empty}
    assert not has_default & {item.name for item in fields(config)}
