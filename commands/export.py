"""`recede export`: export a policy so that it runs without PyTorch."""

from __future__ import annotations

from ..configs.checkpoints import ExportConfig
from ..configs.notation import shown


def run(config: ExportConfig) -> None:
    """Export; print the engine's deviation from PyTorch, its latency and the next command."""
    from ..checkpoints.exporting import export

    print(export(config))
    print(f"{config.out}: exported from {config.run}")
    print(f"next: {shown('evaluate', config.out, imports=config.imports)}")
