"""Torch devices by name, and the names of the processors behind them."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device(name: str) -> torch.device:
    """The device with this name. "auto" is the GPU, or the CPU if there is no GPU.

    Raises ValueError if torch cannot use the device on this machine.
    """
    import torch

    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device must be auto or one that torch can use here, got {name!r}: {reason}") from None


def processor(device: torch.device) -> str:
    """The processor that a time was measured on, such as "AMD EPYC (family 25, model 17), AVX512, 2 threads".

    The threads are those of torch, and the instructions are those that it uses.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about = _cpu()
    name = about.get("model name", platform.processor() or platform.machine())
    if "model" in about:
        name += f" (family {about['cpu family']}, model {about['model']})"
    matrices = " and AMX" if "amx_tile" in about.get("flags", "") else ""
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}{matrices}, {torch.get_num_threads()} threads"


def is_bf16_fast(device: torch.device) -> bool:
    """Whether matrix products in 16 bits are faster than in 32. A CPU without instructions for them is much slower."""
    instructions = _cpu().get("flags", "").split()
    return device.type != "cpu" or not {"amx_bf16", "avx512_bf16"}.isdisjoint(instructions)


def _cpu() -> dict[str, str]:
    """What Linux says of the first processor; empty on other systems."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text() if path.exists() else ""
    return dict(re.findall(r"^(.+?)\s*: (.*)$", lines.partition("\n\n")[0], re.MULTILINE))
