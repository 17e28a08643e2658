"""Which parameters are decayed, and at what share of the learning rate each of them learns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

NOT_DECAYED = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
"""Layers whose weights may have two dimensions and do not multiply features."""

TABLES = {"embed", "embedding", "embeddings", "pos", "position", "positional", "positions", "probe", "token", "tokens"}
"""Words in the names of parameters that are added to features, or put beside them: embeddings, positions, tokens.

The probe is what the attention pool of SigLIP asks with.
"""


def parameter_groups(policy: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Every parameter of `policy` once, as groups for AdamW, in an order that its construction alone decides.

    Each group has its "weight_decay", which is `weight_decay` or 0 as `is_decayed` says, and its "scale", a factor of
    the learning rate: 1 unless a module says otherwise for all of it by `learning_rate_scale`.

    Raises ValueError for a scale that is not positive.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    seen: set[nn.Parameter] = set()
    for module, scale in _modules(policy, "", 1.0):
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:  # shared by two modules
                continue
            seen.add(parameter)
            decay = weight_decay if is_decayed(module, name) else 0.0
            group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "scale": scale})
            group["params"].append(parameter)
    return list(groups.values())


def is_decayed(module: nn.Module, name: str) -> bool:
    """Whether weight decay acts on the parameter of that name, of the module itself.

    It acts on what multiplies features and therefore has two dimensions or more: weights of linear and recurrent
    layers, of convolutions and of attention. It does not act on biases, norms, embeddings, positions and tokens, which
    are known by their module or by their name. So the rule covers networks that are not ours.
    """
    is_table = isinstance(module, NOT_DECAYED) or bool({"bias", *TABLES} & set(name.split("_")))
    return module.get_parameter(name).ndim > 1 and not is_table


def _modules(module: nn.Module, path: str, scale: float) -> Iterator[tuple[nn.Module, float]]:
    """Every module, parents first, with the scale that it or the nearest above it states."""
    scale = float(getattr(module, "learning_rate_scale", scale))
    if not scale > 0:
        raise ValueError(
            f"learning_rate_scale of {path or 'the policy'} must be positive, got {scale}: freeze it instead"
        )
    yield module, scale
    for name, child in module.named_children():
        yield from _modules(child, f"{path}{name}.", scale)
