"""Engines of a policy, and the choice of the fastest that answers as PyTorch does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from .interface import ENGINES, FORMATS

if TYPE_CHECKING:
    from ..diffusion import DiffusionPolicy
    from .choice import Verdict
    from .interface import Arrays, Engine


ROWS = 16
"""Observations on which an engine is compared with eager."""


@dataclass(frozen=True)
class Chosen:
    """The engines that answer as eager does, the fastest first; what was found of all, and on which observations."""

    engines: list[Engine]
    verdicts: list[Verdict]
    observations: str

    @property
    def engine(self) -> Engine:
        """The fastest."""
        return self.engines[0]

    def __str__(self) -> str:
        tried = f"tried on {ROWS} observations {self.observations}:"
        return "\n".join([tried, *(f"  {verdict}" for verdict in self.verdicts), f"engine: {self.engine.name}"])


def choose_engine(policy: Any, names: Iterable[str], scratch: Path, *, recorded: Recorded | None = None) -> Chosen:
    """The fastest of the named engines, on this machine now, that answers as eager does.

    scratch: a folder for the graphs. recorded: observations; where they are not given, they are drawn from the ranges
    of the normalizer. Raises ValueError where no engine is left, with the reason of each.
    """
    from .choice import choose, drawn_observation
    from .eager import EagerEngine
    from .torch_modules import action_range

    horizons, specification = policy.horizons, policy.specification
    if recorded is None:
        affines = policy.normalizer.streams.items()
        ranges = {name: (each.centre.cpu().numpy(), each.half_range.cpu().numpy()) for name, each in affines}
        drawn = drawn_observation(specification, horizons.observation, ranges, rows=ROWS)
        recorded = Recorded(drawn, "drawn from the ranges of the normalizer")
    draws, *shape = policy.noise_shape
    noise = np.random.default_rng(0).standard_normal((draws, ROWS, *shape), dtype=np.float32)
    makers = {name: partial(_make, policy, name, scratch) for name in names}
    half_range = action_range(policy).half_range
    found, verdicts = choose(makers, recorded.values, noise, reference=EagerEngine(policy), half_range=half_range)
    if not found:
        raise ValueError("; ".join(map(str, verdicts)))
    return Chosen(found, verdicts, recorded.origin)


def make_engine(policy: Any, name: str) -> tuple[Engine, str]:
    """The engine of that name, or the fastest of all with "auto", and what to say of the choice."""
    with TemporaryDirectory() as scratch:
        if name != "auto":
            return _make(policy, name, Path(scratch)), f"engine: {name}"
        chosen = choose_engine(policy, ENGINES, Path(scratch))
        return chosen.engine, str(chosen)


def _make(policy: Any, name: str, scratch: Path) -> Engine:
    """Raises ValueError where this machine or this policy does not have the engine."""
    from .cuda_graph import CudaGraphEngine
    from .eager import EagerEngine
    from .folder import open_session
    from .torch_modules import check_exportable, engine_of

    plain: dict[str, Callable[[Any], Engine]] = {"eager": EagerEngine, "cuda_graph": CudaGraphEngine}
    if name in plain:
        return plain[name](policy)
    exportable = check_exportable(policy)
    return engine_of(exportable, open_session(name, write_graphs(exportable, name, scratch)))


def write_graphs(policy: DiffusionPolicy, name: str, scratch: Path) -> Path:
    """The folder of the graphs in the format of that engine, which are made where they are not there yet."""
    from .export import to_openvino, write_onnx
    from .open_vino import library

    if FORMATS[name] == "openvino":
        library()  # refuses before anything is exported
    folder = scratch / FORMATS[name]
    if not (scratch / "onnx").exists():
        write_onnx(policy, scratch / "onnx")
    if not folder.exists():
        to_openvino(scratch / "onnx", folder)
    return folder


@dataclass(frozen=True)
class Recorded:
    """Observations, and where they come from."""

    values: Arrays
    origin: str
