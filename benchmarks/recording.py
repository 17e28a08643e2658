"""What the first and the last of many episodes cost: milliseconds from the end of one until the next one can begin, and
those of the processor for the process that writes, which a busy machine does not change much.

    python benchmarks/recording.py [json=FILE]

The steps of an episode come `SPEED` times faster than a camera of 30 pictures a second gives them, and are written by
the process of `recede record` meanwhile.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
from recede.benchmarks.measure import Row, output, report
from recede.control.alignment import Alignment
from recede.control.loop import Tick
from recede.datasets.facts import EpisodeFacts
from recede.datasets.store import DemonstrationStore
from recede.recording.writing import Recorder
from recede.robots.interface import Reading
from recede.specification import Specification, Stream

EPISODES = 200
"""Episodes of a store."""

STEPS = 300
"""Steps of an episode."""

FEW = 10
"""The first and the last episodes of which the median counts."""

SIZE = 96
"""Side length of the images."""

DT = 1 / 30
"""Duration of a step, s."""

SPEED = 20.0
"""How many times faster than in real time the steps come."""


def specification(*, has_images: bool) -> Specification:
    """A robot of six joints, with or without a camera."""
    camera = (Stream("camera", (SIZE, SIZE, 3), "uint8"),) if has_images else ()
    return Specification(
        (Stream("joints", (6,), low=-3.2, high=3.2), *camera), Stream("action", (6,), low=-3.2, high=3.2), DT
    )


def processor_s(pid: int) -> float:
    """Seconds of the processor that a process has taken, by proc(5)."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def costs(folder: Path, *, has_images: bool) -> list[tuple[float, float]]:
    """For each episode in turn, the seconds from its end until the next one has begun, and those of the processor."""
    robot, rng = specification(has_images=has_images), np.random.default_rng(0)
    taken = list[tuple[float, float]]()
    store = DemonstrationStore.create(folder / f"images-{has_images}.zarr", robot)
    with closing(Recorder(store, 0.0)) as recorder:
        recorder.begin()
        for _ in range(EPISODES):
            alignment, before = Alignment(robot), processor_s(recorder.pid)
            begin = time.perf_counter()
            for step in range(STEPS):
                moment = step * DT
                readings = {"joints": Reading(rng.uniform(-3, 3, 6).astype(np.float32), moment)}
                if has_images:
                    picture = rng.integers(0, 256, (SIZE // 8, SIZE // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
                    readings["camera"] = Reading(picture, moment)
                alignment.add(readings, moment)
                tick = Tick(moment, 0.0, 0.0, readings["joints"].value, 0, 0.0, 0.0)
                recorder.tick(tick, alignment, action=tick.command, position=np.zeros(6), most=np.inf)
                time.sleep(max(0.0, begin + moment / SPEED - time.perf_counter()))
            ended = time.perf_counter()
            if recorder.end() != STEPS:
                raise RuntimeError(f"the disk does not keep up with {SPEED:g} times the speed: {recorder.fault}")
            recorder.keep(EpisodeFacts(outcome="success", operator="benchmark"), seed=-1)
            recorder.begin()
            taken.append((time.perf_counter() - ended, processor_s(recorder.pid) - before))
        recorder.discard()
    return taken


def main() -> None:
    """Print the table, and write it to `json=FILE`."""
    path, rows = output(sys.argv[1:]), list[Row]()
    for name, has_images in (("joints", False), (f"joints and {SIZE} x {SIZE} pixels", True)):
        with tempfile.TemporaryDirectory() as folder:
            taken = costs(Path(folder), has_images=has_images)
        for what, values in zip(("end to ready", "processor"), zip(*taken, strict=True), strict=True):
            rows += [
                Row(name=f"{name}: episode 1, {what}", value=1e3 * median(values[:FEW]), unit="ms"),
                Row(name=f"{name}: episode {EPISODES}, {what}", value=1e3 * median(values[-FEW:]), unit="ms"),
                Row(name=f"{name}: longest, {what}", value=1e3 * max(values), unit="ms"),
            ]
    report(rows, path)


if __name__ == "__main__":
    main()
