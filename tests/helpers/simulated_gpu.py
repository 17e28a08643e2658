"""A simulated GPU: tensors "on cuda" are CPU tensors whose storage is labelled. It needs no GPU and no CUDA build.

    with SimulatedGPU() as gpu:
        train(configuration)                  # device=auto and device=cuda are this GPU
    assert gpu.waits() == {...}

Every number is the one of the CPU, so a computation on the device must give the same bytes as on the CPU. Errors:
- `DeviceMismatch`: an operation gets tensors of different devices (a single number on the CPU may join elementwise
  operations, as with CUDA; `copy_` and an index from the CPU cross over, and are noted);
- `TypeError`: `.numpy()` of a tensor on the GPU; `RuntimeError`: a random generator of another device;
- `CaptureError`: a CUDA graph captures something that it must not, or reads memory that was freed.

Whatever makes the host wait for the device is an `Event` with the file that causes it: `.item()`, `bool()`,
`.tolist()`, `nonzero`, boolean masks, and copies between host and device.

A `TorchFunctionMode` answers questions about devices; a `TorchDispatchMode` sees every operation, backward passes
included, carries the labels on, and records captures. A replay runs the record on the recorded buffers.

Not simulated: kernels and their rounding, streams, asynchrony, the limits of memory, and CUDA's own lists of autocast.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")

SIZED_BY_VALUES = {
    *("aten::nonzero", "aten::masked_select", "aten::unique_consecutive", "aten::_unique2", "aten::unique_dim"),
    *("aten::bincount", "aten::repeat_interleave"),
}
"""Operations whose result has a size that the host must first learn from the device."""
READS = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"}
"""Operations whose result the host reads."""
TAKES_NUMBERS = {"aten::where", "aten::masked_fill", "aten::masked_fill_", "aten::fill_"}
"""Operations beside the elementwise ones that a single number on the CPU may join."""
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class DeviceMismatch(RuntimeError):
    """Expected all tensors to be on the same device."""


class CaptureError(RuntimeError):
    """Operation not permitted when a stream is capturing."""


class Event(NamedTuple):
    what: str
    """upload, download, read, size, synchronize, or number (from the CPU, for which nothing waits)."""
    where: str
    """The file of the repository that causes it."""
    waits: bool


def place(x: Tensor) -> torch.device:
    """The device that a tensor is labelled with."""
    with torch._C.DisableTorchFunction():
        return getattr(x.untyped_storage(), "place", CPU)


def label(x: Tensor, device: torch.device) -> Tensor:
    """Put a tensor's storage on a device."""
    if device.type == "cuda":
        with torch._C.DisableTorchFunction():
            x.untyped_storage().place = device
    return x


def named(device: Any) -> torch.device:
    """A device with its number: "cuda" is the first."""
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return torch.device("cuda", 0) if device.type == "cuda" and device.index is None else device


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors among arguments or results; several times as fast as torch's own trees."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [x for part in tree for x in tensors_in(part)] if isinstance(tree, list | tuple) else []


def caller() -> str:
    """The innermost file of the repository on the stack, but for this one."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path != __file__ and path.startswith(str(ROOT)) and "site-packages" not in path:
            return Path(path).relative_to(ROOT).as_posix()
        frame = frame.f_back
    return "?"


class Generator(torch.Generator):
    """A random generator that knows its device; its numbers are those of the CPU."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        made.place = named(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place


def check_generator(generator: torch.Generator | None, device: torch.device) -> None:
    if generator is not None and generator.device.type != device.type:
        raise RuntimeError(f"Expected a '{device}' device type for generator but found '{generator.device}'")


