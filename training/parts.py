"""What one update learns from: windows, noise and augmentation, divided among processes and passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..policy.denoising.coupling import optimal
from ..policy.interface import Lesson, Policy
from .flops import loss_flops
from .gradients import Part, recompute_images
from .order import mix_seeds
from .prepared import Prepared
from .processes import ALONE, Processes

ROWS = 2
"""Windows whose FLOPs are counted. A norm over the batch would refuse one."""


def draw_parts(
    prepared: Prepared,
    average: Policy,
    indices: Tensor,
    step: int,
    generator: torch.Generator,
    processes: Processes = ALONE,
) -> list[Part]:
    """The parts of a batch that this process computes. indices: of the windows of the whole batch (B,).

    Noise, coupling and augmentation are those of the whole batch, and depend on (seed, step) and its windows alone.

    Raises ValueError if the batch cannot be divided evenly.
    """
    config, policy, windows, device = prepared.config, prepared.policy, prepared.windows, prepared.device
    generator.manual_seed(mix_seeds(config.seed, 1, step))
    size = (config.draws, len(indices))
    noise = torch.randn(*size, *policy.noise_shape[1:], generator=generator, device=device)
    if getattr(config.policy, "coupling", None) == "optimal":
        whole = windows.batch(indices)
        noise = optimal(noise, policy.space.at(whole.observation).encode(whole.action))
    uniform = torch.rand(*size, policy.num_uniforms, generator=generator, device=device)
    progress, state = torch.full((), step / prepared.stages[-1].steps, device=device), generator.get_state()
    counted = (~windows.is_padding(indices)).sum() if config.mask_padding else len(indices)
    parts = list[Part]()
    for rows in processes.shares(len(indices), config.accumulate):
        batch = windows.batch(indices[rows])
        generator.set_state(state)
        observation = prepared.augmentation(batch.observation, generator, rows=rows, size=len(indices))
        lesson = Lesson(
            observation, batch.action, noise[:, rows], uniform[:, rows], average, prepared.teacher, progress
        )
        own = (~batch.is_padding).sum() if config.mask_padding else len(batch.action)
        parts.append(Part(lesson, batch.is_padding, own / counted))
    return parts


def window_flops(prepared: Prepared, average: Any) -> float:
    """FLOPs of an update, for each window of its batch. average: see `Lesson.average`."""
    config = prepared.config
    indices, generator = torch.zeros(ROWS * config.accumulate, dtype=torch.int64), torch.Generator(prepared.device)
    [part, *_] = draw_parts(prepared, average, indices, 0, generator)
    if not config.gradient_checkpointing:
        return loss_flops(prepared.policy, part.lesson) / ROWS
    recompute_images(prepared.policy, is_on=False)
    count = loss_flops(prepared.policy, part.lesson)
    recompute_images(prepared.policy, is_on=True)
    return count / ROWS
