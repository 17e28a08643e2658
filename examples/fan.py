"""Sample many chunks from one observation, and draw them as a fan: what the policy thinks possible.

python examples/fan.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import matplotlib
import recede
import torch
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig

matplotlib.use("agg")  # no window
from matplotlib import pyplot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
recede.collect(recede.load_task("reach"), folder / "reach.zarr", episodes=30, first_seed=0, images="zstd")
config = recede.TrainConfig(
    dataset=str(folder / "reach.zarr"),
    out=str(folder / "run"),
    policy=DiffusionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16)),
    steps=150,
    warmup=15,
    learning_rate=4e-3,
)
policy, _ = recede.load_policy(recede.train(config))

# The same observation 64 times, and 64 different noises: each makes a chunk of its own.
store, count = recede.DemonstrationStore(folder / "reach.zarr"), 64
episode = {name: torch.from_numpy(rows) for name, rows in store.episode(0).items()}
observed = {name: rows[: policy.horizons.observation] for name, rows in episode.items() if name != "action"}
observation = {name: rows.expand(count, *rows.shape) for name, rows in observed.items()}
draws, *size = policy.noise_shape
noise = torch.randn(draws, count, *size, generator=torch.Generator().manual_seed(0))
chunks = policy.predict(observation, noise).numpy()  # (64, Tp, Da): x, y, z, yaw and opening of the gripper

figure, axes = pyplot.subplots(figsize=(6, 5), layout="constrained")
for chunk in chunks:
    axes.plot(chunk[:, 0], chunk[:, 1], color="tab:pink", alpha=0.3)
axes.plot(*episode["gripper"][:, :2].T, color="black", label="the demonstration")
axes.plot(*episode["target"][0, :2], "o", color="teal", markersize=10, label="the ball")
axes.set(xlabel="x (m)", ylabel="y (m)", aspect="equal", title=f"{count} chunks from one observation")
axes.legend()
figure.savefig(folder / "fan.png", dpi=120)
print(f"the chunks end within {1000 * chunks[:, -1, :2].std(0).max():.0f} mm (one sigma): {folder / 'fan.png'}")
