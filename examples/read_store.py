"""Read demonstrations into numpy, and into pandas if it is installed.

python examples/read_store.py [FOLDER]
"""

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import recede

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
recede.collect(recede.load_task("reach"), folder / "reach.zarr", episodes=10, first_seed=0, images="zstd")
store = recede.DemonstrationStore(folder / "reach.zarr")

# The store describes itself: every stream has a shape, units, labels and limits.
for stream in store.specification.streams:
    print(f"{stream.name:10} {stream.shape} {stream.dtype}  {', '.join(map(stream.label, range(stream.size)))}")

# One episode: name -> (steps, ...). The action of a step follows the observation of that step.
episode = store.episode(0)
print(f"\nepisode 0 has {len(episode['action'])} steps and seed {store.episode_seeds[0]}")

# All of a stream, or any range of steps, without reading the rest.
actions = store.read("action")
ends = store.episode_ends
print(f"{len(actions)} actions from {actions.min(0).round(2)} to {actions.max(0).round(2)}; episodes end at {ends}")

# What was noted of each episode.
outcomes = [facts.outcome for facts in store.episode_facts]
print(f"{outcomes.count('success')} of {len(outcomes)} succeeded, driven by a {store.episode_facts[0].operator}")

# As a table: a row a step, a column a number. Numpy needs no more than this.
columns = ["episode"]
for stream in store.specification.streams:
    columns += [stream.label(index) for index in range(stream.size)]
rows = [store.read(stream.name).reshape(store.num_steps, -1) for stream in store.specification.streams]
table = np.concatenate([store.episode_of(np.arange(store.num_steps))[:, None], *rows], axis=1)
print(f"a table of {table.shape[0]} rows and {table.shape[1]} columns")

if find_spec("pandas"):
    import pandas

    frame = pandas.DataFrame(table, columns=columns)
    print(frame.groupby("episode").mean().round(3))
else:
    print("with pandas, one more line makes it a DataFrame: pip install pandas")
