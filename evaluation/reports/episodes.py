"""The episodes of a report: their columns, their films, film strips of the worst, and a table that a reader can sort.

The table is sorted without a script. Each row has its rank in every order as a number, `--score: 7`, and the radio
buttons before the table choose which of them is the row's `order`. So the page can go on to forbid scripts, and a
hostile name in the data meets nothing that runs. Links between a row, its film and its points lead to ids that are made
of the policy's index and the seed alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...envs.faults import Fault
from .charts import episode_id, episodes, tag
from .entry import Entry
from .page import embedded

EMBEDDED_BYTES = 8_000_000
"""Total size of the films that are embedded in the page; further films are linked."""

MOST_ROWS = 1000
"""The most rows of a table: browsers become slow beyond."""


def _phase(evaluation: Mapping[str, Any], index: int) -> str:
    return evaluation["phase"][index] or "" if "phase" in evaluation else ""


ORDERS: Mapping[str, Callable[[Mapping[str, Any], int], Any]] = {
    "score": lambda one, index: (one["score"][index], one["success"][index], -one["steps"][index]),
    "seed": lambda one, index: one["seeds"][index],
    "steps": lambda one, index: one["steps"][index],
    "phase": lambda one, index: (one["success"][index], _phase(one, index)),
}
"""A column to sort by -> the key of an episode, by its index in an evaluation. The first is the order of the page."""


def columns(entries: Sequence[Entry]) -> str:
    """A column for each episode of each policy, and those that broke off."""
    body = ""
    for place, entry in enumerate(entries):
        evaluation = entry.evaluation
        text = f"{sum(evaluation['success'])} of {evaluation['episodes']} episodes succeeded"
        strip = episodes(evaluation, place=place, label=f"{entry.name}: {text}, by seed")
        body += tag("figure", tag("figcaption", tag("b", escape(entry.name)) + f" {text}") + strip)
        body += _broken(evaluation["broken"])
    note = (
        "One column for each episode, in the order of the seeds. Its height is the score; full colour is a success. "
        "Episodes with the same seed start in the same state."
    )
    return body + tag("p", note, class_="note")


def _broken(faults: Sequence[Mapping[str, Any]]) -> str:
    """A line for each episode that broke off."""
    if not faults:
        return ""
    lines = "".join(tag("li", escape(str(Fault(**fault)))) for fault in faults)
    return tag("p", "These broke off. They count as failed, with a score of 0.") + tag("ul", lines)


def films(entries: Sequence[Entry], page: Path) -> str:
    """The films of all policies; those beyond `EMBEDDED_BYTES` are links. page: the file of the report."""
    body, left = "", EMBEDDED_BYTES
    for place, entry in enumerate(entries):
        for seed, film in entry.films.items():
            size = film.path.stat().st_size
            if size <= left:
                left -= size
                files = {"src": embedded("video/mp4", film.path.read_bytes())}
                files["poster"] = embedded("image/jpeg", film.poster)
                element = tag("video", **files, controls="", loop="", muted="", playsinline="", preload="metadata")
            else:
                link = quote(os.path.relpath(film.path, page.parent))
                element = tag("p", tag("a", escape(film.path.name), href=link) + f" ({size / 1e6:.0f} MB)")
            body += tag("figure", element + _caption(entry, place, seed), id=f"film-{episode_id(place, seed)}")
    return tag("div", body, class_="films") if body else ""


def _caption(entry: Entry, place: int, seed: int) -> str:
    row = tag("a", f"seed {seed}", href=f"#{episode_id(place, seed)}")
    return tag("figcaption", f"{tag('b', escape(entry.name))}, {row}: {escape(entry.episode(seed))}")


def strips(entries: Sequence[Entry]) -> str:
    """Film strips of the worst episodes of each policy, and what is missing."""
    body, texts = "", list[str]()
    for place, entry in enumerate(entries):
        for seed, frames in entry.strips.items():
            pictures = "".join(
                tag(
                    "figure",
                    tag("img", alt="the scene and the chunk", src=embedded("image/jpeg", jpeg))
                    + tag("figcaption", f"step {step}"),
                )
                for step, jpeg in frames.items()
            )
            strip = tag("div", pictures, class_="strip")
            body += tag("figure", _caption(entry, place, seed) + strip, id=f"strip-{episode_id(place, seed)}")
        texts += [f"{entry.name}: {text}." for text in entry.missing]
    if body:
        texts.insert(0, _STRIPS)
    return body + "".join(tag("p", escape(text), class_="note") for text in texts)


_STRIPS = (
    "The failed episodes with the lowest scores, or the slowest one if all succeeded, at even moments. They were "
    "rolled out once more for these pictures. A line is the latest chunk of actions, from its pale start to its end."
)


def table(entries: Sequence[Entry]) -> str:
    """A table of every episode for each policy, with buttons to sort all of them."""
    has_phases = any(any(entry.evaluation.get("phase", ())) for entry in entries)
    keys = [key for key in ORDERS if key != "phase" or has_phases]
    buttons, labels = "", ""
    for number, key in enumerate(keys):
        checked = {} if number else {"checked": ""}
        buttons += tag("input", type="radio", name="order", id=f"by-{key}", class_="choice", **checked)
        labels += tag("label", key, for_=f"by-{key}")
    buttons += tag("input", type="checkbox", id="backwards", class_="choice")
    labels += tag("label", "backwards", for_="backwards")
    head = tag("p", "Sort by " + labels, class_="choices")
    body = "".join(_rows(place, entry, keys) for place, entry in enumerate(entries))
    return buttons + head + tag("div", body, class_="tables")


def _rows(place: int, entry: Entry, keys: Sequence[str]) -> str:
    evaluation = entry.evaluation
    ranks = {key: _ranks(evaluation, ORDERS[key]) for key in keys}
    worst = sorted(range(len(evaluation["seeds"])), key=ranks["score"].__getitem__)[:MOST_ROWS]
    rows = "".join(_row(place, entry, index, {key: ranks[key][index] for key in keys}) for index in worst)
    names = ["seed", "outcome", "score", "steps", *(["phase"] if "phase" in keys else []), ""]
    head = tag("thead", tag("tr", "".join(tag("th", name, scope="col") for name in names)))
    left_out = len(evaluation["seeds"]) - len(worst)
    text = f" the {len(worst):,} worst of {len(evaluation['seeds']):,} episodes" if left_out else ""
    caption = tag("figcaption", tag("b", escape(entry.name)) + text)
    return tag(
        "figure",
        caption + tag("div", tag("table", head + tag("tbody", rows), class_="even"), class_="tall"),
        class_=f"s{place}",
    )


def _row(place: int, entry: Entry, index: int, ranks: Mapping[str, int]) -> str:
    evaluation, seed = entry.evaluation, entry.evaluation["seeds"][index]
    broken = seed in {fault["seed"] for fault in evaluation["broken"]}
    outcome = "succeeded" if evaluation["success"][index] else "broke off" if broken else "failed"
    cells = [str(seed), outcome, f"{evaluation['score'][index]:.2f}", str(evaluation["steps"][index])]
    if "phase" in ranks:
        cells.append(escape(_phase(evaluation, index)))
    shown = next((kind for kind, seeds in (("film", entry.films), ("strip", entry.strips)) if seed in seeds), None)
    name = episode_id(place, seed)
    cells.append("" if shown is None else tag("a", shown, href=f"#{shown}-{name}"))
    style = "; ".join(f"--{key}: {rank}" for key, rank in ranks.items())
    kind = "success" if evaluation["success"][index] else "failure"
    return tag("tr", "".join(tag("td", cell) for cell in cells), id=name, class_=kind, style=style)


def _ranks(evaluation: Mapping[str, Any], key: Callable[[Mapping[str, Any], int], Any]) -> dict[int, int]:
    """The index of an episode -> its rank."""
    ranked = sorted(range(len(evaluation["seeds"])), key=lambda index: key(evaluation, index))
    return {index: rank for rank, index in enumerate(ranked)}
