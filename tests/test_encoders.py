"""Encoders of observations: vectors, images, both; residual networks and pretrained vision transformers."""

import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from recede.configs.components import (
    DiffusionConfig,
    HorizonsConfig,
    RegressionConfig,
    UNet1dConfig,
)
from recede.configs.encoders import LowdimEncoderConfig, ResNetEncoderConfig, ViTEncoderConfig
from recede.configs.policies import load_policy
from recede.configs.schema import TrainConfig
from recede.datasets.store import DemonstrationStore
from recede.policy import checkpoint
from recede.policy.encoders.images import IMAGENET, Pixels, SpatialSoftmax, centre_crop
from recede.policy.encoders.observation import ObservationEncoder
from recede.policy.encoders.resnet import ResNet, ResNetEncoder
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons, Specification, Stream
from recede.training import loop
from recede.training.parameters import parameter_groups
from torch import nn

HORIZONS = Horizons(2, 4, 2)
STATE, TARGET, ACTION = Stream("state", (3,)), Stream("target", (2,), "float64"), Stream("action", (2,))
SCENE, WRIST = Stream("scene", (24, 32, 3), "uint8"), Stream("wrist", (16, 20, 3), "uint8")
SMALL = {"width": 16, "stages": 1, "keypoints": 4, "features": 6}


def specification(*streams):
    return Specification(streams, ACTION, control_dt=0.1)


def observe(*streams, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        s.name: torch.randint(0, 256, (batch, 2, *s.shape), generator=generator, dtype=torch.uint8)
        if s.is_image
        else torch.rand(batch, 2, *s.shape, generator=generator) * 2 - 1
        for s in streams
    }


def encoder_of(*streams, **options):
    torch.manual_seed(0)
    return ResNetEncoderConfig(**(SMALL | options)).build(specification(*streams), HORIZONS)


def policy_of(*streams, config=DiffusionConfig, **options):
    torch.manual_seed(0)
    described = specification(*streams)
    given = [stream for stream in described.streams if not stream.is_image]
    ranges = {stream.name: (-np.ones(stream.shape), np.ones(stream.shape)) for stream in given}
    network = UNet1dConfig(channels=[8, 16], groups=2, time_size=8)
    made = config(encoder=ResNetEncoderConfig(**(SMALL | options)), network=network)
    return made.build(described, HORIZONS, Normalizer(described, ranges))


def lesson(batch=3, draws=4):
    return torch.rand(batch, 4, 2), torch.randn(draws, batch, 4, 2), torch.rand(draws, batch)


# --- residual networks


