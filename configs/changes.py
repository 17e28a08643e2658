"""Changes of single fields of a choice that is there already, such as the sampler of a trained policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .choices import CHOICES, require_choices
from .notation import typed

RULES = {
    "could not be converted to Integer": "the value must be a whole number",
    "could not be converted to Float": "the value must be a number",
    "is not a valid bool": "the value must be true or false",
    "is not a ListConfig, list or tuple": "the value must be a list, as in key=[a,b]",
    "is not Optional": "the value must not be null",
    "is not a subclass of": "this key has keys of its own, as in key.name=value",
}
"""What OmegaConf says of a refused value -> the rule that the value breaks."""


def accept_changes(config: Any, slot: str) -> None:
    """Let an optional slot hold one of its choices, or changes: field -> value. No change at all is None.

    Raises ValueError for anything else.
    """
    value = getattr(config, slot)
    if value is None or (isinstance(value, Mapping) and not value):
        setattr(config, slot, None)
    elif not isinstance(value, Mapping):
        require_choices(config, slot)


def replaced(present: Any, value: Any, slot: str) -> Any:
    """The choice that a slot has after `value`: another one, or the present one with changes; see `accept_changes`.

    Raises ValueError for a field that the present choice does not have, and for an impossible value.
    """
    if value is None or not isinstance(value, Mapping):
        return present if value is None else value
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    names = [field.name for field in fields(present)]
    node = OmegaConf.structured(present)
    for name, changed in value.items():
        if name not in names:
            raise ValueError(
                f"there is no key '{slot}.{name}': the policy has {slot}={_name(present, slot)}, "
                f"whose keys are {', '.join(f'{slot}.{other}' for other in names)}"
            )
        try:
            OmegaConf.update(node, name, changed)
        except OmegaConfBaseException as error:
            raise ValueError(f"{slot}.{name}={typed(changed)}: {rule(error)}") from None
    return OmegaConf.to_object(node)


def rule(error: Exception) -> str:
    """The rule that a value breaks, from the error of OmegaConf."""
    return next((rule for reason, rule in RULES.items() if reason in str(error)), str(error).splitlines()[0])


def _name(choice: Any, slot: str) -> str:
    return next((name for name, option in CHOICES[slot].items() if type(choice) is option), type(choice).__name__)
