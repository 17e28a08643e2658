"""Training on what a person did while a policy ran."""

import numpy as np
import pytest
import torch
import toys
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import HorizonsConfig, RegressionConfig
from recede.configs.training import TrainConfig
from recede.datasets.episode_writer import NewEpisode
from recede.datasets.facts import EpisodeFacts
from recede.datasets.led import led_steps
from recede.datasets.store import DemonstrationStore
from recede.training.loop import prepare, train

LED = [[[2, 9], [12, 20]], [], [[0, 25]], [[20, 25]]]
"""The steps of each episode that a person led; the policy led the others."""


@pytest.fixture
def corrected(tmp_path):
    """A function that makes a store of four episodes of 25 steps, whose action says who led."""

    def make(led=LED, name="corrected.zarr"):
        store = DemonstrationStore.create(tmp_path / name, toys.SPECIFICATION)
        rng, episodes = np.random.default_rng(0), []
        for intervals in led:
            streams = {
                stream.name: rng.uniform(-0.5, 0.5, (25, *stream.shape)).astype(stream.dtype)
                for stream in toys.SPECIFICATION.observations
            }
            action = np.full((25, *toys.SPECIFICATION.action.shape), -0.5, np.float32)
            for begin, end in intervals or []:
                action[begin:end] = 0.5
            facts = EpisodeFacts(notes={} if intervals is None else {"led": intervals})
            episodes.append(NewEpisode(streams | {"action": action}, facts=facts))
        store.append_many(episodes)
        return store.path

    return make


def configuration(dataset, out, **changes):
    policy = RegressionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16))
    options = {"policy": policy, "device": "cpu", "batch_size": 4, "steps": 2, "warmup": 1, "held_out": 0.0}
    options |= {"horizons": HorizonsConfig(observation=1, prediction=8, action=4), "ema_maximum": 0.9}
    return TrainConfig(dataset=str(dataset), out=str(out), **(options | {"only": "interventions"} | changes))


@pytest.mark.parametrize("held_out", [0.0, 0.5])
def test_only_windows_that_a_person_executed_are_learnt(corrected, tmp_path, held_out):
    prepared = prepare(configuration(corrected(), tmp_path / "run", held_out=held_out))
    for windows in (prepared.windows, prepared.validation):
        if len(windows):
            batch = windows.batch(torch.arange(len(windows)))
            np.testing.assert_array_equal(batch.action[:, :4], 0.5)
    if not held_out:
        assert len(prepared.windows) == sum(max(end - begin - 3, 0) for led in LED for begin, end in led)
        assert any("33 of 88 windows" in note for note in prepared.notes)


def test_who_led_is_part_of_what_a_run_is(corrected, tmp_path):
    path, out = corrected(), tmp_path / "run"
    train(configuration(path, out))
    train(configuration(path, out))  # it is done
    with pytest.raises(ValueError, match=r"only was interventions and is null"):
        train(configuration(path, out, only=None))
    other = corrected([LED[0], [[3, 9]], *LED[2:]], "other.zarr")
    store, again = DemonstrationStore.open(path), DemonstrationStore.create(tmp_path / "again.zarr", toys.SPECIFICATION)
    for index, facts in enumerate(DemonstrationStore.open(other).episode_facts):
        again.append(store.episode(index), facts=facts)  # the same streams, which somebody else led
    with pytest.raises(ValueError, match="episode 1 differs, in the steps that a person led"):
        train(configuration(again.path, out, steps=4))
    recipes = [prepare(configuration(place, tmp_path / "new")).manifest["training"] for place in (path, again.path)]
    assert recipes[0] != recipes[1]
    assert recipes[0]["demonstrations"] == recipes[1]["demonstrations"]


@pytest.mark.parametrize(
    ("led", "error"),
    [
        ([None, None], "does not note which steps a person led"),
        ([[[1, 4]], []], "nowhere did a person lead the 4 steps"),
    ],
)
def test_demonstrations_without_interventions_are_refused(corrected, tmp_path, led, error):
    with pytest.raises(ValueError, match=error):
        prepare(configuration(corrected(led), tmp_path / "run"))


@pytest.mark.parametrize("led", [[[0, 26]], [[3, 3]], [[-1, 4]], [3], "all", [["a", "b"]], {"first": 1}])
def test_a_damaged_note_is_refused_with_its_episode(tmp_path, led):
    store = DemonstrationStore.create(tmp_path / "damaged.zarr", toys.SPECIFICATION)
    streams = {stream.name: np.zeros((25, *stream.shape), stream.dtype) for stream in toys.SPECIFICATION.streams}
    store.append(streams, facts=EpisodeFacts(notes={"led": [[0, 25]]}))
    store.append(streams, facts=EpisodeFacts(notes={"led": led}))
    with pytest.raises(ValueError, match=r"notes.led of episode 1 .* 25 steps"):
        led_steps(store)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="interventions or null, got 'corrections'"):
        configuration("data", "run", only="corrections")
