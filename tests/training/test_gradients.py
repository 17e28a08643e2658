"""What gradient checkpointing and a compiler change of an update: its memory and its time, and no gradient."""

import shutil

import pytest
import torch
from cameras import SCENE, STATE, lesson, observe, policy_of, training
from recede.checkpoints.runs import checkpoint_of_step
from recede.configs.components.encoders import LowdimEncoderConfig, ViTEncoderConfig
from recede.configs.components.networks import DiTConfig
from recede.configs.components.policies import DiffusionConfig
from recede.configs.training import TrainConfig
from recede.training import gradients
from recede.training.gradients import Gradients, Part, compile_loss, recompute_images
from recede.training.processes import Processes
from safetensors.torch import load_file

PART = Part(lesson(observe(SCENE, STATE)), torch.zeros(3, 4, dtype=torch.bool))


def update(policy, part):
    """The gradients of a part, and the bytes that the forward pass keeps for the backward pass."""
    kept = {}

    def keep(x):
        kept[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(3)  # dropout
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        Gradients(policy, clip=1e9, is_masked=False, is_bf16=False)([part])
    return [parameter.grad for parameter in policy.parameters()], sum(kept.values())


def bytes_kept(policy):
    """What an update keeps without and with gradient checkpointing; the gradients must be equal."""
    policy.train()
    expected, most = update(policy, PART)
    recompute_images(policy, is_on=True)
    again, kept = update(policy, PART)
    assert any(gradient is not None and gradient.any() for gradient in again)
    for one, other in zip(again, expected, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    recompute_images(policy, is_on=False)
    assert update(policy, PART)[1] == most
    return most, kept


@pytest.mark.parametrize("depth", [18, 50])
def test_a_resnet_that_is_computed_again_has_the_same_gradients_and_keeps_less(depth):
    most, kept = bytes_kept(policy_of(SCENE, STATE, depth=depth, stages=2))
    assert kept < 0.7 * most


def test_a_transformer_that_is_computed_again_draws_the_same_dropout():
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    dropout = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    architecture = {"config": {"model_type": "dinov2", **sizes, **dropout}, "mean": [0.5] * 3, "std": [0.5] * 3}

    def config(encoder, network):
        del encoder
        return DiffusionConfig(encoder=ViTEncoderConfig(architecture=architecture, image_size=16), network=network)

    most, kept = bytes_kept(policy_of(SCENE, STATE, config=config))
    assert kept < 0.7 * most


def small(network=None):
    """A policy that sees vectors."""

    def config(encoder, network, chosen=network):
        del encoder
        return DiffusionConfig(encoder=LowdimEncoderConfig(), network=chosen or network)

    return policy_of(STATE, config=config)


def test_what_cannot_be_computed_again_is_refused():
    with pytest.raises(ValueError, match=r"gradient_checkpointing=true.*vectors alone: leave it out"):
        recompute_images(small(), is_on=True)
    with pytest.raises(ValueError, match=r"gradient_checkpointing=true.*Linear: leave it out"):
        recompute_images(torch.nn.Linear(1, 1), is_on=True)
    with pytest.raises(ValueError, match=r"exclude each other.*leave out one"):
        TrainConfig(dataset="a", out="b", compile=True, gradient_checkpointing=True)


def weights(run, step):
    return load_file(checkpoint_of_step(run, step) / "training.safetensors")


@pytest.mark.slow
def test_a_training_whose_images_are_computed_again_learns_the_same(recede, filmed, tmp_path):
    options = ["policy/encoder=resnet", "policy.encoder.width=16", "policy.encoder.stages=1"]
    changes = ["policy.encoder.crop=[14,12]", "augmentation.rotation=5"]
    for name, more in {"plain": [], "again": ["gradient_checkpointing=true"]}.items():
        command = training(filmed, tmp_path / name, *options, *changes, *more, "accumulate=2", steps=2)
        result = recede(*command)
        assert result.status == 0, result.err
    for name, x in weights(tmp_path / "plain", 2).items():
        assert torch.equal(x, weights(tmp_path / "again", 2)[name]), name


# --- torch.compile


LINE = "compile: training goes on without it, because "


@pytest.fixture
def compile_with(monkeypatch):
    """Chooses a compiler by its name, or a function."""
    torch._dynamo.reset()
    yield lambda backend: monkeypatch.setattr(gradients, "BACKEND", backend)
    torch._dynamo.reset()


def low(dataset, out, *more, steps=3):
    return ["train", f"dataset={dataset}", f"out={out}", f"steps={steps}", "device=cpu", "batch_size=6", *more]


NETWORK = ["policy/network=dit", "policy.network.num_layers=1", "policy.network.num_heads=2", "policy.network.size=16"]


def assert_learns_the_same(recede, dataset, tmp_path, *options):
    """A compiled training, which is resumed, learns what an eager one learns, and its files have the same names."""
    for name, steps, more in (("eager", 3, []), ("run", 2, ["compile=true"]), ("run", 3, ["compile=true"])):
        result = recede(*low(dataset, tmp_path / name, *options, *more, steps=steps))
        assert result.status == 0, result.err
        assert LINE not in result.out
    for file in ("training.safetensors", "policy.safetensors"):
        expected, compiled = (load_file(checkpoint_of_step(tmp_path / run, 3) / file) for run in ("eager", "run"))
        assert compiled.keys() == expected.keys()
        for key, x in expected.items():
            torch.testing.assert_close(compiled[key], x, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.slow
def test_a_traced_training_learns_the_same(recede, reaches, tmp_path, compile_with):
    traced = []

    def noting(module, inputs):
        traced.append(len(inputs))
        return module.forward

    compile_with(noting)
    assert_learns_the_same(recede, reaches, tmp_path, *NETWORK)
    assert traced


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by the compiler
def test_a_compiled_training_learns_the_same(recede, reaches, tmp_path, compile_with, monkeypatch):
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU, and there is none here")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    compile_with("inductor")
    assert_learns_the_same(recede, reaches, tmp_path, *NETWORK)


def test_a_compiler_that_fails_is_named_and_training_goes_on(recede, reaches, tmp_path, compile_with):
    def failing(module, inputs):
        raise OSError("there is no g++")

    compile_with(failing)
    result = recede(*low(reaches, tmp_path / "run", *NETWORK, "compile=true", steps=1))
    assert result.status == 0, result.err
    [line] = [line for line in result.out.splitlines() if line.startswith(LINE)]
    assert "there is no g++" in line


def test_a_compiler_that_fails_in_another_process_is_left_out_in_this_one(compile_with, monkeypatch, capsys):
    compile_with("eager")
    monkeypatch.setattr(Processes, "total", lambda self, x: x + 1)
    policy = small(DiTConfig(num_layers=1, num_heads=2, size=16))
    compiled, part = (
        Gradients(policy, clip=1.0, is_masked=False, is_bf16=False),
        Part(lesson(observe(STATE)), torch.zeros(3, 4, dtype=torch.bool)),
    )
    compile_loss(compiled, part)
    assert compiled.own.compute == policy.loss
    assert f"{LINE}it failed in 1 other process" in capsys.readouterr().out
    assert all(parameter.grad is None for parameter in policy.parameters())
