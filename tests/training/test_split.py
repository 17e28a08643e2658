"""Held-out episodes: drawn by seed and share, or kept from the run of `init_from`."""

import numpy as np
import pytest
from recede.checkpoints.folder import read_manifest
from recede.checkpoints.runs import resolve_checkpoint
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import RegressionConfig
from recede.configs.normalisation import NormalisationConfig
from recede.configs.training import TrainConfig
from recede.datasets.episode_writer import NewEpisode
from recede.datasets.fingerprint import vector_digests
from recede.datasets.store import DemonstrationStore
from recede.datasets.windows import split_episodes
from recede.specification import Specification, Stream
from recede.training.loop import prepare, train
from recede.training.split import choose_split


def grown(source, path, *, episodes=range(20), added=0, scale=1.0):
    """A copy with some of the episodes, scaled, followed by added ones."""
    store = DemonstrationStore.open(source)
    copied = DemonstrationStore.create(path, store.specification)
    chosen = [store.episode(index) for index in [*episodes, *range(added)]]
    scaled = [{name: values * np.float32(scale) for name, values in episode.items()} for episode in chosen]
    copied.append_many([NewEpisode(episode) for episode in scaled])
    return copied


def first(store, **options):
    return choose_split(vector_digests(store), **{"held_out": None, "seed": None, **options})


def test_seed_and_share_determine_a_split(reaches):
    store = DemonstrationStore.open(reaches)
    for held_out, seed in ((None, None), (0.3, None), (None, 4), (0.0, 1)):
        result = first(store, held_out=held_out, seed=seed)
        expected = split_episodes(20, held_out=0.02 if held_out is None else held_out, seed=seed or 0)
        assert (result.training, result.held_out) == expected
        assert not result.is_kept


def test_the_split_of_another_run_is_kept(reaches):
    store = DemonstrationStore.open(reaches)
    parent = first(store, held_out=0.25, seed=3)
    for options in ({}, {"seed": 3}, {"held_out": 0.25}):
        result = first(store, parent=parent.manifest(), **options)
        assert result == parent._replace(is_kept=True)
        assert first(store, parent=result.manifest()) == result  # and by a run that starts from this one


def test_added_episodes_are_trained_on(reaches, tmp_path):
    parent = first(DemonstrationStore.open(reaches), held_out=0.25, seed=3)
    store = grown(reaches, tmp_path / "grown.zarr", added=7)
    result = first(store, parent=parent.manifest())
    assert result.is_kept
    assert result.held_out == parent.held_out
    assert result.training == sorted({*range(27)} - {*parent.held_out})
    assert first(store, parent=result.manifest()) == result


@pytest.mark.parametrize("changes", [{"scale": 2.0}, {"episodes": range(19)}, {"episodes": [1, 0, *range(2, 20)]}])
def test_other_episodes_are_split_anew(reaches, tmp_path, changes):
    parent = first(DemonstrationStore.open(reaches), held_out=0.25, seed=3)
    store = grown(reaches, tmp_path / "other.zarr", **changes)
    assert first(store, parent=parent.manifest()) == first(store)
    assert first(store, parent=parent.manifest(), seed=7) == first(store, seed=7)


def test_a_parent_without_a_split_holds_nothing_out(reaches):
    store = DemonstrationStore.open(reaches)
    assert first(store, parent={"policy": {}, "source": "model.safetensors"}) == first(store)


@pytest.mark.parametrize("options", [{"seed": 0}, {"held_out": 0.3}, {"held_out": 0.0, "seed": 3}])
def test_another_split_than_that_of_the_parent_is_refused(reaches, options):
    store = DemonstrationStore.open(reaches)
    parent = first(store, held_out=0.25, seed=3)
    with pytest.raises(ValueError, match=r"held_out=0.25 and split_seed=3, .*leave both out"):
        first(store, parent=parent.manifest(), **options)


def test_digests_depend_on_lengths_and_values_and_not_on_other_episodes(reaches, tmp_path):
    store = DemonstrationStore.open(reaches)
    digests = vector_digests(store)
    assert len({*digests}) == 20
    assert vector_digests(grown(reaches, tmp_path / "grown.zarr", episodes=[3, 1], added=1)) == [
        digests[index] for index in (3, 1, 0)
    ]
    joined = DemonstrationStore.create(tmp_path / "joined.zarr", store.specification)
    halves = store.episode(0), store.episode(1)
    joined.append({name: np.concatenate([half[name] for half in halves]) for name in halves[0]})
    assert vector_digests(joined)[0] not in digests


