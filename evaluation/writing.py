"""Write what was measured: `evaluation.json`, films, pictures and the report."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.runs import read_metrics
from ..envs.faults import own_frames, place
from ..envs.task import Task
from ..files import write_bytes, write_json_with_digest, write_text
from ..progress import watched
from .monitoring import save_monitor
from .results import Measurement
from .worst import Worst, film_worst

NOTED = ("checkpoint", "task", "episodes", "execution", "delay_ms", "engine")
"""Entries of `evaluation.json` that are noted beside the monitors: alarms hold for chunks that come as those did."""


def write_results(
    out: Path,
    measurements: Sequence[Measurement],
    *,
    title: str,
    command: str,
    next_steps: Iterable[tuple[str, str]],
    has_strips: bool = True,
) -> None:
    """Write `evaluation.json` and the films of the first policy, and a report on all of them.

    has_strips: whether the report shows the worst episodes of each policy. They are rolled out once more for it.
    """
    from .reports.evaluation import installed_versions, write_report
    from .reports.timelines import picture

    out.mkdir(parents=True, exist_ok=True)
    first = measurements[0]
    content = first.to_json()
    write_json_with_digest(out / "evaluation.json", content)
    if first.monitor is not None and first.foretelling is not None:
        notes = {name: value for name, value in content.items() if name in NOTED}
        save_monitor(first.monitor, first.foretelling, out, notes)
        write_text(out / "monitors.svg", picture(content))
    for measurement in measurements:
        measurement.journal.delete()
    for outcome in first.evaluation.outcomes:
        if outcome.unfilmed is not None:
            print(f"no film of {outcome.unfilmed}", file=sys.stderr)
    if first.undrawn or not has_strips:
        cause = f"there are no film strips, because the task has no pictures here ({first.undrawn})"
        worst = [Worst((), (cause,) if first.undrawn else ())] * len(measurements)
    else:
        worst = [film_worst(measurement) for measurement in measurements]
    entries, fan = _drawn(out, measurements, worst)
    write_report(
        out / "report.html",
        entries,
        title=title,
        command=command,
        versions=installed_versions(),
        fan=fan,
        next_steps=next_steps,
    )


def _drawn(out: Path, measurements: Sequence[Measurement], worst: Sequence[Worst]) -> tuple[list[Any], Any]:
    """What the report says about each policy, and a fan of all of them; without chunks if these cannot be drawn."""
    is_filmed = any(one.shown for one in worst) or any(one.frames for one in measurements[0].evaluation.outcomes)
    pixels = pixels_of(measurements[0].task) if is_filmed else None
    try:
        return _draw(out, measurements, worst, pixels)
    except Exception as error:
        if pixels is None or not own_frames(error):
            raise
        _report_undrawn(error)
        return _draw(out, measurements, worst, None)


def _draw(out: Path, measurements: Sequence[Measurement], worst: Sequence[Worst], pixels: Any) -> tuple[list[Any], Any]:
    from .reports import pictures

    films, entries = write_films(out, measurements[0], pixels), list[Any]()
    for index, (measurement, one) in enumerate(zip(measurements, worst, strict=True)):
        colour, missing = pictures.COLOURS[index % len(pictures.COLOURS)], list(one.missing)
        if one.shown and pixels is None:
            missing.append("the strips show no chunks, because nobody knows where in the image an action is")
        strips = {outcome.seed: pictures.stills(outcome, pixels=pixels, colour=colour) for outcome in one.shown}
        more = {"films": {} if index else films, "strips": strips, "missing": missing}
        entries.append(replace(report_entry(measurement), **more))
    if pixels is None or not films:
        return entries, None
    filmed = [outcome for outcome in measurements[0].evaluation.outcomes if outcome.frames]
    shown = sorted(filmed, key=lambda outcome: not outcome.success)[:1]  # a success, if there is one
    fan = pictures.fan({one.name: one.policy.engine for one in measurements}, shown, pixels)
    write_bytes(out / "fan.png", pictures.draw_fan(fan))
    return entries, fan


def write_films(out: Path, measurement: Measurement, pixels: Any) -> dict[int, Any]:
    """Write a film of each filmed episode; returns its seed -> a `Film`. pixels: see `pixels_of`."""
    from .reports import pictures
    from .reports.entry import Film

    films, fps = dict[int, Any](), 1 / measurement.task.specification.control_dt
    filmed = [outcome for outcome in measurement.evaluation.outcomes if outcome.frames]
    for outcome in watched(filmed, "film", unit="episodes", delay_s=1):
        path, middle = out / f"episode-{outcome.seed}.mp4", outcome.num_steps // 2
        pictures.film(outcome, path, fps=fps, pixels=pixels)
        still = replace(outcome, frames={middle: outcome.frames[middle]})
        films[outcome.seed] = Film(path, pictures.stills(still, pixels=pixels)[middle])
    return films


def pixels_of(task: Task) -> Any:
    """The function that maps actions to pixels of the task's images; None if the task has none.

    Prints the reason if it has one that fails.
    """
    env: Any = task.make(render_mode="rgb_array")
    env.reset(seed=0)
    pixels = getattr(env.unwrapped, "pixels", None)
    if pixels is None:
        return None
    try:
        pixels(np.zeros((1, task.specification.action.size)))
    except ValueError:  # of an adapter that knows no pixels
        return None
    except Exception as error:  # pictures are no part of the results
        _report_undrawn(error)
        return None
    return pixels


def _report_undrawn(error: Exception) -> None:
    print(f"no action chunks in the pictures: {type(error).__name__}: {error} ({place(error)})", file=sys.stderr)


def report_entry(measurement: Measurement) -> Any:
    """What the report says about one policy."""
    from .reports.entry import Entry

    return Entry(
        name=measurement.name,
        evaluation=measurement.to_json(),
        metrics=read_metrics(measurement.folder),
        num_parameters=measurement.policy.num_parameters,
        training_seed=measurement.policy.manifest["seed"],
    )
