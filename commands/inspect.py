"""`recede inspect`: describe demonstrations in words and in a picture."""

from __future__ import annotations

import os
from pathlib import Path

from ..configs.augmentation import AugmentationConfig
from ..configs.checks import pair
from ..configs.datasets import InspectConfig
from ..envs.catalogue import load_task
from ..files import check_writable


def run(config: InspectConfig) -> None:
    """Print streams, ranges and warnings, and draw every dimension over time. `augment` draws images too."""
    from ..datasets.inspection import summarise, usual_crop, warnings
    from ..datasets.opening import open_demonstrations
    from ..evaluation.reports.demonstrations import draw_augmented, draw_demonstrations

    if config.out is not None:
        check_writable(Path(config.out).parent)
    task = load_task(config.task) if config.task else None
    demonstrations = open_demonstrations(config.dataset, task, episodes=config.episodes)
    print("\n".join(summarise(demonstrations)))
    for warning in warnings(demonstrations):
        print(f"warning: {warning}")
    if len(demonstrations):
        picture = Path(config.out) if config.out else default_picture(Path(config.dataset))
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw_demonstrations(demonstrations, picture)
        print(f"picture: {picture}")
        if config.augment:
            augmented = picture.with_name(f"{picture.stem}.augmented.png")
            is_set = config.crop is not None or config.augmentation != AugmentationConfig()
            crop = pair(config.crop) if is_set else usual_crop(demonstrations)
            draw_augmented(demonstrations, config.augmentation.build(crop), augmented, seed=config.seed)
            print(f"augmented: {augmented}")


def default_picture(store: Path) -> Path:
    """The path of a store's picture: beside the store, or in `runs/inspect/` if that folder is read-only.

    >>> default_picture(Path("nobody/can/write/here/reach.zarr")).as_posix()
    'runs/inspect/reach.png'
    """
    if store.name in ("", ".."):  # the store is the current folder or one above it
        store = store.resolve()
    folder = store.parent if os.access(store.parent, os.W_OK) else Path("runs", "inspect")
    return folder / f"{store.name.removesuffix('.zarr')}.png"
