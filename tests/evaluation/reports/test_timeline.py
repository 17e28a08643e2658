"""The page of a run in real time."""

import numpy as np
import pytest
from recede.control.log import tick_specification
from recede.datasets.store import DemonstrationStore
from recede.evaluation.reports.control import NUM_BINS, summary_line, thinned, write_timeline
from toys import SPECIFICATION


def episode(seed=0, **changes):
    plain = {"success": True, "score": 1.0, "steps": 9, "reason": "over", "commands": 100, "late": 1, "chunks": 3}
    return {"seed": seed, **plain, "skipped": 0, "chunk_ms": 40.0, "events": {"SPEED": 2}} | changes


def test_a_stopped_episode_has_failed_and_an_interrupted_one_does_not_count():
    episodes = [episode(), episode(reason="stopped for safety", success=False), episode(success=None)]
    assert summary_line(episodes).startswith(
        "3 of 300 commands more than half a period late; success in 1 of 2 episodes ["
    )
    assert summary_line([episode(success=None)]) == "1 of 100 commands more than half a period late"


@pytest.fixture
def ticks(tmp_path):
    store, count = DemonstrationStore.create(tmp_path / "ticks.zarr", tick_specification(SPECIFICATION, 100.0)), 1000
    rng = np.random.default_rng(0)
    streams = {name: rng.uniform(0, 0.02, (count, 1)) for name in ("time", "late", "age", "chunk", "seam", "doubt")}
    streams["chunk"][1:] = 0
    store.append({**streams, "events": np.zeros((count, 1), int), "action": np.zeros((count, 2), "float32")})
    return store


def test_the_page_describes_the_run_and_escapes_strings(tmp_path, ticks):
    record = {
        "task": "<b>reach</b>",
        "policy": "runs/a",
        "robot": {"choice": "simulated"},
        "execution": {"choice": "rtc"},
        "command": "recede control 'run=a & b'",
        "episodes": [episode(7), episode(8, success=None, reason="interrupted", chunk_ms=None, events={})],
    }
    write_timeline(tmp_path / "report.html", record, ticks)
    page = (tmp_path / "report.html").read_text()
    for title in ("Age of the observations", "Time of a chunk", "Lateness of commands", "Seams between chunks"):
        assert page.count(f"<b>{title}</b>") == 1
    assert "2 of 200 commands late" in page.replace("&nbsp;", " ")
    assert "speed 2" in page
    assert "interrupted" in page
    assert "&lt;b&gt;reach&lt;/b&gt;" in page
    assert "a &amp; b" in page
    assert "<b>reach" not in page


def test_a_point_for_several_ticks_is_the_largest():
    values = np.zeros(10_000)
    values[1234] = 7.0
    points = thinned(np.arange(10_000) / 100, values)
    assert len(points) == NUM_BINS
    assert [point for point in points if point[1]] == [(12.34, 7.0)]
    assert thinned(np.arange(3) / 100, np.arange(3.0)) == [(0.0, 0.0), (0.01, 1.0), (0.02, 2.0)]
