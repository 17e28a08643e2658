"""`recede import-checkpoint`: convert a policy that another library trained."""

from __future__ import annotations

from ..configs.checkpoints import ImportCheckpointConfig
from .next_lines import print_evaluate


def run(config: ImportCheckpointConfig) -> None:
    """Convert, and print the next command."""
    from ..checkpoints.importing import import_checkpoint

    path = import_checkpoint(config)
    print(f"{path}: imported from {config.source}")
    print_evaluate(str(path), config.task, config.imports)
