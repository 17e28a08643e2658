"""Parameter groups of the optimiser: kind, weight decay and a factor of the learning rate for each parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

NO_MATRICES = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
"""Layers whose weights are no matrices, because they do not multiply features."""

TABLES = {"embed", "embedding", "embeddings", "pos", "position", "positional", "positions", "probe", "token", "tokens"}
"""Words in the names of parameters that are added to features or concatenated with them: embeddings, positions, tokens.

The probe is the query of SigLIP's attention pool.
"""


def parameter_groups(policy: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser that hold every parameter of `policy` once, in the order of its modules.

    A group's "is_matrix" is as `is_matrix` says, and its "weight_decay" is `weight_decay` or 0 accordingly. Its "scale"
    is a factor of the learning rate: the `learning_rate_scale` of the module or of its nearest parent that has one,
    else 1.

    Raises ValueError for a scale that is not positive.
    """
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    grouped: set[nn.Parameter] = set()
    for module, scale in _modules(policy, "", 1.0):
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in grouped:  # shared by two modules
                continue
            grouped.add(parameter)
            multiplies = is_matrix(module, name)
            decay = weight_decay if multiplies else 0.0
            group = {"params": [], "weight_decay": decay, "is_matrix": multiplies, "scale": scale}
            groups.setdefault((multiplies, scale), group)["params"].append(parameter)
    return list(groups.values())


def is_matrix(module: nn.Module, name: str) -> bool:
    """Whether a parameter of a module is a matrix, which weight decay acts on, by the parameter's name in it.

    Matrices multiply features and therefore have two or more dimensions: the weights of linear layers, recurrent
    layers, convolutions and attention. Biases, norms, embeddings, positions and tokens are none, recognised by module
    type or by name. The rule therefore works for networks of other packages too.
    """
    is_table = isinstance(module, NO_MATRICES) or bool({"bias", *TABLES} & set(name.split("_")))
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
