"""Measurements during training."""

import torch
from recede.training import measures


def test_the_masked_loss_is_the_mean_over_the_steps_that_count():
    torch.manual_seed(0)
    error, is_counted = torch.rand(4, 256, 16), torch.rand(256, 16) > 0.2
    expected = error.double()[:, is_counted].mean()
    assert abs(measures.mean_where(error, is_counted) - expected) < 1e-6
    error[:, ~is_counted] = torch.nan
    assert abs(measures.mean_where(error, is_counted) - expected) < 1e-6
