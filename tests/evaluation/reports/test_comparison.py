"""One table of many evaluations."""

import json
from pathlib import Path

import pytest
import recede
from recede.evaluation.intervals import bootstrap, wilson
from recede.evaluation.reports.comparison import document, find_evaluations, table
from recede.files import with_digest, write_json_with_digest

ROOT = Path(recede.__file__).parent


def result(
    *,
    success,
    score=None,
    network="unet1d",
    sampler=("ddim", 10),
    schedule="cosine",
    training_s=100.0,
    p50=5.0,
    seed=0,
    recipe="a",
    training=None,
    first=0,
    execution="receding",
    delay_ms=0.0,
    **policy,
):
    chosen = {"choice": sampler[0], "num_steps": sampler[1]} if isinstance(sampler, tuple) else sampler
    return {
        "task": "reach",
        "checkpoint": f"runs/{recipe}{seed}/checkpoints/00002000",
        "recipe": recipe,
        "training": training,
        "step": 2000,
        "training_seed": seed,
        "execution": {"choice": execution},
        "delay_ms": delay_ms,
        "seed": 0,
        "seeds": list(range(first, first + len(success))),
        "policy": {"network": {"choice": network}, "schedule": {"choice": schedule}, "sampler": chosen} | policy,
        "success": success,
        "score": [float(value) for value in success] if score is None else score,
        "num_parameters": 4_560_000,
        "processor": "A",
        "training_s": training_s,
        "latency": {"p50_ms": p50},
    }


def rates(successes, episodes=50):
    return [[True] * count + [False] * (episodes - count) for count in successes]


def rows(results):
    """Each row of the table: column -> cell."""
    names, _, *lines = table(results).splitlines()
    assert {len(cells(line)) for line in lines} == {len(cells(names))} == {len(set(cells(names)))}
    return [dict(zip(cells(names), cells(line), strict=True)) for line in lines]


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_trainings_of_a_recipe_are_taken_together_and_kinds_apart():
    few, many = rates([30, 40])
    compared = rows(
        [
            result(success=few, training_s=100.0, p50=4.0),
            result(success=many, training_s=120.0, p50=6.0, seed=4),
            result(success=[True] * 50, sampler=("ddim", 4), schedule="rectified_flow"),
            result(success=[False, True], network="dit", training_s=None),
        ]
    )
    assert [(row["task"], row["network"], row["sampler"]) for row in compared] == [
        ("reach", "dit", "ddim-10"),
        ("reach", "unet1d", "ddim-10"),
        ("reach", "unet1d", "flow-4"),
    ]
    low, high = (round(100 * bound) for bound in wilson(70, 100))
    lowest, highest = bootstrap([1.0] * 70 + [0.0] * 30)
    assert compared[1] == {
        "task": "reach",
        "network": "unet1d",
        "sampler": "ddim-10",
        "execution": "receding",
        "delay, ms": "0",
        "steps": "2000",
        "recipe": "-",
        "trainings": "2 (seeds 0, 4)",
        "episodes": "100",
        "success [over episodes]": f"70 % [{low}, {high}]",
        "success [over trainings]": "two trainings",
        "score [over episodes]": f"0.700 [{lowest:.3f}, {highest:.3f}]",
        "score [over trainings]": "two trainings",
        "parameters": "4.6 M",
        "training time": "110 s",
        "latency": "5.0 ms",
    }
    assert compared[0]["training time"] == "-"
    assert (compared[2]["trainings"], compared[2]["success [over trainings]"]) == ("1 (seed 0)", "one training")


def test_three_trainings_have_an_interval_over_trainings():
    """Three trainings of one recipe: Student's t of 40, 46 and 22 % is 5 to 67 %, where episodes alone say 29 to 44."""
    (row,) = rows([result(success=rate, seed=seed) for seed, rate in enumerate(rates([20, 23, 11]))])
    assert row["trainings"] == "3 (seeds 0, 1, 2)"
    assert row["success [over episodes]"] == "36 % [29, 44]"
    assert row["success [over trainings]"] == "36 % [5, 67]"
    assert row["score [over trainings]"] == "0.360 [0.050, 0.670]"


