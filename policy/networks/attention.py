"""Helpers of the transformers. Shapes: B batch, T tokens, H heads, E size of a token, a multiple of H."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


def check_sizes(size: int, num_heads: int, num_layers: int) -> None:
    """Raise ValueError unless there is a layer and a head, and `size` is a multiple of `num_heads`."""
    if num_layers < 1 or num_heads < 1:
        raise ValueError(f"num_layers and num_heads must be at least 1, got {num_layers} and {num_heads}")
    if size < 1 or size % num_heads:
        raise ValueError(f"size must be a multiple of num_heads={num_heads}, got {size}")


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, T, E) -> (B, H, T, E / H)."""
    return rearrange(x, "b t (h e) -> b h t e", h=num_heads)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, T, E / H) -> (B, T, E)."""
    return rearrange(x, "b h t e -> b t (h e)")


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    visible: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0,
) -> Tensor:
    """Scaled dot-product attention of heads: (B, H, T, E / H) and twice (B, H, S, E / H) -> (B, H, T, E / H).

    visible: what each query sees (T, S); None for all. causal: each token sees itself and the earlier ones.

    Under autocast on a CPU it computes in float32: torch's gradient of attention in bfloat16 is far slower there.
    """
    if query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout, is_causal=causal)
    with torch.autocast("cpu", enabled=False):
        return attend(query.float(), key.float(), value.float(), visible=visible, causal=causal, dropout=dropout)
