"""Rates with their intervals."""

import json
import math
import shlex
from dataclasses import replace

import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.checkpoints.folder import write_checkpoint
from recede.checkpoints.opening import load_policy
from recede.configs.changes import replaced
from recede.configs.components.denoising import DDIMConfig, DiffusersSamplerConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import RegressionConfig
from recede.configs.notation import describe
from recede.evaluation import delays
from recede.evaluation.episode import Outcome
from recede.evaluation.evaluate import Evaluation, evaluate
from recede.evaluation.intervals import NUM_RESAMPLES, bootstrap, over_trainings, wilson
from recede.evaluation.results import measure
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons
from representatives import representatives

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


def rarely_failing(share):
    """Scores of 1, and of U(0, 0.6) in this share of the episodes; and their mean."""

    def draw(random, shape):
        return np.where(random.random(shape) < share, random.uniform(0, 0.6, shape), 1.0)

    return draw, 1 - 0.7 * share


def like_pusht(random, shape):
    kind = random.random(shape)
    nearly, lost = random.uniform(0.9, 1, shape), random.uniform(0, 0.5, shape)
    return np.where(kind < 0.70, 1.0, np.where(kind < 0.95, nearly, lost))


SCORES = {
    "2 % fail": rarely_failing(0.02),
    "5 % fail": rarely_failing(0.05),
    "like Push-T": (like_pusht, 0.70 + 0.25 * 0.95 + 0.05 * 0.25),
    "uniform": (lambda random, shape: random.random(shape), 0.5),
}
"""Name -> a function that draws scores, and their mean."""


def bootstraps(samples):
    """`bootstrap` of every row at once: it draws the same places of whatever scores, so that sums are one product."""
    size = samples.shape[1] + 2
    places = np.random.default_rng(0).choice(size, (NUM_RESAMPLES, size))
    counts = np.stack([np.bincount(row, minlength=size) for row in places]).astype(np.float32)
    scores = np.pad(samples, ((0, 0), (0, 1)), constant_values=0)
    scores = np.pad(scores, ((0, 0), (0, 1)), constant_values=1).astype(np.float32)
    low, high = np.quantile(scores @ counts.T / size, [0.025, 0.975], axis=1)
    for index in range(5):
        assert (low[index], high[index]) == pytest.approx(bootstrap(samples[index]), abs=1e-5)
    return low, high


@pytest.mark.parametrize("episodes", [20, pytest.param(50, marks=pytest.mark.slow), 200])
@pytest.mark.parametrize("name", SCORES)
def test_the_interval_of_a_mean_covers_it_in_95_of_100_evaluations(name, episodes):
    """Also if most samples of 20 episodes show no failure at all; percentiles of the scores alone cover 34 % there."""
    draw, mean = SCORES[name]
    samples = draw(np.random.default_rng(episodes), (1_000, episodes))
    low, high = bootstraps(samples)
    error = math.sqrt(0.05 * 0.95 / len(samples))  # of a share of misses that is 0.05
    assert np.mean(low > mean) + np.mean(high < mean) <= 0.05 + 2 * error
    assert np.mean(low > mean) <= 0.025 + 2 * error
    assert np.mean(high < mean) <= 0.03 + 2 * error
    assert (high - low > 1 / (episodes + 2)).all()
    assert ((low <= samples.mean(axis=1) + 1e-6) & (samples.mean(axis=1) <= high + 1e-6)).all()
    if episodes == 200:  # it is hardly wider than the spread of the scores asks for
        expected = 2 * Z * np.std(draw(np.random.default_rng(0), 100_000)) / math.sqrt(episodes)
        assert 0.95 * expected <= np.mean(high - low) <= (1.05 if name == "uniform" else 1.35) * expected


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution_for_many():
    scores = np.random.default_rng(0).uniform(size=400).tolist()
    low, high = bootstrap(scores)
    error = np.std(scores) / math.sqrt(len(scores))
    assert low == pytest.approx(np.mean(scores) - Z * error, abs=0.1 * error)
    assert high == pytest.approx(np.mean(scores) + Z * error, abs=0.1 * error)
    assert bootstrap(scores) == (low, high)  # the same every time


@given(st.lists(st.floats(0, 1), min_size=1, max_size=100))
@settings(max_examples=50, deadline=None)
def test_the_interval_of_a_mean_has_a_width_and_includes_the_mean(scores):
    low, high = bootstrap(scores)
    assert 0 <= low <= np.mean(scores) + 1e-9
    assert np.mean(scores) - 1e-9 <= high <= 1
    assert high - low > 1 / (len(scores) + 2)


