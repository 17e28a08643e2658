"""Make an engine of a policy, or choose the fastest that agrees with PyTorch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

import numpy as np

from ...files import scratch_folder, whole_folder
from .interface import ENGINES, FORMATS

if TYPE_CHECKING:
    from ..diffusion import DiffusionPolicy
    from ..interface import Policy
    from .choice import Verdict
    from .interface import Arrays, Engine


ROWS = 16
"""Observations on which an engine is compared with eager."""


@dataclass(frozen=True)
class Trials:
    """Observations on which engines are compared."""

    observation: Arrays
    """A stream's name -> (ROWS, To, ...)."""

    origin: str
    """Where they come from, for the report: "of demonstrations.zarr"."""


@dataclass(frozen=True)
class EngineChoice:
    """The engines that agree with PyTorch, and the verdict on every candidate."""

    engines: list[Engine]
    """The engines that agree with PyTorch, fastest first."""

    verdicts: list[Verdict]
    """One for each candidate."""

    origin: str
    """Where the observations of the comparison come from."""

    @property
    def engine(self) -> Engine:
        """The fastest."""
        return self.engines[0]

    def __str__(self) -> str:
        tried = f"tried on {ROWS} observations {self.origin}:"
        return "\n".join([tried, *(f"  {verdict}" for verdict in self.verdicts), f"engine: {self.engine.name}"])


def choose_engine(
    policy: DiffusionPolicy, names: Iterable[str], scratch: Path, *, trials: Trials | None = None
) -> EngineChoice:
    """Compare the named engines with PyTorch and time them on this machine.

    scratch: a folder for the graphs. trials: drawn from the ranges of the normalizer if None. Raises ValueError if no
    engine is left, with the reason for each.
    """
    from .choice import choose
    from .eager import EagerEngine
    from .pieces import action_affine

    trials = trials or drawn_trials(policy)
    draws, *shape = policy.noise_shape
    noise = np.random.default_rng(0).standard_normal((draws, ROWS, *shape), dtype=np.float32)
    makers = {name: partial(_make, policy, name, scratch) for name in names}
    half_range = action_affine(policy.normalizer).half_range
    engines, verdicts = choose(makers, trials.observation, noise, reference=EagerEngine(policy), half_range=half_range)
    if not engines:
        raise ValueError("; ".join(map(str, verdicts)))
    return EngineChoice(engines, verdicts, trials.origin)


def drawn_trials(policy: DiffusionPolicy) -> Trials:
    """Observations drawn from the ranges of the normalizer."""
    from .choice import draw_observation

    streams = [stream.name for stream in policy.specification.observations if not stream.is_image]
    affines = {name: policy.normalizer.affine(name) for name in streams}
    ranges = {name: (centre.cpu().numpy(), half.cpu().numpy()) for name, (centre, half) in affines.items()}
    observation = draw_observation(policy.specification, policy.horizons.observation, ranges, rows=ROWS)
    return Trials(observation, "drawn from the ranges of the normalizer")


def make_engine(policy: Policy, name: str | None) -> tuple[Engine, str]:
    """The named engine, or the fastest that agrees with PyTorch if the name is "auto"; and a report to print.

    None is the engine for a robot: on a GPU the faster of eager and cuda_graph if both serve, elsewhere eager.
    """
    from .eager import EagerEngine
    from .pieces import check_diffusion, check_sampler

    if name is None:
        eager = EagerEngine(policy)
        try:
            names = ["eager", "cuda_graph"] if eager.device.type == "cuda" and check_sampler(policy) else []
        except ValueError:  # only PyTorch can run it
            names = []
        if not names:
            return eager, f"engine: {eager.name}"
        choice = choose_engine(check_diffusion(policy), names, Path())  # neither writes graphs
        return choice.engine, str(choice)
    with scratch_folder(Path(gettempdir(), "recede-engine")) as scratch:
        if name != "auto":
            return _make(policy, name, scratch), f"engine: {name}"
        choice = choose_engine(check_diffusion(policy), ENGINES, scratch)
        return choice.engine, str(choice)


def _make(policy: Policy, name: str, scratch: Path) -> Engine:
    """Raises ValueError if the engine is not available for this policy or on this machine."""
    from .cuda_graph import CudaGraphEngine
    from .eager import EagerEngine
    from .folder import open_session
    from .pieces import check_diffusion, check_exportable, exported_engine

    if name == "eager":
        return EagerEngine(policy)
    if name == "cuda_graph":
        return CudaGraphEngine(check_diffusion(policy))
    exportable = check_exportable(policy)
    return exported_engine(exportable, open_session(name, write_graphs(exportable, name, scratch)))


def write_graphs(policy: DiffusionPolicy, name: str, scratch: Path) -> Path:
    """The folder in `scratch` of the graphs that the named engine runs; writes them if they are missing."""
    from .export import to_openvino, write_onnx
    from .open_vino import library

    if FORMATS[name] == "openvino":
        library()  # refuses before anything is exported
    folder = scratch / FORMATS[name]
    if not (scratch / "onnx").exists():
        with whole_folder(scratch / "onnx") as unfinished:
            write_onnx(policy, unfinished)
    if not folder.exists():
        with whole_folder(folder) as unfinished:
            to_openvino(scratch / "onnx", unfinished)
    return folder
