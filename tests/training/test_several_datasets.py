"""A training on several datasets: how often each is drawn, and what a run knows of them."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
import toys
from recede.checkpoints.folder import read_manifest
from recede.checkpoints.runs import checkpoint_of_step, read_metrics, resolve_checkpoint
from recede.commands.composition import compose
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import HorizonsConfig, RegressionConfig
from recede.configs.training import TrainConfig
from recede.datasets.episode_writer import NewEpisode
from recede.datasets.facts import EpisodeFacts
from recede.datasets.store import DemonstrationStore
from recede.datasets.windows import Windows, split_episodes
from recede.training.loop import prepare, train
from recede.training.order import Order, mixed
from stopping import stop_after

STEPS = 20
"""Steps of an episode; with an action horizon of 4 it has 17 windows."""


def configuration(dataset, out, **changes):
    policy = RegressionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16))
    options = {"policy": policy, "device": "cpu", "batch_size": 8, "steps": 4, "warmup": 1, "held_out": 0.0}
    options |= {"horizons": HorizonsConfig(observation=1, prediction=8, action=4), "ema_maximum": 0.9}
    dataset = [str(path) for path in dataset] if isinstance(dataset, list) else str(dataset)
    return TrainConfig(dataset=dataset, out=str(out), **(options | changes))


@pytest.fixture
def make(tmp_path):
    """A function that makes a store, or appends to it, of episodes whose action is about `value`."""

    def make(name, episodes, value=0.0, *, led=None, seed=0):
        path = tmp_path / f"{name}.zarr"
        store = DemonstrationStore.open(path) if path.exists() else None
        store = store or DemonstrationStore.create(path, toys.SPECIFICATION)
        facts, new = EpisodeFacts(notes={} if led is None else {"led": led}), []
        for index in range(episodes):
            rng = np.random.default_rng([seed, index])
            streams = {
                stream.name: rng.uniform(-0.5, 0.5, (STEPS, *stream.shape)).astype(stream.dtype)
                for stream in toys.SPECIFICATION.observations
            }
            action = value + rng.uniform(-0.01, 0.01, (STEPS, 2)).astype(np.float32)
            new.append(NewEpisode(streams | {"action": action}, facts=facts))
        store.append_many(new)
        return path

    return make


# --- how often each is drawn


def order_of(sizes, weights, batch_size=8, seed=1):
    dataset_of = np.repeat(np.arange(len(sizes)), sizes)
    mix = mixed([f"{index}.zarr" for index in range(len(sizes))], dataset_of, weights)
    return Order(len(dataset_of), batch_size, seed, mix=mix), dataset_of


@pytest.mark.parametrize(
    ("sizes", "weights"), [((60, 12), [1, 2]), ((10, 70), [3, 1]), ((24, 24, 24), [1, 2, 6]), ((7, 65), [0.5, 0.5])]
)
def test_an_epoch_draws_the_shares_exactly_and_the_windows_of_a_dataset_equally_often(sizes, weights):
    order, dataset_of = order_of(sizes, weights)
    drawn = Counter()
    for epoch in range(1, 6):
        steps = range((epoch - 1) * order.num_batches, epoch * order.num_batches)
        windows = torch.cat([order.indices(step) for step in steps]).tolist()
        counts = np.bincount(dataset_of[windows], minlength=len(sizes))
        np.testing.assert_allclose(counts, np.array(weights) / sum(weights) * len(dataset_of), atol=1)
        drawn.update(windows)
        for dataset in range(len(sizes)):
            times = [drawn[window] for window in np.flatnonzero(dataset_of == dataset).tolist()]
            assert max(times) - min(times) <= 1


def test_a_batch_has_the_shares_on_average_and_varies_as_draws_without_order_do():
    order, dataset_of = order_of((300, 20), [1, 3], batch_size=32)
    counts = np.array([(dataset_of[order.indices(step)] == 1).sum() for step in range(400)])
    assert counts.mean() == pytest.approx(24, abs=1e-9)  # 40 whole epochs
    variance = 32 * 0.75 * 0.25 * (320 - 32) / (320 - 1)  # hypergeometric
    assert counts.var() == pytest.approx(variance, rel=0.25)


def test_a_mixed_batch_is_a_function_of_seed_and_step():
    (order, _), (other, _) = order_of((50, 9), [1, 2]), order_of((50, 9), [1, 2], seed=2)
    expected = [order.indices(step).tolist() for step in range(30)]
    for step in (29, 3, 15, 0):
        assert order_of((50, 9), [1, 2])[0].indices(step).tolist() == order.indices(step).tolist() == expected[step]
    assert other.indices(0).tolist() != expected[0]


@pytest.mark.parametrize(
    ("sizes", "weights", "words"),
    [
        ((8, 0), [1, 1], "1.zarr has no window .*leave it out"),
        ((8, 8), [1, 1000], "0.zarr has a share .*larger weight"),
    ],
)
def test_a_dataset_that_would_never_be_drawn_is_refused(sizes, weights, words):
    with pytest.raises(ValueError, match=words):
        order_of(sizes, weights)


# --- the configuration


def test_a_list_of_one_is_that_one(make, tmp_path):
    path = make("a", 2)
    one, listed = configuration(path, tmp_path / "run"), configuration([path], tmp_path / "run", weights=[3])
    assert one == listed
    assert prepare(one).manifest == prepare(listed).manifest
    assert "pieces" not in prepare(one).manifest


@pytest.mark.parametrize(
    ("dataset", "weights", "words"),
    [
        ([], None, "folder or a list of folders"),
        (["a", ""], None, "folder or a list of folders"),
        (["a", "b", "a"], None, "got a twice: give it a larger weight"),
        (["a", "b"], [1], r"one for each of 2 datasets, got \[1\]"),
        ("a", [1, 2], "one for each of 1 datasets"),
        (["a", "b"], [1, 0], "above 0, .*leave out"),
        (["a", "b"], [1, float("inf")], "above 0"),
        (["a", "b"], [1, float("nan")], "above 0"),
    ],
)
def test_impossible_datasets_and_weights_are_refused(dataset, weights, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(dataset=dataset, out="run", weights=weights)


@pytest.mark.parametrize(
    ("arguments", "datasets"),
    [
        (["dataset=a b.zarr"], ["a b.zarr"]),
        (["dataset=[a.zarr,~/b c.zarr]", "weights=[1,2]"], [["a.zarr", "/homes/me/b c.zarr"]]),
        (["dataset=['a,b',1]"], [["a,b", "1"]]),
        (["dataset=./[a]"], ["./[a]"]),
        (["dataset=[a,b],c,[d]", "-m"], [["a", "b"], "c", "d"]),
    ],
)
def test_brackets_make_a_list_of_paths_that_are_taken_as_typed(arguments, datasets, monkeypatch):
    monkeypatch.setenv("HOME", "/homes/me")
    configurations, failures = compose("train", [*arguments, "out=o"])
    assert not failures
    assert [config.dataset for config in configurations] == datasets
    assert configurations[0].weights in (None, [1.0, 2.0])


# --- what is learnt, and what a run knows


def test_each_dataset_is_split_on_its_own_and_drawn_by_its_weight(make, tmp_path):
    paths = [make("a", 8, -0.5), make("b", 4, 0.5)]
    prepared = prepare(configuration(paths, tmp_path / "run", held_out=0.25, weights=[1, 3]))
    held_out = [split_episodes(count, held_out=0.25, seed=0)[1] for count in (8, 4)]
    assert prepared.manifest["held_out_episodes"] == [*held_out[0], *(8 + episode for episode in held_out[1])]
    assert prepared.manifest["pieces"] == [[0, 8], [1, 4]]
    assert (len(prepared.windows), len(prepared.validation)) == (9 * 17, 3 * 17)
    assert f"{paths[1]}: 51 windows, 75.2% of all that are drawn" in prepared.notes
    order = Order(len(prepared.windows), 8, 0, mix=prepared.mix)
    drawn = torch.cat([order.indices(step) for step in range(19)])
    share = (prepared.windows.batch(drawn).action[:, 0, 0] > 0).double().mean().item()
    assert share == pytest.approx(0.75, abs=0.01)
    plain = prepare(configuration(paths, tmp_path / "run", held_out=0.25))
    assert plain.mix is None
    assert plain.manifest["streams_sha256"] == prepared.manifest["streams_sha256"]
    assert plain.manifest["training"] != prepared.manifest["training"]


def test_the_held_out_error_of_each_dataset_stands_beside_that_of_all(make, tmp_path):
    """The run learns the first dataset alone, almost; the third holds nothing out."""
    paths = [make("a", 8, -0.5), make("b", 4, 0.5), make("c", 1, seed=1)]
    config = configuration(paths, tmp_path / "run", held_out=0.25, weights=[40, 1, 1], steps=30, validate_every=15)
    train(config)
    lines = [line for line in read_metrics(tmp_path / "run") if "action_error" in line]
    assert [line["step"] for line in lines] == [15, 30]
    names = [f"action_error/{path}" for path in paths]
    for line in lines:
        assert [key for key in line if key.startswith("action_error/")] == names[:2]
        first, second = (line[name] for name in names[:2])
        assert first < 0.5 * second
        assert line["action_error"] == pytest.approx((2 * first + second) / 3)  # of so many episodes, equally long
    assert not prepare(configuration(paths[0], tmp_path / "one", held_out=0.25)).validation_of


@pytest.mark.slow
def test_a_run_on_two_datasets_is_evaluated_in_the_task_of_each(tmp_path, recede):
    """Two tasks of one specification; `task=` names the one to evaluate in."""
    for name in ("REACH", "LAZY"):
        assert recede("collect", f"task=toys:{name}", f"out={tmp_path / name}", "episodes=3").status == 0
    arguments = ["steps=2", "batch_size=4", "policy.network.channels=[8]", "policy.network.groups=4"]
    sources = f"dataset=[{tmp_path / 'REACH'},{tmp_path / 'LAZY'}]"
    assert recede("train", sources, "weights=[1,2]", f"out={tmp_path / 'run'}", *arguments).status == 0
    for name in ("REACH", "LAZY"):
        out = f"out={tmp_path / f'result-{name}'}"
        result = recede("evaluate", str(tmp_path / "run"), f"task=toys:{name}", "episodes=2", "videos=0", out)
        assert result.status == 0, result.err
        assert "over 2 episodes" in result.out


def test_a_training_draws_by_the_weights(make, tmp_path, monkeypatch):
    config = configuration([make("a", 3), make("b", 1, seed=1)], tmp_path / "run", weights=[1, 3], seed=5)
    prepared, batches = prepare(config), []
    batch = Windows.batch
    monkeypatch.setattr(Windows, "batch", lambda self, indices: [batches.append(indices), batch(self, indices)][1])
    train(config)
    order = Order(len(prepared.windows), 8, 5, mix=prepared.mix)
    *batches, _ = batches  # the last one is of windows whose operations were counted
    assert [indices.tolist() for indices in batches] == [order.indices(step).tolist() for step in range(4)]


def test_datasets_and_one_of_the_same_episodes_are_two_recipes(make, tmp_path):
    paths, whole = [make("a", 2), make("b", 2, seed=1)], make("whole", 2)
    make("whole", 2, seed=1)
    several, one = (prepare(configuration(dataset, tmp_path / "run")).manifest for dataset in (paths, whole))
    assert several["split"] == one["split"]
    assert several["training"]["demonstrations"].pop("datasets") == [2, 2]
    assert several["training"] == one["training"]


def test_a_condition_applies_to_each_dataset(make, tmp_path):
    paths = [make("a", 3), make("b", 5, seed=1)]
    prepared = prepare(configuration(paths, tmp_path / "run", episodes="episode<2"))
    assert prepared.manifest["pieces"] == [[0, 2], [1, 2]]
    with pytest.raises(ValueError, match=r"a\.zarr: no episode of 3 fulfils"):
        prepare(configuration(paths, tmp_path / "run", episodes="episode>=3"))


def test_a_mirrored_window_is_drawn_by_the_weight_of_its_dataset(make, tmp_path, monkeypatch):
    from dataclasses import replace

    mirror = dict.fromkeys([stream.name for stream in toys.SPECIFICATION.streams], np.negative)
    monkeypatch.setattr(toys, "REACH", replace(toys.REACH, mirror=mirror))
    paths = [make("a", 3, 0.1), make("b", 1, 0.5)]
    prepared = prepare(configuration(paths, tmp_path / "run", mirror=True, task="toys:REACH", weights=[1, 3]))
    assert prepared.mix is not None
    for windows, value in zip(prepared.mix.windows, (0.1, 0.5), strict=True):
        actions = prepared.windows.batch(windows).action[:, 0, 0]
        torch.testing.assert_close(actions.abs(), torch.full_like(actions, value), atol=0.02, rtol=0)
        assert set(actions.sign().tolist()) == {-1.0, 1.0}


def test_interventions_are_learnt_beside_whole_demonstrations(make, tmp_path):
    paths = [make("hands", 2, 0.5), make("corrections", 3, -0.5, led=[[3, 9], [12, 14]])]
    prepared = prepare(configuration(paths, tmp_path / "run", only="interventions", weights=[1, 1]))
    assert len(prepared.windows) == 2 * 17 + 3 * 3
    assert [len(windows) for windows in prepared.mix.windows] == [34, 9]
    with pytest.raises(ValueError, match="does not note which steps a person led"):
        prepare(configuration([paths[0], make("more", 1, seed=2)], tmp_path / "run", only="interventions"))
    short = make("short", 1, led=[[0, 3]])
    with pytest.raises(ValueError, match=r"short\.zarr has no window to learn from"):
        prepare(configuration([*paths, short], tmp_path / "run", only="interventions", weights=[1, 1, 1]))


def test_a_stopped_training_on_grown_datasets_ends_bit_for_bit_the_same(make, tmp_path, monkeypatch):
    paths, options = [make("a", 3), make("b", 2, seed=1)], {"weights": [1, 2], "save_every": 3}
    run, other = tmp_path / "run", tmp_path / "other"
    train(configuration(paths, run, **options))
    shutil.copytree(run, other)
    make("a", 1, seed=2)
    options |= {"data": "grown", "steps": 8}
    train(configuration(paths, run, **options))
    stop_after(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        train(configuration(paths, other, **options))
    monkeypatch.undo()
    train(configuration(paths, other, **options))
    for name in ("policy.json", "policy.safetensors", "training.safetensors"):
        assert (checkpoint_of_step(run, 8) / name).read_bytes() == (checkpoint_of_step(other, 8) / name).read_bytes()


@pytest.mark.slow
def test_episodes_that_are_added_to_the_first_dataset_come_behind_those_of_the_run(make, tmp_path):
    paths, run = [make("a", 4), make("b", 4, seed=1)], tmp_path / "run"
    options = {"held_out": 0.25, "steps": 2}
    train(configuration(paths, run, **options))
    before = read_manifest(resolve_checkpoint(run))
    make("a", 4, seed=2)
    with pytest.raises(ValueError, match=r"has 12 episodes .* has 8.*data=grown"):
        train(configuration(paths, run, **(options | {"steps": 4})))
    more = [*paths, make("c", 4, seed=3)]
    train(configuration(more, run, **(options | {"steps": 4, "data": "grown"})))
    now, added = read_manifest(resolve_checkpoint(run)), split_episodes(4, held_out=0.25, seed=0)[1]
    assert now["pieces"] == [[0, 4], [1, 4], [0, 4], [2, 4]]
    assert now["split"]["sha256"][:8] == before["split"]["sha256"]
    assert now["held_out_episodes"] == [
        *before["held_out_episodes"],
        *(first + episode for first in (8, 12) for episode in added),
    ]
    train(configuration(more, run, **(options | {"steps": 4})))  # these are the run's episodes now
    child = configuration(paths[:1], tmp_path / "child", **options)
    train(child)
    train(configuration(paths, tmp_path / "child", **(options | {"steps": 4, "data": "grown"})))  # it had one dataset
    assert read_manifest(resolve_checkpoint(tmp_path / "child"))["pieces"] == [[0, 8], [1, 4]]


def test_other_datasets_than_those_of_the_run_are_refused(make, tmp_path):
    paths, run = [make("a", 3), make("b", 2, seed=1)], tmp_path / "run"
    train(configuration(paths, run, weights=[1, 2]))
    moved = [shutil.copytree(path, tmp_path / f"moved-{path.name}") for path in paths]
    train(configuration(moved, run, weights=[1, 2]))  # a path is only a word
    for other, weights, words in (
        (paths, [2, 1], r"weights was \[1,2\] and is \[2,1\]"),
        (paths, None, r"weights was \[1,2\] and is null"),
        (paths[::-1], [1, 2], r"b\.zarr has 2 episodes where the run .* has 3"),
        ([paths[0], make("c", 2, seed=5)], [1, 2], r"but episode 0 of .*c\.zarr differs, and so do 1 others"),
    ):
        with pytest.raises(ValueError, match=words):
            train(configuration(other, run, weights=weights))
    plain = tmp_path / "plain"
    train(configuration(paths, plain))
    with pytest.raises(ValueError, match="has 3 episodes where"):
        train(configuration(paths[0], plain))


def test_the_split_of_init_from_is_kept_if_its_dataset_is_named_first(make, tmp_path):
    paths = [make("a", 8), make("b", 4, seed=1)]
    train(configuration(paths[0], tmp_path / "parent", held_out=0.25))
    manifest = read_manifest(resolve_checkpoint(tmp_path / "parent"))
    child = prepare(configuration(paths, tmp_path / "child", held_out=None, init_from=str(tmp_path / "parent")))
    assert child.manifest["held_out_episodes"] == manifest["held_out_episodes"]
