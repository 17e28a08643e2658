"""The U-Net's layers as a CPU predicts by them: one matrix product a convolution, and cheap passes over memory.

They equal torch's layers but for rounding. The result of a row has the same bits in a batch of any multiple of `ROWS`
rows, so an evaluation may predict as many at once as are due (`evaluation.groups`).

Shapes: B batch, T steps, C channels that go in, O channels that come out, K steps that a convolution spans. Tensors are
(B, C, T) as everywhere, but channels come last in memory: a row of C numbers for each (example, step). The K rows that
a convolution takes then follow one another, and are copied whole beside those of the next step. torch's own convolution
of such small arrays reaches half of the speed of a matrix product or less on processors with AVX2. On a GPU its kernels
are faster than these.

Memory: a copy of the weights of all convolutions that have predicted, as long as they live.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from . import cpu_training

_IS_PREDICTING = ContextVar("_IS_PREDICTING", default=False)

FEWEST = 8
"""Rows from which on these layers are faster, for small and large networks, on one thread and on two."""

ROWS = 16
"""In batches of any multiple of this many rows, a row has the same bits on one thread."""

NARROW = 64
"""From this many columns on, MKL computes a row of a convolution in the same way for any number of rows.

With AVX2 it does not for fewer columns, nor for the few rows of a conditioning, nor for those of an upsampling. These
are multiplied `ROWS` examples at a time.
"""

_ordered = WeakTensorKeyDictionary()
"""A weight -> what tells that it has changed, and its numbers in the order in which they are multiplied."""


@contextmanager
def predicting() -> Generator[None]:
    """These layers serve while the block lasts. Elsewhere torch's do."""
    token = _IS_PREDICTING.set(True)
    try:
        yield
    finally:
        _IS_PREDICTING.reset(token)


def serves(x: Tensor) -> bool:
    """Whether these layers compute what follows from x: in a prediction on a CPU, with gradients of x or without.

    They do not where those for training are left out, nor for fewer than `FEWEST` rows: a robot's chunk takes longer by
    their larger number of operations, and by torch's threads within each.
    """
    return _IS_PREDICTING.get() and len(x) >= FEWEST and cpu_training.serves(x)


def convolve(x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1) -> Tensor:
    """What `F.conv1d` computes with zeros beyond the ends: (B, C, T), (O, C, K), (O,) -> (B, O, T / stride). K is odd.

    stride: 1, or 2 if T is even.
    """
    width = weight.shape[2] // 2
    rows = F.pad(x.mT, (0, 0, width, width)).contiguous() if width else x.mT
    windows = rows.unfold(1, weight.shape[2], stride).mT  # (B, T / stride, K, C)
    flat, kernels = windows.flatten(2).flatten(0, 1), _kernels(weight).t()
    pieces = flat.split(ROWS * windows.shape[1]) if weight.shape[0] < NARROW else [flat]
    out = _joined([torch.addmm(bias, piece, kernels) for piece in pieces])
    return out.view(*windows.shape[:2], -1).mT


def upsample(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `F.conv_transpose1d` computes with stride 2 and padding 1: (B, C, T), (C, O, 4), (O,) -> (B, O, 2 T)."""
    batch_size, channels, num_steps = x.shape
    kernels, pieces = _kernels(weight), x.mT.reshape(-1, channels).split(ROWS * num_steps)
    parts = _joined([piece @ kernels for piece in pieces]).view(batch_size, num_steps, 4, -1)
    out = parts[:, :, 1:3] + bias  # an even and an odd step of the result for each step
    out[:, 1:, 0] += parts[:, :-1, 3]
    out[:, :-1, 1] += parts[:, 1:, 0]
    return out.reshape(batch_size, 2 * num_steps, -1).mT


def normalise_mish(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """What `F.mish(F.group_norm(...))` computes: (B, C, T), (C,), (C,) -> (B, C, T).

    Mish as in `cpu_training`, with one exponential. torch's takes three times as long.
    """
    normal = F.group_norm(x.unsqueeze(2), num_groups, weight, bias, eps).squeeze(2)  # images may have channels last
    sigmoid = normal.sigmoid()
    product = (2 - sigmoid) * sigmoid
    return product / (2 - product) * normal


def by_rows(layers: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What `layers` compute of (B, ...), `ROWS` rows at a time in a prediction on a CPU."""
    return _joined([layers(piece) for piece in x.split(ROWS)]) if serves(x) else layers(x)


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _kernels(weight: Tensor) -> Tensor:
    """(n, m, K) -> (n, K m). To order them anew takes as long as to multiply by them, so the result is kept.

    It notices every change of a weight but one of its `data` in place, which torch counts nowhere.
    """
    if weight.is_inference():  # its changes are not counted either
        return weight.mT.flatten(1)
    state = weight._version, weight.data_ptr()
    before, kernels = _ordered.get(weight) or (None, weight)
    if before != state:
        kernels = weight.detach().mT.flatten(1)
        _ordered[weight] = state, kernels
    return kernels
