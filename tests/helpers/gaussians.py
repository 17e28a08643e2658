"""Gaussians with exact denoisers, and the law of what a sampler makes of them."""

import math

import torch
from recede.policy.denoising.levels import NoiseLevel

MEAN = 0.3


def gaussian(std, mean=MEAN):
    """The exact denoiser E[x_0 | x_t] of a normal x_0."""

    def denoise(x, now, then):
        gain = now.alpha * std**2 / (now.alpha**2 * std**2 + now.sigma**2)
        return mean + gain * (x - now.alpha * mean)

    return denoise


def law(sampler, std):
    """Error of the mean, and ratio of the spread to the true one. Exact, because the sampler is an affine map."""
    draws = 1 + sampler.num_draws
    noise = torch.zeros(draws, 1 + draws, 1, 1, dtype=torch.float64)
    noise[:, 1:, 0, 0] = torch.eye(draws)
    centre, *moved = sampler.solve(gaussian(std), noise, sampler.levels).flatten().tolist()
    return centre - MEAN, math.hypot(*(end - centre for end in moved)) / std


def cosine_path(share):
    """A level of the cosine path in continuous time, from data at 0 to pure noise at 1."""
    return NoiseLevel(share, math.cos(share * math.pi / 2) if share < 1 else 0.0, math.sin(share * math.pi / 2))


def straight_path(share):
    """A level of the path of a rectified flow in continuous time."""
    return NoiseLevel(share, 1 - share, share)


def along(path, num_steps, begin=1.0, end=0.0):
    """N + 1 levels of a path, even in its time."""
    return tuple(path(begin + (end - begin) * index / num_steps) for index in range(num_steps + 1))


def carried(z, std, level):
    """Where the probability flow of the Gaussian carries the standard normal z."""
    return level.alpha * MEAN + math.hypot(level.alpha * std, level.sigma) * z
