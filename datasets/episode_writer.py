"""An episode that is written while it is recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import video_codec
from .arrays import ZarrArray, extend, file_rows
from .facts import UNKNOWN, EpisodeFacts
from .image_codec import is_video


class NewEpisode(NamedTuple):
    """An episode to append: its streams (L, ...), the seed of its environment, -1 if unknown, and its facts."""

    streams: Mapping[str, NDArray[Any]]
    seed: int = -1
    facts: EpisodeFacts = UNKNOWN


class Ended(NamedTuple):
    """An episode whose steps have all come: their number, its context (name -> its value), its seed and its facts."""

    num_steps: int
    context: Mapping[str, NDArray[Any]]
    seed: int
    facts: EpisodeFacts


class EpisodeWriter:
    """Writes the steps of an episode while they come; nobody reads it before `keep`. See `DemonstrationStore.begin`.

    After `end` comes another episode, and `keep` commits all of them at once.

    It is discarded at the end of its context unless it is kept.

    arrays: of the streams that are no context. starts: the first row in each. check: returns steps in the dtypes of the
    streams, or raises ValueError. commit: commits the episodes whose rows are written; returns the index of the
    last. shorten: deletes uncommitted rows. lock: keeps other writers out until it is closed.
    """

    def __init__(
        self,
        arrays: Mapping[str, ZarrArray],
        starts: Mapping[str, int],
        *,
        check: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]],
        commit: Callable[[Sequence[Ended]], int],
        shorten: Callable[[], None],
        lock: ExitStack,
    ) -> None:
        self._arrays, self._starts, self._lock = arrays, starts, lock
        self._check, self._commit, self._shorten = check, commit, shorten
        self._waiting: dict[str, list[NDArray[Any]]] = {name: [] for name in arrays}
        self._written = dict.fromkeys(arrays, 0)
        self._context = dict[str, NDArray[Any]]()
        self._ended, self._is_over = list[Ended](), False
        self.num_steps = 0
        """Number of steps of the episode so far."""

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if not self._is_over:
            self._is_over = True
            with self._lock:
                self._shorten()
                if isinstance(error, OSError):
                    raise error  # the lock of the store adds the remedy

    def add(self, streams: Mapping[str, NDArray[Any]]) -> None:
        """Add L >= 1 steps, (L, *shape) for every stream. Writes the files that are full now.

        Raises ValueError if the steps do not fit the specification, and OSError if they cannot be written.
        """
        rows = self._check(streams)
        context = {name: rows.pop(name)[0] for name in rows.keys() - self._arrays.keys()}
        for name, value in self._context.items():
            if not np.array_equal(value, context[name]):
                raise ValueError(f"context {name!r} must be the same in all steps of an episode: begin another episode")
        self._context = context
        self.num_steps += len(rows["action"])
        for name, values in rows.items():
            self._waiting[name].append(values)
            start, size = self._starts[name] + self._written[name], file_rows(self._arrays[name])
            self._write(name, (start + self._num_waiting(name)) // size * size - start)

    def end(self, *, seed: int = -1, facts: EpisodeFacts = UNKNOWN) -> None:
        """End the episode, before the first step of another one. The arguments are those of `append`.

        Raises ValueError if there are no steps.
        """
        if not self.num_steps:
            raise ValueError("an episode must have at least one step: add steps, or discard it")
        for name, array in self._arrays.items():
            if is_video(array):
                self._fill(name, array.chunks[0])
        self._ended.append(Ended(self.num_steps, self._context, seed, facts))
        self.num_steps, self._context = 0, {}

    def keep(self, *, seed: int = -1, facts: EpisodeFacts = UNKNOWN) -> int:
        """End the episode, write the rest and commit; returns its index. The arguments are those of `append`.

        Raises ValueError if there are no steps, and OSError if they cannot be written.
        """
        self.end(seed=seed, facts=facts)
        for name in self._arrays:
            self._write(name, self._num_waiting(name))
        index = self._commit(self._ended)
        self._is_over = True
        self._lock.close()
        return index

    def discard(self) -> None:
        """Leave the episode out. Does nothing after `keep`."""
        self.__exit__(None, None, None)

    def _num_waiting(self, name: str) -> int:
        return sum(map(len, self._waiting[name]))

    def _fill(self, name: str, frames: int) -> None:
        """Let the waiting images fill their last group: the next episode begins another, so none is encoded again."""
        if images := self._waiting[name]:
            self._waiting[name] = [video_codec.padded(np.concatenate(images), frames)]

    def _write(self, name: str, count: int) -> None:
        """Write that many waiting rows of a stream, if it is above 0."""
        if count > 0:
            rows = np.concatenate(self._waiting[name])
            extend(self._arrays[name], self._starts[name] + self._written[name], rows[:count])
            self._waiting[name] = [rows[count:]] if count < len(rows) else []
            self._written[name] += count
