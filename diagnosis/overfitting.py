"""A training on one episode alone: whether the data, the network and the optimiser can learn anything together.

A policy that has learned an episode by heart predicts its actions. One that cannot is held up by something that more
demonstrations and more steps do not cure.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

import numpy as np

from ..checkpoints.opening import load_policy
from ..checkpoints.runs import read_metrics, resolve_checkpoint
from ..configs.components.encoders import ResNetEncoderConfig
from ..configs.components.networks import UNet1dConfig
from ..configs.components.policies import DiffusionConfig, HorizonsConfig
from ..configs.notation import policy_config
from ..configs.training import TrainConfig
from ..datasets.demonstrations import Demonstrations
from ..datasets.observing import Observing, to_observe
from ..datasets.opening import is_store
from ..datasets.selection import Selected
from ..files import read_json_with_digest, scratch_folder
from ..policy.engines.eager import EagerEngine
from ..specification import Specification
from ..training.loop import train
from ..training.resuming import REMEDY
from .errors import Errors, in_words, measure_errors, of_dimensions
from .report import Facts, Finding

BATCH, CHUNKS = 32, 64
"""Windows of an update, and chunks that are compared afterwards."""

CHANNELS = [64, 128]
"""Of the small network."""

LEARNED, POOR = 0.25, 0.6
"""Errors as shares of that of the mean action: up to the first it was learned, from the second on it was not."""

KEPT = ("normalisation", "observe", "text_encoder", "draws", "learning_rate", "precision", "augmentation", "teacher")
"""Settings of a run that its training on one episode has too, beside its policy and its horizons."""


class Sources(NamedTuple):
    """What is learned."""

    path: str
    """Of the demonstrations."""
    task: str | None
    demonstrations: Demonstrations
    """Of which the first episode is learned whose action moves."""
    run: str | None = None
    """Whose policy is trained anew; None trains a small one."""


def look_at_overfitting(sources: Sources, facts: Facts, *, steps: int, device: str) -> Iterator[Finding]:
    """Train on the first episode that moves, and compare sampled chunks with its actions. Leaves nothing behind."""
    demonstrations = sources.demonstrations
    index = _first_that_moves(demonstrations)
    if index is None:
        remedy = "choose others with episodes=, or record some that move"
        yield Finding("problem", "the action is constant within every episode, so none has anything to learn", remedy)
        return
    number = int(demonstrations.episode_numbers[index])
    with scratch_folder(Path(gettempdir(), "recede-overfit")) as folder:
        config = _configuration(sources, number, steps=steps, device=device, out=str(folder / "run"))
        with redirect_stdout(io.StringIO()):  # its choices and its notes are not what was asked for
            train(config)
        policy, _ = load_policy(folder / "run")
        losses = [entry["loss"] for entry in read_metrics(folder / "run") if "loss" in entry]
    episode = Selected(demonstrations, [index])
    names = [stream.name for stream in policy.specification.observations]
    errors = measure_errors(EagerEngine(policy), Observing(episode, names), episode, windows=CHUNKS)
    action = policy.specification.action
    facts |= {"episode": number, "steps": steps, "losses": losses, "errors": errors.to_json(action)}
    yield _verdict(errors, number, steps, policy.specification)
    yield from of_dimensions(errors, action)


def _first_that_moves(demonstrations: Demonstrations) -> int | None:
    """The first episode whose action is not constant."""
    for index in range(len(demonstrations)):
        actions = demonstrations.read("action", *demonstrations.bounds(index))
        if (np.ptp(actions, axis=0) > 0).any():
            return index
    return None


def _configuration(sources: Sources, episode: int, *, steps: int, device: str, out: str) -> TrainConfig:
    """The training: a small policy of vectors or of images, or the policy of a run with its settings."""
    streams = sources.demonstrations.specification.observations
    common: dict[str, Any] = {
        "dataset": sources.path,
        "task": None if is_store(sources.path) else sources.task,  # a store may lack streams of the task
        "episodes": f"episode={episode}",
        "out": out,
        "steps": steps,
        "batch_size": BATCH,
        "warmup": steps // 10,
        "held_out": 0.0,
        "device": device,
        "log_every": max(steps // 10, 1),
        "save_every": steps,
        "validate_every": steps,
        "image_cache": "device",
    }
    if sources.run is not None:
        return TrainConfig(**common | _settings_of(sources.run, sources.demonstrations))
    policy = DiffusionConfig(network=UNet1dConfig(channels=CHANNELS))
    if any(stream.is_image for stream in streams):
        policy.encoder = ResNetEncoderConfig(width=32, stages=3)
    return TrainConfig(**common, policy=policy)


def _settings_of(run: str, demonstrations: Demonstrations) -> dict[str, Any]:
    """The settings of a run that decide what it can learn of these demonstrations."""
    from ..configs.augmentation import AugmentationConfig

    policy, manifest = load_policy(run)
    folder = resolve_checkpoint(Path(run)).parents[1]
    stored = read_json_with_digest(folder / "config.json", REMEDY) if (folder / "config.json").exists() else {}
    kept: dict[str, Any] = {name: stored[name] for name in KEPT if name in stored}
    if isinstance(kept.get("augmentation"), Mapping):
        kept["augmentation"] = AugmentationConfig(**kept["augmentation"])
    horizons = policy.horizons
    return kept | {
        "policy": policy_config(manifest["policy"]),
        "observe": to_observe(demonstrations, policy.specification),
        "horizons": HorizonsConfig(
            observation=horizons.observation, prediction=horizons.prediction, action=horizons.action
        ),
    }


def _verdict(errors: Errors, episode: int, steps: int, specification: Specification) -> Finding:
    policy, mean = errors.share(errors.policy), errors.share(errors.mean)
    what = f"after {steps} steps on episode {episode} alone it {in_words(errors)}"
    if policy <= LEARNED * mean:
        return Finding("ok", f"the pipeline can learn: {what}")
    again = f"try twice as many steps, steps={2 * steps}"
    if policy < POOR * mean:
        remedy = f"{again}; then a larger network or another learning_rate"
        return Finding("warning", f"the pipeline learns slowly: {what}", remedy)
    has_vectors = any(not stream.is_image for stream in specification.observations)
    cause = "the observations say which action follows" if has_vectors else "the images show what moves"
    remedy = f"see whether {cause} (recede inspect); {again}; if the error stays, suspect the network or its settings"
    return Finding("problem", f"the pipeline cannot learn even this episode: {what}", remedy)
