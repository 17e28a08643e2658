"""`recede import-checkpoint`: convert a policy that another library trained."""

from __future__ import annotations

from ..configs.checkpoints import ImportCheckpointConfig
from ..configs.notation import shown


def run(config: ImportCheckpointConfig) -> None:
    """Convert, and print the next command."""
    from ..checkpoints.importing import import_checkpoint

    path = import_checkpoint(config)
    print(f"{path}: imported from {config.source}")
    if config.task:
        print(f"next: {shown('evaluate', str(path), imports=config.imports)}")
