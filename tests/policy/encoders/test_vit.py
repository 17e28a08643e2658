"""Pretrained vision transformers, with tiny random models."""

import json
import random
import shutil

import pytest
import safetensors.torch
import torch
from cameras import (
    HORIZONS,
    SCENE,
    STATE,
    WRIST,
    observe,
    specification,
    training,
)
from damage import alter, fate, spoil
from recede.checkpoints.opening import load_policy
from recede.configs.components.encoders import ViTEncoderConfig
from recede.policy.encoders.images import IMAGENET
from recede.policy.encoders.vit import IGNORED, ViTEncoder, read_architecture
from recede.specification import Stream
from recede.training.parameters import parameter_groups

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
MODELS = {
    "CLIPVision": {"intermediate_size": 24},
    "Dinov2": {"mlp_ratio": 2},
    "Dinov2WithRegisters": {"mlp_ratio": 2},
    "SiglipVision": {"intermediate_size": 24},
}


@pytest.fixture
def saved(tmp_path, request):
    """A tiny random model of a family, and its folder."""
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
def test_a_vision_transformer_equals_the_model_in_its_folder(saved):
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
    result = recede(*training(filmed, tmp_path / "run", "policy/encoder=vit", *options, steps=2))
    assert result.status == 0, result.err
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
def test_a_damaged_folder_is_read_or_refused_in_one_line(saved, tmp_path):
    (saved[1] / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [1] * 3})
    )
    path = tmp_path / "damaged"
    for number in range(16):
        rng = random.Random(number)
        shutil.copytree(saved[1], path)
        damage = rng.choice([alter, alter, spoil])
        damage(rng.choice(sorted(path.glob("*.json" if damage is alter else "*"))), rng)
        fate(lambda: vit(path), "train")
        shutil.rmtree(path)
    shutil.copytree(saved[1], path)
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(content | {"num_hidden_layers": 10**9}))
    assert "num_hidden_layers must be at most" in fate(lambda: vit(path), "train")


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


def test_the_vision_half_of_a_text_and_image_model_is_used(tmp_path):
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


@pytest.mark.parametrize("name", IGNORED)
@pytest.mark.parametrize("saved", ["Dinov2"], indirect=True)
def test_no_name_of_code_in_a_checkpoint_reaches_transformers(saved, name):
    architecture = read_architecture(saved[1])
    nested = {name: "attacker/evil-kernel", "inner": {name: "attacker/evil-kernel"}}
    architecture["config"] |= nested
    options = {"image_size": 8, "num_features": 6, "is_frozen": True}
    settings = ViTEncoder(3, architecture=architecture, **options).model.config.to_dict()
    assert "evil" not in str(settings)


@pytest.mark.parametrize("saved", ["Dinov2"], indirect=True)
def test_a_folder_that_does_not_fit_is_refused(saved, tmp_path):
    _, folder = saved
    with pytest.raises(FileNotFoundError, match=r"nowhere/config\.json is missing"):
        ViTEncoderConfig(weights=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"image_size .* 4 .*got 10"):
        ViTEncoderConfig(weights=str(folder), image_size=10).build(specification(SCENE), HORIZONS)
    with pytest.raises(ValueError, match="must have 3 channels, got 1"):
        ViTEncoderConfig(weights=str(folder)).build(specification(Stream("g", (8, 8, 1), "uint8")), HORIZONS)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    removed = sorted(weights)[3]
    weights.pop(removed)
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"Dinov2Model .* lacks 1 weights.*{removed}"):
        vit(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="Dinov2Model as safetensors"):
        vit(folder)
    for text, message in (('{"model_type": "dinov9"}', "got 'dinov9': did you mean 'dinov2'"), ("{", "must be JSON")):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            ViTEncoderConfig(weights=str(folder))


def test_the_error_names_the_missing_package_transformers(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    config = ViTEncoderConfig(architecture={"config": {"model_type": "dinov2"}, "mean": [0.5], "std": [0.5]})
    with pytest.raises(ValueError, match=r"policy/encoder=vit needs transformers: pip install 'recede\[vit\]'"):
        config.build(specification(SCENE), HORIZONS)
