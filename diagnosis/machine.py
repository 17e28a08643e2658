"""The machine: system, cores and threads, memory and disk."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..datasets.memory import free_memory
from ..envs.faults import one_line
from ..policy.engines.interface import num_threads
from .report import Facts, Finding

GB = 1e9

LITTLE_MEMORY, LITTLE_DISK = 2 * GB, 5 * GB
"""Free bytes below which a training is likely to run out of them."""

NO_DISK = 0.2 * GB
"""Free bytes below which no run can be written."""

SHOWN_VARIABLES = ("OMP_NUM_THREADS", "MUJOCO_GL", "PYOPENGL_PLATFORM", "CUDA_VISIBLE_DEVICES")
"""The only variables of the environment that are reported. None of them holds a secret."""


def look_at_machine(facts: Facts) -> Iterator[Finding]:
    """System, cores, threads, free memory and free disk."""
    system = f"{platform.system()} {platform.release()} on {platform.machine()}"
    facts |= {"python": platform.python_version(), "system": system, "processor": processor_name()}
    facts["variables"] = {name: os.environ[name] for name in SHOWN_VARIABLES if name in os.environ}
    yield Finding("ok", f"Python {facts['python']}, {system}, {facts['processor']}")
    yield from _cores(facts)
    yield from _memory(facts)
    yield from _disks(facts)


def processor_name() -> str:
    """The name of the processor, as Linux writes it; elsewhere what Python knows."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> tuple[int, float]:
    """Cores on which this process may run, and how many of them its container lets it use at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = "".join(_lines(Path("/sys/fs/cgroup/cpu.max"))).partition(" ")
    return cores, min(cores, int(quota) / int(period)) if quota.isdigit() and period.isdigit() else cores


def _cores(facts: Facts) -> Iterator[Finding]:
    (cores, allowed), threads = usable_cores(), num_threads()
    facts |= {"cores": cores, "cores that may be busy": allowed, "threads": threads or "all cores"}
    text, remedy = os.environ.get("OMP_NUM_THREADS", ""), f"set OMP_NUM_THREADS={max(int(allowed), 1)}"
    if text and not text.isdigit():
        yield Finding("warning", f"OMP_NUM_THREADS={text} is no number, so libraries choose as they like", remedy)
    elif (threads or cores) > allowed:
        what = f"libraries start {threads or cores} threads, but only {allowed:g} cores may be busy"
        yield Finding("warning", what, f"{remedy}: threads that wait for a core slow all others down")
    else:
        yield Finding(
            "ok",
            f"{allowed:g} cores, and as many threads"
            if not threads
            else f"{allowed:g} cores, OMP_NUM_THREADS={threads}",
        )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _memory(facts: Facts) -> Iterator[Finding]:
    free = free_memory()
    facts["free memory, GB"] = None if free is None else round(free / GB, 1)
    if free is None:
        return
    text = f"{free / GB:.1f} GB of memory are free"
    if free < LITTLE_MEMORY:
        yield Finding("warning", text, "end other programs, or train with a smaller batch_size and image_cache=mapped")
    else:
        yield Finding("ok", text)


def _disks(facts: Facts) -> Iterator[Finding]:
    facts["free disk, GB"] = {}
    for name, folder in (("here", Path.cwd()), ("for temporary files", Path(tempfile.gettempdir()))):
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            yield Finding("problem", f"{folder} cannot be read: {one_line(str(error))}", "use another folder")
            continue
        facts["free disk, GB"][name] = round(free / GB, 1)
        text, remedy = f"{free / GB:.1f} GB of disk are free {name}", f"free some space in {folder}"
        severity = "problem" if free < NO_DISK else "warning" if free < LITTLE_DISK else "ok"
        yield Finding(severity, text, "" if severity == "ok" else remedy)
