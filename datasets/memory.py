"""How much memory this process may still take, by every limit that Linux sets it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

LIMITS = {"Max data size": "VmData", "Max address space": "VmSize"}
"""Limits of a process (setrlimit) -> what counts towards each."""


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take; None if the system does not say.

    The least of what the machine has available, and of what the limits of the process and of its control groups
    (versions 1 and 2, and those about them) leave. Files in the cache of a group count as free, because the system
    gives them up. root: of the file system.
    """
    available = [1024 * int(line.split()[1]) for line in _lines(root / "proc/meminfo") if line.startswith("MemAvail")]
    return min((max(free, 0) for free in [*available, *_of_process(root), *_of_groups(root)]), default=None)


def _of_process(root: Path) -> Iterator[int]:
    """What the limits of the process leave."""
    status = dict(line.split(":", 1) for line in _lines(root / "proc/self/status") if ":" in line)
    for line in _lines(root / "proc/self/limits"):
        for limit, used in LIMITS.items():
            soft = line.removeprefix(limit).split()[:1]
            if line.startswith(limit) and soft[0].isdigit() and used in status:
                yield int(soft[0]) - 1024 * int(status[used].split()[0])


def _of_groups(root: Path) -> Iterator[int]:
    """What the limits of the control groups leave."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        groups = root / "sys/fs/cgroup"
        names = ("memory.max", "memory.current", "")
        if controllers:
            groups, names = groups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        if "memory" in controllers or not controllers:
            inner = groups / path.strip("/")
            for group in (inner, *inner.parents):  # a container shows its own group as the root
                if group.is_relative_to(groups):
                    yield from _of_group(group, *names)


def _of_group(group: Path, limit: str, used: str, prefix: str) -> Iterator[int]:
    most, now = _lines(group / limit), _lines(group / used)
    if most and now and most[0].isdigit():
        stat = dict(line.split() for line in _lines(group / "memory.stat"))
        files = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        yield int(most[0]) - int(now[0]) + files


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
