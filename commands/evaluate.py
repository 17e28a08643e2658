"""`recede evaluate`: measure policies in closed-loop simulation."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ..configs.checks import MOST_EPISODES
from ..configs.evaluation import EvaluateConfig
from ..configs.notation import command_line, shown
from .next_lines import print_next

if TYPE_CHECKING:
    from ..evaluation.results import Measurement

STOPPED = (
    "The episodes decided when to stop, which only this e-value and this interval take into account; the tables assume "
    "a number that was fixed before."
)

NOT_REPRODUCIBLE = (
    "The episodes are not reproducible bit for bit: once more, some may end otherwise. recede compare pairs them with "
    "no others."
)

Place: TypeAlias = tuple[EvaluateConfig, Path]
"""What names one policy, and the folder of its results."""


def run(config: EvaluateConfig) -> None:
    """Write `evaluation.json`, the report and the films to `out` or beside the policy, and print the rates.

    Several policies each have their own folder: beside the policy, or below `out`, where their comparison is then
    written to `comparison.md`.

    Raises FileNotFoundError if there is no policy, ValueError if another process writes results there, and, after
    everything is written, if an episode broke off.
    """
    from ..checkpoints.runs import existing
    from ..files import check_writable, exclusive

    places = _places(config)
    for one, out in places:
        check_writable(out)
        existing(Path(one.run))
    with ExitStack() as locks:
        for _, out in places:  # not the lock of a training, which may go on
            locks.enter_context(exclusive(out, "being written", name=".results.lock"))
        if len(places) > 1:
            _compare(config, places)
        elif config.disturb:
            _disturb(*places[0])
        elif len(config.pairs) > 1:
            _evaluate_pairs(*places[0])
        else:
            _evaluate(*places[0])


def folders(config: EvaluateConfig) -> list[Path]:
    """The folders in which the command writes an `evaluation.json`."""
    return [out / name for one, out in _places(config) for name in (one.parts if len(config.runs) == 1 else ["."])]


def _places(config: EvaluateConfig) -> list[Place]:
    if len(config.runs) == 1:
        return [(config, Path(config.out or config.run))]
    names = [Path(folder).name for folder in config.runs]
    if len(set(names)) < len(names):
        names = [f"{index}-{name}" for index, name in enumerate(names, start=1)]
    episodes = config.episodes if config.until is None else config.most
    outs = [str(Path(config.out) / name) for name in names] if config.out else config.runs
    changes = {"episodes": episodes, "until": None, "indifference": None}
    return [
        (replace(config, run=folder, out=out, **changes), Path(out))
        for folder, out in zip(config.runs, outs, strict=True)
    ]


def _evaluate_pairs(config: EvaluateConfig, out: Path) -> None:
    from ..evaluation.delays import measure_all
    from ..evaluation.reports.comparison import table

    results = measure_all(config, out)
    print(table(results))
    print(f"picture: {out / 'delays.png'}")
    if num := sum(len(result.get("broken", ())) for result in results):
        raise ValueError(
            f"{num} of {sum(result['episodes'] for result in results)} episodes broke off and count as failed: "
            f"the evaluation.json files in {out} name them"
        )
    print_next(command_line("evaluate", replace(config, episodes=_more(config.episodes))))


def _disturb(config: EvaluateConfig, out: Path) -> None:
    from ..evaluation.reports.robustness import table
    from ..evaluation.robustness import measure_robustness

    arms = measure_robustness(config, out)
    print("", table(arms), f"picture: {out / 'robustness.png'}", sep="\n")
    if broken := sum(len(arm.result["broken"]) for arm in arms):
        raise ValueError(
            f"{broken} episodes broke off and count as failed: see evaluation.json in the folders of {out}"
        )
    print_next(command_line("evaluate", replace(config, episodes=_more(config.episodes))))


def _evaluate(config: EvaluateConfig, out: Path) -> None:
    from ..evaluation.foretelling import shortage, table
    from ..evaluation.results import measure

    measurement = measure(config)
    print(measurement.evaluation)
    if config.simulation != EvaluateConfig.simulation:
        print(NOT_REPRODUCIBLE)
    if measurement.foretelling is not None:
        print("", table(measurement.foretelling), *shortage(measurement.foretelling), "", sep="\n")
    command = _write(measurement, config, out)
    if measurement.evaluation.faults:
        raise ValueError(f"{measurement.evaluation.broken}; {out / 'evaluation.json'} names all of them")
    print_next(command)


def _compare(config: EvaluateConfig, places: list[Place]) -> None:
    """Evaluate several policies in the same episodes, and say which ones differ."""
    from ..evaluation.deciding import decide
    from ..evaluation.reports.paired import find_one, paired_text
    from ..evaluation.results import check_same_world, subject_of
    from ..files import write_text

    subjects = [subject_of(one) for one, _ in places]
    check_same_world(subjects)
    if config.until is None:
        verdict = None
        measured = [subject.measure(config.episodes, videos=config.videos) for subject in subjects]
    else:
        verdict, measured = decide(subjects, most=config.most, indifference=config.indifference, videos=config.videos)
    for (one, out), measurement in zip(places, measured, strict=True):
        print(f"{one.run}: {measurement.evaluation}")
        _write(measurement, one, out)
    results = {one.run: find_one(out) for one, out in places}
    more = [] if verdict is None else ["", f"{verdict.sentence(*results, indifference=config.indifference)}.", STOPPED]
    print("", paired_text(results, more=more), sep="\n", end="")
    if config.out is not None:
        page = paired_text(results, command=command_line("evaluate", config), more=more)
        write_text(Path(config.out) / "comparison.md", page)
        print(f"comparison: {Path(config.out) / 'comparison.md'}")
    if broken := [measurement.evaluation.broken for measurement in measured if measurement.evaluation.faults]:
        raise ValueError("; ".join(broken))
    if verdict is None or verdict.kind == "undecided":
        print_next(command_line("evaluate", _going_on(config)))


def _going_on(config: EvaluateConfig) -> EvaluateConfig:
    """The same comparison until it is decided, or with more episodes."""
    if config.until is not None:
        return replace(config, most=_more(config.most))
    changes = {"until": "decided"} if len(config.runs) == 2 else {"episodes": _more(config.episodes)}
    return replace(config, **changes)


def _write(measurement: Measurement, config: EvaluateConfig, out: Path) -> str:
    """Write the results of one policy; returns the first of the commands that the report proposes."""
    from ..evaluation.writing import write_results

    again = partial(shown, "evaluate", config.run, task=config.task, imports=config.imports)
    alike = {} if config.simulation == EvaluateConfig.simulation else {"simulation": config.simulation}
    next_steps = [
        *_film_of_worst(measurement, config, out),
        *_control_that_holds(measurement, config, out),
        (again(episodes=_more(config.episodes), **alike), "a narrower interval"),
        (again(first_seed=200_000, **alike), "other unseen seeds"),
        (again(delay_ms=[0, 200], execution=["receding", "rtc"]), "with late chunks"),
    ]
    write_results(
        out,
        [measurement],
        title=f"{measurement.name} on {measurement.task.name}",
        command=command_line("evaluate", config),
        next_steps=next_steps,
        has_strips=config.videos > 0,
    )
    print(f"report: {out / 'report.html'}")
    return next_steps[0][0]


def _more(episodes: int) -> int:
    """So many episodes that the interval becomes half as wide, or 200."""
    return min(max(4 * episodes, 200), MOST_EPISODES)


def _control_that_holds(measurement: Measurement, config: EvaluateConfig, out: Path) -> list[tuple[str, str]]:
    """The command by which a robot reacts to the monitors, if there are any."""
    from ..evaluation.monitoring import FOLDER

    if measurement.monitor is None:
        return []
    folder = None if out == Path(config.run) else str(out / FOLDER)
    return [
        (shown("control", config.run, on_lost="hold", monitors=folder), "a robot that holds while the policy is lost")
    ]


def _film_of_worst(measurement: Measurement, config: EvaluateConfig, out: Path) -> list[tuple[str, str]]:
    """The command that films the failed episode of the lowest score, unless it is filmed already or cannot be."""
    from ..evaluation.worst import worst

    (first,) = worst(measurement.evaluation.outcomes, most=1)
    if first.success or first.frames or measurement.undrawn or config.simulation != EvaluateConfig.simulation:
        return []
    alone = replace(config, first_seed=first.seed, episodes=1, videos=1, out=str(out / f"episode-{first.seed}"))
    return [(command_line("evaluate", alone), "a film of the worst episode")]
