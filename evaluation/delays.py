"""Success against delay: one policy, evaluated with several executions and delays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..configs.evaluation import EvaluateConfig
from ..configs.notation import command_line
from ..files import read_json_with_digest, write_bytes, write_json_with_digest, write_text
from .reports.comparison import DAMAGED, Result, document
from .reports.delays import draw_delays
from .results import delay_steps, identity, measure, open_subject


def measure_all(config: EvaluateConfig, out: Path) -> list[Result]:
    """Evaluate every pair of an execution and a delay, each in a folder of its own; returns their `evaluation.json`.

    An interrupted command can be repeated: it keeps the results of the same policy and the same options. Also writes a
    picture and a table of all pairs to `out`.

    Raises ValueError, before anything is measured, if chunks are too short for one of the delays.
    """
    subject = open_subject(config)
    for pair in config.pairs:
        (execution,), (delay_ms,) = pair.execution.values(), pair.delays
        delay = delay_steps(delay_ms, subject.engine.specification.control_dt)
        execution.build(subject.engine.horizons, delay=delay)
    results = measure_each(config.parts, out)
    write_bytes(out / "delays.png", draw_delays(results))
    write_text(out / "delays.md", document(results, command=command_line("evaluate", config)))
    return results


def measure_each(configs: Mapping[str, EvaluateConfig], out: Path) -> list[Result]:
    """Evaluate several configurations of one policy, each in the folder of its name; returns their `evaluation.json`.

    An interrupted command can be repeated: it keeps the results of the same policy and the same options.
    """
    results, subject = list[Result](), open_subject(next(iter(configs.values())))
    for name, config in configs.items():
        folder = out / name
        expected = identity(subject.manifest) | {"command": command_line("evaluate", replace(config, out=str(folder)))}
        path = folder / "evaluation.json"
        if path.is_file() and expected.items() <= (result := read_json_with_digest(path, DAMAGED)).items():
            results.append(result)
            continue
        measurement = measure(replace(config, videos=0, out=str(folder)))
        print(f"{name}: {measurement.evaluation}")
        results.append(measurement.to_json() | expected)
        folder.mkdir(parents=True, exist_ok=True)
        write_json_with_digest(path, results[-1])
        measurement.journal.delete()
    return results
