"""Training windows: every piece of every demonstration that a policy learns from, gathered without a loop.

Shapes: B windows in a batch; To, Tp observation and prediction horizon; W windows in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..specification import Horizons, Stream
from .demonstrations import Demonstrations
from .frames import cache_folder, load_frames


class Batch(NamedTuple):
    """observation: a stream's name -> (B, To, ...); action (B, Tp, Da); is_padding (B, Tp), true beyond the episode."""

    observation: dict[str, Tensor]
    action: Tensor
    is_padding: Tensor


class Windows:
    """All windows of some demonstrations, with the streams held on one device.

    An episode of L steps has one window for each current step c = 0 ... L - Ta. It holds the steps c - To + 1 to
    c - To + Tp; so the executed steps of a window are never padding. Steps before the first or after the last one are
    padding. They repeat that step, as in the reference implementation, but an action is zero there in each dimension
    whose stream says `hold="zero"`. Only the To steps that are observed are gathered.

    Memory grows with the steps of the demonstrations and time with the batch, neither with Tp x W: a window is three
    numbers, not a copy.

    device: where the batches are, and the streams too, but for images that do not fit there: `frames` says where those
    are held (see `datasets.frames`).
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        horizons: Horizons,
        *,
        device: str | torch.device = "cpu",
        frames: str = "auto",
    ) -> None:
        self.horizons, self.device = horizons, torch.device(device)

        def held(stream: Stream) -> Tensor:
            if stream.is_image and len(demonstrations):
                return load_frames(demonstrations, stream, device=self.device, place=frames, cache=cache_folder())
            return torch.from_numpy(demonstrations.read(stream.name)).to(self.device)

        self.streams = {stream.name: held(stream) for stream in demonstrations.specification.streams}
        edges = np.concatenate([[0], demonstrations.episode_ends])
        self._bounds = np.stack([edges[:-1], edges[1:] - 1], axis=1)  # first and last step
        self.offsets = torch.arange(horizons.prediction, device=device) + 1 - horizons.observation
        is_zero = [hold == "zero" for hold in demonstrations.specification.action.hold]
        self._is_zero = torch.tensor(is_zero or False, device=device)
        self._select(range(len(self._bounds)))

    def of(self, episodes: Sequence[int]) -> Windows:
        """Only the windows of some episodes; the streams are shared, not copied."""
        chosen = copy(self)
        chosen._select(episodes)
        return chosen

    def _select(self, episodes: Sequence[int]) -> None:
        first, last = self._bounds[np.asarray(episodes, dtype=np.int64)].T
        counts = np.maximum(last - first + 2 - self.horizons.action, 0)
        starts = np.repeat(first, counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        columns = (starts + within, starts, np.repeat(last, counts))
        self.current, self.first, self.last = (torch.from_numpy(column).to(self.offsets.device) for column in columns)

    def __len__(self) -> int:
        """W, the number of windows."""
        return len(self.current)

    def batch(self, indices: Tensor) -> Batch:
        """Gather the windows `indices` (B,)."""
        indices = indices.to(self.current.device)
        wanted = self.current[indices, None] + self.offsets
        steps = torch.clamp(wanted, self.first[indices, None], self.last[indices, None])
        observed, is_padding = steps[:, : self.horizons.observation], wanted != steps
        return Batch(
            observation={name: self._rows(name, observed) for name in self.streams if name != "action"},
            action=self._rows("action", steps).masked_fill_(is_padding[..., None] & self._is_zero, 0),
            is_padding=is_padding,
        )

    def _rows(self, name: str, steps: Tensor) -> Tensor:
        """`streams[name][steps]` on the device, in half the time: rows are copied whole."""
        values = self.streams[name]
        rows = values.index_select(0, steps.flatten().to(values.device))
        return rows.to(self.device).unflatten(0, steps.shape)


def split(num_episodes: int, *, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Episodes to train on and episodes held out, both ascending: a share `held_out` of them, at least one.

    A single episode is not held out.

    >>> split(5, held_out=0.2, seed=0)
    ([0, 1, 3, 4], [2])
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"the share of episodes held out must be in [0, 1), got {held_out}")
    count = min(max(round(num_episodes * held_out), 1), num_episodes - 1) if held_out else 0
    order = np.random.default_rng(seed).permutation(num_episodes).tolist()
    return sorted(order[count:]), sorted(order[:count])
