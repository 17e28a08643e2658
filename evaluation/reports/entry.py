"""What a report says about one policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

KEYS = (
    *("task", "episodes", "success_rate", "success_rate_95", "mean_score", "mean_score_95", "mean_steps", "wall_s"),
    *("latency", "processor", "seed", "seeds", "success", "score", "steps", "broken"),
)
"""Keys that an evaluation must have."""


class Film(NamedTuple):
    """A film of an episode."""

    path: Path
    """The mp4."""
    poster: bytes
    """What is shown until it plays, a JPEG."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One policy of a report. Unknown values are left out. Raises ValueError if the evaluation lacks a key."""

    name: str
    """The policy's name in the report."""

    evaluation: Mapping[str, Any]
    """The content of its `evaluation.json`."""

    metrics: Sequence[Mapping[str, Any]] = ()
    """The lines of its `metrics.jsonl`."""

    num_parameters: int | None = None
    """Parameters of the whole policy."""

    training_seed: int | None = None
    """The seed of its training."""

    films: Mapping[int, Film] = field(default_factory=dict)
    """The seed of an episode -> its film."""

    strips: Mapping[int, Mapping[int, bytes]] = field(default_factory=dict)
    """The seed of one of the worst episodes -> its frames, JPEGs by their control steps."""

    missing: Sequence[str] = ()
    """What the strips lack and why, in a few words each."""

    def __post_init__(self) -> None:
        missing = [key for key in KEYS if key not in self.evaluation]
        if missing:
            raise ValueError(
                f"the evaluation of {self.name!r} must be the content of an evaluation.json, it lacks {missing}"
            )

    @property
    def num_steps(self) -> int | None:
        """Training steps of the evaluated policy."""
        return self.evaluation.get("step") or max((line["step"] for line in self.metrics), default=None)

    def seconds(self) -> dict[str, float]:
        """Seconds of "data" and "update" in training up to the evaluated policy, and of "evaluation"."""
        last, seconds = self.num_steps or 0, dict[str, float]()
        for kind in ("data", "update"):
            total = sum(line.get(f"{kind}_s", 0.0) for line in self.metrics if line["step"] <= last)
            if total:
                seconds[kind] = total
        return seconds | {"evaluation": self.evaluation["wall_s"]}

    def episode(self, seed: int) -> str:
        """How the episode of a seed ended, as "failed, score 0.43, 200 steps, at the wall"."""
        evaluation = self.evaluation
        index = evaluation["seeds"].index(seed)
        ending = "succeeded" if evaluation["success"][index] else "failed"
        text = f"{ending}, score {evaluation['score'][index]:.2f}, {evaluation['steps'][index]} steps"
        phase = evaluation["phase"][index] if "phase" in evaluation else None
        return text if phase is None else f"{text}, {phase}"
