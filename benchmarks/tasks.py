"""How often the scripted experts of our tasks succeed, and a film strip of each: five frames of one episode.

    python benchmarks/tasks.py FOLDER [json=FILE]

Writes FOLDER/task-NAME.png for the tasks with an expert. The frames are evenly spaced from the first step to the last.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray
from recede.benchmarks.measure import Row, output, report
from recede.envs.catalogue import TASKS, load_task
from recede.envs.task import Task
from recede.evaluation.intervals import wilson

EPISODES = 100
FRAMES, SIZE = 5, 320
"""Frames of a strip, and the side length of a frame in pixels."""
CROP = slice(4, 312)
"""Rows of a frame that are shown; nothing but the background is above and below them."""
GAP = 4
"""White columns between two frames."""
FILMED = {"sort": 1, "stack": 3}
"""Task -> the seed of the episode that is filmed, if it is not the first."""
ALIKE = "_joints"
"""The end of the names of tasks that are not filmed: they look as those without it."""


def episode(task: Task, env: Any, seed: int) -> tuple[bool, int, list[NDArray[np.uint8]]]:
    """Whether the expert succeeds in an episode, its number of steps, and a frame of each if `env` renders."""
    assert task.expert is not None
    expert, is_over, frames = task.expert(seed), False, list[NDArray[np.uint8]]()
    _, info = env.reset(seed=seed)
    while True:
        frames.append(env.render())
        if is_over:
            return info["success"], len(frames) - 1, frames
        _, _, terminated, truncated, info = env.step(expert(info["state"]))
        is_over = terminated or truncated


def strip(task: Task, seed: int) -> NDArray[np.uint8]:
    """The film strip of an episode, (H, W, 3)."""
    env = task.make(render_mode="rgb_array", render_size=SIZE)
    frames = episode(task, env, seed)[2]
    env.close()
    shown = [frames[step][CROP] for step in np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)]
    white = np.full((len(shown[0]), GAP, 3), 255, np.uint8)
    return np.concatenate([part for frame in shown for part in (white, frame)][1:], axis=1)


def main() -> None:
    """Draw the strips, and print the table of successes and lengths."""
    folder, *rest = sys.argv[1:]
    path, rows = output(rest), list[Row]()
    for name in TASKS:
        task = load_task(name)
        if task.expert is None or any(stream.is_image for stream in task.specification.observations):
            continue
        if not name.endswith(ALIKE):
            imageio.imwrite(Path(folder) / f"task-{name}.png", strip(task, FILMED.get(name, 0)))
        env = task.make()
        results = [episode(task, env, seed) for seed in range(EPISODES)]
        successes = sum(success for success, _, _ in results)
        low, high = wilson(successes, EPISODES)
        unit = f"% of {EPISODES} episodes [{100 * low:.0f}, {100 * high:.0f}]"
        rows.append({"name": f"{name}, success", "value": 100 * successes / EPISODES, "unit": unit})
        rows.append({"name": f"{name}, median", "value": float(np.median([r[1] for r in results])), "unit": "steps"})
    report(rows, path)


if __name__ == "__main__":
    main()
