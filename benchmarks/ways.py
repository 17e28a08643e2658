"""The chunks that samplers make of one trained policy of `pick_place`, in front of the wall: fans, and times.

    python benchmarks/ways.py runs/pick_place picture=FILE [distilled=runs/one] [json=FILE]

Every fan starts from the same noise and the same observation, that at which the first fan is widest. distilled: a
policy of one step that was distilled from the first, for a last fan. The times are of one chunk for one robot in
PyTorch, in units of the first sampler's too; all take turns.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from recede.benchmarks.measure import Row, interleaved_medians, output, report
from recede.checkpoints.opening import load_policy
from recede.configs.components.denoising import DDIMConfig, DDPMConfig, DPMSolver2MConfig
from recede.envs.tasks.pick_place import PICK_PLACE
from recede.evaluation.reports.pictures import draw_fan, fan
from recede.evaluation.rollout import rollout
from recede.evaluation.writing import pixels_of
from recede.execution.receding import RecedingHorizon
from recede.policy.engines.eager import EagerEngine
from recede.policy.engines.interface import Engine

SEED = 700_000
SAMPLERS: dict[str, Any] = {
    "ddim, 10 steps": DDIMConfig(num_steps=10),
    "ddpm, 100 steps": DDPMConfig(num_steps=100),
    "dpm_solver_2m, 4 steps": DPMSolver2MConfig(num_steps=4),
    "ddim, 2 steps": DDIMConfig(num_steps=2),
    "ddim, 1 step": DDIMConfig(num_steps=1),
}


SECONDS = 20.0
"""How long the samplers take turns."""


def draw(engines: dict[str, Engine], path: Path) -> None:
    """Draw the fans of all engines."""
    first = next(iter(engines.values()))
    execution, filmed = partial(RecedingHorizon, first.horizons), {SEED: None}
    outcomes = rollout(first, PICK_PLACE, [SEED], execution=execution, filmed=filmed)
    path.write_bytes(draw_fan(fan(engines, outcomes, pixels_of(PICK_PLACE))))


def times(engines: dict[str, Engine]) -> list[Row]:
    """The time of a chunk of each engine."""
    works = [partial(_predict, engine) for engine in engines.values()]
    taken = interleaved_medians(works, seconds=SECONDS)
    return [
        row
        for name, seconds in zip(engines, taken, strict=True)
        for row in (
            Row(name=f"{name}, a chunk", value=1e3 * seconds, unit="ms"),
            Row(name=f"{name}, of the first", value=seconds / taken[0], unit="times"),
        )
    ]


def _predict(engine: Engine) -> None:
    steps = engine.horizons.observation
    observation = {
        stream.name: np.zeros((1, steps, *stream.shape), stream.dtype) for stream in engine.specification.observations
    }
    draws, *shape = engine.noise_shape
    engine.predict(observation, np.zeros((draws, 1, *shape), np.float32))


def main() -> None:
    """Draw the picture that the command line names, and print the times."""
    words = {key: value for key, _, value in (word.partition("=") for word in sys.argv[2:])}
    if len(sys.argv) < 3 or not words.keys() <= {"picture", "distilled", "json"} or "picture" not in words:
        print("usage: python benchmarks/ways.py RUN picture=FILE [distilled=RUN] [json=FILE]", file=sys.stderr)
        raise SystemExit(2)
    path = output([f"json={words['json']}"] if "json" in words else [])
    engines: dict[str, Engine] = {
        name: EagerEngine(load_policy(Path(sys.argv[1]), sampler=sampler)[0]) for name, sampler in SAMPLERS.items()
    }
    if "distilled" in words:
        engines["distilled, 1 step"] = EagerEngine(load_policy(Path(words["distilled"]))[0])
    draw(engines, Path(words["picture"]))
    report(times(engines), path)


if __name__ == "__main__":
    main()
