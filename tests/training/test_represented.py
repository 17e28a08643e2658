"""Training in a representation: ranges over windows, pinned in the checkpoint, and what a run may start from."""

import re
from dataclasses import replace

import numpy as np
import pytest
from recede.checkpoints.folder import read_checkpoint
from recede.checkpoints.opening import load_policy
from recede.checkpoints.runs import resolve_checkpoint
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import HorizonsConfig, RegressionConfig
from recede.configs.components.representations import AbsoluteConfig, DifferenceConfig, RelativeConfig
from recede.configs.training import TrainConfig
from recede.datasets.store import DemonstrationStore
from recede.training.loop import prepare, train
from represented import POSES
from scipy.spatial.transform import Rotation

LENGTH = 20


def recorded(path, scale=1.0):
    """A store of four episodes of hands that wander and turn; the action is ahead of the hand."""
    store, rng = DemonstrationStore.create(path, POSES), np.random.default_rng(0)
    for _ in range(4):
        position = scale * np.cumsum(rng.normal(0, 0.05, (LENGTH + 1, 3)), axis=0).clip(-1, 1)
        turns = Rotation.from_rotvec(np.cumsum(rng.normal(0, 0.2, (LENGTH + 1, 3)), axis=0))
        opening = rng.uniform(0, 0.08, (LENGTH, 1))
        store.append(
            {
                "hand": np.concatenate([position[:-1], turns[:-1].as_quat()], axis=1).astype(np.float32),
                "action": np.concatenate([position[1:], turns[1:].as_rotvec(), opening], axis=1).astype(np.float32),
            }
        )
    return path


@pytest.fixture(scope="module")
def poses(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("poses") / "poses.zarr")


def configuration(dataset, out, representation, **changes):
    policy = RegressionConfig(network=UNet1dConfig(channels=[8, 16], time_size=8), representation=representation)
    arguments = {"policy": policy, "device": "cpu", "batch_size": 8, "steps": 2, "warmup": 1, "held_out": 0.25}
    arguments |= {"horizons": HorizonsConfig(observation=2, prediction=8, action=4), "ema_maximum": 0.9}
    return TrainConfig(dataset=str(dataset), out=str(out), **(arguments | changes))


def learned_ranges(policy, name="action"):
    centre, half = policy.learned.affine(name)
    return (centre - half).numpy(), (centre + half).numpy()


def windows_by_hand(store, episodes):
    """(hand (2, 7), actions (8, 7)) of every window, by the definition in `datasets.windows.Windows`."""
    for episode in episodes:
        rows = store.episode(episode)
        for current in range(LENGTH + 1 - 4):
            steps = np.clip(np.arange(current - 1, current + 7), 0, LENGTH - 1)
            yield rows["hand"][steps[:2]].astype(float), rows["action"][steps].astype(float)


def test_ranges_are_over_all_steps_of_all_training_windows(poses, tmp_path):
    prepared = prepare(configuration(poses, tmp_path / "run", RelativeConfig()))
    store = DemonstrationStore.open(poses)
    training = [episode for episode in range(4) if episode not in prepared.manifest["held_out_episodes"]]
    assert len(training) == 3
    ways = []
    for hand, actions in windows_by_hand(store, training):
        base = Rotation.from_quat(hand[1, 3:])
        turns = (base.inv() * Rotation.from_rotvec(actions[:, 3:6])).as_matrix()
        position = base.inv().apply(actions[:, :3] - hand[1, :3])
        ways.append(np.concatenate([position, turns[:, :, 0], turns[:, :, 1], actions[:, 6:]], axis=1))
    ways = np.concatenate(ways)
    low, high = learned_ranges(prepared.policy)
    np.testing.assert_allclose(low[[0, 1, 2, 9]], ways.min(0)[[0, 1, 2, 9]], atol=1e-6)
    np.testing.assert_allclose(high[[0, 1, 2, 9]], ways.max(0)[[0, 1, 2, 9]], atol=1e-6)
    assert low[3:9].tolist() == [-1] * 6  # 6D keeps its proportions
    std = ways.std(0) / np.where(np.isin(np.arange(10), range(3, 9)), 1, (ways.max(0) - ways.min(0)) / 2)
    np.testing.assert_allclose(prepared.policy.learned.action_std.numpy(), std, rtol=1e-4)
    assert "relative: action.x, action.y, action.z, action.rx, action.ry, action.rz refer to hand" in prepared.notes


