"""One table of many evaluations."""

import json

import pytest
from recede.evaluation.comparison import document, find, table
from recede.evaluation.intervals import wilson


def result(
    *,
    success,
    network="unet1d",
    sampler=("ddim", 10),
    schedule="cosine",
    training_s=100.0,
    p50=5.0,
    seed=0,
    recipe="a",
    first=0,
    execution="receding",
    delay_ms=0.0,
):
    chosen = {"choice": sampler[0], "num_steps": sampler[1]}
    return {
        "task": "reach",
        "checkpoint": f"runs/{recipe}{seed}/checkpoints/00002000",
        "recipe": recipe,
        "step": 2000,
        "training_seed": seed,
        "execution": {"choice": execution},
        "delay_ms": delay_ms,
        "seed": 0,
        "seeds": list(range(first, first + len(success))),
        "policy": {"network": {"choice": network}, "schedule": {"choice": schedule}, "sampler": chosen},
        "success": success,
        "score": [float(each) for each in success],
        "num_parameters": 4_560_000,
        "training_s": training_s,
        "latency": {"p50_ms": p50},
    }


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_training_seeds_are_taken_together_and_kinds_apart():
    lines = table(
        [
            result(success=[True] * 30 + [False] * 20, training_s=100.0, p50=4.0),
            result(success=[True] * 40 + [False] * 10, training_s=120.0, p50=6.0, seed=1),
            result(success=[True] * 50, sampler=("ddim", 4), schedule="rectified_flow"),
            result(success=[False, True], network="dit", training_s=None),
        ]
    ).splitlines()
    assert [cells(line)[:3] for line in lines[2:]] == [
        ["reach", "dit", "ddim-10"],
        ["reach", "unet1d", "ddim-10"],
        ["reach", "unet1d", "flow-4"],
    ]
    low, high = (round(100 * bound) for bound in wilson(70, 100))
    assert cells(lines[3])[3:6] == ["receding", "0", "2000"]
    assert cells(lines[3])[6] == f"70 % [{low}, {high}]"
    assert cells(lines[3])[7].startswith("0.700 [0.6")
    assert cells(lines[3])[8:] == ["100", "2", "4.6 M", "110 s", "5.0 ms"]
    assert cells(lines[2])[11] == "-"
    assert {len(cells(line)) for line in lines} == {len(cells(lines[0]))}


def test_an_episode_counts_once_and_other_recipes_are_other_rows():
    again = [result(success=[True, False, True]), result(success=[True, True, False], first=2)]
    lines = table([*again, result(success=[False] * 4, recipe="b"), result(success=[True], recipe="c")]).splitlines()
    assert [cells(line)[8:10] for line in lines[2:]] == [["5", "1"], ["4", "1"], ["1", "1"]]
    assert [cells(line)[6].split(" %")[0] for line in lines[2:]] == ["60", "0", "100"]


def test_executions_and_delays_are_other_rows():
    late = [result(success=[True], delay_ms=delay) for delay in (100.0, 50.0)]
    lines = table([result(success=[True, True]), *late, result(success=[False], execution="rtc")]).splitlines()
    assert [cells(line)[3:5] for line in lines[2:]] == [
        ["receding", "0"],
        ["receding", "50"],
        ["receding", "100"],
        ["rtc", "0"],
    ]
    assert [cells(line)[8] for line in lines[2:]] == ["2", "1", "1", "1"]


def test_the_command_reads_what_evaluate_writes(recede, trained, tmp_path):
    for seed in (0, 1):
        out = tmp_path / "results" / str(seed)
        options = ["task=toys:REACH", f"first_seed={100 * seed}", "episodes=3", "videos=0"]
        assert recede("evaluate", trained, f"out={out}", *options).status == 0
    printed = recede("compare", tmp_path / "results")
    assert printed.status == 0
    assert cells(printed.out.splitlines()[2])[:3] == ["reach", "unet1d", "ddim-10"]
    assert cells(printed.out.splitlines()[2])[8:10] == ["6", "1"]  # two evaluations of one training
    page = tmp_path / "results.md"
    assert recede("compare", tmp_path / "results", f"out={page}").status == 0
    assert printed.out in page.read_text()
    assert f"`recede compare folder={tmp_path / 'results'} out={page}` from 2 evaluations" in page.read_text()


def test_a_folder_without_evaluations_is_refused(recede, tmp_path):
    assert "there is no evaluation.json here or below" in recede("compare", tmp_path).line
    (tmp_path / "evaluation.json").write_text(json.dumps({"task": "reach"}))
    with pytest.raises(ValueError, match=r"evaluation.json lacks \['policy', 'checkpoint'"):
        find(tmp_path)
    assert recede("compare", tmp_path / "nowhere").status == 2


def test_a_page_says_what_its_numbers_mean():
    page = document([result(success=[True, False])], command="recede compare runs")
    assert "Written by `recede compare runs` from 1 evaluations." in page
    assert "95 % intervals" in page
