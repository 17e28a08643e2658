"""Demonstrations with other facts, other names of streams, or images of another size."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..specification import Stream, nearest
from .demonstrations import Demonstrations
from .facts import EpisodeFacts
from .observing import Observed

BY_STREAM = ("skews", "longest_gaps")
"""Notes of a recording that have a value for each stream."""


class Relabelled(Observed):
    """The episodes with other facts. labels: fact -> text. numbers: of the episodes that get them, as in their file."""

    def __init__(self, demonstrations: Demonstrations, labels: Mapping[str, str], numbers: Collection[int]) -> None:
        super().__init__(demonstrations)
        self.specification = demonstrations.specification
        self._labels, self._numbers = dict[str, Any](labels), numbers

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(n,): the facts of each episode."""
        pairs = zip(super().episode_facts, self.episode_numbers.tolist(), strict=True)
        return [replace(facts, **self._labels) if number in self._numbers else facts for facts, number in pairs]


class Renamed(Observed):
    """The episodes with some of their observation streams, under other names. What was measured of streams follows.

    renamed: old name -> new name; one that does not exist is ignored. kept: the new names of the streams to keep, or
    None for all.

    Raises ValueError if two streams would have one name, or if a stream to keep does not exist.
    """

    def __init__(
        self, demonstrations: Demonstrations, renamed: Mapping[str, str], kept: Collection[str] | None = None
    ) -> None:
        super().__init__(demonstrations)
        whole = demonstrations.specification
        new = [renamed.get(stream.name, stream.name) for stream in whole.observations]
        for name in new:
            if new.count(name) > 1 or name == whole.action.name:
                raise ValueError(f"{self.path}: rename would call two streams {name!r}: give them different names")
        for name in kept or ():
            if name not in new:
                raise ValueError(f"{self.path}: there is no observation {name!r} to keep: {nearest(name, new)}")
        pairs = zip(new, whole.observations, strict=True)
        streams = {name: stream for name, stream in pairs if kept is None or name in kept}
        self.specification = replace(
            whole, observations=tuple(replace(stream, name=name) for name, stream in streams.items())
        )
        self._old = {name: stream.name for name, stream in streams.items()} | {whole.action.name: whole.action.name}
        self._dropped = {stream.name for stream in whole.observations} - {*self._old.values()}

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(n,): the facts of each episode."""
        return [self._facts(facts) for facts in super().episode_facts]

    def _facts(self, facts: EpisodeFacts) -> EpisodeFacts:
        notes = {key: self._by_stream(value) if key in BY_STREAM else value for key, value in facts.notes.items()}
        return replace(facts, rates=self._by_stream(facts.rates), delays=self._by_stream(facts.delays), notes=notes)

    def _by_stream(self, values: Any) -> Any:
        """The values of streams under their new names, if they are such."""
        if not isinstance(values, Mapping):
            return values
        new = {old: name for name, old in self._old.items()}
        return {new.get(name, name): value for name, value in values.items() if name not in self._dropped}

    def content(self, name: str) -> str | None:
        """A digest of the stream; None if there is none."""
        return self._demonstrations.content(self._old[self.stream(name).name])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over all episodes in turn: (stop - start, *shape).

        Raises ValueError if the stream or a step does not exist.
        """
        return self._demonstrations.read(self._old[self.stream(name).name], start, stop)


class Resized(Observed):
    """The episodes with images of other sizes, each pixel the mean of those about it (PIL, bilinear).

    sizes: stream -> its height and width.

    Raises ValueError if a stream does not exist or holds no images, or for a size that no image has.
    """

    def __init__(self, demonstrations: Demonstrations, sizes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__(demonstrations)
        whole, self._sizes = demonstrations.specification, sizes
        for name in sizes:
            if not (stream := demonstrations.stream(name)).is_image:
                raise ValueError(
                    f"{self.path}: resize.{name} needs images, got {stream.dtype}{list(stream.shape)}: leave it out"
                )
        self.specification = replace(whole, observations=tuple(map(self._resized, whole.observations)))

    def _resized(self, stream: Stream) -> Stream:
        size = self._sizes.get(stream.name)
        return stream if size is None else replace(stream, shape=(*size, stream.shape[2]))

    def content(self, name: str) -> str | None:
        """A digest of the images and their size; None if there is none."""
        digest, size = super().content(name), self._sizes.get(name)
        return digest if size is None or digest is None else f"{digest} at {size}"

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over all episodes in turn: (stop - start, *shape).

        Raises ValueError if the stream or a step does not exist.
        """
        rows, stream = super().read(name, start, stop), self.stream(name)
        if name not in self._sizes:
            return rows
        images = [_resize(image, *self._sizes[name]) for image in rows]
        return np.stack(images) if images else np.empty((0, *stream.shape), stream.dtype)


def _resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """An image (H, W, C) of another height and width."""
    from PIL import Image

    channels = (Image.fromarray(image[..., channel]) for channel in range(image.shape[-1]))
    resized = [np.asarray(channel.resize((width, height), Image.Resampling.BILINEAR)) for channel in channels]
    return np.stack(resized, axis=-1)
