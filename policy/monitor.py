"""How doubtful a chunk is: numbers that foretell a failure, computed beside each prediction.

| monitor | what it measures | after |
|---|---|---|
| `disagreement` | how far chunks from other noise lie from one another | Agia et al. 2024 |
| `denoising` | how badly the policy denoises its own chunk: the steps of the variational bound | Lee et al. 2024 |
| `distance` | how far the observation lies from the demonstrations, in features of the encoder | Breunig et al. 2000 |
| `stillness` | how little the chunk moves the robot | |

The larger a number, the more doubtful the chunk. Alarms are calibrated by successful episodes; see `alarm_above`.

Cost of one chunk, beside its prediction: `SAMPLES` more rows in a batch of predictions, `LEVELS` rows of one evaluation
of the network, one encoding and W distances. Only the monitors that are named are computed.

Shapes: B chunks; To, Tp observation and prediction horizon; Da size of the action; L rows of size Dz of x_0; W windows
of F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import interpreting
from ..specification import nearest
from .diffusion import DiffusionPolicy
from .engines.interface import Engine
from .engines.wrapping import WrappingEngine
from .interface import Observation
from .likelihood import bound_terms
from .requests import Request, batch
from .stillness import travel
from .weights import digest_of, read_part, write_part

SAMPLES = 8
"""Chunks that are compared for `disagreement`, without the one that is executed."""

LEVELS = 8
"""Noise levels at which `denoising` is measured, at even distances."""

NEIGHBOURS = 5
"""The nearest windows of the demonstrations to which `distance` is the mean distance."""

ROWS = 512
"""Windows whose distances from all others are computed at once."""

TINY = 1e-6
"""The least distance, so that equal windows have none that is zero."""

MOST_WINDOWS = 4096
"""The most windows of the demonstrations that are kept."""

NAMES = ("disagreement", "denoising", "distance", "stillness")

NAME = "monitors"
"""The name of the files of a calibration."""

REMEDY = "calibrate the monitors again with recede evaluate RUN monitors=true"


@dataclass(frozen=True)
class Features:
    """What the encoder makes of the demonstrations."""

    mean: Tensor
    """(F,)."""
    std: Tensor
    """(F,)."""
    rows: Tensor
    """(W, F), less the mean, in standard deviations."""
    spread: Tensor
    """(W,): the mean distance of each window to the `NEIGHBOURS` nearest windows of other episodes."""

    @classmethod
    @torch.no_grad()
    def of(cls, policy: DiffusionPolicy, observations: Iterable[Observation], episodes: Sequence[int]) -> Features:
        """The features of batches of observed windows, on any device.

        A feature that hardly varies counts as if it varied by a hundredth of the one that varies most.

        episodes: (W,), of each window. Raises ValueError if there is only one, which says nothing of others.
        """
        if len(set(episodes)) < 2:
            raise ValueError("the monitor distance needs demonstrations of two episodes or more, got one: name others")
        device = policy.normalizer.action_std.device
        parts = [policy.encode(_on(device, observation)).flatten(1) for observation in observations]
        values = torch.cat(parts)
        std = values.std(dim=0, correction=0)
        std = std.clamp_min(max(0.01 * std.max().item(), torch.finfo(std.dtype).tiny))
        rows = (values - values.mean(dim=0)) / std
        owner = torch.tensor(episodes, device=device)
        spread = torch.cat([_nearest(some, rows, own[:, None] == owner)[0] for some, own in _batches(rows, owner)])
        return cls(values.mean(dim=0), std, rows, spread)

    def distance(self, values: Tensor) -> Tensor:
        """The distance (B,) of features (B, F) from the `NEIGHBOURS` nearest windows, as a multiple of their `spread`.

        So it is about 1 where demonstrations are as far from one another, be they dense or sparse there (a local
        outlier factor, Breunig et al. 2000).
        """
        distance, places = _nearest((values - self.mean) / self.std, self.rows)
        return distance / self.spread[places].mean(dim=1)


def _nearest(values: Tensor, rows: Tensor, is_excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The mean distance (B,) to the nearest rows, and their places (B, `NEIGHBOURS`).

    A distance is the root of the mean square over the features.
    """
    distances = torch.cdist(values, rows) / math.sqrt(rows.shape[1])
    if is_excluded is not None:
        distances = distances.masked_fill(is_excluded, torch.inf)
    least = distances.topk(min(NEIGHBOURS, len(rows)), largest=False)
    is_finite = least.values.isfinite()
    return (least.values.nan_to_num(posinf=0).sum(dim=1) / is_finite.sum(dim=1)).clamp_min(TINY), least.indices


