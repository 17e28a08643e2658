"""What corrections are worth: a weak policy, two rounds of taking over from it, and as much training without them.

    PYTHONPATH=benchmarks python benchmarks/corrections.py FOLDER [json=FILE]

Everything is a `recede` command, which is printed before it runs. Scripted hands, the expert of `pick_place`, record
`DEMONSTRATIONS` episodes, and a policy is trained on them for `STEPS` updates. Then two rounds follow. In each, the
policy drives `EPISODES` episodes in real time, and the same hands take over whenever it has made no progress for
`takeover.after` s, for `takeover.seconds`. The next policy starts from its weights, and learns for as many updates from
the demonstrations and from what the hands did. Two other policies learn in as many stages and updates without
corrections: one from the demonstrations alone, and one also from as many whole episodes as were corrected. Each policy
is evaluated on `SEEDS` episodes that nothing else has used. There is one training of each, so the intervals are over
episodes alone. A command that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from recede.benchmarks.measure import Row, output, recede, report
from recede.datasets.store import DemonstrationStore
from recede.files import read_json

TASK = "pick_place"
DEMONSTRATIONS, EPISODES, SEEDS = 30, 20, 200
"""Whole demonstrations, corrected episodes of a round, and episodes of an evaluation."""
STEPS = 300
"""Updates of the first policy, and of each round."""
TRAINING: tuple[str, ...] = ("batch_size=64", "warmup=50", "save_every=1000000", "validate_every=1000000")
"""More arguments of every training."""
CONTROL: tuple[str, ...] = ("takeover.after=4", "takeover.seconds=4", "safety.stale_ms=5000")
"""More arguments of every round of corrections."""
EVALUATION: tuple[str, ...] = ("videos=0",)
"""More arguments of every evaluation."""
FIRST_SEEDS = {"demonstrations": 0, "more": 10_000, "round-1": 100_000, "round-2": 200_000, "evaluation": 600_000}
"""What is run -> the seed of its first episode."""


def main() -> None:
    """Record, train, correct and evaluate; prints a table."""
    folder, *rest = sys.argv[1:]
    path = output(rest)
    report(list(rows(Path(folder))), path)


def rows(folder: Path) -> Iterator[Row]:
    """The success of each policy, and how long the hands led."""
    demonstrations = recorded(folder, "demonstrations", DEMONSTRATIONS)
    first = trained(folder, "first", [demonstrations])
    yield from results(first)
    policy, corrections = first, list[Path]()
    for name in ("round-1", "round-2"):
        corrections.append(corrected(folder, name, policy))
        yield led_share(name, corrections[-1])
        policy = trained(folder, name, [demonstrations, *corrections], start=policy, only="interventions")
        yield from results(policy)
    more = [demonstrations, recorded(folder, "more", 2 * EPISODES)]
    for name, datasets in (("longer", more[:1]), ("more", more)):
        policy = first
        for stage in (1, 2):
            policy = trained(folder, f"{name}-{stage}", datasets, start=policy)
        yield from results(policy)


def recorded(folder: Path, name: str, episodes: int) -> Path:
    """A store of episodes that the hands recorded, in real time too: so the hands are as fast there as in a round."""
    out = folder / f"{name}.zarr"
    seeds = [f"episodes={episodes}", f"first_seed={FIRST_SEEDS[name]}"]
    recede("record", f"task={TASK}", "input=expert", f"out={out}", *seeds)
    return out


def trained(
    folder: Path, name: str, datasets: list[Path], *, start: Path | None = None, only: str | None = None
) -> Path:
    """A run on several datasets, of which the first one is drawn as often as all others together."""
    out, others = folder / name, len(datasets) - 1
    arguments = [f"task={TASK}", f"dataset=[{','.join(map(str, datasets))}]", f"steps={STEPS}", f"out={out}"]
    arguments += [f"weights=[{','.join(map(str, [others, *[1] * others]))}]"] if others else []
    arguments += [f"init_from={start}"] if start else []
    arguments += [f"only={only}"] if only else []
    recede("train", *arguments, *TRAINING)
    return out


def corrected(folder: Path, name: str, policy: Path) -> Path:
    """The demonstrations of a round in which scripted hands take over from a policy that is stuck."""
    out = folder / f"{name}-corrections"
    if not (out / "control.json").exists():
        seeds = [f"episodes={EPISODES}", f"first_seed={FIRST_SEEDS[name]}"]
        takeover = ["takeover=expert", "takeover.if_stuck=true", *CONTROL]
        recede("control", str(policy), *takeover, *seeds, f"out={out}")
    return out / "demonstrations.zarr"


def led_share(name: str, corrections: Path) -> Row:
    """How long the hands led in a round, and in how many of its episodes."""
    store = DemonstrationStore.open(corrections)
    led = [sum(after - first for first, after in facts.notes["led"]) for facts in store.episode_facts]
    share = sum(steps > 0 for steps in led)
    unit = f"% of {store.num_steps} steps, in {share} of {len(store)} episodes"
    return Row(name=f"{name}, led by the hands", value=100 * sum(led) / store.num_steps, unit=unit)


def results(policy: Path) -> Iterator[Row]:
    """The success rate and the mean score of a policy, in %, with their 95 % intervals over the episodes."""
    out = policy.with_name(f"{policy.name}-evaluation")
    if not (out / "evaluation.json").exists():
        seeds = [f"episodes={SEEDS}", f"first_seed={FIRST_SEEDS['evaluation']}"]
        recede("evaluate", str(policy), f"task={TASK}", *seeds, *EVALUATION, f"out={out}")
    evaluation = read_json(out / "evaluation.json")
    for name, key in (("success", "success_rate"), ("score", "mean_score")):
        low, high = evaluation[f"{key}_95"]
        unit = f"% [{100 * low:.0f}, {100 * high:.0f}]"
        yield Row(name=f"{policy.name}, {name}", value=100 * evaluation[key], unit=unit)


if __name__ == "__main__":
    main()
