"""The U-Net's layers as they are trained on a CPU: matrix products and few passes over memory, equal to torch's layers.

Shapes: B batch, T steps, C channels that go in, O channels that come out, K steps that a convolution spans. Tensors are
(B, C, T) as everywhere, but time comes first in memory: a row of C numbers for each (step, example). A convolution is
then K products of matrices whose rows are consecutive in memory. Nothing is copied, and nothing is multiplied by the
zeros beyond the ends of a chunk. torch's own convolution of such small arrays reaches half of the speed of a matrix
product or less on processors with AVX2 (`python benchmarks/training.py`). On a GPU its kernels are faster than these.

Memory: a convolution keeps its input for the backward pass, and a norm with its Mish keeps two arrays of its size.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_IS_LEFT_OUT = ContextVar("is_left_out", default=False)


def serves(x: Tensor) -> bool:
    """Whether these layers train faster on x than torch's.

    They do on a CPU, unless autocast chooses a type of 16 bits or a compiler writes layers of its own.
    """
    if torch.compiler.is_compiling() or _IS_LEFT_OUT.get():
        return False
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


@contextmanager
def left_out() -> Generator[None]:
    """Torch's layers serve while the block lasts."""
    token = _IS_LEFT_OUT.set(True)
    try:
        yield
    finally:
        _IS_LEFT_OUT.reset(token)


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `F.conv1d` computes with zeros beyond the ends: (B, C, T), (O, C, K), (O,) -> (B, O, T). K is odd."""
    return _Convolution.apply(x, weight, bias)


def normalise_mish(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """What `F.mish(F.group_norm(...))` computes: (B, C, T), (C,), (C,) -> (B, C, T)."""
    return _NormaliseMish.apply(x, num_groups, weight, bias, eps)


def _time_first(x: Tensor) -> Tensor:
    """(B, C, T) -> (T, B, C), consecutive in memory."""
    return x.permute(2, 0, 1).contiguous()


def _time_last(x: Tensor) -> Tensor:
    """(T, B, C) -> (B, C, T), without a copy."""
    return x.permute(1, 2, 0)


def _shifts(kernel_size: int, num_steps: int, batch_size: int) -> Iterator[tuple[int, slice, slice]]:
    """Index of a weight, rows that it takes and rows that it adds to, within the chunk; first the one of all rows."""
    centre = kernel_size // 2
    for index in sorted(range(kernel_size), key=lambda index: index != centre):
        shift = index - centre
        num_rows = max(num_steps - abs(shift), 0) * batch_size
        source, target = max(shift, 0) * batch_size, max(-shift, 0) * batch_size
        yield index, slice(source, source + num_rows), slice(target, target + num_rows)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows, kernels = _time_first(x), weight.permute(2, 1, 0).contiguous()
        ctx.save_for_backward(rows, kernels)
        num_steps, batch_size, channels = rows.shape
        rows = rows.view(-1, channels)
        (centre, _, _), *others = _shifts(len(kernels), num_steps, batch_size)
        out = torch.addmm(bias, rows, kernels[centre])
        for index, source, target in others:
            out[target].addmm_(rows[source], kernels[index])
        return _time_last(out.view(num_steps, batch_size, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:  # type: ignore[override]
        rows, kernels = ctx.saved_tensors
        num_steps, batch_size, channels = rows.shape
        rows, gradient = rows.view(-1, channels), _time_first(gradients[0]).view(num_steps * batch_size, -1)
        (centre, _, _), *others = shifts = list(_shifts(len(kernels), num_steps, batch_size))
        to_kernels = torch.empty_like(kernels)
        for index, source, target in shifts:
            torch.mm(rows[source].t(), gradient[target], out=to_kernels[index])
        to_x = None
        if ctx.needs_input_grad[0]:
            to_rows = gradient @ kernels[centre].t()
            for index, source, target in others:
                to_rows[source].addmm_(gradient[target], kernels[index].t())
            to_x = _time_last(to_rows.view(num_steps, batch_size, channels))
        return to_x, to_kernels.permute(2, 1, 0), gradient.sum(0)


class _NormaliseMish(torch.autograd.Function):
    """Means over the steps and channels of a group are taken of sums over the steps, which are small.

    Mish is x tanh(log(1 + exp(x))). With s = sigmoid(x) and q = s (2 - s), its tanh is q / (2 - q), which needs one
    exponential, loses no digits and cannot overflow; its slope is tanh + x s (1 - tanh^2).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        rows = _time_first(x)
        centred = rows - _group_means(rows.mean(0), num_groups)
        reciprocal = (_group_means(centred.square().mean(0), num_groups) + eps).rsqrt()  # of the standard deviation
        normal = torch.addcmul(bias, centred, reciprocal * weight)
        sigmoid = normal.sigmoid()
        product = sigmoid * (2 - sigmoid)
        tanh = product.div_(2 - product)
        out = normal * tanh
        slope = torch.addcmul(tanh, sigmoid.mul_(normal), 1 - tanh.square())
        ctx.save_for_backward(centred, reciprocal, slope, weight)
        ctx.num_groups = num_groups
        return _time_last(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:  # type: ignore[override]
        centred, reciprocal, slope, weight = ctx.saved_tensors
        gradient = _time_first(gradients[0]) * slope
        num_steps = len(gradient)
        to_bias = gradient.sum(0)
        to_weight = (gradient * centred).sum(0) * reciprocal
        # The gradient of a normalised array less its mean and its share along the array itself (Ioffe, Szegedy 2015).
        mean = _group_means(to_bias * weight, ctx.num_groups) / num_steps
        along = _group_means(to_weight * weight, ctx.num_groups) / num_steps
        to_x = torch.addcmul(-reciprocal * mean, gradient, reciprocal * weight)
        to_x.addcmul_(centred, -reciprocal.square() * along)
        return _time_last(to_x), None, to_weight.sum(0), to_bias.sum(0), None


def _group_means(x: Tensor, num_groups: int) -> Tensor:
    """(B, C) -> (B, C): the mean of the group of each channel."""
    grouped = x.view(len(x), num_groups, -1)
    return grouped.mean(2, keepdim=True).expand_as(grouped).reshape_as(x)
