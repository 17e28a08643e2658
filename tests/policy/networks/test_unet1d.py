"""The temporal U-Net, against the published layout written out as functions of the same weights."""

import math
from itertools import pairwise

import pytest
import torch
from recede.policy.networks.embedding import TimeEmbedding
from recede.policy.networks.unet1d import Product, UNet1d
from torch.nn import functional as F


def small(channels=(16, 24, 32), **options):
    torch.manual_seed(0)
    sizes = {
        "action_size": 3,
        "conditioning_shape": (2, 5),
        "kernel_size": 5,
        "groups": 4,
        "time_size": 8,
        "hidden": (),
    }
    return UNet1d(channels=channels, **(sizes | options))


def inputs(batch, steps, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    noisy, conditioning = (
        torch.randn(batch, steps, 3, generator=generator),
        torch.randn(batch, 2, 5, generator=generator),
    )
    return noisy.to(dtype), torch.arange(batch) * 7, conditioning.to(dtype)


@pytest.mark.parametrize("channels", [(16,), (16, 24), (16, 24, 32), (16, 24, 32, 24)])
def test_a_chunk_of_any_length_keeps_its_shape(channels):
    network = small(channels)
    for steps in range(1, 21):
        with torch.no_grad():
            output = network(*inputs(2, steps))
        assert output.shape == (2, steps, 3)
        assert output.isfinite().all(), steps


def mixed(network):
    """How far the conditioning of two changes is from the sum of what each of them changes."""
    at = torch.zeros(4, 2, 5)
    at[1:, 0, 0], at[1, 0, 0], at[2:, 1, 3] = 1, 0, 2
    at[1, 1, 3], at[2, 1, 3] = 2, 0
    neither, one, other, both = network.condition(at).detach()
    return (both - one - other + neither).abs().max().item()


def test_only_hidden_layers_let_a_goal_decide_what_another_number_does():
    assert mixed(small()) < 1e-6
    assert mixed(small(hidden=(16,))) > 1e-3


def test_a_hidden_layer_is_the_product_of_two_linear_maps():
    layer, x = Product(3, 2).double(), torch.randn(4, 3, dtype=torch.float64)
    (value, gate), (offset, threshold) = layer.linear.weight.split(2), layer.linear.bias.split(2)
    torch.testing.assert_close(layer(x), (x @ value.T + offset) * (x @ gate.T + threshold), rtol=0, atol=1e-12)


def published(weights, noisy, t, conditioning, *, levels, groups, time_size):
    """The forward pass of Chi et al.'s U-Net, whose linear layers see time and conditioning together."""

    def embed(t):
        half = time_size // 2
        angles = t[:, None] * torch.exp(torch.arange(half, dtype=noisy.dtype) * -(math.log(10_000) / (half - 1)))
        x = torch.cat([angles.sin(), angles.cos()], dim=-1)
        x = F.mish(F.linear(x, weights["time.0.mlp.0.weight"], weights["time.0.mlp.0.bias"]))
        return F.linear(x, weights["time.0.mlp.2.weight"], weights["time.0.mlp.2.bias"])

    def convolve(x, name, **options):
        return F.conv1d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)

    def conv_block(x, name):
        x = convolve(x, f"{name}.0", padding=weights[f"{name}.0.weight"].shape[2] // 2)
        return F.mish(F.group_norm(x, groups, weights[f"{name}.1.weight"], weights[f"{name}.1.bias"]))

    def block(x, name, condition):
        out = conv_block(x, f"{name}.first")
        rows = slice(block.row, block.row + 2 * out.shape[1])  # the matrix holds the blocks in the order of the pass
        block.row = rows.stop
        joined = torch.cat([weights["time.2.weight"][rows], weights["conditioning.2.weight"][rows]], dim=1)
        embedded = F.linear(F.mish(condition), joined, weights["time.2.bias"][rows])
        scale, bias = embedded.reshape(len(x), 2, out.shape[1], 1).unbind(1)
        out = conv_block(scale * out + bias, f"{name}.second")
        return out + (convolve(x, f"{name}.skip") if f"{name}.skip.weight" in weights else x)

    block.row = 0
    condition = torch.cat([embed(t), conditioning.flatten(1)], dim=-1)
    x, passed = noisy.transpose(1, 2), []
    for level in range(levels):
        x = block(block(x, f"down.{level}.0", condition), f"down.{level}.1", condition)
        passed.append(x)
        if level < levels - 1:
            x = convolve(x, f"downsample.{level}", stride=2, padding=1)
    x = block(block(x, "middle.0", condition), "middle.1", condition)
    for level in range(levels - 1):
        x = torch.cat([x, passed.pop()], dim=1)
        x = block(block(x, f"up.{level}.0", condition), f"up.{level}.1", condition)
        name = f"upsample.{level}"
        x = F.conv_transpose1d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2, padding=1)
    return convolve(conv_block(x, "head.0"), "head.1").transpose(1, 2)