def test_trainings_that_agree_are_no_more_certain_than_their_episodes():
    (row,) = rows([result(success=[True] * 50, seed=seed) for seed in range(3)])
    assert row["success [over trainings]"] == row["success [over episodes]"] == "100 % [98, 100]"
    assert row["score [over trainings]"] == row["score [over episodes]"]


def test_the_mean_over_trainings_weighs_them_alike():
    few, many, none = [True] * 10, [False] * 80 + [True] * 20, [False] * 40
    (row,) = rows([result(success=training, seed=seed) for seed, training in enumerate((few, many, none))])
    assert row["success [over episodes]"].startswith("20 % [")  # 30 of 150
    assert row["success [over trainings]"] == "40 % [0, 100]"  # the mean of 100, 20 and 0


def test_an_episode_counts_once_and_other_recipes_are_other_rows():
    again = [result(success=[True, False, True]), result(success=[True, True, False], first=2)]
    moved = again[0] | {"checkpoint": "elsewhere/checkpoints/00002000"}
    compared = rows([*again, moved, result(success=[False] * 4, recipe="b"), result(success=[True], recipe="c")])
    assert [(row["episodes"], row["trainings"]) for row in compared] == [(count, "1 (seed 0)") for count in "541"]
    assert [row["success [over episodes]"].split(" %")[0] for row in compared] == ["60", "0", "100"]


def test_an_imported_policy_has_no_seed_of_training():
    (row,) = rows([result(success=[True, False], seed=None, recipe="imported/pusht")])
    assert row["trainings"] == "1 (seed unknown)"


def test_executions_and_delays_have_rows_of_their_own():
    late = [result(success=[True], delay_ms=delay) for delay in (100.0, 50.0)]
    compared = rows([result(success=[True, True]), *late, result(success=[False], execution="rtc")])
    assert [(row["execution"], row["delay, ms"], row["episodes"]) for row in compared] == [
        ("receding", "0", "2"),
        ("receding", "50", "1"),
        ("receding", "100", "1"),
        ("rtc", "0", "1"),
    ]


def test_every_option_of_a_sampler_makes_another_row():
    schedulers = [
        {"choice": "diffusers", "name": name, "num_steps": 10, "options": options}
        for name, options in (("DPMSolverMultistepScheduler", {}), ("DDIMScheduler", {"clip_sample": False}))
    ]
    ours = [("ddim", 10), {"choice": "ddim", "num_steps": 10, "eta": 0.5}]
    compared = rows([result(success=[True], sampler=sampler) for sampler in (*ours, *schedulers)])
    assert {row["sampler"] for row in compared} == {
        "ddim-10",
        "ddim-10, eta 0.5",
        "diffusers-10",
        "diffusers-10, name DDIMScheduler, options {'clip_sample': False}",
    }


# --- rows of other recipes have other labels


def trained_with(recipe, **changes):
    policy = {"choice": "diffusion", "network": {"choice": "unet1d", "channels": [64, 128]}, "prediction": "sample"}
    training = {"learning_rate": 1e-3, "mirror": False, "policy": policy} | changes
    return result(success=[True, False], recipe=recipe, training=training)


def labels(*results):
    return {row["recipe"] for row in rows(results)}


def test_recipes_with_other_predictions_are_named_by_them():
    """Their task, network, sampler and execution are the same."""
    policy = trained_with("s")["training"]["policy"]
    rest = [trained_with(prediction, policy=policy | {"prediction": prediction}) for prediction in ("epsilon", "v")]
    assert labels(trained_with("s"), *rest) == {"prediction=sample", "prediction=epsilon", "prediction=v"}


def test_only_the_differing_settings_are_named():
    network = {"choice": "unet1d", "channels": [256]}
    wide = trained_with("w", policy=trained_with("s")["training"]["policy"] | {"network": network})
    faster = trained_with("f", learning_rate=2e-3, mirror=True)
    assert labels(trained_with("s"), faster) == {
        "learning_rate=0.001, mirror=False",
        "learning_rate=0.002, mirror=True",
    }
    assert labels(trained_with("s"), wide) == {"network.channels=[64, 128]", "network.channels=[256]"}


