"""The choice of an engine: the fastest of those that agree with PyTorch."""

import numpy as np
import pytest
from engines import random_input
from recede.policy.engines import choice, export
from recede.policy.engines.choice import TOLERANCES, difference
from recede.policy.engines.eager import EagerEngine
from recede.policy.engines.making import choose_engine


class OffsetEngine:
    """An engine that adds an offset to the chunks of eager."""

    def __init__(self, eager, name, offset, precision="fp32"):
        self.eager, self.name, self.offset, self.precision = eager, name, offset, precision

    def predict(self, observation, noise, guidance=()):
        return self.eager.predict(observation, noise, guidance) + self.offset


def unavailable():
    raise ValueError("engine=cuda_graph needs an NVIDIA GPU")


def test_the_fastest_engine_that_agrees_is_chosen(monkeypatch, workshop):
    policy = workshop.policy("unet1d")
    eager, (observation, noise) = EagerEngine(policy), random_input(policy)
    half_range = np.array([50.0, 1.0], dtype=np.float32)
    candidates = {
        "slow": OffsetEngine(eager, "slow", 0.0),
        "fast": OffsetEngine(eager, "fast", 0.5e-3 * half_range),
        "wrong": OffsetEngine(eager, "wrong", 2e-3 * half_range),
        "rough": OffsetEngine(eager, "rough", 0.02 * half_range, "bf16"),
        "nan": OffsetEngine(eager, "nan", np.nan),
    }
    seconds = {"slow": 3e-3, "fast": 1e-3, "wrong": 1e-9, "rough": 2e-3}
    monkeypatch.setattr(
        choice, "median_seconds", lambda engines, *_, **__: [seconds[engine.name] for engine in engines]
    )
    makers = {name: (lambda engine=engine: engine) for name, engine in candidates.items()}
    makers["cuda_graph"] = unavailable
    engines, verdicts = choice.choose(makers, observation, noise, reference=eager, half_range=half_range)
    assert [engine.name for engine in engines] == ["fast", "rough", "slow"]
    assert [str(verdict) for verdict in verdicts] == [
        "slow (fp32): differs from eager by 0.0e+00 (tolerance 0.001), 3.00 ms a chunk",
        "fast (fp32): differs from eager by 5.0e-04 (tolerance 0.001), 1.00 ms a chunk",
        "wrong (fp32): differs from eager by 2.0e-03 (tolerance 0.001); excluded, it does not agree with eager",
        "rough (bf16): differs from eager by 2.0e-02 (tolerance 0.05), 2.00 ms a chunk",
        "nan (fp32): differs from eager by inf (tolerance 0.001); excluded, it does not agree with eager",
        "cuda_graph: excluded, engine=cuda_graph needs an NVIDIA GPU",
    ]


def test_the_difference_is_that_of_the_worst_row_in_half_ranges():
    expected, chunk = np.zeros((3, 4, 2)), np.zeros((3, 4, 2))
    chunk[1, :, 0] = 0.2
    chunk[2, :, 1] = 1e9  # a still dimension
    assert difference(chunk, expected, np.array([2.0, 0.0])) == pytest.approx(0.1)
    assert difference(chunk, expected, np.zeros(2)) == 0


def test_engines_take_turns(monkeypatch, workshop):
    policy, turns = workshop.policy("unet1d"), []
    eager = EagerEngine(policy)
    engines = [OffsetEngine(eager, "a", 0), OffsetEngine(eager, "b", 0)]
    for engine in engines:
        monkeypatch.setattr(engine, "predict", lambda o, n, name=engine.name: turns.append((name, n.shape[1])))
    seconds = choice.median_seconds(engines, *random_input(policy), repeats=3)
    assert turns == [("a", 1), ("b", 1)] * 4
    assert all(value > 0 for value in seconds)


@pytest.mark.slow
def test_an_engine_is_chosen_by_measuring(workshop, tmp_path):
    choice = choose_engine(workshop.policy("regression"), ["eager", "onnx"], tmp_path)
    assert {engine.name for engine in choice.engines} == {"eager", "onnx"}
    report = str(choice)
    assert report.startswith("tried on 16 observations drawn from the ranges of the normalizer:\n  eager (fp32)")
    assert "(tolerance 0.001)" in report
    assert report.endswith(f"engine: {choice.engine.name}")


@pytest.mark.slow
def test_the_error_names_each_reason_if_no_engine_agrees(workshop, monkeypatch, tmp_path):
    monkeypatch.setitem(TOLERANCES, "fp32", -1.0)
    with pytest.raises(ValueError, match=r"onnx \(fp32\): .*tolerance -1.*excluded"):
        choose_engine(workshop.policy("regression"), ["onnx"], tmp_path)


class FailingEngine(OffsetEngine):
    """An engine that cannot predict this number of rows."""

    def __init__(self, eager, name, rows):
        super().__init__(eager, name, 0.0)
        self.rows = rows

    def predict(self, observation, noise, guidance=()):
        if noise.shape[1] == self.rows:
            raise RuntimeError(f"{self.rows} rows\nare too many")
        return super().predict(observation, noise, guidance)


def test_an_engine_that_fails_in_its_trial_is_excluded(workshop):
    policy = workshop.policy("regression")
    eager, (observation, noise) = EagerEngine(policy), random_input(policy)
    candidates = [eager, FailingEngine(eager, "onnx", 5), FailingEngine(eager, "openvino", 1)]
    makers = {engine.name: (lambda engine=engine: engine) for engine in candidates}
    half_range = np.ones(policy.specification.action.size, dtype=np.float32)
    engines, verdicts = choice.choose(makers, observation, noise, reference=eager, half_range=half_range)
    assert [engine.name for engine in engines] == ["eager"]
    assert [verdict.reason for verdict in verdicts] == ["", "5 rows are too many", "1 rows are too many"]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["_write", "to_openvino"])
def test_a_failed_export_leaves_no_graphs(workshop, tmp_path, monkeypatch, step):
    def fail(*_):
        raise RuntimeError("no operator")

    monkeypatch.setattr(export, step, fail)
    choice = choose_engine(workshop.policy("regression"), ["eager", "openvino", "openvino_fp32"], tmp_path)
    assert [verdict.reason for verdict in choice.verdicts] == ["", "no operator", "no operator"]
    assert [path.name for path in tmp_path.iterdir()] == (["onnx"] if step == "to_openvino" else [])
