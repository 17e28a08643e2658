"""Torch devices by name."""

from __future__ import annotations

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
