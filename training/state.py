"""The state of a training beside the averaged policy, as safetensors: weights, moments, sums of the loss."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.folder import read_checkpoint, read_tensors
from ..checkpoints.runs import resolve_checkpoint
from ..files import read_json
from .ema import EMA
from .measures import Meter


def training_state(policy: nn.Module, optimizer: torch.optim.Optimizer, meter: Meter) -> dict[str, Tensor]:
    """Everything that `restore` needs, by name."""
    state = {f"policy.{name}": tensor for name, tensor in policy.state_dict().items()} | {"meter": meter.sums}
    for index, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    return state


def restore(folder: Path, policy: nn.Module, ema: EMA[Any], optimizer: torch.optim.Optimizer, meter: Meter) -> None:
    """Set everything to what it was when the checkpoint was saved.

    Raises ValueError or FileNotFoundError where the checkpoint is damaged. Warns where the number of CPU threads
    differs from then: sums are then rounded differently.
    """
    weights = read_checkpoint(folder)[1]
    note = read_json(folder / "training.json")
    if not {"threads", "training_sha256"} <= note.keys():
        raise ValueError(f"{folder / 'training.json'} is damaged: it holds only {sorted(note)}; restore it from a copy")
    if note["threads"] != torch.get_num_threads() and next(policy.parameters()).device.type == "cpu":
        warnings.warn(
            f"resuming with {torch.get_num_threads()} threads what was begun with {note['threads']}: the result is as "
            f"good, but not bitwise that of an uninterrupted run (set OMP_NUM_THREADS={note['threads']} for that)",
            stacklevel=2,
        )
    state = read_tensors(folder / "training.safetensors", note["training_sha256"])
    policy.load_state_dict(_under("policy", state))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer", state).items():
        index, key = name.split(".")
        moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    ema.module.load_state_dict(weights)
    meter.sums.copy_(state["meter"])


def start_from(policy: nn.Module, folder: Path) -> str:
    """Begin with the averaged weights of another run, but with our own normalizer; returns the digest of the weights.

    Raises ValueError unless its network has the same weights, by name and shape.
    """
    manifest, weights = read_checkpoint(resolve_checkpoint(folder))
    wanted = {name: tensor for name, tensor in policy.state_dict().items() if not name.startswith("normalizer.")}
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("normalizer.")}
    differing = sorted(wanted.keys() ^ weights.keys())
    differing += [name for name in wanted.keys() & weights.keys() if wanted[name].shape != weights[name].shape]
    if differing:
        raise ValueError(
            f"init_from={folder} must hold the weights of the same policy, but {len(differing)} differ, such as "
            f"{differing[:3]}: use the configuration it was trained with, {manifest['policy']}"
        )
    policy.load_state_dict(weights, strict=False)
    return manifest["weights_sha256"][:12]


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix + "."): tensor for name, tensor in state.items() if name.startswith(prefix + ".")}
