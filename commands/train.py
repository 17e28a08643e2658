"""`recede train`: learn a policy from a store of demonstrations; the same command resumes."""

from __future__ import annotations

from ..configs.schema import TrainConfig


def run(config: TrainConfig) -> None:
    """Train, and say what to do next."""
    from ..training.loop import train

    path = train(config)
    print(f"trained {config.policy.__class__.__name__.removesuffix('Config').lower()} policy: {path}")
    print(f"next: recede evaluate {config.out}")
