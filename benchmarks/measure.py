"""What all benchmarks share: the argument `json=FILE`, timing of repetitions, and the printed table."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

from recede.policy.device import device, processor


class Row(TypedDict):
    """One measured number."""

    name: str
    value: float
    unit: str


def output(arguments: list[str]) -> Path | None:
    """The file of `json=FILE`, the only argument of a benchmark, or None without it. Exits with 2 on anything else."""
    if not arguments:
        return None
    key, _, path = arguments[0].partition("=")
    if len(arguments) > 1 or key != "json" or not path:
        print(f"usage: python {sys.argv[0]} [json=FILE], got {' '.join(arguments)}", file=sys.stderr)
        raise SystemExit(2)
    return Path(path)


def best_rate(work: Callable[[], int], *, seconds: float) -> float:
    """The highest rate of `work`, in items per second, over repetitions for `seconds` after a trial.

    work: returns the number of items that it handled. The highest rate counts because other processes only slow it.
    """
    work()
    highest, end = 0.0, time.perf_counter() + seconds
    while not highest or time.perf_counter() < end:
        began = time.perf_counter()
        count = work()
        highest = max(highest, count / (time.perf_counter() - began))
    return highest


def interleaved_medians(works: Sequence[Callable[[], object]], *, seconds: float) -> list[float]:
    """Median seconds of each of `works`. They take turns for `seconds`, so that a busy machine slows all alike."""
    taken: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    end = time.perf_counter() + seconds
    while not taken[0] or time.perf_counter() < end:
        for work, times in zip(works, taken, strict=True):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
    return [median(times) for times in taken]


class Parts:
    """Seconds of the parts of a work, and of `all` of it. They add up over several works."""

    def __init__(self) -> None:
        self.seconds = defaultdict[str, float](float)

    @contextmanager
    def timed(self, methods: Sequence[tuple[Any, str, str]]) -> Generator[None]:
        """Measure all that happens meanwhile; methods: an owner, the name of its method, and the part that this is.

        Parts must not call one another.
        """
        before, began = [(owner, name, getattr(owner, name)) for owner, name, _ in methods], time.perf_counter()
        for (owner, name, original), (_, _, part) in zip(before, methods, strict=True):
            setattr(owner, name, self._method(original, part))
        try:
            yield
        finally:
            for owner, name, original in before:
                setattr(owner, name, original)
            self.seconds["all"] += time.perf_counter() - began

    def _method(self, original: Callable[..., Any], part: str) -> Callable[..., Any]:
        def method(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                self.seconds[part] += time.perf_counter() - began

        return method

    def rows(self, name: str, parts: Sequence[str]) -> list[Row]:
        """A row for each part, and for the rest."""
        seconds = {part: self.seconds[part] for part in parts}
        seconds["the rest"] = self.seconds["all"] - sum(seconds.values())
        return [{"name": f"{name}, {part}", "value": value, "unit": "s"} for part, value in seconds.items()]


def recede(command: str, *arguments: str) -> None:
    """Run a command and print it. Exits with its status if it fails."""
    from recede.commands.main import main as run

    print("recede", command, *arguments, flush=True)
    if status := run([command, *arguments]):
        raise SystemExit(status)


def report(rows: list[Row], path: Path | None) -> None:
    """Print the processor and the rows as a table. Write both to `path` as JSON, unless it is None."""
    name = processor(device("auto"))
    print(name)
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        print(f"{row['name']:<{width}}  {row['value']:>14,.2f}  {row['unit']}")
    if path is not None:
        path.write_text(json.dumps({"processor": name, "rows": rows}, indent=2) + "\n")
