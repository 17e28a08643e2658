"""Noise that is coupled with chunks: the assignment of least cost, and straighter paths."""

import itertools

import pytest
import torch
from gaussians import Mixture
from policies import HORIZONS, RANGES, SPECIFICATION
from recede.configs.components.denoising import DDIMConfig, HeunConfig, RectifiedFlowConfig
from recede.configs.components.policies import DiffusionConfig
from recede.policy.denoising.coupling import optimal
from recede.policy.normalizer import Normalizer
from torch import nn


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cost(noise, x_0):
    return (noise - x_0).square().sum(dim=(-3, -2, -1))


def test_the_assignment_has_the_least_cost_of_all():
    noise, x_0 = randn(3, 6, 4, 2), randn(6, 4, 2, seed=1)
    coupled = optimal(noise, x_0)
    for drawn, chosen in zip(noise, coupled, strict=True):
        least = min(cost(drawn[list(order)], x_0) for order in itertools.permutations(range(6)))
        torch.testing.assert_close(cost(chosen, x_0), least)
        assert cost(chosen, x_0) < cost(drawn, x_0)
        assert sorted(map(tuple, chosen.flatten(1).tolist())) == sorted(map(tuple, drawn.flatten(1).tolist()))
    assert coupled.dtype == noise.dtype
    torch.testing.assert_close(optimal(coupled, x_0), coupled, rtol=0, atol=0)


def test_in_one_dimension_the_assignment_is_by_rank():
    noise, x_0 = randn(1, 100, 1, 1), randn(100, 1, 1, seed=1)
    ranks = optimal(noise, x_0)[0, :, 0, 0].argsort().argsort()
    assert torch.equal(ranks, x_0[:, 0, 0].argsort().argsort())


FOUR = Mixture([0.25] * 4, [[-0.7, -0.7], [0.7, -0.7], [-0.7, 0.7], [0.7, 0.7]], [0.05] * 4, dtype=torch.float32)


def learned(is_coupled, num_steps=400, batch=128):
    """A small network of the velocity from standard normal noise to four modes, trained with or without coupling."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))
    optimizer, generator = torch.optim.Adam(network.parameters(), 5e-3), torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        mode = torch.randint(4, (batch,), generator=generator)
        x_0 = FOUR.means[mode] + 0.05 * torch.randn(batch, 2, generator=generator)
        noise, tau = torch.randn(1, batch, 1, 2, generator=generator), torch.rand(batch, 1, generator=generator)
        epsilon = (optimal(noise, x_0[:, None]) if is_coupled else noise)[0, :, 0]
        velocity = network(torch.cat([tau * x_0 + (1 - tau) * epsilon, tau], dim=1))
        loss = (velocity - (x_0 - epsilon)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


@torch.no_grad()
def curvature(network, num_steps=50):
    """How far velocities are from the whole way, squared, as a share of that way (Liu et al. 2022, section 2.2).

    Also the distance of samples in one step from the nearest mode.
    """
    x = start = randn(1000, 2, seed=2)
    velocities = []
    for step in range(num_steps):
        velocities.append(network(torch.cat([x, torch.full((1000, 1), step / num_steps)], dim=1)))
        x = x + velocities[-1] / num_steps
    way = x - start
    bend = (torch.stack(velocities) - way).square().sum(dim=-1).mean() / way.square().sum(dim=-1).mean()
    return bend.item(), torch.cdist(start + velocities[0], FOUR.means).amin(dim=1).mean().item()


@pytest.mark.slow
def test_paths_between_known_laws_become_straighter():
    (bend, miss), (coupled_bend, coupled_miss) = curvature(learned(False)), curvature(learned(True))
    assert coupled_bend < 0.25 * bend
    assert coupled_miss < 0.5 * miss


FLOW = {"schedule": RectifiedFlowConfig(), "prediction": "velocity"}


def build(**options):
    return DiffusionConfig(**options).build(SPECIFICATION, HORIZONS, Normalizer(SPECIFICATION, RANGES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coupling": "optimum"}, "got 'optimum': did you mean 'optimal'"),
        ({"coupling": "optimal"}, "is for flows.*choose policy=flow"),
        (FLOW | {"coupling": "optimal", "sampler": DDIMConfig(eta=0.5)}, r"deterministic.*got one that adds 10 draws"),
    ],
)
def test_a_coupling_that_cannot_be_sampled_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_coupled_flow_is_a_policy_like_any_other():
    policy = build(**FLOW, coupling="optimal", sampler=HeunConfig())
    assert policy.sampler.num_draws == 0