def test_scores_of_zero_and_one_have_an_interval_near_wilsons():
    """Wilson's rate is drawn towards a half by nearly four episodes, this one by two."""
    for successes in (0, 1, 25, 45, 49, 50):
        scores = [1.0] * successes + [0.0] * (50 - successes)
        assert bootstrap(scores) == pytest.approx(wilson(successes, 50), abs=0.035)


@pytest.mark.parametrize(
    ("scores", "shown"),
    [([], "got none"), ([0.5, 1.25], r"got \[1.25\]"), ([-1.0], r"got \[-1.0\]"), ([math.nan], r"got \[nan\]")],
)
def test_scores_outside_0_and_1_have_no_interval(scores, shown):
    with pytest.raises(ValueError, match=rf"scores must be at least one number, all in \[0, 1\], {shown}"):
        bootstrap(scores)


@pytest.mark.parametrize(
    ("mean", "spread"),
    [
        (0.4, 0.1),
        pytest.param(0.9, 0.05, marks=pytest.mark.slow),
        (0.97, 0.02),
        pytest.param(0.4, 0.0, marks=pytest.mark.slow),
    ],
)
def test_the_interval_over_trainings_covers_what_a_recipe_achieves(mean, spread):
    """Three trainings whose true rates differ by this standard deviation, 50 episodes of each."""
    random = np.random.default_rng(0)
    rates = np.clip(random.normal(mean, spread, (500, 3)), 0, 1)
    successes = random.binomial(50, rates)
    over_episodes = [wilson(int(total), 150) for total in successes.sum(axis=1)]
    intervals = [over_trainings(training / 50, inner) for training, inner in zip(successes, over_episodes, strict=True)]
    covered, by_episodes = (np.mean([low <= mean <= high for low, high in of]) for of in (intervals, over_episodes))
    assert covered >= 0.95
    if spread >= 0.05:
        assert by_episodes <= 0.85  # episodes alone do not know that trainings differ
    assert all(
        low <= inner[0] and inner[1] <= high for (low, high), inner in zip(intervals, over_episodes, strict=True)
    )


def test_the_interval_over_trainings_is_students():
    """4.303 is the 97.5 % quantile of t with two degrees of freedom."""
    low, high = over_trainings([0.5, 0.6, 0.7], (0.55, 0.65))
    assert (low, high) == pytest.approx((0.6 - 4.303 * 0.1 / math.sqrt(3), 0.6 + 4.303 * 0.1 / math.sqrt(3)), abs=1e-4)
    assert over_trainings([1.0, 1.0, 1.0], (0.975, 1.0)) == (0.975, 1.0)
    assert over_trainings([0.0, 0.5, 1.0], (0.4, 0.6)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="at least 3 trainings, got 2"):
        over_trainings([0.5, 0.6], (0.4, 0.7))


def outcomes():
    steps, starts = [10, 11, 12, None], [{"cube x, m": float(n)} if n < 3 else {} for n in range(4)]
    return [
        Outcome(100_000 + n, n < 3, n / 4, 10 + n, final_score=0.5, success_step=steps[n], start=starts[n])
        for n in range(4)
    ]


def test_the_content_of_evaluation_json():
    evaluation = Evaluation(
        "reach", 7, outcomes(), wall_s=1.5, latency={"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}, processor="a CPU"
    )
    content = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
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
        "processor": "a CPU",
        "seed": 7,
        "seeds": [100_000, 100_001, 100_002, 100_003],
        "success": [True, True, True, False],
        "score": [0.0, 0.25, 0.5, 0.75],
        "final_score": [0.5, 0.5, 0.5, 0.5],
        "steps": [10, 11, 12, 13],
        "steps_to_success": [10, 11, 12, None],
        "phase": [None, None, None, None],
        "start": {"cube x, m": [0.0, 1.0, 2.0, None]},
        "broken": [],
    }
    low, high = (round(100 * bound) for bound in wilson(3, 4))
    assert str(evaluation).startswith(f"reach: success 75 % [{low}, {high}], score 0.375 [")
    assert str(evaluation).endswith("over 4 episodes")


