"""`recede demo`: from demonstrations of the embedded task to a report on two policies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..configs.components.policies import DiffusionConfig, RegressionConfig
from ..configs.datasets import CollectConfig
from ..configs.evaluation import EvaluateConfig
from ..configs.notation import command_line, shown
from ..configs.training import DemoConfig, TrainConfig
from ..envs.catalogue import load_task
from ..policy.device import device
from .next_lines import print_next

if TYPE_CHECKING:
    from ..evaluation.results import Measurement

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
    from ..evaluation.reports.evaluation import verdict
    from ..evaluation.writing import report_entry, write_results
    from ..recording.scripted import collect

    print(f"{TASK}: a gripper carries a cube round a wall, on either side. Ctrl-C stops this, the same command goes on")
    dataset = str(out / "demonstrations.zarr")
    print(f"[1/4] record {config.episodes} demonstrations by a script that knows the way: {dataset}")
    collect(
        load_task(TASK),
        Path(dataset),
        episodes=config.episodes,
        first_seed=CollectConfig.first_seed,
        images=CollectConfig.images,
    )
    print(f"[2/4] a diffusion policy, which learns both ways: {_run(out, DiffusionConfig())}")
    diffusion = _measured(config, out, DiffusionConfig(), steps=config.steps, videos=3)
    print(f"[3/4] a regression policy with the same network, which learns their mean: {_run(out, RegressionConfig())}")
    regression = _measured(config, out, RegressionConfig(), steps=config.regression_steps, videos=0)
    print("[4/4] the report, with films and with action chunks that both policies sample")
    measured, folder = [diffusion, regression], str(diffusion.folder)
    next_steps = [
        (shown("evaluate", folder, episodes=200), "the same policy on more seeds, for a narrower interval"),
        (shown("inspect", dataset), "the demonstrations"),
        (shown("train", task=TASK, dataset=dataset, out="runs/longer", steps=6000), "train longer"),
        (
            "recede train dataset=my.zarr out=runs/mine",
            "your own demonstrations; docs/your_data.md shows how to store them",
        ),
    ]
    write_results(
        out,
        measured,
        title="pick_place, from demonstrations to a policy",
        command=command_line("demo", config),
        next_steps=next_steps,
    )
    print(verdict([report_entry(one) for one in measured]))
    print(f"report: {out / 'report.html'}")
    print_next(next_steps[0][0])


def _run(out: Path, policy: DiffusionConfig | RegressionConfig) -> str:
    """The run folder of a policy."""
    return str(out / type(policy).__name__.removesuffix("Config").lower())


def _measured(
    config: DemoConfig, out: Path, policy: DiffusionConfig | RegressionConfig, *, steps: int, videos: int
) -> Measurement:
    """Train a policy and evaluate it. videos: episodes to film."""
    from ..evaluation.results import measure
    from ..training.loop import train

    train(
        TrainConfig(
            task=TASK,
            dataset=str(out / "demonstrations.zarr"),
            out=_run(out, policy),
            policy=policy,
            steps=steps,
            seed=config.seed,
            validate_every=100,
            device=config.device,
        )
    )
    evaluation = EvaluateConfig(
        run=_run(out, policy), episodes=config.evaluate_episodes, videos=videos, device=config.device
    )
    measurement = measure(evaluation)
    print(measurement.evaluation)
    return measurement
