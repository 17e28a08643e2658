"""Checks of configuration values, and the type of those that name a file or a folder."""

from __future__ import annotations

import math
from ipaddress import ip_address
from typing import Annotated, Any, TypeAlias

from ..datasets.filters import parse
from ..datasets.step_conditions import STEPS
from ..envs.disturbance_kinds import RANDOMISED
from ..policy.engines.interface import ENGINES
from ..specification import nearest

PathName: TypeAlias = Annotated[str, "path"]
"""The name of a file or of a folder. On the command line, `~` at its beginning is a home."""

PathNames: TypeAlias = Annotated[Any, "paths"]
"""A `PathName`, or a list of them. On the command line, brackets make a list."""

MOST_EPISODES = 10**6
"""Most episodes of one command: the record of each is kept in memory."""

MOST_UPDATES = 10**9
"""Most updates of the weights: of a training, and between two of its events."""

MOST_CHUNK = 10_000
"""Most control steps of a horizon, and of anything within a chunk."""

LONGEST_MS = 3_600_000
"""Longest time that an observation, a chunk or a robot is waited for, in milliseconds: an hour."""

LARGEST_SIZE = 2**16
"""Largest size of a layer, and of anything that a network is made of."""

LARGEST_SEED = 2**32 - 1
"""Largest seed that is given. The seeds that are counted on from it fit the stores."""


def condition(config: object, name: str) -> None:
    """Raises ValueError unless this field is a condition of `datasets.filters`, or None."""
    text = getattr(config, name)
    if text is not None:
        parse(text, name)


def step_condition(config: object, name: str) -> None:
    """Raises ValueError unless this field is a condition on steps, as of `datasets.step_conditions`, or None."""
    text = getattr(config, name)
    if text is not None:
        parse(text, name, STEPS)


def one_or_several(name: str, value: Any, *, remedy: str = "leave one out") -> Any:
    """A folder, or a list of at least two different ones; a list of one is that one. Raises ValueError for others.

    remedy: what to do if one is named twice.
    """
    folders = value if isinstance(value, list) else [value]
    if not folders or not all(isinstance(folder, str) and folder for folder in folders):
        raise ValueError(f"{name} must be a folder or a list of folders as [a,b], got {value!r}")
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise ValueError(f"{name} must name each folder once, got {twice[0]} twice: {remedy}")
    return value if len(folders) > 1 else folders[0]


def positive(config: object, *names: str, most: float = math.inf) -> None:
    """Raises ValueError unless these fields are all above 0 and at most `most`, or None."""
    for name in names:
        if (value := getattr(config, name)) is None:
            continue
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
        _at_most(config, name, most)


def not_negative(config: object, *names: str, most: float = math.inf) -> None:
    """Raises ValueError unless these fields are all at least 0 and at most `most`, or None."""
    for name in names:
        if (value := getattr(config, name)) is None:
            continue
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
        _at_most(config, name, most)


def share(config: object, *names: str) -> None:
    """Raises ValueError unless these fields are at least 0 and below 1, or None."""
    for name in names:
        if (value := getattr(config, name)) is not None and not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def strictly_between(config: object, *names: str) -> None:
    """Raises ValueError unless these fields are above 0 and below 1."""
    for name in names:
        if not 0 < (value := getattr(config, name)) < 1:
            raise ValueError(f"{name} must be above 0 and below 1, got {value}")


def _at_most(config: object, name: str, most: float) -> None:
    if getattr(config, name) > most:
        raise ValueError(f"{name} must be at most {most:.10g}, got {getattr(config, name)}: choose a smaller one")


def read_shares(name: str, text: str) -> list[float]:
    """The shares in a text such as [0.9,0.1]. Raises ValueError unless they are two or more above 0 that sum to 1."""
    try:
        shares = [float(part) for part in text.strip("[]").split(",")]
    except ValueError:
        shares = []
    if len(shares) < 2 or not all(value > 0 for value in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"{name} must be two or more shares that sum to 1, as [0.9,0.1], got {text}: correct them")
    return shares


def check_randomise(config: Any) -> None:
    """Raises ValueError if the field `randomise` names something twice, or what cannot be randomised."""
    for name in config.randomise:
        if name not in RANDOMISED:
            raise ValueError(f"randomise={name} is not one of {', '.join(RANDOMISED)}: {nearest(name, RANDOMISED)}")
    if len(set(config.randomise)) < len(config.randomise):
        raise ValueError(f"randomise must name each kind once, got {config.randomise}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is served at an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def known_engine(name: str | None) -> None:
    """Raises ValueError unless `name` is an engine, "auto" or None."""
    if name not in (*ENGINES, "auto", None):
        raise ValueError(
            f"engine must be auto or one of {', '.join(ENGINES)}, got {name!r}: "
            + nearest(str(name), (*ENGINES, "auto"))
        )


def check_sizes(name: str, sizes: list[int]) -> None:
    """Raises ValueError unless all sizes of layers are positive. The list may be empty."""
    if min(sizes, default=1) < 1 or max(sizes, default=1) > LARGEST_SIZE:
        raise ValueError(f"{name} must list sizes above 0 and at most {LARGEST_SIZE}, got {sizes}")


def check_image_size(name: str, size: Any) -> None:
    """Raises ValueError unless it is a height and a width in pixels."""
    is_pair = isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int for side in size)
    if not is_pair or min(size) < 1 or max(size) > LARGEST_SIZE:
        raise ValueError(f"{name} must be a height and a width in pixels, [h,w], at most {LARGEST_SIZE}, got {size!r}")


def pair(crop: list[int] | None) -> tuple[int, int] | None:
    """`crop` as height and width. Raises ValueError unless it is two positive numbers or None."""
    if crop is not None and (len(crop) != 2 or min(crop) < 1 or max(crop) > LARGEST_SIZE):
        raise ValueError(f"crop must be a height and a width in pixels, [h, w], or null, got {crop}")
    return None if crop is None else (crop[0], crop[1])
