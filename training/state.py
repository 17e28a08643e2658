"""The training state that a checkpoint holds beside the averaged policy: weights, optimiser moments, loss sums."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.folder import read_checkpoint
from ..checkpoints.runs import resolve_checkpoint
from ..configs.components.representations import AbsoluteConfig
from ..configs.notation import describe
from ..files import read_json_with_digest, read_tensors
from ..policy.affine import Affine
from ..policy.diffusion import DiffusionPolicy
from .ema import EMA
from .measures import Meter

OTHER = 1e-3
"""A range is another one if its ends differ by more than this share of it."""


def training_state(policy: nn.Module, optimizer: torch.optim.Optimizer, meter: Meter) -> dict[str, Tensor]:
    """All tensors that `restore_training` needs, by name."""
    state = {f"policy.{name}": tensor for name, tensor in policy.state_dict().items()} | {"meter": meter.sums}
    for index, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    return state


def restore_training(
    folder: Path, policy: nn.Module, ema: EMA[Any], optimizer: torch.optim.Optimizer, meter: Meter
) -> None:
    """Load the state of a checkpoint into everything that training changes.

    Raises ValueError or FileNotFoundError if the checkpoint is damaged. Warns if the number of CPU threads has changed,
    because sums are then rounded differently.
    """
    weights = read_checkpoint(folder)[1]
    note = read_json_with_digest(folder / "training.json", "restore it from a copy")
    if type(note.get("threads")) is not int or not isinstance(note.get("training_sha256"), str):
        raise ValueError(
            f"{folder / 'training.json'} is damaged: it must hold a whole number of threads and a training_sha256, got "
            f"{sorted(note)}; restore it from a copy"
        )
    if note["threads"] != torch.get_num_threads() and next(policy.parameters()).device.type == "cpu":
        warnings.warn(
            f"this run was started with {note['threads']} threads and resumes with {torch.get_num_threads()}: the "
            "result is as good, but not bitwise equal to that of an uninterrupted run (set OMP_NUM_THREADS="
            f"{note['threads']} for that)",
            stacklevel=2,
        )
    state = read_tensors(folder / "training.safetensors", note["training_sha256"])
    policy.load_state_dict(_with_prefix("policy", state))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _with_prefix("optimizer", state).items():
        index, key = name.split(".")
        moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    ema.module.load_state_dict(weights)
    meter.sums.copy_(state["meter"])


NORMALIZERS = ("normalizer.", "represented.")
"""The beginnings of the names of ranges among the weights of a policy."""


def load_initial_weights(policy: nn.Module, folder: Path, representation: Any = None) -> tuple[str, list[str]]:
    """Load the averaged weights of another run, but keep the policy's own ranges.

    representation: of the policy, as JSON; None if it has none. Returns the digest of the weights, and a note on each
    stream whose range differs.

    Raises ValueError if the names or shapes of the weights differ, or if they learned another representation.
    """
    manifest, whole = read_checkpoint(resolve_checkpoint(folder))
    before = manifest["policy"].get("representation", describe(AbsoluteConfig()))
    if representation is not None and before != representation:
        raise ValueError(
            f"init_from={folder} must have learned the same representation, got {before} there and {representation} "
            "here: choose the policy/representation of that run, or train without init_from"
        )
    expected = {name: tensor for name, tensor in policy.state_dict().items() if not name.startswith(NORMALIZERS)}
    weights = {name: tensor for name, tensor in whole.items() if not name.startswith(NORMALIZERS)}
    differing = sorted(expected.keys() ^ weights.keys())
    differing += [name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape]
    if differing:
        raise ValueError(
            f"init_from={folder} must hold the weights of the same policy, but {len(differing)} differ, such as "
            f"{differing[:3]}: use the configuration it was trained with, {manifest['policy']}"
        )
    policy.load_state_dict(weights, strict=False)
    return manifest["weights_sha256"][:12], _changed_ranges(policy, whole)


def _changed_ranges(policy: Any, before: dict[str, Tensor]) -> list[str]:
    """Each stream that does not have the ranges of the initial weights, a note each."""
    if not isinstance(policy, DiffusionPolicy):
        return []
    prefix = "normalizer" if policy.represented is None else "represented"
    notes = list[str]()
    for stream in policy.representation.learned.streams:
        if stream.is_image:
            continue
        own, key = policy.learned.affine(stream.name), f"{prefix}.streams.{stream.name}"
        old = Affine(before[f"{key}.centre"], before[f"{key}.half_range"])
        least = OTHER * torch.maximum(own.half_range, old.half_range)
        is_other = ((own.centre - old.centre).abs() > least) | ((own.half_range - old.half_range).abs() > least)
        if places := is_other.nonzero().flatten().tolist():
            was, now = (_interval(affine, places[0]) for affine in (old, own))
            more = f", and {len(places) - 1} more dimensions differ" if len(places) > 1 else ""
            notes.append(
                f"ranges: {stream.label(places[0])} was {was} in init_from and is {now} in these demonstrations{more}; "
                "the weights learn the new ranges"
            )
    return notes


def _interval(affine: Affine, index: int) -> str:
    centre, half = affine.centre[index].item(), affine.half_range[index].item()
    return f"[{centre - half:.4g}, {centre + half:.4g}]"


def _with_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix + "."): tensor for name, tensor in state.items() if name.startswith(prefix + ".")}
