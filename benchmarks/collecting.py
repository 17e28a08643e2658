"""Demonstrations of a scripted expert per second, in the worlds of the task and one by one.

    python benchmarks/collecting.py [json=FILE]

Both ways are `recede collect` into a new store, in turn, and are divided into physics, the expert, writing and the
rest. The stores are equal.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from recede.benchmarks.measure import Parts, Row, output, report
from recede.datasets.store import DemonstrationStore
from recede.envs.catalogue import load_task
from recede.envs.experts.pick_place import PickPlaceExpert
from recede.envs.physics import mujoco
from recede.envs.task import Task
from recede.recording.scripted import collect

TASK = "pick_place"
EPISODES, TURNS = 1000, 5
"""The demonstrations in the worlds, and the turns that they take."""
ONE_BY_ONE = 100
"""The demonstrations one by one."""
PARTS = ("physics", "the expert", "writing")


def measure(task: Task, path: Path, episodes: int, parts: Parts) -> None:
    """Record so many more demonstrations into a store; adds to the seconds of the parts."""
    held = len(DemonstrationStore.open(path)) if path.exists() else 0
    methods = [
        (import_module("mujoco.batch").Batch, "step", "physics"),
        (mujoco, "mj_step", "physics"),
        (PickPlaceExpert, "__call__", "the expert"),
        (DemonstrationStore, "append_many", "writing"),
    ]
    with parts.timed(methods):
        collect(task, path, episodes=held + episodes, first_seed=0, images="zstd")


def content(path: Path, name: str, steps: int) -> bytes:
    """The first steps of a stream."""
    return DemonstrationStore.open(path).read(name, 0, steps).tobytes()


def main() -> None:
    """Let both ways take turns, and print the table."""
    path, task = output(sys.argv[1:]), load_task(TASK)
    ways = {"one by one": (replace(task, make_batch=None), ONE_BY_ONE), "at once": (task, EPISODES)}
    parts, rows, rates = {way: Parts() for way in ways}, list[Row](), dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        stores = {way: Path(folder) / f"{way}.zarr" for way in ways}
        for _ in range(TURNS):
            for way, (variant, episodes) in ways.items():
                measure(variant, stores[way], episodes // TURNS, parts[way])
        steps = DemonstrationStore.open(stores["one by one"]).num_steps
        for stream in task.specification.streams:
            alike = {content(store, stream.name, steps) for store in stores.values()}
            assert len(alike) == 1, "both ways record the same"
    for way, (_, episodes) in ways.items():
        rates[way] = episodes / parts[way].seconds["all"]
        rows += parts[way].rows(f"{way}, {episodes} demonstrations", PARTS)
        rows.append({"name": f"{way}, demonstrations", "value": rates[way], "unit": "1/s"})
    rows.append({"name": "at once / one by one", "value": rates["at once"] / rates["one by one"], "unit": "x"})
    report(rows, path)


if __name__ == "__main__":
    main()
