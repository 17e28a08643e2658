"""How much a training computes, and what share of the device's peak that is.

FLOPs are the floating-point operations of matrix products, convolutions and attention in the forward and the backward
pass; a multiplication and an addition are two. What gradient checkpointing computes again does not count, so the share
of the peak is the model FLOPs utilisation of Chowdhery et al. (2022, appendix B).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..policy.interface import Lesson
from ..policy.networks import cpu_training


class Peak(NamedTuple):
    """Dense TFLOP/s of a GPU: without sparsity, sums in fp32."""

    fp32: float
    tf32: float
    """Products of numbers that are rounded to 10 bits, which torch may use for convolutions in fp32."""
    bf16: float


H100, H100_NVL, A100 = Peak(67, 494.5, 989.5), Peak(60, 417.5, 835.5), Peak(19.5, 156, 312)

PEAKS = {
    "NVIDIA H200 NVL": H100_NVL,
    "NVIDIA H200": H100,
    "NVIDIA H100 80GB HBM3": H100,
    "NVIDIA H100 NVL": H100_NVL,
    "NVIDIA H100 PCIe": Peak(51, 378, 756.5),
    "NVIDIA A100-SXM4-40GB": A100,
    "NVIDIA A100-SXM4-80GB": A100,
    "NVIDIA A100-PCIE-40GB": A100,
    "NVIDIA A100 80GB PCIe": A100,
    "NVIDIA L40S": Peak(91.6, 183, 362.05),
    "NVIDIA L4": Peak(30.3, 60, 121),
    "NVIDIA A10": Peak(31.2, 62.5, 125),
    "NVIDIA GeForce RTX 4090": Peak(82.6, 82.6, 165.2),
    "NVIDIA GeForce RTX 3090": Peak(35.6, 35.6, 71),
}
"""Name of a GPU, as torch gives it -> its peaks.

NVIDIA's data sheets of the H200, H100, A100, L40S, L4 and A10, whose figures with sparsity are halved; the RTX 4090
from appendix A of "NVIDIA Ada GPU Architecture", the RTX 3090 from that of "NVIDIA Ampere GA102 GPU Architecture".
"""


def peak(device: torch.device, precision: str) -> float | None:
    """TFLOP/s that the device can reach at most; None if it is not in `PEAKS`.

    precision: of `TrainConfig`. In fp32 it is the peak of TF32 if torch may use that for convolutions.
    """
    peaks = PEAKS.get(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if peaks is None or precision == "bf16":
        return peaks and peaks.bf16
    return peaks.tf32 if torch.backends.cudnn.allow_tf32 else peaks.fp32


def loss_flops(policy: Any, lesson: Lesson) -> int:
    """FLOPs of the loss of a lesson and of its gradient. No gradient is set.

    Torch's layers are counted on every device, so the number is the same on all of them.
    """
    learned = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    with FlopCounterMode(display=False) as counter, cpu_training.left_out(), sdpa_kernel(SDPBackend.MATH):
        torch.autograd.grad(policy.loss(lesson).mean(), learned, allow_unused=True)
    return counter.get_total_flops()