def _batches(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of `ROWS` rows."""
    return zip(*(tensor.split(ROWS) for tensor in tensors), strict=True)


class Monitor:
    """Computes monitors of chunks.

    policy: trained. engine: runs the policy, on any device. features: of the demonstrations; without them there is no
    `distance`. names: the monitors to compute; None for all that the policy has.

    Raises ValueError for a monitor that the policy does not have.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        engine: Engine,
        *,
        features: Features | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.policy, self.engine, self.features = policy, engine, features
        missing = lacking(policy, has_features=features is not None)
        for name in names or ():
            if name not in NAMES:
                raise ValueError(f"there is no monitor {name!r}: {nearest(name, NAMES)}")
            if name in missing:
                raise ValueError(f"the policy has no monitor {name!r}: {missing[name]}")
        self.names = tuple(names or (name for name in NAMES if name not in missing))
        self._device = policy.normalizer.action_std.device
        self._half_range = policy.normalizer.affine("action").half_range.cpu().numpy().astype(np.float64)
        rng = np.random.default_rng(0)
        self._noise = rng.standard_normal((SAMPLES, *engine.noise_shape), np.float32)
        levels = (np.arange(LEVELS) + 0.5) / LEVELS * (len(policy.schedule.levels) - 1)
        self._levels = torch.from_numpy(levels.astype(np.int64)).to(self._device)
        self._bound_noise = torch.from_numpy(rng.standard_normal((LEVELS, 1, *engine.noise_shape[1:]), np.float32)).to(
            self._device
        )

    def __call__(self, requests: Sequence[Request], chunks: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
        """Monitor -> (B,), a number for each request and its chunk.

        requests: B of one kind. chunks: (B, Tp, Da) in units. The same noise serves all chunks, so a number changes
        only with what it is computed from.
        """
        return {name: self.compute(name, requests, chunks) for name in self.names}

    def compute(self, name: str, requests: Sequence[Request], chunks: NDArray[Any]) -> NDArray[np.float64]:
        """One of its monitors; see `__call__`."""
        compute: Mapping[str, Callable[[Sequence[Request], NDArray[Any]], NDArray[Any]]] = {
            "disagreement": self._disagreement,
            "denoising": self._denoising,
            "distance": self._distance,
            "stillness": self._stillness,
        }
        return compute[name](requests, chunks).astype(np.float64)

    def _disagreement(self, requests: Sequence[Request], chunks: NDArray[Any]) -> NDArray[Any]:
        """The standard deviation of executed actions over chunks, in half ranges; root of the mean square."""
        observation, guidance = batch([request for request in requests for _ in range(SAMPLES)])
        noise = np.concatenate([self._noise] * len(requests)).swapaxes(0, 1)
        others = self.engine.predict(observation, noise, guidance).reshape(len(requests), SAMPLES, *chunks.shape[1:])
        rows = np.concatenate([chunks[:, None], others], axis=1)[:, :, self.engine.horizons.executed]
        is_moving = self._half_range > 0
        std = rows[..., is_moving].astype(np.float64).std(axis=1) / self._half_range[is_moving]
        return np.sqrt(np.square(std).mean(axis=(1, 2)))

    def _denoising(self, requests: Sequence[Request], chunks: NDArray[Any]) -> NDArray[Any]:
        """The sum of the steps of the variational bound, in bits per dimension, estimated at `LEVELS` of them."""
        noise = self._bound_noise.expand(-1, len(requests), -1, -1)
        level = self._levels[:, None].expand(-1, len(requests))
        chunk = torch.from_numpy(np.ascontiguousarray(chunks, np.float32)).to(self._device)
        terms = bound_terms(self.policy, self._observed(requests), chunk, noise=noise, level=level)
        return ((len(self.policy.schedule.levels) - 1) * terms.mean(dim=0)).cpu().numpy()

    @torch.no_grad()
    def _distance(self, requests: Sequence[Request], chunks: NDArray[Any]) -> NDArray[Any]:
        assert self.features is not None
        return self.features.distance(self.policy.encode(self._observed(requests)).flatten(1)).cpu().numpy()

    def _stillness(self, requests: Sequence[Request], chunks: NDArray[Any]) -> NDArray[Any]:
        """Minus the travel from the current step on, in ranges."""
        ahead = chunks[:, self.engine.horizons.observation - 1 :]
        return -travel(ahead, 2 * self._half_range, self.engine.specification.action.hold)

    def _observed(self, requests: Sequence[Request]) -> Observation:
        observation, _ = batch(requests)
        whole = self.engine.whole(observation) if isinstance(self.engine, WrappingEngine) else observation
        return _on(self._device, {name: torch.from_numpy(np.asarray(values)) for name, values in whole.items()})


def lacking(policy: DiffusionPolicy, *, has_features: bool) -> dict[str, str]:
    """Monitor -> why the policy does not have it."""
    missing = dict[str, str]()
    if not policy.has_noise:
        missing |= dict.fromkeys(("disagreement", "denoising"), "it predicts without noise")
    elif policy.has_teacher:
        missing["denoising"] = "it was distilled, so its steps are no estimates of the chunk"
    if not has_features:
        missing["distance"] = "name the demonstrations that it was trained on with dataset="
    return missing


def _on(device: torch.device, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.to(device) for name, values in observation.items()}


def alarm_above(largest: Sequence[float], false_alarms: float) -> float | None:
    """The number above which a chunk raises an alarm; None if there are too few episodes to tell.

    In a new successful episode, an alarm is raised with a probability of at most `false_alarms`, if it is as the others
    were: split conformal prediction (Vovk et al. 2005; Xu et al. 2025 for policies).

    largest: the largest number of each of n successful episodes. false_alarms: in (0, 1).

    >>> alarm_above(range(1, 20), 0.05), alarm_above(range(1, 20), 0.1), alarm_above(range(1, 19), 0.05)
    (19, 18, None)
    """
    place = math.ceil(round((len(largest) + 1) * (1 - false_alarms), 9))
    return sorted(largest)[place - 1] if place <= len(largest) else None


def fewest(false_alarms: float) -> int:
    """The fewest successful episodes by which `alarm_above` can be calibrated.

    >>> fewest(0.05), fewest(0.1)
    (19, 9)
    """
    return math.ceil(round(1 / false_alarms - 1, 9))


class Alarm:
    """Judges single chunks by one monitor.

    monitor: computes it alone. largest: its largest number in each of some successful episodes. false_alarms: see
    `alarm_above`. Raises ValueError if there were too few episodes.
    """

    def __init__(self, monitor: Monitor, largest: Sequence[float], *, false_alarms: float) -> None:
        (self.name,), self.monitor, self._largest = monitor.names, monitor, np.array(largest)
        limit = alarm_above(largest, false_alarms)
        if limit is None:
            raise ValueError(
                f"false_alarms={false_alarms:g} needs monitors that {fewest(false_alarms)} successful episodes "
                f"calibrated, got {len(largest)}: evaluate more episodes, or accept more false_alarms="
            )
        self.above = limit

    def __call__(self, request: Request, chunk: NDArray[Any]) -> tuple[float, bool]:
        """The share of the successful episodes whose largest number is below that of a chunk (Tp, Da); and whether it
        raises an alarm.
        """
        number = self.monitor([request], chunk[None])[self.name].item()
        return float((self._largest < number).mean()), number > self.above


@dataclass(frozen=True)
class Calibration:
    """What decides when a monitor of a policy raises an alarm."""

    largest: Mapping[str, Sequence[float]]
    """Monitor -> its largest number in each successful episode."""
    features: Features | None
    """Of the demonstrations, if they were at hand."""
    notes: Mapping[str, Any]
    """How the episodes were run, as JSON."""

    def save(self, folder: Path, policy: DiffusionPolicy) -> None:
        """Write `monitors.json` and `monitors.safetensors` into an existing folder."""
        tensors = {} if self.features is None else vars(self.features)
        write_part(folder, NAME, tensors, policy=digest_of(policy), largest=self.largest, notes=self.notes)

    @classmethod
    def load(cls, folder: Path, policy: DiffusionPolicy) -> Calibration:
        """The calibration of a folder, on the device of the policy.

        Raises FileNotFoundError if there is none, and ValueError if it is damaged or of another policy.
        """
        content, tensors = read_part(folder, NAME, remedy=REMEDY)
        with interpreting(folder, REMEDY):
            if content["policy"] != digest_of(policy):
                raise ValueError(f"{folder} holds the monitors of another policy: {REMEDY}")
            device = policy.normalizer.action_std.device
            features = Features(**_on(device, tensors)) if tensors else None
            return cls(content["largest"], features, content["notes"])
