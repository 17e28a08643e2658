"""Export a trained policy to a folder that predicts without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configs.checkpoints import ExportConfig
from ..datasets.demonstrations import Demonstrations
from ..datasets.observing import as_observed
from ..envs.catalogue import load_task
from ..files import scratch_folder, whole_folder
from ..policy.engines.interface import FORMATS
from ..policy.engines.making import ROWS, EngineChoice, Trials, choose_engine, write_graphs

if TYPE_CHECKING:
    from ..policy.diffusion import DiffusionPolicy


def export(config: ExportConfig) -> EngineChoice:
    """Export the policy that `config` names to `config.out`; returns the choice of its engine.

    Raises FileExistsError if the folder exists. Raises ValueError if the policy needs PyTorch, if the demonstrations
    are of another specification, or if no engine agrees with eager.
    """
    from ..datasets.opening import open_demonstrations
    from ..policy.engines.pieces import check_exportable
    from .opening import load_policy

    out = Path(config.out)
    if out.exists():
        raise FileExistsError(f"{out} exists already: remove it, or export to another folder")
    loaded, manifest = load_policy(config.run, which=config.checkpoint, sampler=config.sampler)
    policy, trials = check_exportable(loaded), None
    if config.dataset is not None:
        demonstrations = open_demonstrations(
            config.dataset,
            load_task(config.task) if config.task else None,
            episodes=config.episodes,
            can_lack=bool(policy.specification.may_be_absent),
        )
        trials = recorded_trials(demonstrations, policy, config.dataset)
    engines = list(FORMATS) if config.engine == "auto" else [config.engine]
    return export_policy(policy, manifest, out, engines=engines, trials=trials)


def export_policy(
    policy: DiffusionPolicy,
    manifest: Mapping[str, Any],
    out: Path,
    *,
    engines: Sequence[str],
    trials: Trials | None = None,
) -> EngineChoice:
    """Write a policy to a new folder for the fastest of `engines` that agrees with eager; returns the choice.

    manifest: of the policy's checkpoint, see `load_policy`. trials: the observations of the comparison, drawn from the
    ranges of the normalizer if None. Raises ValueError if no engine agrees with eager.
    """
    from ..policy.engines.export import write_engine

    with scratch_folder(out) as scratch:
        choice = choose_engine(policy, engines, scratch, trials=trials)
        name = choice.engine.name
        (verdict,) = (verdict for verdict in choice.verdicts if verdict.name == name)
        with whole_folder(out, replace=False) as folder:
            write_engine(
                folder,
                policy,
                write_graphs(policy, name, scratch),
                engine=name,
                description=manifest["policy"],
                parity={
                    "precision": verdict.precision,
                    "difference": verdict.difference,
                    "tolerance": verdict.tolerance,
                    "observations": choice.origin,
                },
                num_parameters=sum(parameter.numel() for parameter in policy.parameters()),
                **{key: manifest.get(key) for key in ("task", "text_encoder", "step", "seed", "training")},
                checkpoint=manifest["path"],
            )
    return choice


def recorded_trials(demonstrations: Demonstrations, policy: DiffusionPolicy, place: str) -> Trials:
    """Observations at even intervals over the demonstrations, padded at the start of episodes like training windows.

    place: where the demonstrations are, for messages. Raises ValueError if they are empty or of another specification
    than the policy.
    """
    demonstrations = as_observed(demonstrations, policy.specification)
    if differences := demonstrations.specification.differences(policy.specification):
        raise ValueError(f"{place} must be of the policy's specification: " + "; ".join(differences))
    if not len(demonstrations):
        raise ValueError(f"{place} must hold demonstrations to compare engines on, got a store without any")
    num_steps, last = policy.horizons.observation, demonstrations.num_steps - 1
    currents = np.linspace(0, last, ROWS).astype(int).tolist()
    firsts = [demonstrations.bounds(episode)[0] for episode in demonstrations.episode_of(currents).tolist()]
    observation: dict[str, Any] = {}
    for stream in policy.specification.observations:
        rows = []
        for current, first in zip(currents, firsts, strict=True):
            steps = demonstrations.read(stream.name, max(first, current + 1 - num_steps), current + 1)
            rows.append(np.concatenate([np.repeat(steps[:1], num_steps - len(steps), axis=0), steps]))
        observation[stream.name] = np.stack(rows)
    return Trials(observation, f"of {place}")
