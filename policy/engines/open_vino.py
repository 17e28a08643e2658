"""Run exported graphs by OpenVINO on a CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .interface import num_threads

HIDDEN = ("openvino.tools", "openvino_telemetry")
"""Modules that openvino does not need: a converter of models, and the module that reports its use."""


def library() -> Any:
    """The package openvino, without its telemetry. Raises ValueError if it is not installed.

    Its converter reports over the network that it was imported, and loads all installed frameworks. So both modules are
    hidden while openvino is imported.
    """
    if "openvino" not in sys.modules:
        sys.modules.update(dict.fromkeys(HIDDEN))  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise ValueError("engine=openvino needs OpenVINO: pip install 'recede[openvino]'") from None
    finally:
        for name in HIDDEN:
            if name in sys.modules and sys.modules[name] is None:  # pyright: ignore[reportUnnecessaryComparison]
                del sys.modules[name]
    return openvino


class SignalStack(ctypes.Structure):
    """The struct `stack_t` of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def restored_signal_stack() -> Generator[None]:
    """Restore this thread's signal stack at the end of the block.

    On a CPU with AMX, OpenVINO replaces the signal stack of the thread that compiles a graph. The new stack is hardly
    larger than the registers: the next interrupt would end the process with a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


class OpenVinoSession:
    """Runs the graphs `encode.xml` and `denoise.xml` of a folder.

    is_fp32: whether to forbid a lower precision. Each graph is compiled on first use, once for a single row, which is a
    fifth faster, and once for any number of rows. Raises ValueError if OpenVINO is not installed.
    """

    def __init__(self, folder: Path, *, is_fp32: bool) -> None:
        openvino = library()
        self._core = openvino.Core()
        self._options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads := num_threads():
            self._options["INFERENCE_NUM_THREADS"] = threads
        if is_fp32:
            self._options["INFERENCE_PRECISION_HINT"] = "f32"
        self.name = "openvino_fp32" if is_fp32 else "openvino"
        self._graphs = {name: self._core.read_model(folder / f"{name}.xml") for name in ("encode", "denoise")}
        self._requests: dict[tuple[str, bool], Any] = {}
        compiled = self._request("denoise", is_single=True).get_compiled_model()
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}[precision]

    def run(self, graph: str, inputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The output of a graph; see `Session.run`."""
        request = self._request(graph, is_single=len(inputs[0]) == 1)
        return request.infer(dict(enumerate(inputs)), share_inputs=True)[0]

    def _request(self, graph: str, *, is_single: bool) -> Any:
        if (graph, is_single) not in self._requests:
            model = self._graphs[graph].clone()
            if is_single:
                shapes = [(port, port.get_partial_shape()) for port in model.inputs]
                model.reshape(
                    {port: [size.get_length() if size.is_static else 1 for size in shape] for port, shape in shapes}
                )
            with restored_signal_stack():
                compiled = self._core.compile_model(model, "CPU", self._options)
            self._requests[graph, is_single] = compiled.create_infer_request()
        return self._requests[graph, is_single]
