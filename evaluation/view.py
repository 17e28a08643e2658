"""What a policy observes of an environment: those streams that it knows, and the sentence of the episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..envs.promises import PromiseError
from ..envs.task import Observation, Task
from ..specification import WORDS, Specification

Embed: TypeAlias = Callable[[str], NDArray[np.float32]]
"""Sentence -> its embedding (E,)."""


@dataclass(frozen=True)
class View:
    """Selects what a policy observes. It can be pickled, because worker processes need it."""

    names: tuple[str, ...]
    """The streams of the environment."""
    embed: Embed | None = None
    """Embeds the sentence of an episode as the stream `WORDS`; None if the policy does not observe it."""

    def begin(self, info: Mapping[str, Any]) -> Observation:
        """What the policy observes of a whole episode, from the info of its reset.

        Raises PromiseError if the policy observes a sentence and there is none.
        """
        if self.embed is None:
            return {}
        if not isinstance(sentence := info.get("sentence"), str):
            raise PromiseError(
                "reset() must return info['sentence'], which the policy observes, got "
                f"{sorted(map(str, info))}: add it there, or give one for all episodes with words="
            )
        return {WORDS: self.embed(sentence)}

    def __call__(self, observation: Observation, whole: Observation) -> Observation:
        """What the policy observes in a step, without the images that are missing. whole: what it observes of the whole
        episode.
        """
        return {**{name: observation[name] for name in self.names if name in observation}, **whole}


def view_of(task: Task, specification: Specification, *, embed: Embed | None = None) -> View:
    """The view of a policy of `specification` on a task. The task may have more streams than the policy observes.

    embed: embeds a sentence, if the policy observes the stream `WORDS`.

    Raises ValueError, naming every difference, if a policy of `specification` does not fit the task.
    """
    streams = {stream.name: stream for stream in specification.observations}
    is_worded = embed is not None and WORDS in streams
    observed = [stream for stream in task.specification.observations if stream.name in streams]
    words = [streams[WORDS]] if is_worded else []
    offered = replace(task.specification, observations=(*observed, *words)) if observed else task.specification
    if differences := offered.differences(specification):
        raise ValueError(
            f"the policy's specification must be that of task {task.name!r}, but differs: {'; '.join(differences)}: "
            "evaluate the policy on the task that it was trained for, or train it again"
        )
    return View(tuple(stream.name for stream in observed), embed if is_worded else None)
