"""`recede download`: download published demonstrations."""

from __future__ import annotations

from pathlib import Path

from ..configs.datasets import DownloadConfig
from ..envs.catalogue import load_task
from .next_lines import print_train


def run(config: DownloadConfig) -> None:
    """Download, check, and print the next command."""
    from ..datasets.download import download

    path = Path(config.out or f"data/{config.name}.zarr")
    published = download(config.name, path, url=config.url)
    print(f"{path}: {published.source}")
    print_train(config.name, str(path), config.imports, load_task(config.name).specification)
