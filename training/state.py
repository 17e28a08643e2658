"""The training state that a checkpoint holds beside the averaged policy: weights, optimiser moments, loss sums."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.folder import read_checkpoint
from ..checkpoints.runs import resolve_checkpoint
from ..files import read_json_with_digest, read_tensors
from .ema import EMA
from .measures import Meter


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


def load_initial_weights(policy: nn.Module, folder: Path) -> str:
    """Load the averaged weights of another run, but keep the policy's own normalizer; returns the weights' digest.

    Raises ValueError if the names or shapes of the weights differ.
    """
    manifest, weights = read_checkpoint(resolve_checkpoint(folder))
    expected = {name: tensor for name, tensor in policy.state_dict().items() if not name.startswith("normalizer.")}
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("normalizer.")}
    differing = sorted(expected.keys() ^ weights.keys())
    differing += [name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape]
    if differing:
        raise ValueError(
            f"init_from={folder} must hold the weights of the same policy, but {len(differing)} differ, such as "
            f"{differing[:3]}: use the configuration it was trained with, {manifest['policy']}"
        )
    policy.load_state_dict(weights, strict=False)
    return manifest["weights_sha256"][:12]


def _with_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix + "."): tensor for name, tensor in state.items() if name.startswith(prefix + ".")}
