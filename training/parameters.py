"""Which parameters are decayed, and at what share of the learning rate each of them learns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
"""Layers whose weights are decayed: what multiplies the features of another layer."""
OTHERS = (nn.Embedding, nn.GroupNorm, nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d)
"""Layers whose weights are not: nothing but their size says what they do."""

TOKENS = ("class_embedding", "cls_token", "lambda1", "mask_token", "position_embeddings", "probe", "register_tokens")
"""What vision transformers of `transformers` have beside layers, and is not decayed: tokens, positions, scales."""


def parameter_groups(policy: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Every parameter of `policy` once, as groups for AdamW, in an order that its construction alone decides.

    Each group has its "weight_decay", which is `weight_decay` for the weights of linear layers, convolutions and
    projections of attention and 0 for biases, affine parts of norms, embeddings and positions, and its "scale": a
    factor of the learning rate, 1 but where a module says otherwise for all of it by `learning_rate_scale`.

    Raises ValueError for a parameter of another kind, and for a scale that is not positive.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    seen: set[nn.Parameter] = set()
    for path, module, scale in _modules(policy, "", 1.0):
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:  # shared by two modules
                continue
            seen.add(parameter)
            decay = weight_decay if is_decayed(module, name, path) else 0.0
            group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "scale": scale})
            group["params"].append(parameter)
    return list(groups.values())


def is_decayed(module: nn.Module, name: str, path: str = "") -> bool:
    """Whether the weight of that name, of the module itself, is decayed. Raises ValueError where no rule says so."""
    if isinstance(module, LINEAR) and name == "weight":
        return True
    if isinstance(module, nn.MultiheadAttention) and name.endswith("proj_weight"):
        return True
    if isinstance(module, OTHERS) or "bias" in name.split("_") or name.endswith("positions") or name in TOKENS:
        return False
    raise ValueError(
        f"the parameter {path}{name} must be of a kind of which it is known whether it is decayed, got one of "
        f"{type(module).__name__}: use a layer of torch, call it positions, or add its kind to training/parameters.py"
    )


def _modules(module: nn.Module, path: str, scale: float) -> Iterator[tuple[str, nn.Module, float]]:
    """Every module, parents first, with its path and the scale that it or the nearest above it states."""
    scale = float(getattr(module, "learning_rate_scale", scale))
    if not scale > 0:
        raise ValueError(
            f"learning_rate_scale of {path or 'the policy'} must be positive, got {scale}: freeze it instead"
        )
    yield path, module, scale
    for name, child in module.named_children():
        yield from _modules(child, f"{path}{name}.", scale)