def test_a_policy_is_measured_on_consecutive_seeds(trained):
    policy, _ = load_policy(trained)
    evaluation = evaluate(policy, toys.REACH, episodes=5, first_seed=40, videos=2, progress=False)
    assert [outcome.seed for outcome in evaluation.outcomes] == [40, 41, 42, 43, 44]
    assert [bool(outcome.frames) for outcome in evaluation.outcomes] == [True, True, False, False, False]
    assert evaluation.task == "reach"
    assert evaluation.wall_s > 0
    assert evaluation.success_rate == np.mean([outcome.success for outcome in evaluation.outcomes])
    again = evaluate(policy, toys.REACH, episodes=3, first_seed=42, progress=False)
    assert [o.score for o in again.outcomes] == [o.score for o in evaluation.outcomes[2:]]


@pytest.mark.slow
def test_a_policy_can_be_evaluated_with_another_sampler(recede, trained, tmp_path):
    common = ["evaluate", trained, "task=toys:REACH", "episodes=3", "videos=0"]
    plain, other = tmp_path / "plain", tmp_path / "other"
    assert recede(*common, f"out={plain}").status == 0
    assert recede(*common, f"out={other}", "sampler=ddim", "sampler.num_steps=4", "sampler.eta=1").status == 0
    results = {out: json.loads((out / "evaluation.json").read_text()) for out in (plain, other)}
    usual = {"choice": "ddim", "num_steps": 10, "spacing": "trailing", "eta": 0.0, "keeps_epsilon": False}
    assert results[plain]["policy"]["sampler"] == usual
    assert results[other]["policy"]["sampler"] == usual | {"num_steps": 4, "eta": 1.0}
    assert results[plain]["score"] != results[other]["score"]
    assert load_policy(trained)[1]["policy"]["sampler"]["eta"] == 0.0  # the checkpoint stays as it is


def test_the_sampler_that_a_policy_has_can_be_changed(recede, trained, tmp_path):
    options = ["task=toys:REACH", "episodes=1", "videos=0", f"out={tmp_path}", "sampler.num_steps=4", "sampler.eta=1"]
    assert recede("evaluate", trained, *options).status == 0
    content = json.loads((tmp_path / "evaluation.json").read_text())
    usual = {"choice": "ddim", "spacing": "trailing", "keeps_epsilon": False}
    assert content["policy"]["sampler"] == usual | {"num_steps": 4, "eta": 1.0}
    assert "sampler.num_steps=4 sampler.eta=1" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "serve", "export", "control"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("num_stepz=4", "there is no key 'sampler.num_stepz': did you mean 'sampler.num_steps'?"),
        (
            "name=DDIM",
            "'sampler.name': the policy has sampler=ddim, whose keys are sampler.num_steps, ",
        ),
        ("num_steps=four", "sampler.num_steps=four: the value must be a whole number"),
        ("eta=7", "eta must be between 0 (DDIM) and 1 (DDPM), got 7"),
    ],
)
def test_an_impossible_change_of_the_sampler_is_refused(recede, trained, tmp_path, command, change, words):
    more = [] if command == "serve" else [f"out={tmp_path / 'out'}"]
    more += ["robot.task=toys:REACH"] if command == "control" else []
    more += ["task=toys:REACH"] if command == "evaluate" else []
    assert words in recede(command, trained, f"sampler.{change}", *more).line
    assert not (tmp_path / "out").exists()


def test_changes_replace_single_values_of_a_choice():
    present = DiffusersSamplerConfig(num_steps=7, options={"thresholding": True})
    assert replaced(present, {"name": "DDIMScheduler"}, "sampler") == replace(present, name="DDIMScheduler")
    changes = {"options": {"timestep_spacing": "leading"}}
    options = {"thresholding": True, "timestep_spacing": "leading"}
    assert replaced(present, changes, "sampler") == replace(present, options=options)
    assert replaced(present, None, "sampler") == present
    assert replaced(present, DDIMConfig(), "sampler") == DDIMConfig()
    assert present.options == {"thresholding": True}


@pytest.mark.parametrize(
    "form",
    representatives(
        ["sampler.options={timestep_spacing:leading}", "sampler.options.timestep_spacing=leading"],
        "sampler.options.timestep_spacing=leading",
    ),
)
def test_a_scheduler_of_diffusers_takes_options(recede, trained, tmp_path, form):
    options = ["task=toys:REACH", "episodes=1", "videos=0", f"out={tmp_path}", "device=cpu"]
    result = recede("evaluate", trained, "sampler=diffusers", "sampler.name=DDIMScheduler", form, *options)
    assert result.status == 0, result.err
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["policy"]["sampler"]["options"] == {"timestep_spacing": "leading"}
    line = recede("evaluate", trained, "sampler=diffusers", form.replace("spacing", "spcing"), *options).line
    assert "did you mean 'timestep_spacing'?" in line