def shaken(network, seed=0):
    """Weights and statistics as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim == 1:
                low = 0.5 if name.endswith(("weight", "running_var")) else -0.3
                value.copy_(low + torch.rand(value.shape, generator=generator))
    return network


def by_hand(weights, x, *, kind, blocks, stages):
    """The residual network as a recipe, from its weights by name: an independent forward pass."""

    def norm(name, x):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if kind == "group":
            return F.group_norm(x, len(weight) // 16, weight, bias)
        mean, variance = (weights[f"{name}.{each}"][:, None, None] for each in ("running_mean", "running_var"))
        return (x - mean) / (variance + 1e-5).sqrt() * weight[:, None, None] + bias[:, None, None]

    def conv(name, x, stride=1):
        weight = weights[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = F.max_pool2d(norm("bn1", conv("conv1", x, 2)).relu(), 3, 2, 1)
    for stage in range(1, stages + 1):
        for index in range(blocks[stage - 1]):
            name, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            if f"{name}.conv3.weight" in weights:
                y = norm(f"{name}.bn1", conv(f"{name}.conv1", x)).relu()
                y = norm(f"{name}.bn2", conv(f"{name}.conv2", y, stride)).relu()
                y = norm(f"{name}.bn3", conv(f"{name}.conv3", y))
            else:
                y = norm(f"{name}.bn1", conv(f"{name}.conv1", x, stride)).relu()
                y = norm(f"{name}.bn2", conv(f"{name}.conv2", y))
            if f"{name}.downsample.0.weight" in weights:
                x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
            x = (x + y).relu()
    return x


@pytest.mark.parametrize("kind", ["group", "frozen"])
@pytest.mark.parametrize("depth", [18, 34, 50])
@pytest.mark.parametrize("stages", [2, 4])
def test_a_resnet_is_its_recipe(depth, kind, stages):
    torch.manual_seed(0)
    network = shaken(ResNet(3, depth=depth, width=16, stages=stages, norm=kind)).double()
    x = torch.randn(2, 3, 40, 48, dtype=torch.float64)
    with torch.no_grad():
        found = network(x)
    blocks = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3]}[depth]
    expected = by_hand(network.state_dict(), x, kind=kind, blocks=blocks, stages=stages)
    side = 2 ** (stages + 1)
    assert found.shape == (2, network.num_channels, -(-40 // side), -(-48 // side))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_a_resnet_has_as_many_weights_as_the_published_one(depth, parameters):
    network = ResNet(3, depth=depth, width=64, stages=4, norm="group")
    classifier = 1000 * network.num_channels + 1000
    assert sum(each.numel() for each in network.parameters()) + classifier == parameters


def test_names_are_those_of_torchvision():
    convolutions = [("conv1", "bn1")]
    for stage in range(1, 5):
        for block in range(2):
            convolutions += [(f"layer{stage}.{block}.conv{n}", f"layer{stage}.{block}.bn{n}") for n in (1, 2)]
        if stage > 1:
            convolutions.append((f"layer{stage}.0.downsample.0", f"layer{stage}.0.downsample.1"))
    expected = {f"{conv}.weight" for conv, _ in convolutions}
    expected |= {f"{norm}.{part}" for _, norm in convolutions for part in ("weight", "bias")}
    assert ResNet(3, depth=18, width=16, stages=4, norm="group").state_dict().keys() == expected
    expected |= {f"{norm}.{part}" for _, norm in convolutions for part in ("running_mean", "running_var")}
    assert ResNet(3, depth=18, width=16, stages=4, norm="frozen").state_dict().keys() == expected


@pytest.mark.parametrize("depth", [18, 50])
def test_a_frozen_resnet_is_that_of_torchvision(depth, tmp_path):
    models = pytest.importorskip("torchvision.models", reason="torchvision, the oracle of this test, does not import")
    torch.manual_seed(0)
    theirs = shaken(getattr(models, f"resnet{depth}")(weights=None)).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = ResNetEncoder(3, (64, 64), depth=depth, norm="frozen", is_pretrained=True)
    ours.load_pretrained(tmp_path / "weights.pth")
    x = torch.randn(2, 3, 64, 64)
    theirs.avgpool = theirs.fc = nn.Identity()
    with torch.no_grad():
        assert torch.equal(ours.trunk(x).flatten(1), theirs(x))


def published(*, norm="batch", **options):
    """Weights of a narrow network as torchvision saves them: with statistics, counters and a classifier."""
    torch.manual_seed(1)
    network = shaken(ResNet(3, **({"depth": 18, "width": 16, "stages": 4} | options), norm="frozen"), seed=1)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    weights |= {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(7) for name in weights if "var" in name
    }
    return weights | {"fc.weight": torch.randn(10, 128), "fc.bias": torch.randn(10)}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("norm", ["group", "frozen"])
@pytest.mark.parametrize("stages", [3, 4])
def test_pretrained_weights_are_taken(tmp_path, suffix, norm, stages):
    path, weights = tmp_path / f"weights.{suffix}", published()
    (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(weights, path)
    config = ResNetEncoderConfig(**(SMALL | {"stages": stages, "weights": str(path), "norm": norm}))
    encoder = config.build(specification(Stream("scene", (40, 48, 3), "uint8")), HORIZONS)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    config.start(encoder)
    camera = encoder.cameras[0]
    x = torch.randn(2, 3, 40, 48)
    with torch.no_grad():
        expected = by_hand(weights, x, kind=norm, blocks=[2, 2, 2, 2], stages=stages)
        torch.testing.assert_close(camera.trunk(x), expected, rtol=1e-3, atol=1e-4)
        pixels = torch.full((1, 3, 40, 48), 51, dtype=torch.uint8)
        mean, std = (torch.tensor(each)[:, None, None] for each in IMAGENET)
        torch.testing.assert_close(camera.pixels(pixels), ((0.2 - mean) / std).expand(1, 3, 40, 48))
    for name in ("cameras.0.keypoints.detect.weight", "cameras.0.project.weight"):
        assert torch.equal(encoder.state_dict()[name], before[name])


def test_a_frozen_norm_does_not_look_at_the_batch():
    torch.manual_seed(0)
    frozen = shaken(ResNet(3, depth=18, width=16, stages=1, norm="frozen"))
    batch = nn.BatchNorm2d(16).eval()
    batch.load_state_dict(frozen.bn1.state_dict() | {"num_batches_tracked": torch.tensor(0)})
    x = torch.randn(4, 16, 6, 5)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(frozen.train().bn1(x), batch(x))
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    assert not list(frozen.bn1.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.pop("layer2.0.bn1.running_var"),
            r"weights.pth must .* 1 names or shapes differ, such as layer2.0.bn1",
        ),
        (lambda w: w.update(extra=torch.zeros(1)), "1 names or shapes differ, such as extra:"),
        (lambda w: w.update({"conv1.weight": torch.zeros(16, 3, 3, 3)}), "1 names or shapes .* such as conv1.weight"),
        (lambda w: w.update({f"module.{n}": w.pop(n) for n in list(w)}), r"differ, such as bn1.bias, .*, .*: give its"),
        (lambda w: w.update(published(width=32)), "names or shapes differ, such as bn1.bias, bn1.running_mean"),
        (lambda w: w.update(note="text"), "must hold tensors by name, .* of something else: give the state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    weights = published()
    change(weights)
    torch.save(weights, tmp_path / "weights.pth")
    camera = ResNetEncoder(3, (40, 40), width=16, norm="frozen", is_pretrained=True)
    with pytest.raises(ValueError, match=message):
        camera.load_pretrained(tmp_path / "weights.pth")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Evil(tmp_path / "trace")))
    torch.save({"conv1.weight": Evil(tmp_path / "trace")}, tmp_path / "weights.pt")
    for name in ("weights.pth", "weights.pt"):
        with pytest.raises(ValueError, match="must hold tensors by name and nothing that runs code"):
            ResNetEncoder(3, (40, 40), width=16, is_pretrained=True).load_pretrained(tmp_path / name)
    assert not (tmp_path / "trace").exists()
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        ResNetEncoder(3, (40, 40), width=16, is_pretrained=True).load_pretrained(tmp_path / "absent.pth")


def test_pretrained_weights_learn_at_a_tenth_of_the_rate_or_not_at_all():
    for streams, options, scale in (
        ((SCENE, STATE), {"weights": "w"}, 0.1),
        ((SCENE, WRIST), {"weights": "w", "norm": "frozen"}, 0.1),
        ((SCENE, STATE), {}, 1.0),
    ):
        policy = policy_of(*streams, **options)
        pretrained = {id(p) for camera in policy.encoder.cameras for p in camera.trunk.parameters()}
        groups = parameter_groups(policy, weight_decay=0.1)
        for group in groups:
            for parameter in group["params"]:
                assert group["scale"] == (scale if id(parameter) in pretrained else 1.0)
        assert sum(len(group["params"]) for group in groups) == len(list(policy.parameters()))
    frozen = policy_of(SCENE, STATE, weights="w", frozen=True)
    frozen.loss(observe(SCENE, STATE), *lesson()).mean().backward()
    learning = {name for name, p in frozen.named_parameters() if p.grad is not None and p.grad.any()}
    assert not [name for name in learning if ".trunk." in name]
    assert "encoder.cameras.0.keypoints.detect.weight" in learning


# --- pixels and points


def test_pixels_are_in_the_unit_interval_once():
    encoder, seen = encoder_of(SCENE), []
    encoder.cameras[0].trunk.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    black_to_white = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1, 1).expand(3, 2, *SCENE.shape)
    policy = policy_of(SCENE)
    encoder(policy.normalizer.observation({"scene": black_to_white}))
    values = seen[0].view(3, 2, 3, 24, 32)
    torch.testing.assert_close(values[:, 0, 0, 0, 0], torch.tensor([-1, -0.6, 1]))
    assert all((row == row.flatten()[0]).all() for row in values)
    assert Pixels((0.5,), (0.5,))(black_to_white[:, 0]).dtype == torch.float32


def test_the_spatial_softmax_says_x_then_y():
    softmax = SpatialSoftmax(2, 2)
    with torch.no_grad():
        softmax.detect.weight.copy_(torch.eye(2)[:, :, None, None])
        softmax.detect.bias.zero_()
    features = torch.zeros(1, 2, 3, 5)
    features[0, 0, 0, 4] = 100  # top right
    features[0, 1, 2, 1] = 100  # bottom, second column of five
    torch.testing.assert_close(softmax(features), torch.tensor([[1.0, -1.0, -0.5, 1.0]]))
    torch.testing.assert_close(softmax(torch.zeros(1, 2, 3, 5)), torch.zeros(1, 4), atol=1e-6, rtol=0)
    features[0, 0, 0, 0] = 100  # in two corners at once: between them
    torch.testing.assert_close(softmax(features)[0, :2], torch.tensor([0.0, -1.0]), atol=1e-6, rtol=0)


def test_the_centre_is_cut_out():
    images = torch.arange(7 * 6 * 1).view(1, 1, 7, 6, 1)
    assert torch.equal(centre_crop(images, (3, 4)), images[:, :, 2:5, 1:5])
    assert torch.equal(centre_crop(images, (4, 3)), images[:, :, 1:5, 1:4])  # margins of 3: one before, two after
    assert torch.equal(centre_crop(images, (7, 6)), images)
    assert centre_crop(images, None) is images


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
    found = encoder(observation)
    assert found.shape == (3, 2, size)
    assert found.isfinite().all()
    for name, x in observation.items():  # every stream matters, and a step and a row see only their own
        changed = observation | {name: x.clone()}
        changed[name][1, 0] = 255 - x[1, 0] if x.dtype == torch.uint8 else -x[1, 0]
        difference = (encoder(changed) - found).abs().amax(dim=-1) > 1e-6
        assert difference.tolist() == [[False, False], [True, False], [False, False]], name


def test_vectors_come_first_and_as_they_are():
    encoder, observation = encoder_of(SCENE, STATE, WRIST, TARGET), observe(SCENE, STATE, WRIST, TARGET)
    found = encoder(observation)
    assert torch.equal(found[..., :5], torch.cat([observation["state"], observation["target"]], dim=-1))
    frames = observation["wrist"][1].permute(0, 3, 1, 2)
    torch.testing.assert_close(found[1, :, -6:], encoder.cameras[1](frames))


def test_a_shared_encoder_is_one():
    apart, shared = encoder_of(SCENE, WRIST), encoder_of(SCENE, WRIST, shared=True)
    count = sum(p.numel() for p in shared.parameters())
    assert sum(p.numel() for p in apart.parameters()) == 2 * count
    same = Stream("other", SCENE.shape, "uint8")
    encoder = encoder_of(SCENE, same, shared=True)
    found = encoder(observe(SCENE) | {"other": observe(SCENE)["scene"]})
    assert torch.equal(found[..., :6], found[..., 6:])
    safetensors.torch.save(encoder.state_dict())  # which refuses a tensor of two names


def test_evaluation_sees_the_centre_and_training_what_was_cropped():
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
            r"takes vector streams only, got \['scene'\]: choose policy/encoder=resnet",
        ),
        (
            lambda: encoder_of(STATE, SCENE, WRIST, crop=[18, 12]),
            r"must fit into stream 'wrist', whose images are 16 x 20 pixels, got 18 x 12",
        ),
        (
            lambda: encoder_of(SCENE, Stream("depth", (16, 16, 1), "uint8"), shared=True),
            r"same number of channels, got \{'scene': 3, 'depth': 1\}: give each its own with shared=false",
        ),
        (lambda: encoder_of(Stream("depth", (9, 9, 1))), r"'depth' must be a vector .* or an image of uint8"),
        (lambda: encoder_of(SCENE, stages=4), r"higher and wider than 32 pixels for the 4 stages .* got \(24, 32\)"),
        (lambda: encoder_of(SCENE, WRIST, shared=True, stages=3), r"higher and wider than 16 .* got \(16, 20\)"),
        (lambda: encoder_of(Stream("grey", (16, 16, 1), "uint8"), weights="w"), "must have 3 channels, got 1"),
        (lambda: ResNetEncoderConfig(depth=20), "a depth of 18, 34 or 50 and 1 to 4 stages, got 20 and 4"),
        (lambda: ResNetEncoderConfig(stages=5), "got 18 and 5"),
        (lambda: ResNetEncoderConfig(width=24), "width must be a multiple of 16"),
        (lambda: ResNetEncoderConfig(norm="batch"), "norm must be 'group' or 'frozen', got 'batch'"),
        (lambda: ResNetEncoderConfig(norm="frozen"), "keep what was trained: give weights=FILE"),
        (lambda: ResNetEncoderConfig(frozen=True), "keep what was trained: give weights=FILE"),
        (lambda: ResNetEncoderConfig(crop=[84]), r"crop must be a height and a width in pixels, .* got \[84\]"),
        (lambda: ResNetEncoderConfig(crop=[84, 0]), r"crop must be .* got \[84, 0\]"),
        (lambda: LowdimEncoderConfig(mlp=[4, 0]), r"mlp must list sizes above 0, got \[4, 0\]"),
        (lambda: ViTEncoderConfig().build(specification(SCENE), HORIZONS), "give policy.encoder.weights=FOLDER"),
    ],
)
def test_what_cannot_be_encoded_is_refused(build, message):
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
            "'scene' must hold images of uint8, .* got torch.float32: do not scale or normalise the pixels",
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
        policy.loss(observation, *lesson())


@pytest.mark.parametrize("config", [DiffusionConfig, RegressionConfig])
def test_training_takes_cropped_images_and_prediction_whole_ones(config):
    policy = policy_of(SCENE, STATE, config=config, crop=[14, 12])
    observation = observe(SCENE, STATE)
    cropped = observation | {"scene": centre_crop(observation["scene"], (14, 12))}
    given = lesson()
    assert torch.equal(policy.loss(cropped, *given), policy.loss(observation, *given))
    draws, *shape = policy.noise_shape
    assert policy.predict(observation, torch.randn(draws, 3, *shape)).shape == (3, 4, 2)
    with pytest.raises(ValueError, match=r"'scene' must have shape \(B, 2, 24, 32, 3\), got \(3, 2, 14, 12, 3\)"):
        policy.predict(cropped, torch.randn(draws, 3, *shape))


@pytest.mark.parametrize("config", [DiffusionConfig, RegressionConfig])
def test_every_image_is_encoded_once_a_window(config):
    policy, seen = policy_of(SCENE, STATE, WRIST, config=config), []
    for camera in policy.encoder.cameras:
        camera.register_forward_hook(lambda module, arguments, output: seen.append(len(output)))
    policy.loss(observe(SCENE, STATE, WRIST), *lesson(draws=5))
    assert seen == [6, 6]  # 3 windows of 2 steps, whatever the number of noise draws
    draws, *shape = policy.noise_shape
    policy.predict(observe(SCENE, STATE, WRIST), torch.randn(draws, 3, *shape))
    assert seen == [6] * 4  # and whatever the number of denoising steps


def test_images_pass_the_normalizer_unchanged():
    described = specification(SCENE, STATE)
    ranges = {"state": (np.zeros(3), np.full(3, 2.0)), "action": (np.zeros(2), np.ones(2))}
    normalizer, observation = Normalizer(described, ranges), observe(SCENE, STATE)
    found = normalizer.observation(observation)
    assert found["scene"] is observation["scene"]
    torch.testing.assert_close(found["state"], (observation["state"] - 1).clamp(-1.5, 1.5))
    assert not [name for name in normalizer.state_dict() if "scene" in name]
    Normalizer.empty(described).load_state_dict(normalizer.state_dict())


def test_a_policy_learns_what_only_the_image_shows():
    policy = policy_of(SCENE, config=RegressionConfig)
    generator = torch.Generator().manual_seed(0)

    def data(batch=32):
        place = torch.rand(batch, 2, generator=generator)
        row, column = (place[:, 0] * 20).long(), (place[:, 1] * 28).long()
        inside = [(torch.arange(size) - start[:, None]) for size, start in ((24, row), (32, column))]
        inside = [(each >= 0) & (each < 4) for each in inside]
        spot = inside[0][:, :, None] & inside[1][:, None, :]
        images = (spot[:, None, :, :, None] * 255).to(torch.uint8).expand(batch, 2, 24, 32, 3)
        where = torch.stack([column / 27, row / 19], dim=-1) * 2 - 1
        return {"scene": images}, where[:, None].expand(batch, 4, 2)

    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for _ in range(120):
        observation, action = data()
        loss = policy.loss(observation, action, *lesson()[1:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    observation, action = data(64)
    error = (policy.predict(observation, torch.empty(0)) - action).abs().mean()
    assert error < 0.12  # by chance it is 0.5


# --- in a training


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """Three episodes with two cameras and a vector."""
    path = tmp_path_factory.mktemp("filmed") / "demos.zarr"
    store = DemonstrationStore.create(path, specification(SCENE, WRIST, STATE))
    rng = np.random.default_rng(0)
    for seed in range(3):
        images = {s.name: rng.integers(0, 256, (12, *s.shape), dtype=np.uint8) for s in (SCENE, WRIST)}
        vectors = {s.name: rng.uniform(-1, 1, (12, *s.shape)).astype("float32") for s in (STATE, ACTION)}
        store.append(images | vectors, seed=seed)
    return path


NETWORK = ["policy.network.channels=[8,16]", "policy.network.time_size=8", "horizons.prediction=4", "horizons.action=2"]
ENCODER = ["policy/encoder=resnet", *(f"policy.encoder.{key}={value}" for key, value in SMALL.items())]
CHANGES = ["policy.encoder.crop=[14,12]", "augmentation.brightness=0.3", "augmentation.rotation=5"]


def training(dataset, out, *more, steps=8):
    every = ["save_every=3", "log_every=4", "validate_every=8", "warmup=2", "held_out=0.3", "batch_size=6"]
    return ["train", f"dataset={dataset}", f"out={out}", f"steps={steps}", "device=cpu", *NETWORK, *every, *more]


def test_a_killed_training_on_images_ends_bit_for_bit_the_same(filmed, tmp_path, recede, monkeypatch):
    plain = loop.learning_rate
    for name in ("whole", "resumed"):
        command = training(filmed, tmp_path / name, *ENCODER, *CHANGES)
        if name == "resumed":
            with monkeypatch.context() as patch:
                patch.setattr(loop, "learning_rate", lambda step, config: 1 / (step < 5) and plain(step, config))
                with pytest.raises(ZeroDivisionError):
                    recede(*command)
            assert checkpoint.steps(tmp_path / name) == [3]
        assert recede(*command).status == 0
    files = [checkpoint.of_step(tmp_path / name, 8) / "training.safetensors" for name in ("whole", "resumed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    policy, manifest = load_policy(tmp_path / "whole")
    assert policy.encoder.crop == (14, 12)
    assert manifest["policy"]["encoder"]["choice"] == "resnet"
    draws, *shape = policy.noise_shape
    chunk = policy.predict(observe(SCENE, WRIST, STATE), torch.randn(draws, 3, *shape))
    assert chunk.shape == (3, 4, 2)


def test_training_sees_augmented_images_and_never_counts_them(filmed, tmp_path, monkeypatch):
    counted, seen = [], []
    plain, check = loop.statistics, loop.check_finite
    monkeypatch.setattr(loop, "statistics", lambda d, name, e: counted.append(name) or plain(d, name, e))
    monkeypatch.setattr(
        loop, "check_finite", lambda rows, stream, path: counted.append(stream.name) or check(rows, stream, path)
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
        lambda self, o, forward=ObservationEncoder.forward: seen.append(o["scene"].shape[2:]) or forward(self, o),
    )
    loop.train(config)
    assert sorted(set(counted)) == ["action", "state"]
    assert seen[:3] == [(14, 12, 3)] * 3
    assert set(seen[3:]) == {(24, 32, 3)}  # the held-out error is of whole images


def test_a_store_with_images_needs_an_encoder_of_images(filmed, tmp_path, recede):
    found = recede(*training(filmed, tmp_path / "run"))
    assert found.status == 2
    assert found.line == (
        "recede train: the low-dimensional encoder takes vector streams only, got ['scene', 'wrist']: "
        "choose policy/encoder=resnet"
    )
    assert not (tmp_path / "run").exists()


def test_training_begins_with_pretrained_weights_and_checkpoints_do_not_need_them(filmed, tmp_path, recede):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(published(stages=1), path)
    more = [*ENCODER, f"policy.encoder.weights={path}", "policy.encoder.norm=frozen", "policy.encoder.frozen=true"]
    found = recede(*training(filmed, tmp_path / "run", *more, steps=2))
    assert found.status == 0, found.err
    path.unlink()
    policy, _ = load_policy(tmp_path / "run")
    trunk, given = policy.encoder.cameras[1].trunk.state_dict(), published(stages=1)
    assert all(torch.equal(value, given[name]) for name, value in trunk.items())
    found = recede(*training(filmed, tmp_path / "other", *more, steps=2))
    assert found.status == 2
    assert str(path) in found.line
    assert not (tmp_path / "other").exists()


# --- pretrained vision transformers

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
MODELS = {
    "CLIPVision": {"intermediate_size": 24},
    "Dinov2": {"mlp_ratio": 2},
    "Dinov2WithRegisters": {"mlp_ratio": 2},
    "SiglipVision": {"intermediate_size": 24},
}


@pytest.fixture
def saved(tmp_path, request):
    """A tiny random model of a family, its folder, and the mean and deviation that it expects of pixels."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = getattr(transformers, f"{request.param}Config")(**TINY, **MODELS[request.param])
    model = getattr(transformers, f"{request.param}Model")(config).eval()
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def vit(folder, **options):
    config = ViTEncoderConfig(weights=str(folder), image_size=8, features=6, **options)
    torch.manual_seed(0)
    encoder = config.build(specification(Stream("scene", (8, 8, 3), "uint8"), STATE), HORIZONS)
    config.start(encoder)
    return config, encoder


