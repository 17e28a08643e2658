"""A training whose noise is coupled with its chunks."""

import torch
from recede.configs.components.denoising import DDIMConfig, RectifiedFlowConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.configs.training import TrainConfig
from recede.policy.denoising.coupling import optimal
from recede.training.loop import prepare
from recede.training.parts import draw_parts


def lesson(reaches, tmp_path, coupling):
    network = UNet1dConfig(channels=[16, 32], time_size=16)
    parts = {"network": network, "schedule": RectifiedFlowConfig(), "sampler": DDIMConfig(num_steps=4)}
    policy = DiffusionConfig(**parts, prediction="velocity", coupling=coupling)
    options = {"dataset": str(reaches), "out": str(tmp_path / "run"), "device": "cpu", "batch_size": 16, "draws": 2}
    prepared = prepare(TrainConfig(policy=policy, **options))
    [part] = draw_parts(prepared, prepared.policy, torch.arange(16), 3, torch.Generator())
    return part.lesson, prepared.policy.space.encode(part.lesson.action)


def test_a_coupled_lesson_has_the_noise_of_an_independent_one_in_the_order_of_least_cost(reaches, tmp_path):
    independent, x_0 = lesson(reaches, tmp_path, "independent")
    coupled, _ = lesson(reaches, tmp_path, "optimal")
    assert torch.equal(coupled.noise, optimal(independent.noise, x_0))
    assert not torch.equal(coupled.noise, independent.noise)
    assert torch.equal(coupled.uniform, independent.uniform)
