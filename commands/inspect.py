"""`recede inspect`: describe a store of demonstrations in words and in a picture."""

from __future__ import annotations

from pathlib import Path

from ..configs.checks import pair
from ..configs.encoders import AugmentationConfig
from ..configs.schema import InspectConfig, load_task


def run(config: InspectConfig) -> None:
    """Print streams, ranges and warnings, and draw every dimension over time."""
    from ..datasets.inspection import describe, draw, draw_augmented, usual_crop, warnings
    from ..datasets.opening import open_demonstrations

    task = load_task(config.task) if config.task else None
    demonstrations = open_demonstrations(config.dataset, task)
    print("\n".join(describe(demonstrations)))
    for warning in warnings(demonstrations):
        print(f"warning: {warning}")
    if len(demonstrations):
        picture = Path(config.out or f"{Path(config.dataset).name.removesuffix('.zarr')}.png")
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(demonstrations, picture)
        print(f"picture: {picture}")
        if config.augment:
            augmented = picture.with_name(f"{picture.stem}.augmented.png")
            is_chosen = config.crop is not None or config.augmentation != AugmentationConfig()
            crop = pair(config.crop) if is_chosen else usual_crop(demonstrations)
            draw_augmented(demonstrations, config.augmentation.build(crop), augmented, seed=config.seed)
            print(f"augmented: {augmented}")
