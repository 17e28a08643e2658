"""Rates with their intervals."""

import json
import math
import shlex

import numpy as np
import pytest
import toys
from hypothesis import given
from hypothesis import strategies as st
from recede.configs.components import DDIMConfig, RegressionConfig, UNet1dConfig
from recede.configs.policies import load_policy
from recede.configs.schema import describe
from recede.evaluation import delays
from recede.evaluation.episode import Outcome
from recede.evaluation.evaluate import Evaluation, evaluate
from recede.evaluation.intervals import bootstrap, wilson
from recede.evaluation.results import measure
from recede.policy import checkpoint
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons

Z = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


@given(st.integers(1, 500).flatmap(lambda episodes: st.tuples(st.integers(0, episodes), st.just(episodes))))
def test_the_interval_of_a_rate_is_wilsons(counts):
    """(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), Wilson 1927."""
    successes, episodes = counts
    rate = successes / episodes
    centre = (rate + Z**2 / (2 * episodes)) / (1 + Z**2 / episodes)
    margin = Z * math.sqrt(rate * (1 - rate) / episodes + Z**2 / (4 * episodes**2)) / (1 + Z**2 / episodes)
    low, high = wilson(successes, episodes)
    assert low == pytest.approx(centre - margin, abs=1e-9)
    assert high == pytest.approx(centre + margin, abs=1e-9)
    assert 0 <= low <= rate <= high <= 1
    assert high > low


@pytest.mark.parametrize("scores", [[0.25], [0.0, 0.0], [1.0] * 50])
def test_equal_scores_have_an_interval_of_no_width(scores):
    assert bootstrap(scores) == (scores[0], scores[0])


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution_for_many():
    scores = np.random.default_rng(0).uniform(size=400).tolist()
    low, high = bootstrap(scores)
    error = np.std(scores) / math.sqrt(len(scores))
    assert low == pytest.approx(np.mean(scores) - Z * error, abs=0.1 * error)
    assert high == pytest.approx(np.mean(scores) + Z * error, abs=0.1 * error)
    assert bootstrap(scores) == (low, high)  # the same every time


def test_two_scores_are_their_own_interval():
    assert bootstrap([0.2, 0.6]) == (0.2, 0.6)


def outcomes():
    return [Outcome(seed=100_000 + n, success=n < 3, score=n / 4, num_steps=10 + n) for n in range(4)]


