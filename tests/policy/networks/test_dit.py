"""The diffusion transformer against its blocks, written out with a softmax and complex numbers; its initial weights."""

import math

import pytest
import torch
from recede.policy.networks.dit import DiT, rotary, turn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode


def small(**options):
    torch.manual_seed(0)
    options = {"action_size": 3, "conditioning_shape": (2, 5), "num_layers": 2, "num_heads": 2, "size": 16} | options
    return DiT(**options)


def awake(**options):
    network = small(**options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return network


def inputs(batch=4, steps=7, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    noisy, conditioning = (
        torch.randn(batch, steps, 3, generator=generator),
        torch.randn(batch, 2, 5, generator=generator),
    )
    return noisy.to(dtype), torch.arange(batch) * 7, conditioning.to(dtype)


def written_out(weights, noisy, t, conditioning, *, layers=2, heads=2, size=16):
    """The forward pass from the papers: one modulation MLP over time and conditioning, attention a head at a time."""

    def linear(x, name):
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def silu(x):
        return x / (1 + torch.exp(-x))

    def normalised(x):
        return (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, keepdim=True, unbiased=False) + 1e-6).sqrt()

    def attention(x, name):
        width, out = size // heads, []
        projected = linear(x, f"{name}.query_key_value")
        angles = torch.arange(x.shape[1])[:, None] * 10_000.0 ** -(torch.arange(width // 2) / (width // 2))
        for head in range(heads):
            q, k, v = (projected[..., part * size + head * width :][..., :width] for part in range(3))
            q, k = (torch.complex(*part.chunk(2, dim=-1)) * torch.exp(1j * angles) for part in (q, k))
            scores = (q @ k.conj().transpose(1, 2)).real / math.sqrt(width)
            out.append(scores.softmax(dim=-1) @ v)
        return linear(torch.cat(out, dim=-1), f"{name}.output")

    half = size // 2
    angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
    time = F.mish(linear(torch.cat([angles.sin(), angles.cos()], dim=-1).to(noisy), "time.0.mlp.0"))
    time = linear(time, "time.0.mlp.2")
    condition = linear(silu(linear(conditioning.flatten(1), "conditioning.1")), "conditioning.3")
    modulation = (linear(silu(time), "time.2") + linear(silu(condition), "conditioning.5"))[:, None]
    x = linear(noisy, "action")
    for layer in range(layers):
        own = modulation[..., 6 * size * layer : 6 * size * (layer + 1)]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = own.split(size, dim=-1)
        x = x + gate * attention(normalised(x) * (1 + scale) + shift, f"blocks.{layer}")
        hidden = linear(normalised(x) * (1 + mlp_scale) + mlp_shift, f"blocks.{layer}.expand")
        hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        x = x + mlp_gate * linear(hidden, f"blocks.{layer}.contract")
    shift, scale = modulation[..., 6 * size * layers :].split(size, dim=-1)
    return linear(normalised(x) * (1 + scale) + shift, "head")


@pytest.mark.parametrize("steps", [1, 7, 16])
def test_the_network_is_that_of_the_papers(steps):
    network = awake().double()
    arguments = inputs(steps=steps, dtype=torch.float64)
    expected = written_out(network.state_dict(), *arguments)
    torch.testing.assert_close(network(*arguments), expected, rtol=0, atol=2e-5)  # float32 frequencies


def test_untrained_blocks_are_the_identity_and_the_output_is_zero():
    network = small()
    noisy, t, conditioning = inputs()
    assert not network(noisy, t, conditioning).any()
    modulation = (network.embed(t, t) + network.condition(conditioning))[:, None, : 6 * 16]
    x = torch.randn(4, 7, 16)
    for block in network.blocks:
        assert torch.equal(block(x, modulation, rotary(7, network.frequencies)), x)


def test_every_weight_learns_although_some_start_at_zero():
    """The head learns first, then its inputs, then everything behind the gates."""
    network, arguments = small(), inputs()
    target = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(2))
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        (network(*arguments) - target).square().sum().backward()
        optimizer.step()
    assert not [name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])]


def test_the_product_of_turned_vectors_depends_on_the_difference_of_their_steps():
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    frequencies = torch.tensor([1.0, 0.3, 0.1, 0.01], dtype=torch.float64)
    queries, keys = (turn(x.expand(12, 8), rotary(12, frequencies)) for x in (query, key))
    products = queries @ keys.T
    for difference in range(-11, 12):
        diagonal = products.diagonal(difference)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    torch.testing.assert_close(queries[:1], query)
    torch.testing.assert_close(queries.norm(dim=1), query.norm().expand(12))
    assert products[0].diff().abs().min() > 1e-3


def test_the_order_of_the_steps_counts():
    network = awake()
    noisy, t, conditioning = inputs()
    output = network(noisy.flip(1), t, conditioning).flip(1)
    assert (output - network(noisy, t, conditioning)).abs().max() > 1e-2


def test_every_step_sees_every_other():
    network = awake()
    noisy, t, conditioning = inputs()
    before = network(noisy, t, conditioning)
    for step in range(7):
        changed = noisy.clone()
        changed[:, step] += 1
        assert ((network(changed, t, conditioning) - before).abs().amax(dim=2) > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 15}, "size must be a multiple of num_heads=2, got 15"),
        ({"size": 6}, "even multiple of num_heads=2.*got 6"),
        ({"num_layers": 0}, "at least 1, got 0 and 2"),
        ({"num_heads": 0}, "at least 1, got 2 and 0"),
    ],
)
def test_an_impossible_network_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


class Cosines(TorchDispatchMode):
    """Counts cosines."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name == "aten::cos"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("num_layers", [1, 3])
def test_all_blocks_turn_by_the_same_cosines(num_layers):
    network, (noisy, t, conditioning) = small(num_layers=num_layers), inputs()
    time, condition = network.embed(t, t), network.condition(conditioning)
    with Cosines() as cosines:
        network.denoise(noisy, time, condition)
    assert cosines.count == 1
