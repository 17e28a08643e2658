"""`recede demo`: from demonstrations of the embedded task to a report on two policies."""

from __future__ import annotations

from pathlib import Path

from ..configs.components.policies import DiffusionConfig, RegressionConfig
from ..configs.datasets import CollectConfig
from ..configs.evaluation import EvaluateConfig
from ..configs.notation import command_line, shown
from ..configs.training import DemoConfig, TrainConfig
from ..envs.catalogue import load_task
from ..policy.device import device

TASK = "pick_place"


def run(config: DemoConfig) -> None:
    """Record demonstrations, train a diffusion and a regression policy on them, evaluate both, and report.

    Raises ValueError if another demo writes to the same folder.
    """
    from ..files import check_writable, exclusive

    check_writable(Path(config.out))
    device(config.device)  # raises before anything is recorded
    with exclusive(Path(config.out), "being written"):
        _demonstrate(config, Path(config.out))


def _demonstrate(config: DemoConfig, out: Path) -> None:
    from ..evaluation.results import measure
    from ..evaluation.writing import write_results
    from ..recording.scripted import collect
    from ..training.loop import train

    dataset = str(out / "demonstrations.zarr")
    collect(
        load_task(TASK),
        Path(dataset),
        episodes=config.episodes,
        first_seed=CollectConfig.first_seed,
        images=CollectConfig.images,
    )
    measured = []
    for policy, steps in (
        (DiffusionConfig(), config.steps),
        (RegressionConfig(), config.regression_steps),
    ):
        run_folder = str(out / type(policy).__name__.removesuffix("Config").lower())
        print(f"\n{run_folder}: {steps} training steps, then {config.evaluate_episodes} episodes on unseen seeds")
        train(
            TrainConfig(
                task=TASK,
                dataset=dataset,
                out=run_folder,
                policy=policy,
                steps=steps,
                seed=config.seed,
                validate_every=100,
                device=config.device,
            )
        )
        videos = 0 if measured else 3  # the report shows films of the first policy only
        evaluation = EvaluateConfig(
            run=run_folder, episodes=config.evaluate_episodes, videos=videos, device=config.device
        )
        measured.append(measure(evaluation))
        print(measured[-1].evaluation)
    first = measured[0].folder
    write_results(
        out,
        measured,
        title="pick_place, from demonstrations to a policy",
        command=command_line("demo", config),
        next_steps=[
            (shown("evaluate", str(first), episodes=200), "the same policy on more seeds, for a narrower interval"),
            (shown("inspect", dataset), "the demonstrations"),
            (shown("train", task=TASK, dataset=dataset, out="runs/longer", steps=6000), "train longer"),
            (
                "recede train dataset=my.zarr out=runs/mine",
                "your own demonstrations; docs/your_data.md shows how to store them",
            ),
        ],
    )
    print(f"\nreport: {out / 'report.html'}")
