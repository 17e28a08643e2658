"""`recede evaluate RUN disturb...`: a table and a picture of the same episodes, undisturbed and disturbed."""

import json

import pytest
from recede.evaluation import delays
from recede.evaluation.results import measure

OPTIONS = ("task=toys:REACH", "imports=[toys]", "episodes=8", "device=cpu")
NOISE = ("disturb.observation_noise=[0.01,0.5]", "disturb.action_noise=0.1", "disturb.delay=[100]")


@pytest.mark.slow
def test_every_severity_is_measured_in_the_same_episodes(recede, trained, tmp_path, monkeypatch):
    printed = recede("evaluate", trained, *OPTIONS, *NOISE, f"out={tmp_path}")
    assert printed.status == 0, printed.err
    names = ["undisturbed", "observation_noise-0.01", "observation_noise-0.5", "action_noise-0.1", "delay-100"]
    arms = {name: json.loads((tmp_path / name / "evaluation.json").read_text()) for name in names}
    assert all(arm["seeds"] == arms["undisturbed"]["seeds"] for arm in arms.values())
    assert arms["delay-100"]["delay_ms"] == 100
    assert arms["undisturbed"]["score"] != arms["observation_noise-0.5"]["score"]
    rows = [line.split("|")[1:3] for line in printed.out.splitlines() if line.startswith("|")][2:]
    assert [(kind.strip(), severity.strip()) for kind, severity in rows] == [
        ("none", "-"),
        ("observation_noise", "0.01 of the range"),
        ("observation_noise", "0.5 of the range"),
        ("action_noise", "0.1 of the range"),
        ("delay", "100 ms"),
    ]
    page = (tmp_path / "robustness.md").read_text()
    assert "- delay, s ms: chunks arrive s after they were requested" in page
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")

    def again(config):
        raise AssertionError("it was measured already")

    monkeypatch.setattr(delays, "measure", again)
    assert recede("evaluate", trained, *OPTIONS, *NOISE, f"out={tmp_path}").status == 0
    monkeypatch.setattr(delays, "measure", measure)
    more = recede("evaluate", trained, *OPTIONS, *NOISE, "disturb.action_noise=[0.1,0.2]", f"out={tmp_path}")
    assert [line.split(":")[0] for line in more.out.splitlines() if "success" in line and "over 8" in line] == [
        "action_noise-0.2"
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["disturb.pusch=1"], "disturb.pusch: there is no such disturbance: did you mean 'push'?"),
        (["disturb.push=0"], "severities above 0, at most 1000 N, got 0"),
        (["disturb.push=[1,many]"], "got [1, 'many']"),
        (["disturb.light=[1.5]"], "at most 1 of the brightness"),
        (["disturb.push=[2,2]"], "name each severity once"),
        (["disturb.push=2", "delay_ms=[0,100]"], "one policy with one execution and one delay"),
        (["more", "disturb.push=2"], "one policy with one execution and one delay"),
        (["disturb.push=2"], "the environment of task 'reach' has no method disturb"),
        (["disturb.camera=0.1"], "changes only images, and task 'reach' has none"),
    ],
)
def test_impossible_disturbances_are_refused(recede, trained, arguments, words, tmp_path):
    refused = recede("evaluate", trained, *arguments, *OPTIONS, f"out={tmp_path / 'out'}")
    assert refused.status == 2
    assert words in refused.line
    assert not list((tmp_path / "out").glob("**/evaluation.json"))
