"""Exported graphs, run by OpenVINO on a CPU."""

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
"""Modules that openvino does without where they are missing: a converter of models, and what reports its use."""


def library() -> Any:
    """The package openvino, which reports nothing to anybody. Raises ValueError where it is not installed.

    Its converter, which is not needed here, reports over the network that it was imported, and loads whatever
    frameworks are installed; so both modules are missing while openvino is imported.
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


class _SignalStack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Generator[None]:
    """Leave this thread the stack that its signals are handled on.

    Where a CPU multiplies in tiles (AMX), OpenVINO gives the thread that compiles a graph another one, which has room
    for the registers and hardly for anything else: the next interrupt would end the process with a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


class OpenVinoSession:
    """The graphs `encode.xml` and `denoise.xml` of a folder.

    is_fp32: whether OpenVINO may not choose a lower precision. The graphs are compiled when they are first needed: for
    one row by itself, which is a fifth faster, and for any number of rows.
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
        found = self._request("denoise", is_single=True).get_compiled_model().get_property("INFERENCE_PRECISION_HINT")
        self.precision = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}[found.get_type_name()]

    def run(self, graph: str, inputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The output of a graph; see `Session.run`."""
        request = self._request(graph, is_single=len(inputs[0]) == 1)
        return request.infer(dict(enumerate(inputs)), share_inputs=True)[0]

    def _request(self, graph: str, *, is_single: bool) -> Any:
        if (graph, is_single) not in self._requests:
            model = self._graphs[graph].clone()
            if is_single:
                ports = [(port, port.get_partial_shape()) for port in model.inputs]
                model.reshape({port: [each.get_length() if each.is_static else 1 for each in at] for port, at in ports})
            with signal_stack_kept():
                compiled = self._core.compile_model(model, "CPU", self._options)
            self._requests[graph, is_single] = compiled.create_infer_request()
        return self._requests[graph, is_single]
