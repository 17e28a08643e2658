"""Closed-loop episodes of an evaluation, as today and in the older way, in turn.

    python benchmarks/evaluation.py [json=FILE]

Today an evaluation runs in the worlds of the task, and predicts on all processors: as many episodes at once as by
default, and `MANY`. The older way is all that the
library had before: an environment for each of 64 episodes, stepped one after the other on one thread, which also
predicts all due chunks at once, by torch's own layers. `one by one` runs a few episodes after one another in that way.

The policy is the default U-Net with DDIM of 10 steps, without training, so its episodes run to their last step. Each
way is divided into physics, rendering, prediction and the rest: readings, executions, histories and checks. The scores
of both differ by rounding. The command is `recede evaluate` with as many episodes of such a policy. Of the task with
images, rendering and prediction are also measured in turn and at once: what would be gained at most if one half of the
episodes were rendered while the policy plans for the other half.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recede.benchmarks.measure import Parts, Row, interleaved_medians, output, recede, report
from recede.configs.components.encoders import ResNetEncoderConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.configs.evaluation import EvaluateConfig
from recede.envs.catalogue import load_task
from recede.envs.physics import Cameras, mujoco
from recede.envs.task import Task
from recede.evaluation.groups import ROWS
from recede.evaluation.rollout import rollout
from recede.execution.receding import RecedingHorizon
from recede.policy.denoising.guidance import Guidance
from recede.policy.engines.eager import EagerEngine, as_engine
from recede.policy.engines.interface import Arrays, Engine
from recede.policy.networks import cpu_training
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons

TASK = "pick_place"
EPISODES, TURNS = 500, 2
"""All episodes of each way, and the turns that they take."""
MANY = 250
"""The episodes at once that `parallel=` asks for: all of a turn."""
ONE_BY_ONE = 10
"""The episodes one after the other."""
IMAGE_EPISODES = 16
"""The episodes of the task with images; one turn."""
CHANNELS = (64, 128, 256)
ENCODER: dict[str, Any] = {}
SECONDS = 20.0
"""Seconds in which rendering and prediction take turns."""
PARTS = ("physics", "rendering", "prediction")


def default_policy(task: Task) -> Any:
    """The default policy of a task before its training."""
    torch.manual_seed(0)
    streams = [stream for stream in task.specification.streams if not stream.is_image]
    ranges = {stream.name: (np.array(stream.low), np.array(stream.high)) for stream in streams}
    has_images = len(streams) < len(task.specification.streams)
    encoder: dict[str, Any] = {"encoder": ResNetEncoderConfig(**ENCODER)} if has_images else {}
    config = DiffusionConfig(network=UNet1dConfig(channels=list(CHANNELS)), **encoder)
    return config.build(task.specification, Horizons(), Normalizer(task.specification, ranges)).eval()


class OlderEngine(EagerEngine):
    """PyTorch by its own layers, on one thread."""

    name = "older"

    def predict(self, observation: Arrays, noise: NDArray[Any], guidance: Sequence[Guidance] = ()) -> NDArray[Any]:
        """See `Engine.predict`."""
        count = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with cpu_training.left_out():
                return super().predict(observation, noise, guidance)
        finally:
            torch.set_num_threads(count)


def methods() -> list[tuple[Any, str, str]]:
    """The methods that are the parts of an evaluation; prediction begins and ends on the thread that steps."""
    batch, today = import_module("mujoco.batch").Batch, import_module("recede.evaluation.rollout")
    physics = [(batch, "step", "physics"), (mujoco, "mj_step", "physics")]
    prediction = [(OlderEngine, "predict", "prediction"), (today, "_in_threads", "prediction")]
    return [*physics, (Cameras, "picture", "rendering"), *prediction]


def measure(
    task: Task, engine: Engine, seeds: Sequence[int], parts: Parts, *, num_parallel: int = EvaluateConfig.parallel
) -> list[Any]:
    """The outcomes of episodes; adds to the seconds of the parts."""
    execution = partial(RecedingHorizon, engine.horizons)
    with parts.timed(methods()):
        return rollout(engine, task, seeds, execution=execution, num_parallel=num_parallel, progress=False)


def compared(name: str, *, episodes: int, turns: int, many: int | None = None) -> list[Row]:
    """Let the ways take turns; their parts, and what is gained. many: the episodes at once of a further way."""
    task = load_task(name)
    policy = default_policy(task)
    few, engine = EvaluateConfig.parallel, EagerEngine(policy)
    ways: dict[str, tuple[Task, Engine, int]] = {
        "the older way": (replace(task, make_batch=None), OlderEngine(policy), few),
        "today": (task, engine, few),
        **({} if many is None else {f"today, parallel={many}": (task, engine, many)}),
    }
    parts, lengths = {way: Parts() for way in ways}, dict[str, list[int]]()
    size = episodes // turns
    for first in range(0, size * turns, size):
        for way, (world, one, count) in ways.items():
            outcomes = measure(world, one, range(first, first + size), parts[way], num_parallel=count)
            lengths[way] = [outcome.num_steps for outcome in outcomes]
        assert all(some == lengths["today"] for some in lengths.values()), "all ways take as many steps"
    rows = list[Row]()
    before = parts["the older way"].seconds
    for way in ways:
        rows += parts[way].rows(f"{name}, {way}", PARTS)
        rate = size * turns / parts[way].seconds["all"]
        rows.append({"name": f"{name}, {way}, episodes", "value": rate, "unit": "1/s"})
    for way in list(ways)[1:]:
        ours = parts[way].seconds
        ratios = {
            f"the older way / {way}, all": before["all"] / ours["all"],
            f"the older way / {way}, without prediction": (before["all"] - before["prediction"])
            / (ours["all"] - ours["prediction"]),
            f"{way} / its physics, rendering and prediction": ours["all"] / sum(ours[part] for part in PARTS),
        }
        rows.extend({"name": f"{name}, {what}", "value": ratio, "unit": "x"} for what, ratio in ratios.items())
    return rows


def one_by_one() -> list[Row]:
    """A few episodes, one after the other in one environment, in the older way."""
    task, parts = replace(load_task(TASK), make_batch=None), Parts()
    measure(task, OlderEngine(default_policy(task)), range(ONE_BY_ONE), parts, num_parallel=1)
    rate = ONE_BY_ONE / parts.seconds["all"]
    return [
        *parts.rows(f"{TASK}, one by one", PARTS),
        {"name": f"{TASK}, one by one, episodes", "value": rate, "unit": "1/s"},
    ]


def command(folder: Path) -> list[Row]:
    """All of the command, which also opens the policy, measures its latency and writes the report."""
    demonstrations, run, parts = folder / "demonstrations.zarr", folder / "run", Parts()
    recede("collect", f"task={TASK}", "episodes=2", f"out={demonstrations}")
    channels = f"policy.network.channels={list(CHANNELS)}".replace(" ", "")
    options = ("steps=1", "device=cpu", "horizons.observation=2", channels)
    recede("train", f"task={TASK}", f"dataset={demonstrations}", f"out={run}", *options)
    with parts.timed(methods()):
        recede("evaluate", str(run), f"episodes={EPISODES}", "videos=0", "device=cpu")
    rate = EPISODES / parts.seconds["all"]
    return [
        *parts.rows(f"{TASK}, the command", PARTS),
        {"name": f"{TASK}, the command, episodes", "value": rate, "unit": "1/s"},
    ]


def overlap(name: str) -> list[Row]:
    """Seconds to draw all images that one prediction of `ROWS` rows needs, and to predict, in turn and at once."""
    task = load_task(name)
    engine, steps = as_engine(default_policy(task)), Horizons().observation
    observation = {s.name: np.zeros((ROWS, steps, *s.shape), s.dtype) for s in task.specification.observations}
    draws, *shape = engine.noise_shape
    predict = partial(engine.predict, observation, np.zeros((draws, ROWS, *shape), np.float32))
    with ThreadPoolExecutor(1) as pool:  # a renderer belongs to one thread
        env: Any = pool.submit(task.make).result()
        pool.submit(env.reset, seed=0).result()

        def draw() -> None:
            for _ in range(ROWS * steps):
                env.images({})

        def in_turn() -> None:
            pool.submit(draw).result()
            predict()

        def at_once() -> None:
            drawing = pool.submit(draw)
            predict()
            drawing.result()

        works: list[Callable[[], object]] = [lambda: pool.submit(draw).result(), predict, in_turn, at_once]
        seconds = interleaved_medians(works, seconds=SECONDS)
        pool.submit(env.close).result()
    names = ("rendering", "prediction", "rendering, then prediction", "rendering and prediction at once")
    return [
        {"name": f"{name}, {ROWS} rows, {what}", "value": 1e3 * value, "unit": "ms"}
        for what, value in zip(names, seconds, strict=True)
    ]


def main() -> None:
    """Measure and print the table."""
    path, images = output(sys.argv[1:]), f"{TASK}_image"
    rows = [*compared(TASK, episodes=EPISODES, turns=TURNS, many=MANY), *one_by_one()]
    rows += [*compared(images, episodes=IMAGE_EPISODES, turns=1), *overlap(images)]
    with tempfile.TemporaryDirectory() as folder:
        rows += command(Path(folder))
    rates = {row["name"]: row["value"] for row in rows if row["unit"] == "1/s"}
    ratio = rates[f"{TASK}, the command, episodes"] / rates[f"{TASK}, the older way, episodes"]
    rows.append({"name": f"{TASK}, the older way / the command", "value": ratio, "unit": "x"})
    report(rows, path)


if __name__ == "__main__":
    main()
