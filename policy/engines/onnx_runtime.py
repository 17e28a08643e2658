"""Run exported graphs by ONNX Runtime on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .interface import num_threads


class OnnxSession:
    """Runs the graphs `encode.onnx` and `denoise.onnx` of a folder in fp32, for any number of rows.

    Raises ValueError if ONNX Runtime is not installed.
    """

    name, precision = "onnx", "fp32"

    def __init__(self, folder: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ValueError("engine=onnx needs ONNX Runtime: pip install 'recede[onnx]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads()
        options.log_severity_level = 3  # errors
        # Threads that spin until the next chunk would take time from the control loop.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._graphs: dict[str, Any] = {
            name: onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
            for name in ("encode", "denoise")
        }
        self._inputs = {
            name: [argument.name for argument in graph.get_inputs()] for name, graph in self._graphs.items()
        }

    def run(self, graph: str, inputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The output of a graph; see `Session.run`."""
        return self._graphs[graph].run(None, dict(zip(self._inputs[graph], inputs, strict=True)))[0]
