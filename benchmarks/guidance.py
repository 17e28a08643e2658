"""How energies steer a trained policy of `pick_place` round the wall, beside clipped commands, in the same episodes.

    python benchmarks/guidance.py runs/demo/diffusion [classifier=FOLDER] [arms=PREFIX] [episodes=200] [picture=FILE]
        [json=FILE]

Keep out: a box lies across the outer part of the way on the left (y > 0). Counted are the steps at which the gripper is
in the box. Commands keep out of the box and a margin. Stay right: commands shall have y <= 0, so that the policy takes
the way on the right. Counted are the episodes that pass the wall on the left. classifier: one of `recede
train-classifier` with condition=notes.side=left, which guides to either side. arms: how the rows to measure begin.

Intervals are of 95 %: Wilson's for rates, and a bootstrap over the episodes for the steps in the box.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from recede.benchmarks.measure import Row, output, report
from recede.checkpoints.opening import load_policy
from recede.envs.tasks.pick_place import PICK_PLACE
from recede.evaluation.intervals import wilson
from recede.evaluation.reports.pictures import draw_fan, fan
from recede.evaluation.rollout import rollout
from recede.evaluation.writing import pixels_of
from recede.execution.receding import RecedingHorizon
from recede.policy.classifier import Classifier
from recede.policy.denoising.energies import Energies, HalfSpace, KeepOut
from recede.policy.denoising.guidance import Guidance
from recede.policy.engines.eager import EagerEngine
from recede.policy.engines.interface import Arrays, Engine
from recede.policy.engines.wrapping import GuidedEngine, WrappingEngine

FIRST_SEED = 700_000
BOX_LOW, BOX_HIGH, MARGIN = np.array([-0.11, 0.17]), np.array([0.11, 0.4]), 0.01
"""The box, x and y in m, and the margin of the commands, because the gripper is never quite where it should be."""
LOW, HIGH = tuple((BOX_LOW - MARGIN).tolist()), tuple((BOX_HIGH + MARGIN).tolist())
"""The box with its margin."""
BOX_WIDTH, SIDE_WIDTHS = 0.003, (0.2, 0.1, 0.05, 0.02)
"""In m: how deep a command may go into the box, and beyond y = 0, one standard deviation."""
FREE = (None,) * (PICK_PLACE.specification.action.size - 2)

Chunks = NDArray[Any]


def outside(chunks: Chunks) -> Chunks:
    """The chunks with each command in the box moved to the nearest face."""
    xy = chunks[..., :2]
    depths = np.concatenate([xy - LOW, np.array(HIGH) - xy], axis=-1)
    nearest = depths.argmin(axis=-1)[..., None]
    face = np.broadcast_to(np.array([*LOW, *HIGH]), depths.shape)
    moved = (depths > 0).all(axis=-1, keepdims=True) & (nearest % 2 == np.arange(2))
    return np.concatenate([np.where(moved, np.take_along_axis(face, nearest, axis=-1), xy), chunks[..., 2:]], axis=-1)


def on_the_right(chunks: Chunks) -> Chunks:
    """The chunks with every command at y <= 0."""
    return np.concatenate([chunks[..., :1], chunks[..., 1:2].clip(max=0), chunks[..., 2:]], axis=-1)


class Clipped(WrappingEngine):
    """An engine whose chunks are clipped."""

    def __init__(self, engine: Engine, clip: Callable[[Chunks], Chunks]) -> None:
        super().__init__(engine)
        self.clip = clip

    def predict(self, observation: Arrays, noise: NDArray[Any], guidance: Sequence[Guidance] = ()) -> NDArray[Any]:
        """The clipped chunk."""
        return self.clip(self.engine.predict(observation, noise, guidance)).astype(np.float32)


class Watched(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Notes where the gripper of every episode was."""

    paths: dict[int, list[NDArray[Any]]] = {}  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Begin the path of this seed."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._path = self.paths[seed or 0] = []
        return observation, info

    def step(self, action: Any) -> Any:
        """Note the gripper."""
        result = self.env.step(action)
        self._path.append(np.array(result[0]["gripper"][:2]))
        return result


def make_watched() -> Any:
    """The task with a watched gripper."""
    return Watched(PICK_PLACE.make())


