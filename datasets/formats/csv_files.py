"""Episodes in tables of CSV with a header of names: a file for each, or one file with a column that numbers them.

Names such as `tip.x, tip.y` or `joint_0, joint_1` make one vector, `tip` or `joint`: names that are equal up to their
last point, or up to a number that counts from 0 or 1, in the order of the table or of the numbers.

A column `time`, `timestamp` or `t` holds seconds; `time_ms`, `time_us` and `time_ns` hold what they say. If the steps
are even, their rate is that of the data set, otherwise the rows have times.

Rows are parsed as they are read. Memory: a few bytes for a hundred rows, and the rows that were read last.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .interface import ACTION, OBSERVATION, Column, ForeignDataset
from .numpy_files import is_action, natural

EPISODES = ("episode", "episode_index", "episode_id", "episode_number", "demo", "trajectory", "trial")
"""Columns that number the episodes of a file."""

TIMES = {
    f"{name}{ending}": seconds
    for name in ("time", "timestamp", "t")
    for ending, seconds in {"": 1.0, "_s": 1.0, "_ms": 1e-3, "_us": 1e-6, "_ns": 1e-9}.items()
}
"""Columns of times -> seconds of their unit."""

LONGEST_STEP = 3600.0
"""Seconds; times with a longer median step are in another unit."""

EVEN = 0.05
"""Times are even if none is further from its place than this part of a step."""

ALIKE = 0.01
"""Steps of episodes are the same if they differ by at most this part."""

LONGEST_LINE = 2**20
"""Bytes."""

MARKED = 100
"""Every so many rows of an episode, their place in the file is kept."""

TRUTHS = {"true": 1.0, "false": 0.0}


class Row(NamedTuple):
    """A row of a table, and where it stands."""

    line: int
    """From 1."""
    begin: int
    """Its first byte."""
    fields: list[str]


@dataclass
class Episode:
    """Where the rows of an episode stand in a file."""

    file: Path
    name: str
    length: int = 0
    marks: list[tuple[int, int]] = field(default_factory=list)
    """(line, first byte) of every `MARKED`-th row."""


@dataclass(frozen=True)
class Table:
    """The header of a file."""

    names: tuple[str, ...]
    delimiter: str
    texts: frozenset[int]
    """Columns whose first value is no number."""

    @cached_property
    def numbers(self) -> list[int]:
        """Columns of numbers."""
        return [index for index in range(len(self.names)) if index not in self.texts]

    def position(self, names: Collection[str]) -> int | None:
        """The first column with one of these names, in any case."""
        return next((index for index, name in enumerate(self.names) if name.lower() in names), None)


class CsvFiles(ForeignDataset):
    """A file, or a folder of files that have the same header, in the order of the numbers in their names."""

    kind = "csv"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether this is a `.csv` file, or a folder that directly holds some."""
        return bool(_files(path))

    def __init__(self, path: str | Path) -> None:
        self.path, self.metadata, self._files = Path(path), {}, _files(Path(path))
        self._table = _header(self._files[0])
        clock = self._table.position(TIMES)
        self._clock = None if clock in self._table.texts else clock
        self._number = self._table.position(EPISODES)
        self._episodes, clocks = list[Episode](), list[_Clock]()
        for file in self._files:
            _check_header(_header(file), file, self._table, self._files[0])
            for episode, clock in _scanned(file, self._table, number=self._number, clock=self._clock):
                self._episodes.append(episode)
                clocks.append(clock)
        self.episode_lengths = np.array([episode.length for episode in self._episodes], dtype=np.int64)
        self._vectors = _vectors(self._table, self.path)
        self.columns = tuple(self._column(key, indices) for key, indices in self._vectors.items())
        self.rate = None if self._clock is None else _rate(clocks, self._table.names[self._clock], self.path)
        self._block: tuple[tuple[int, int, int], NDArray[np.float64]] | None = None

    def _column(self, key: str, indices: Sequence[int]) -> Column:
        """A vector, a number, or a text of the table as a column."""
        if indices[0] in self._table.texts:
            return Column(key, (), "text")
        if indices[0] == self._clock:
            return Column(key, (), "float64", role="it is the time")
        if indices[0] == self._number:
            return Column(key, (), "float64", role="it numbers the episodes")
        if not self._table.names[indices[0]]:
            return Column(key, (), "float64", role="it has no name")
        names = [self._table.names[index] for index in indices]
        parts = tuple(name.removeprefix(f"{key}.") for name in names)
        has_labels = all(name.startswith(f"{key}.") for name in names) and not any(map(str.isdecimal, parts))
        shape = (len(indices),) if len(indices) > 1 else ()
        role = ACTION if is_action(key) else OBSERVATION
        return Column(key, shape, "float64", labels=parts if has_labels else (), role=role)

    def read(self, key: str, episode: int, start: int, stop: int) -> NDArray[Any]:
        """Rows start .. stop of a column in an episode. Raises ValueError, naming the line, for what is no number."""
        indices = self._vectors[self.column(key).key]
        place = (episode, start, stop)
        if self._block is None or self._block[0] != place:  # the streams of a piece are read one after another
            self._block = (place, self._numbers(*place))
        positions = [self._table.numbers.index(index) for index in indices]
        rows = self._block[1][:, positions]
        return rows if len(indices) > 1 else rows[:, 0].copy()

    def _numbers(self, episode: int, start: int, stop: int) -> NDArray[np.float64]:
        """(stop - start, columns of numbers): the numbers of some rows of an episode."""
        where = self._episodes[episode]
        values = np.empty((stop - start, len(self._table.numbers)))
        if start == stop:
            return values
        line, begin = where.marks[start // MARKED]
        with _rows(where.file, self._table.delimiter, line=line, begin=begin) as rows:
            for position in range(start - start % MARKED, stop):
                row = next(rows, None)
                if row is None:
                    raise ValueError(f"{where.file} ends before row {position} of {where.name}: it changed, so repeat")
                if position >= start:
                    values[position - start] = _parsed(row, self._table, where.file)
        return values

    def times(self, key: str, episode: int) -> NDArray[np.float64] | None:
        """(L,): when each row of an episode was taken, s. None without a column of times."""
        del key
        if self._clock is None:
            return None
        name = self._table.names[self._clock]
        return self.read(name, episode, 0, int(self.episode_lengths[episode])) * TIMES[name.lower()]

    def files(self) -> Iterable[Path]:
        """The tables."""
        return self._files

    def episode_name(self, episode: int) -> str:
        """Its file, and its number there if there are several."""
        return self._episodes[episode].name


def _files(path: Path) -> list[Path]:
    """The tables at a path, in order."""
    entries = path.iterdir() if path.is_dir() else [path]
    return sorted((entry for entry in entries if entry.suffix.lower() == ".csv" and entry.is_file()), key=natural)


@contextmanager
def _rows(file: Path, delimiter: str, *, line: int = 1, begin: int = 0) -> Generator[Iterator[Row]]:
    """The rows of a table from a line on, which begins at a byte. Empty lines are no rows.

    Raises ValueError, naming the line, for one that is longer than `LONGEST_LINE`, or no text.
    """
    with file.open("rb") as opened:
        opened.seek(begin)
        place = [line, begin, begin]  # the next line, where it begins, and where the present row began

        def lines() -> Iterator[str]:
            while content := opened.readline(LONGEST_LINE):
                if len(content) == LONGEST_LINE:
                    raise ValueError(f"{file}, line {place[0]} is longer than {LONGEST_LINE} bytes: is it a table?")
                place[0] += 1
                place[1] += len(content)
                try:
                    yield content.decode("utf-8-sig" if place[0] == 2 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(f"{file}, line {place[0] - 1} is no text ({error}): save it as UTF-8") from error

        def rows() -> Iterator[Row]:
            reader = csv.reader(lines(), delimiter=delimiter, strict=True)
            while True:
                number, start = place[0], place[1]
                try:
                    values = next(reader, None)
                except csv.Error as error:
                    raise ValueError(f"{file}, line {number} is no row of a table ({error}): repair it") from error
                if values is None:
                    return
                if values:
                    yield Row(number, start, values)

        yield rows()


def _header(file: Path) -> Table:
    """The header of a file. Raises ValueError if it is none, or if no row follows it."""
    with file.open("rb") as opened:
        first = opened.readline(LONGEST_LINE).decode("utf-8-sig", errors="replace")
    delimiter = max(",;\t", key=first.count)
    with _rows(file, delimiter) as rows:
        header, row = next(rows, None), next(rows, None)
    if header is None or row is None:
        raise ValueError(f"{file} must have a header of names and a row or more: record it again, or delete it")
    names = tuple(name.strip() for name in header.fields)
    if all(_number(name) is not None for name in names):
        raise ValueError(f"{file} must begin with a header of names, got numbers: write the names in its first line")
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"{file} has two columns {twice[0]!r}: rename one")
    _check_width(row, len(names), file)
    return Table(names, delimiter, frozenset(index for index, text in enumerate(row.fields) if _number(text) is None))


def _check_header(table: Table, file: Path, first: Table, other: Path) -> None:
    """Raises ValueError unless a file has the columns of the first one."""
    if table.names != first.names or table.delimiter != first.delimiter:
        raise ValueError(
            f"{file} must have the columns of {other.name}, {', '.join(first.names)[:200]}, got "
            f"{', '.join(table.names)[:200]}: move it to another folder, or repair its header"
        )


def _check_width(row: Row, width: int, file: Path) -> None:
    if len(row.fields) != width:
        raise ValueError(
            f"{file}, line {row.line} must have {width} fields as the header, got {len(row.fields)}: repair or "
            "delete it"
        )


def _number(text: str) -> float | None:
    """The number that a field holds; true and false are 1 and 0."""
    try:
        return float(text)
    except ValueError:
        return TRUTHS.get(text.strip().lower())


def _parsed(row: Row, table: Table, file: Path) -> list[float]:
    """The numbers of a row. Raises ValueError for a field that is none."""
    _check_width(row, len(table.names), file)
    values = list[float]()
    for index in table.numbers:
        value = _number(row.fields[index])
        if value is None:
            raise ValueError(
                f"{file}, line {row.line}, column {table.names[index]!r} must be a number, got "
                f"{row.fields[index][:40]!r}: repair or delete the line"
            )
        values.append(value)
    return values


@dataclass
class _Clock:
    """The times of an episode, s, while its rows pass by."""

    times: list[float] = field(default_factory=list)
    step: float = 0.0
    """The mean step."""
    is_even: bool = True

    def close(self) -> None:
        """Forget the times, and note whether they were even."""
        times, self.times = np.array(self.times), []
        if len(times) > 1:
            self.step = float((times[-1] - times[0]) / (len(times) - 1))
            places = times[0] + self.step * np.arange(len(times))
            self.is_even = bool(np.abs(times - places).max() <= EVEN * self.step)


def _scanned(file: Path, table: Table, *, number: int | None, clock: int | None) -> Iterator[tuple[Episode, _Clock]]:
    """The episodes of a file, and their clocks. number, clock: the columns that number the episodes and hold times.

    Raises ValueError for a row that has no number where there should be one, for an episode whose rows stand apart,
    and for times that do not ascend.
    """
    scale = 1.0 if clock is None else TIMES[table.names[clock].lower()]
    present, times, closed = None, _Clock(), set[str]()
    with _rows(file, table.delimiter) as rows:
        next(rows)
        for row in rows:
            values = _parsed(row, table, file)
            label = "" if number is None else row.fields[number].strip()
            if present is None or label != present[0]:
                if present is not None:
                    times.close()
                    yield present[1], times
                if label in closed:
                    raise ValueError(
                        f"{file}, line {row.line}: the rows of episode {label} must follow one another: sort the table"
                    )
                closed.add(label)
                present, times = (label, Episode(file, f"{file.name}{label and f', episode {label}'}")), _Clock()
            episode = present[1]
            if episode.length % MARKED == 0:
                episode.marks.append((row.line, row.begin))
            episode.length += 1
            if clock is not None:
                time = values[table.numbers.index(clock)] * scale
                if not math.isfinite(time) or (times.times and time <= times.times[-1]):
                    raise ValueError(
                        f"{file}, line {row.line}: times must ascend, got {row.fields[clock]} after "
                        f"{times.times[-1] / scale if times.times else 'nothing'}: sort the rows, or delete the line"
                    )
                times.times.append(time)
    if present is not None:
        times.close()
        yield present[1], times


def _rate(clocks: Sequence[_Clock], name: str, path: Path) -> float | None:
    """Steps a second, if all episodes are even and alike. Raises ValueError if the times are in another unit."""
    steps = np.array([clock.step for clock in clocks if clock.step])
    if not len(steps):
        return None
    step = float(np.median(steps))
    if step > LONGEST_STEP:
        raise ValueError(
            f"{path}: column {name!r} must be in seconds, and its steps would be {step:g} s: call it {name}_ns, "
            f"{name}_us or {name}_ms, if that is its unit"
        )
    is_even = all(clock.is_even for clock in clocks) and bool((np.abs(steps - step) <= ALIKE * step).all())
    return float(f"{1 / step:.4g}") if is_even else None


def _vectors(table: Table, path: Path) -> dict[str, list[int]]:
    """Key -> the columns of the table that make one vector; see the module. Raises ValueError if two have one key."""
    groups = dict[tuple[str, str], list[tuple[str, int]]]()
    for index, name in enumerate(table.names):
        match = re.fullmatch(r"(.+)(\.)([^.]+)", name) or re.fullmatch(r"(.+)([_[])(\d+)]?", name)
        if match is not None and index not in table.texts:
            groups.setdefault((match[1], match[2]), []).append((match[3], index))
    vectors = {
        index: (stem, indices)
        for (stem, _), parts in groups.items()
        for indices in [_ordered(parts)]
        for index in indices
    }
    result = dict[str, list[int]]()
    for index, name in enumerate(table.names):
        key, indices = vectors.get(index, (name or f"column {index + 1}", [index]))
        if result.setdefault(key, indices) != indices:
            other = table.names[result[key][0]]
            raise ValueError(f"{path}: columns {other!r} and {name!r} would both be {key!r}: rename one")
    return result


def _ordered(parts: Sequence[tuple[str, int]]) -> list[int]:
    """The columns of a vector, by the numbers at the ends of their names if these count from 0 or 1; none if not."""
    if len(parts) < 2 or not all(ending.isdecimal() for ending, _ in parts):
        return [index for _, index in parts] if len(parts) > 1 else []
    numbers, indices = zip(*sorted((int(ending), index) for ending, index in parts), strict=True)
    return list(indices) if numbers[0] in (0, 1) and numbers == tuple(range(numbers[0], numbers[-1] + 1)) else []
