"""Observation encoders for vectors, images and both: alone, in a policy and in training."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from cameras import (
    CHANGES,
    ENCODER,
    HORIZONS,
    SCENE,
    SMALL,
    STATE,
    TARGET,
    WRIST,
    as_torchvision,
    encoder_of,
    lesson,
    observe,
    policy_of,
    specification,
    training,
)
from recede.checkpoints.opening import load_policy
from recede.checkpoints.runs import checkpoint_of_step, checkpoint_steps
from recede.configs.components.encoders import LowdimEncoderConfig, ResNetEncoderConfig, ViTEncoderConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig, HorizonsConfig, RegressionConfig
from recede.configs.training import TrainConfig
from recede.datasets import normalisation, statistics
from recede.policy.encoders.images import centre_crop
from recede.policy.encoders.observation import ObservationEncoder
from recede.policy.normalizer import Normalizer
from recede.specification import Stream
from recede.training import loop

# --- observations


@pytest.mark.parametrize(
    ("streams", "options", "size"),
    [
        ((STATE, TARGET), {}, 5),
        ((STATE, TARGET), {"mlp": [8, 7]}, 7),
        ((SCENE,), {}, 6),
        ((SCENE,), {"mlp": [8]}, 6),
        ((SCENE, STATE, WRIST), {}, 3 + 2 * 6),
        ((SCENE, STATE, WRIST), {"shared": True, "mlp": [4]}, 4 + 2 * 6),
        ((SCENE, WRIST), {"crop": [14, 18]}, 12),
        ((Stream("depth", (16, 16, 1), "uint8"), SCENE), {}, 12),
        ((SCENE,), {"depth": 50, "stages": 2}, 6),
    ],
)
def test_any_streams_are_encoded(streams, options, size):
    encoder = encoder_of(*streams, **options)
    assert encoder.conditioning_shape == (2, size)
    observation = observe(*streams)
    encoded = encoder(observation)
    assert encoded.shape == (3, 2, size)
    assert encoded.isfinite().all()
    for name, x in observation.items():  # every stream matters, and a step and a row see only their own
        changed = observation | {name: x.clone()}
        changed[name][1, 0] = 255 - x[1, 0] if x.dtype == torch.uint8 else -x[1, 0]
        difference = (encoder(changed) - encoded).abs().amax(dim=-1) > 1e-6
        assert difference.tolist() == [[False, False], [True, False], [False, False]], name


def test_vectors_come_first_and_as_they_are():
    encoder, observation = encoder_of(SCENE, STATE, WRIST, TARGET), observe(SCENE, STATE, WRIST, TARGET)
    encoded = encoder(observation)
    assert torch.equal(encoded[..., :5], torch.cat([observation["state"], observation["target"]], dim=-1))
    frames = observation["wrist"][1].permute(0, 3, 1, 2)
    torch.testing.assert_close(encoded[1, :, -6:], encoder.cameras[1](frames))


def test_a_shared_encoder_is_one():
    apart, shared = encoder_of(SCENE, WRIST), encoder_of(SCENE, WRIST, shared=True)
    count = sum(p.numel() for p in shared.parameters())
    assert sum(p.numel() for p in apart.parameters()) == 2 * count
    same = Stream("other", SCENE.shape, "uint8")
    encoder = encoder_of(SCENE, same, shared=True)
    encoded = encoder(observe(SCENE) | {"other": observe(SCENE)["scene"]})
    assert torch.equal(encoded[..., :6], encoded[..., 6:])
    safetensors.torch.save(encoder.state_dict())  # which refuses a tensor of two names


def test_whole_images_are_cropped_in_the_centre_and_cropped_images_are_taken_as_they_are():
    encoder, observation = encoder_of(SCENE, WRIST, crop=[14, 12]), observe(SCENE, WRIST)
    cropped = {name: centre_crop(x, (14, 12)) for name, x in observation.items()}
    assert torch.equal(encoder(observation), encoder(cropped))
    assert cropped["scene"].shape == (3, 2, 14, 12, 3)
    changed = observation["scene"].clone()
    changed[:, :, :5] = changed[:, :, -5:] = 0  # the margin: 5 rows above and below
    changed[:, :, :, :10] = changed[:, :, :, -10:] = 0
    assert torch.equal(encoder(observation | {"scene": changed}), encoder(observation))
    changed[:, :, 5, 10] = 255 - changed[:, :, 5, 10]
    assert not torch.equal(encoder(observation | {"scene": changed}), encoder(observation))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: LowdimEncoderConfig().build(specification(STATE, SCENE), HORIZONS),
            r"\['scene'\]: choose policy/encoder=resnet",
        ),
        (
            lambda: encoder_of(STATE, SCENE, WRIST, crop=[18, 12]),
            r"crop .*'wrist'.* 16 x 20 pixels, got 18 x 12",
        ),
        (
            lambda: encoder_of(SCENE, Stream("depth", (16, 16, 1), "uint8"), shared=True),
            r"channels, got \{'scene': 3, 'depth': 1\}: .*shared=false",
        ),
        (lambda: encoder_of(Stream("depth", (9, 9, 1))), r"'depth': a step must be a vector .*uint8.*\(9, 9, 1\)"),
        (lambda: encoder_of(SCENE, stages=4), r"32 pixels for the 4 stages .* got \(24, 32\)"),
        (lambda: encoder_of(SCENE, WRIST, shared=True, stages=3), r"16 pixels .* got \(16, 20\)"),
        (lambda: encoder_of(Stream("grey", (16, 16, 1), "uint8"), weights="w"), "must have 3 channels, got 1"),
        (lambda: ResNetEncoderConfig(depth=20), "depth .* stages, got 20 and 4"),
        (lambda: ResNetEncoderConfig(stages=5), "got 18 and 5"),
        (lambda: ResNetEncoderConfig(width=24), "width must be a multiple of 16"),
        (lambda: ResNetEncoderConfig(norm="batch"), "norm must be 'group' or 'frozen', got 'batch'"),
        (
            lambda: ResNetEncoderConfig(norm="frozen").start(encoder_of(SCENE)),
            "add weights=FILE",
        ),
        (lambda: ResNetEncoderConfig(frozen=True).start(encoder_of(SCENE)), "add weights=FILE"),
        (lambda: ResNetEncoderConfig(mean=[0.5]), r"mean and std .* got \[0.5\] and None"),
        (lambda: ResNetEncoderConfig(mean=[0.5], std=[0.0]), r"std above 0, got \[0.5\] and \[0.0\]"),
        (lambda: encoder_of(SCENE, mean=[0.0, 0.0], std=[1.0, 1.0]), "mean and std must be of the 3 channels"),
        (lambda: ResNetEncoderConfig(crop=[84]), r"crop .* got \[84\]"),
        (lambda: ResNetEncoderConfig(crop=[84, 0]), r"crop .* got \[84, 0\]"),
        (lambda: LowdimEncoderConfig(mlp=[4, 0]), r"mlp .* got \[4, 0\]"),
        (lambda: ViTEncoderConfig().build(specification(SCENE), HORIZONS), "policy.encoder.weights=FOLDER"),
    ],
)
def test_impossible_encoders_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# --- in a policy


@pytest.mark.parametrize("config", [DiffusionConfig, RegressionConfig])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.pop("wrist"), r"needs the observation 'wrist', got \['scene', 'state'\]"),
        (
            lambda o: o.update(scene=o["scene"] / 255),
            "'scene' .*uint8.* got torch.float32: do not scale or normalise",
        ),
        (lambda o: o.update(scene=o["wrist"]), r"'scene' must have shape \(B, 2, 24, 32, 3\), got \(3, 2, 16, 20, 3\)"),
        (lambda o: o.update(scene=o["scene"].movedim(-1, 2)), r"\(B, 2, 24, 32, 3\), got \(3, 2, 3, 24, 32\)"),
        (lambda o: o.update(scene=o["scene"][:, 0]), r"\(B, 2, 24, 32, 3\), got \(3, 24, 32, 3\)"),
        (lambda o: o.update(scene=o["scene"][..., :1]), r"\(B, 2, 24, 32, 3\), got \(3, 2, 24, 32, 1\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(config, change, message):
    policy, observation = policy_of(SCENE, STATE, WRIST, config=config, crop=[14, 12]), observe(SCENE, STATE, WRIST)
    change(observation)
    draws, *shape = policy.noise_shape
    with pytest.raises(ValueError, match=message):
        policy.predict(observation, torch.randn(draws, 3, *shape))
    with pytest.raises(ValueError, match=message):
        policy.loss(lesson(observation))


@pytest.mark.parametrize("config", [DiffusionConfig, RegressionConfig])
def test_training_takes_cropped_images_and_prediction_whole_ones(config):
    policy = policy_of(SCENE, STATE, config=config, crop=[14, 12])
    observation = observe(SCENE, STATE)
    cropped = observation | {"scene": centre_crop(observation["scene"], (14, 12))}
    assert torch.equal(policy.loss(lesson(cropped)), policy.loss(lesson(observation)))
    draws, *shape = policy.noise_shape
    assert policy.predict(observation, torch.randn(draws, 3, *shape)).shape == (3, 4, 2)
    with pytest.raises(ValueError, match=r"'scene' must have shape \(B, 2, 24, 32, 3\), got \(3, 2, 14, 12, 3\)"):
        policy.predict(cropped, torch.randn(draws, 3, *shape))


@pytest.mark.parametrize("config", [DiffusionConfig, RegressionConfig])
def test_every_image_is_encoded_once_per_window(config):
    policy, sizes = policy_of(SCENE, STATE, WRIST, config=config), []
    for camera in policy.encoder.cameras:
        camera.register_forward_hook(lambda module, arguments, output: sizes.append(len(output)))
    policy.loss(lesson(observe(SCENE, STATE, WRIST), draws=5))
    assert sizes == [6, 6]  # 3 windows of 2 steps, whatever the number of noise draws
    draws, *shape = policy.noise_shape
    policy.predict(observe(SCENE, STATE, WRIST), torch.randn(draws, 3, *shape))
    assert sizes == [6] * 4  # and whatever the number of denoising steps


def test_images_pass_the_normalizer_unchanged():
    described = specification(SCENE, STATE)
    ranges = {"state": (np.zeros(3), np.full(3, 2.0)), "action": (np.zeros(2), np.ones(2))}
    normalizer, observation = Normalizer(described, ranges), observe(SCENE, STATE)
    normalised = normalizer.observation(observation)
    assert normalised["scene"] is observation["scene"]
    torch.testing.assert_close(normalised["state"], (observation["state"] - 1).clamp(-1.5, 1.5))
    assert not [name for name in normalizer.state_dict() if "scene" in name]
    Normalizer.empty(described).load_state_dict(normalizer.state_dict())


@pytest.mark.slow
def test_a_policy_learns_what_only_the_image_shows():
    policy = policy_of(SCENE, config=RegressionConfig)
    generator = torch.Generator().manual_seed(0)

    def data(batch=32):
        place = torch.rand(batch, 2, generator=generator)
        row, column = (place[:, 0] * 20).long(), (place[:, 1] * 28).long()
        inside = [(torch.arange(size) - start[:, None]) for size, start in ((24, row), (32, column))]
        inside = [(distance >= 0) & (distance < 4) for distance in inside]
        spot = inside[0][:, :, None] & inside[1][:, None, :]
        images = (spot[:, None, :, :, None] * 255).to(torch.uint8).expand(batch, 2, 24, 32, 3)
        where = torch.stack([column / 27, row / 19], dim=-1) * 2 - 1
        return {"scene": images}, where[:, None].expand(batch, 4, 2)

    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for _ in range(120):
        observation, action = data()
        loss = policy.loss(replace(lesson(observation, len(action)), action=action)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    observation, action = data(64)
    error = (policy.predict(observation, torch.empty(0, 64, 4, 2)) - action).abs().mean()
    assert error < 0.12  # by chance it is 0.5


# --- in a training


@pytest.mark.slow
def test_a_killed_training_on_images_ends_bit_for_bit_the_same(filmed, tmp_path, recede, monkeypatch):
    plain = loop.learning_rate
    for name in ("whole", "resumed"):
        command = training(filmed, tmp_path / name, *ENCODER, *CHANGES)
        if name == "resumed":
            with monkeypatch.context() as patch:
                patch.setattr(loop, "learning_rate", lambda step, *rest: 1 / (step < 5) and plain(step, *rest))
                assert "ZeroDivisionError" in recede(*command).err
            assert checkpoint_steps(tmp_path / name) == [3]
        assert recede(*command).status == 0
    files = [checkpoint_of_step(tmp_path / name, 8) / "training.safetensors" for name in ("whole", "resumed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    policy, manifest = load_policy(tmp_path / "whole")
    assert policy.encoder.crop == (14, 12)
    assert manifest["policy"]["encoder"]["choice"] == "resnet"
    draws, *shape = policy.noise_shape
    chunk = policy.predict(observe(SCENE, WRIST, STATE), torch.randn(draws, 3, *shape))
    assert chunk.shape == (3, 4, 2)


def test_training_uses_augmented_images_and_computes_no_statistics_of_them(filmed, tmp_path, monkeypatch):
    counted, sizes = [], []
    plain, check = normalisation.rows_of, statistics.check_finite
    monkeypatch.setattr(normalisation, "rows_of", lambda d, name, e: counted.append(name) or plain(d, name, e))
    monkeypatch.setattr(
        statistics,
        "check_finite",
        lambda rows, stream, *at: counted.append(stream.name) or check(rows, stream, *at),
    )
    config = TrainConfig(
        dataset=str(filmed),
        out=str(tmp_path / "run"),
        policy=RegressionConfig(
            encoder=ResNetEncoderConfig(**SMALL, crop=[14, 12]), network=UNet1dConfig(channels=[8, 16], groups=2)
        ),
        horizons=HorizonsConfig(prediction=4, action=2),
        steps=3,
        batch_size=5,
        device="cpu",
    )
    monkeypatch.setattr(
        ObservationEncoder,
        "forward",
        lambda self, o, forward=ObservationEncoder.forward: sizes.append(o["scene"].shape[2:]) or forward(self, o),
    )
    loop.train(config)
    assert sorted(set(counted)) == ["action", "state"]
    assert sizes[:4] == [(14, 12, 3)] * 4  # three updates, and the windows whose operations are counted
    assert set(sizes[4:]) == {(24, 32, 3)}  # the held-out error is of whole images


def test_a_store_with_images_needs_an_encoder_of_images(filmed, tmp_path, recede):
    result = recede(*training(filmed, tmp_path / "run"))
    assert result.status == 2
    assert result.line == (
        "recede train: the low-dimensional encoder takes vector streams only, got ['scene', 'wrist']: "
        "choose policy/encoder=resnet"
    )
    assert not (tmp_path / "run").exists()


def test_training_begins_with_pretrained_weights_and_checkpoints_do_not_need_them(filmed, tmp_path, recede):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(as_torchvision(stages=1), path)
    more = [*ENCODER, f"policy.encoder.weights={path}", "policy.encoder.norm=frozen", "policy.encoder.frozen=true"]
    result = recede(*training(filmed, tmp_path / "run", *more, steps=2))
    assert result.status == 0, result.err
    path.unlink()
    policy, _ = load_policy(tmp_path / "run")
    trunk, weights = policy.encoder.cameras[1].trunk.state_dict(), as_torchvision(stages=1)
    assert all(torch.equal(value, weights[name]) for name, value in trunk.items())
    result = recede(*training(filmed, tmp_path / "other", *more, steps=2))
    assert result.status == 2
    assert str(path) in result.line
    assert not (tmp_path / "other").exists()
