"""Muon: orthogonal updates of large matrices, and AdamW for everything else."""

import pytest
import torch
from recede.configs.training import TrainConfig
from recede.training.muon import optimizer_of, orthogonal
from recede.training.parameters import parameter_groups
from torch import nn

RATE, DECAY, BETAS = 0.01, 0.1, (0.9, 0.99)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 64), (64, 200), (200, 64)])
def test_singular_values_come_near_one_and_their_vectors_stay(shape, dtype):
    """Whatever the size of the numbers, and also if the singular values differ a thousandfold."""
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, 64))[0] for size in shape)
    for scale in (1e-4, 1, 1e12):
        matrix = left @ torch.diag(torch.logspace(-3, 0, 64) * scale) @ right.T
        singular = (left.T @ orthogonal(matrix.to(dtype)).float() @ right).diagonal()
        large = torch.logspace(-3, 0, 64) > 0.02  # smaller ones have not yet grown to 1
        assert singular[large].min() > 0.6
        assert (singular > 0).all()
        assert (singular < 1.3).all()
        outside = orthogonal(matrix.to(dtype)).float() - left @ torch.diag(singular) @ right.T
        assert outside.norm() < (1e-4 if dtype is torch.float32 else 0.1) * singular.norm()


@pytest.mark.parametrize("scale", [0, 1e-38, 1e-25, 1e-12])
def test_what_has_no_gradient_any_more_comes_to_rest(scale):
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        assert orthogonal(scale * torch.randn(64, 65).to(dtype)).abs().max() <= 1e11 * scale


def layers():
    """Three large matrices, one of them a convolution, and what AdamW changes."""
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "linear": nn.Linear(80, 64),
            "tall": nn.Linear(64, 100),
            "convolution": nn.Conv1d(64, 96, 3),
            "small": nn.Linear(80, 63),
            "norm": nn.LayerNorm(64),
            "table": nn.Embedding(70, 70),
        }
    )


def muon(model, **changes):
    """The optimiser as a training makes it."""
    config = TrainConfig(dataset="data", out="runs", optimizer="muon", weight_decay=DECAY, betas=[*BETAS], **changes)
    return optimizer_of(config, model)


def changed(model, optimizer, *, updates=3):
    """The parameters after some updates by random gradients."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = RATE
        gradients = {p: torch.randn(p.shape, generator=generator) for p in model.parameters()}
        for parameter, gradient in gradients.items():
            parameter.grad = gradient.clone()
        held = {parameter: parameter.grad for parameter in gradients}
        optimizer.step()
        assert all(p.grad is held[p] for p in held), "a captured update writes into the same tensors"
        assert all(torch.equal(p.grad, gradient) for p, gradient in gradients.items())
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


LARGE = {"linear.weight", "tall.weight", "convolution.weight"}


def test_adamw_changes_all_but_large_matrices():
    ours, plain = layers(), layers()
    changes = changed(ours, muon(ours))
    adamw = torch.optim.AdamW(parameter_groups(plain, weight_decay=DECAY), betas=BETAS, fused=True)
    expected = changed(plain, adamw)
    assert {name for name in changes if not torch.equal(changes[name], expected[name])} == LARGE


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon since 2.9")
def test_large_matrices_change_as_by_torch():
    """Torch's own Muon, which takes no convolution: here it gets the matrix of one."""
    ours, theirs = layers(), layers()
    changes = changed(ours, muon(ours, precision="bf16"))
    flat = {name: nn.Parameter(theirs.get_parameter(name).detach().flatten(1)) for name in LARGE}
    options = {"weight_decay": DECAY, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
    optimizer, generator = torch.optim.Muon(flat.values(), lr=RATE, **options), torch.Generator().manual_seed(1)
    for _ in range(3):
        for name, parameter in theirs.named_parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            if name in LARGE:
                flat[name].grad = gradient.flatten(1)
        optimizer.step()
    for name, expected in flat.items():
        torch.testing.assert_close(changes[name].flatten(1), expected.detach(), rtol=0, atol=1e-6)


def test_a_matrix_without_a_gradient_stays():
    model = layers()
    model["linear"].requires_grad_(False)
    before = model["linear"].weight.clone()
    optimizer = muon(model)
    model["convolution"].weight.grad = torch.ones_like(model["convolution"].weight)
    optimizer.step()
    assert torch.equal(model["linear"].weight, before)
    assert torch.equal(model["small"].weight, layers()["small"].weight)
