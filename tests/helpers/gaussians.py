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


class Mixture:
    """A mixture of normal laws of x_0 in D dimensions, each of one standard deviation in all directions.

    weights, stds: (K,). means: (K, D). x is (..., D). The alpha and sigma of a level are numbers, or one for each x.
    """

    def __init__(self, weights, means, stds, dtype=torch.float64):
        self.weights, self.means, self.stds = (torch.tensor(x, dtype=dtype) for x in (weights, means, stds))

    def _joint(self, x, level):
        """Logarithms of the densities (..., K) of x at a level together with its components, and their variances."""
        alpha, sigma = (torch.as_tensor(value, dtype=x.dtype)[..., None] for value in (level.alpha, level.sigma))
        variances = (alpha * self.stds) ** 2 + sigma**2
        distance = (x[..., None, :] - alpha[..., None] * self.means).square().sum(dim=-1)
        constant = x.shape[-1] / 2 * torch.log(2 * math.pi * variances)
        return self.weights.log() - distance / (2 * variances) - constant, variances

    def log_density(self, x, level):
        """The logarithm of the density of x at a level, (...)."""
        return self._joint(x, level)[0].logsumexp(dim=-1)

    def denoise(self, x, now, then):
        """The exact denoiser E[x_0 | x_t]."""
        joint, variances = self._joint(x, now)
        alpha = torch.as_tensor(now.alpha, dtype=x.dtype)[..., None]
        gains = alpha * self.stds**2 / variances
        towards = self.means + gains[..., None] * (x[..., None, :] - alpha[..., None] * self.means)
        return (joint.softmax(dim=-1)[..., None] * towards).sum(dim=-2)

    @property
    def mean(self):
        return self.weights @ self.means

    @property
    def covariance(self):
        spread = self.means - self.mean
        return (self.weights * self.stds**2).sum() * torch.eye(len(self.mean)) + spread.T @ (
            self.weights[:, None] * spread
        )

    def shares(self, x):
        """The share of the samples (N, D) that are nearest to the mean of each component."""
        nearest = torch.cdist(x, self.means).argmin(dim=-1)
        return nearest.bincount(minlength=len(self.means)) / len(x)
