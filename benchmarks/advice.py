"""What the settings that `recede train` chooses are worth: closed-loop success beside fixed settings.

    pip install metaworld gymnasium-robotics
    PYTHONPATH=benchmarks python benchmarks/advice.py FOLDER [TASK ...] [json=FILE]

For each task, by default all of `TASKS`: records demonstrations of its shaking expert, trains `SEEDS` policies with
what the rules choose and as many with the fixed settings `FIXED`, whose steps cost the same arithmetic; and evaluates
each on `EPISODES` seeds that nothing else has used. The expert shakes as much when it is measured on its own. The
arithmetic is counted by torch, as FLOPs of the forward and the backward pass of one update. A command that was
interrupted goes on where it stopped: trainings and evaluations that are there are not repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from recede.benchmarks.measure import Row, output, report
from recede.commands.main import main as run
from recede.configs.training import TrainConfig
from recede.envs.catalogue import load_task
from recede.envs.faults import RunningEnv
from recede.evaluation.intervals import over_trainings, wilson
from recede.files import read_json
from recede.recording.scripted import demonstrate
from recede.training.advice import setting, with_setting
from recede.training.loop import draw_parts, prepare
from torch.utils.flop_counter import FlopCounterMode

TASKS = {
    "third_party:pick_place": 60,
    "third_party:peg": 30,
    "third_party:hammer": 60,
    "third_party:fetch_pick": 60,
}
"""Task -> number of demonstrations."""
EPISODES, SEEDS = 100, (0, 1, 2)
FIRST_SEED = 500_000
"""Seed of the first episode of an evaluation. Demonstrations start at 0."""
OPTIONS: tuple[str, ...] = ()
"""More arguments of every training."""
EVALUATION = ("videos=0",)
"""More arguments of every evaluation."""
FIXED: dict[str, Any] = {
    "horizons.observation": 2,
    "horizons.prediction": 16,
    "horizons.action": 8,
    "policy.network.channels": [64, 128, 256],
    "batch_size": 256,
    "ema_maximum": 0.9999,
}
"""The settings before any was chosen from the demonstrations."""


def main() -> None:
    """Train, evaluate and print a table. Every command is printed before it runs."""
    folder, *rest = sys.argv[1:]
    tasks = [argument for argument in rest if "=" not in argument] or TASKS
    path = output([argument for argument in rest if "=" in argument])
    rows = [row for task in tasks for row in compare(task, Path(folder) / task.rpartition(":")[2])]
    report(rows, path)


def compare(task: str, folder: Path) -> Iterator[Row]:
    """The rows of one task."""
    dataset = folder / "demonstrations.zarr"
    recede("collect", f"task={task}", f"out={dataset}", f"episodes={TASKS[task]}")
    successes = expert_successes(task)
    low, high = wilson(successes, EPISODES)
    yield Row(name=f"{task}, expert", value=100 * successes / EPISODES, unit=f"% [{100 * low:.0f}, {100 * high:.0f}]")
    common = [f"task={task}", f"dataset={dataset}", "save_every=1000000", "validate_every=250", *OPTIONS]
    chosen = [[*common, f"seed={seed}", f"out={folder / f'chosen-{seed}'}"] for seed in SEEDS]
    for arguments in chosen:
        recede("train", *arguments)
    config = read_json(folder / f"chosen-{SEEDS[0]}" / "config.json")
    total = config["steps"] * update_flops(task, dataset, {})
    steps = round(total / update_flops(task, dataset, FIXED))
    settings = [f"{key}={value}".replace(" ", "") for key, value in FIXED.items()]
    for seed in SEEDS:
        recede("train", *common, *settings, f"seed={seed}", f"steps={steps}", f"out={folder / f'fixed-{seed}'}")
    yield Row(name=f"{task}, arithmetic of a training", value=total / 1e12, unit="TFLOP")
    yield Row(name=f"{task}, chosen, updates", value=config["steps"], unit=f"of {config['batch_size']} windows")
    yield Row(name=f"{task}, fixed, updates", value=steps, unit=f"of {FIXED['batch_size']} windows")
    for name in ("chosen", "fixed"):
        rates = [evaluated(task, folder / f"{name}-{seed}") for seed in SEEDS]
        mean = sum(rates) / len(rates)
        within = wilson(round(mean * EPISODES * len(rates)), EPISODES * len(rates))
        low, high = over_trainings(rates, within)
        listed = ", ".join(f"{100 * rate:.0f}" for rate in rates)
        yield Row(name=f"{task}, {name}", value=100 * mean, unit=f"% [{100 * low:.0f}, {100 * high:.0f}] of {listed}")


def recede(command: str, *arguments: str) -> None:
    """Run a command and print it. Exits with its status if it fails."""
    print("recede", command, *arguments, flush=True)
    if status := run([command, *arguments]):
        raise SystemExit(status)


def expert_successes(task: str) -> int:
    """How many of the evaluation's episodes the shaking expert solves."""
    loaded = load_task(task)
    env = RunningEnv(loaded.make, loaded.specification)
    successes = sum(demonstrate(loaded, env, seed).success for seed in range(FIRST_SEED, FIRST_SEED + EPISODES))
    env.close()
    return successes


def evaluated(task: str, run: Path) -> float:
    """The success rate of a run."""
    out = run.with_name(f"{run.name}-evaluation")
    if not (out / "evaluation.json").exists():
        seeds = [f"episodes={EPISODES}", f"first_seed={FIRST_SEED}"]
        recede("evaluate", str(run), f"task={task}", *seeds, *EVALUATION, f"out={out}")
    return read_json(out / "evaluation.json")["success_rate"]


def update_flops(task: str, dataset: Path, settings: dict[str, Any]) -> int:
    """FLOPs of the forward and the backward pass of one update."""
    config = TrainConfig(task=task, dataset=str(dataset), out=str(dataset.with_name("none")), device="cpu")
    for key, value in settings.items():
        config = with_setting(config, key, value)
    prepared = prepare(config)
    indices = torch.arange(setting(prepared.config, "batch_size")) % len(prepared.windows)
    [part] = draw_parts(prepared, prepared.policy, indices, 0, torch.Generator())
    prepared.policy.eval()  # our layers for training on a CPU hide products from the counter; torch's cost the same
    with FlopCounterMode(display=False) as counter:
        prepared.policy.loss(part.lesson).mean().backward()
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