@pytest.mark.parametrize("size", [1, 500, 10**6])
def test_digests_do_not_depend_on_how_much_is_read_at_once(reaches, monkeypatch, size):
    store = DemonstrationStore.open(reaches)
    expected = vector_digests(store)
    monkeypatch.setattr("recede.datasets.fingerprint.BYTES_AT_ONCE", size)
    assert vector_digests(store) == expected


def test_a_training_names_what_looks_wrong_and_the_half_that_it_holds_out(tmp_path, capsys):
    """One of two episodes is far more than the share of 0.02; and an angle wraps in both."""
    specification = Specification((Stream("arm", (1,), units="rad"),), Stream("action", (1,)), 0.1)
    store = DemonstrationStore.create(tmp_path / "store", specification)
    for _ in range(2):
        yaw = (np.linspace(2, 8, 40)[:, None] + np.pi) % (2 * np.pi) - np.pi
        store.append({"arm": yaw.astype("f4"), "action": np.sin(yaw).astype("f4")})
    policy = RegressionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16))
    options = {"policy": policy, "device": "cpu", "batch_size": 8, "steps": 1, "warmup": 0}
    train(TrainConfig(dataset=str(store.path), out=str(tmp_path / "run"), held_out=0.02, **options))
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("looks wrong: arm[0] wraps round by a whole turn in 2 of 2 episodes, the first at step ")
    assert first.endswith(" (see `recede inspect`)")
    assert second.startswith("held out: 1 of 2 episodes")


def test_a_training_names_decimals_that_float32_loses(tmp_path, capsys):
    specification = Specification((Stream("place", (1,), "float64"),), Stream("action", (1,)), 0.1)
    store = DemonstrationStore.create(tmp_path / "store", specification)
    wave = np.sin(np.linspace(0, 9, 40)[:, None])
    store.append({"place": 4_500_000 + 100 * wave, "action": wave})
    policy = RegressionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16))
    floor = {"place": NormalisationConfig(floor=0.0)}
    options = {"policy": policy, "device": "cpu", "batch_size": 8, "steps": 1, "warmup": 0, "normalisation": floor}
    train(TrainConfig(dataset=str(store.path), out=str(tmp_path / "run"), **options))
    assert "coarse: place[0] moves by 200 near 4500100, where float32" in capsys.readouterr().out


def test_a_training_keeps_the_split_of_init_from(tmp_path, reaches, capsys):
    def config(out, **changes):
        policy = RegressionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16))
        arguments = {"policy": policy, "device": "cpu", "batch_size": 32, "steps": 2, "warmup": 1} | changes
        return TrainConfig(dataset=str(reaches), out=str(tmp_path / out), **arguments)

    train(config("first", held_out=0.25, split_seed=3))
    assert "held out" not in capsys.readouterr().out
    train(config("second", seed=5, init_from=str(tmp_path / "first")))
    assert "held out: 5 of 20 episodes, as by init_from" in capsys.readouterr().out
    manifests = [read_manifest(resolve_checkpoint(tmp_path / name)) for name in ("first", "second")]
    assert (
        manifests[0]["held_out_episodes"]
        == manifests[1]["held_out_episodes"]
        == split_episodes(20, held_out=0.25, seed=3)[1]
    )
    assert manifests[0]["split"] == manifests[1]["split"]
    assert {key: manifests[0]["split"][key] for key in ("seed", "held_out", "episodes")} == {
        "seed": 3,
        "held_out": 0.25,
        "episodes": 20,
    }
    with pytest.raises(ValueError, match="leave both out to keep its split"):
        prepare(config("third", split_seed=0, init_from=str(tmp_path / "first")))


@pytest.mark.parametrize(
    ("episodes", "held_out", "note"),
    [
        (2, 0.02, "held out: 1 of 2 episodes, although held_out=0.02, because at least one episode is held out"),
        (1, 0.6, "held out: 0 of 1 episodes, although held_out=0.6, because a single episode is never held out"),
        (6, 0.5, None),
        (6, 0.0, None),
        (1, 0.02, None),
    ],
)
def test_another_share_than_the_one_of_the_command_is_noted(demonstrations, tmp_path, episodes, held_out, note):
    store = grown(demonstrations, tmp_path / "few.zarr", episodes=range(episodes))
    policy = RegressionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16))
    options = {"policy": policy, "device": "cpu", "held_out": held_out}
    notes = prepare(TrainConfig(dataset=str(store.path), out=str(tmp_path / "run"), **options)).notes
    assert [line for line in notes if "held out" in line] == ([note] if note else [])
