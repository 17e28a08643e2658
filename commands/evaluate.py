"""`recede evaluate`: measure a policy in closed-loop simulation."""

from __future__ import annotations

from pathlib import Path

from ..configs.evaluation import EvaluateConfig
from ..configs.notation import command_line


def run(config: EvaluateConfig) -> None:
    """Write `evaluation.json`, the report and the films to `out` or beside the policy, and print the rates.

    Raises ValueError, after everything is written, if an episode broke off.
    """
    from ..evaluation.delays import measure_all
    from ..evaluation.reports.comparison import table
    from ..evaluation.results import measure, write_results
    from ..files import check_writable

    out = Path(config.out or config.run)
    check_writable(out)
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
    measurement, again = measure(config), f"recede evaluate {config.run}{config.again}"
    print(measurement.evaluation)
    write_results(
        out,
        [measurement],
        title=f"{measurement.name} on {measurement.task.name}",
        command=command_line("evaluate", config),
        next_steps=[
            (f"{again} episodes=200", "a narrower interval"),
            (f"{again} first_seed=200000", "other unseen seeds"),
            (f"{again} delay_ms=[0,200] execution=[receding,rtc]", "with late chunks"),
        ],
    )
    print(f"report: {out / 'report.html'}")
    if measurement.evaluation.faults:
        raise ValueError(f"{measurement.evaluation.broken}; {out / 'evaluation.json'} names all of them")
