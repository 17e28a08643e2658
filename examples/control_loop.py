"""A control loop by hand: every step that `recede evaluate` and `recede control` take, in the open.

python examples/control_loop.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import recede
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.policy.requests import batch

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
task = recede.load_task("reach")
recede.collect(task, folder / "reach.zarr", episodes=30, first_seed=0, images="zstd")
config = recede.TrainConfig(
    dataset=str(folder / "reach.zarr"),
    out=str(folder / "run"),
    policy=DiffusionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16)),
    steps=150,
    warmup=15,
    learning_rate=4e-3,
)
policy, _ = recede.load_policy(recede.train(config))

# An engine takes and returns numpy arrays. On a robot it would be `recede.load_engine(FOLDER)`, without torch.
engine = recede.as_engine(policy)
draws, *size = engine.noise_shape
rng = np.random.default_rng(0)

# An execution decides when a chunk is due and how it joins the plan. It knows no clock and no network.
execution = recede.RecedingHorizon(engine.horizons, hold=engine.specification.action.hold)

env = task.make()
for seed in range(100_000, 100_003):  # no demonstration has these seeds
    observation, info = env.reset(seed=seed)
    execution.reset()
    num_steps, num_chunks, is_over = 0, 0, False
    while not is_over:
        execution.observe(observation)
        request = execution.request()
        if request is not None:  # a new chunk is due: predict, and hand it over
            inputs, guidance = batch([request])  # one request is a batch of one
            noise = rng.standard_normal((draws, 1, *size), dtype=np.float32)
            execution.accept(engine.predict(inputs, noise, guidance)[0])
            num_chunks += 1
        observation, _, terminated, truncated, info = env.step(execution.act())
        num_steps, is_over = num_steps + 1, terminated or truncated
    print(f"episode {seed}: {num_steps} steps, {num_chunks} chunks, a score of {info['score']:.2f}")
env.close()
