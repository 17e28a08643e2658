"""Numpy's functions on tensors: what a task reads and judges is written once, for arrays, and also runs on a GPU.

Numpy passes a function that is called with a `DeviceArray` on to it (NEP 13 and NEP 18), and it calls the function of
torch. So a task needs no second version, and nothing is copied to the host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.lib.mixins import NDArrayOperatorsMixin
from torch import Tensor

OTHER_NAMES: Mapping[str, str] = {"equal": "eq", "invert": "bitwise_not", "power": "pow"}
"""Ufunc of numpy -> the function of torch, where their names differ."""

FUNCTIONS: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    np.all: torch.all,
    np.any: torch.any,
    np.clip: torch.clamp,
    np.concatenate: torch.cat,
    np.linalg.norm: torch.linalg.vector_norm,
    np.moveaxis: torch.moveaxis,
    np.stack: torch.stack,
    np.where: torch.where,
}
"""Function of numpy -> the same one of torch."""

Index: TypeAlias = Any
"""What numpy takes between brackets."""


class DeviceArray(NDArrayOperatorsMixin):
    """A tensor that numpy's functions take as an array.

    A function that `FUNCTIONS` lacks raises TypeError, as numpy does. It has no truth value: a branch on it would wait
    for the device.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        function = getattr(torch, OTHER_NAMES.get(ufunc.__name__, ufunc.__name__), None)
        if method != "__call__" or options or function is None:
            return NotImplemented
        tensors = [self._tensor(value) for value in inputs]
        if len(tensors) == 2:  # torch promotes types in most functions, but not in all
            dtype = torch.result_type(*tensors)
            tensors = [tensor.to(dtype) for tensor in tensors]
        return DeviceArray(function(*tensors))

    def __array_function__(
        self, function: Callable[..., Any], types: Any, arguments: Sequence[Any], options: Mapping[str, Any]
    ) -> Any:
        if function not in FUNCTIONS:
            return NotImplemented
        values = [self._tensors(argument) for argument in arguments]
        names = {"axis": "dim"}
        return DeviceArray(FUNCTIONS[function](*values, **{names.get(key, key): one for key, one in options.items()}))

    def __bool__(self) -> bool:
        raise TypeError("the values of many worlds on a device have no one truth value: use np.where instead of if")

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[DeviceArray]:
        return map(DeviceArray, self.tensor)

    def __getitem__(self, index: Index) -> DeviceArray:
        parts = index if isinstance(index, tuple) else (index,)
        return DeviceArray(self.tensor[tuple(self._index(part) for part in parts)])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, as of an array."""
        return tuple(self.tensor.shape)

    def astype(self, dtype: Any) -> DeviceArray:
        """The values in a dtype of numpy."""
        return DeviceArray(self.tensor.to(_dtype(np.dtype(dtype).str)))

    def reshape(self, *shape: int) -> DeviceArray:
        """The values in another shape."""
        return DeviceArray(self.tensor.reshape(shape))

    def all(self, axis: int) -> DeviceArray:
        """Whether all are true along an axis."""
        return DeviceArray(self.tensor.all(axis))

    def max(self, axis: int) -> DeviceArray:
        """The largest along an axis."""
        return DeviceArray(self.tensor.amax(axis))

    def argmax(self, axis: int) -> DeviceArray:
        """The index of the largest along an axis."""
        return DeviceArray(self.tensor.argmax(axis))

    def _tensors(self, argument: Any) -> Any:
        """An argument of a function, or a list of arrays, as tensors; an axis stays a number."""
        if isinstance(argument, list | tuple):
            return [self._tensor(value) for value in argument]
        return argument if isinstance(argument, int) else self._tensor(argument)

    def _tensor(self, value: Any) -> Tensor:
        if isinstance(value, DeviceArray):
            return value.tensor
        array = np.asarray(value)
        if isinstance(value, int | float) and not isinstance(value, np.generic):
            array = array.astype(np.float32 if isinstance(value, float) else np.int64)  # of Python: it widens nothing
        return _constant(array.tobytes(), array.dtype.str, array.shape, self.tensor.device)

    def _index(self, part: Any) -> Any:
        return self._tensor(part) if isinstance(part, list | np.ndarray | DeviceArray) else part


@functools.cache
def _dtype(dtype: str) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


@functools.lru_cache(maxsize=1024)
def _constant(content: bytes, dtype: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """An array on the device, to which it is copied once."""
    return torch.from_numpy(np.frombuffer(content, dtype).reshape(shape).copy()).to(device)
