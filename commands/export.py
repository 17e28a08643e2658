"""`recede export`: export a policy so that it runs without PyTorch."""

from __future__ import annotations

from ..configs.checkpoints import ExportConfig
from .next_lines import print_evaluate_known


def run(config: ExportConfig) -> None:
    """Export; print the engine's deviation from PyTorch, its latency and the next command."""
    from ..checkpoints.exporting import export

    print(export(config))
    print(f"{config.out}: exported from {config.run}")
    print_evaluate_known(config.out, config.imports)
