"""Policies of one number a step, on Gaussian data whose right results are known, and a loop that trains them."""

from functools import partial

import numpy as np
import torch
from policies import USUAL
from recede.policy.denoising.levels import spaced
from recede.policy.denoising.prediction import SAMPLE
from recede.policy.denoising.sampling import Sampler, ddim, ddpm
from recede.policy.denoising.schedule import cosine
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.interface import Lesson
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons, Specification, Stream
from recede.training.ema import EMA
from torch import nn

SPECIFICATION = Specification((Stream("state", (1,)),), Stream("action", (1,)), control_dt=0.1)
HORIZONS = Horizons(observation=1, prediction=2, action=1)
RANGES = {name: (np.full(1, -1.0), np.full(1, 1.0)) for name in ("state", "action")}
SCHEDULE = cosine(20)
STD = 0.4
DDIM = partial(ddim, eta=0.0)


class State(nn.Module):
    """An encoder that passes the state on."""

    conditioning_shape, num_context, crop = (1, 1), 0, None

    def forward(self, observation):
        return observation["state"]


class MLP(nn.Module):
    """A network that takes both ends of its step."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, noisy, t, conditioning):
        return self.denoise(noisy, self.embed(t, t), self.condition(conditioning))

    def embed(self, now, then):
        return torch.stack([now, then], dim=-1) / 20

    def condition(self, conditioning):
        return conditioning[:, 0]

    def denoise(self, noisy, time, condition):
        steps = noisy.shape[1]
        inputs = [x[:, None].expand(-1, steps, -1) for x in (time, condition)]
        return self.layers(torch.cat([noisy, *inputs], dim=-1))


class Exact(MLP):
    """The best estimate of x_0 of mean `state` and standard deviation `STD`."""

    def embed(self, now, then):
        return torch.stack(SCHEDULE(now.long()), dim=-1)

    def denoise(self, noisy, time, condition):
        alpha, sigma = time[:, None].split(1, dim=-1)
        mean = condition[:, None]
        return mean + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (noisy - alpha * mean)


def policy(network, *, num_steps=10, solve=DDIM, **options):
    levels = spaced(SCHEDULE.levels, num_steps, "trailing")
    draws = num_steps if solve is ddpm else 0
    return DiffusionPolicy(
        SPECIFICATION,
        HORIZONS,
        normalizer=Normalizer(SPECIFICATION, RANGES),
        encoder=State(),
        network=network,
        schedule=SCHEDULE,
        prediction=SAMPLE,
        sampler=Sampler(solve, levels, num_draws=draws),
        **(USUAL | {"clip": 10.0} | options),
    )


def draw(made, rows=512, seed=1):
    draws, *shape = made.noise_shape
    return torch.randn(draws, rows, *shape, generator=torch.Generator().manual_seed(seed))


def state(rows=512, value=0.0):
    return {"state": torch.full((rows, 1, 1), value)}


def train(made, *, teacher=None, num_steps=400, mean=0.0):
    """A training loop like that of `recede train`, on actions around `mean`."""
    generator, optimizer = torch.Generator().manual_seed(0), torch.optim.AdamW(made.parameters(), lr=4e-3)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    average = EMA(made, power=0.75, maximum=0.98)
    for index in range(num_steps):
        action = mean + STD * torch.randn(256, 2, 1, generator=generator)
        lesson = Lesson(
            state(256, mean),
            action,
            torch.randn(1, 256, 2, 1, generator=generator),
            torch.rand(1, 256, made.num_uniforms, generator=generator),
            average=average.module,
            teacher=teacher,
            progress=torch.tensor(index / num_steps),
        )
        optimizer.zero_grad()
        made.loss(lesson).mean().backward()
        optimizer.step()
        rates.step()
        average.update(made, index + 1)
    return average.module