def test_differences_from_step_to_step_are_smaller_than_ways_from_the_observation(poses, tmp_path):
    spans = []
    for representation in (AbsoluteConfig(), RelativeConfig(), DifferenceConfig()):
        low, high = learned_ranges(prepare(configuration(poses, tmp_path / "run", representation)).policy)
        spans.append((high - low)[:3].mean())
    assert spans[0] > spans[1] > spans[2]


def test_groups_have_their_own_normalisation(poses, tmp_path):
    groups = {"rotation_6d": "range", "opening": "deviation", "x": "quantiles"}
    config = configuration(poses, tmp_path / "run", RelativeConfig(), normalisation={"action": {"groups": groups}})
    policy = prepare(config).policy
    plain = prepare(replace(config, normalisation={})).policy
    (low, high), (usual_low, usual_high) = learned_ranges(policy), learned_ranges(plain)
    assert np.all(high[3:9] - low[3:9] < 2)
    assert usual_low[0] < low[0] < high[0] < usual_high[0]
    np.testing.assert_allclose([low[1:3], high[1:3]], [usual_low[1:3], usual_high[1:3]])
    assert high[9] - low[9] > usual_high[9] - usual_low[9]  # three deviations of a uniform are beyond its ends
    low, high = learned_ranges(prepare(replace(config, normalisation={"action": {"kind": "quantiles"}})).policy)
    assert (low[3:9].tolist(), high[3:9].tolist()) == ([-1] * 6, [1] * 6)
    wrong = replace(config, normalisation={"action": {"groups": {"wrist": "range"}}})
    with pytest.raises(ValueError, match=r"normalisation.action.groups must name labels or kinds .*got 'wrist'"):
        prepare(wrong)


def test_a_trained_policy_keeps_its_representation_and_its_ranges(poses, tmp_path):
    config = configuration(poses, tmp_path / "run", DifferenceConfig(angle="cosine_sine"))
    train(config)
    policy, manifest = load_policy(tmp_path / "run")
    assert manifest["policy"]["representation"]["choice"] == "difference"
    assert policy.specification == POSES
    np.testing.assert_array_equal(learned_ranges(policy), learned_ranges(prepare(config).policy))
    train(replace(config, steps=3))
    np.testing.assert_array_equal(learned_ranges(load_policy(tmp_path / "run")[0]), learned_ranges(policy))
    other = replace(config, steps=4, policy=replace(config.policy, representation=RelativeConfig()))
    with pytest.raises(ValueError, match=r"policy.representation.choice was difference and is relative"):
        train(other)


def test_initial_weights_of_another_representation_are_refused_and_other_ranges_are_named(poses, tmp_path):
    train(configuration(poses, tmp_path / "parent", RelativeConfig()))
    start = {"held_out": None, "init_from": str(tmp_path / "parent")}
    with pytest.raises(ValueError, match=re.escape("must have learned the same representation")):
        prepare(configuration(poses, tmp_path / "child", DifferenceConfig(), **start))
    child = configuration(poses, tmp_path / "child", RelativeConfig(), **start)
    assert not [note for note in prepare(child).notes if note.startswith("ranges:")]
    narrow = recorded(tmp_path / "narrow.zarr", scale=0.5)
    notes = [note for note in prepare(replace(child, dataset=str(narrow))).notes if note.startswith("ranges: ")]
    assert re.match(
        r"ranges: hand.x was \[.*\] in init_from and is \[.*\] in these demonstrations, and 2 more", notes[0]
    )
    assert notes[1].startswith("ranges: action.x was")


def test_the_weights_of_a_plain_policy_have_no_other_names(poses, tmp_path):
    train(configuration(poses, tmp_path / "plain", AbsoluteConfig(rotation="as_is")))
    train(configuration(poses, tmp_path / "six", AbsoluteConfig()))
    plain, six = (read_checkpoint(resolve_checkpoint(tmp_path / name))[1] for name in ("plain", "six"))
    assert not [name for name in plain if name.startswith("represented")]
    assert [name for name in six if name.startswith("represented")]
