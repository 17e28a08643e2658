"""Trained policies, opened from a run, a checkpoint or an exported folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configs.components.policies import DiffusionConfig, RegressionConfig
from ..configs.notation import UnknownChoice, policy_config

if TYPE_CHECKING:
    from ..policy.engines.interface import Engine
from dataclasses import fields
from typing import TYPE_CHECKING

from ..configs.notation import describe

if TYPE_CHECKING:
    import torch

    from ..policy.interface import Policy
from ..policy.engines.making import make_engine


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
    from ..policy.engines.folder import is_exported, read
    from .folder import read_manifest
    from .runs import resolve_checkpoint

    return read(folder) if is_exported(folder) else read_manifest(resolve_checkpoint(folder, which))


def open_engine(
    folder: Path, name: str | None, *, which: str = "last", sampler: Any = None, device: Any = "cpu"
) -> Engine:
    """What runs the policy of a run, a checkpoint or an exported folder, which has its engine and its sampler already.

    name: of an engine, eager where it is not given, or "auto". device: of torch, where that runs it. Raises ValueError
    where an exported folder is asked for what it does not have.
    """
    from ..policy.engines.folder import is_exported

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


def load_policy(
    folder: str | Path, *, which: str = "last", device: str | torch.device = "cpu", sampler: Any = None
) -> tuple[Policy, dict[str, Any]]:
    """The trained policy of a run or checkpoint folder, ready to predict, and its manifest.

    which: "last" or "best" of a run. sampler: the configuration of another sampler than the policy's own.

    The manifest is the content of `policy.json`, and `manifest["path"]` where it was found. Nothing in the folder is
    executed. Raises FileNotFoundError where there is no policy, and ValueError where it is of another format, damaged,
    or configured for what this version does not know. A choice that a package of yours added must be added before.
    """
    from ..policy.normalizer import Normalizer
    from .folder import read_checkpoint
    from .runs import resolve_checkpoint

    path = resolve_checkpoint(Path(folder), which)
    manifest, weights = read_checkpoint(path)
    specification, horizons = manifest["specification"], manifest["horizons"]
    try:
        config = policy_config(manifest["policy"])
        policy: Any = config.build(specification, horizons, Normalizer.empty(specification))
    except UnknownChoice as error:
        raise ValueError(f"{path / 'policy.json'}: {error}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path / 'policy.json'}: no policy can be built from it ({error}): train again") from error
    if sampler is not None:
        if "sampler" not in {each.name for each in fields(config)}:
            raise ValueError(f"{path}: sampler must be left out, the policy there has none to choose")
        config.sampler = sampler
        policy = config.build(specification, horizons, Normalizer.empty(specification))
        manifest["policy"] = describe(config)
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights must be those of the configured policy: {error}") from None
    return policy.to(device).eval().requires_grad_(False), manifest | {"path": str(path)}
