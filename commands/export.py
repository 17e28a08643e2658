"""`recede export`: a trained policy as a folder that needs no PyTorch."""

from __future__ import annotations

from ..configs.checkpoints import ExportConfig


def run(config: ExportConfig) -> None:
    """Export, and say how far the engine is from PyTorch, how fast it is, and what to do next."""
    from ..checkpoints.exporting import export

    print(export(config))
    print(f"{config.out}: exported from {config.run}")
    print(f"next: recede evaluate {config.out}{config.again}")