def test_a_kind_of_policy_has_its_name_on_the_command_line():
    regression = {"choice": "regression", "network": {"choice": "unet1d", "channels": [64, 128]}}
    one, other = trained_with("s"), trained_with("r", policy=regression)
    assert labels(one, other) == {"policy=diffusion, prediction=sample", "policy=regression"}


def test_the_column_is_empty_for_a_recipe_that_looks_like_no_other():
    other = trained_with("d", mirror=True) | {"task": "another"}
    assert labels(trained_with("s"), other) == {"-"}


def test_recipes_with_equal_settings_are_named_by_their_digest():
    unknown = [result(success=[True], recipe=recipe) for recipe in ("0a1b", "c2d3")]
    assert labels(*unknown) == {"0a1b", "c2d3"}
    # One of them is known, so that only what both say of their policies can differ.
    assert labels(unknown[0], trained_with("s")) == {"0a1b", "s"}
    otherwise = result(success=[True], recipe="e", prediction="epsilon")
    assert labels(*unknown, otherwise) == {"0a1b", "c2d3", "prediction=epsilon"}


def test_recipes_of_three_kinds_keep_names_of_their_own():
    """Two share every setting that is named, and have their digest beside it."""
    twins = [trained_with(recipe, mirror=True) for recipe in ("t1", "t2")]
    assert labels(trained_with("s"), *twins) == {"mirror=False", "mirror=True, t1", "mirror=True, t2"}


@pytest.mark.slow
def test_two_predictions_that_were_trained_are_two_labels(recede, reaches, small, tmp_path):
    for prediction in ("sample", "epsilon"):
        for seed in (0, 1):
            run = tmp_path / "results" / f"{prediction}-{seed}"
            options = [f"policy.prediction={prediction}", f"seed={seed}", "steps=2"]
            assert recede("train", f"dataset={reaches}", f"out={run}", *options, *small).status == 0
            assert recede("evaluate", run, "task=toys:REACH", "episodes=2", "videos=0").status == 0
    compared = rows(find_evaluations(tmp_path / "results"))
    assert sorted((row["recipe"], row["trainings"]) for row in compared) == [
        ("prediction=epsilon", "2 (seeds 0, 1)"),
        ("prediction=sample", "2 (seeds 0, 1)"),
    ]


def test_the_committed_results_have_rows_that_can_be_told_apart():
    results = find_evaluations(ROOT / "docs" / "results.jsonl")
    compared = rows(results)
    named = ("task", "network", "sampler", "execution", "delay, ms", "steps", "recipe")
    assert len({tuple(row[name] for name in named) for row in compared}) == len(compared)
    command = "recede compare results=docs/results.jsonl out=docs/results.md"
    assert document(results, command=command) == (ROOT / "docs" / "results.md").read_text()


@pytest.mark.slow
def test_the_command_reads_what_evaluate_writes(recede, trained, tmp_path):
    for seed in (0, 1):
        out = tmp_path / "results" / str(seed)
        options = ["task=toys:REACH", f"first_seed={100 * seed}", "episodes=3", "videos=0"]
        assert recede("evaluate", trained, f"out={out}", *options).status == 0
    printed = recede("compare", tmp_path / "results")
    assert printed.status == 0
    assert cells(printed.out.splitlines()[2])[:3] == ["reach", "unet1d", "ddim-10"]
    assert cells(printed.out.splitlines()[2])[6:9] == ["-", "1 (seed 0)", "6"]  # two evaluations of one training
    page = tmp_path / "results.md"
    assert recede("compare", tmp_path / "results", f"out={page}").status == 0
    assert printed.out in page.read_text()
    assert f"`recede compare results={tmp_path / 'results'} out={page}` from 2 evaluations" in page.read_text()


def test_a_folder_without_evaluations_is_refused(recede, tmp_path):
    assert "there is no evaluation.json" in recede("compare", tmp_path).line
    write_json_with_digest(tmp_path / "evaluation.json", {"task": "reach"})
    with pytest.raises(ValueError, match=r"evaluation.json lacks \['policy', 'checkpoint'"):
        find_evaluations(tmp_path)
    assert recede("compare", tmp_path / "nowhere").status == 2


