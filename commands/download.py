"""`recede download`: download published demonstrations."""

from __future__ import annotations

from pathlib import Path

from ..configs.datasets import DownloadConfig
from ..configs.notation import shown


def run(config: DownloadConfig) -> None:
    """Download, check, and print the next command."""
    from ..datasets.download import download

    path = Path(config.out or f"data/{config.name}.zarr")
    published = download(config.name, path, url=config.url)
    print(f"{path}: {published.source}")
    print(f"next: {shown('train', task=config.name, dataset=str(path), out=f'runs/{config.name}')}")
