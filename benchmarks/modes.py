"""How well trained policies reproduce the two ways round the wall of `pick_place`, beside the demonstrator.

    python benchmarks/modes.py runs/a runs/b ... [json=FILE]

Takes, from each of 100 new demonstrations, the observation at which the gripper brings the cube to the wall. Samples
chunks from each observation and compares where their last actions lie along the wall (y) with the demonstrators': the
share on the left side, the ratio of the spread within a side to the demonstrators', and the share between the sides.
Intervals are 95 % bootstrap intervals over the demonstrations. Samplers: DDIM-10 and DDPM-100.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from recede.benchmarks.measure import Row, output, report
from recede.checkpoints.opening import load_policy
from recede.configs.components.denoising import DDIMConfig, DDPMConfig
from recede.envs.faults import RunningEnv
from recede.envs.tasks.pick_place import PICK_PLACE
from recede.recording.scripted import demonstrate
from recede.specification import Horizons

NUM_DEMONSTRATIONS, NUM_SAMPLES, FIRST_SEED = 100, 8, 400_000
FORK = -0.17
"""x of the gripper, in m, from which the ways round the wall part."""
LIFTED = 0.04
"""Height of a carried cube, m."""

Ends = NDArray[np.floating]
"""Where chunks end along the wall, y in m: (N,) for the demonstrators, (N, K) for a policy."""


def windows(horizons: Horizons) -> tuple[dict[str, NDArray[np.generic]], Ends]:
    """The observations (N, To, ...) in front of the wall, and where the demonstrators' own chunks end."""
    env = RunningEnv(PICK_PLACE.make, PICK_PLACE.specification)
    histories, ends = list[dict[str, NDArray[np.generic]]](), list[float]()
    for seed in range(FIRST_SEED, FIRST_SEED + NUM_DEMONSTRATIONS):
        streams = demonstrate(PICK_PLACE, env, seed).streams
        gripper, cube = (streams[name].astype(np.float64) for name in ("gripper", "cube"))
        carried = (gripper[:, 0] > FORK) & (cube[:, 2] > LIFTED)
        now = int(np.argmax(carried))
        first = now - horizons.observation + 1
        histories.append({name: values[first : now + 1] for name, values in streams.items() if name != "action"})
        ends.append(float(streams["action"][first + horizons.prediction - 1, 1]))
    env.close()
    return {name: np.stack([history[name] for history in histories]) for name in histories[0]}, np.array(ends)


def sampled(run: Path, sampler: object, observation: dict[str, NDArray[np.generic]]) -> Ends:
    """Where the chunks of a policy end, NUM_SAMPLES per observation."""
    policy, _ = load_policy(run, sampler=sampler)
    repeated = {name: torch.from_numpy(np.repeat(values, NUM_SAMPLES, axis=0)) for name, values in observation.items()}
    draws, *chunk = policy.noise_shape
    noise = torch.randn(draws, NUM_DEMONSTRATIONS * NUM_SAMPLES, *chunk, generator=torch.Generator().manual_seed(0))
    return policy.predict(repeated, noise)[:, -1, 1].reshape(-1, NUM_SAMPLES).numpy()


def spread(ends: Ends) -> float:
    """Standard deviation within a side, pooled over both; 0 if `ends` is empty."""
    sides = [ends[ends > 0], ends[ends <= 0]]
    return float(np.sqrt(sum(((side - side.mean()) ** 2).sum() for side in sides if len(side)) / max(ends.size, 1)))


def measures(demonstrated: Ends) -> dict[str, Callable[[Ends, Ends], float]]:
    """Name -> (ends of a policy, of the demonstrators) -> number."""
    middle = np.abs(demonstrated).mean() / 2
    return {
        "share left": lambda ends, _: float((ends > 0).mean()),
        "share between": lambda ends, _: float((np.abs(ends) < middle).mean()),
        "spread / demonstrators'": lambda ends, own: spread(ends[np.abs(ends) >= middle]) / spread(own),
    }


def main() -> None:
    """Measure every run with both samplers and print the table."""
    runs = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("json=")]
    path, rows = output([argument for argument in sys.argv[1:] if argument.startswith("json=")]), list[Row]()
    cached = dict[Horizons, tuple[dict[str, NDArray[np.generic]], Ends]]()
    for run in runs:
        horizons = load_policy(run)[0].horizons
        observation, own = cached.get(horizons) or cached.setdefault(horizons, windows(horizons))
        for name, sampler in {"ddim-10": DDIMConfig(), "ddpm-100": DDPMConfig()}.items():
            ends = sampled(run, sampler, observation)
            for measure, function in measures(own).items():
                draws = np.random.default_rng(0).integers(len(own), size=(1000, len(own)))
                low, high = np.quantile([function(ends[draw], own[draw]) for draw in draws], [0.025, 0.975])
                value, unit = function(ends, own), f"[{low:.2f}, {high:.2f}]"
                rows.append({"name": f"{run}, {name}, {measure}", "value": value, "unit": unit})
    report(rows, path)


if __name__ == "__main__":
    main()
