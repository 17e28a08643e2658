"""`recede demo`: the whole path on the embedded task, from recording demonstrations to a report."""

from __future__ import annotations

from pathlib import Path

from ..configs.schema import DemoConfig, DiffusionConfig, EvaluateConfig, RegressionConfig, TrainConfig, load_task

TASK = "pick_place"


def run(config: DemoConfig) -> None:
    """Record, train a diffusion and a regression policy on the same data, evaluate both, and report."""
    from ..evaluation.collection import collect
    from ..training.loop import train
    from .evaluate import measure, report

    out = Path(config.out)
    dataset = out / "demonstrations.zarr"
    out.mkdir(parents=True, exist_ok=True)
    collect(load_task(TASK), dataset, episodes=config.episodes)
    measured = []
    for policy, steps in ((DiffusionConfig(), config.steps), (RegressionConfig(), config.regression_steps)):
        name = type(policy).__name__.removesuffix("Config").lower()
        print(f"\n{name} policy: {steps} training steps, then {config.evaluate_episodes} episodes on unseen seeds")
        folder = str(out / name)
        train(
            TrainConfig(
                task=TASK,
                dataset=str(dataset),
                out=folder,
                policy=policy,
                steps=steps,
                seed=config.seed,
                device=config.device,
            )
        )
        measured.append(measure(EvaluateConfig(run=folder, episodes=config.evaluate_episodes, device=config.device)))
    report(out, measured, command="recede demo")
