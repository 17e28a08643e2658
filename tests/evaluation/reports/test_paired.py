"""`recede compare A B` and `recede evaluate A B`: what they print, write and refuse."""

import json

import pytest
from evaluations import WORLD, result, write
from recede.evaluation.reports.paired import find_one, paired, paired_text
from recede.files import write_json_with_digest

GOOD, POOR = [True] * 40 + [False] * 10, [True] * 20 + [False] * 30


def test_policies_are_paired_by_their_seeds():
    one = result([True, False, True], first_seed=5)
    other = result([False, True, True, False], first_seed=4, score=[0.0, 1.0, 0.9, 0.5])
    pairs, seeds = paired(one, other)
    assert seeds == [5, 6, 7]
    assert (pairs.only_first, pairs.only_second) == (1, 1)
    assert pairs.scores.tolist() == [[1.0, 1.0], [0.0, 0.9], [1.0, 0.5]]


def test_the_text_has_rates_differences_and_letters():
    text = paired_text({"b": result(POOR), "a": result(GOOD), "c": result(GOOD, score=[0.5] * 50)})
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    ranked = {row[1].strip(): row[0].strip() for row in rows[2:5]}
    assert ranked == {"a": "A", "c": "A", "b": "B"}
    differences = {(row[0].strip(), row[1].strip()): [cell.strip() for cell in row[2:]] for row in rows[7:]}
    assert differences["b", "a"][:4] == ["50", "0", "20", "-40.0 [-52.7, -24.2]"]
    assert differences["a", "c"][3].startswith("+0.0")
    assert "a succeeds more often than b." in text
    assert "a and c are not told apart: they succeed equally often in these 50 episodes." in text


def test_close_policies_get_the_number_of_episodes_that_would_tell_them_apart():
    text = paired_text({"a": result([True] * 17 + [False] * 3), "b": result([True] * 15 + [False] * 5)})
    assert "a and b are not told apart by 20 episodes. If they differ by +10.0 points, about 77 would show it" in text


def test_what_cannot_be_compared_is_refused(recede, tmp_path):
    good = write(tmp_path / "good", GOOD)
    later = write(tmp_path / "later", GOOD, first_seed=900)
    old = write(tmp_path / "old", GOOD, world=WORLD | {"max_steps": 9})
    unknown = write(tmp_path / "unknown", GOOD)
    content = json.loads((unknown / "evaluation.json").read_text())
    write_json_with_digest(
        unknown / "evaluation.json", {k: v for k, v in content.items() if k not in ("world", "content_sha256")}
    )
    assert "share no episode: their seeds begin at 0 and 900" in recede("compare", good, later).line
    assert "max_steps is" in recede("compare", good, old).line
    assert "evaluate that policy again" in recede("compare", good, unknown).line
    assert (
        "must hold one evaluation to compare, got 4: name the folder of one" in recede("compare", good, tmp_path).line
    )
    assert "must name each folder once" in recede("compare", good, good).line
    assert "leave it out, or name one folder" in recede("compare", good, later, "lines=x.jsonl").line
    assert "there is no evaluation.json" in recede("compare", good, tmp_path / "nowhere").line


def test_the_command_prints_or_writes_the_comparison(recede, tmp_path):
    good, poor = write(tmp_path / "good", GOOD), write(tmp_path / "poor", POOR)
    printed = recede("compare", good, poor)
    assert printed.status == 0
    assert f"{good} succeeds more often than {poor}." in printed.out
    page = tmp_path / "page.md"
    assert recede("compare", good, poor, f"out={page}").status == 0
    assert page.read_text().startswith("# Policies in the same episodes")
    assert str(good) in page.read_text().splitlines()[2]
    assert paired_text({str(one): find_one(one) for one in (good, poor)}) in printed.out + "\n"


@pytest.fixture(scope="module")
def policies(reaches, tmp_path_factory):
    """Two runs of REACH of two steps each."""
    from recede.configs.components.networks import UNet1dConfig
    from recede.configs.components.policies import RegressionConfig
    from recede.configs.training import TrainConfig
    from recede.training.loop import train

    folder = tmp_path_factory.mktemp("policies")
    for seed in (0, 1):
        train(
            TrainConfig(
                dataset=str(reaches),
                task="toys:REACH",
                out=str(folder / f"run-{seed}"),
                policy=RegressionConfig(network=UNet1dConfig(channels=[8], time_size=8)),
                steps=2,
                batch_size=8,
                seed=seed,
                device="cpu",
            )
        )
    return folder / "run-0", folder / "run-1"


OPTIONS = ("task=toys:REACH", "imports=[toys]", "videos=0", "parallel=4", "device=cpu")


def test_several_policies_act_in_the_same_episodes(recede, policies, tmp_path):
    printed = recede("evaluate", *policies, *OPTIONS, "episodes=6", f"out={tmp_path}")
    assert printed.status == 0, printed.err
    seeds = [json.loads((tmp_path / name / "evaluation.json").read_text())["seeds"] for name in ("run-0", "run-1")]
    assert seeds[0] == seeds[1] == list(range(100_000, 100_006))
    assert "are not told apart" in printed.out
    assert (tmp_path / "comparison.md").read_text().startswith("# Policies in the same episodes")
    assert not (policies[0] / "evaluation.json").exists()


def test_policies_are_rolled_out_in_rounds_until_it_is_decided(recede, policies, tmp_path):
    printed = recede("evaluate", *policies, *OPTIONS, "until=decided", "most=10", f"out={tmp_path}")
    assert printed.status == 0, printed.err
    assert [line.split(":")[0] for line in printed.out.splitlines() if "decided at 20" in line] == [
        *("4 episodes", "8 episodes", "10 episodes"),
    ]
    assert "undecided after 10 episodes" in (tmp_path / "comparison.md").read_text()
    again = recede("evaluate", *policies, *OPTIONS, "episodes=10", f"out={tmp_path / 'at once'}")
    assert again.status == 0
    both = [json.loads((folder / "run-0/evaluation.json").read_text()) for folder in (tmp_path, tmp_path / "at once")]
    assert both[0]["seeds"] == both[1]["seeds"]
    assert both[0]["score"] == both[1]["score"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "until=decided"], "until=decided compares two policies, got 1: name two runs"),
        (["a", "b", "c", "until=decided"], "got 3"),
        (["a", "b", "until=now"], "until must be decided or null, got 'now'"),
        (["a", "b", "indifference=0.1"], "indifference=0.1 is for until=decided"),
        (["a", "b", "until=decided", "indifference=2"], "indifference must be at least 0 and below 1"),
        (["a", "b", "delay_ms=[0,100]"], "one execution and one delay"),
        (["a", "a"], "run must name each folder once"),
    ],
)
def test_impossible_comparisons_are_refused(recede, arguments, words):
    refused = recede("evaluate", *arguments)
    assert refused.status == 2
    assert words in refused.line


def test_policies_of_different_worlds_do_not_meet(recede, policies, monkeypatch, tmp_path):
    worlds = iter([WORLD, WORLD | {"control_dt": 9.0}])
    monkeypatch.setattr("recede.evaluation.results.world", lambda task, **_: next(worlds))
    refused = recede("evaluate", *policies, *OPTIONS, f"out={tmp_path / 'out'}")
    assert refused.status == 2
    assert "do not act in the same world: control_dt is" in refused.line
    assert not (tmp_path / "out/run-0/evaluation.json").exists()
