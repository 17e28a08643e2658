"""`recede evaluate`: measure a policy in closed-loop simulation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..configs.evaluation import EvaluateConfig
from ..configs.notation import command_line, shown


def run(config: EvaluateConfig) -> None:
    """Write `evaluation.json`, the report and the films to `out` or beside the policy, and print the rates.

    Raises FileNotFoundError if there is no policy, ValueError if another process writes results there, and, after
    everything is written, if an episode broke off.
    """
    from ..checkpoints.runs import existing
    from ..files import check_writable, exclusive

    out = Path(config.out or config.run)
    check_writable(out)
    existing(Path(config.run))
    with exclusive(out, "being written", name=".results.lock"):  # not the lock of a training, which may go on
        _evaluate(config, out)


def _evaluate(config: EvaluateConfig, out: Path) -> None:
    from ..evaluation.delays import measure_all
    from ..evaluation.reports.comparison import table
    from ..evaluation.results import measure, write_results

    if len(config.pairs) > 1:
        results = measure_all(config, out)
        print(table(results))
        print(f"picture: {out / 'delays.png'}")
        if num := sum(len(result.get("broken", ())) for result in results):
            raise ValueError(
                f"{num} of {sum(result['episodes'] for result in results)} episodes broke off and count as failed: "
                f"the evaluation.json files in {out} name them"
            )
        return
    measurement = measure(config)
    print(measurement.evaluation)
    again = partial(shown, "evaluate", config.run, task=config.task, imports=config.imports)
    write_results(
        out,
        [measurement],
        title=f"{measurement.name} on {measurement.task.name}",
        command=command_line("evaluate", config),
        next_steps=[
            (again(episodes=200), "a narrower interval"),
            (again(first_seed=200_000), "other unseen seeds"),
            (again(delay_ms=[0, 200], execution=["receding", "rtc"]), "with late chunks"),
        ],
    )
    print(f"report: {out / 'report.html'}")
    if measurement.evaluation.faults:
        raise ValueError(f"{measurement.evaluation.broken}; {out / 'evaluation.json'} names all of them")
