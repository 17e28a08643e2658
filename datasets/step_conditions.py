"""Conditions that choose steps of an episode, such as `step>=20 and gripper.x<0.1`.

They have the grammar of `datasets.filters`. Their names are those of `COUNTS`, and the dimensions of the streams that
are vectors, such as `gripper.x` or `state[0]`. Their values are numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .filters import Both, Comparison, Condition, Not, Subject, number_of

COUNTS = ("step", "left", "seconds")
"""The steps of the episode before a step, those after it, and the time since the first step."""

OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _check_comparison(name: str, operator: str, value: str) -> None:
    if number_of(value) is None:
        raise ValueError(f"steps: {name}{operator}{value} compares with a number: give one")


STEPS = Subject(
    "step",
    "write conditions such as step>=20 and gripper.x<0.1",
    check_name=lambda name: None,  # the streams are unknown before a store is opened
    check=_check_comparison,
)
"""Conditions that choose steps of an episode."""


def holds(condition: Condition, table: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """(L,): the steps for which a condition holds. table: name -> (L,)."""
    match condition:
        case Not(inner):
            return ~holds(inner, table)
        case Both(joint, left, right):
            first, second = holds(left, table), holds(right, table)
            return first & second if joint == "and" else first | second
        case Comparison(name, sign, value):
            return OPERATORS[sign](table[name], float(value))
