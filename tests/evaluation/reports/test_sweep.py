"""`recede compare SWEEP_FOLDER`: a row for each combination of values, pooled over seeds."""

import numpy as np
import pytest
from evaluations import result, write
from recede.evaluation.pairs import mid_p, sign_flip
from recede.evaluation.reports.comparison import outcome_cells
from recede.evaluation.reports.sweep import find_rows
from recede.evaluation.sweeps import Sweep, read_sweep, write_sweep
from scipy import stats

GOOD, POOR = [True] * 40 + [False] * 10, [True] * 20 + [False] * 30


def swept(folder, jobs, *, evaluated=None):
    """A sweep whose jobs are (values, successes); each is evaluated, or those of some numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    write_sweep(folder, Sweep("train", tuple(jobs[0][0]), {number: values for number, (values, _) in enumerate(jobs)}))
    for number, (values, success) in enumerate(jobs):
        if evaluated is None or number in evaluated:
            write(folder / str(number), success, training_seed=int(values.get("seed", 0)), recipe=str(number))
    return folder


def table(text):
    """The first table of a text: column -> cell, for each row."""
    lines = [line for line in text.split("\n\n")[0].splitlines() if line.startswith("|")]
    names, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_a_row_pools_the_seeds_and_has_the_swept_keys_as_columns(recede, tmp_path):
    rates = {("16", "1"): 40, ("16", "2"): 42, ("16", "3"): 44, ("32", "1"): 20, ("32", "2"): 19, ("32", "3"): 24}
    jobs = [
        ({"channels": channels, "seed": seed}, [True] * rate + [False] * (50 - rate))
        for (channels, seed), rate in rates.items()
    ]
    folder = swept(tmp_path / "sweep", jobs)
    printed = recede("compare", folder)
    assert printed.status == 0, printed.err
    rows = table(printed.out)
    assert [(row["channels"], row["trainings"], row["episodes"]) for row in rows] == [
        ("16", "3 (seeds 1, 2, 3)", "150"),
        ("32", "3 (seeds 1, 2, 3)", "150"),
    ]
    assert [row[""] for row in rows] == ["A", "B"]
    pooled = [result(success, training_seed=int(values["seed"])) for values, success in jobs[:3]]
    assert list(rows[0].values())[2:] == outcome_cells(pooled)
    assert rows[0]["success [over trainings]"] == "84 % [74, 94]"  # Student's t of 80, 84 and 88 %
    assert "channels=16 | channels=32 | 3 " in printed.out
    assert "0 of 1 pairs of rows were not told apart" in printed.out
    assert (folder / "success.png").read_bytes().startswith(b"\x89PNG")
    assert f"picture: {folder / 'success.png'}" in printed.out


def test_a_document_has_a_picture_beside_it(recede, tmp_path):
    jobs = [({"rate": rate, "network": name}, GOOD) for rate in ("1e-3", "1e-4") for name in ("unet1d", "dit")]
    folder = swept(tmp_path / "sweep", jobs)
    written = recede("compare", folder, f"out={tmp_path / 'table.md'}")
    assert written.status == 0, written.err
    text = (tmp_path / "table.md").read_text()
    assert f"Written by `recede compare results={folder} out={tmp_path / 'table.md'}`" in text
    assert "(table.png)" in text
    assert (tmp_path / "table.png").exists()
    assert not (folder / "success.png").exists()
    assert "6 of 6 pairs of rows were not told apart" in text


def test_seeds_alone_are_one_row(recede, tmp_path):
    folder = swept(tmp_path / "sweep", [({"seed": seed}, GOOD) for seed in "123"])
    (row,) = table(recede("compare", folder).out)
    assert row["trainings"] == "3 (seeds 1, 2, 3)"


def test_jobs_without_an_evaluation_are_named_with_the_remedy(recede, tmp_path):
    jobs = [({"channels": channels}, GOOD) for channels in ("16", "32", "64")]
    folder = swept(tmp_path / "sweep", jobs, evaluated=[1])
    printed = recede("compare", folder)
    assert [row["channels"] for row in table(printed.out)] == ["32"]
    assert f"Without an evaluation: job 0, 2. Make it with `recede evaluate {folder}/0 {folder}/2`." in printed.out
    none = swept(tmp_path / "none", jobs, evaluated=[])
    assert (
        f"no job of this sweep has an evaluation.json: run `recede evaluate {none}/0 " in recede("compare", none).line
    )


def test_only_partners_are_compared(recede, tmp_path):
    """Trainings of a seed that the other row lacks are in the rates, and in no pair."""
    jobs = [({"channels": "16", "seed": "1"}, GOOD), ({"channels": "32", "seed": "2"}, POOR)]
    printed = recede("compare", swept(tmp_path / "sweep", jobs)).out
    assert [row[""] for row in table(printed)] == ["A", "A"]
    assert "pairs of rows" not in printed


def test_the_sign_flip_test_is_exact():
    rng = np.random.default_rng(0)
    for _ in range(20):
        differences = rng.integers(-1, 2, 30)
        counts = int((differences == 1).sum()), int((differences == -1).sum())
        assert sign_flip(differences.tolist()) == pytest.approx(mid_p(*counts))
    sizes = [3, -1, 2, 2]  # all 16 signs by hand
    totals = np.array([np.abs(sizes) @ (2 * np.array(flips) - 1) for flips in np.ndindex(2, 2, 2, 2)])
    expected = (abs(totals) > 6).mean() + (abs(totals) == 6).mean() / 2
    assert sign_flip(sizes) == pytest.approx(expected)
    assert sign_flip([]) == sign_flip([0, 0]) == 1


def test_episodes_that_several_trainings_share_are_not_independent():
    """Under equal recipes, whose trainings agree in an episode, at most some 5 % are told apart."""
    rng = np.random.default_rng(0)
    first, second = (np.repeat(rng.random((500, 40, 1)) < 0.5, 3, axis=2).sum(axis=2) for _ in range(2))
    p_values = [sign_flip(totals.tolist()) for totals in first - second]
    assert np.mean(np.array(p_values) < 0.05) < 0.075
    assert stats.kstest(p_values, "uniform").statistic < 0.15


def test_a_damaged_list_of_jobs_is_named(recede, tmp_path):
    folder = swept(tmp_path / "sweep", [({"seed": "1"}, GOOD)])
    assert read_sweep(folder) == Sweep("train", ("seed",), {0: {"seed": "1"}})
    assert len(find_rows(folder, read_sweep(folder))[0]) == 1
    path = folder / "sweep.json"
    path.write_text(path.read_text().replace("seed", "sead", 1))
    assert f"{path} is damaged" in recede("compare", folder).line
