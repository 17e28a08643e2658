"""`recede compare`: put many evaluations into one table, or compare policies in the episodes that they share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..configs.evaluation import CompareConfig
from ..configs.notation import command_line

if TYPE_CHECKING:
    from ..evaluation.sweeps import Sweep


def run(config: CompareConfig) -> None:
    """Print the table, or write it as a document with `out`; add the evaluations to a file with `lines`."""
    if isinstance(config.results, list):
        _compare_pairs(config, config.results)
        return
    from ..evaluation.sweeps import read_sweep

    if config.lines is None and (sweep := read_sweep(Path(config.results))) is not None:
        _compare_sweep(config, Path(config.results), sweep)
        return
    from ..evaluation.reports.comparison import document, find_evaluations, table, write_lines
    from ..files import write_text

    results = find_evaluations(Path(config.results))
    if config.lines is not None:
        count = write_lines(Path(config.lines), results)
        print(f"{len(results)} evaluations added, {count} in all: {config.lines}")
    if config.out is not None:
        write_text(Path(config.out), document(results, command=command_line("compare", config)))
        print(f"table of {len(results)} evaluations: {config.out}")
    elif config.lines is None:
        print(table(results), end="")


def _compare_pairs(config: CompareConfig, sources: list[str]) -> None:
    from ..evaluation.reports.paired import find_one, paired_text
    from ..files import write_text

    results = {source: find_one(Path(source)) for source in sources}
    if config.out is None:
        print(paired_text(results), end="")
    else:
        write_text(Path(config.out), paired_text(results, command=command_line("compare", config)))
        print(f"comparison of {len(results)} policies: {config.out}")


def _compare_sweep(config: CompareConfig, folder: Path, sweep: Sweep) -> None:
    """Print the table of a sweep and draw it into its folder, or write both as a document and a picture beside it."""
    from ..evaluation.reports.sweep import draw, find_rows, sweep_text
    from ..files import write_bytes, write_text

    rows, missing = find_rows(folder, sweep)
    picture = folder / "success.png" if config.out is None else Path(config.out).with_suffix(".png")
    write_bytes(picture, draw(rows))
    if config.out is None:
        print(sweep_text(folder, rows, missing), end="")
    else:
        command = command_line("compare", config)
        write_text(Path(config.out), sweep_text(folder, rows, missing, picture=picture.name, command=command))
        print(f"comparison of {len(rows)} combinations of values: {config.out}")
    print(f"picture: {picture}")
