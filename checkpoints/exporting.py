"""From a trained policy to a folder that predicts without PyTorch."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..configs.checkpoints import ExportConfig
from ..envs.catalogue import load_task
from ..policy.engines.interface import FORMATS
from ..policy.engines.making import ROWS, Chosen, Recorded, choose_engine, write_graphs


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
    steps, currents = policy.horizons.observation, np.linspace(0, found.num_steps - 1, ROWS).astype(int).tolist()
    firsts = [found.bounds(episode)[0] for episode in found.episode_of(currents).tolist()]
    rows = {name: [] for name in (stream.name for stream in policy.specification.observations)}
    for current, first in zip(currents, firsts, strict=True):
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
    from .opening import load_policy

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
                write_graphs(policy, chosen.engine.name, Path(scratch)),
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
