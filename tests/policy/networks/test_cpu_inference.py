"""The layers by which a CPU predicts, against torch's own."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import toys
from recede.configs.components.denoising import DDIMConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.policy.interface import Lesson
from recede.policy.networks import cpu_inference, cpu_training
from recede.policy.networks.cpu_inference import predicting
from recede.policy.networks.unet1d import Convolution, NormMish, UNet1d, Upsample
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons
from torch import nn
from torch.nn import functional as F

SIZES = [(3, 4, 8, 5), (2, 6, 1, 5), (1, 4, 2, 7), (4, 1, 9, 1), (2, 3, 5, 3), (2, 3, 3, 7)]
"""B, C, T and K. Some kernels are wider than twice the chunk."""


def tensors(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def channels_last(x):
    return x.mT.contiguous().mT


@pytest.mark.parametrize("arranged", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize(("batch", "channels", "steps", "kernel"), SIZES)
def test_a_convolution_is_that_of_torch(batch, channels, steps, kernel, arranged):
    x, weight, bias = tensors((batch, channels, 2 * steps), (4, channels, kernel), (4,))
    for stride in (1, 2):
        out = cpu_inference.convolve(arranged(x), weight, bias, stride=stride)
        torch.testing.assert_close(out, F.conv1d(x, weight, bias, stride=stride, padding=kernel // 2))


@pytest.mark.parametrize("arranged", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (3, 4), (2, 5)])
def test_an_upsampling_is_that_of_torch(batch, steps, arranged):
    x, weight, bias = tensors((batch, 3, steps), (3, 2, 4), (2,))
    out = cpu_inference.upsample(arranged(x), weight, bias)
    torch.testing.assert_close(out, F.conv_transpose1d(x, weight, bias, stride=2, padding=1))


@pytest.mark.parametrize("arranged", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (1, 6), (3, 8), (2, 5), (2, 1)])
def test_a_norm_with_its_mish_is_that_of_torch(groups, batch, steps, arranged):
    x, weight, bias = tensors((batch, 12, steps), (12,), (12,))
    expected = F.mish(F.group_norm(x, groups, weight, bias))
    torch.testing.assert_close(cpu_inference.normalise_mish(arranged(x), groups, weight, bias, 1e-5), expected)


def test_a_mish_of_large_numbers_keeps_its_digits():
    x, weight, bias = torch.linspace(-1, 1, 128).reshape(2, 4, 16), torch.full((4,), 60.0), torch.zeros(4)
    expected = F.mish(F.group_norm(x.double(), 1, weight.double(), bias.double()))
    out = cpu_inference.normalise_mish(x, 1, weight, bias, 1e-5)
    assert expected.max() > 100
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def changed(weight):
    with torch.no_grad():
        weight.mul_(2)


CHANGES = {
    "in place": changed,
    "as an average": lambda weight: torch._foreach_lerp_([weight.detach()], [torch.zeros_like(weight)], 0.5),
    "other data": lambda weight: setattr(weight, "data", 2 * weight.data),
    "another dtype": lambda weight: setattr(weight, "data", weight.data.float()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_weights_that_have_changed_are_those_that_multiply(change):
    x, numbers, bias = tensors((2, 3, 4), (4, 3, 5), (4,))
    weight = nn.Parameter(numbers, requires_grad=False)
    cpu_inference.convolve(x, weight, bias)
    change(weight)
    x, bias = x.to(weight), bias.to(weight)
    torch.testing.assert_close(cpu_inference.convolve(x, weight, bias), F.conv1d(x, weight, bias, padding=2))


def test_weights_of_inference_mode_may_change_uncounted():
    with torch.inference_mode():
        x, weight, bias = tensors((2, 3, 4), (4, 3, 5), (4,))
        cpu_inference.convolve(x, weight, bias)
        weight.mul_(2)
        torch.testing.assert_close(cpu_inference.convolve(x, weight, bias), F.conv1d(x, weight, bias, padding=2))


def test_ordered_weights_are_kept_as_long_as_the_weights():
    x, numbers, bias = tensors((2, 3, 4), (4, 3, 5), (4,))
    weight = nn.Parameter(numbers, requires_grad=False)
    before = len(cpu_inference._ordered)
    cpu_inference.convolve(x, weight, bias)
    twin = copy.deepcopy(weight)
    assert cpu_inference._kernels(weight).data_ptr() == cpu_inference._kernels(weight).data_ptr()
    assert cpu_inference._kernels(twin).data_ptr() != cpu_inference._kernels(weight).data_ptr()
    assert len(cpu_inference._ordered) == before + 2
    del weight, twin
    assert len(cpu_inference._ordered) == before


def network():
    torch.manual_seed(0)
    sizes = {"action_size": 3, "conditioning_shape": (2, 5), "channels": (16, 24), "kernel_size": 5, "groups": 4}
    return UNet1d(**sizes, time_size=8, hidden=()).double().eval()


def counted(function, calls):
    def call(*inputs, **options):
        calls.append(function)
        return function(*inputs, **options)

    return call


@pytest.mark.parametrize("batch", [8, 9])
@torch.no_grad()
def test_every_convolution_and_norm_of_a_prediction_is_of_these_layers(monkeypatch, batch):
    made, calls = network(), []
    inputs = *tensors((batch, 7, 3)), torch.rand(batch).double(), *tensors((batch, 2, 5))
    by_torch = made(*inputs)
    for name in ("convolve", "upsample", "normalise_mish"):
        monkeypatch.setattr(cpu_inference, name, counted(getattr(cpu_inference, name), calls))
    with predicting():
        predicted = made(*inputs)
    assert len(calls) == sum(isinstance(part, Convolution | Upsample | NormMish) for part in made.modules())
    torch.testing.assert_close(predicted, by_torch)
    assert not torch.equal(predicted, by_torch)
    made(*inputs)
    with predicting(), cpu_training.left_out():
        assert torch.equal(made(*inputs), by_torch)


BITS = """
import torch
from recede.policy.networks.cpu_inference import ROWS, predicting
from recede.policy.networks.unet1d import UNet1d