def act(engine: Engine, label: str, episodes: int) -> list[Row]:
    """Roll out, and count."""
    Watched.paths.clear()
    task = replace(PICK_PLACE, make=make_watched, make_batch=None)
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    outcomes = rollout(engine, task, seeds, execution=partial(RecedingHorizon, engine.horizons))
    paths = [np.array(Watched.paths[seed]) for seed in seeds]
    inside = [int(((path > BOX_LOW) & (path < BOX_HIGH)).all(axis=1).sum()) for path in paths]
    passed = [path[np.argmax(path[:, 0] > 0), 1] for path in paths if (path[:, 0] > 0).any()]
    draws = np.random.default_rng(0).integers(episodes, size=(2000, episodes))
    counts, steps = np.array(inside), np.array([len(path) for path in paths])
    low, high = np.quantile(1000 * counts[draws].sum(axis=1) / steps[draws].sum(axis=1), [0.025, 0.975])
    return [
        _rate(f"{label}: success", sum(outcome.success for outcome in outcomes), episodes),
        _rate(f"{label}: on the left", sum(y > 0 for y in passed), episodes),
        {
            "name": f"{label}: steps in the box, of 1,000",
            "value": 1000 * counts.sum() / steps.sum(),
            "unit": f"[{low:.1f}, {high:.1f}]",
        },
    ]


def _rate(name: str, count: int, total: int) -> Row:
    low, high = wilson(count, total)
    return {"name": name, "value": 100 * count / total, "unit": f"% [{100 * low:.0f}, {100 * high:.0f}] of {total}"}


def guided(engine: Engine, energy: KeepOut | HalfSpace, *, exact: bool) -> Engine:
    """The engine guided by one energy."""
    return GuidedEngine(engine, [Energies((energy,), exact=exact)])


def arms(eager: Engine) -> dict[str, Engine]:
    """Label -> engine."""
    box = KeepOut((BOX_WIDTH, BOX_WIDTH, *(1.0 for _ in FREE)), (*LOW, *FREE), (*HIGH, *FREE))
    engines = {
        "as it is": eager,
        "clipped out of the box": Clipped(eager, outside),
        "keep out": guided(eager, box, exact=True),
        "keep out, not exact": guided(eager, box, exact=False),
        "clipped to the right": Clipped(eager, on_the_right),
    }
    engines |= {f"stay right within {width:g}": guided(eager, right(width), exact=True) for width in SIDE_WIDTHS}
    width = SIDE_WIDTHS[-1]
    return engines | {f"stay right within {width:g}, not exact": guided(eager, right(width), exact=False)}


def right(width: float) -> HalfSpace:
    """The side of the table with y <= 0."""
    return HalfSpace((1.0, width, *(1.0 for _ in FREE)), (0.0, 1.0, *(0.0 for _ in FREE)), 0.0)


def classified(eager: EagerEngine, folder: Path) -> dict[str, Engine]:
    """Label -> engine, guided by a classifier of the side."""
    policy: Any = eager.policy
    classifier = Classifier.load(folder, policy)
    return {
        f"classified {'left' if is_left else 'right'}, weight {weight:g}": GuidedEngine(
            eager, [classifier.guidance(policy, holds=is_left, weight=weight)]
        )
        for is_left, weight in ((False, 0.3), (False, 1.0), (False, 4.0), (True, 1.0))
    }


def draw(engines: dict[str, Engine], path: Path) -> None:
    """Draw fans of the policy, clipped and guided, where its own is widest."""
    shown = {
        label: engines[label]
        for label in ("as it is", "clipped to the right", f"stay right within {SIDE_WIDTHS[-1]:g}")
    }
    first = engines["as it is"]
    execution, filmed = partial(RecedingHorizon, first.horizons), {FIRST_SEED: None}
    outcomes = rollout(first, PICK_PLACE, [FIRST_SEED], execution=execution, filmed=filmed)
    path.write_bytes(draw_fan(fan(shown, outcomes, pixels_of(PICK_PLACE))))


def main() -> None:
    """Measure every arm and print the table."""
    words = {key: value for key, _, value in (word.partition("=") for word in sys.argv[2:])}
    path = output([f"json={words['json']}"] if "json" in words else [])
    eager = EagerEngine(load_policy(Path(sys.argv[1]))[0])
    engines = arms(eager) | (classified(eager, Path(words["classifier"])) if "classifier" in words else {})
    if "picture" in words:
        draw(engines, Path(words["picture"]))
    episodes = int(words.get("episodes", "200"))
    chosen = {label: engine for label, engine in engines.items() if label.startswith(words.get("arms", ""))}
    report([row for label, engine in chosen.items() for row in act(engine, label, episodes)], path)


if __name__ == "__main__":
    main()
