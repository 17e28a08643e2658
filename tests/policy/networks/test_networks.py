"""Networks: promises that every network keeps."""

from functools import partial

import pytest
import torch
from recede.configs.choices import CHOICES
from recede.configs.components.networks import DiTConfig, TransformerConfig, UNet1dConfig
from representatives import representatives

MAX_STEPS = 20

NETWORKS = {
    "unet1d": UNet1dConfig(channels=[16, 24, 32], groups=4, time_size=8),
    "hidden": UNet1dConfig(channels=[16, 24], groups=4, time_size=8, hidden=[12, 10]),
    "transformer": TransformerConfig(num_layers=2, num_heads=2, size=16),
    "dit": DiTConfig(num_layers=2, num_heads=2, size=16),
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def network(request):
    """A network with weights as after some training: none is zero. Dropout is off."""
    torch.manual_seed(0)
    made = request.param.build(action_size=3, num_steps=MAX_STEPS, conditioning_shape=(2, 5)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return made


def inputs(batch=4, steps=16):
    generator = torch.Generator().manual_seed(1)
    noisy, conditioning = (
        torch.randn(batch, steps, 3, generator=generator),
        torch.randn(batch, 2, 5, generator=generator),
    )
    return noisy, torch.arange(batch) * 7, conditioning


def test_every_network_choice_is_tested():
    assert NETWORKS.keys() - {"hidden"} == CHOICES["policy/network"].keys()


@pytest.mark.parametrize("batch", representatives([1, 3], 3))
def test_a_chunk_of_any_length_keeps_its_shape(network, batch):
    for steps in range(1, MAX_STEPS + 1):
        with torch.no_grad():
            output = network(*inputs(batch, steps))
        assert output.shape == (batch, steps, 3)
        assert output.isfinite().all(), steps


def test_the_three_pieces_are_the_whole_network(network):
    """Bit for bit with one time per row, and closely with a time that all rows share."""
    noisy, t, conditioning = inputs()
    condition = network.condition(conditioning)
    assert len(condition) == 4
    assert torch.equal(network(noisy, t, conditioning), network.denoise(noisy, network.embed(t, t), condition))
    schedule = network.embed(torch.arange(10), torch.arange(10))
    assert len(schedule) == 10
    shared = schedule[7].expand(4, *schedule.shape[1:])
    output = network.denoise(noisy, shared, condition)
    torch.testing.assert_close(output, network(noisy, torch.full((4,), 7), conditioning), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 16])
def test_the_gradient_reaches_every_parameter(network, steps):
    network(*inputs(4, steps)).square().sum().backward()
    assert not [name for name, parameter in network.named_parameters() if not parameter.grad.any()]


def test_the_output_depends_on_every_input(network):
    noisy, t, conditioning = inputs(2)
    before = network(noisy, t, conditioning)
    assert ((network(noisy, t + 1, conditioning) - before).abs().amax(dim=(1, 2)) > 1e-5).all()
    for x, index in ((noisy, 0), (conditioning, 2)):
        for step in range(x.shape[1]):
            for dimension in range(x.shape[2]):
                changed = x.clone()
                changed[:, step, dimension] += 1
                arguments = [noisy, t, conditioning]
                arguments[index] = changed
                assert ((network(*arguments) - before).abs().amax(dim=(1, 2)) > 1e-5).all(), (index, step, dimension)


def test_rows_do_not_depend_on_one_another(network):
    noisy, t, conditioning = inputs(16)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    together = network(noisy, t, conditioning)
    assert torch.equal(network(noisy, t, conditioning), together)
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
    close(network(noisy[order], t[order], conditioning[order]), together[order])
    close(network(noisy[3:4], t[3:4], conditioning[3:4]), together[3:4])


def test_the_dtype_follows_the_weights(network):
    noisy, t, conditioning = inputs()
    single = network(noisy, t, conditioning)
    double = network.double()(noisy.double(), t, conditioning.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_times_between_integers_give_different_outputs(network):
    noisy, _, conditioning = inputs(2)
    outputs = torch.stack([network(noisy, torch.full((2,), t), conditioning) for t in (3.0, 3.5, 4.0, 90.0)])
    assert torch.pdist(outputs.flatten(1)).min() > 1e-3


@pytest.mark.slow
def test_a_network_learns(network):
    """It memorises one batch from its own initial weights."""
    noisy, t, conditioning = inputs(8, 8)
    target = torch.randn(8, 8, 3, generator=torch.Generator().manual_seed(2))
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        loss = (network(noisy, t, conditioning) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
