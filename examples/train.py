"""Train a policy from Python: record, look, train, predict, measure.

python examples/train.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import recede
import torch

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())

# Data. A scripted expert carries a cube round a wall; each episode is appended whole, or not at all.
task = recede.load_task("pick_place")
recede.collect(task, folder / "pick_place.zarr", episodes=100, first_seed=0, images="zstd")
store = recede.DemonstrationStore(folder / "pick_place.zarr")
print(f"{len(store)} episodes, {store.num_steps} steps of {[stream.name for stream in store.specification.streams]}")

# What to train. Every key of `recede train` is a field here. What is left out is chosen from the data, and printed.
# 300 updates are few: the policy will succeed now and then. The command line would choose some thousands.
config = recede.TrainConfig(task="pick_place", dataset=str(store.path), out=str(folder / "run"), steps=300)

# Train. Call it again after a crash, and it goes on where it was, bit for bit.
checkpoint = recede.train(config)
policy, manifest = recede.load_policy(checkpoint)
print(f"{sum(weights.numel() for weights in policy.parameters()):,} weights after {manifest['step']} steps")

# Predict. All randomness is an argument: the same noise gives the same chunk.
steps = {name: rows[: policy.horizons.observation] for name, rows in store.episode(0).items() if name != "action"}
observation = {name: torch.from_numpy(rows)[None] for name, rows in steps.items()}  # (B, To, ...), B = 1
draws, *size = policy.noise_shape
chunk = policy.predict(observation, torch.randn(draws, 1, *size))  # (B, Tp, Da), in units
print(f"a chunk of {chunk.shape[1]} actions; the first is {chunk[0, 0].numpy().round(3)}")

# Measure, in episodes that no demonstration comes from. The rate has its 95 % interval.
print(recede.evaluate(policy, task, episodes=20))
