"""The quality page of demonstrations: what looks wrong in which episodes, what to do, and what the episodes look like.

One page that needs no network, no other file and no JavaScript.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...datasets.demonstrations import Demonstrations
from ...datasets.films import Film
from ...datasets.inspection import evenly_spaced
from ...datasets.judging import Remark, remarks, ways_of
from ...datasets.quality import Dimension, Measures, measure
from ...datasets.similarity import LEAP, Ways
from .charts import tag
from .page import embedded, section, unbroken, write_page

SHOWN_PATHS = 200
"""Most paths that are drawn."""

COLUMNS = 300
"""Most columns of a strip: more episodes share them, and the largest value counts."""

ROWS = 200
"""Most rows of the table: the episodes with the most findings."""

FRAMES = 12
"""First images that are shown of each camera."""

LENGTHS = ("m", "mm", "cm", "px", "in")
"""Units of places, which make the best map."""

CELLS = 10
"""The workspace is divided into so many cells a side."""


@dataclass(frozen=True)
class Quality:
    """All that the page shows of demonstrations."""

    demonstrations: Demonstrations
    measures: Measures
    films: Sequence[Film]
    errors: NDArray[np.float64] | None
    """Of a policy in each episode (n,), if there is one."""
    remarks: Sequence[Remark]
    ways: Ways | None

    @classmethod
    def of(cls, demonstrations: Demonstrations, errors: NDArray[np.float64] | None = None) -> Quality:
        """Measure and judge demonstrations, of which there must be one."""
        from ...datasets.films import watch

        measures = measure(demonstrations)
        films = watch(demonstrations, measures)
        return cls(
            demonstrations,
            measures,
            films,
            errors,
            remarks(demonstrations, measures, films, errors),
            ways_of(measures),
        )

    @property
    def flags(self) -> list[list[str]]:
        """(n,): the titles of the remarks about each episode."""
        titles: list[list[str]] = [[] for _ in range(len(self.demonstrations))]
        for remark in self.remarks:
            for episode in remark.episodes:
                titles[episode].append(remark.title)
        return titles


def write_quality(path: Path, quality: Quality, *, warnings: Sequence[str], command: str, policy: str = "") -> None:
    """Write the page, whole or not at all. warnings: of whole streams. policy: the name of the one that errs."""
    demonstrations = quality.demonstrations
    count, steps = len(demonstrations), demonstrations.num_steps
    minutes = steps * demonstrations.specification.control_dt / 60
    num = len(quality.remarks) + len(warnings)
    verdict = f"{count} episodes, {steps:,} steps, {minutes:.1f} min. " + (
        "Nothing looks wrong."
        if not num
        else f"{num} finding{'s' if num > 1 else ''}, and what to do about {'each' if num > 1 else 'it'}."
    )
    write_page(
        path,
        title=f"Quality of {Path(demonstrations.path).name}",
        verdict=unbroken(escape(verdict)),
        cards=_cards(quality, num),
        sections=[
            section("What to do", _remarks(quality, warnings)),
            section("Where they go", _maps(quality)),
            section("Every episode", _strips(quality, policy)),
            section("How they begin", _frames(quality)),
            section("One by one", _table(quality)),
            section("What is noted", _facts(demonstrations)),
            section("Reproduce", tag("pre", tag("code", escape(command)))),
        ],
    )


def _cards(quality: Quality, num: int) -> list[str]:
    flagged = sum(bool(titles) for titles in quality.flags)
    measures, count = quality.measures, len(quality.demonstrations)
    dt = quality.demonstrations.specification.control_dt
    idle = (measures.idle_start + measures.idle_end).sum() / (quality.demonstrations.num_steps * dt)
    ways, text = quality.ways, "of all time, before the first and after the last motion"
    if ways is None:
        note = "the actions go on alike from similar starts, or in more ways than two"
    else:
        share, label = float(ways.way.mean()), measures.dimensions[ways.dimension].label
        note = (
            f"{_percent(1 - share)} and {_percent(share)} of the episodes, apart in {label} most. A diffusion policy "
            "can keep both; a regression policy would average them"
        )
    return [
        _card("Findings", str(num), f"in {flagged} of {count} episodes, and in whole streams", place=0 if num else 1),
        _card("Ways", "2" if ways else "1", note, place=1),
        _card("Idle ends", _percent(idle, 1), text, place=1),
    ]


def _card(title: str, figure: str, note: str, *, place: int) -> str:
    body = tag("h2", title) + tag("p", unbroken(figure), class_="figure")
    return tag("article", body + tag("p", unbroken(escape(note)), class_="note"), class_=f"card s{place}")


def _remarks(quality: Quality, warnings: Sequence[str]) -> str:
    items = "".join(
        tag(
            "li",
            tag("h3", escape(remark.title))
            + tag("p", escape(_sentence(remark.text)))
            + tag("p", tag("b", "Do: ") + escape(_sentence(remark.remedy)), class_="remedy"),
        )
        for remark in quality.remarks
    )
    items += "".join(tag("li", tag("h3", "Streams") + tag("p", escape(_sentence(text)))) for text in warnings)
    return tag("ul", items, class_="remarks") if items else ""


def _sentence(text: str) -> str:
    """A clause as a sentence. It may begin with the name of a stream, which stays as it is."""
    is_word = text.split(" ")[0].isalpha() and not text.startswith("image")
    end = "" if text.endswith("?") else "."
    return f"{text[:1].upper() if is_word else text[:1]}{text[1:]}{end}"


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def _maps(quality: Quality) -> str:
    """Maps of the paths of the action and of the starts, in two dimensions of a stream."""
    measures, count, body = quality.measures, len(quality.demonstrations), ""
    if (pair := _path_pair(quality)) is not None:
        way = quality.ways.way if quality.ways else np.zeros(count, dtype=np.int64)
        shapes = ""
        for episode in evenly_spaced(count, SHOWN_PATHS):
            points = measures.paths[episode][:, pair].astype(np.float64)
            shapes += tag("g", _path(points), class_=f"s{1 + way[episode]}")
        visits = _visits(measures.paths[:, :, pair].astype(np.float64))
        visited = max(int((visits > 0).sum()), 1)
        text = (
            f"the way of the action: {_percent(visited / visits.size)} of the area are visited, "
            f"{_percent((visits == 1).sum() / visited)} of that in one episode only"
        )
        body += _map(measures, pair, shapes, text)
    starts = measures.paths[:, 0].astype(np.float64)
    if (pair := _pair(measures, np.where(measures.is_action, 0, starts.std(axis=0)))) is not None:
        shapes = ""
        for episode, titles in enumerate(quality.flags):
            name = tag("title", f"episode {quality.demonstrations.episode_numbers[episode]}")
            x, y = starts[episode, pair]
            dot = tag("circle", name, class_="dot", cx=_x(x), cy=_y(y), r=1.1)
            shapes += tag("g", dot, class_="s0" if titles else "s1")
        body += _map(measures, pair, shapes, "where episodes start; those with a finding have the colour of findings")
    return tag("div", body, class_="multiples") if body else ""


def _path_pair(quality: Quality) -> list[int] | None:
    """The dimensions of the action in which its paths, or its two ways, differ most."""
    measures = quality.measures
    is_smooth = measures.is_action & (np.median(measures.steps, axis=0) <= LEAP)
    spread = measures.paths.astype(np.float64).std(axis=(0, 1)) * is_smooth
    if quality.ways is not None:
        spread[quality.ways.dimension] += 10
    return _pair(measures, spread)


def _pair(measures: Measures, spread: NDArray[np.float64]) -> list[int] | None:
    """Two dimensions of one stream and unit that spread (D,) most; lengths, if there are any."""
    pairs = []
    for kind in dict.fromkeys((entry.stream, entry.units) for entry in measures.dimensions):
        columns = [
            column
            for column, entry in enumerate(measures.dimensions)
            if (entry.stream, entry.units) == kind and spread[column] > 0.005
        ]
        if len(columns) > 1:
            best = sorted(sorted(columns, key=lambda column: -spread[column])[:2])
            pairs.append((kind[1] in LENGTHS, float(spread[best].sum()), best))
    return max(pairs)[2] if pairs else None


def _visits(paths: NDArray[np.float64]) -> NDArray[np.int64]:
    """(CELLS, CELLS): how many of the paths (n, P, 2), shares of the ranges, visit each cell."""
    visits = np.zeros((CELLS, CELLS), dtype=np.int64)
    fine = np.linspace(0, 1, 8, endpoint=False)[None, :, None]
    for points in paths:
        between = (points[:-1, None] + fine * (points[1:] - points[:-1])[:, None]).reshape(-1, 2)
        cells = np.unique(np.clip((np.concatenate([between, points[-1:]]) * CELLS).astype(int), 0, CELLS - 1), axis=0)
        visits[cells[:, 0], cells[:, 1]] += 1
    return visits


def _x(share: float) -> float:
    return round(12 + 84 * float(share), 2)


def _y(share: float) -> float:
    return round(88 - 84 * float(share), 2)


def _path(points: NDArray[np.float64]) -> str:
    line = "L".join(f"{_x(x)} {_y(y)}" for x, y in points)
    return tag("path", class_="way", d=f"M{line}") + tag(
        "circle", class_="dot", cx=_x(points[0, 0]), cy=_y(points[0, 1]), r=0.8
    )


def _map(measures: Measures, pair: Sequence[int], shapes: str, text: str) -> str:
    horizontal, vertical = (measures.dimensions[index] for index in pair)
    frame = tag("rect", class_="frame", x=12, y=4, width=84, height=84)
    for place, index, anchor in ((12, pair[0], "start"), (96, pair[0], "end")):
        value = measures.low[index] + (measures.span[index] if anchor == "end" else 0)
        frame += tag("text", f"{value:.3g}", x=place, y=94, text_anchor=anchor)
    for place, index, is_top in ((88, pair[1], False), (7, pair[1], True)):
        value = measures.low[index] + (measures.span[index] if is_top else 0)
        frame += tag("text", f"{value:.3g}", x=10.5, y=place, text_anchor="end")
    frame += tag("text", escape(_label(horizontal)), x=54, y=94, text_anchor="middle")
    frame += tag(
        "text", escape(_label(vertical)), x=0, y=0, text_anchor="middle", transform="translate(5 46) rotate(-90)"
    )
    drawing = tag("svg", frame + shapes, class_="map", viewBox="0 0 100 98", role="img", aria_label=text)
    caption = tag(
        "figcaption", tag("b", escape(f"{horizontal.label}, {vertical.label}")) + " " + unbroken(escape(text))
    )
    return tag("figure", caption + drawing)


def _label(dimension: Dimension) -> str:
    return f"{dimension.label}, {dimension.units}" if dimension.units else dimension.label


def _strips(quality: Quality, policy: str) -> str:
    measures, demonstrations = quality.measures, quality.demonstrations
    seconds = demonstrations.episode_lengths.astype(np.float64) * demonstrations.specification.control_dt
    strips: list[tuple[str, str, NDArray[np.float64], set[str]]] = [
        ("Length", "s", seconds, set()),
        ("Idle start", "s", measures.idle_start, {"Idle start"}),
        ("Idle end", "s", measures.idle_end, {"Idle end"}),
    ]
    if measures.dimensions:
        jerk = (measures.jerk / np.maximum(np.median(measures.jerk, axis=0), 1e-9)).max(axis=1)
        strips.append(("Jerk", "times the median, worst dimension", jerk, {"Jerks"}))
        strips.append(("Largest step", "% of the range, without switches", _steps(measures), {"Jumps"}))
    strips += [
        (f"Repeated {film.camera}", "% of moving steps", 100 * film.repeats, {"Repeated images", "Frozen images"})
        for film in quality.films
    ]
    if quality.errors is not None:
        strips.append((f"Error of {policy}", "% of the range", 100 * quality.errors, {"Hard to predict"}))
    body = "".join(_strip(quality, *strip) for strip in strips)
    note = "One column an episode, in the order of the store. Those with the finding of a strip have its colour."
    return tag("div", body, class_="multiples") + tag("p", note, class_="note")


def _steps(measures: Measures) -> NDArray[np.float64]:
    is_smooth = np.median(measures.steps, axis=0) <= LEAP
    return 100 * np.where(is_smooth, measures.steps, 0).max(axis=1)


def _strip(quality: Quality, title: str, unit: str, values: NDArray[np.float64], titles: set[str]) -> str:
    """A column for each episode; titles: the findings that colour it."""
    if not np.isfinite(values).any():
        return ""
    is_flagged = np.array([bool(titles & {*flags}) for flags in quality.flags])
    filled = np.nan_to_num(values)
    highest = float(filled.max()) if filled.max() > 1e-6 else 0.0
    bins = np.array_split(np.arange(len(values)), min(COLUMNS, len(values)))
    columns, width = "", 100 / len(bins)
    for index, members in enumerate(bins):
        worst = int(members[filled[members].argmax()])
        height = max(100 * filled[worst] / max(highest, 1e-6), 1.5)
        number = quality.demonstrations.episode_numbers[worst]
        columns += tag(
            "rect",
            tag("title", escape(f"episode {number}: {values[worst]:.3g} {unit.split(',')[0]}")),
            class_="success s0" if is_flagged[members].any() else "failure s1",
            x=f"{(index + 0.1) * width:.3f}%",
            y=f"{100 - height:.1f}%",
            width=f"{0.8 * width:.3f}%",
            height=f"{height:.1f}%",
        )
    caption = tag("b", escape(title)) + " " + tag("span", escape(f"{unit}, at most {highest:.3g}"))
    drawing = tag("svg", columns, class_="episodes", role="img", aria_label=f"{title} of each episode")
    return tag("figure", tag("figcaption", caption) + drawing)


def _frames(quality: Quality) -> str:
    """The first image of episodes with findings, of others, and the mean of all that are shown."""
    demonstrations, flags = quality.demonstrations, quality.flags
    flagged = [episode for episode, titles in enumerate(flags) if titles][: FRAMES // 2]
    others = [
        episode for episode in evenly_spaced(len(demonstrations), FRAMES - len(flagged)) if episode not in flagged
    ]
    body = ""
    for stream in demonstrations.specification.observations:
        if not stream.is_image:
            continue
        figures, images = "", []
        for episode in sorted([*flagged, *others]):
            start = demonstrations.bounds(episode)[0]
            images.append(demonstrations.read(stream.name, start, start + 1)[0])
            text = f"episode {demonstrations.episode_numbers[episode]}"
            text += f": {', '.join(flags[episode])}" if flags[episode] else ""
            figures += tag("figure", _image(images[-1], text) + tag("figcaption", escape(text)))
        mean = np.mean(images, axis=0).round().astype(np.uint8)
        figures += tag("figure", _image(mean, "the mean of these images") + tag("figcaption", "mean of these"))
        body += tag("p", escape(f"{stream.name}: the first images"), class_="note") + tag(
            "div", figures, class_="frames"
        )
    return body


def _image(frame: NDArray[np.uint8], text: str) -> str:
    from matplotlib.image import imsave

    shown = frame[..., :3] if frame.shape[2] >= 3 else frame[..., :1].repeat(3, axis=2)
    step = max(min(shown.shape[:2]) // 128, 1)
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(shown[::step, ::step]), format="png")
    source = embedded("image/png", file.getvalue())
    return tag("img", alt=text, src=source)


def _table(quality: Quality) -> str:
    demonstrations, measures, flags = quality.demonstrations, quality.measures, quality.flags
    seconds = demonstrations.episode_lengths * demonstrations.specification.control_dt
    facts, ways, errors = demonstrations.episode_facts, quality.ways, quality.errors
    columns: dict[str, list[str]] = {
        "episode": [str(number) for number in demonstrations.episode_numbers],
        "s": [f"{value:.1f}" for value in seconds],
    }
    for name, empty in (("outcome", "unknown"), ("operator", "")):
        values = [getattr(entry, name) for entry in facts]
        if {*values} != {empty}:
            columns[name] = ["–" if value == empty else value for value in values]
    columns["idle, s"] = [f"{value:.1f}" for value in measures.idle_start + measures.idle_end]
    if ways is not None:
        columns["way"] = [str(way + 1) for way in ways.way]
    if errors is not None:
        columns["error"] = ["–" if np.isnan(error) else _percent(error, 1) for error in errors]
    columns["findings"] = [", ".join(titles) or "–" for titles in flags]
    head = tag("tr", "".join(tag("th", name, scope="col") for name in columns))
    body = ""
    for episode in sorted(range(len(flags)), key=lambda episode: -len(flags[episode]))[:ROWS]:
        cells = (unbroken(escape(values[episode])) for values in columns.values())
        body += tag("tr", "".join(tag("td", cell) for cell in cells))
    table = tag("table", tag("thead", head) + tag("tbody", body), class_="even wide")
    note = f"The {ROWS} with the most findings." if len(flags) > ROWS else "Those with the most findings first."
    return tag("div", table, class_="scroll tall") + tag("p", note, class_="note")


def _facts(demonstrations: Demonstrations) -> str:
    facts, items = demonstrations.episode_facts, ""
    for name in ("outcome", "task", "sentence", "operator", "input"):
        items += _counts(name, [getattr(entry, name) for entry in facts], empty="unknown" if name == "outcome" else "")
    for package in dict.fromkeys(package for entry in facts for package in entry.versions):
        items += _counts(f"version of {package}", [entry.versions.get(package, "") for entry in facts])
    for name, unit in (("rates", "Hz"), ("delays", "s")):
        for stream in dict.fromkeys(stream for entry in facts for stream in getattr(entry, name)):
            values = [getattr(entry, name)[stream] for entry in facts if stream in getattr(entry, name)]
            text = f"{min(values):.3g} to {max(values):.3g} {unit}, median {np.median(values):.3g} {unit}"
            items += tag("dt", escape(f"{name[:-1]} of {stream}")) + tag("dd", text)
    return tag("dl", items) if items else ""


def _counts(name: str, values: Sequence[str], *, empty: str = "") -> str:
    """How often each value was noted; nothing if none was."""
    if {*values} == {empty}:
        return ""
    counts = Counter("not noted" if value == empty else value for value in values).most_common(5)
    text = "; ".join(f"{value} ({count})" for value, count in counts)
    return tag("dt", escape(name)) + tag("dd", escape(text))
