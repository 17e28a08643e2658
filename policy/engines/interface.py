"""What all engines share, as types: arrays of numpy in, arrays of numpy out, whatever computes between.

Shapes: B rows; To, Tp observation and prediction horizon; Da size of the action; N denoising steps; (B, ...) what a
network makes of the conditioning, which is its own affair.
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
    "openvino": "OpenVINO on a CPU, in the precision that it chooses there: bf16 where the CPU multiplies it fast",
    "openvino_fp32": "OpenVINO on a CPU, fp32",
}
"""Name -> what runs the policy."""

FORMATS = {"onnx": "onnx", "openvino": "openvino", "openvino_fp32": "openvino"}
"""Engines that run exported graphs -> the format of their files; so is the extra called that installs its packages."""


class Engine(Protocol):
    """A trained policy, ready to predict. One thread may use it at a time.

    name: one of `ENGINES`. precision: in which the network is multiplied, "fp32" or "bf16".
    """

    name: str
    precision: str
    specification: Specification
    horizons: Horizons

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """What one prediction draws: (number of draws, L, Dz), standard normal."""
        ...

    def predict(self, observation: Arrays, noise: NDArray[Any], guidance: Sequence[Guidance] = ()) -> NDArray[Any]:
        """An action chunk (B, Tp, Da) in the units of the specification, from noise (draws, B, L, Dz).

        guidance: see `Policy.predict`; a prefix without weight changes not a bit. Raises ValueError for what does not
        fit, and for guidance that needs gradients if there are none.
        """
        ...


class Session(Protocol):
    """Whatever runs the two exported graphs, "encode" and "denoise"."""

    name: str
    precision: str

    def run(self, graph: str, inputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The one output of a graph; the first of the inputs has the rows."""
        ...


def num_threads() -> int:
    """Threads that an engine may use: `OMP_NUM_THREADS`, which PyTorch heeds too; 0, as many as there are cores."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() else 0


def check_without_gradient(guidance: Sequence[Guidance], name: str) -> None:
    """Raise ValueError for guidance that needs gradients."""
    if any(guide.needs_gradient for guide in guidance):
        raise ValueError(
            f"exact guidance needs the gradient of the network, which engine={name} does not have: "
            "use engine=eager, or exact=false"
        )
