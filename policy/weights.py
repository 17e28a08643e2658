"""Weights: those in files of other libraries, tensors by name and nothing that could run code; and their digests."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..files import interpreting, read_json_with_digest, read_tensors, write_json_with_digest, write_tensors


@contextmanager
def at_most_parameters(most: int) -> Generator[None]:
    """Raise ValueError as soon as modules that are built meanwhile have more numbers, before these are drawn."""
    count = 0

    def add(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal count
        count += 0 if parameter is None else parameter.numel()
        if count > most:
            raise ValueError(f"its sizes need more than {most} numbers, far more than its weights have")

    hook = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        hook.remove()


def read_state_dict(path: Path, *, remedy: str) -> dict[str, Tensor]:
    """The tensors by name in a safetensors or torch file. No code in the file is run.

    remedy: the end of the error message. Raises ValueError if the file holds anything but tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(path.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles: weights_only refuses the harmful ones
            weights: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError:  # torch's reason is its advice to trust the file
        raise ValueError(f"{path} must hold tensors by name and nothing that runs code: {remedy}") from None
    except Exception as error:  # bytes that are no pickle can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} must hold tensors by name and nothing that runs code ({reason}): {remedy}") from None
    if not isinstance(weights, Mapping) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ValueError(f"{path} must hold tensors by name, got {type(weights).__name__} of something else: {remedy}")
    return {str(name): tensor for name, tensor in weights.items()}


def digest_of(*modules: Any) -> str:
    """The SHA-256 of the tensors of modules, in order: of their names and their numbers."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def write_part(folder: Path, name: str, tensors: Mapping[str, Tensor], **content: Any) -> None:
    """Write `NAME.safetensors` and `NAME.json`, which holds its digest, into an existing folder. content: JSON."""
    digest = write_tensors(folder / f"{name}.safetensors", tensors)
    write_json_with_digest(folder / f"{name}.json", {**content, "weights_sha256": digest})


def read_part(folder: Path, name: str, *, remedy: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content and the tensors of `write_part`.

    Raises FileNotFoundError if there are none, and ValueError if they are damaged.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {name}: {remedy}")
    content = read_json_with_digest(path, remedy)
    with interpreting(path, remedy):
        return content, read_tensors(folder / f"{name}.safetensors", content["weights_sha256"])
