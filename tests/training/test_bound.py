"""The variational bound of held-out demonstrations, as a metric of a training."""

import math

import pytest
import torch
from policies import regression
from recede.checkpoints.opening import load_policy
from recede.checkpoints.runs import read_metrics, resolve_checkpoint
from recede.datasets.store import DemonstrationStore
from recede.datasets.windows import Windows
from recede.evaluation.reports.learning import learning
from recede.policy.likelihood import bound_rest, bound_terms
from recede.training.measures import held_out_bits


def test_the_bits_of_a_training_estimate_the_bound_over_all_levels(trained, reaches):
    policy, _ = load_policy(resolve_checkpoint(trained))
    windows = Windows(DemonstrationStore.open(reaches), policy.horizons)
    measured = held_out_bits(policy, windows, seed=0, most=64)
    assert held_out_bits(policy, windows, seed=0, most=64) == measured
    estimate = measured.pop("bits_per_dimension")
    batch = windows.batch(torch.linspace(0, len(windows) - 1, 64).long())
    num_levels = len(policy.schedule.levels) - 1
    noise = torch.randn(num_levels, 64, *policy.noise_shape[1:], generator=torch.Generator().manual_seed(1))
    level = torch.arange(num_levels)[:, None].expand(-1, 64)
    terms = bound_terms(policy, batch.observation, batch.action, noise=noise, level=level)
    rest = bound_rest(policy, batch.observation, batch.action).mean()
    assert estimate == pytest.approx((terms.mean(dim=1).sum() + rest).item(), rel=0.15)
    assert sum(measured.values()) == pytest.approx((estimate - rest).item(), rel=1e-4)
    of_each = terms.mean(dim=1).unflatten(0, (10, -1)).sum(dim=1)
    assert list(measured.values()) == pytest.approx(of_each.tolist(), rel=0.4, abs=0.05)


def test_a_training_notes_and_draws_the_bits_beside_the_error(trained):
    metrics = read_metrics(trained)
    measured = [entry for entry in metrics if "bits_per_dimension" in entry]
    assert [entry["step"] for entry in measured] == [entry["step"] for entry in metrics if "action_error" in entry]
    assert all(math.isfinite(entry["bits_per_dimension"]) for entry in measured)
    page = learning({"run": metrics})
    assert "Held-out variational bound" in page
    assert "Bound by noise level" in page


def test_a_policy_without_noise_has_no_bits():
    assert held_out_bits(regression(), None, seed=0) == {}
