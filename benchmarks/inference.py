"""How long a robot waits for a chunk: every engine beside a plain PyTorch loop over a diffusers scheduler.

    python benchmarks/inference.py [json=FILE]

Predicts one whole chunk for one robot: encoder, DDIM-10, clipping, back to units. The network is the U-Net of Diffusion
Policy (65.8 million parameters) on two steps of a vector, and with a ResNet-18 on two frames of 96 x 96 pixels as well.
The plain loop has the same weights, runs in inference mode, prepares its scheduler beforehand and computes the
conditioning once. It and eager run on the GPU if there is one. All take turns in one run, with `OMP_NUM_THREADS`
threads, or as many as there are cores.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recede.benchmarks.measure import Row, output, report
from recede.configs.components.denoising import CosineConfig, DDIMConfig
from recede.configs.components.encoders import ResNetEncoderConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.policy.device import device as choose_device
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.engines.interface import ENGINES, Engine
from recede.policy.engines.making import choose_engine
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons, Specification, Stream

HORIZONS = Horizons(observation=2, prediction=16, action=8)
STEPS, TIMES = 10, 100
CHANNELS = [256, 512, 1024]
SECONDS = 40.0
"""How long the engines of one policy take turns."""

STATE, CAMERA = Stream("state", (20,)), Stream("camera", (96, 96, 3), "uint8")
POLICIES = {"U-Net": (STATE,), "ResNet-18 and U-Net": (STATE, CAMERA)}
"""Name -> observation streams of the policy."""


def make(streams: tuple[Stream, ...]) -> DiffusionPolicy:
    """An untrained policy, on the GPU if there is one."""
    torch.manual_seed(0)
    specification = Specification(streams, Stream("action", (2,)), control_dt=0.1)
    ranges = {
        stream.name: (-np.ones(stream.shape), np.ones(stream.shape))
        for stream in specification.streams
        if not stream.is_image
    }
    config = DiffusionConfig(
        encoder=ResNetEncoderConfig(),
        network=UNet1dConfig(channels=CHANNELS, time_size=256),
        schedule=CosineConfig(num_times=TIMES),
        sampler=DDIMConfig(num_steps=STEPS),
    )
    policy = config.build(specification, HORIZONS, Normalizer(specification, ranges))
    return policy.to(choose_device("auto")).eval().requires_grad_(False)


def plain(policy: DiffusionPolicy) -> Callable[[dict[str, NDArray[Any]], NDArray[np.float32]], NDArray[Any]]:
    """A plain loop around diffusers, with the whole network at every step."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler(
        TIMES,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(STEPS)
    device = next(policy.parameters()).device
    times = [t.reshape(1).to(device) for t in scheduler.timesteps]

    @torch.inference_mode()
    def predict(observation: dict[str, NDArray[Any]], noise: NDArray[np.float32]) -> NDArray[Any]:
        streams = {name: torch.from_numpy(values).to(device) for name, values in observation.items()}
        conditioning = policy.encoder(policy.normalizer.observation(streams))
        x = torch.from_numpy(noise[0]).to(device)
        for t, time_of_rows in zip(scheduler.timesteps, times, strict=True):
            out = policy.network(x, time_of_rows, conditioning)
            x = scheduler.step(out, t, x, use_clipped_model_output=True).prev_sample  # type: ignore[union-attr]
        return policy.normalizer.unnormalised_action(x).cpu().numpy()

    return predict


def interleaved(works: Sequence[Callable[[], object]], *, seconds: float) -> list[NDArray[np.float64]]:
    """Seconds of each run of each of `works`. They take turns, at least 20 times each."""
    taken: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
        work()
    end = time.perf_counter() + seconds
    while len(taken[0]) < 20 or time.perf_counter() < end:
        for work, times in zip(works, taken, strict=True):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
    return [np.array(times) for times in taken]


def engines_of(policy: DiffusionPolicy) -> list[Engine]:
    """Every engine of this machine that agrees with PyTorch. Prints how far each one differs."""
    with TemporaryDirectory() as scratch:
        chosen = choose_engine(policy, ENGINES, Path(scratch))
    print(chosen)
    return sorted(chosen.engines, key=lambda engine: list(ENGINES).index(engine.name))


def main() -> None:
    """Measure both policies and print the table."""
    path, rows = output(sys.argv[1:]), list[Row]()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    print(f"threads: {torch.get_num_threads()}")
    for name, streams in POLICIES.items():
        policy = make(streams)
        rng = np.random.default_rng(0)
        observation: dict[str, NDArray[Any]] = {"state": rng.uniform(-1, 1, (1, 2, 20)).astype(np.float32)}
        if CAMERA in streams:
            observation["camera"] = rng.integers(0, 256, (1, 2, *CAMERA.shape), dtype=np.uint8)
        noise = rng.standard_normal((1, 1, 16, 2), dtype=np.float32)
        peer, engines = plain(policy), engines_of(policy)
        off = np.abs(peer(observation, noise) - engines[0].predict(observation, noise)).max()
        print(f"{name}: the plain loop and eager differ by {off:.1e} half ranges at most")
        works = [partial(predict, observation, noise) for predict in (peer, *(engine.predict for engine in engines))]
        names = ["plain loop over diffusers", *(f"{engine.name} ({engine.precision})" for engine in engines)]
        taken = interleaved(works, seconds=SECONDS)
        for contender, times in zip(names, taken, strict=True):
            rows.append({"name": f"{name}, {contender}, median", "value": 1e3 * float(np.median(times)), "unit": "ms"})
            tail = 1e3 * float(np.percentile(times, 99))
            rows.append({"name": f"{name}, {contender}, 99th percentile", "value": tail, "unit": "ms"})
            ratio = float(np.median(taken[0] / times))
            rows.append({"name": f"{name}, plain loop / {contender}", "value": ratio, "unit": "x"})
    report(rows, path)


if __name__ == "__main__":
    main()
