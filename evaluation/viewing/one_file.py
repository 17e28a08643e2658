"""The page of `recede view` in one file, with the answers to all questions that it can ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ...datasets.selection import Selected
from ...files import write_text
from ...progress import watched
from ...web.look import script_source, with_look
from .server import PAGE
from .showing import Answer, Pictures, Showing

FIRST = 3
"""So many episodes are written if none are chosen."""

SMALL = Pictures(side=320, quality=75, exact=0)
"""The pictures of such a page."""

MOST_PICTURES_HZ = 10.0
"""Most pictures of a stream in a second of an episode; the page shows the one before the cursor."""

CONTENT = '<script id="content" type="application/json"></script>'
"""Where the answers stand in the page."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The page loads nothing, and runs its one script alone."""


def write_one_file(path: Path, showing: Showing, *, is_chosen: bool, most_mb: float) -> str:
    """Write the page, whole or not at all; returns what was written, in a line. is_chosen: whether somebody chose the
    episodes; otherwise the first `FIRST` are written.

    Raises ValueError as soon as the page is larger than `most_mb` MB.
    """
    count = len(showing.demonstrations)
    num = count if is_chosen else min(count, FIRST)
    if num < count:
        showing = replace(showing, demonstrations=Selected(showing.demonstrations, range(num)))
    showing = replace(showing, pictures=SMALL)
    pieces, size = list[str](), 0
    for answer in _answers(showing):
        pieces.append(json.dumps(answer).replace("<", "\\u003c"))  # no text can end the script
        size += len(pieces[-1])
        if size > most_mb * 1e6:
            raise ValueError(
                f"{path} would be larger than most_mb={most_mb:g} MB with {num} episodes: choose fewer with episodes=, "
                "or allow more with most_mb="
            )
    write_text(path, _page(f"[{','.join(pieces)}]"))
    first = "" if num == count else f"the first {num} of {count} "
    more = "" if num == count else "; choose others with episodes="
    return f"{path}: {first or f'{num} '}episode{'s' * (num != 1)}, {path.stat().st_size / 1e6:.1f} MB{more}"


def _answers(showing: Showing) -> Iterator[Answer]:
    """The answers of all questions about all episodes, pictures and chunks at even steps."""
    demonstrations = showing.demonstrations
    specification, foresight = demonstrations.specification, showing.foresight
    every = max(round(1 / specification.control_dt / MOST_PICTURES_HZ), 1)
    has_images = any(stream.is_image for stream in specification.observations)
    yield showing.hello() | {"every": every}
    for index in watched(range(len(demonstrations)), "draw", unit="episodes", delay_s=1):
        steps = int(demonstrations.episode_lengths[index])
        yield showing.episode(index)
        for step in range(0, steps, every):
            if has_images:
                yield showing.images(index, step)
            if showing.scene is not None:
                yield showing.show_scene(index, step)
        if foresight is not None:
            for step in range(0, steps, int(foresight.described()["action"])):
                yield showing.fan(index, step)


def _page(content: str) -> str:
    page = with_look(PAGE, policy=f"{POLICY}; {script_source(with_look(PAGE))}")
    return page.replace(CONTENT, CONTENT.replace("></", f">{content}</"))
