"""The layers for training on a CPU, against torch's own."""

import pytest
import torch
from recede.policy.networks import cpu_training
from recede.policy.networks.unet1d import UNet1d
from torch.nn import functional as F

SIZES = [(3, 4, 8, 5), (2, 6, 1, 5), (1, 4, 2, 7), (4, 1, 9, 1), (2, 3, 5, 3), (2, 3, 3, 7)]
"""B, C, T and K. Some kernels are wider than twice the chunk."""


def tensors(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("batch", "channels", "steps", "kernel"), SIZES)
def test_a_convolution_and_its_gradients_are_those_of_torch(batch, channels, steps, kernel):
    inputs = tensors((batch, channels, steps), (4, channels, kernel), (4,))
    expected, out = F.conv1d(*inputs, padding=kernel // 2), cpu_training.convolve(*inputs)
    torch.testing.assert_close(out, expected)
    (towards,) = tensors(out.shape)
    theirs = torch.autograd.grad(expected, inputs, towards)
    for ours, other in zip(torch.autograd.grad(out, inputs, towards), theirs, strict=True):
        torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (3, 8), (2, 5)])
def test_a_norm_with_its_mish_and_their_gradients_are_those_of_torch(groups, batch, steps):
    x, weight, bias = tensors((batch, 12, steps), (12,), (12,))
    expected = F.mish(F.group_norm(x, groups, weight, bias))
    out = cpu_training.normalise_mish(x, groups, weight, bias, 1e-5)
    torch.testing.assert_close(out, expected)
    (towards,) = tensors(out.shape)
    theirs = torch.autograd.grad(expected, (x, weight, bias), towards)
    for ours, other in zip(torch.autograd.grad(out, (x, weight, bias), towards), theirs, strict=True):
        torch.testing.assert_close(ours, other)


def test_gradients_are_those_of_finite_differences():
    inputs = tensors((2, 4, 3), (4, 4, 5), (4,))
    assert torch.autograd.gradcheck(cpu_training.convolve, inputs)
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: cpu_training.normalise_mish(x, 2, weight, bias, 1e-5), tensors((2, 4, 3), (4,), (4,))
    )


def test_a_mish_of_large_numbers_and_a_norm_far_from_zero_keep_their_digits():
    x = torch.linspace(-1, 1, 64).reshape(1, 4, 16)
    weight, bias = torch.full((4,), 60.0), torch.zeros(4)
    expected = F.mish(F.group_norm(x.double(), 1, weight.double(), bias.double()))
    assert expected.max() > 100
    torch.testing.assert_close(cpu_training.normalise_mish(x, 1, weight, bias, 1e-5).double(), expected, **CLOSE)
    far = x + 1000
    expected = F.group_norm(far.double(), 1)
    out = cpu_training.normalise_mish(far, 1, torch.ones(4), torch.full((4,), 40.0), 1e-5)  # there, mish is linear
    torch.testing.assert_close(out.double() - 40, expected, rtol=1e-3, atol=1e-4)


CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def test_a_network_trains_by_these_layers_and_is_validated_by_those_of_torch(monkeypatch):
    torch.manual_seed(0)
    network = UNet1d(
        action_size=3, conditioning_shape=(2, 5), channels=(16, 24), kernel_size=5, groups=4, time_size=8, hidden=()
    ).double()
    noisy, conditioning = (tensor.detach() for tensor in tensors((4, 7, 3), (4, 2, 5)))
    t, calls = torch.rand(4).double(), []
    convolve = cpu_training.convolve

    def counted(*inputs):
        calls.append(inputs)
        return convolve(*inputs)

    monkeypatch.setattr(cpu_training, "convolve", counted)
    trained = network(noisy, t, conditioning)
    num_layers = len(calls)
    assert num_layers > 15
    by_these = torch.autograd.grad(trained.square().sum(), list(network.parameters()))
    evaluated = network.eval()(noisy, t, conditioning)
    assert len(calls) == num_layers
    torch.testing.assert_close(trained, evaluated)
    by_torch = torch.autograd.grad(evaluated.square().sum(), list(network.parameters()))
    for ours, other in zip(by_these, by_torch, strict=True):
        torch.testing.assert_close(ours, other)


def test_autocast_and_other_devices_keep_the_layers_of_torch():
    x = torch.zeros(1, 4, 3)
    assert cpu_training.serves(x)
    assert not cpu_training.serves(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not cpu_training.serves(x)
