"""The ranges of streams as a policy learns them, over the training episodes, in pieces that fit in memory.

A relative action and a difference depend on the window in which they stand, so their ranges are over all steps of all
windows. Shapes: B windows; To, Tp observation and prediction horizon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray

from ..datasets.demonstrations import Demonstrations
from ..datasets.normalisation import Normalisation, Range, fit_range
from ..datasets.observing import Observing
from ..datasets.statistics import Rows, rows_of
from ..datasets.windows import Windows
from ..policy.diffusion import DiffusionPolicy
from ..policy.normalizer import Normalizer
from ..policy.representation import Representation
from ..specification import Specification

UNCHANGED = {"rotation_6d": "identity", "cosine_sine": "identity"}
"""Kinds that keep their proportions, unless the stream has a normalisation of its own."""

WINDOWS_AT_ONCE = 2**12


def fit_represented(
    policy: Any,
    demonstrations: Demonstrations,
    episodes: Sequence[int],
    methods: Mapping[str, Normalisation],
    ranges: Mapping[str, Range],
) -> dict[str, Range]:
    """Set the ranges of the streams as the policy learns them; returns those of the streams with a representation.

    episodes: whose ranges these are. methods: stream -> its normalisation. ranges: of the streams in the data.

    Raises ValueError as `datasets.normalisation.fit_ranges` does.
    """
    if not isinstance(policy, DiffusionPolicy) or policy.represented is None:
        return {}
    representation, rows = policy.representation, dict[str, Rows]()
    for name in representation.parts:
        rows[name] = partial(_rows, representation, rows_of(demonstrations, name, episodes), name)
    if names := representation.reference_streams:
        windows = Windows(Observing(demonstrations, names), policy.horizons).of(episodes)
        rows["action"] = partial(_window_rows, representation, windows)
    streams = {stream.name: stream for stream in representation.learned.streams}
    default = Normalisation(groups=UNCHANGED)
    fitted = {
        name: fit_range(streams[name], own, methods.get(name, _applicable(default, streams[name].kinds)))
        for name, own in rows.items()
    }
    whole = dict(ranges) | fitted
    bounds = {name: (range_.low, range_.high) for name, range_ in whole.items()}
    learned = Normalizer(representation.learned, bounds, action_std=whole["action"].std)
    policy.represented.load_state_dict(learned.state_dict())
    return fitted


def in_units(
    methods: Mapping[str, Normalisation], config: Any, specification: Specification
) -> dict[str, Normalisation]:
    """The normalisations of the streams in the data; where a representation stands between, their plain ranges.

    config: of the policy. Raises ValueError if the streams cannot be learned as it says.
    """
    chosen = getattr(config, "representation", None)
    parts = chosen.build(specification).parts if chosen is not None else {}
    return {**methods, **dict.fromkeys(parts, Normalisation(floor=0.0))}


def _applicable(method: Normalisation, kinds: Sequence[str]) -> Normalisation:
    return Normalisation(groups={kind: way for kind, way in method.groups.items() if kind in kinds})


def _rows(representation: Representation, rows: Rows, name: str) -> Iterator[NDArray[Any]]:
    """The rows of a stream that refers to nothing."""
    for piece in rows():
        yield representation.rows(name, piece)


def _window_rows(representation: Representation, windows: Windows) -> Iterator[NDArray[Any]]:
    """The actions of all steps of all windows."""
    for indices in torch.arange(len(windows)).split(WINDOWS_AT_ONCE):
        batch = windows.batch(indices)
        observation = {name: rows.numpy() for name, rows in batch.observation.items()}
        yield representation.action(batch.action.numpy(), observation).reshape(-1, representation.learned.action.size)