class Functions(TorchFunctionMode):
    """Answers questions about devices, and sees whatever would read a tensor's memory without an operation."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if name == "__get__":
            if func == Tensor.device.__get__:
                return place(args[0])
            if func == Tensor.is_cuda.__get__:
                return place(args[0]) != CPU
            return func(*args, **kwargs)
        if first is not None and place(first) != CPU:
            if name in ("numpy", "__array__", "__dlpack__"):
                raise TypeError(f"can't convert {place(first)} device type tensor to numpy. Use Tensor.cpu() first")
            if name == "tolist":
                self.gpu.note("read")
            if name == "__deepcopy__":
                with self.gpu.labelling(CPU):
                    return label(func(*args, **kwargs), place(first))
        if func in (Tensor.cpu, Tensor.cuda):
            return self.gpu.moved(first, CPU if func is Tensor.cpu else named(*(args[1:] or ["cuda"])))
        if func is Tensor.to:
            return self._to(*args, **kwargs)
        if kwargs.get("device") is not None:
            return self._made(func, args, kwargs)
        places = {place(x) for x in tensors_in((args, kwargs))} - {CPU}
        device = places.pop() if places else None
        check_generator(kwargs.get("generator"), device or CPU)
        with self.gpu.labelling(device):
            return func(*args, **kwargs)

    def _to(self, x: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            return self.gpu.moved(x, place(args[0]), args[0].dtype)
        device, dtype, is_non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        return self.gpu.moved(x, place(x) if device is None else named(device), dtype, waits=not is_non_blocking)

    def _made(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """A new tensor on the device that a keyword names."""
        device = named(kwargs["device"])
        check_generator(kwargs.get("generator"), device)
        kwargs["device"] = CPU
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            if isinstance(args[0], Tensor):
                return self.gpu.moved(args[0], device, kwargs.get("dtype"))
            return self.gpu.moved(func(*args, **kwargs), device)
        with self.gpu.labelling(device):
            return label(func(*args, **kwargs), device)


class Operations(TorchDispatchMode):
    """Sees every operation: checks its devices, labels its results, and records it in a capture."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs, name = self.gpu, kwargs or {}, func._schema.name
        tensors = tensors_in((args, kwargs))
        places = {place(x) for x in tensors} - {CPU} or ({gpu.labelled} - {None} if not tensors else set())
        if gpu.labelled == CPU or not places - {CPU} or name.startswith("prim::"):
            return func(*args, **kwargs)
        device = next(iter(places))
        if name == "aten::copy_" and place(args[0]) != place(args[1]):
            gpu.note("upload" if place(args[0]) != CPU else "download")
            return func(*args, **kwargs)
        if name in INDEXING:
            self._check_indices(args[0], [x for x in args[1] if x is not None])
        else:
            self._check_places(func, device, tensors)
        if name in READS | SIZED_BY_VALUES:
            gpu.note("read" if name in READS else "size")
        gpu.num_operations += 1
        result = func(*args, **kwargs)
        outputs = [label(x, device) for x in tensors_in(result)]
        if gpu.capturing is not None:
            gpu.capturing.record(func, args, kwargs, outputs, tensors)
        return result

    def _check_places(self, func: Any, device: torch.device, tensors: list[Tensor]) -> None:
        for x in tensors:
            if place(x) == device:
                continue
            takes_numbers = torch.Tag.pointwise in func.tags or func._schema.name in TAKES_NUMBERS
            if place(x) != CPU or x.ndim or not takes_numbers:
                raise DeviceMismatch(
                    f"Expected all tensors to be on the same device, but found at least two devices, {device} and "
                    f"{place(x)}! ({func}, a tensor of shape {tuple(x.shape)}, in {caller()})"
                )
            self.gpu.note("number", waits=False)

    def _check_indices(self, values: Tensor, indices: list[Tensor]) -> None:
        for index in indices:
            if place(index) not in (CPU, place(values)):
                raise DeviceMismatch(
                    f"indices should be either on cpu or on the same device as the indexed tensor ({place(values)}), "
                    f"in {caller()}"
                )
            if place(index) != place(values):
                self.gpu.note("upload")
            if index.dtype in (torch.bool, torch.uint8):
                self.gpu.note("size")


class Buffer(NamedTuple):
    """Memory that a captured operation reads and did not make. The graph does not keep it alive."""

    storage: StorageWeakRef
    dtype: torch.dtype
    layout: tuple[Any, Any, Any]
    where: str

    def tensor(self) -> Tensor:
        storage: Any = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        if storage is None:
            raise CaptureError(f"a CUDA graph reads memory that was freed since its capture in {self.where}")
        return torch.empty(0, dtype=self.dtype).set_(storage, *self.layout)