PAIRS = ["execution=[receding,rtc]", "delay_ms=[0,150]", "execution.rtc.limit=8"]


@pytest.mark.slow
def test_every_pair_is_measured_and_an_interrupted_sweep_continues(recede, trained, tmp_path, monkeypatch):
    command = ["evaluate", trained, "task=toys:REACH", "episodes=4", f"out={tmp_path}", *PAIRS]
    sweep = recede(*command)
    assert sweep.status == 0, sweep.err
    paths = sorted(tmp_path.glob("*/evaluation.json"))
    assert [path.parent.name for path in paths] == ["receding-0ms", "receding-150ms", "rtc-0ms", "rtc-150ms"]
    results = {path.parent.name: json.loads(path.read_text()) for path in paths}
    assert results["rtc-150ms"]["execution"] == {"choice": "rtc", "every": None, "limit": 8.0, "exact": False}
    assert results["rtc-150ms"]["delay_ms"] == 150
    assert results["receding-150ms"]["steps"] != results["receding-0ms"]["steps"]
    assert (tmp_path / "delays.png").read_bytes().startswith(b"\x89PNG")
    assert "rtc, limit 8 | 150 |" in (tmp_path / "delays.md").read_text()
    assert "execution=[receding,rtc]" in (tmp_path / "delays.md").read_text()

    paths[3].unlink()
    configs = []
    monkeypatch.setattr(delays, "measure", lambda config: configs.append(config) or measure(config))
    assert recede(*command).status == 0
    assert [(list(config.execution), config.delays) for config in configs] == [(["rtc"], [150.0])]
    again = json.loads(paths[3].read_text())
    assert {key: again[key] for key in ("success", "score", "steps")} == {
        key: results["rtc-150ms"][key] for key in ("success", "score", "steps")
    }
    # The command that is noted beside a result measures it.
    alone = tmp_path / "alone"
    arguments = [f"out={alone}" if part.startswith("out=") else part for part in shlex.split(again["command"])[1:]]
    assert recede(*arguments, "videos=0").status == 0
    assert json.loads((alone / "evaluation.json").read_text())["score"] == again["score"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["delay_ms=-1"], "delay_ms must be milliseconds from 0 to 3600000, or a list of them, got -1"),
        (["delay_ms=[]"], "delay_ms must be milliseconds from 0 to 3600000, or a list of them, got []"),
        (["delay_ms=soon"], "delay_ms must be milliseconds from 0 to 3600000, or a list of them, got soon"),
        (["execution=rtcc"], "execution cannot be 'rtcc': did you mean 'rtc'?"),
        (["execution=[receding,crosfade]"], "execution cannot be 'crosfade': did you mean 'crossfade'?"),
        (["execution=rtc", "execution.rtc.limit=0"], "limit must be above 0, got 0.0"),
        (["execution=rtc", "execution.rtc.limits=1"], "'execution.rtc.limits': did you mean 'execution.rtc.limit'?"),
        (["execution=warm_start", "execution.warm_start.start=2"], "start must be above 0 and at most 1"),
        (["execution=[]"], "execution must name at least one of"),
        (["execution=[receding,rtc]", "delay_ms=[0,900]"], "a chunk must last for max(every, delay) + delay"),
        (["execution=rtc", "delay_ms=900"], "a chunk must last for max(every, delay) + delay steps, 9 + 9"),
    ],
)
def test_an_impossible_execution_is_an_error(recede, trained, tmp_path, options, message):
    result = recede("evaluate", trained, "task=toys:REACH", f"out={tmp_path / 'out'}", *options)
    assert result.status == 2
    assert message in result.line
    assert not (tmp_path / "out").exists()


def test_a_sampler_for_a_policy_without_one_is_an_error(tmp_path):
    config = RegressionConfig(network=UNet1dConfig(channels=[16], time_size=16))
    ranges = {stream.name: (-np.ones(2), np.ones(2)) for stream in toys.SPECIFICATION.streams}
    policy = config.build(toys.SPECIFICATION, Horizons(2, 4, 2), Normalizer(toys.SPECIFICATION, ranges))
    manifest = {"specification": toys.SPECIFICATION, "horizons": Horizons(2, 4, 2), "task": None, "step": 1, "seed": 0}
    manifest["policy"] = describe(config)
    (tmp_path / "policy").mkdir()
    write_checkpoint(tmp_path / "policy", policy.state_dict(), **manifest)
    load_policy(tmp_path / "policy")
    with pytest.raises(ValueError, match="leave sampler out"):
        load_policy(tmp_path / "policy", sampler=DDIMConfig())
