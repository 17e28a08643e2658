"""What another command may change of a run: words, the number of steps, and added demonstrations."""

import shutil
from copy import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import toys
import zarr
from recede.checkpoints.folder import read_checkpoint, read_manifest
from recede.checkpoints.runs import checkpoint_of_step, checkpoint_steps, read_metrics, resolve_checkpoint
from recede.configs.augmentation import AugmentationConfig
from recede.configs.components.encoders import ResNetEncoderConfig
from recede.configs.components.networks import TransformerConfig, UNet1dConfig
from recede.configs.components.policies import DiffusionConfig, HorizonsConfig, RegressionConfig
from recede.configs.notation import describe
from recede.configs.training import BY_CONTENT, FREE, TrainConfig
from recede.datasets.episode_writer import NewEpisode
from recede.datasets.store import DemonstrationStore
from recede.datasets.windows import split_episodes
from recede.files import read_json, write_json_with_digest
from recede.training.loop import prepare, train
from recede.training.resuming import begun_manifest
from representatives import representatives
from stopping import stop_after

STEPS = 4


def configuration(dataset, out, **changes):
    policy = RegressionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16))
    arguments = {"policy": policy, "device": "cpu", "batch_size": 16, "steps": STEPS, "warmup": 2, "held_out": 0.25}
    arguments |= {"horizons": HorizonsConfig(observation=2, prediction=16, action=8), "ema_maximum": 0.9}
    return TrainConfig(dataset=str(dataset), out=str(out), **(arguments | changes))


def recorded(path, source, episodes, *, scale=1.0, changed=()):
    """A store of some episodes of a source, all scaled, and those in `changed` recorded anew."""
    store = DemonstrationStore.open(source)
    new = DemonstrationStore.create(path, store.specification)
    append(new, store, episodes, scale=scale, changed=changed)
    return path


def append(store, source, episodes, *, scale=1.0, changed=()):
    new = list[NewEpisode]()
    for index in episodes:
        episode = {name: values * np.float32(scale) for name, values in source.episode(index).items()}
        if index in changed:
            episode["position"] = episode["position"] + np.float32(1e-3)
        new.append(NewEpisode(episode))
    store.append_many(new)


