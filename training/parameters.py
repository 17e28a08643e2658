"""Parameter groups of the optimiser: weight decay and a factor of the learning rate for each parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

NOT_DECAYED = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
"""Layers without weight decay, because their weights do not multiply features."""

TABLES = {"embed", "embedding", "embeddings", "pos", "position", "positional", "positions", "probe", "token", "tokens"}
"""Words in the names of parameters that are added to features or concatenated with them: embeddings, positions, tokens.

The probe is the query of SigLIP's attention pool.
"""


def parameter_groups(policy: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser that hold every parameter of `policy` once, in the order of its modules.

    A group's "weight_decay" is `weight_decay` or 0, see `is_matrix`. Its "scale" is a factor of the learning rate: the
    `learning_rate_scale` of the module or of its nearest parent that has one, else 1.

    Raises ValueError for a scale that is not positive.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    grouped: set[nn.Parameter] = set()
    for module, scale in _modules(policy, "", 1.0):
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in grouped:  # shared by two modules
                continue
            grouped.add(parameter)
            decay = weight_decay if is_matrix(module, name) else 0.0
            group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "scale": scale})
            group["params"].append(parameter)
    return list(groups.values())


def matrices(policy: nn.Module) -> set[nn.Parameter]:
    """The parameters of `policy` that are matrices; see `is_matrix`."""
    named = ((module, name) for module in policy.modules() for name, _ in module.named_parameters(recurse=False))
    return {module.get_parameter(name) for module, name in named if is_matrix(module, name)}


def is_matrix(module: nn.Module, name: str) -> bool:
    """Whether a parameter of a module is a matrix, which weight decay acts on, by the parameter's name in it.

    Matrices multiply features and therefore have two or more dimensions: the weights of linear layers, recurrent
    layers, convolutions and attention. Biases, norms, embeddings, positions and tokens are none, recognised by module
    type or by name. The rule therefore works for networks of other packages too.
    """
    is_table = isinstance(module, NOT_DECAYED) or bool({"bias", *TABLES} & set(name.split("_")))
    return module.get_parameter(name).ndim > 1 and not is_table


def _modules(module: nn.Module, path: str, scale: float) -> Iterator[tuple[nn.Module, float]]:
    """All modules, parents first, each with its own scale or that of its nearest parent."""
    scale = float(getattr(module, "learning_rate_scale", scale))
    if not scale > 0:
        raise ValueError(
            f"learning_rate_scale of {path or 'the policy'} must be positive, got {scale}: freeze it instead"
        )
    yield module, scale
    for name, child in module.named_children():
        yield from _modules(child, f"{path}{name}.", scale)