@pytest.mark.parametrize("saved", MODELS, indirect=True)
def test_a_vision_transformer_is_that_of_its_folder(saved):
    model, folder = saved
    config, encoder = vit(folder)
    camera = encoder.cameras[0]
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        summary = model(camera.pixels(images)).pooler_output
        torch.testing.assert_close(camera.eval()(images), camera.project(summary))
        assert camera(torch.randint(0, 256, (2, 3, 9, 13), dtype=torch.uint8)).shape == (2, 6)  # is stretched
    (mean, std), values = (
        {"CLIPVision": ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758))}.get(
            type(model).__name__.removesuffix("Model"),
            ((0.5,) * 3, (0.5,) * 3) if "Siglip" in type(model).__name__ else IMAGENET,
        ),
        camera.pixels(torch.full((1, 3, 1, 1), 255)),
    )
    torch.testing.assert_close(values[0, :, 0, 0], (1 - torch.tensor(mean)) / torch.tensor(std), atol=1e-3, rtol=0)
    assert encoder.conditioning_shape == (2, 9)
    groups = parameter_groups(encoder, weight_decay=0.1)
    pretrained = {id(p) for p in camera.model.parameters()}
    assert all(g["scale"] == (0.1 if id(p) in pretrained else 1) for g in groups for p in g["params"])
    assert json.loads(json.dumps(config.architecture)) == config.architecture


