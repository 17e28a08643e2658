"""What a command may change of a run that it resumes: words, the number of steps, and added demonstrations.

`configs.training` declares which fields do not matter. Demonstrations and weights count by their content, of which
every checkpoint holds digests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checkpoints.folder import read_manifest
from ..checkpoints.runs import checkpoint_steps, read_resolved, resolve_checkpoint
from ..configs.notation import default_of, describe, typed
from ..configs.training import BY_CONTENT, FREE, TrainConfig
from ..datasets.demonstrations import Demonstrations
from ..datasets.normalisation import TOLERANCE
from ..datasets.observing import holding
from ..datasets.windows import Windows
from ..envs.catalogue import TASKS
from ..files import interpreting, read_json_with_digest
from ..policy.normalizer import Normalizer
from ..specification import Specification, Stream
from .advice import as_stored
from .schedule import Stage
from .sources import Pieces, episode_name, known_pieces
from .split import HELD_OUT, SEED, Split, split_each

REMEDY = "restore it from a copy, or use another folder"
"""What to do with a configuration that is damaged."""

MARGIN = 1.001
"""A value is beyond a range if it lies farther from the centre than this many half ranges; less is rounding."""


def stored_configuration(config: TrainConfig) -> dict[str, Any] | None:
    """The configuration of the run in `out`, as JSON; None if nothing was begun there."""
    path = Path(config.out) / "config.json"
    return read_json_with_digest(path, REMEDY) if path.exists() else None


def begun_manifest(config: TrainConfig) -> dict[str, Any] | None:
    """The manifest of the last checkpoint in `out`; None if nothing has been trained there.

    What is null and has a rule is as in the run.

    Raises ValueError if the run there has another configuration, or has done more steps than `config` asks for.
    """
    folder = Path(config.out)
    stored = stored_configuration(config)
    with interpreting(folder / "config.json", REMEDY):
        config, stored = as_stored(config, stored)[0], stored or describe(config)
    manifest = read_resolved(folder, "last", read_manifest)[1] if checkpoint_steps(folder) else None
    if manifest is not None:
        _check_entries(folder, manifest)
    with interpreting(folder / "config.json", REMEDY):
        before = _material(_completed(stored, config))
        now = _material(_in_other_words(describe(config), stored, manifest))
        changes = configuration_changes(before, now)
    if manifest is not None:
        changes += _changed_weights(config, stored, manifest)
    if changes:
        raise ValueError(
            f"{folder} holds a run of another configuration ({'; '.join(changes)}): "
            f"repeat its command to resume it, or choose another out="
        )
    if manifest is not None:
        with interpreting(folder, REMEDY):
            stages = [Stage(*stage) for stage in manifest["stages"]]
            _check_steps(config, done=manifest["step"], planned=stages[-1].steps)
    return manifest


def _material(described: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must stay as they are, of a configuration as JSON."""
    free = (*FREE, *BY_CONTENT, "steps", "chosen")
    settings = {name: value for name, value in described.items() if name not in free}
    return settings | {"policy": with_file_names(settings.get("policy", {}))}


def _completed(stored: Any, config: Any) -> Any:
    """What is stored of a configuration, with the default of each setting that its version did not offer.

    That version behaved as these defaults do. Another choice than that of `config` stays as it is.
    """
    if not isinstance(stored, Mapping):
        return stored
    if isinstance(config, Mapping):
        return {name: _completed(value, config.get(name)) for name, value in stored.items()}
    if not is_dataclass(config) or stored.get("choice") != describe(config).get("choice"):
        return stored
    defaults = {field.name: default_of(field) for field in fields(config)}
    offered = {name: describe(default) for name, default in defaults.items() if default is not MISSING}
    return offered | {name: _completed(value, getattr(config, name, None)) for name, value in stored.items()}


