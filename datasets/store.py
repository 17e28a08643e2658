"""Demonstrations on disk: a zarr v3 folder to which episodes are appended, each of them whole or not at all.

The layout, with N steps of all n episodes in turn:

    attributes["recede"]   {"format": 1, "specification": {...}, "num_episodes": n}; with "provenance": {...} if the
                           store was made of others (`datasets.copying`)
    data/<stream>          (N, *shape of a step), in the stream's dtype; the action is one of the streams
                           (of images in H.264, each episode begins with a new chunk, and its last image fills that up)
    context/<stream>       (n, *shape of a step) instead, if the stream is context: it is the same in all steps
    meta/episode_ends      (n,) int64: the first step after each episode
    meta/episode_seeds     (n,) int64: the seed of each episode, or -1 if it is unknown
    meta/facts             bytes: what is noted of each episode (`EpisodeFacts`), in turn, as JSON
    meta/fact_ends         (m,) int64, m <= n: the first byte after the facts of each episode

An append writes the rows of every stream, then `meta`, and commits by replacing the one file that holds
`num_episodes`. Arrays may therefore hold uncommitted rows: readers ignore them, and the next append overwrites them. A
killed writer leaves at most such rows and files called `*.partial`. Nothing is flushed from the operating system's
cache: an append survives the death of its process, but not a power failure.

An episode may also be written while it is recorded: `begin` it, `add` steps, and `keep` or `discard` it. Its steps are
such uncommitted rows until it is kept. Images are compressed and written whenever they fill a file, so that keeping an
episode takes about as long as an append of one file, however long it is.

The facts of an episode beyond m are unknown, and so are all of a store without these two arrays.

Every chunk file has a checksum, and chunks of zeros are written too, so damaged and missing files are detected when
their rows are read. Stores of the same layout in zarr v2 are read as well. Their format has no checksum, so only a file
that is missing, truncated or impossible to decompress is detected.

Images (uint8, H x W x C) are compressed one by one, in files of up to `SHARD_BYTES` before compression: a window of two
images decompresses two images. In H.264 they are compressed in groups that decode alone (`video_codec`). zstd and PNG
are lossless, JPEG and H.264 are not.

Cost: an append rewrites the last chunk file of each stream (at most about 1 MB; for images 8 MB, which are not
compressed again), the last 64 KB of the facts, and their descriptions, and reads 16 bytes an episode, so its time
hardly grows with the store. Opening reads the description of each stream and the same 16 bytes an episode. A read
decompresses only the chunks of its steps. Facts are read when they are first asked for: 0.5 s for 10,000 episodes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from ..files import whole_folder, writing
from ..specification import Specification, Stream, nearest
from .arrays import (
    ZarrArray,
    check_length,
    extend,
    files_digest,
    open_array,
    open_group,
    read_rows,
    require_chunks,
)
from .commit import attributes, read_commit
from .demonstrations import Demonstrations, cast_rows, check_context, check_episode_ends
from .episode_writer import Ended, EpisodeWriter, NewEpisode
from .facts import UNKNOWN, EpisodeFacts
from .image_codec import ImageCodec, check_compression, check_image, frames_of_chunk, is_video
from .video_codec import require_av

CHUNK_BYTES = 2**20
"""Largest chunk before compression, unless a single step is larger."""

CHUNK_ROWS = 2048
"""Most steps in a chunk: an append compresses up to this many again."""

FACTS_BYTES = 2**16
"""Largest chunk of facts before compression: an append compresses up to this many bytes again."""

SHARD_BYTES = 2**23
"""Largest file of images before compression, unless a single image is larger."""

SHARD_FRAMES = 512
"""Most images in a file, whose index takes 16 bytes for each of them."""

LOCK_TIMEOUT = 60.0
"""How long an append waits for another writer (s)."""

_WRITING = threading.Lock()
"""Held while a thread of this process opens or commits to a store that it writes, whichever store."""

_PARTIAL = re.compile(r".+\.[0-9a-f]{32}\.partial")
"""The files that zarr writes and then renames."""

_ENDS, _SEEDS = "meta/episode_ends", "meta/episode_seeds"

_FACTS, _FACT_ENDS = "meta/facts", "meta/fact_ends"


class DemonstrationStore(Demonstrations):
    """The demonstrations in a folder. Start with `create` or `open`; record with `append`.

    A store shows the episodes that were committed when it was opened or last appended to. Several processes may read
    while one writes, and writers take turns after every episode.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._refresh("r")

    @classmethod
    def open(cls, path: str | Path) -> DemonstrationStore:
        """Open and check the store at `path`.

        Raises FileNotFoundError if `path` does not exist, and ValueError if it is not a Recede store, has another
        format version, is damaged or is inconsistent.
        """
        return cls(path)

    @classmethod
    def create(
        cls,
        path: str | Path,
        specification: Specification,
        *,
        images: str = "zstd",
        provenance: Mapping[str, Any] | None = None,
    ) -> DemonstrationStore:
        """Create a store without episodes. It is built beside `path` and renamed, so it appears whole.

        images: the compression of image streams, one of `image_codec.IMAGE_COMPRESSIONS`. provenance: what the store is
        made of, as JSON.

        Raises FileExistsError if `path` exists, and ValueError for an unknown compression, or for images that it cannot
        hold.
        """
        path = Path(path)
        check_compression(images)
        if path.exists() or path.is_symlink():
            raise FileExistsError(f"{path} already exists: open it to append to it, or choose another path")
        for stream in specification.streams:
            if stream.is_image and images != "zstd":
                check_image(stream, images, path)
        with whole_folder(path, replace=False) as folder, writing(path):
            _build(folder, specification, images, provenance)
        return cls(path)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Steps start .. stop of a stream, over all episodes in turn: (stop - start, *shape), in the stream's dtype.

        Raises ValueError if the stream or a step does not exist, or if a chunk file is missing or damaged.
        """
        stream = self.stream(name)
        start, stop = self.step_range(start, stop)
        if not stream.context:
            return (self._frames if self._is_video(stream) else self._rows)(stream, start, stop)
        episodes = self.episode_of(np.arange(start, stop))
        first, last = (int(episodes[0]), int(episodes[-1]) + 1) if len(episodes) else (0, 0)
        return self._rows(stream, first, last)[episodes - first]

    def content(self, name: str) -> str:
        """A digest of the chunk files of a stream and of their description. Raises ValueError if one is missing."""
        stream = self.stream(name)
        array, num_rows = self._arrays[name], self._num_rows(stream)
        require_chunks(array, 0, num_rows)
        digest = files_digest(array, num_rows)
        ends = hashlib.sha256(self.episode_ends.tobytes()).hexdigest()
        return f"{digest} of {ends}" if stream.context or self._is_video(stream) else digest

    @property
    def images(self) -> str:
        """The compression of the first image stream, one of `image_codec.IMAGE_COMPRESSIONS`; zstd if there is none."""
        arrays = [self._arrays[stream.name] for stream in self.specification.streams if stream.is_image]
        serializer = arrays[0].serializer if arrays else None
        return serializer.format if isinstance(serializer, ImageCodec) else "zstd"

    def _num_rows(self, stream: Stream) -> int:
        """Number of committed rows of the array of a stream."""
        if stream.context:
            return len(self)
        return int(self._group_starts(stream)[-1]) if self._is_video(stream) else self.num_steps

    def _is_video(self, stream: Stream) -> bool:
        return stream.is_image and is_video(self._arrays[stream.name])

    def _group_starts(self, stream: Stream) -> NDArray[np.int64]:
        """(n + 1,): the row of each episode's first image in H.264, and the one after all of them."""
        frames = self._arrays[stream.name].chunks[0]
        return np.concatenate([[0], np.cumsum(-(-self.episode_lengths // frames) * frames)])

    def _frames(self, stream: Stream, start: int, stop: int) -> NDArray[Any]:
        """Steps start .. stop of images in H.264. Raises ValueError, naming the episode, if a group is damaged."""
        require_av()
        pieces, starts = [np.empty((0, *stream.shape), np.uint8)], self._group_starts(stream)
        while start < stop:
            episode = int(self.episode_of(start))
            first, end = self.bounds(episode)
            row, count = int(starts[episode]) + start - first, min(stop, end) - start
            try:
                pieces.append(self._rows(stream, row, row + count))
            except ValueError as error:
                raise ValueError(f"episode {episode}, stream {stream.name!r}: {error}") from error
            start += count
        return np.concatenate(pieces)

    def _rows(self, stream: Stream, start: int, stop: int) -> NDArray[Any]:
        array = self._arrays[stream.name]
        require_chunks(array, start, stop)
        return read_rows(array, start, stop).astype(stream.dtype, copy=False)

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(n,): what is noted of each episode. Raises ValueError if it is damaged."""
        if self._facts is None:
            self._facts = self._read_facts()
        return self._facts

    def append(self, streams: Mapping[str, NDArray[Any]], *, seed: int = -1, facts: EpisodeFacts = UNKNOWN) -> int:
        """Append an episode of L >= 1 steps, (L, *shape) for every stream; returns its index.

        The episode is checked before anything is written. Once this returns, every process sees it. If this raises or
        its process is killed, all earlier episodes are intact, and this one is there whole or not at all.

        seed: of the environment, -1 if unknown. facts: how the episode ended, who drove it, and so on.

        Raises ValueError if the episode does not fit the specification or the store is damaged, OSError if it cannot be
        written (a full disk), and TimeoutError if another writer does not finish.
        """
        return self.append_many([NewEpisode(streams, seed, facts)])

    def append_many(self, episodes: Sequence[NewEpisode]) -> int:
        """Append n >= 1 episodes, as one atomic change; returns the index of the last one. See `append`.

        It takes little longer than to append one of them, and much less than to append each alone.
        """
        if not episodes:
            raise ValueError(f"{self.path}: there must be an episode to append, got none")
        for episode in episodes:
            self._checked(episode.streams)
        *others, last = episodes
        with self.begin() as writer:
            for streams, seed, facts in others:
                writer.add(streams)
                writer.end(seed=seed, facts=facts)
            writer.add(last.streams)
            return writer.keep(seed=last.seed, facts=last.facts)

    def begin(self) -> EpisodeWriter:
        """Begin an episode whose steps are written while they come. Other writers wait until it is kept or discarded.

        Raises ValueError if the store is damaged, and TimeoutError if another writer does not finish.
        """
        with ExitStack() as undo:
            undo.enter_context(self._locked())
            streams = [stream for stream in self.specification.streams if not stream.context]
            return EpisodeWriter(
                {stream.name: self._arrays[stream.name] for stream in streams},
                {stream.name: self._num_rows(stream) for stream in streams},
                check=self._checked,
                commit=self._commit,
                shorten=self._shorten,
                lock=undo.pop_all(),
            )

    def drop_last(self) -> int:
        """Remove the last episode, as one atomic change, and return how many remain.

        Raises ValueError if there is none or the store is damaged, and TimeoutError if another writer does not finish.
        """
        with self._locked():
            if not len(self):
                raise ValueError(f"{self.path}: there is no episode to remove: record one first")
            self._show(self.episode_ends[:-1], self.episode_seeds[:-1])
            self._shorten()
        return len(self)

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Open the store for writing, while no other writer does. An OSError meanwhile says that nothing is lost."""
        try:
            with self._turn():
                with _writing_zeros():
                    self._refresh("r+")
                if self._group.metadata.zarr_format != 3:
                    raise ValueError(f"{self.path}: a zarr v2 store can only be read: record into a new store")
                yield
        except (FileNotFoundError, TimeoutError):
            raise
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self.path}: the episode was not recorded, all earlier ones are intact "
                f"({error.strerror or error}): see that the disk has room and can be written to, and append it again",
            ) from error

    def remove_leftovers(self) -> None:
        """Delete the files `*.partial` of killed writers. Looks at every file of the store.

        Raises TimeoutError if another writer does not finish.
        """
        with self._turn():
            for path in self.path.rglob("*"):
                if _PARTIAL.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    @contextmanager
    def _turn(self) -> Generator[None]:
        """No other writer appends meanwhile. Raises TimeoutError if another writer does not finish."""
        with ExitStack() as stack:
            try:
                stack.enter_context(FileLock(self.path / _ENDS / ".lock", timeout=LOCK_TIMEOUT, poll_interval=0.01))
            except Timeout:
                raise TimeoutError(
                    f"{self.path}: another writer has not finished for {LOCK_TIMEOUT:.0f} s: end it and try again"
                ) from None
            yield

    def _checked(self, streams: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The episode in the dtypes of the streams. Raises ValueError unless it fits the specification."""
        names = [stream.name for stream in self.specification.streams]
        for name in streams:
            if name not in names:
                raise ValueError(
                    f"{self.path}: an episode must hold the streams of the store, got {name!r}: {nearest(name, names)}"
                )
        if missing := [name for name in names if name not in streams]:
            raise ValueError(f"{self.path}: an episode must hold every stream of the store, {missing} are missing")
        rows = {
            stream.name: cast_rows(streams[stream.name], stream, self.path) for stream in self.specification.streams
        }
        lengths = {name: len(values) for name, values in rows.items()}
        if len({*lengths.values()}) > 1 or min(lengths.values()) < 1:
            raise ValueError(
                f"{self.path}: the streams of an episode must have the same length, at least 1, got {lengths}"
            )
        for stream in self.specification.context:
            check_context(rows[stream.name], stream, str(self.path))
        return rows

    def _commit(self, ended: Sequence[Ended]) -> int:
        """Commit episodes whose rows are written; returns the index of the last. Needs the lock."""
        index, stops = len(self), self.num_steps + np.cumsum([episode.num_steps for episode in ended])
        seeds = np.array([episode.seed for episode in ended])
        with _writing_zeros():
            for name in ended[0].context:
                extend(self._arrays[name], index, np.stack([episode.context[name] for episode in ended]))
            extend(self._array(_ENDS), index, stops)
            extend(self._array(_SEEDS), index, seeds)
            self._append_facts(index, [episode.facts for episode in ended])
            self._show(np.append(self.episode_ends, stops), np.append(self.episode_seeds, seeds))
        return len(self) - 1

    def _show(self, ends: NDArray[np.int64], seeds: NDArray[np.int64]) -> None:
        """Replace the one file that says how many episodes there are."""
        self._group.attrs["recede"] = attributes(self.specification, len(ends), self.provenance)
        self.episode_ends, self.episode_seeds, self._facts = ends, seeds, None

    def _shorten(self) -> None:
        """Delete the files that hold uncommitted rows alone."""
        for stream in self.specification.streams:
            array, num_rows = self._arrays[stream.name], self._num_rows(stream)
            if array.shape[0] > num_rows:
                array.resize((num_rows, *array.shape[1:]))

    def _append_facts(self, index: int, facts: Sequence[EpisodeFacts]) -> None:
        """Write the facts of the episodes from `index` on, and that nothing is known of earlier ones without facts."""
        if not (self.path / _FACT_ENDS).is_dir():
            _create_facts(self._group)
        ends = self._array(_FACT_ENDS)
        count = min(ends.shape[0], index)
        start = int(read_rows(ends, count - 1, count)[0]) if count else 0
        notes = (json.dumps(one.to_json(), ensure_ascii=False) if one != UNKNOWN else "" for one in facts)
        texts = [b""] * (index - count) + [note.encode() for note in notes]
        if any(texts):
            extend(self._array(_FACTS), start, np.frombuffer(b"".join(texts), np.uint8))
        extend(ends, count, start + np.cumsum([len(text) for text in texts]))

    def _read_facts(self) -> list[EpisodeFacts]:
        if not (self.path / _FACT_ENDS).is_dir():
            return [UNKNOWN] * len(self)
        array, place = self._array(_FACT_ENDS), f"{self.path}: {_FACTS}"
        ends = self._meta(_FACT_ENDS, min(len(self), array.shape[0]))
        length, texts = int(ends[-1]) if len(ends) else 0, self._array(_FACTS)
        if (np.diff(ends, prepend=0) < 0).any() or texts.shape[0] < length:
            raise ValueError(f"{place} does not hold the bytes that {_FACT_ENDS} names: restore both from a copy")
        require_chunks(texts, 0, length)
        content, facts = read_rows(texts, 0, length).astype(np.uint8).tobytes(), list[EpisodeFacts]()
        for start, stop in itertools.pairwise([0, *ends]):
            try:
                facts.append(EpisodeFacts.from_json(json.loads(content[start:stop])) if stop > start else UNKNOWN)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{place} of episode {len(facts)} are damaged ({error}): restore them from a copy"
                ) from error
        return facts + [UNKNOWN] * (len(self) - len(facts))

    def _refresh(self, mode: str) -> None:
        """Read the last commit and open every array, for reading ("r") or also for writing ("r+")."""
        self._facts: Sequence[EpisodeFacts] | None = None
        self._group = open_group(self.path, mode)
        self.specification, num_episodes, self.provenance = read_commit(self._group, self.path)
        self.episode_ends = self._meta(_ENDS, num_episodes)
        self.episode_seeds = self._meta(_SEEDS, num_episodes)
        check_episode_ends(self.episode_ends, f"{self.path}: {_ENDS}")
        self._arrays = {stream.name: self._array(_key(stream)) for stream in self.specification.streams}
        for stream in self.specification.streams:
            array = self._arrays[stream.name]
            stored = (array.shape[1:], array.dtype.newbyteorder("="))
            if stored != (stream.shape, np.dtype(stream.dtype)):
                raise ValueError(
                    f"{self.path}: {_key(stream)} must hold steps of shape {stream.shape} in {stream.dtype} as the "
                    f"specification says, got {stored[0]} in {stored[1]}: restore the store from a copy"
                )
            check_length(array, self._num_rows(stream), self.path)

    def _array(self, key: str) -> ZarrArray:
        return open_array(self._group, key, self.path)

    def _meta(self, key: str, count: int) -> NDArray[np.int64]:
        array = self._array(key)
        if array.ndim != 1 or array.shape[0] < count:
            raise ValueError(
                f"{self.path}: {key} must hold an entry for each of {count} episodes, got shape {array.shape}: "
                "restore the store from a copy"
            )
        require_chunks(array, 0, count)
        return read_rows(array, 0, count).astype(np.int64, copy=False)


@contextmanager
def _writing_zeros() -> Generator[None]:
    """Arrays that are opened meanwhile write chunks of zeros, which zarr skips otherwise, in all threads."""
    with _WRITING, zarr.config.set({"array.write_empty_chunks": True}):
        yield


def _key(stream: Stream) -> str:
    return f"{'context' if stream.context else 'data'}/{stream.name}"


def _build(path: Path, specification: Specification, images: str, provenance: Mapping[str, Any] | None) -> None:
    group = zarr.create_group(LocalStore(path), zarr_format=3)
    for key in ("data", "meta", *(["context"] if specification.context else [])):
        group.create_group(key)
    for stream in specification.streams:
        if stream.is_image:
            _create_images(group, stream, images)
        else:
            _create_array(group, _key(stream), stream.shape, stream.dtype)
    for key in (_ENDS, _SEEDS):
        _create_array(group, key, (), "int64")
    _create_facts(group)
    group.attrs["recede"] = attributes(specification, 0, provenance)


# zstd's checksum does not cover the unused bits of its header; crc32c covers all of it.
_CHECKED_ZSTD = (ZstdCodec(level=3, checksum=True), Crc32cCodec())


def _create_array(group: zarr.Group, key: str, shape: tuple[int, ...], dtype: str) -> None:
    step_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    chunks = (min(CHUNK_ROWS, max(1, CHUNK_BYTES // step_bytes)), *shape)
    group.create_array(key, shape=(0, *shape), chunks=chunks, dtype=dtype, compressors=_CHECKED_ZSTD, fill_value=0)


def _create_facts(group: zarr.Group) -> None:
    group.create_array(
        _FACTS,
        shape=(0,),
        chunks=(FACTS_BYTES,),
        dtype="uint8",
        compressors=_CHECKED_ZSTD,
        fill_value=0,
        overwrite=True,
    )
    _create_array(group, _FACT_ENDS, (), "int64")  # the last: it says that the facts are there


def _create_images(group: zarr.Group, stream: Stream, compression: str) -> None:
    is_zstd = compression == "zstd"
    frames = frames_of_chunk(stream, compression)
    group.create_array(
        _key(stream),
        shape=(0, *stream.shape),
        chunks=(frames, *stream.shape),
        shards=(frames * (min(SHARD_FRAMES, max(1, SHARD_BYTES // stream.size)) // frames or 1), *stream.shape),
        dtype=stream.dtype,
        serializer="auto" if is_zstd else ImageCodec(compression),  # type: ignore[arg-type]
        compressors=_CHECKED_ZSTD if is_zstd else [Crc32cCodec()],
        fill_value=0,
    )