@pytest.mark.parametrize("saved", ["Dinov2", "CLIPVision"], indirect=True)
def test_positions_are_interpolated_for_larger_images(saved):
    config = ViTEncoderConfig(weights=str(saved[1]), image_size=16, features=6)
    encoder = config.build(specification(Stream("scene", (16, 16, 3), "uint8")), HORIZONS)
    config.start(encoder)
    assert encoder(observe(Stream("scene", (16, 16, 3), "uint8"))).shape == (3, 2, 6)


@pytest.mark.parametrize("saved", ["Dinov2"], indirect=True)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_vision_transformer_trains_and_its_checkpoint_needs_no_folder(saved, frozen, filmed, tmp_path, recede):
    model, folder = saved
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3})
    )
    options = [f"policy.encoder.weights={folder}", "policy.encoder.image_size=8", f"policy.encoder.frozen={frozen}"]
    found = recede(*training(filmed, tmp_path / "run", "policy/encoder=vit", *options, steps=2))
    assert found.status == 0, found.err
    folder.rename(tmp_path / "elsewhere")
    policy, _ = load_policy(tmp_path / "run")
    camera = policy.encoder.cameras[0]
    torch.testing.assert_close(camera.pixels(torch.zeros(1, 3, 1, 1)).flatten(), torch.tensor([-0.2, -0.4, -0.6]))
    unchanged = [torch.equal(value, model.state_dict()[name]) for name, value in camera.model.state_dict().items()]
    assert all(unchanged) == frozen
    draws, *shape = policy.noise_shape
    assert policy.predict(observe(SCENE, WRIST, STATE), torch.randn(draws, 3, *shape)).isfinite().all()


