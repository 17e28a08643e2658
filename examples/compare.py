"""Compare two policies in the same episodes: does one of them succeed more often, beyond chance?

python examples/compare.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import recede
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig, RegressionConfig
from recede.evaluation.pairs import Pairs, pairs_needed

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
task = recede.load_task("reach")
recede.collect(task, folder / "reach.zarr", episodes=30, first_seed=0, images="zstd")

# The same network, trained in the same windows. They differ in one thing: how the network is used.
network = UNet1dConfig(channels=[16, 32], time_size=16)
evaluations = {}
for name, policy in {
    "diffusion": DiffusionConfig(network=network),
    "regression": RegressionConfig(network=network),
}.items():
    config = recede.TrainConfig(
        dataset=str(folder / "reach.zarr"),
        out=str(folder / name),
        policy=policy,
        steps=100,
        warmup=10,
        learning_rate=4e-3,
    )
    trained, _ = recede.load_policy(recede.train(config))
    # The same seeds, so each episode is a pair: the ball and the gripper begin in the same places.
    evaluations[name] = recede.evaluate(trained, task, episodes=30, first_seed=300_000)
    print(f"{name}: {evaluations[name]}")

first, second = ([outcome.success for outcome in one.outcomes] for one in evaluations.values())
scores = np.array([[outcome.score for outcome in one.outcomes] for one in evaluations.values()]).T
pairs = Pairs(np.array(first), np.array(second), scores)
low, high = pairs.interval
print(f"only diffusion succeeds in {pairs.only_first} episodes, only regression in {pairs.only_second}")
print(f"difference {100 * pairs.difference:+.0f} points (95 % interval {100 * low:+.0f} to {100 * high:+.0f})")
print(f"p = {pairs.p_value:.3f} (McNemar): {'they differ' if pairs.p_value < 0.05 else 'nothing is decided'}")
if pairs.p_value >= 0.05 and pairs.difference:
    share = (pairs.only_first + pairs.only_second) / len(first)
    print(f"if the difference is as it seems, {pairs_needed(pairs.difference, share)} episodes would show it")
low, high = pairs.score_interval  # a score tells more than a success: how far each episode came
print(f"mean scores differ by {(scores[:, 0] - scores[:, 1]).mean():+.3f} (95 % interval {low:+.3f} to {high:+.3f})")
