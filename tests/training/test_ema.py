"""The moving average of weights, compared with closed forms, diffusers and a plain loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.training.ema import EMA
from torch import nn

USUAL = {"power": 0.75, "maximum": 0.9999}


class Counted(nn.Module):
    """Two parameters and two buffers of different dtypes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("count", torch.tensor(0))


def weights(number):
    torch.manual_seed(number)
    module = Counted()
    module.mean.fill_(number)
    module.count.fill_(number)
    return module


@settings(deadline=None)
@given(update=st.integers(1, 10**7), power=st.floats(0.1, 2), maximum=st.floats(0.01, 0.99999))
def test_the_decay_has_a_closed_form(update, power, maximum):
    decay = EMA(nn.Linear(1, 1), power=power, maximum=maximum).decay(update)
    assert decay == pytest.approx(min(1 - math.exp(-power * math.log(update)), maximum), abs=1e-12)
    assert 0 <= decay <= maximum


def test_the_decay_reaches_the_maximum():
    ema = EMA(nn.Linear(1, 1), **USUAL)
    assert [ema.decay(update) for update in (1, 16, 10_000, 10**6)] == pytest.approx([0, 0.875, 0.999, 0.9999])


def published(parameters):
    """The average of diffusers, configured as in Diffusion Policy."""
    from diffusers.training_utils import EMAModel  # seconds of imports, which the collection need not pay

    return EMAModel(parameters, decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)


def test_it_is_the_average_of_diffusers():
    """Decays and weights are equal in the updates in which the decay changes most."""
    ema, oracle = EMA(weights(0), **USUAL), published(list(weights(0).parameters()))
    for update in range(1, 60):
        module = weights(update)
        ema.update(module, update)
        oracle.step(module.parameters())
        assert ema.decay(update) == pytest.approx(oracle.cur_decay_value, abs=1e-12)
        for average, reference in zip(ema.module.parameters(), oracle.shadow_params, strict=True):
            torch.testing.assert_close(average, reference, rtol=0, atol=2e-6)


def test_it_is_one_update_ahead_of_the_reference():
    """The reference computes the decay with the formula of diffusers, but before it counts the update."""
    ema, oracle = EMA(nn.Linear(1, 1), **USUAL), published(list(nn.Linear(1, 1).parameters()))
    reference = [oracle.get_decay(count) for count in range(1000)]  # in the update after `count` of them
    assert [ema.decay(update) for update in range(1, 1000)] == pytest.approx(reference[1:], abs=1e-12)
    assert reference[:3] == pytest.approx([0, 0, 0.405], abs=1e-3)
    assert [ema.decay(update) for update in (1, 2, 3)] == pytest.approx([0, 0.405, 0.561], abs=1e-3)


def test_the_first_update_copies():
    ema, module = EMA(weights(0), **USUAL), weights(1)
    ema.update(module, 1)
    for name, value in module.state_dict().items():
        assert torch.equal(ema.module.state_dict()[name], value)


def test_it_is_a_plain_loop_over_every_parameter():
    ema = EMA(weights(0), power=0.6, maximum=0.8)
    expected = [parameter.detach().double() for parameter in weights(0).parameters()]
    for update in range(1, 30):
        module = weights(update)
        ema.update(module, update)
        decay = min(1 - update**-0.6, 0.8)
        expected = [
            decay * average + (1 - decay) * new for average, new in zip(expected, module.parameters(), strict=True)
        ]
    for average, target in zip(ema.module.parameters(), expected, strict=True):
        torch.testing.assert_close(average.double(), target.detach(), rtol=0, atol=1e-6)
    assert ema.module.mean.tolist() == [29, 29, 29]
    assert ema.module.count.item() == 29


def test_it_resumes_exactly_from_saved_weights():
    whole, half = EMA(weights(0), **USUAL), EMA(weights(0), **USUAL)
    for update in range(1, 11):
        whole.update(weights(update), update)
        half.update(weights(update), update)
    resumed = EMA(weights(100), **USUAL)
    resumed.module.load_state_dict(half.module.state_dict())
    for update in range(11, 21):
        whole.update(weights(update), update)
        resumed.update(weights(update), update)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], value)


def test_the_average_is_a_copy_in_evaluation_mode():
    module = weights(0)
    ema = EMA(module, **USUAL)
    module.linear.weight.data.add_(1)
    assert not torch.equal(ema.module.linear.weight, module.linear.weight)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(("power", "maximum"), [(0, 0.9), (-1, 0.9), (0.75, 0), (0.75, 1), (float("nan"), 0.9)])
def test_an_impossible_decay_is_refused(power, maximum):
    with pytest.raises(ValueError, match="power must be positive and the maximum decay between 0 and 1"):
        EMA(nn.Linear(1, 1), power=power, maximum=maximum)
