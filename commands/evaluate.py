"""`recede evaluate`: measure a policy in closed-loop simulation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..configs.evaluation import EvaluateConfig
from ..configs.notation import command_line, shown


def run(config: EvaluateConfig) -> None:
    """Write `evaluation.json`, the report and the films to `out` or beside the policy, and print the rates."""
    from ..evaluation.delays import measure_all
    from ..evaluation.reports.comparison import table
    from ..evaluation.results import measure, write_results
    from ..files import check_writable

    out = Path(config.out or config.run)
    check_writable(out)
    if len(config.pairs) > 1:
        print(table(measure_all(config, out)))
        print(f"picture: {out / 'delays.png'}")
        return
    measurement = measure(config)
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
    print(measurement.evaluation)
    print(f"report: {out / 'report.html'}")
