"""`recede import-checkpoint`: what other implementations have trained, as a checkpoint."""

from __future__ import annotations

from ..configs.checkpoints import ImportCheckpointConfig


def run(config: ImportCheckpointConfig) -> None:
    """Convert, and say what to do next."""
    from ..checkpoints.importing import import_checkpoint

    path = import_checkpoint(config)
    print(f"{path}: imported from {config.source}")
    if config.task:
        print(f"next: recede evaluate {path}{config.again}")
