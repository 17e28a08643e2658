"""The chunks that samplers make of one trained policy of `pick_place`, in front of the wall: a picture of fans.

    python benchmarks/ways.py runs/pick_place picture=FILE [distilled=runs/one]

Every fan starts from the same noise and the same observation, that at which the first fan is widest. distilled: a
policy of one step that was distilled from the first, for a last fan.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

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


def draw(run: Path, path: Path, distilled: Path | None = None) -> None:
    """Draw the fans of every sampler."""
    engines: dict[str, Engine] = {
        name: EagerEngine(load_policy(run, sampler=sampler)[0]) for name, sampler in SAMPLERS.items()
    }
    if distilled is not None:
        engines["distilled, 1 step"] = EagerEngine(load_policy(distilled)[0])
    first = next(iter(engines.values()))
    execution, filmed = partial(RecedingHorizon, first.horizons), {SEED: None}
    outcomes = rollout(first, PICK_PLACE, [SEED], execution=execution, filmed=filmed)
    path.write_bytes(draw_fan(fan(engines, outcomes, pixels_of(PICK_PLACE))))


def main() -> None:
    """Draw the picture that the command line names."""
    words = {key: value for key, _, value in (word.partition("=") for word in sys.argv[2:])}
    if len(sys.argv) < 3 or not words.keys() <= {"picture", "distilled"} or "picture" not in words:
        print("usage: python benchmarks/ways.py RUN picture=FILE [distilled=RUN]", file=sys.stderr)
        raise SystemExit(2)
    draw(Path(sys.argv[1]), Path(words["picture"]), Path(words["distilled"]) if "distilled" in words else None)
    print(f"picture: {words['picture']}")


if __name__ == "__main__":
    main()