torch.set_num_threads(1)
torch.manual_seed(0)
sizes = {"action_size": 3, "conditioning_shape": (2, 11), "kernel_size": 3, "groups": 8, "time_size": 16}
for channels, hidden in (([32, 64, 128], []), ([64, 128, 256], [24])):
    made = UNet1d(channels=channels, hidden=hidden, **sizes).eval()
    noisy, conditioning, t = torch.randn(128, 16, 3), torch.randn(128, 2, 11), torch.rand(1)

    def predict(rows):
        return made.denoise(noisy[rows], made.embed(t, t).expand(len(rows), -1), made.condition(conditioning[rows]))

    with torch.no_grad(), predicting():
        few = [predict(rows) for rows in torch.arange(128).split(ROWS)]
        assert torch.equal(predict(torch.arange(128)), torch.cat(few))
"""
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


@pytest.mark.parametrize("held_to", [{}, AVX2], ids=["native", "avx2"])
def test_a_row_has_the_same_bits_among_any_multiple_of_rows(held_to):
    """MKL multiplies narrow matrices in other ways, depending on their number of rows and on the processor."""
    subprocess.run([sys.executable, "-P", "-c", BITS], env=os.environ | held_to, check=True)


def gradient(made, inputs):
    """The output, and the gradient of its sum of squares with respect to the noisy chunk."""
    noisy = inputs[0].clone().requires_grad_()
    with torch.enable_grad():
        out = made(noisy, *inputs[1:])
        return out.detach(), *torch.autograd.grad(out.square().sum(), noisy)


@pytest.mark.parametrize("batch", [1, 8])
def test_a_prediction_has_the_same_numbers_where_guidance_takes_gradients(batch):
    made, inputs = network(), (*tensors((batch, 7, 3)), torch.rand(batch).double(), *tensors((batch, 2, 5)))
    with predicting():
        with torch.no_grad():
            predicted = made(*inputs)
        out, own = gradient(made, inputs)
    assert torch.equal(out, predicted)
    torch.testing.assert_close(own, gradient(made, inputs)[1])


def test_a_policy_predicts_by_these_layers_and_learns_without_them(monkeypatch):
    specification, calls = toys.SPECIFICATION, []
    ranges = {stream.name: (-np.ones(2), np.ones(2)) for stream in specification.streams}
    config = DiffusionConfig(network=UNet1dConfig(channels=[8], time_size=8), sampler=DDIMConfig(num_steps=2))
    policy = config.build(specification, Horizons(), Normalizer(specification, ranges)).eval()
    monkeypatch.setattr(cpu_inference, "convolve", counted(cpu_inference.convolve, calls))
    observation = {stream.name: torch.zeros(1, 2, *stream.shape) for stream in specification.observations}
    draws, *shape = policy.noise_shape
    with torch.no_grad():
        action, noise = torch.zeros(1, 16, 2), torch.zeros(1, 1, *shape)
        policy.loss(Lesson(observation, action, noise, torch.zeros(1, 1, policy.num_uniforms)))
    assert not calls
    policy.predict(observation, torch.zeros(draws, 1, *shape))
    assert not calls  # for a single robot, torch's layers are faster
    rows = {name: values.expand(8, *values.shape[1:]) for name, values in observation.items()}
    policy.predict(rows, torch.zeros(draws, 8, *shape))
    assert calls
