"""Measurements during training."""

import ast
import inspect
from types import SimpleNamespace

import torch
from recede.checkpoints.runs import MEASURED
from recede.evaluation import evaluate
from recede.training import measures, recorder


def test_the_masked_loss_is_the_mean_over_the_steps_that_count():
    torch.manual_seed(0)
    error, is_counted = torch.rand(4, 256, 16), torch.rand(256, 16) > 0.2
    expected = error.double()[:, is_counted].mean()
    assert abs(measures.mean_where(error, is_counted) - expected) < 1e-6
    error[:, ~is_counted] = torch.nan
    assert abs(measures.mean_where(error, is_counted) - expected) < 1e-6


def test_a_line_of_the_metrics_may_hold_just_what_a_training_writes(monkeypatch):
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(recorder))) if isinstance(node, ast.Call)]
    writes = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "write"]
    written = {keyword.arg for call in writes for keyword in call.keywords if keyword.arg is not None}
    spread = {ast.unparse(keyword.value).partition("(")[0] for call in writes for keyword in call.keywords} - written
    assert {"means", "choice_scores", "held_out_bits", "errors"} <= spread
    written.add("bits_per_dimension")  # of `held_out_bits`; see tests/training/test_bound.py

    meter = measures.Meter(torch.device("cpu"))
    span = (meter.moment(), meter.moment())
    meter.add(torch.tensor(1.0), torch.tensor(1.0), data_s=span, update_s=span)
    written |= {*meter.drain()}
    policy = SimpleNamespace(horizons=None, specification=SimpleNamespace(action=SimpleNamespace(hold=())))
    monkeypatch.setattr(evaluate, "summary", lambda faults: f"{len(faults)} faults")
    for fault in (None, "the simulation diverged"):
        outcome = SimpleNamespace(success=True, score=1.0, fault=fault)
        monkeypatch.setattr(evaluate, "rollout", lambda *_, outcome=outcome, **__: [outcome])
        written |= {*evaluate.choice_scores(policy, None, episodes=1)}
    written.add("peak_share")  # of a GPU whose peak is known; see tests/training/test_flops.py
    assert written == {*MEASURED}
