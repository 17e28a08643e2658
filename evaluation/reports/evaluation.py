"""The report of an evaluation: one page that needs no network, no other file and no JavaScript.

It is made from `evaluation.json` and `metrics.jsonl` alone, so it can be made again later.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...version import __version__
from .charts import interval, shares, tag
from .entry import Entry
from .episodes import columns, films, strips, table
from .failures import failures, success_curves
from .learning import learning
from .page import embedded, section, unbroken, write_page
from .timelines import timelines

if TYPE_CHECKING:
    from .pictures import Fan


def installed_versions() -> dict[str, str]:
    """The versions that results depend on."""
    packages = ("torch", "numpy", "gymnasium", "mujoco", "diffusers")
    versions = {"python": platform.python_version(), "recede": __version__}
    return versions | {name: version(name) for name in packages}


def write_report(
    path: Path,
    entries: Sequence[Entry],
    *,
    title: str,
    command: str,
    versions: Mapping[str, str],
    fan: Fan | None = None,
    next_steps: Iterable[tuple[str, str]] = (),
) -> None:
    """Write the page of one or several policies. It appears whole or not at all.

    command: the command that wrote it. next_steps: (command, purpose).
    """
    if not entries:
        raise ValueError("a report needs at least one evaluated policy, got none")
    evaluations = {entry.name: entry.evaluation for entry in entries}
    sections = [
        _fan(fan),
        section("Films", films(entries, path)),
        section("Results", _table(entries)),
        section("Every episode", columns(entries)),
        section("When it succeeds", success_curves(evaluations)),
        section("Where it fails", failures(evaluations)),
        section("Knowing when it is lost", timelines(entries)),
        section("The worst episodes", strips(entries)),
        section("One by one", table(entries)),
        section("Learning", learning({entry.name: entry.metrics for entry in entries})),
        section("Time", _time(entries)),
        section("Reproduce", _reproduce(entries, command, versions)),
        section("Next", _next(next_steps)),
    ]
    write_page(
        path,
        title=title,
        verdict=unbroken(escape(verdict(entries))),
        cards=[_card(place, entry) for place, entry in enumerate(entries)],
        sections=sections,
    )


def verdict(entries: Sequence[Entry]) -> str:
    """The result in a sentence or two: each success rate with its interval and its episodes."""
    results = []
    for entry in entries:
        evaluation = entry.evaluation
        results.append(
            f"{entry.name} succeeded in {sum(evaluation['success'])} of {evaluation['episodes']} episodes of "
            f"{evaluation['task']}, {_rate(evaluation)} (95 % interval {_rate_interval(evaluation)})"
            + (f", and broke off in {len(evaluation['broken'])} of them" if evaluation["broken"] else "")
        )
    sentence = "; ".join(results) + "."
    if len(entries) == 2:
        (low, high), (other_low, other_high) = (entry.evaluation["success_rate_95"] for entry in entries)
        is_apart = low > other_high or other_low > high
        sentence += (
            " The intervals do not overlap." if is_apart else " The intervals overlap: more episodes may separate them."
        )
        sentence += " Each policy is one training of its recipe; with another seed it may be better or worse."
    return sentence[:1].upper() + sentence[1:]


def _card(place: int, entry: Entry) -> str:
    evaluation = entry.evaluation
    rate, score = evaluation["success_rate"], evaluation["mean_score"]
    rate_text = f"95 % interval {_rate_interval(evaluation)}, {evaluation['episodes']} episodes"
    score_text = f"mean score {score:.2f}, 95 % interval {_score_interval(evaluation)}"
    rate_label = f"success {_rate(evaluation)}, {rate_text}"
    return tag(
        "article",
        tag("h2", escape(entry.name))
        + tag("p", _rate(evaluation) + tag("span", "success"), class_="figure")
        + interval(rate, *evaluation["success_rate_95"], place=place, label=rate_label)
        + tag("p", rate_text, class_="note")
        + interval(score, *evaluation["mean_score_95"], place=place, label=score_text)
        + tag("p", score_text, class_="note"),
        class_=f"card s{place}",
    )


def _fan(fan: Fan | None) -> str:
    if fan is None:
        return ""
    from .pictures import draw_fan

    panels = ""
    for name, points in fan.points.items():
        text = f"{len(points)} action chunk{'s' if len(points) > 1 else ''} of {name}, drawn over the scene"
        panels += tag("img", alt=text, src=embedded("image/png", draw_fan(fan, [name])))
    first = next(iter(fan.points))
    caption = (
        f"Episode {fan.seed}, step {fan.step}: the moment of the film at which the chunks of {first} differ most. Each "
        "line is one sampled action chunk, from its pale start to the dot at its end."
    )
    body = tag("figure", tag("div", panels, class_="panels") + tag("figcaption", escape(caption)))
    return section("Sampled action chunks", body)


def _table(entries: Sequence[Entry]) -> str:
    """A table with a column for each policy, so that it fits a narrow screen."""

    def training_seconds(entry: Entry) -> float:
        return sum(seconds for kind, seconds in entry.seconds().items() if kind != "evaluation")

    rows = {
        "success rate": [f"{_rate(entry.evaluation)} ({_rate_interval(entry.evaluation)})" for entry in entries],
        "mean score": [
            f"{entry.evaluation['mean_score']:.3f} ({_score_interval(entry.evaluation)})" for entry in entries
        ],
        "episodes": [f"{entry.evaluation['episodes']}" for entry in entries],
        "mean steps": [f"{entry.evaluation['mean_steps']:.0f}" for entry in entries],
        "parameters": [_count(entry.num_parameters) for entry in entries],
        "training steps": [f"{entry.num_steps:,}" if entry.num_steps else "–" for entry in entries],
        "training time": [_duration(training_seconds(entry)) for entry in entries],
        "latency, median": [_milliseconds(entry, "p50_ms") for entry in entries],
        "latency, 99th percentile": [_milliseconds(entry, "p99_ms") for entry in entries],
        "processor of the latency": [entry.evaluation["processor"] for entry in entries],
    }
    names = "".join(
        tag("th", escape(entry.name), scope="col", class_=f"s{place}") for place, entry in enumerate(entries)
    )
    body = "".join(
        tag("tr", tag("th", escape(name), scope="row") + "".join(tag("td", unbroken(escape(cell))) for cell in cells))
        for name, cells in rows.items()
    )
    note = (
        "In brackets: the 95 % interval over episodes, Wilson's for rates and the bootstrap's for scores, with a score "
        "of 0 and one of 1 added. The score of an episode is the best of its steps. Latency is the time of one "
        "prediction for one robot. All times depend on the load of the machine."
    )
    head = tag("thead", tag("tr", "<td></td>" + names))
    return tag("div", tag("table", head + tag("tbody", body)), class_="scroll") + tag("p", note, class_="note")


def _time(entries: Sequence[Entry]) -> str:
    longest = max(sum(entry.seconds().values()) for entry in entries)
    body = ""
    for entry in entries:
        seconds = entry.seconds()
        texts = {kind: f"{kind} {_duration(total)}" for kind, total in seconds.items()}
        bar = shares(seconds, longest=longest or 1.0, label=f"{entry.name}: {', '.join(texts.values())}")
        keys = "".join(tag("span", text, class_=f"key {kind}") for kind, text in texts.items())
        body += tag("figure", tag("figcaption", tag("b", escape(entry.name)) + " " + keys, class_="legend") + bar)
    note = "Data: loading batches. Update: forward pass, backward pass and optimiser. Evaluation: all episodes."
    return body + tag("p", note, class_="note")


def _reproduce(entries: Sequence[Entry], command: str, versions: Mapping[str, str]) -> str:
    facts: list[tuple[str, str]] = []
    for entry in entries:
        evaluation = entry.evaluation
        seeds = f"episodes {_seeds(evaluation['seeds'])}, noise {evaluation['seed']}"
        if entry.training_seed is not None:
            seeds += f", training {entry.training_seed}"
        facts.append((f"seeds of {entry.name}", seeds))
        if "checkpoint" in evaluation:
            facts.append((f"checkpoint of {entry.name}", str(evaluation["checkpoint"]) + _choice(evaluation)))
    facts.append(("versions", ", ".join(f"{name} {number}" for name, number in versions.items())))
    items = "".join(tag("dt", escape(name)) + tag("dd", escape(value)) for name, value in facts)
    return tag("pre", tag("code", escape(command))) + tag("dl", items)


def _choice(evaluation: Mapping[str, Any]) -> str:
    """Which episodes chose the checkpoint, if it is the best of a run."""
    if not evaluation.get("chosen_on"):
        return ""
    choice = evaluation["chosen_on"]
    first, count = choice["first_seed"], choice["episodes"]
    return (
        f", the best of {choice['checkpoints']} in other episodes ({_seeds(range(first, first + count))}), with a "
        f"success of {100 * choice['success_rate']:.0f} % there, which the choice makes too high"
    )


def _next(steps: Iterable[tuple[str, str]]) -> str:
    items = "".join(
        tag("li", tag("p", escape(purpose)) + tag("pre", tag("code", escape(command)))) for command, purpose in steps
    )
    return tag("ol", items) if items else ""


def _rate(evaluation: Mapping[str, Any]) -> str:
    return f"{100 * evaluation['success_rate']:.0f} %"


def _rate_interval(evaluation: Mapping[str, Any]) -> str:
    low, high = evaluation["success_rate_95"]
    return f"{100 * low:.0f}–{100 * high:.0f} %"


def _score_interval(evaluation: Mapping[str, Any]) -> str:
    low, high = evaluation["mean_score_95"]
    return f"{low:.2f}–{high:.2f}"


def _milliseconds(entry: Entry, key: str) -> str:
    latency = entry.evaluation["latency"].get(key)
    return "–" if latency is None else f"{latency:.3g} ms"


def _count(number: int | None) -> str:
    if number is None:
        return "–"
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number:,}"


def _duration(seconds: float) -> str:
    if seconds <= 0:
        return "–"
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 1 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))
