"""The quality page names every finding, its episodes and what to do, in one file that loads nothing."""

import re
from pathlib import Path

import numpy as np
import pytest
from flawed import InMemory, noted, reaches, repeating, waiting
from recede.datasets.quality import PATH_POINTS
from recede.evaluation.reports.quality import CELLS, Quality, _visits, write_quality


@pytest.fixture(scope="module")
def clean():
    return reaches(12)


def page_of(path, demonstrations, errors=None, warnings=()):
    quality = Quality.of(demonstrations, errors)
    write_quality(path, quality, warnings=warnings, command="recede inspect a<b.zarr", policy="run")
    return path.read_text(encoding="utf-8")


def test_a_clean_recording_is_said_to_be_so(tmp_path, clean):
    page = page_of(tmp_path / "page.html", clean)
    assert "Nothing looks wrong." in page
    assert "What to do" not in page
    assert "What is noted" not in page
    assert "recede inspect a&lt;b.zarr" in page


def test_every_finding_stands_on_the_page_with_its_episodes_and_remedy(tmp_path, clean):
    flawed = clean.but(waiting, episodes=[3]).but(lambda rows: repeating(rows, "image", 5, 30), episodes=[7])
    flawed = noted(flawed, 1, outcome="failure", operator="<Ada>", rates={"hand": 10.0})
    errors = np.full(len(flawed), 0.02)
    errors[5], errors[6] = 0.3, np.nan
    quality = Quality.of(flawed, errors)
    page = page_of(tmp_path / "page.html", flawed, errors, ["hand.x is stuck: see to it"])
    assert [remark.title for remark in quality.remarks] == [
        "Failures",
        "Idle start",
        "Frozen images",
        "Hard to predict",
    ]
    for remark in quality.remarks:
        assert f"<h3>{remark.title}</h3>" in page
        assert remark.remedy.split(" (")[0][1:].replace('"', "&quot;") in page
    assert "hand.x is stuck: see to it." in page
    assert "5 findings" in page
    assert "&lt;Ada&gt;" in page
    assert "30.0&nbsp;%" in page
    assert [episode for episode, titles in enumerate(quality.flags) if titles] == [1, 3, 5, 7]


def test_the_page_loads_nothing(tmp_path, clean):
    page = page_of(tmp_path / "page.html", clean)
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("data:image/png") == 13  # twelve episodes and their mean
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_two_ways_have_two_colours_and_shares(tmp_path):
    page = page_of(tmp_path / "page.html", reaches(30, sides=(1.0, -1.0)))
    assert "50&nbsp;% and 50&nbsp;% of the episodes, apart in action.y most" in page
    for colour in ("s1", "s2"):
        assert page.count(f'<g class="{colour}"><path class="way"') == 15


@pytest.mark.parametrize("count", [1, 3])
def test_few_and_motionless_episodes_have_a_page_too(tmp_path, count):
    for change in (lambda rows: {}, lambda rows: {name: np.zeros_like(rows[name]) for name in ("hand", "action")}):
        assert "<h1>Quality of" in page_of(tmp_path / "page.html", reaches(count).but(change))


def test_numbers_that_are_not_finite_are_left_out(tmp_path, clean):
    def broken(rows):
        hand = rows["hand"].copy()
        hand[0, 0], hand[1, 1] = np.nan, np.inf
        return {"hand": hand}

    flawed = clean.but(broken, episodes=[2])
    assert [entry.stream for entry in Quality.of(flawed).measures.dimensions] == ["action"] * 3
    page_of(tmp_path / "page.html", flawed)


def test_a_cell_is_visited_once_by_an_episode():
    across = np.stack([np.linspace(0, 1, PATH_POINTS), np.full(PATH_POINTS, 0.55)], axis=1)
    visits = _visits(np.stack([across, across, across[::-1]]))
    assert visits.sum() == 3 * CELLS
    assert (visits[:, 5] == 3).all()


def test_an_episode_of_one_step_is_measured(clean):
    short = InMemory(clean.specification, [*clean.episodes, {n: rows[:1] for n, rows in clean.episodes[0].items()}])
    assert Quality.of(short).measures.jerk[-1].tolist() == [0] * 5


def test_the_name_of_a_store_is_that_of_its_folder(tmp_path, clean):
    clean.path = Path("data/hands.zarr")
    assert "<title>Quality of hands.zarr</title>" in page_of(tmp_path / "page.html", clean)
