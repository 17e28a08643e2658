"""The demo at its smallest: everything that `make demo` writes is there, and says the same."""

import json
import subprocess
import sys

import pytest
from recede.checkpoints.opening import load_policy
from recede.datasets.store import DemonstrationStore


@pytest.mark.slow
def test_the_demo_records_trains_evaluates_and_reports(tmp_path):
    out = tmp_path / "demo"
    sizes = ["episodes=6", "steps=4", "regression_steps=2", "evaluate_episodes=1"]
    command = [sys.executable, "-m", "recede", "demo", f"out={out}", *sizes]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-2:] == [
        f"report: {out / 'report.html'}",
        f"next: recede evaluate {out / 'diffusion'} episodes=200",
    ]
    assert [line[:5] for line in ran.stdout.splitlines() if line[:1] == "["] == [f"[{step}/4]" for step in (1, 2, 3, 4)]

    assert len(DemonstrationStore.open(out / "demonstrations.zarr")) == 6
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["task"] == "pick_place"
    assert evaluation["episodes"] == len(evaluation["success"]) == 1
    assert evaluation["seeds"] == [100_000]
    assert evaluation["success_rate_95"][0] <= evaluation["success_rate"] <= evaluation["success_rate_95"][1]
    for name in ("diffusion", "regression"):
        _, manifest = load_policy(out / name)
        assert manifest["policy"]["choice"] == name
    page = (out / "report.html").read_text()
    assert "diffusion succeeded in" in page.lower()
    assert "regression" in page
    films = sorted(out.glob("episode-*.mp4"))
    if films:  # where pictures can be made at all
        assert len(films) == 1
        assert (out / "fan.png").stat().st_size > 10_000

    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert again.returncode == 0, again.stderr  # it goes on from what is there: nothing is recorded or trained anew
    assert json.loads((out / "evaluation.json").read_text())["success"] == evaluation["success"]
