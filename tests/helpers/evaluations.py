"""Evaluations that are written by hand, in the form of `evaluation.json`."""

from recede.evaluation.world import world
from recede.files import write_json_with_digest
from toys import REACH

WORLD = world(REACH)


def result(success, *, first_seed=0, score=None, path="a", **more):
    """Of a policy that succeeds so in the episodes from a seed on; further entries replace the usual ones."""
    count = len(success)
    return {
        "path": path,
        "task": "toys:REACH",
        "policy": {"choice": "regression", "network": {"choice": "unet1d"}},
        "checkpoint": "checkpoints/1",
        "recipe": path,
        "step": 1,
        "training_seed": 0,
        "num_parameters": 1,
        "training_s": None,
        "execution": {"choice": "receding"},
        "delay_ms": 0.0,
        "latency": {"p50_ms": 1.0},
        "seed": 0,
        "seeds": list(range(first_seed, first_seed + count)),
        "success": success,
        "score": [float(one) for one in success] if score is None else score,
        "world": WORLD,
        **more,
    }


def write(folder, *args, **options):
    """Write such an evaluation into a folder, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = result(*args, **options)
    del content["path"]
    write_json_with_digest(folder / "evaluation.json", content)
    return folder
