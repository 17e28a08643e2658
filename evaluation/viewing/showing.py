"""What the page of `recede view` shows, as values of JSON: one answer for each of its questions.

Nothing is read before it is asked for, and never more than an episode at once: an answer needs the vectors of one
episode, or the images of one step. Rows are float32, little-endian, in base64.

Shapes: n episodes; L steps of an episode; N sampled chunks; Tp prediction horizon; Da size of the action.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...datasets.demonstrations import Demonstrations
from ...datasets.filters import parse, select
from ...datasets.led import led_steps
from ...datasets.quality import idle_steps
from ...datasets.selection import Selected, facts_of_episodes
from ...specification import Stream

if TYPE_CHECKING:  # neither torch nor a simulation is loaded for demonstrations alone
    from .foresight import Foresight
    from .projection import Projection
    from .scene import Scene

Answer: TypeAlias = dict[str, Any]

AHEAD = 16
"""So many recorded actions are drawn over the pictures of scene and cameras, from their step on."""

LISTED = ("outcome", "task", "sentence", "operator", "input", "seed")
"""Facts that the list of episodes shows; the rest is shown with an episode."""

LONGEST_FACT = 500
"""Letters of a fact that are shown."""


def encoded(values: ArrayLike) -> str:
    """Numbers as float32 in base64."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """How large pictures are."""

    side: int = 640
    """The longest side, in pixels."""
    quality: int = 90
    """Of a JPEG, up to 95."""
    exact: int = 256
    """Images whose sides are no longer are sent as they are."""

    def address(self, image: NDArray[np.uint8]) -> str:
        """An address that holds an image (H, W, C) itself, as a JPEG or PNG: its first three channels, or the first."""
        from PIL import Image

        shown = image[..., :3] if image.shape[2] >= 3 else image[..., 0]
        picture, file = Image.fromarray(np.ascontiguousarray(shown)), io.BytesIO()
        kind, options = ("png", {}) if max(picture.size) <= self.exact else ("jpeg", {"quality": self.quality})
        picture.thumbnail((self.side, self.side))
        picture.save(file, kind, **options)
        return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


@dataclass(frozen=True, kw_only=True)
class Showing:
    """Demonstrations, with the scene of their task and a policy if there are such.

    An index or a step that does not exist raises ValueError. `scene` and `fan` are for one thread, which may be another
    one than that of the rest.
    """

    demonstrations: Demonstrations
    name: str
    """What the page is called."""
    scene: Scene | None = None
    foresight: Foresight | None = None
    projection: Projection | None = None
    """Knows where actions are in the images of cameras."""
    pictures: Pictures = Pictures()
    """How large pictures are."""
    remarks: Sequence[str] = ()
    """What the page must say, such as why it shows no scene."""

    def hello(self) -> Answer:
        """What there is: streams and episodes."""
        demonstrations = self.demonstrations
        dt, count, steps = demonstrations.specification.control_dt, len(demonstrations), demonstrations.num_steps
        length = f"{steps:,} steps, {steps * dt / 60:.1f} min, {1 / dt:.3g} Hz"
        return {
            "kind": "hello",
            "name": self.name,
            "summary": f"{count} episode{'s' * (count != 1)}, {length}",
            "dt": dt,
            "streams": [_described(stream, demonstrations) for stream in demonstrations.specification.streams],
            "episodes": list(self._listed()),
            "scene": None if self.scene is None else self.scene.task.name,
            "policy": None if self.foresight is None else self.foresight.described(),
            "remarks": list(self.remarks),
        }

    def _listed(self) -> Iterator[Answer]:
        numbers = self.demonstrations.episode_numbers.tolist()
        for number, row in zip(numbers, self._facts(), strict=True):
            listed = {name: row[name] for name in LISTED if row.get(name) not in (None, "")}
            yield {"number": number, "steps": row["steps"], **listed}

    def _facts(self) -> list[dict[str, Any]]:
        """What conditions compare of each episode, by its number in its store, as the command line counts."""
        numbers = self.demonstrations.episode_numbers.tolist()
        return [
            row | {"episode": number}
            for row, number in zip(facts_of_episodes(self.demonstrations), numbers, strict=True)
        ]

    def listing(self, where: str) -> Answer:
        """The indices of the episodes that fulfil a condition of `datasets.filters`; of all if it is empty.

        Raises ValueError if it is no condition, or if no episode fulfils it.
        """
        chosen = list(range(len(self.demonstrations)))
        if where.strip():
            chosen = select(parse(where), self._facts(), self.demonstrations.path.name)
        return {"kind": "listing", "where": where, "episodes": chosen}

    def episode(self, index: int) -> Answer:
        """The vectors of an episode, who led it, its idle ends and its facts."""
        start, stop = self.demonstrations.bounds(index)
        one = Selected(self.demonstrations, [index])
        is_led, faults = np.ones(stop - start, dtype=bool), list[str]()
        try:
            is_led = led_steps(one)
        except ValueError as error:
            faults.append(str(error))
        (facts,), (row,) = one.episode_facts, facts_of_episodes(one)
        vectors = [stream for stream in one.specification.streams if not stream.is_image]
        return {
            "kind": "episode",
            "episode": index,
            "steps": stop - start,
            "vectors": {stream.name: encoded(one.read(stream.name)) for stream in vectors},
            "led": _intervals(is_led),
            "is_noted": "led" in facts.notes,
            "is_recorded": "action" in facts.notes,  # `recede record` says what an action is; there no policy led
            "idle": idle_steps(one)[0].tolist(),
            "facts": [
                [name, _shortened(value)]
                for name, value in row.items()
                if name != "episode" and value not in (None, "")
            ],
            "faults": faults,
        }

    def images(self, index: int, step: int) -> Answer:
        """A picture of each image stream in a step, and where the recorded actions from there on point in it."""
        place = self._place(index, step)
        streams = [stream for stream in self.demonstrations.specification.observations if stream.is_image]
        read = {stream.name: self.demonstrations.read(stream.name, place, place + 1)[0] for stream in streams}
        pictures = {name: self.pictures.address(image) for name, image in read.items()}
        ahead = {} if self.projection is None else self._over(self._ahead(index, place)[None])
        return {"kind": "images", "episode": index, "step": step, "pictures": pictures, "ahead": ahead}

    def show_scene(self, index: int, step: int) -> Answer:
        """A picture of the scene in a step, and where the recorded actions from there on point in it, as shares."""
        place = self._place(index, step)
        answer: Answer = {"kind": "scene", "episode": index, "step": step}
        if self.scene is None:
            return answer
        image = self.scene.picture(index, step)
        if image is None:
            return answer | {"fault": self.scene.fault}
        points = self.scene.points(self._ahead(index, place)[None])
        return answer | {
            "picture": self.pictures.address(image),
            "ahead": None if points is None else encoded(points),
            "differs": self.scene.differs,
        }

    def fan(self, index: int, step: int) -> Answer:
        """What the policy would do in a step: sampled chunks (N, Tp, Da), and as shares of pictures (N, Tp, 2)."""
        self._place(index, step)
        answer: Answer = {"kind": "fan", "episode": index, "step": step}
        if self.foresight is None:
            return answer
        chunks = self.foresight.chunks(index, step)
        points = None if self.scene is None else self.scene.points(chunks)
        return answer | {
            "count": len(chunks),
            "chunks": encoded(chunks),
            "points": None if points is None else encoded(points),
            "over": self._over(chunks),
        }

    def _ahead(self, index: int, place: int) -> NDArray[Any]:
        """The recorded actions of an episode from a step on, at most `AHEAD` of them."""
        return self.demonstrations.read("action", place, min(place + AHEAD, self.demonstrations.bounds(index)[1]))

    def _over(self, chunks: NDArray[Any]) -> dict[str, str]:
        """Camera -> actions (N, T, Da) as shares of its pictures (N, T, 2)."""
        points = {} if self.projection is None else self.projection.points(chunks)
        return {name: encoded(shares) for name, shares in points.items()}

    def _place(self, index: int, step: int) -> int:
        """A step of an episode, counted over all episodes in turn. Raises ValueError if it does not exist."""
        start, stop = self.demonstrations.bounds(index)
        if not 0 <= step < stop - start:
            raise ValueError(f"the step must be one of 0 .. {stop - start - 1}, got {step}")
        return start + step


def _described(stream: Stream, demonstrations: Demonstrations) -> Answer:
    is_action = stream == demonstrations.specification.action
    described: Answer = {"name": stream.name, "is_image": stream.is_image, "is_action": is_action}
    if stream.is_image:
        return described | {"size": list(stream.shape[:2])}
    labels = stream.labels or tuple(map(str, range(stream.size)))
    return described | {"labels": list(labels), "units": list(stream.units), "is_context": stream.context}


def _intervals(is_led: NDArray[np.bool_]) -> list[list[int]]:
    """The intervals [first, first after] in which a mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_led, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).tolist()


def _shortened(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_FACT else f"{text[:LONGEST_FACT]} ..."


def answered(showing: Showing, question: Mapping[str, Any]) -> Answer:
    """The answer to a question of the page. Raises ValueError if it is none."""
    match question:
        case {"listing": str(where)}:
            return showing.listing(where)
        case {"episode": int(index)}:
            return showing.episode(index)
        case {"images": [int(index), int(step)]}:
            return showing.images(index, step)
        case {"scene": [int(index), int(step)]}:
            return showing.show_scene(index, step)
        case {"fan": [int(index), int(step)]}:
            return showing.fan(index, step)
        case _:
            raise ValueError("a question must be one for a listing, an episode, images, a scene or a fan")