class Graph:
    """A CUDA graph: operations, and the buffers that they were recorded with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.operations: list[tuple[Any, Any, Any, list[Tensor | None]]] = []
        self._own: set[int] = set()
        self.is_valid = True

    def record(self, func: Any, args: Any, kwargs: Any, outputs: list[Tensor], inputs: list[Tensor]) -> None:
        before = {x.untyped_storage()._cdata for x in inputs}
        is_new = [x.untyped_storage()._cdata not in before for x in outputs]
        held = tree_map(lambda x: self._held(x) if isinstance(x, Tensor) else x, (tuple(args), dict(kwargs)))
        self._own |= {x.untyped_storage()._cdata for x, new in zip(outputs, is_new, strict=True) if new}
        if func._schema.is_mutable or any(is_new) or not outputs:  # anything else is a view
            kept = [x if new else None for x, new in zip(outputs, is_new, strict=True)]
            self.operations.append((func, *held, kept))

    def _held(self, x: Tensor) -> Tensor | Buffer:
        storage = x.untyped_storage()
        if storage._cdata in self._own:
            return x  # a graph keeps its own pool of memory
        return Buffer(StorageWeakRef(storage), x.dtype, (x.storage_offset(), x.size(), x.stride()), caller())

    def forget(self) -> None:
        """Fill the results with NaN: a capture computes nothing."""
        with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
            for x in (x for *_, outputs in self.operations for x in outputs if x is not None):
                if x.is_floating_point():
                    x.fill_(torch.nan)

    def replay(self) -> None:
        with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
            for func, args, kwargs, outputs in self.operations:
                leaves, shape = tree_flatten((args, kwargs), is_leaf=lambda x: isinstance(x, Buffer))
                leaves = [x.tensor() if isinstance(x, Buffer) else x for x in leaves]
                args, kwargs = tree_unflatten(leaves, shape)
                for old, new in zip(outputs, tensors_in(func(*args, **kwargs)), strict=True):
                    if old is not None:
                        old.copy_(new)


class Stream:
    """Streams do nothing, but know their GPU."""

    def __init__(self, device: Any = None, **kwargs: Any) -> None:
        self.device = named("cuda" if device is None else device)

    def wait_stream(self, other: Any) -> None: ...
    def synchronize(self) -> None: ...
    def is_capturing(self) -> bool:
        return torch.cuda.is_current_stream_capturing()


class Moment:
    """A CUDA event: a moment in the work of the GPU, for which every operation takes a millisecond."""

    def __init__(self, gpu: SimulatedGPU, *, enable_timing: bool = False) -> None:
        self.gpu = gpu

    def record(self, stream: Any = None) -> None:
        self.at = self.gpu.num_operations

    def synchronize(self) -> None: ...
    def elapsed_time(self, end: Moment) -> float:
        return float(end.at - self.at)


class SimulatedGPU:
    """While the block lasts, torch has two GPUs, in this thread and in those that start inside it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        """What happened since `clear`."""
        self.graphs: list[Graph] = []
        """Every CUDA graph that was captured."""
        self.num_operations = 0
        """Operations on the GPU."""
        self._capture: tuple[Graph, int, str] | None = None  # with its thread and its error mode
        self._first_stream: Stream | None = None
        self.sync_mode: int | str = 0
        self._local = threading.local()

    def waits(self) -> Counter[str]:
        """File -> how often it made the host wait for the device."""
        return Counter(event.where for event in self.events if event.waits)

    def clear(self) -> None:
        self.events.clear()

    @property
    def capturing(self) -> Graph | None:
        """The graph that this thread captures."""
        return self._capture[0] if self._capture is not None and self._capture[1] == threading.get_ident() else None

    @property
    def labelled(self) -> torch.device | None:
        """The device of tensors that are being made from nothing; the CPU while tensors move."""
        return getattr(self._local, "labelled", None)

    @contextlib.contextmanager
    def labelling(self, device: torch.device | None) -> Any:
        before, self._local.labelled = self.labelled, device or self.labelled
        try:
            yield
        finally:
            self._local.labelled = before

    @contextlib.contextmanager
    def _device(self, device: Any) -> Any:
        before, self._local.current = torch.cuda.current_device(), named(device).index
        try:
            yield
        finally:
            self._local.current = before

    def note(self, what: str, *, waits: bool = True) -> None:
        """Note an event. Raises CaptureError if it must not happen now."""
        if self._capture is not None and what != "number":
            graph, _, mode = self._capture
            if self.capturing is not None or mode == "global":
                graph.is_valid = False
                raise CaptureError(f"operation not permitted when stream is capturing ({what} in {caller()})")
        if waits and self.sync_mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        self.events.append(Event(what, caller(), waits))

    def moved(self, x: Tensor, device: torch.device, dtype: Any = None, *, waits: bool = True) -> Tensor:
        """The tensor on that device."""
        if place(x) == device:
            return x if dtype in (None, x.dtype) else x.to(dtype=dtype)
        self.note("download" if device == CPU else "upload", waits=waits)
        with self.labelling(CPU):
            return label(x.to(dtype=dtype or x.dtype, copy=True), device)

    @contextlib.contextmanager
    def _graph(self, graph: Graph, *args: Any, capture_error_mode: str = "global", **kwargs: Any) -> Any:
        stream = kwargs.get("stream")
        if stream is None:  # torch's own is of the GPU that it first captured on
            stream = self._first_stream = self._first_stream or Stream(torch.cuda.current_device())
        if stream.device.index != torch.cuda.current_device():
            raise CaptureError(f"a stream of {stream.device} cannot capture on cuda:{torch.cuda.current_device()}")
        self._capture = graph, threading.get_ident(), capture_error_mode
        self.graphs.append(graph)
        drawn = torch.get_rng_state()
        try:
            yield
        finally:
            self._capture = None
            torch.set_rng_state(drawn)  # a capture draws nothing
        if not graph.is_valid:
            raise CaptureError("operation failed due to a previous error during capture")
        graph.forget()

    def _replacements(self) -> dict[tuple[Any, str], Any]:
        gpu, run, autocast, grouped = (
            self,
            threading.Thread.run,
            torch.autocast,
            torch._C._group_tensors_by_device_and_dtype,
        )

        def run_thread(self: threading.Thread) -> None:
            with Operations(gpu), Functions(gpu):
                run(self)

        def grouped_tensors(*args: Any, **kwargs: Any) -> Any:
            return {
                (place(lists[0][0]) if lists[0] and lists[0][0] is not None else device, dtype): (lists, indices)
                for (device, dtype), (lists, indices) in grouped(*args, **kwargs).items()
            }

        cuda, accelerator = torch.cuda, torch.accelerator
        return {
            (cuda, "is_available"): lambda: True,
            (cuda, "device_count"): lambda: 2,
            (cuda, "current_device"): lambda: getattr(gpu._local, "current", 0),
            (cuda, "get_device_name"): lambda *_: "a simulated GPU",
            (cuda, "reset_peak_memory_stats"): lambda *_: None,
            (cuda, "max_memory_allocated"): lambda *_: 0,
            (cuda, "mem_get_info"): lambda *_: (64 * 2**30, 80 * 2**30),
            (cuda, "is_current_stream_capturing"): lambda: gpu.capturing is not None,
            (cuda, "synchronize"): lambda *_: gpu.note("synchronize"),
            (cuda, "get_sync_debug_mode"): lambda: gpu.sync_mode,
            (cuda, "set_sync_debug_mode"): partial(setattr, gpu, "sync_mode"),
            (cuda, "manual_seed_all"): lambda seed: None,
            (cuda, "Event"): partial(Moment, gpu),
            (cuda, "Stream"): lambda *args, **kwargs: Stream(torch.cuda.current_device()),
            (cuda, "current_stream"): Stream,
            (cuda, "stream"): lambda stream: contextlib.nullcontext(),
            (cuda, "device"): self._device,
            (cuda, "CUDAGraph"): Graph,
            (cuda, "graph"): self._graph,
            (accelerator, "current_accelerator"): lambda check_available=False: torch.device("cuda"),
            (accelerator, "is_available"): lambda: True,
            (accelerator, "current_stream"): Stream,
            (threading.Thread, "run"): run_thread,
            (torch, "Generator"): Generator,
            (torch, "autocast"): lambda kind, *args, **kwargs: autocast("cpu", *args, **kwargs),
            (torch._C, "_group_tensors_by_device_and_dtype"): grouped_tensors,
        }

    def __enter__(self) -> SimulatedGPU:
        self._stack = contextlib.ExitStack()
        for (owner, name), value in self._replacements().items():
            self._stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        self._stack.enter_context(Operations(self))
        self._stack.enter_context(Functions(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