@pytest.mark.parametrize("channels", [(16,), (16, 24), (16, 24, 32), (16, 24, 32, 24)])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_the_network_is_the_published_one(channels, kernel_size):
    network = small(channels, kernel_size=kernel_size).double()
    arguments = inputs(4, 16, torch.float64)
    weights = network.state_dict()
    expected = published(weights, *arguments, levels=len(channels), groups=4, time_size=8)
    torch.testing.assert_close(network(*arguments), expected, rtol=0, atol=1e-6)  # float32 time frequencies


def test_padding_is_zeros_at_the_end():
    network = small()
    noisy, t, conditioning = inputs(2, 13)
    padded = torch.cat([noisy, torch.zeros(2, 3, 3)], dim=1)
    torch.testing.assert_close(network(noisy, t, conditioning), network(padded, t, conditioning)[:, :13])


def test_the_network_of_the_paper_has_its_number_of_parameters():
    with torch.device("meta"):
        network = small((256, 512, 1024), action_size=2, conditioning_shape=(2, 20), groups=8, time_size=256)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == counted([2, 256, 512, 1024], 5, 256, 40) == 65_783_298


def counted(widths, kernel, time_size, conditioning_size):
    """Parameters of the published layout, counted by its formula."""

    def linear(a, b, width=1):
        return a * b * width + b

    def block(a, b):
        convolutions = linear(a, b, kernel) + linear(b, b, kernel) + 4 * b
        return convolutions + linear(time_size + conditioning_size, 2 * b) + (linear(a, b) if a != b else 0)

    pairs = list(pairwise(widths))
    total = linear(time_size, 4 * time_size) + linear(4 * time_size, time_size)
    total += sum(block(a, b) + block(b, b) for a, b in pairs) + 2 * block(widths[-1], widths[-1])
    total += sum(linear(width, width, 3) for width in widths[1:-1])
    total += sum(block(2 * b, a) + block(a, a) + linear(a, a, 4) for a, b in pairs[1:])
    return total + linear(widths[1], widths[1], kernel) + 2 * widths[1] + linear(widths[1], widths[0])


@pytest.mark.parametrize("channels", [(16,), (16, 24, 32)])
@pytest.mark.parametrize("steps", [1, 16])
def test_the_gradient_reaches_every_parameter(channels, steps):
    network = small(channels)
    network(*inputs(4, steps)).square().sum().backward()
    assert not [name for name, parameter in network.named_parameters() if not parameter.grad.any()]


def test_embeddings_of_different_times_differ():
    embedded = TimeEmbedding(16)(torch.arange(100))
    assert torch.pdist(embedded).min() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": ()}, r"at least one level.*got \(\)"),
        ({"channels": (16, 18)}, r"multiple of groups=4.*got \(16, 18\)"),
        ({"channels": (0,)}, r"multiple of groups=4.*got \(0,\)"),
        ({"kernel_size": 4}, "kernel_size.*odd.*got 4"),
        ({"kernel_size": -1}, "kernel_size.*odd.*got -1"),
        ({"time_size": 7}, "even number of at least 4, got 7"),
        ({"time_size": 2}, "even number of at least 4, got 2"),
    ],
)
def test_an_impossible_network_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
