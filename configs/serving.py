"""A policy on the network: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from .checks import known_engine, not_negative, positive
from .packages import CommandConfig


@dataclass(kw_only=True)
class ServeConfig(CommandConfig):
    """Serve a policy to robots over the network; `recede control ws://host:port` is led by it.

    run: a run folder, a checkpoint folder, or a folder of `recede export`, which has its sampler and its engine
    already. checkpoint: which of a run's, "last" or "best". sampler: to denoise with, where it is not the policy's own.
    engine: what runs the policy, as in `recede evaluate`. device: of torch, or auto for a GPU where there is one. seed:
    of the noise, beside the number of each session.

    host: the address of this machine to listen at; any but the loopback needs a token in the environment variable
    RECEDE_TOKEN, which clients must then have too. port: 0 takes a free one. max_sessions: robots that are served at
    once. max_batch: sessions that are predicted together.
    """

    run: str
    checkpoint: str = "last"
    sampler: Any = None
    engine: str | None = None
    device: str = "auto"
    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 8765
    max_sessions: int = 16
    max_batch: int = 8

    def __post_init__(self) -> None:
        known_engine(self.engine)
        positive(self, "max_sessions", "max_batch")
        not_negative(self, "seed")
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must lie between 0 and 65535, got {self.port}")

    @property
    def is_open(self) -> bool:
        """Whether other machines may reach it."""
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"