@pytest.fixture(scope="module")
def eight(tmp_path_factory, reaches):
    return recorded(tmp_path_factory.mktemp("eight") / "eight.zarr", reaches, range(8))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, eight):
    out = tmp_path_factory.mktemp("finished") / "run"
    train(configuration(eight, out))
    return out


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run of eight episodes, in another folder."""
    return shutil.copytree(finished, tmp_path / "run")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def assert_equal_weights(one, other):
    for name, tensor in read_checkpoint(resolve_checkpoint(one))[1].items():
        assert tensor.equal(read_checkpoint(resolve_checkpoint(other))[1][name]), name


# --- demonstrations


@pytest.mark.parametrize(
    ("episodes", "changes", "words"),
    [
        (range(11), {}, ["has 11 episodes", "has 8", "the first 8 are the same", "data=grown", "init_from="]),
        (range(5), {}, ["has 5 episodes", "has 8", "those 5 are the same", "init_from="]),
        (range(8), {"changed": [2]}, ["episode 2 differs", "init_from="]),
        (range(11), {"changed": [2, 5]}, ["episode 2 differs", "1 others", "init_from="]),
        (range(8), {"scale": 0.5}, ["episode 0 differs", "7 others", "init_from="]),
        ([1, 0, *range(2, 8)], {}, ["episode 0 differs", "init_from="]),
    ],
)
@pytest.mark.parametrize("steps", representatives([STEPS, 2 * STEPS], 2 * STEPS))
def test_other_demonstrations_than_those_of_the_run_are_refused(
    run, reaches, tmp_path, episodes, changes, words, steps
):
    other, before = recorded(tmp_path / "other.zarr", reaches, episodes, **changes), contents(run)
    with pytest.raises(ValueError) as error:
        train(configuration(other, run, steps=steps))
    assert all(word in str(error.value) for word in words), error.value
    if changes or len(episodes) < 8:
        with pytest.raises(ValueError, match="init_from="):
            train(configuration(other, run, steps=steps, data="grown"))
    assert contents(run) == before


def test_other_streams_than_those_of_the_run_are_refused(run, filmed):
    with pytest.raises(ValueError, match=r"streams of the run .*out="):
        train(configuration(filmed, run, steps=8))


@pytest.mark.parametrize("place", ["device", "mapped"])
def test_another_image_in_the_middle_of_an_episode_is_refused(filmed, tmp_path, monkeypatch, place):
    monkeypatch.setenv("RECEDE_CACHE", str(tmp_path / "cache"))
    store = shutil.copytree(filmed, tmp_path / "filmed.zarr")
    policy = RegressionConfig(
        network=UNet1dConfig(channels=[16], time_size=16), encoder=ResNetEncoderConfig(stages=1, width=16, crop=None)
    )
    options = {"policy": policy, "image_cache": place, "horizons": HorizonsConfig(prediction=4, action=2), "steps": 1}
    config = configuration(store, tmp_path / "run", **options)
    train(config)
    train(config)
    array = zarr.open_group(store, mode="r+")["data/wrist"]
    array[17] = 255 - array[17]
    with pytest.raises(ValueError, match=r"episode 1 differs.*image.*init_from="):
        train(config)


def test_another_mirror_is_refused(eight, tmp_path, monkeypatch):
    names = [stream.name for stream in toys.SPECIFICATION.streams]
    plain = replace(toys.REACH, mirror=dict.fromkeys(names, np.negative))
    turned = replace(plain, mirror=plain.mirror | {"target": lambda rows: -rows[:, ::-1]})
    config = configuration(eight, tmp_path / "run", mirror=True, task="toys:REACH", steps=1)
    monkeypatch.setattr(toys, "REACH", plain)
    train(config)
    train(config)
    monkeypatch.setattr(toys, "REACH", turned)
    with pytest.raises(ValueError, match=r"episode 0 differs.*mirror.*7 others.*init_from="):
        train(config)


def test_a_condition_counts_by_the_episodes_that_it_chooses(run, reaches, finished):
    """`run` knows the first eight of these twenty episodes, from a store that holds nothing else."""
    train(configuration(reaches, run, episodes="operator=script and episode<8"))
    with pytest.raises(ValueError, match=r"has 7 episodes .* has 8"):
        train(configuration(reaches, run, episodes="episode<7"))
    with pytest.raises(ValueError, match=r"episode 0 differs"):
        train(configuration(reaches, run, episodes="episode>=8"))
    train(configuration(reaches, run, episodes="seed<8", steps=STEPS + 1))
    assert read_manifest(resolve_checkpoint(run))["split"]["episodes"] == 8
    train(configuration(reaches, run, episodes="not seed>9", data="grown", steps=STEPS + 2))
    assert read_manifest(resolve_checkpoint(run))["split"]["episodes"] == 10
    now, before = (read_manifest(resolve_checkpoint(folder))["split"]["sha256"] for folder in (run, finished))
    assert now[:8] == before
    assert read_json(run / "config.json")["episodes"] == "not seed>9"


def test_added_episodes_are_accepted_by_name(run, reaches, eight, tmp_path, capsys):
    store = DemonstrationStore.open(shutil.copytree(eight, tmp_path / "grown.zarr"))
    append(store, DemonstrationStore.open(reaches), range(8, 16), scale=50.0)
    before, old = read_checkpoint(resolve_checkpoint(run))
    with pytest.raises(ValueError, match="has done its 4 steps: give more steps"):
        train(configuration(store.path, run, data="grown"))
    train(configuration(store.path, run, data="grown", steps=2 * STEPS))
    output = capsys.readouterr().out
    now, new = read_checkpoint(resolve_checkpoint(run))
    first, added = split_episodes(8, held_out=0.25, seed=0)[1], split_episodes(8, held_out=0.25, seed=0)[1]
    assert before["held_out_episodes"] == first
    assert now["held_out_episodes"] == [*first, *(8 + episode for episode in added)]
    assert "8 added episodes, 2 of them held out" in output
    assert all(old[name].equal(new[name]) for name in old if name.startswith("normalizer."))
    low, high = (
        DemonstrationStore.open(store.path).read("target", store.bounds(8)[0]).astype(float)[:, 0].min(),
        50 * 0.7,
    )
    assert f"beyond: target.x is in [{low:g}, " in output
    assert "% of their steps lie beyond the range [" in output
    assert now["training"]["stages"] == [[0, STEPS, 8], [STEPS, 2 * STEPS, 16]]
    assert high > low

    train(configuration(store.path, run, steps=3 * STEPS))  # these are the run's episodes now
    assert read_manifest(resolve_checkpoint(run))["held_out_episodes"] == now["held_out_episodes"]
    assert "added" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"has 8 episodes where the run .* has 16"):
        train(configuration(eight, run, steps=4 * STEPS))
    child = configuration(store.path, tmp_path / "child", init_from=str(run), held_out=None)
    assert prepare(child).manifest["held_out_episodes"] == now["held_out_episodes"]


def test_a_training_that_is_stopped_in_added_episodes_ends_the_same(run, reaches, tmp_path, monkeypatch):
    store = recorded(tmp_path / "grown.zarr", reaches, range(12))
    other = shutil.copytree(run, tmp_path / "other")
    options = {"data": "grown", "steps": 12, "save_every": 1}
    train(configuration(store, run, **options))
    stop_after(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        train(configuration(store, other, **options))
    monkeypatch.undo()
    train(configuration(store, other, **options))
    for name in ("policy.json", "policy.safetensors", "training.safetensors"):
        assert (checkpoint_of_step(run, 12) / name).read_bytes() == (checkpoint_of_step(other, 12) / name).read_bytes()


# --- words


def test_words_that_do_not_matter_are_replaced(run, eight, tmp_path, monkeypatch):
    shutil.copytree(eight, tmp_path / "moved.zarr")
    monkeypatch.chdir(tmp_path)
    others = {"log_every": 3, "save_every": 7, "validate_every": 5, "evaluate_episodes": 2, "image_cache": "mapped"}
    before = read_manifest(resolve_checkpoint(run))["weights_sha256"]
    train(configuration("moved.zarr", "run", device="auto", **others))
    stored = read_json(run / "config.json")
    assert {name: stored[name] for name in others} == others
    assert (stored["dataset"], stored["device"]) == ("moved.zarr", "auto")
    assert read_manifest(resolve_checkpoint(run))["weights_sha256"] == before
    train(configuration("moved.zarr", "./run", steps=6, **others))
    assert checkpoint_steps(run) == [6]


OTHER = {
    "dataset": "missing.zarr",
    "teacher": "missing",
    "policy": DiffusionConfig(),
    "horizons": HorizonsConfig(action=4),
    "held_out": 0.5,
    "split_seed": 3,
    "normalisation": {"position": {"kind": "identity"}},
    "augmentation": AugmentationConfig(brightness=0.1),
    "image_cache": "mapped",
    "data": "grown",
    "betas": [0.9, 0.99],
    "precision": "bf16",
    "device": "cuda:3",
    "imports": ["toys"],
    "learning_rate": 0.5,
    "weight_decay": 0.5,
    "gradient_clip": 0.5,
    "ema_power": 0.5,
    "ema_maximum": 0.5,
}
"""Field -> another value than that of the run; other numbers become 77."""


def test_every_field_matters_or_is_declared_not_to(run, eight):
    config = configuration(eight, run)
    names = [one.name for one in fields(TrainConfig)]
    assert {*FREE, *BY_CONTENT} < {*names}
    for name in {*names} - {"out", "init_from", "task"}:  # the place of the run, and what tests below compare
        other = copy(config)
        value = getattr(config, name)
        setattr(other, name, OTHER.get(name, not value if isinstance(value, bool) else 77))
        if name in (*FREE, *BY_CONTENT, "steps"):
            assert begun_manifest(other) is not None, name
        else:
            with pytest.raises(ValueError, match=rf"{name}.* was .*choose another out="):
                begun_manifest(other)


def test_a_setting_that_the_version_of_a_run_did_not_offer_was_at_its_default(run, eight):
    config = configuration(eight, run, normalisation={"position": {"kind": "deviation"}})
    stored = describe(config)
    for group, name in (
        (stored, "optimizer"),
        (stored["augmentation"], "words"),
        (stored["policy"], "representation"),
        (stored["policy"]["network"], "groups"),
        (stored["normalisation"]["position"], "tail"),
    ):
        del group[name]
    write_json_with_digest(run / "config.json", stored)
    assert begun_manifest(config) is not None
    with pytest.raises(ValueError, match=r"\(optimizer was adamw and is muon\)"):
        begun_manifest(replace(config, optimizer="muon"))
    other = replace(config, policy=replace(config.policy, network=replace(config.policy.network, groups=4)))
    with pytest.raises(ValueError, match=r"\(policy.network.groups was 8 and is 4\)"):
        begun_manifest(other)
    other = replace(config, policy=replace(config.policy, network=TransformerConfig()))
    with pytest.raises(
        ValueError, match=r"\(policy.network.choice was unet1d and is transformer; .*num_layers was null"
    ):
        begun_manifest(other)


def test_a_split_counts_by_what_its_words_mean(run, eight, tmp_path):
    config = configuration(eight, run)
    assert begun_manifest(replace(config, split_seed=0)) is not None
    for name, value in (("held_out", None), ("held_out", 0.02), ("split_seed", 1)):
        with pytest.raises(ValueError, match=rf"{name} was .*choose another out="):
            begun_manifest(replace(config, **{name: value}))
    child = configuration(eight, tmp_path / "child", held_out=None, init_from=str(run))
    train(child)
    assert begun_manifest(replace(child, held_out=0.25, split_seed=0)) is not None
    with pytest.raises(ValueError, match=r"held_out was null and is 0.02"):
        begun_manifest(replace(child, held_out=0.02))


def test_a_task_counts_by_what_its_words_mean(run, eight):
    from recede.envs.catalogue import TASKS

    config = configuration(eight, run)
    assert begun_manifest(replace(config, task="toys:REACH")) is not None  # to evaluate in
    write_json_with_digest(run / "config.json", describe(replace(config, task="pusht")))
    for same in ("pusht", TASKS["pusht"]):
        assert begun_manifest(replace(config, task=same)) is not None
    for other in ("pusht_image", "toys:REACH", None):
        with pytest.raises(ValueError, match=r"task was pusht and is .*choose another out="):
            begun_manifest(replace(config, task=other))


def test_initial_weights_count_by_content(run, eight, tmp_path):
    config = configuration(eight, tmp_path / "child", held_out=None, init_from=str(run))
    train(config)
    moved = shutil.copytree(run, tmp_path / "moved")
    train(replace(config, init_from=str(moved), steps=6))
    shutil.rmtree(run)  # the weights are in the checkpoint
    train(replace(config, init_from=str(moved), steps=7))
    shutil.rmtree(moved)
    train(replace(config, init_from=str(moved), steps=8))
    train(configuration(eight, tmp_path / "other", seed=3))
    for other in (str(tmp_path / "other"), None):
        with pytest.raises(ValueError, match=r"init_from was .*choose another out="):
            train(replace(config, init_from=other, steps=9))


# --- steps


def test_more_steps_continue_a_run(run, eight, capsys):
    train(configuration(eight, run, steps=10, log_every=1))
    assert "rises from 0 to 0.001 in 2 updates, then falls along a cosine to 0 at step 10" in capsys.readouterr().out
    lines = {line["step"]: line for line in read_metrics(run) if "loss" in line}
    expected = [0.5e-3, 1e-3] + [0.5e-3 * (1 + np.cos(np.pi * done / 4)) for done in range(4)]
    assert [lines[step]["learning_rate"] for step in range(5, 11)] == pytest.approx(expected)
    assert checkpoint_steps(run) == [10]
    assert read_manifest(resolve_checkpoint(run))["training"]["stages"] == [[0, 4, 8], [4, 10, 8]]
    train(configuration(eight, run, steps=10))
    assert "rises" not in capsys.readouterr().out
    train(configuration(eight, run, steps=11))
    assert "rises from 0 to 0.0005 in 1 updates\n" in capsys.readouterr().out
    train(configuration(eight, run, steps=12, data="grown", log_every=5))  # grown by nothing


def test_a_training_by_muon_that_is_stopped_ends_the_same(eight, tmp_path, monkeypatch):
    network = UNet1dConfig(channels=[64], time_size=64)
    made = [
        configuration(eight, tmp_path / name, policy=RegressionConfig(network=network), optimizer="muon", save_every=1)
        for name in ("whole", "stopped")
    ]
    train(made[0])
    stop_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(made[1])
    monkeypatch.undo()
    train(made[1])
    assert_equal_weights(*(tmp_path / name for name in ("whole", "stopped")))
    metrics = [line["loss"] for line in read_metrics(tmp_path / "whole") if "loss" in line]
    adamw = replace(made[0], optimizer="adamw", out=str(tmp_path / "adamw"))
    train(adamw)
    assert metrics != [line["loss"] for line in read_metrics(tmp_path / "adamw") if "loss" in line]


def test_a_continued_run_that_is_stopped_ends_the_same(run, eight, tmp_path, monkeypatch):
    other = shutil.copytree(run, tmp_path / "other")
    train(configuration(eight, run, steps=10, save_every=1))
    stop_after(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        train(configuration(eight, other, steps=10, save_every=1))
    monkeypatch.undo()
    train(configuration(eight, other, steps=10, save_every=1))
    assert_equal_weights(run, other)


def test_a_stopped_run_may_end_earlier_or_later(eight, tmp_path, monkeypatch):
    stop_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(configuration(eight, tmp_path / "run", save_every=1, steps=8))
    monkeypatch.undo()
    for steps in (2, 3):
        with pytest.raises(ValueError, match=f"has done 3 steps .*steps={steps}: give steps=8 to resume it"):
            train(configuration(eight, tmp_path / "run", steps=steps))
    train(configuration(eight, tmp_path / "run", steps=5))
    assert read_manifest(resolve_checkpoint(tmp_path / "run"))["stages"] == [[0, 8, 8], [3, 5, 8]]


def test_fewer_steps_than_are_done_are_refused(run, eight):
    before = contents(run)
    with pytest.raises(ValueError, match=r"has done 4 steps .*steps=3: give steps=4, or more to continue it"):
        train(configuration(eight, run, steps=3))
    assert contents(run) == before


@pytest.mark.parametrize("stages", [[], [[0, 4]], [[0, "4", 8]], None])
def test_damaged_stages_are_refused_in_one_line(run, eight, stages):
    path = resolve_checkpoint(run) / "policy.json"
    write_json_with_digest(path, read_json(path) | {"stages": stages})
    with pytest.raises(ValueError, match=r"run is damaged .*restore it from a copy, or use another folder"):
        begun_manifest(configuration(eight, run))
