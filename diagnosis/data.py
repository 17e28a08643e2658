"""Demonstrations: what they hold, at which rate, and what looks wrong in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib import metadata

import numpy as np

from ..configs.notation import shown
from ..datasets.demonstrations import Demonstrations
from ..datasets.inspection import looks, summarise
from ..datasets.judging import SLOW
from ..datasets.normalisation import fit_ranges
from ..datasets.observing import as_recorded
from ..datasets.opening import open_demonstrations
from ..datasets.statistics import require_finite
from ..envs.catalogue import load_task
from .report import Facts, Finding


def opened(path: str, task: str | None, episodes: str | None, *, can_lack: bool = False) -> Demonstrations:
    """Demonstrations, as `recede train` opens them. Raises the errors of `open_demonstrations`."""
    return open_demonstrations(path, load_task(task) if task else None, episodes=episodes, can_lack=can_lack)


def look_at_data(demonstrations: Demonstrations, facts: Facts) -> Iterator[Finding]:
    """Specification, rates, and what is wrong in streams and in episodes, in short."""
    demonstrations = as_recorded(demonstrations)
    specification, count = demonstrations.specification, len(demonstrations)
    facts |= {
        "specification": specification.to_json(),
        "episodes": count,
        "steps": demonstrations.num_steps,
        "control rate, Hz": 1 / specification.control_dt,
        "outcomes": dict(Counter(entry.outcome for entry in demonstrations.episode_facts)),
    }
    if not count:
        yield Finding("problem", "it has no episodes", "record some, with `recede collect` or `recede record`")
        return
    streams = ", ".join(f"{stream.name} {_size(stream.shape)}" for stream in specification.streams)
    yield Finding("ok", f"{summarise(demonstrations)[0]}: {streams}")
    yield from _rates(demonstrations, facts)
    yield from _versions(demonstrations, facts)
    yield from _trainable(demonstrations)
    remedy = f"{shown('inspect', str(demonstrations.path))} shows it in a picture and a page"
    for fault in looks(demonstrations):
        yield Finding("warning" if fault.share else "note", fault.text, remedy)
    yield from _judged(demonstrations)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _rates(demonstrations: Demonstrations, facts: Facts) -> Iterator[Finding]:
    """The measured rates of streams beside the control rate."""
    rate = 1 / demonstrations.specification.control_dt
    measured: dict[str, list[float]] = {}
    for entry in demonstrations.episode_facts:
        for name, value in entry.rates.items():
            measured.setdefault(name, []).append(value)
    facts["measured rates, Hz"] = {name: float(np.median(values)) for name, values in measured.items()}
    if not measured:
        yield Finding("ok", f"control rate {rate:.3g} Hz; no measured rates are noted")
        return
    text = ", ".join(f"{name} {value:.3g} Hz" for name, value in facts["measured rates, Hz"].items())
    is_slow = min(facts["measured rates, Hz"].values()) < SLOW * rate
    remedy = "record at the rate of the slowest stream, or find what slows it down"
    what = f"control rate {rate:.3g} Hz; measured, median of the episodes: {text}"
    yield Finding("warning", what, remedy) if is_slow else Finding("ok", what)


def _versions(demonstrations: Demonstrations, facts: Facts) -> Iterator[Finding]:
    """Packages whose versions were others when the episodes were recorded."""
    noted: dict[str, set[str]] = {}
    for entry in demonstrations.episode_facts:
        for name, version in entry.versions.items():
            noted.setdefault(name, set()).add(version)
    facts["recorded with"] = {name: sorted(versions) for name, versions in noted.items()}
    others = list[str]()
    for name, versions in noted.items():
        try:
            now = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if versions != {now}:
            others.append(f"{name} {', '.join(sorted(versions))}, here {now}")
    if others:
        remedy = "`recede replay` says whether the recorded actions still succeed in this simulation"
        yield Finding("note", f"recorded with other versions: {'; '.join(others)}", remedy)


def _trainable(demonstrations: Demonstrations) -> Iterator[Finding]:
    """Whether a training would refuse the data."""
    try:
        require_finite(demonstrations, str(demonstrations.path))
        fit_ranges(demonstrations, range(len(demonstrations)), {})
    except ValueError as error:
        yield Finding("problem", f"a training refuses it: {error}", "do what it says, and look again")


def _judged(demonstrations: Demonstrations) -> Iterator[Finding]:
    """What looks wrong in single episodes."""
    from ..evaluation.reports.quality import Quality

    remarks = Quality.of(demonstrations).remarks
    for remark in remarks:
        yield Finding("warning", f"{remark.title}: {remark.text}", remark.remedy)
    if not remarks:
        yield Finding("ok", f"no episode of {len(demonstrations)} looks wrong beside the others")