def test_what_is_written():
    found = Evaluation("reach", 7, outcomes(), wall_s=1.5, latency={"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0})
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content == {
        "task": "reach",
        "episodes": 4,
        "success_rate": 0.75,
        "success_rate_95": list(wilson(3, 4)),
        "mean_score": 0.375,
        "mean_score_95": list(bootstrap([0.0, 0.25, 0.5, 0.75])),
        "mean_steps": 11.5,
        "wall_s": 1.5,
        "latency": {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0},
        "seed": 7,
        "seeds": [100_000, 100_001, 100_002, 100_003],
        "success": [True, True, True, False],
        "score": [0.0, 0.25, 0.5, 0.75],
        "steps": [10, 11, 12, 13],
    }
    low, high = (round(100 * bound) for bound in wilson(3, 4))
    assert str(found).startswith(f"reach: success 75 % [{low}, {high}], score 0.375 [")
    assert str(found).endswith("over 4 episodes")


def test_a_policy_is_measured_on_the_seeds_from_the_first_on(trained):
    policy, _ = load_policy(trained)
    found = evaluate(policy, toys.REACH, episodes=5, first_seed=40, videos=2, progress=False)
    assert [outcome.seed for outcome in found.outcomes] == [40, 41, 42, 43, 44]
    assert [bool(outcome.frames) for outcome in found.outcomes] == [True, True, False, False, False]
    assert found.task == "reach"
    assert found.wall_s > 0
    assert found.success_rate == np.mean([outcome.success for outcome in found.outcomes])
    again = evaluate(policy, toys.REACH, episodes=3, first_seed=42, progress=False)
    assert [o.score for o in again.outcomes] == [o.score for o in found.outcomes[2:]]


def test_a_policy_can_be_evaluated_with_another_sampler(recede, trained, tmp_path):
    common = ["evaluate", trained, "task=toys:REACH", "episodes=3", "videos=0"]
    plain, other = tmp_path / "plain", tmp_path / "other"
    assert recede(*common, f"out={plain}").status == 0
    assert recede(*common, f"out={other}", "sampler=ddim", "sampler.num_steps=4", "sampler.eta=1").status == 0
    found = {out: json.loads((out / "evaluation.json").read_text()) for out in (plain, other)}
    usual = {"choice": "ddim", "num_steps": 10, "spacing": "trailing", "eta": 0.0, "keeps_epsilon": False}
    assert found[plain]["policy"]["sampler"] == usual
    assert found[other]["policy"]["sampler"] == usual | {"num_steps": 4, "eta": 1.0}
    assert found[plain]["score"] != found[other]["score"]
    assert load_policy(trained)[1]["policy"]["sampler"]["eta"] == 0.0  # the checkpoint stays as it is


PAIRS = ["execution=[receding,rtc]", "delay_ms=[0,150]", "execution.rtc.limit=8"]


def test_executions_and_delays_are_all_measured_and_an_interrupted_sweep_goes_on(
    recede, trained, tmp_path, monkeypatch
):
    command = ["evaluate", trained, "task=toys:REACH", "episodes=4", f"out={tmp_path}", *PAIRS]
    found = recede(*command)
    assert found.status == 0, found.err
    paths = sorted(tmp_path.glob("*/evaluation.json"))
    assert [path.parent.name for path in paths] == ["receding-0ms", "receding-150ms", "rtc-0ms", "rtc-150ms"]
    results = {path.parent.name: json.loads(path.read_text()) for path in paths}
    assert results["rtc-150ms"]["execution"] == {"choice": "rtc", "every": None, "limit": 8.0, "exact": False}
    assert results["rtc-150ms"]["delay_ms"] == 150
    assert results["receding-150ms"]["steps"] != results["receding-0ms"]["steps"]
    assert (tmp_path / "delays.png").read_bytes().startswith(b"\x89PNG")
    assert "rtc, limit 8.0 | 150 |" in (tmp_path / "delays.md").read_text()
    assert "execution=[receding,rtc]" in (tmp_path / "delays.md").read_text()

    paths[3].unlink()
    asked = []
    monkeypatch.setattr(delays, "measure", lambda config: asked.append(config) or measure(config))
    assert recede(*command).status == 0
    assert [(list(config.execution), config.delays) for config in asked] == [(["rtc"], [150.0])]
    again = json.loads(paths[3].read_text())
    assert {key: again[key] for key in ("success", "score", "steps")} == {
        key: results["rtc-150ms"][key] for key in ("success", "score", "steps")
    }
    # The command that is noted beside a result measures it.
    alone = tmp_path / "alone"
    given = [f"out={alone}" if part.startswith("out=") else part for part in shlex.split(again["command"])[1:]]
    assert recede(*given, "videos=0").status == 0
    assert json.loads((alone / "evaluation.json").read_text())["score"] == again["score"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["delay_ms=-1"], "delay_ms must be milliseconds of at least 0, or a list of them, got -1"),
        (["delay_ms=[]"], "delay_ms must be milliseconds of at least 0, or a list of them, got []"),
        (["delay_ms=soon"], "delay_ms must be milliseconds of at least 0, or a list of them, got soon"),
        (["execution=rtcc"], "execution cannot be 'rtcc': did you mean 'rtc'?"),
        (["execution=[receding,crosfade]"], "execution cannot be 'crosfade': did you mean 'crossfade'?"),
        (["execution=rtc", "execution.rtc.limit=0"], "limit must be above 0, got 0.0"),
        (["execution=rtc", "execution.rtc.limits=1"], "there is no key 'limits': did you mean 'limit'?"),
        (["execution=warm_start", "execution.warm_start.start=2"], "start must be above 0 and at most 1"),
        (["execution=[]"], "execution must name at least one of"),
        (["execution=[receding,rtc]", "delay_ms=[0,900]"], "a chunk must last for max(every, delay) + delay"),
        (["execution=rtc", "delay_ms=900"], "a chunk must last for max(every, delay) + delay steps, 9 + 9"),
    ],
)
def test_what_cannot_be_executed_is_refused(recede, trained, tmp_path, options, said):
    found = recede("evaluate", trained, "task=toys:REACH", f"out={tmp_path / 'out'}", *options)
    assert found.status == 2
    assert said in found.line
    assert not (tmp_path / "out").exists()


def test_a_sampler_is_refused_by_a_policy_without_one(tmp_path):
    config = RegressionConfig(network=UNet1dConfig(channels=[16], time_size=16))
    ranges = {stream.name: (-np.ones(2), np.ones(2)) for stream in toys.SPECIFICATION.streams}
    policy = config.build(toys.SPECIFICATION, Horizons(2, 4, 2), Normalizer(toys.SPECIFICATION, ranges))
    manifest = {"specification": toys.SPECIFICATION, "horizons": Horizons(2, 4, 2), "task": None, "step": 1}
    manifest["policy"] = describe(config)
    (tmp_path / "policy").mkdir()
    checkpoint.save(tmp_path / "policy", policy.state_dict(), **manifest)
    load_policy(tmp_path / "policy")
    with pytest.raises(ValueError, match="sampler must be left out, the policy there is not a diffusion policy"):
        load_policy(tmp_path / "policy", sampler=DDIMConfig())
