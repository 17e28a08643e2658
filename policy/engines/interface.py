"""The types that all engines share: arrays of numpy in, arrays of numpy out.

Shapes: B rows; To, Tp observation and prediction horizon; Da size of the action; L, Dz rows and size of what is
denoised, Tp and Da for normalised actions; N denoising steps. The condition is (B, ...), in a shape that the network
chooses.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from ...specification import Horizons, Specification
from ..denoising.guidance import Guidance

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""A stream's name -> (B, To, ...), in the units of the specification, the current step last."""

ENGINES = {
    "eager": "PyTorch, operation by operation",
    "cuda_graph": "PyTorch on an NVIDIA GPU, captured once and replayed; weights in bf16",
    "onnx": "ONNX Runtime on a CPU, fp32",
    "openvino": "OpenVINO on a CPU, in the precision that it chooses there: bf16 if the CPU multiplies it fast",
    "openvino_fp32": "OpenVINO on a CPU, fp32",
}
"""Engine -> what runs the policy."""

FORMATS = {"onnx": "onnx", "openvino": "openvino", "openvino_fp32": "openvino"}
"""Engine -> the format of its exported graphs, which is also the name of the pip extra."""


class Engine(Protocol):
    """A trained policy, ready to predict. `check_engine` tests an engine.

    Only one thread may use it at a time, unless its name is "eager".
    """

    name: str
    """One of `ENGINES`, or a name of your own."""

    precision: str
    """The precision of the network's multiplications: "fp32", "fp16" or "bf16"."""

    specification: Specification
    horizons: Horizons

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(draws, L, Dz) of the standard normal noise of one prediction."""
        ...

    def predict(self, observation: Arrays, noise: NDArray[Any], guidance: Sequence[Guidance] = ()) -> NDArray[Any]:
        """An action chunk (B, Tp, Da) in the units of the specification, from noise (draws, B, L, Dz).

        guidance: see `Policy.predict`. A prefix without weight leaves the chunk unchanged, bit for bit. Raises
        ValueError if an input does not fit, or if guidance needs gradients and the engine has none.
        """
        ...


class Session(Protocol):
    """Runs the two exported graphs, "encode" and "denoise"."""

    name: str
    precision: str

    def run(self, graph: str, inputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The output of a graph. The first input sets the number of rows."""
        ...


def num_threads() -> int:
    """The number of threads for an engine, from `OMP_NUM_THREADS`, which PyTorch uses too; 0 stands for all cores."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() else 0


def check_without_gradient(guidance: Sequence[Guidance], name: str) -> None:
    """Raises ValueError if guidance needs gradients."""
    if any(guide.needs_gradient for guide in guidance):
        raise ValueError(
            f"exact guidance needs the gradient of the network, which engine={name} does not have: "
            "use engine=eager, or exact=false"
        )
