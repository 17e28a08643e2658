"""Engines from policies and from exported folders, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ..envs.catalogue import load_task
from ..policy.engines.interface import ENGINES, FORMATS
from .components import DiffusionConfig, RegressionConfig
from .schema import ExportConfig, UnknownChoice, policy_config

if TYPE_CHECKING:
    from ..policy.diffusion import DiffusionPolicy
    from ..policy.engines.choice import Verdict
    from ..policy.engines.interface import Arrays, Engine

ROWS = 16
"""Observations on which an engine is compared with eager."""


def load_engine(folder: str | Path) -> Engine:
    """The engine of a folder that `recede export` has written, ready to predict; neither torch nor pickle is needed.

    Threads are as many as `OMP_NUM_THREADS` says, or all. Raises FileNotFoundError where it is no such folder, and
    ValueError where it is damaged, of another format, or what runs it is not installed.
    """
    from ..policy.engines.folder import REMEDY, load, read

    path = Path(folder)
    content = read(path)
    try:
        config = exported_config(content["policy"])
    except UnknownChoice as error:
        raise ValueError(f"{path / 'engine.json'}: {error}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path / 'engine.json'} is damaged ({error}); {REMEDY}") from None
    return load(path, content, config=config)


def exported_config(policy: Mapping[str, Any]) -> DiffusionConfig | RegressionConfig:
    """What the loop around the graphs of an exported policy needs of its configuration: sampler, prediction and clip.

    The graphs contain the encoder and the network, so the package that added these need not be installed.
    """
    if missing := {"encoder", "network"} - policy.keys():
        raise ValueError(f"policy lacks {sorted(missing)}")
    if "sampler" not in policy:
        return RegressionConfig()
    sampler = policy_config(policy["sampler"], "policy/sampler")
    return DiffusionConfig(sampler=sampler, prediction=policy["prediction"], clip=policy["clip"])


def read_description(folder: Path, which: str = "last") -> dict[str, Any]:
    """What a run, a checkpoint or an exported folder says of its policy; torch is not loaded.

    Raises FileNotFoundError where it is none of them, and ValueError where it is damaged.
    """
    from ..policy.checkpoint import find, read_manifest
    from ..policy.engines.folder import is_exported, read

    return read(folder) if is_exported(folder) else read_manifest(find(folder, which))


def open_engine(
    folder: Path, name: str | None, *, which: str = "last", sampler: Any = None, device: Any = "cpu"
) -> Engine:
    """What runs the policy of a run, a checkpoint or an exported folder, which has its engine and its sampler already.

    name: of an engine, eager where it is not given, or "auto". device: of torch, where that runs it. Raises ValueError
    where an exported folder is asked for what it does not have.
    """
    from ..policy.engines.folder import is_exported
    from .policies import load_policy

    if is_exported(folder):
        engine = load_engine(folder)
        check_exported(folder, engine.name, name, which=which, sampler=sampler)
        return engine
    policy, _ = load_policy(folder, which=which, device=device, sampler=sampler)
    return make_engine(policy, name or "eager")[0]


def check_exported(folder: Path, name: str, asked: str | None, *, which: str, sampler: Any) -> None:
    """Raises ValueError where anything but the engine that a folder was exported for is asked of it."""
    if sampler is not None or which != "last" or asked not in (None, name):
        raise ValueError(
            f"{folder} is exported with its sampler and for engine={name}: leave out sampler, checkpoint and "
            "engine, or give the run that it was made of"
        )


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
    from ..policy.engines.choice import choose, drawn_observation
    from ..policy.engines.eager import EagerEngine
    from ..policy.engines.torch_modules import action_range

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
    from ..policy.engines.cuda_graph import CudaGraphEngine
    from ..policy.engines.eager import EagerEngine
    from ..policy.engines.folder import open_session
    from ..policy.engines.torch_modules import check_exportable, engine_of

    plain: dict[str, Callable[[Any], Engine]] = {"eager": EagerEngine, "cuda_graph": CudaGraphEngine}
    if name in plain:
        return plain[name](policy)
    exportable = check_exportable(policy)
    return engine_of(exportable, open_session(name, _graphs(exportable, name, scratch)))


def _graphs(policy: DiffusionPolicy, name: str, scratch: Path) -> Path:
    """The folder of the graphs in the format of that engine, which are made where they are not there yet."""
    from ..policy.engines.export import to_openvino, write_onnx
    from ..policy.engines.open_vino import library

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


def recorded_observations(config: ExportConfig, policy: Any) -> Recorded | None:
    """Observations spread evenly over the demonstrations that are named; None where none are.

    Raises ValueError where these are not for the policy.
    """
    from ..datasets.opening import open_demonstrations

    if config.dataset is None:
        return None
    task = load_task(config.task) if config.task else None
    found = open_demonstrations(config.dataset, task)
    if differences := found.specification.differences(policy.specification):
        raise ValueError(f"{config.dataset} must be of the policy's specification: " + "; ".join(differences))
    if not len(found):
        raise ValueError(f"{config.dataset} must hold demonstrations to compare engines on, got a store without any")
    steps, ends = policy.horizons.observation, found.episode_ends
    currents = np.linspace(0, ends[-1] - 1, ROWS).astype(int)
    firsts = np.concatenate([[0], ends])[np.searchsorted(ends, currents, side="right")]
    rows = {name: [] for name in (stream.name for stream in policy.specification.observations)}
    for current, first in zip(currents.tolist(), firsts.tolist(), strict=True):
        start = max(first, current + 1 - steps)
        for name, values in rows.items():
            read = found.read(name, start, current + 1)
            values.append(np.concatenate([np.repeat(read[:1], steps - len(read), axis=0), read]))  # as training windows
    return Recorded({name: np.stack(values) for name, values in rows.items()}, f"of {config.dataset}")


def export(config: ExportConfig) -> Chosen:
    """Write the folder that `config` asks for, once an engine is found that answers as eager does; it is that engine.

    Raises FileExistsError where the folder is there already, and ValueError where the policy cannot leave PyTorch or
    no engine answers as eager does.
    """
    from ..files import whole_folder
    from ..policy.engines.export import fill
    from ..policy.engines.torch_modules import check_exportable
    from .policies import load_policy

    out = Path(config.out)
    if out.exists():
        raise FileExistsError(f"{out} is there already: remove it, or export to another folder")
    loaded, manifest = load_policy(config.run, which=config.checkpoint, sampler=config.sampler)
    policy, names = check_exportable(loaded), list(FORMATS) if config.engine == "auto" else [config.engine]
    with TemporaryDirectory() as scratch:
        chosen = choose_engine(policy, names, Path(scratch), recorded=recorded_observations(config, policy))
        (verdict,) = (each for each in chosen.verdicts if each.name == chosen.engine.name)
        with whole_folder(out) as folder:
            fill(
                folder,
                policy,
                _graphs(policy, chosen.engine.name, Path(scratch)),
                engine=chosen.engine.name,
                description=manifest["policy"],
                parity={
                    "precision": verdict.precision,
                    "difference": verdict.difference,
                    "tolerance": verdict.tolerance,
                    "observations": chosen.observations,
                },
                num_parameters=sum(parameter.numel() for parameter in policy.parameters()),
                **{name: manifest.get(name) for name in ("task", "step", "seed", "training")},
                checkpoint=manifest["path"],
            )
    return chosen
