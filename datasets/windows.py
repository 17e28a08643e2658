"""Training windows: all pieces of all demonstrations that a policy learns from, gathered without a loop.

Shapes: B windows in a batch; To, Tp observation and prediction horizon; W windows; n episodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..specification import Horizons
from .demonstrations import Demonstrations
from .image_cache import cache_folder, choose_places, decode_stream


class Batch(NamedTuple):
    """observation: stream name -> (B, To, ...); action (B, Tp, Da); is_padding (B, Tp), true beyond the episode."""

    observation: dict[str, Tensor]
    action: Tensor
    is_padding: Tensor


@dataclass
class Loaded:
    """The streams of demonstrations, which are read, and images decoded, when they are first needed."""

    demonstrations: Demonstrations
    device: torch.device
    places: Mapping[str, str]
    """Stream name -> where its rows are kept; see `choose_places`."""
    cache: Path
    """The folder of mapped files."""

    @cached_property
    def streams(self) -> dict[str, Tensor]:
        """Stream name -> (N, *shape)."""
        return {
            stream.name: decode_stream(
                self.demonstrations, stream, device=self.device, place=self.places[stream.name], cache=self.cache
            )
            for stream in self.demonstrations.specification.streams
        }


class Windows:
    """All windows of some demonstrations, with the streams held on one device, or mapped from files.

    An episode of L steps has one window for each current step c = 0 ... L - Ta. It holds the steps c - To + 1 to
    c - To + Tp, so the executed steps are never padding. Steps before the first or after the last step of the episode
    are padding. They repeat that step, as in the reference implementation; but an action is zero there in each
    dimension whose stream has `hold="zero"`. Only the To observed steps of the observations are gathered.

    Memory grows with the steps of the demonstrations and not with Tp x W, because a window is three numbers and no
    copy: 24 bytes a window if the streams are mapped. The time of a batch grows with its size.

    device: of the streams and the batches.
    image_cache: where decoded images are kept: "device", "mapped" from a file, or "auto", which maps the images that
    do not fit on the device. Vectors that do not fit there are mapped too (see `datasets.image_cache`). All are loaded
    when `streams` are first needed, so what can be said of the windows alone is said before.
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        horizons: Horizons,
        *,
        device: str | torch.device = "cpu",
        image_cache: str = "auto",
    ) -> None:
        self.horizons, self.device = horizons, torch.device(device)
        places = choose_places(demonstrations, device=self.device, place=image_cache)
        self.loaded = Loaded(demonstrations, self.device, places, cache_folder())  # by all selections together
        bounds = [demonstrations.bounds(episode) for episode in range(len(demonstrations))]
        self._bounds = np.array(bounds, dtype=np.int64).reshape(-1, 2)  # (n, 2)
        self.offsets = torch.arange(horizons.prediction, device=device) + 1 - horizons.observation
        is_zero = [hold == "zero" for hold in demonstrations.specification.action.hold]
        self._is_zero = torch.tensor(is_zero or False, device=device)
        self._select(range(len(self._bounds)))

    @property
    def streams(self) -> dict[str, Tensor]:
        """Stream name -> its values in all steps of the demonstrations (N, *shape)."""
        return self.loaded.streams

    def of(self, episodes: Sequence[int]) -> Windows:
        """The windows of some episodes; they share the streams."""
        selection = copy(self)
        selection._select(episodes)
        return selection

    def where(self, is_chosen: NDArray[np.bool_]) -> Windows:
        """The windows whose Ta executed steps are all chosen. is_chosen: for each step of all episodes."""
        counts = np.concatenate([[0], np.cumsum(is_chosen)])
        current = self.current.cpu().numpy()
        all_chosen = counts[current + self.horizons.action] - counts[current] == self.horizons.action
        kept = torch.from_numpy(np.flatnonzero(all_chosen)).to(self.current.device)
        selection = copy(self)
        selection.current, selection.first, selection.last = self.current[kept], self.first[kept], self.last[kept]
        return selection

    def episode_of_each(self) -> NDArray[np.int64]:
        """The episode of each window (W,)."""
        return np.searchsorted(self._bounds[:, 1], self.current.cpu().numpy(), side="right")

    def _select(self, episodes: Sequence[int]) -> None:
        start, stop = self._bounds[np.asarray(episodes, dtype=np.int64)].T
        counts = np.maximum(stop - start + 1 - self.horizons.action, 0)
        first = np.repeat(start, counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        columns = (first + within, first, np.repeat(stop - 1, counts))
        self.current, self.first, self.last = (torch.from_numpy(column).to(self.offsets.device) for column in columns)

    def __len__(self) -> int:
        """W, the number of windows."""
        return len(self.current)

    def batch(self, indices: Tensor) -> Batch:
        """Gather the windows `indices` (B,)."""
        steps, is_padding = self._steps(indices)
        observed = steps[:, : self.horizons.observation]
        return Batch(
            observation={name: self._rows(name, observed) for name in self.streams if name != "action"},
            action=self._rows("action", steps).masked_fill_(is_padding[..., None] & self._is_zero, 0),
            is_padding=is_padding,
        )

    def is_padding(self, indices: Tensor) -> Tensor:
        """Where the windows `indices` (B,) lie beyond their episodes (B, Tp)."""
        return self._steps(indices)[1]

    def _steps(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The steps of the windows `indices` (B,), and where they are padding: (B, Tp) each."""
        indices = indices.to(self.current.device)
        unclamped = self.current[indices, None] + self.offsets
        steps = torch.clamp(unclamped, self.first[indices, None], self.last[indices, None])
        return steps, unclamped != steps

    def _rows(self, name: str, steps: Tensor) -> Tensor:
        """`streams[name][steps]` on the device; copying whole rows takes half the time of indexing."""
        values = self.streams[name]
        rows = values.index_select(0, steps.flatten().to(values.device))
        return rows.to(self.device).unflatten(0, steps.shape)


def split_episodes(num_episodes: int, *, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Training and held-out episodes, both ascending. A share `held_out` is held out, but at least one episode.

    A single episode is never held out. Raises ValueError unless 0 <= held_out < 1.

    >>> split_episodes(5, held_out=0.2, seed=0)
    ([0, 1, 3, 4], [2])
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"the share of episodes held out must be in [0, 1), got {held_out}")
    count = min(max(round(num_episodes * held_out), 1), num_episodes - 1) if held_out else 0
    order = np.random.default_rng(seed).permutation(num_episodes).tolist()
    return sorted(order[count:]), sorted(order[:count])
