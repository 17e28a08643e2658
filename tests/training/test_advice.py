"""The settings that a training chooses from its demonstrations."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recede.configs.components.networks import DiTConfig, UNet1dConfig
from recede.configs.components.policies import DiffusionConfig, HorizonsConfig, RegressionConfig
from recede.configs.training import TrainConfig
from recede.datasets.store import DemonstrationStore
from recede.files import read_json
from recede.policy import device
from recede.specification import Specification, Stream
from recede.training.advice import RULES, Facts, as_stored, choose, setting, with_setting
from recede.training.loop import prepare, train

FEW = Facts(num_steps=4_000, control_dt=0.04, shortest=20, num_values=28, num_images=0)
PUBLISHED = HorizonsConfig(observation=2, prediction=16, action=8)


def config(**settings):
    return TrainConfig(dataset="data", out="run", **settings)


BY_DEFAULT = [key for key in RULES if key != "precision"]
"""precision is null in preset=cpu alone."""


def chosen(facts=FEW, **settings):
    return {key: choice.value for key, choice in choose(config(**settings), facts)[1].items()}


def test_every_rule_is_for_a_setting_that_is_null_by_default():
    assert all(setting(config(), key) is None for key in BY_DEFAULT)
    assert list(chosen()) == BY_DEFAULT


@pytest.mark.parametrize(("flags", "precision"), [("avx2 amx_bf16", "bf16"), ("avx2 avx512f", "fp32")])
def test_precision_follows_the_instructions_of_the_processor(monkeypatch, flags, precision):
    monkeypatch.setattr(device, "_cpu", lambda: {"flags": flags})
    assert chosen(precision=None, device="cpu")["precision"] == precision
    assert "precision" not in chosen(precision="bf16", device="cpu")


def test_the_rules_for_few_windows_of_vectors():
    assert chosen() == {
        "horizons.observation": 1,
        "horizons.action": 8,
        "horizons.prediction": 16,
        "policy.network.channels": [32, 64, 128],
        "batch_size": 64,
        "steps": 3800,
        "ema_maximum": 0.9974,
    }


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ({"num_values": 0, "num_images": 1}, "horizons.observation", 2),
        ({"num_values": 7, "num_images": 1}, "horizons.observation", 1),
        ({"shortest": 5}, "horizons.action", 5),
        ({"shortest": 5}, "horizons.prediction", 12),
        ({"num_steps": 16_000}, "policy.network.channels", [64, 128, 256]),
        ({"num_images": 2}, "policy.network.channels", [64, 128, 256]),
        ({"num_steps": 10_000}, "batch_size", 128),
        ({"num_steps": 10_000_000}, "batch_size", 256),
        ({"num_steps": 10_000_000, "num_images": 1}, "batch_size", 64),
        ({"num_steps": 100}, "steps", 1000),
        ({"num_steps": 800_000}, "steps", 18_800),
    ],
)
def test_the_rules_follow_the_facts(change, key, value):
    assert chosen(replace(FEW, **change))[key] == value


def test_what_is_set_stays_and_the_rules_keep_to_it():
    settled, choices = choose(config(steps=7, horizons=HorizonsConfig(action=3)), FEW)
    assert (settled.steps, settled.horizons) == (7, HorizonsConfig(observation=1, prediction=8, action=3))
    assert not {"steps", "horizons.action"} & {*choices}
    assert "steps" not in chosen(steps=7)
    network = DiTConfig()
    assert "policy.network.channels" not in chosen(policy=DiffusionConfig(network=network))


@given(
    *(st.none() | st.integers(1, 40) for _ in range(3)),
    st.builds(
        Facts,
        num_steps=st.integers(1, 10**9),
        control_dt=st.floats(1e-4, 10),
        shortest=st.integers(1, 1000),
        num_values=st.integers(0, 100),
        num_images=st.integers(0, 4),
    ),
)
def test_horizons_that_can_be_completed_are(observation, prediction, action, facts):
    """Whatever is set, what is chosen fits it, unless nothing does."""
    settled, choices = choose(config(horizons=HorizonsConfig(observation=observation, action=action)), facts)
    settled.horizons.build()
    assert {settled.steps, settled.batch_size, settled.ema_maximum}.isdisjoint({None, 0})
    assert all(choice.reason for choice in choices.values())
    if prediction is None or (observation is not None and action is not None):
        return
    if prediction >= (observation or 1) + (action or 1) - 1:
        horizons = HorizonsConfig(observation=observation, prediction=prediction, action=action)
        choose(config(horizons=horizons), facts)[0].horizons.build()


def test_a_choice_is_printed_and_kept_in_the_run(reaches, tmp_path, capsys):
    policy = RegressionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16))
    options = {"policy": policy, "device": "cpu", "batch_size": 32, "warmup": 2, "steps": 3}
    train(TrainConfig(dataset=str(reaches), out=str(tmp_path / "run"), **options))
    out = capsys.readouterr().out
    stored = read_json(tmp_path / "run" / "config.json")
    assert {*stored["chosen"]} == {*BY_DEFAULT} - {"policy.network.channels", "batch_size", "steps"}
    for key, reason in stored["chosen"].items():
        assert f"{key}=" in out
        assert reason in out
    assert stored["horizons"]["observation"] == 1
    assert "horizons.observation=1" in (tmp_path / "run" / "training.html").read_text()
    train(TrainConfig(dataset=str(reaches), out=str(tmp_path / "run"), **options))
    assert "chosen" not in capsys.readouterr().out
    assert read_json(tmp_path / "run" / "config.json") == stored
    train(TrainConfig(dataset=str(reaches), out=str(tmp_path / "run"), **options | {"steps": None}))
    with pytest.raises(ValueError, match=r"horizons.action was \d+ and is 3"):
        train(
            TrainConfig(dataset=str(reaches), out=str(tmp_path / "run"), horizons=HorizonsConfig(action=3), **options)
        )


def test_a_run_goes_on_with_what_was_chosen_for_it():
    """The facts may have changed since, as by data=grown."""
    first, choices = choose(config(), FEW)
    reasons = {key: choice.reason for key, choice in choices.items()}
    policy = {"network": {"channels": [32, 64, 128]}}
    settings = {"steps": first.steps, "batch_size": first.batch_size, "ema_maximum": first.ema_maximum}
    stored = {**settings, "horizons": vars(first.horizons), "policy": policy, "chosen": reasons}
    again, kept = as_stored(config(steps=9_000), stored)
    assert again.horizons == first.horizons
    assert (again.batch_size, again.steps) == (first.batch_size, 9_000)
    assert {*reasons} - {*kept} == {"steps"}


def test_initial_weights_decide_on_the_sizes(reaches, tmp_path):
    policy = RegressionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16))
    options = {"device": "cpu", "batch_size": 32, "steps": 2, "dataset": str(reaches)}
    train(TrainConfig(out=str(tmp_path / "parent"), policy=policy, horizons=PUBLISHED, **options))
    child = RegressionConfig(network=UNet1dConfig(time_size=16))
    prepared = prepare(
        TrainConfig(out=str(tmp_path / "child"), init_from=str(tmp_path / "parent"), policy=child, **options)
    )
    assert (prepared.config.horizons, prepared.config.policy.network.channels) == (PUBLISHED, [16, 32])
    assert prepared.chosen["horizons.prediction"] == "as in init_from"


def test_the_facts_of_a_store(tmp_path):
    streams = Stream("camera", (4, 4, 3), "uint8"), Stream("joints", (3,)), Stream("gripper", (1,))
    store = DemonstrationStore.create(tmp_path / "store", Specification(streams, Stream("action", (2,)), 0.05))
    for length in (5, 9, 4):
        rows = {"joints": np.zeros((length, 3), "f4"), "gripper": np.zeros((length, 1), "f4")}
        store.append({"camera": np.zeros((length, 4, 4, 3), "u1"), "action": np.zeros((length, 2), "f4"), **rows})
    facts = Facts.of(store, [0, 1])
    assert facts == Facts(num_steps=14, control_dt=0.05, shortest=5, num_values=4, num_images=1)
    assert with_setting(config(), "horizons.action", 3).horizons.action == 3
    assert len(fields(Facts)) == 5