def _in_other_words(
    now: Mapping[str, Any], stored: Mapping[str, Any], manifest: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The settings of a command, those in the words of the run that mean the same.

    null stands for the default split, or for that of the initial weights, which the manifest notes. A task may have its
    name or its location; one that a run without a task is given only evaluates it, because its data count by content.
    """
    settings = dict(now)
    split = manifest["split"] if manifest is not None else {"held_out": HELD_OUT, "seed": SEED}
    for name, entry, default in (("held_out", "held_out", HELD_OUT), ("split_seed", "seed", SEED)):
        meant = default if now.get(name) is None else now[name]
        if name in stored and meant == split[entry]:
            settings[name] = stored[name]
    task: Any = now.get("task")
    before: Any = stored.get("task")
    if before is None or TASKS.get(task, task) == TASKS.get(before, before):
        settings["task"] = before
    return settings


def with_file_names(policy: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a policy, in which pretrained weights of an encoder are identified by their file name."""
    encoder = policy.get("encoder") or {}
    if weights := encoder.get("weights"):
        return {**policy, "encoder": encoder | {"weights": Path(weights).name}}
    return dict(policy)


def _check_entries(folder: Path, manifest: Mapping[str, Any]) -> None:
    if missing := [name for name in ("training", "split", "streams_sha256", "stages") if name not in manifest]:
        raise ValueError(
            f"the last checkpoint of {folder} lacks {missing}, so its training cannot go on: start a new run from its "
            f"weights with init_from={folder} out=NEW"
        )


def _changed_weights(config: TrainConfig, stored: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[str]:
    """What differs in the weights that the run began with; a folder of the same name is not opened again."""
    before, now = stored.get("init_from"), config.init_from
    if before == now:
        return []
    digest = now and read_manifest(resolve_checkpoint(Path(now)))["weights_sha256"][:12]
    return [] if digest == manifest["training"]["init_from"] else [f"init_from was {typed(before)} and is {typed(now)}"]


def _check_steps(config: TrainConfig, *, done: int, planned: int) -> None:
    if config.steps is None or config.steps > done or config.steps == planned:
        return
    resume = (
        f"give steps={planned} to resume it, or another number above {done}"
        if planned > done
        else (f"give steps={planned}, or more to continue it")
    )
    raise ValueError(f"{config.out} has done {done} steps already, got steps={config.steps}: {resume}")


def configuration_changes(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """The differences between two configurations, a clause each.

    >>> configuration_changes({"seed": 0, "horizons": {"action": 8}}, {"seed": 0, "horizons": {"action": 4}})
    ['horizons.action was 8 and is 4']
    """
    changes: list[str] = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes += configuration_changes(old, new, f"{path}{key}.")
        elif old != new:
            changes.append(f"{path}{key} was {typed(old)} and is {typed(new)}")
    return changes


# --- demonstrations


def check_specification(config: TrainConfig, manifest: Mapping[str, Any], specification: Specification) -> None:
    """Raises ValueError if the demonstrations do not have the streams of the run."""
    if differences := manifest["specification"].differences(specification):
        raise ValueError(
            f"{config.place} must have the streams of the run {config.out}, whose are named first: "
            f"{'; '.join(differences)}; choose another out="
        )


def check_episodes(
    config: TrainConfig, manifest: Mapping[str, Any], now: Sequence[str], *, what: str, pieces: Pieces
) -> None:
    """Raises ValueError unless the episodes are those of the run, or with `data=grown` begin with those of the run.

    manifest: of the run. now: digests of the episodes. what: which of the digests of the run to compare, "vectors",
    "images", whose digests cover mirror images too, or "led", the steps that a person led. pieces: of the episodes.
    """
    entries = {"images": "streams_sha256", "led": "led_sha256"}
    before = manifest["split"]["sha256"] if what == "vectors" else manifest[entries[what]]
    differing = [index for index, (old, new) in enumerate(zip(before, now, strict=False)) if old != new]
    anew = f"start a new run from the weights of this one with init_from={config.out} out=NEW"
    counts = f"{config.place} has {len(now)} episodes where the run {config.out} has {len(before)}"
    if differing:
        places = {"images": ", in an image or its mirror image", "led": ", in the steps that a person led"}
        of_what = places.get(what, "")
        many = f", and so do {len(differing) - 1} others" if len(differing) > 1 else ""
        raise ValueError(
            f"{config.place} must hold the episodes of the run {config.out}, but "
            f"{episode_name(config, pieces, differing[0])} differs{of_what}{many} ({len(now)} episodes, and "
            f"{len(before)} in the run): {anew}"
        )
    if len(now) < len(before):
        raise ValueError(f"{counts}, those {len(now)} are the same: restore the others, or {anew}")
    if len(now) == len(before):
        return
    if config.data != "grown":
        raise ValueError(
            f"{counts}, the first {len(before)} are the same: give data=grown to train on all of them, or {anew}"
        )
    if config.steps <= manifest["step"]:
        raise ValueError(
            f"{counts}, and this run has done its {manifest['step']} steps: give more steps to train on all of them, "
            f"or {anew}"
        )


def resumed_split(manifest: Mapping[str, Any], digests: list[str], counts: Sequence[int]) -> Split:
    """The split of the run, to which added episodes are split on their own by the same share and seed.

    manifest: of the run. digests: of all episodes, which begin with those of the run. counts: of the pieces.
    """
    origin, held_out = manifest["split"], list(manifest["held_out_episodes"])
    first = len(origin["sha256"])
    if len(digests) > first:
        added = counts[len(known_pieces(manifest)) :]
        episodes = split_each(added, held_out=origin["held_out"], seed=origin["seed"])
        held_out += [first + episode for episode in episodes]
    training = sorted(set(range(len(digests))) - set(held_out))
    return Split(training, held_out, {**origin, "episodes": len(digests), "sha256": digests}, is_kept=True)


class Beyond(NamedTuple):
    """How the values of a dimension leave its range in a policy."""

    label: str
    share: float
    """Of the steps that lie beyond the range, from 0 to 1."""
    values: tuple[float, float]
    """The least and the largest value."""
    bounds: tuple[float, float]
    """The range; both ends are equal if the policy counts the dimension as still."""


def values_beyond(
    normalizer: Normalizer, demonstrations: Demonstrations, windows: Windows, episodes: range
) -> list[str]:
    """Each dimension that leaves the ranges of a run in added episodes, a note each.

    windows: they hold the streams of the demonstrations.
    """
    notes: list[str] = []
    for stream in demonstrations.specification.streams:
        held = holding(demonstrations, stream.name, episodes)
        if stream.is_image or not held:
            continue
        rows = torch.cat([windows.streams[stream.name][slice(*demonstrations.bounds(episode))] for episode in held])
        for label, share, (least, largest), (low, high) in beyond(normalizer, stream, rows):
            notes.append(
                f"beyond: {label} is in [{least:g}, {largest:g}] in the added episodes, and {share:.1%} of their steps "
                f"lie beyond the range [{low:g}, {high:g}] of the run, which stays"
            )
    return notes


def beyond(normalizer: Normalizer, stream: Stream, rows: Tensor) -> Iterator[Beyond]:
    """Each dimension of a stream that leaves its range in some rows (L, *shape)."""
    affine = normalizer.affine(stream.name)
    rows = rows.to(affine.centre.device, torch.float32)
    least = TOLERANCE * affine.centre.abs().clamp(min=1)  # what counts as a motion of a still dimension
    limit = torch.where(affine.half_range > 0, MARGIN * affine.half_range, least)
    shares = ((rows - affine.centre).abs() > limit).float().mean(0)
    for index in torch.nonzero(shares).tolist():
        dimension, values = tuple(index), rows[(slice(None), *index)]
        low, high = (float(affine.centre[dimension] + sign * affine.half_range[dimension]) for sign in (-1, 1))
        name = stream.label(dimension[0]) if len(dimension) == 1 else f"{stream.name}{list(dimension)}"
        yield Beyond(name, float(shares[dimension]), (float(values.min()), float(values.max())), (low, high))
