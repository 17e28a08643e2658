"""`recede evaluate`: roll a policy out and report rates with intervals."""

from __future__ import annotations

from pathlib import Path

from ..configs.schema import EvaluateConfig


def run(config: EvaluateConfig) -> None:
    """Write `evaluation.json`, `report.html` and a video beside the policy, and print the rates."""
    from ..configs.policies import load_policy
    from ..configs.schema import device, load_task
    from ..evaluation.evaluate import evaluate
    from ..policy.checkpoint import write_json

    chosen = device(config.device)
    policy, manifest = load_policy(config.run, which=config.checkpoint, device=chosen)
    task = load_task(manifest["task"])
    found = evaluate(
        policy,
        task,
        episodes=config.episodes,
        first_seed=config.first_seed,
        seed=config.seed,
        device=chosen,
        workers=config.workers,
        num_parallel=config.parallel,
        videos=min(config.videos, config.episodes),
    )
    out = Path(config.out or config.run)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "evaluation.json", {"checkpoint": manifest["path"], "step": manifest["step"]} | found.to_json())
    print(found)
    print(f"report: {out / 'report.html'}")
