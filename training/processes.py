"""The processes of one training, which `torchrun` starts, and what they must agree on.

A batch, its noise and its augmentation are functions of (seed, step) alone. So every process draws all of them, takes
the rows of its own share, and learns what one process would from the whole batch. Only the sums of gradients and losses
are exchanged. Dropout is the exception: its masks differ between numbers of processes.

The first process alone writes, prints, validates and evaluates; the others wait for it in their next exchange.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..realtime import ReportedElsewhere

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long a process waits for the others: an evaluation by the first one may take hours. A dead one is noticed."""

LOST = ("closed by peer", "Connection reset", "Broken pipe", "Connection refused")
"""What the messages of gloo say if another process has ended."""

UNUSED = "Expected to have finished reduction in the prior iteration"
"""What DistributedDataParallel says if a parameter had no gradient."""


@dataclass(frozen=True)
class Processes:
    """One process among those of a training: this one."""

    rank: int = 0
    """Its number, from 0."""
    count: int = 1
    """How many there are."""
    local_rank: int = 0
    """Its number among those of its machine."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def own_seed(self) -> tuple[int, ...]:
        """What else decides the numbers that this process draws for itself; nothing for the first one."""
        return () if self.is_first else (self.rank,)

    def device(self, name: str) -> str:
        """The device of this process: for "auto" and "cuda" a GPU of its own, if there are several processes."""
        if self.count > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local_rank}"
        return name

    def shares(self, size: int, passes: int = 1) -> list[slice]:
        """The rows of a batch that this process computes, for each of several passes in turn.

        Raises ValueError unless the rows can be divided evenly.

        >>> Processes(rank=1, count=2).shares(12, passes=2)
        [slice(6, 9, None), slice(9, 12, None)]
        """
        parts = self.count * passes
        if size % parts:
            lower = size // parts * parts
            choices = f"{lower} or {lower + parts}" if lower else f"{parts}"
            raise ValueError(
                f"a batch of {size} windows cannot be divided evenly among {self.count} processes in {passes} passes "
                f"each (accumulate): give batch_size={choices}"
            )
        rows = size // parts
        return [slice(part * rows, (part + 1) * rows) for part in range(self.rank * passes, (self.rank + 1) * passes)]

    def agreed(self, number: int) -> int:
        """The number that the first process has, for all."""
        if self.count == 1:
            return number
        shared = torch.tensor([number])
        dist.broadcast(shared, src=0)
        return int(shared)

    def total(self, x: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.count > 1:
            dist.all_reduce(x)
        return x

    def together(self, prepare: Callable[[], T]) -> T:
        """Prepare something in every process, first in one of each machine, so that the others find what it has cached.

        If one fails, all fail: the first of those that fail raises its own error, and the others are silent.
        """
        if self.count == 1:
            return prepare()
        result, error = None, None
        for is_turn in (self.local_rank == 0, self.local_rank != 0):
            if is_turn:
                try:
                    result = prepare()
                except Exception as raised:
                    error = raised
            failing = self._failing(error)
            if failing and failing[0] == self.rank and error is not None:
                if not self.is_first:
                    error.args = (f"process {self.rank} on {socket.gethostname()}: {error}",)
                raise error
            if failing:
                raise ReportedElsewhere
        return result  # type: ignore[return-value]

    def check_same(self, facts: Mapping[str, object]) -> None:
        """Check that all processes start from the same. facts: what it is, with a remedy -> a value as text.

        Raises ValueError in the first process that has another value than process 0, and ends the others.
        """
        for what, value in facts.items():
            own = int.from_bytes(hashlib.sha256(repr(value).encode()).digest()[:7])
            first = self.agreed(own)
            self.together(partial(_check_equal, own, first, what))

    def _failing(self, error: Exception | None) -> list[int]:
        """The ranks of the processes that have an error."""
        has_failed = torch.zeros(self.count, dtype=torch.int64)
        has_failed[self.rank] = error is not None
        dist.all_reduce(has_failed)
        return [rank for rank, failed in enumerate(has_failed.tolist()) if failed]

    def wait(self) -> None:
        """Wait until every process has come here."""
        self.agreed(0)


def _check_equal(own: int, first: int, what: str) -> None:
    if own != first:
        raise ValueError(f"all processes of a training must have the same {what}")


ALONE = Processes()
"""A training without other processes."""


@contextmanager
def joined() -> Generator[Processes]:
    """Join the processes that torchrun has started with this one; without torchrun there is only this one.

    Raises ConnectionError if another process ends before the training does.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), local_rank)
    except RuntimeError as error:
        if UNUSED in str(error):
            raise ValueError(
                "several processes can train a policy only if its loss depends on all its parameters: set "
                "requires_grad=False on the others, or train in one process"
            ) from error
        if isinstance(error, dist.DistError) or any(words in str(error) for words in LOST):
            raise ConnectionError(
                "another process of this training has ended, so this one ends too: repeat the command to resume from "
                "the last checkpoint"
            ) from error
        raise
    finally:
        dist.destroy_process_group()
