"""Attention of heads."""

from __future__ import annotations

import pytest
import torch
from recede.policy.networks.attention import attend
from torch import nn


def heads(*, dtype):
    """Query (B, H, T, E / H), key and value (B, H, S, E / H)."""
    torch.manual_seed(0)
    return [torch.randn(2, 3, 5, 4, dtype=dtype, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"visible": torch.ones(5, 5).tril(1).bool()}])
def test_autocast_on_a_cpu_keeps_attention_and_its_gradient_in_float32(options):
    rounded = heads(dtype=torch.bfloat16)
    exact = [part.detach().float().requires_grad_() for part in rounded]
    with torch.autocast("cpu", torch.bfloat16):
        ours = attend(*rounded, **options)
    weights = torch.einsum("bhte,bhse->bhts", exact[0], exact[1]) / 2
    visible = options.get("visible", torch.ones(5, 5).tril().bool() if options else torch.ones(5, 5).bool())
    expected = weights.masked_fill(~visible, -torch.inf).softmax(-1) @ exact[2]
    torch.testing.assert_close(ours, expected)
    (ours**2).sum().backward()
    (expected**2).sum().backward()
    for part, same in zip(rounded, exact, strict=True):
        torch.testing.assert_close(part.grad, same.grad.bfloat16())


def test_without_autocast_heads_keep_their_type():
    """A policy in bfloat16 stays in it, and float64 is not rounded."""
    for dtype in (torch.bfloat16, torch.float64):
        query, key, value = heads(dtype=dtype)
        expected = nn.functional.scaled_dot_product_attention(query, key, value)
        assert torch.equal(attend(query, key, value), expected)
        assert expected.dtype == dtype
