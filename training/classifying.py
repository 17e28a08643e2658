"""Train a classifier of noisy chunks for guidance: does the episode of a chunk fulfil a condition?

Cost: an update encodes `batch_size` windows by the policy's encoder and passes them through three small layers. The
streams of the demonstrations are in memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoints.opening import load_policy
from ..configs.guiding import TrainClassifierConfig
from ..datasets.demonstrations import Demonstrations
from ..datasets.filters import matches, parse
from ..datasets.opening import open_demonstrations
from ..datasets.selection import facts_of_episodes
from ..datasets.windows import Windows, split_episodes
from ..files import check_writable, exclusive, whole_folder
from ..policy.classifier import Classifier
from ..policy.device import device as choose_device
from ..policy.diffusion import DiffusionPolicy
from ..policy.engines.pieces import check_diffusion
from ..policy.interface import Lesson
from ..progress import Progress
from .order import Order, mix_seeds

MOST_MEASURED = 2000
"""Most held-out windows that measure the accuracy."""


def train_classifier(config: TrainClassifierConfig) -> dict[str, str]:
    """Train and write the classifier; returns its accuracy in the held-out episodes, noise level -> text.

    Raises ValueError or OSError, before anything is written, if the policy does not denoise, if the demonstrations have
    other streams, or if all episodes fulfil the condition or none does.
    """
    out, device = Path(config.out), choose_device(config.device)
    check_writable(out)
    policy = check_diffusion(load_policy(config.run, which=config.checkpoint, device=device)[0])
    if not policy.has_noise:
        raise ValueError(f"{config.run} does not denoise, so nothing guides it: choose a run of policy=diffusion")
    demonstrations = open_demonstrations(config.dataset)
    check_streams(policy, demonstrations)
    holds = fulfilled(demonstrations, config.condition)
    training, held_out = split_episodes(len(demonstrations), held_out=config.held_out, seed=config.seed)
    windows = Windows(demonstrations, policy.horizons, device=device)
    torch.manual_seed(config.seed)
    classifier = Classifier(policy, size=config.size).to(device)
    with exclusive(out, "being written"):
        _fit(config, policy, classifier, windows.of(training), torch.tensor(holds, device=device))
        measured = _accuracy(config, policy, classifier, windows.of(held_out), holds)
        with whole_folder(out) as folder:
            notes = {"condition": config.condition, "run": config.run, "episodes": len(holds), "accuracy": measured}
            classifier.save(folder, policy, fulfilled=int(holds.sum()), **notes)
    return measured


def check_streams(policy: DiffusionPolicy, demonstrations: Demonstrations) -> None:
    """Raise ValueError unless the demonstrations have all streams of the policy."""
    for stream in policy.specification.streams:
        own = {own.name: own for own in demonstrations.specification.streams}.get(stream.name)
        if own is None or (own.shape, own.dtype) != (stream.shape, stream.dtype):
            raise ValueError(
                f"{demonstrations.path} must have the stream {stream.name!r} of the policy, {stream.shape} "
                f"{stream.dtype}: use demonstrations of the same task"
            )


def fulfilled(demonstrations: Demonstrations, condition: str) -> np.ndarray:
    """Whether each episode fulfils a condition, (N,). Raises ValueError if all do or none does."""
    holds = np.array([matches(parse(condition), row) for row in facts_of_episodes(demonstrations)])
    if holds.all() or not holds.any():
        raise ValueError(
            f"condition={condition} must hold in some episodes and not in others, but of {len(holds)} in "
            f"{demonstrations.path} it holds in {holds.sum()}: see recede inspect {demonstrations.path}"
        )
    return holds


def _fit(
    config: TrainClassifierConfig, policy: DiffusionPolicy, classifier: Classifier, windows: Windows, holds: Tensor
) -> None:
    order = Order(len(windows), config.batch_size, config.seed, windows.device)
    episodes = torch.from_numpy(windows.episode_of_each()).to(windows.device)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=config.learning_rate)
    with Progress(config.steps, "train classifier", unit="steps") as progress:
        for step in range(config.steps):
            indices = order.indices(step)
            logits = classifier.logits(policy, _lesson(policy, windows, indices, mix_seeds(config.seed, step)))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, holds[episodes[indices]].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress.advance(text=f"loss {loss.item():.3f}" if step % 100 == 0 else None)


@torch.no_grad()
def _accuracy(
    config: TrainClassifierConfig, policy: DiffusionPolicy, classifier: Classifier, windows: Windows, holds: np.ndarray
) -> dict[str, str]:
    """Noise level -> how often held-out windows are classified correctly, beside always giving the commoner answer.

    Intervals are of 95 %, by a bootstrap over the episodes. Without held-out episodes there is nothing to say.
    """
    if not len(windows):
        return {}
    indices = torch.linspace(0, len(windows) - 1, min(len(windows), MOST_MEASURED)).long()
    episodes = windows.episode_of_each()[indices]
    actual, names = holds[episodes], np.unique(episodes)
    draws = np.random.default_rng(0).choice(names, size=(1000, len(names)))
    measured = {"always the same answer": f"{100 * max(actual.mean(), 1 - actual.mean()):.0f} %"}
    for name, level in (("little noise", 0.0), ("half of the noise levels", 0.5), ("pure noise", 0.999)):
        lesson = _lesson(policy, windows, indices, config.seed, level=level)
        is_right = (classifier.logits(policy, lesson).cpu().numpy() > 0) == actual
        shares = {episode: is_right[episodes == episode].mean() for episode in names}
        low, high = np.quantile([np.mean([shares[episode] for episode in draw]) for draw in draws], [0.025, 0.975])
        mean = np.mean(list(shares.values()))
        measured[name] = f"{100 * mean:.0f} % [{100 * low:.0f}, {100 * high:.0f}] of {len(names)} episodes"
    return measured


def _lesson(
    policy: DiffusionPolicy, windows: Windows, indices: Tensor, seed: int, *, level: float | None = None
) -> Lesson:
    """Windows with noise of random levels, or of one level in [0, 1)."""
    batch, generator = windows.batch(indices), torch.Generator(windows.device).manual_seed(seed)
    noise = torch.randn(1, len(indices), *policy.noise_shape[1:], generator=generator, device=windows.device)
    uniform = torch.rand(1, len(indices), 1, generator=generator, device=windows.device)
    observation = {stream.name: batch.observation[stream.name] for stream in policy.specification.observations}
    return Lesson(observation, batch.action, noise, uniform if level is None else torch.full_like(uniform, level))
