"""Which trainings have the same recipe."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import zarr
from recede.configs.components.denoising import DDIMConfig
from recede.configs.components.encoders import ResNetEncoderConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig, HorizonsConfig
from recede.configs.training import TrainConfig
from recede.datasets.fingerprint import vector_digests
from recede.datasets.store import DemonstrationStore
from recede.specification import Specification, Stream
from recede.training.loop import prepare
from recede.training.recipe import LEFT_OUT, recipe
from recede.training.split import choose_split


def configuration(dataset, **changes):
    policy = DiffusionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16))
    arguments = {"policy": policy, "device": "cpu", "batch_size": 32, "steps": 20, "ema_maximum": 0.9}
    arguments["horizons"] = HorizonsConfig(observation=2, prediction=16, action=8)
    return TrainConfig(dataset=str(dataset), out="run", **(arguments | changes))


def split_of(config):
    digests = vector_digests(DemonstrationStore.open(config.dataset))
    return choose_split(digests, held_out=config.held_out, seed=config.split_seed)


def digest(store):
    return hashlib.sha256("".join(vector_digests(store)).encode()).hexdigest()[:12]


def recipe_of(dataset, **changes):
    return prepare(configuration(dataset, **changes)).manifest["training"]


def test_paths_devices_logs_and_seeds_are_not_part_of_a_recipe(reaches, tmp_path):
    usual = recipe_of(reaches)
    shutil.copytree(reaches, tmp_path / "moved.zarr")
    policy = configuration(reaches).policy
    changes = {
        "out": "elsewhere",
        "seed": 7,
        "task": "toys:REACH",
        "data": "grown",
        "episodes": "operator=script",
        "device": "auto",
        "capture": False,
        "accumulate": 2,
        "gradient_checkpointing": True,
        "compile": False,  # they exclude each other
        "image_cache": "device",
        "tensorboard": True,
        "imports": ["toys"],
        **dict.fromkeys(("log_every", "save_every", "validate_every", "evaluate_every", "evaluate_episodes"), 3),
        "policy": replace(policy, sampler=DDIMConfig(num_steps=3)),
    }
    assert {*changes, "dataset", "init_from", "teacher"} - {"policy"} == LEFT_OUT
    config = replace(configuration(tmp_path / "moved.zarr"), **changes)
    assert recipe(config, split_of(config), init_from=None, teacher=None) == usual
    assert str(reaches) not in json.dumps(usual)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 2e-3},
        {"steps": 21},
        {"mask_padding": True},
        {"precision": "bf16"},
        {"held_out": 0.3},
        {"horizons": HorizonsConfig(observation=1)},
        {"policy": DiffusionConfig(network=UNet1dConfig(channels=[16, 16], time_size=16))},
        {"policy": DiffusionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16), prediction="epsilon")},
    ],
)
def test_other_settings_make_another_recipe(reaches, changes):
    configs = [configuration(reaches, **options) for options in ({}, changes)]
    usual, other = (recipe(config, split_of(config), init_from=None, teacher=None) for config in configs)
    assert usual != other


def test_an_explicit_default_makes_the_same_recipe(reaches):
    configs = [configuration(reaches, **options) for options in ({}, {"held_out": 0.02, "split_seed": 0})]
    usual, explicit = (recipe(config, split_of(config), init_from=None, teacher=None) for config in configs)
    assert usual == explicit


def test_other_demonstrations_make_another_recipe(reaches, tmp_path):
    """One changed number suffices, and so does one changed end of an episode."""
    usual = recipe_of(reaches)["demonstrations"]
    store = DemonstrationStore.open(reaches)
    assert usual == {"episodes": 20, "digest": digest(store)}

    shutil.copytree(reaches, tmp_path / "changed.zarr")
    actions = zarr.open_group(tmp_path / "changed.zarr", mode="r+")["data/action"]
    actions[5] = actions[5] + 1e-6
    assert digest(DemonstrationStore.open(tmp_path / "changed.zarr")) != usual["digest"]

    joined = DemonstrationStore.open(reaches)
    joined.episode_ends = joined.episode_ends[1:]
    assert digest(joined) != usual["digest"]


def test_other_images_make_another_recipe(tmp_path):
    specification = Specification((Stream("camera", (2, 2, 3), "uint8"),), Stream("action", (1,)), control_dt=0.1)
    digests = []
    for brightness in (0, 1, 0):
        store = DemonstrationStore.create(tmp_path / f"{len(digests)}.zarr", specification)
        images = np.full((4, 2, 2, 3), brightness, dtype=np.uint8)
        store.append({"camera": images, "action": np.zeros((4, 1), dtype=np.float32)})
        digests.append(digest(store))
    assert digests[0] == digests[2] != digests[1]


def test_initial_weights_are_part_of_a_recipe(reaches, trained):
    weights = next(iter(trained.glob("checkpoints/*/policy.safetensors"))).read_bytes()
    started = recipe_of(reaches, init_from=str(trained), horizons=HorizonsConfig())
    assert started["init_from"] == hashlib.sha256(weights).hexdigest()[:12]
    assert recipe_of(reaches)["init_from"] is None


def test_pretrained_weights_are_identified_by_their_file_name(reaches):
    one, other = (
        recipe(
            configuration(reaches, policy=DiffusionConfig(encoder=ResNetEncoderConfig(weights=path))),
            split_of(configuration(reaches)),
            init_from=None,
            teacher=None,
        )
        for path in ("/here/resnet18.safetensors", "there/resnet18.safetensors")
    )
    assert one == other
    assert one["policy"]["encoder"]["weights"] == "resnet18.safetensors"
