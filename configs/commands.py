"""The table of commands, and what Hydra must know to compose their configurations."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any

from .checkpoints import ExportConfig, ImportCheckpointConfig
from .choices import CHOICES, MANY
from .datasets import CollectConfig, ConvertConfig, DownloadConfig, EditConfig, InspectConfig, ViewConfig
from .deployment import CheckConfig, ControlConfig, ServeConfig
from .diagnosis import DoctorConfig
from .evaluation import CompareConfig, EvaluateConfig, ReplayConfig
from .guiding import TrainClassifierConfig
from .notation import changed, default_of
from .recording import RecordConfig
from .reproducing import ReproduceConfig
from .training import DemoConfig, TrainConfig


@dataclass(frozen=True)
class Command:
    """A command of the command line. `run(config)` in commands/NAME.py carries it out."""

    config: type
    """The dataclass whose fields are its keys."""
    summary: str
    """One line for `recede --help`."""
    group: str
    """The heading that it stands under there."""
    positional: str | None = None
    """The key that a bare argument stands for."""
    has_presets: bool = False
    """Whether `preset=NAME` may choose a file of configs/preset."""


COMMANDS = {
    "demo": Command(DemoConfig, "record, train, evaluate and report on the embedded task, in minutes", "Start here"),
    "doctor": Command(
        DoctorConfig, "say what works here and what does not: machine, store, run, robot", "Start here", "path"
    ),
    "collect": Command(CollectConfig, "record demonstrations with a task's scripted expert", "Demonstrations"),
    "record": Command(RecordConfig, "record demonstrations that a person drives", "Demonstrations"),
    "download": Command(DownloadConfig, "download published demonstrations", "Demonstrations", "name"),
    "convert": Command(
        ConvertConfig, "make a store of data in the format of another library", "Demonstrations", "source"
    ),
    "inspect": Command(
        InspectConfig, "describe demonstrations: streams, ranges, faults, quality", "Demonstrations", "dataset"
    ),
    "view": Command(
        ViewConfig, "see demonstrations in a browser, and what a policy would do in them", "Demonstrations", "source"
    ),
    "edit": Command(EditConfig, "make a new store: keep, cut, merge, rename, relabel", "Demonstrations", "source"),
    "replay": Command(ReplayConfig, "apply recorded actions in simulation and compare", "Demonstrations"),
    "train": Command(TrainConfig, "train a policy on demonstrations, or resume training", "Policies", has_presets=True),
    "train-classifier": Command(TrainClassifierConfig, "train a classifier that guides a policy", "Policies"),
    "import-checkpoint": Command(
        ImportCheckpointConfig, "convert a policy that another library trained", "Policies", "source"
    ),
    "export": Command(ExportConfig, "export a policy so that it runs without PyTorch", "Policies", "run"),
    "evaluate": Command(EvaluateConfig, "measure success rates in simulation", "Measurements", "run"),
    "reproduce": Command(
        ReproduceConfig, "run a recipe, and compare with its published figure", "Measurements", "recipe"
    ),
    "compare": Command(CompareConfig, "put many evaluations into one table", "Measurements", "results"),
    "check": Command(CheckConfig, "check every promise of a robot, or of a task", "Robots"),
    "control": Command(ControlConfig, "control a robot in real time", "Robots", "run"),
    "serve": Command(ServeConfig, "serve a policy to robots over the network", "Robots", "run"),
}
"""Name -> command, in the order in which one uses them."""


_STORED: dict[tuple[str, str], Any] = {}
"""(slot, name) -> the choice that Hydra's ConfigStore holds; the slot of a command is empty."""


def register() -> None:
    """Store every command and every choice in Hydra's ConfigStore, unless they are there already.

    Raises ValueError if the default of a slot is not among its choices.
    """
    for name, command in COMMANDS.items():
        if _STORED.get(("", name)) is not command:
            slots = {slot: slot for slot in CHOICES if slot in command.config.__dataclass_fields__}
            _register_with_slots("", name, command.config, slots, [{"preset": None}] if command.has_presets else [])
            _STORED["", name] = command
    for slot, options in CHOICES.items():
        for name, option in options.items():
            if _STORED.get((slot, name)) is not option:
                _register_choice(slot, name, option)
                _STORED[slot, name] = option


def _register_choice(slot: str, name: str, option: Any) -> None:
    from hydra.core.config_store import ConfigStore

    inner = {field.name: f"{slot}/{field.name}" for field in fields(option)}
    if slots := {field: path for field, path in inner.items() if path in CHOICES}:
        _register_with_slots(slot, name, option, slots, [])
        return
    package = f"{slot}.{name}" if slot in MANY else None
    ConfigStore.instance().store(group=slot, name=name, node=_node(option), package=package)


def _register_with_slots(group: str, name: str, config: Any, slots: dict[str, str], more: list[Any]) -> None:
    """Store a configuration that has slots, and the choice that fills each slot by default.

    slots: field -> the slot that it is. more: further entries of Hydra's defaults list.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import MISSING as UNSET

    node, chosen = _node(config), list[Any]()
    for field, slot in slots.items():
        default = _default_choice(slot, config.__dataclass_fields__[field], owner=name)
        chosen.append({field: default})
        node[field] = {} if slot in MANY else UNSET if default is not None else None  # else both would be merged
    store, schema = ConfigStore.instance(), "/".join(filter(None, ("schema", group)))
    store.store(group=schema, name=name, node=node)
    store.store(
        group=group or None, name=name, node={"defaults": [f"/{schema}/{name}@_here_", *chosen, *more, "_self_"]}
    )


def _node(config: Any) -> Any:
    """A configuration as Hydra merges it. A mapping in it, such as the options of a sampler, takes any keys."""
    from omegaconf import OmegaConf

    node = OmegaConf.structured(config)
    for field in fields(config):
        if isinstance(default_of(field), dict) and field.name not in MANY:
            OmegaConf.set_struct(node[field.name], value=False)
    return node


def _default_choice(slot: str, field: Any, *, owner: str) -> Any:
    """The default of a slot as Hydra writes it: a name, a list of names, None, or "???" if one must be chosen.

    The field names it as `metadata["choice"]`, or has it as its default value, whose type is looked up in the table. A
    default with values that differ from those of its type is stored as a choice of its own; another choice for the slot
    replaces all its values.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import MISSING as UNSET
    from omegaconf import OmegaConf

    if "choice" in field.metadata:
        return field.metadata["choice"]
    value = default_of(field)
    if slot in MANY:
        return list(value)
    own = f"default-of-{owner}"  # a name that `add_choice` gives to nothing
    if value is None:  # until another one is chosen, keys change the choice that is there already
        ConfigStore.instance().store(group=slot, name=own, node=OmegaConf.create({}, flags={"struct": False}))
        return own
    if value is MISSING:
        return UNSET
    names = [name for name, option in CHOICES[slot].items() if type(value) is option]
    if not names:
        raise ValueError(
            f"{owner}: the default of {slot} must be one of its choices, got {value!r}: add it with add_choice"
        )
    if not changed(value):
        return names[0]
    ConfigStore.instance().store(group=slot, name=own, node=_node(value))
    return own
