"""Success against delay: one policy, evaluated under several executions and delays."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..configs.evaluation import EvaluateConfig
from ..configs.notation import command_line
from ..files import read_json, write_json, write_text
from .reports.comparison import document
from .results import delay_steps, load, measure, subject


def measure_all(config: EvaluateConfig, out: Path) -> list[Mapping[str, Any]]:
    """The content of an `evaluation.json` for every pair of an execution and a delay, each in a folder of its own.

    What is there already, of the same policy and the same command, is not measured again: so an interrupted command
    goes on when it is given again. A picture and a table of all of them are written to `out` too.

    Raises ValueError, before anything is measured, where chunks are too short for one of the delays.
    """
    loaded = load(config)
    about, results = subject(loaded.manifest), []
    for pair in config.pairs:
        (execution,), (delay_ms,) = pair.execution.values(), pair.delays
        delay = delay_steps(delay_ms, loaded.engine.specification.control_dt)
        execution.build(loaded.engine.horizons, delay=delay)
    for pair in config.pairs:
        (name,) = pair.execution
        folder = out / f"{name}-{pair.delay_ms:g}ms"
        asked = about | {"command": command_line("evaluate", replace(pair, out=str(folder)))}
        path = folder / "evaluation.json"
        if path.is_file() and asked.items() <= (found := read_json(path)).items():
            results.append(found)
            continue
        measured = measure(replace(pair, videos=0))
        print(f"{name}, {pair.delay_ms:g} ms: {measured.evaluation}")
        results.append(measured.to_json() | asked)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, results[-1])
    (out / "delays.png").write_bytes(draw(results))
    table = document(results, command=command_line("evaluate", config))
    write_text(out / "delays.md", table)
    return results


def draw(results: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG of the success rate against the delay, a line for each execution, with 95 % intervals."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    lines: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        lines.setdefault(result["execution"]["choice"], []).append(result)
    span = max(result["delay_ms"] for result in results) or 1.0
    figure = Figure(figsize=(7.5, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, (name, line) in enumerate(lines.items()):
        aside = 0.006 * span * (place - (len(lines) - 1) / 2)  # so that intervals do not hide one another
        delays = [result["delay_ms"] + aside for result in line]
        rates = [100 * result["success_rate"] for result in line]
        low, high = 100 * np.transpose([result["success_rate_95"] for result in line])
        errors = np.stack([rates - low, high - rates])
        colour = colormaps["tab10"](place)
        axes.errorbar(delays, rates, yerr=errors, label=name, color=colour, marker="o", markersize=4, capsize=2, lw=1.5)
    first = results[0]
    axes.set(xlabel="delay of a chunk, ms", ylabel="success, %", ylim=(0, 103))
    axes.set_title(f"{first['task']}: {first['episodes']} episodes a point, 95 % intervals", loc="left", fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
