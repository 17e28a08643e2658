"""Every command with its configuration, and how Hydra gets to know what may be chosen."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from .checkpoints import ExportConfig, ImportCheckpointConfig
from .choices import CHOICES, MANY
from .datasets import CollectConfig, DownloadConfig, InspectConfig
from .deployment import ControlConfig, ServeConfig
from .evaluation import CompareConfig, EvaluateConfig, ReplayConfig
from .notation import changed, default_of
from .training import DemoConfig, TrainConfig

RUNS = {
    "collect": CollectConfig,
    "compare": CompareConfig,
    "control": ControlConfig,
    "demo": DemoConfig,
    "download": DownloadConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "import-checkpoint": ImportCheckpointConfig,
    "inspect": InspectConfig,
    "replay": ReplayConfig,
    "serve": ServeConfig,
    "train": TrainConfig,
}
"""Command -> its configuration."""


def register() -> None:
    """Store the table in Hydra's ConfigStore; `configs/*.yaml` choose from it.

    Raises ValueError if the default of a slot is not in its table.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    for command, config in RUNS.items():
        node = OmegaConf.structured(config)
        for slot in CHOICES:
            if slot in node and not OmegaConf.is_missing(node, slot):  # what is chosen would be added to the default
                node[slot] = {} if slot in MANY else None
        if "normalisation" in node:  # its keys are the streams of a dataset
            OmegaConf.set_struct(node.normalisation, value=False)
        store.store(group="schema", name=command, node=node)
    for slot, options in CHOICES.items():
        inner = [path.removeprefix(f"{slot}/") for path in CHOICES if path.startswith(f"{slot}/")]
        for name, option in options.items():
            if slots := [each.name for each in fields(option) if each.name in inner]:
                _register_with_slots(slot, name, slots)
            else:
                store.store(group=slot, name=name, node=option, package=f"{slot}.{name}" if slot in MANY else None)


def _register_with_slots(slot: str, name: str, slots: list[str]) -> None:
    """Store a choice that has slots of its own, and which choice fills each of them by default.

    The dataclass says which: the type of a slot's default is looked up in the table. A default with values that differ
    from those of its type is a choice of its own, which another choice for the slot replaces with all its values.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import MISSING as UNSET
    from omegaconf import OmegaConf

    store, option = ConfigStore.instance(), CHOICES[slot][name]
    node, chosen = OmegaConf.structured(option), list[Any]()
    for each in slots:
        node[each] = UNSET
        value, path = default_of(option.__dataclass_fields__[each]), f"{slot}/{each}"
        known = [choice for choice, kind in CHOICES[path].items() if type(value) is kind]
        if not known and value is not MISSING:
            raise ValueError(f"{slot}={name}: the default of {each}, {value!r}, must be added to the table of {path}")
        chosen.append({each: UNSET if value is MISSING else known[0]})
        if known and changed(value):
            chosen[-1] = {each: f"default-of-{name}"}  # a name that `add_choice` gives to nothing
            store.store(group=path, name=f"default-of-{name}", node=value)
    store.store(group=f"schema/{slot}", name=name, node=node)
    store.store(group=slot, name=name, node={"defaults": [f"/schema/{slot}/{name}@_here_", *chosen, "_self_"]})
