"""An evaluation that is interrupted or killed goes on, and ends as if it had not been."""

import json
import os
import signal
import time
from dataclasses import replace

import pytest
from recede.envs.faults import Fault
from recede.evaluation.episode import Outcome
from recede.evaluation.journal import NAME, Journal
from recede.files import DIGEST

OUTCOMES = [
    Outcome(7, True, 1.0, 12, final_score=1.0, success_step=12, start={"cube x, m": 0.1}),
    Outcome(5, False, 0.1 + 0.2, 200, final_score=0.25),
    Outcome(9, True, 0.5, 3, start={"cube x, m": -1.0}),
]


def test_outcomes_come_back_as_they_were(tmp_path):
    path = tmp_path / "new" / NAME
    journal = Journal(path, {"policy": "a"})
    for outcome in OUTCOMES:
        journal.note(outcome)
    again = Journal(path, {"policy": "a"})
    assert [*again.outcomes.values()] == OUTCOMES
    again.note(Outcome(13, False, 0.0, 3, fault=Fault(13, 3, "step()", "OSError", "gone")))
    assert 13 not in Journal(path, {"policy": "a"}).outcomes  # it is tried again
    assert again.seconds == pytest.approx(journal.seconds)
    again.note(replace(OUTCOMES[0], seed=11))
    assert list(Journal(path, {"policy": "a"}).outcomes) == [7, 5, 9, 11]
    other = Journal(path, {"policy": "b"})
    assert other.outcomes == {}
    other.note(OUTCOMES[1])
    assert Journal(path, {"policy": "a"}).outcomes == {}  # the file is that of the other policy now


def test_nothing_is_written_before_the_first_outcome(tmp_path):
    Journal(tmp_path / "new" / NAME, {}).delete()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_that_was_not_finished_is_dropped(tmp_path, cut):
    journal = Journal(tmp_path / NAME, {})
    for outcome in OUTCOMES:
        journal.note(outcome)
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[:-cut])
    again = Journal(tmp_path / NAME, {})
    assert list(again.outcomes) == ([7, 5] if cut > 1 else [7, 5, 9])
    again.note(OUTCOMES[2])
    assert [*Journal(tmp_path / NAME, {}).outcomes.values()] == OUTCOMES


def results(folder):
    content = json.loads((folder / "evaluation.json").read_text())
    return {name: value for name, value in content.items() if name not in ("wall_s", "latency", DIGEST)}


OPTIONS = ("task=toys:REACH", "imports=[toys]", "videos=1", "parallel=2", "device=cpu", "episodes=40")


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(recede, nursery, trained, tmp_path):
    assert recede("evaluate", trained, *OPTIONS, f"out={tmp_path / 'whole'}").status == 0
    child, journal = (
        nursery.start("evaluate", trained, *OPTIONS, f"out={tmp_path / 'killed'}"),
        tmp_path / "killed" / NAME,
    )
    while not journal.exists() or journal.read_bytes().count(b"\n") < 6:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert nursery.wait()[0] == -signal.SIGKILL
    kept = Journal(journal, json.loads(journal.read_text().splitlines()[0])["subject"]).outcomes
    assert len(kept) >= 5
    again = recede("evaluate", trained, *OPTIONS, f"out={tmp_path / 'killed'}")
    assert again.status == 0
    num = len(kept.keys() - {100_000})  # the first one is filmed again
    assert f"{num} episodes of an interrupted evaluation are in {journal}" in again.out
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not journal.exists()


def interrupt(self, outcome, note=Journal.note):
    note(self, outcome)
    raise KeyboardInterrupt


@pytest.mark.slow
def test_other_options_begin_anew(recede, trained, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "note", interrupt)
        recede("evaluate", trained, *OPTIONS, "videos=0", f"out={tmp_path}")
    kept = (tmp_path / NAME).read_text()
    assert kept.count("\n") == 2
    for change in ("seed=1", "delay_ms=100", "sampler.num_steps=2"):
        (tmp_path / NAME).write_text(kept)
        other = recede("evaluate", trained, *OPTIONS, "videos=0", "episodes=2", change, f"out={tmp_path}")
        assert "interrupted" not in other.out
    (tmp_path / NAME).write_text(kept)
    first = "first_seed=99999"
    again = recede("evaluate", trained, *OPTIONS, "videos=0", "episodes=3", "parallel=5", first, f"out={tmp_path}")
    assert "1 episodes of an interrupted evaluation" in again.out
