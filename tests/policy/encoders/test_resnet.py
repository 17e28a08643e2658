"""Residual networks, pixels and keypoints, against a plain forward pass and, if it is installed, torchvision."""

import pickle

import pytest
import safetensors.torch
import torch
from cameras import (
    HORIZONS,
    SCENE,
    SMALL,
    STATE,
    WRIST,
    as_torchvision,
    encoder_of,
    lesson,
    observe,
    policy_of,
    shaken,
    specification,
)
from published import resnet_forward
from recede.configs.components.encoders import ResNetEncoderConfig
from recede.policy.encoders.images import IMAGENET, Pixels, SpatialSoftmax, centre_crop
from recede.policy.encoders.resnet import ResNet
from recede.specification import Stream
from recede.training.parameters import parameter_groups
from torch import nn


def camera_of(size, **options):
    """The encoder of one camera, before pretrained weights are loaded."""
    return ResNetEncoderConfig(weights="weights.pth", **options).camera()(3, size)


# --- residual networks


@pytest.mark.parametrize("kind", ["group", "frozen"])
@pytest.mark.parametrize("depth", [18, 34, 50])
@pytest.mark.parametrize("stages", [2, 4])
def test_a_resnet_equals_its_published_forward_pass(depth, kind, stages):
    torch.manual_seed(0)
    network = shaken(ResNet(3, depth=depth, width=16, stages=stages, norm=kind)).double()
    x = torch.randn(2, 3, 40, 48, dtype=torch.float64)
    with torch.no_grad():
        output = network(x)
    expected = resnet_forward(network.state_dict(), x, kind=kind, depth=depth, stages=stages)
    side = 2 ** (stages + 1)
    assert output.shape == (2, network.num_channels, -(-40 // side), -(-48 // side))
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_a_resnet_has_as_many_weights_as_the_published_one(depth, parameters):
    network = ResNet(3, depth=depth, width=64, stages=4, norm="group")
    classifier = 1000 * network.num_channels + 1000
    assert sum(parameter.numel() for parameter in network.parameters()) + classifier == parameters


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
    original = shaken(getattr(models, f"resnet{depth}")(weights=None)).eval()
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    ours = camera_of((64, 64), depth=depth, norm="frozen")
    ours.load_pretrained(tmp_path / "weights.pth")
    x = torch.randn(2, 3, 64, 64)
    original.avgpool = original.fc = nn.Identity()
    with torch.no_grad():
        assert torch.equal(ours.trunk(x).flatten(1), original(x))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("norm", ["group", "frozen"])
@pytest.mark.parametrize("stages", [3, 4])
def test_pretrained_weights_are_loaded(tmp_path, suffix, norm, stages):
    path, weights = tmp_path / f"weights.{suffix}", as_torchvision()
    (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(weights, path)
    config = ResNetEncoderConfig(**(SMALL | {"stages": stages, "weights": str(path), "norm": norm}))
    encoder = config.build(specification(Stream("scene", (40, 48, 3), "uint8")), HORIZONS)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    config.start(encoder)
    camera = encoder.cameras[0]
    x = torch.randn(2, 3, 40, 48)
    with torch.no_grad():
        expected = resnet_forward(weights, x, kind=norm, depth=18, stages=stages)
        torch.testing.assert_close(camera.trunk(x), expected, rtol=1e-3, atol=1e-4)
        pixels = torch.full((1, 3, 40, 48), 51, dtype=torch.uint8)
        mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
        torch.testing.assert_close(camera.pixels(pixels), ((0.2 - mean) / std).expand(1, 3, 40, 48))
    for name in ("cameras.0.keypoints.detect.weight", "cameras.0.project.weight"):
        assert torch.equal(encoder.state_dict()[name], before[name])


def test_a_frozen_norm_does_not_depend_on_the_batch():
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
        (lambda w: w.update(as_torchvision(width=32)), "names or shapes differ, such as bn1.bias, bn1.running_mean"),
        (lambda w: w.update(note="text"), "tensors by name, .*: give the state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    weights = as_torchvision()
    change(weights)
    torch.save(weights, tmp_path / "weights.pth")
    camera = camera_of((40, 40), width=16, norm="frozen")
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
        with pytest.raises(ValueError, match="nothing that runs code"):
            camera_of((40, 40), width=16).load_pretrained(tmp_path / name)
    assert not (tmp_path / "trace").exists()
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        camera_of((40, 40), width=16).load_pretrained(tmp_path / "absent.pth")


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
    frozen.loss(lesson(observe(SCENE, STATE))).mean().backward()
    learning = {name for name, p in frozen.named_parameters() if p.grad is not None and p.grad.any()}
    assert not [name for name in learning if ".trunk." in name]
    assert "encoder.cameras.0.keypoints.detect.weight" in learning


# --- pixels and points


def test_pixels_are_normalised_exactly_once():
    encoder, inputs = encoder_of(SCENE), []
    encoder.cameras[0].trunk.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    black_to_white = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1, 1).expand(3, 2, *SCENE.shape)
    policy = policy_of(SCENE)
    encoder(policy.normalizer.observation({"scene": black_to_white}))
    values = inputs[0].view(3, 2, 3, 24, 32)
    torch.testing.assert_close(values[:, 0, 0, 0, 0], torch.tensor([-1, -0.6, 1]))
    assert all((row == row.flatten()[0]).all() for row in values)
    assert Pixels((0.5,), (0.5,))(black_to_white[:, 0]).dtype == torch.float32


def test_pixels_and_features_can_be_mapped_differently():
    options, images = {"mean": [0.0, 0.2, 0.5], "std": [1.0, 2.0, 0.5]}, observe(SCENE)
    plain, cut = encoder_of(SCENE, **options), encoder_of(SCENE, **options, relu=True)
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    torch.testing.assert_close(plain.cameras[0].pixels(white).flatten(), torch.tensor([1.0, 0.4, 1.0]))
    assert (plain(images) < 0).any()
    assert torch.equal(cut(images), plain(images).relu())


def test_the_spatial_softmax_returns_x_then_y():
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


def test_the_centre_is_cropped():
    images = torch.arange(7 * 6 * 1).view(1, 1, 7, 6, 1)
    assert torch.equal(centre_crop(images, (3, 4)), images[:, :, 2:5, 1:5])
    assert torch.equal(centre_crop(images, (4, 3)), images[:, :, 1:5, 1:4])  # margins of 3: one before, two after
    assert torch.equal(centre_crop(images, (7, 6)), images)
    assert centre_crop(images, None) is images
