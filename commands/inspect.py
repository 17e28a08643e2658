"""`recede inspect`: describe demonstrations in words and in a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..configs.augmentation import AugmentationConfig
from ..configs.checks import pair
from ..configs.datasets import InspectConfig
from ..configs.notation import command_line
from ..envs.catalogue import TASKS, load_task
from ..files import check_writable
from .next_lines import print_train

if TYPE_CHECKING:
    from ..datasets.demonstrations import Demonstrations
    from ..policy.engines.interface import Engine


def run(config: InspectConfig) -> None:
    """Print streams, ranges and warnings, draw every dimension over time, and write the quality page."""
    from ..datasets.copying import origin
    from ..datasets.inspection import summarise, usual_crop, warnings
    from ..datasets.opening import open_demonstrations
    from ..datasets.selection import selected
    from ..evaluation.reports.demonstrations import draw_augmented, draw_demonstrations

    if config.out is not None:
        check_writable(Path(config.out).parent)
    task = load_task(config.task) if config.task else None
    whole = open_demonstrations(config.dataset, task)
    demonstrations = selected(whole, config.episodes)
    engine = _open_engine(config, demonstrations)
    print("\n".join([*origin(getattr(whole, "provenance", None) or {}), *summarise(demonstrations)]))
    of_streams = warnings(demonstrations)
    for warning in of_streams:
        print(f"warning: {warning}")
    if len(demonstrations):
        picture = Path(config.out) if config.out else default_picture(Path(config.dataset))
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw_demonstrations(demonstrations, picture)
        print(f"picture: {picture}")
        _write_page(config, demonstrations, picture.with_suffix(".html"), warnings=of_streams, engine=engine)
        if config.augment:
            augmented = picture.with_name(f"{picture.stem}.augmented.png")
            is_set = config.crop is not None or config.augmentation != AugmentationConfig()
            crop = pair(config.crop) if is_set else usual_crop(demonstrations)
            draw_augmented(demonstrations, config.augmentation.build(crop), augmented, seed=config.seed)
            print(f"augmented: {augmented}")
        if _can_be_trained_on(demonstrations):
            print_train(
                config.task or _usual_task(demonstrations), config.dataset, config.imports, demonstrations.specification
            )


def _can_be_trained_on(demonstrations: Demonstrations) -> bool:
    """Whether a training would start: it holds out an episode of several, and every dimension has a range."""
    from ..datasets.normalisation import fit_ranges

    if len(demonstrations) < 2:
        return False
    try:
        fit_ranges(demonstrations, range(len(demonstrations)), {})
    except ValueError:  # `recede train` says what to do
        return False
    return True


def _usual_task(demonstrations: Demonstrations) -> str | None:
    """The task that the episodes name, if it comes with recede and is still the same."""
    name = demonstrations.episode_facts[0].task
    if name not in TASKS or demonstrations.specification.differences(load_task(name).specification):
        return None
    return name


def _open_engine(config: InspectConfig, demonstrations: Demonstrations) -> Engine | None:
    """The policy whose errors the page shows, if there is one. Raises ValueError if it has other streams."""
    if config.run is None:
        return None
    from ..checkpoints.opening import open_policy

    engine = open_policy(config.run, device="auto").engine
    if differences := demonstrations.specification.differences(engine.specification):
        raise ValueError(
            f"{config.dataset} must have the streams of the policy in {config.run} (those of the store are named "
            f"first): {'; '.join(differences)}: give a policy that was trained on such demonstrations"
        )
    return engine


def _write_page(
    config: InspectConfig, demonstrations: Demonstrations, page: Path, *, warnings: Sequence[str], engine: Engine | None
) -> None:
    """Judge every episode, print what looks wrong, and write the quality page."""
    from ..evaluation.reports.quality import Quality, write_quality

    errors = None
    if engine is not None:
        from ..evaluation.surprise import surprise

        errors = surprise(engine, demonstrations)
    quality = Quality.of(demonstrations, errors)
    for remark in quality.remarks:
        print(f"warning: {remark}")
    write_quality(
        page, quality, warnings=warnings, command=command_line("inspect", config), policy=Path(config.run or "").name
    )
    print(f"quality: {page}")


def default_picture(store: Path) -> Path:
    """The path of a store's picture: beside the store, or in `runs/inspect/` if that folder is read-only.

    >>> default_picture(Path("nobody/can/write/here/reach.zarr")).as_posix()
    'runs/inspect/reach.png'
    """
    if store.name in ("", ".."):  # the store is the current folder or one above it
        store = store.resolve()
    folder = store.parent if os.access(store.parent, os.W_OK) else Path("runs", "inspect")
    return folder / f"{store.name.removesuffix('.zarr')}.png"
