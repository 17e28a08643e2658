"""Several tensors in one piece of memory, so that all of them are copied to a device at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes; every part begins at a multiple of it, as every type of number needs."""


class Packed:
    """Zeros in the shapes and types of some tensors, in one piece of memory on a device.

    memory: all bytes. parts: the tensors, which are views of it.
    """

    def __init__(self, like: Sequence[Tensor], device: torch.device) -> None:
        sizes = [x.nbytes + -x.nbytes % ALIGNMENT for x in like]
        self.memory = torch.zeros(sum(sizes), dtype=torch.uint8, device=device)
        pieces = zip(self.memory.split(sizes), like, strict=True)
        self.parts = [piece[: x.nbytes].view(x.dtype).view(x.shape) for piece, x in pieces]


def upload(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the CPU on a device, by one transfer. On the CPU they are the same tensors."""
    if device.type == "cpu":
        return list(tensors)
    host, uploaded = Packed(tensors, torch.device("cpu")), Packed(tensors, device)
    for part, x in zip(host.parts, tensors, strict=True):
        part.copy_(x)
    uploaded.memory.copy_(host.memory)
    return uploaded.parts