@pytest.mark.parametrize("saved", ["Dinov2"], indirect=True)
def test_a_frozen_transformer_stays_in_evaluation(saved):
    _, encoder = vit(saved[1], frozen=True)
    encoder.train()
    assert encoder.training
    assert not any(module.training for module in encoder.cameras[0].model.modules())
    assert not any(p.requires_grad for p in encoder.cameras[0].model.parameters())
    encoder(observe(Stream("scene", (8, 8, 3), "uint8"), STATE)).sum().backward()
    assert encoder.cameras[0].project.weight.grad.any()


@pytest.mark.parametrize("saved", ["Dinov2"], indirect=True)
def test_no_code_in_a_folder_is_run(saved, tmp_path):
    _, folder = saved
    (folder / "trap.py").write_text(
        f"open({str(tmp_path / 'trace')!r}, 'w').close()\nclass Config: ...\nclass Model: ...\n"
    )
    described = json.loads((folder / "config.json").read_text())
    described |= {"auto_map": {"AutoConfig": "trap.Config", "AutoModel": "trap.Model"}, "_attn_implementation": "x/y"}
    (folder / "config.json").write_text(json.dumps(described))
    vit(folder)
    assert not (tmp_path / "trace").exists()


def test_the_vision_half_of_a_model_for_texts_is_taken(tmp_path):
    transformers = pytest.importorskip("transformers")
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": 9,
    }
    config = transformers.CLIPConfig(vision_config=TINY | MODELS["CLIPVision"], text_config=text)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    camera = vit(tmp_path)[1].cameras[0].eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(camera.model(x).pooler_output, model.vision_model(x).pooler_output)


