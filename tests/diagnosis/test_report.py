"""Findings have remedies, an error is a finding too, and the JSON of a report holds nothing that is private."""

import json
import math
from pathlib import Path

import pytest
from recede.diagnosis.report import MOST_SHOWN, Finding, Report, anonymous


def look(*findings, error=None):
    def look_at(facts):
        facts["number"] = math.nan
        yield from findings
        if error is not None:
            raise error

    return look_at


def test_a_problem_must_have_a_remedy():
    with pytest.raises(ValueError, match="remedy, got none for 'it burns'"):
        Finding("problem", "it burns")
    with pytest.raises(ValueError, match="one of ok, note, warning, problem, got 'bad'"):
        Finding("bad", "it burns", "water")


def test_an_error_is_a_problem_behind_what_was_seen_before(capsys):
    report = Report()
    report.examine("house", look(Finding("ok", "the roof is there"), error=RuntimeError("the cellar burns")))
    assert [finding.severity for finding in report.findings] == ["ok", "problem"]
    assert "RuntimeError: the cellar burns" in report.findings[1].what
    assert report.verdict == "1 problem, no warnings"
    assert "the cellar burns" in capsys.readouterr().out


def test_the_worst_of_many_findings_are_printed_and_all_are_kept(capsys):
    report = Report()
    many = [Finding("ok", f"room {index}") for index in range(30)]
    report.examine("house", look(*many, Finding("warning", "room 30 smokes", "open a window")))
    printed = capsys.readouterr().out
    assert "room 30 smokes" in printed
    assert "-> open a window" in printed
    assert f"and {31 - MOST_SHOWN} more" in printed
    assert len(report.to_json()["findings"]) == 31


def test_the_json_goes_round_and_holds_nothing_private(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    monkeypatch.setenv("LOGNAME", "ada")
    report = Report()
    what = f"{Path.home()}/runs/x says hf_0123456789 at ws://ada:lovelace@host:1 and /tmp/pytest-of-ada/x"
    report.examine(f"store {Path.home()}/d.zarr", look(Finding("warning", what, f"see {Path.home()}/y")))
    text = json.dumps(report.to_json(), allow_nan=False)
    assert json.loads(text) == report.to_json()
    assert Finding(**report.to_json()["findings"][0]).severity == "warning"
    for private in ("hf_0123456789", "lovelace", str(tmp_path), "of-ada/"):
        assert private not in text
    assert "~/runs/x says ***" in text
    assert report.to_json()["facts"]["store ~/d.zarr"] == {"number": None}


def test_short_values_and_other_variables_hide_no_words(monkeypatch):
    monkeypatch.setenv("API_KEY", "run")
    monkeypatch.setenv("EDITOR", "a-long-editor")
    assert anonymous("a run of a-long-editor") == "a run of a-long-editor"
