"""Files of weights that others have written: tensors by name, and nothing that could run code."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor


def read_state_dict(path: Path, *, remedy: str) -> dict[str, Tensor]:
    """The tensors by name in a file of safetensors or torch.

    remedy: what to do about a file that holds anything else, for which ValueError is raised; no code in it is run.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(path.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles, of which what is not refused is known to be harmless
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # bytes that are no pickle can look like any wrong one
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} must hold tensors by name and nothing that runs code ({reason}): {remedy}") from None
    if not isinstance(found, Mapping) or not all(isinstance(each, Tensor) for each in found.values()):
        raise ValueError(f"{path} must hold tensors by name, got {type(found).__name__} of something else: {remedy}")
    return {str(name): tensor for name, tensor in found.items()}