@pytest.mark.parametrize("saved", ["Dinov2"], indirect=True)
def test_a_folder_that_does_not_fit_is_refused(saved, tmp_path):
    _, folder = saved
    with pytest.raises(FileNotFoundError, match=r"nowhere/config.json is missing: give the folder of a model"):
        ViTEncoderConfig(weights=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="image_size must be a multiple of the 4 pixels of a patch, got 10"):
        ViTEncoderConfig(weights=str(folder), image_size=10).build(specification(SCENE), HORIZONS)
    with pytest.raises(ValueError, match="must have 3 channels, got 1"):
        ViTEncoderConfig(weights=str(folder)).build(specification(Stream("g", (8, 8, 1), "uint8")), HORIZONS)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    removed = sorted(weights)[3]
    weights.pop(removed)
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"model must hold the weights of a Dinov2Model .* lacks 1 weights.*{removed}"):
        vit(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="model must hold the weights of a Dinov2Model as safetensors"):
        vit(folder)
    for text, message in (('{"model_type": "dinov9"}', "got 'dinov9': did you mean 'dinov2'"), ("{", "must be JSON")):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            ViTEncoderConfig(weights=str(folder))


def test_missing_transformers_are_pointed_out(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    config = ViTEncoderConfig(architecture={"config": {"model_type": "dinov2"}, "mean": [0.5], "std": [0.5]})
    with pytest.raises(ValueError, match=r"policy/encoder=vit needs transformers: pip install 'recede\[vit\]'"):
        config.build(specification(SCENE), HORIZONS)
