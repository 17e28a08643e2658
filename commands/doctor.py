"""`recede doctor`: say what works here and what does not, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..configs.diagnosis import DoctorConfig
from ..diagnosis.report import Facts, Finding, Report
from ..files import write_json
from .check import check_chosen

if TYPE_CHECKING:
    from ..diagnosis.trained import Trained


def run(config: DoctorConfig) -> int:
    """Look at everything that the configuration names; 1 if there is a problem, else 0.

    Raises FileNotFoundError or ValueError, before anything is tried, if `path` is neither a store nor a run.
    """
    kind = None if config.path is None else kind_of(Path(config.path))
    if kind == "store" and config.dataset is not None:
        raise ValueError(f"dataset={config.dataset} is for a run, and {config.path} is a store: leave it out")
    if config.json is not None and not Path(config.json).absolute().parent.is_dir():
        raise ValueError(f"json must be a file in a folder that exists, got {config.json}: make its folder first")
    report = Report()
    if config.machine:
        _look_at_machine(report)
    if kind == "store":
        _look_at_store(config, report)
    elif kind == "run":
        _look_at_run(config, report)
    if config.robot is not None:
        report.examine("robot", partial(_look_at_robot, config))
    print(report.verdict)
    if config.json is not None:
        write_json(Path(config.json), report.to_json())
        print(f"report: {config.json}")
    return 1 if report.count("problem") else 0


def kind_of(path: Path) -> str:
    """Either "store" or "run". Raises FileNotFoundError if there is nothing, and ValueError if it is neither."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name the folder of a store, a run or a checkpoint")
    if any((path / name).exists() for name in ("zarr.json", ".zgroup")):
        return "store"
    if (path / "policy.json").exists() or (path / "checkpoints").is_dir():
        return "run"
    if (path / "engine.json").exists():
        raise ValueError(f"{path} is an exported policy: name the run that it was exported from")
    raise ValueError(f"{path} is neither a store nor a run: name the folder of a store, a run or a checkpoint")


def _look_at_machine(report: Report) -> None:
    from ..diagnosis.hardware import look_at_rendering, look_at_torch
    from ..diagnosis.machine import look_at_machine
    from ..diagnosis.packages import look_at_packages

    report.examine("machine", look_at_machine)
    report.examine("packages", look_at_packages)
    report.examine("torch", look_at_torch)
    report.examine("rendering", look_at_rendering)


def _look_at_store(config: DoctorConfig, report: Report) -> None:
    report.examine("demonstrations", partial(_store, config))
    if config.overfit:
        _overfit(config, report)


def _obstacle(report: Report) -> str:
    """Why no policy can be run here, as far as was looked; empty if one can."""
    if "torch" not in report.facts:
        return ""
    if report.facts["torch"].get("torch") is None:
        return "torch cannot be loaded"
    return "" if report.facts["torch"]["gpus of the driver"] is not None else "the driver does not answer"


def _store(config: DoctorConfig, facts: Facts) -> Iterator[Finding]:
    from ..diagnosis.data import look_at_data, opened

    yield from look_at_data(opened(config.path or "", config.task, config.episodes), facts)


def _look_at_run(config: DoctorConfig, report: Report) -> None:
    """Open the run once, and look at all that belongs to it."""
    if reason := _obstacle(report):
        finding = Finding("problem", f"nothing is known of it, because {reason}", "mend what stands under torch first")
        report.examine("policy", lambda _: iter([finding]))
        return
    policies = list["Trained"]()
    report.examine("policy", partial(_policy, config, policies))
    for trained in policies:  # none if it could not be opened
        _look_at_trained(config, trained, report)


def _policy(config: DoctorConfig, policies: list[Trained], facts: Facts) -> Iterator[Finding]:
    from ..diagnosis.trained import look_at_policy, open_trained

    run = config.path or ""
    policies.append(open_trained(run, dataset=config.dataset, task=config.task, episodes=config.episodes))
    yield from look_at_policy(policies[-1], facts, run=run)


def _look_at_trained(config: DoctorConfig, trained: Trained, report: Report) -> None:
    from ..diagnosis.data import look_at_data
    from ..diagnosis.trained import look_at_engines, look_at_errors, look_at_images, look_at_ranges

    run, demonstrations = config.path or "", trained.demonstrations
    if demonstrations is not None:
        report.examine("demonstrations", partial(look_at_data, demonstrations))
        report.examine("ranges", partial(look_at_ranges, trained.policy.normalizer, demonstrations))
        report.examine("errors", partial(look_at_errors, trained, demonstrations))
    if any(stream.is_image for stream in trained.policy.specification.observations):
        picture = Path(config.out) if config.out else _default_picture(Path(run))
        report.examine("images", partial(look_at_images, trained, out=picture))
    report.examine("engines", partial(look_at_engines, run, source=trained.source, imports=config.imports))
    if config.overfit:
        _overfit(config, report, trained)


def _default_picture(run: Path) -> Path:
    """In the run, or in `runs/doctor/` if that is read-only."""
    return run / "doctor.png" if os.access(run, os.W_OK) else Path("runs", "doctor", f"{run.name}.png")


def _overfit(config: DoctorConfig, report: Report, trained: Trained | None = None) -> None:
    report.examine("overfitting", partial(_overfitting, config, trained, report))


def _overfitting(config: DoctorConfig, trained: Trained | None, report: Report, facts: Facts) -> Iterator[Finding]:
    from ..diagnosis.data import opened
    from ..diagnosis.overfitting import Sources, look_at_overfitting

    if reason := _obstacle(report):
        yield Finding("problem", f"nothing can be learned, because {reason}", "mend what stands under torch first")
        return
    if trained is None:
        path, task, run = config.path or "", config.task, None
    elif trained.source is None:
        yield Finding("warning", f"nothing to learn: {trained.absence}", "give dataset=")
        return
    else:
        (path, task), run = trained.source, config.path
    can_lack = trained is not None and bool(trained.policy.specification.may_be_absent)
    sources = Sources(path, task, opened(path, task, config.episodes, can_lack=can_lack), run)
    yield from look_at_overfitting(sources, facts, steps=config.steps, device=config.device)


def _look_at_robot(config: DoctorConfig, facts: Facts) -> Iterator[Finding]:
    """Every promise of a robot, and whether it has the streams of the policy."""
    described = {}
    if config.path is not None and kind_of(Path(config.path)) == "run":
        from ..checkpoints.opening import read_description

        described = read_description(config.path)
    try:
        report, specification = check_chosen(config, described)
    except (ValueError, OSError) as error:
        yield Finding("problem", str(error), "mend the driver: docs/your_robot.md explains every promise")
        return
    facts |= {"report": report.splitlines(), "specification": specification.to_json()}
    yield Finding("ok", report.splitlines()[-1])
    if described and (differences := specification.differences(described["specification"])):
        what = f"it has not the streams of the policy (its own are named first): {'; '.join(differences)}"
        yield Finding("problem", what, "train on demonstrations of this robot, or mend its specification")