def test_an_altered_result_is_named(recede, tmp_path):
    place(tmp_path, "a", result(success=[True, False]))
    path = tmp_path / "a/evaluation.json"
    path.write_text(path.read_text().replace("false", "true"))
    assert f"{path} is damaged: its SHA-256 is not " in recede("compare", tmp_path).line
    assert "remove it, and evaluate that policy again" in recede("compare", tmp_path).line


def place(folder, name, content):
    path = folder / name / "evaluation.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_with_digest(path, content)


def test_a_file_of_lines_makes_the_table_of_its_evaluations(recede, tmp_path):
    runs, lines = tmp_path / "runs", tmp_path / "kept" / "results.jsonl"
    place(runs, "b", result(success=[True, False], score=[0.1, 1 / 3]))
    place(runs, "a", result(success=[True] * 3, seed=1))
    assert recede("compare", runs, f"lines={lines}").out == f"2 evaluations added, 2 in all: {lines}\n"
    paths = [json.loads(line)["path"] for line in lines.read_text().splitlines()]
    assert paths == [(runs / name / "evaluation.json").as_posix() for name in "ab"]
    assert find_evaluations(lines) == find_evaluations(runs)
    assert recede("compare", lines).out == recede("compare", runs).out == table(find_evaluations(runs))


def test_an_evaluation_of_the_same_path_is_replaced_and_others_stay(recede, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place(tmp_path, "runs/a", result(success=[True]))
    place(tmp_path, "other/b", result(success=[False] * 5, recipe="b"))
    for folder, count in (("runs", 1), ("other", 2), ("runs", 2)):
        assert f"1 evaluations added, {count} in all" in recede("compare", folder, "lines=results.jsonl").out
    place(tmp_path, "runs/a", result(success=[False, False]))
    recede("compare", "runs", "lines=results.jsonl", "out=table.md")
    kept = {one["path"]: one["success"] for one in find_evaluations(Path("results.jsonl"))}
    assert kept == {"runs/a/evaluation.json": [False, False], "other/b/evaluation.json": [False] * 5}
    assert table(find_evaluations(Path("runs"))) in Path("table.md").read_text()


def test_a_damaged_line_is_named(recede, tmp_path):
    lines = tmp_path / "results.jsonl"
    complete = json.dumps(with_digest({"path": "a", **result(success=[True])}))
    lines.write_text(f"{complete}\n{complete[:50]}\n")
    assert "results.jsonl, line 2 is damaged" in recede("compare", lines).line
    lines.write_text(f"{complete}\n" + json.dumps(with_digest({"path": "b", "task": "reach"})) + "\n")
    assert "results.jsonl, line 2 lacks ['policy', 'checkpoint'" in recede("compare", lines).line
    lines.write_text(f"{complete}\n" + complete.replace('"step": 2000', '"step": 3000') + "\n")
    assert "results.jsonl, line 2 is damaged: its SHA-256 " in recede("compare", lines).line
    lines.write_text(f"{complete}\n7\n")
    assert "results.jsonl, line 2 must hold a JSON object, got 7" in recede("compare", lines).line
    assert ".jsonl, got 'results.json'" in recede("compare", tmp_path, "lines=results.json").line


def test_a_page_explains_its_numbers():
    page = document([result(success=[True, False])], command="recede compare runs")
    named = [result(success=[True], seed=seed) | {"processor": name} for seed, name in enumerate("BAB")]
    assert document(named, command="recede compare runs").endswith("measured on A; B.\n")
    old = {name: value for name, value in result(success=[True]).items() if name != "processor"}
    assert [row[name] for row in rows([old]) for name in ("training time", "latency")] == ["-", "-"]
    assert "measured on" not in document([old], command="recede compare runs")
    assert "Written by `recede compare runs` from 1 evaluations." in page
    for promise in ("Wilson", "with a score of 0 and one of 1 added", "Student's t", "It needs 3 trainings"):
        assert promise in page
    assert "Compare times only if" in page
