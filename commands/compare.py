"""`recede compare`: put many evaluations into one table, or compare policies in the episodes that they share."""

from __future__ import annotations

from pathlib import Path

from ..configs.evaluation import CompareConfig
from ..configs.notation import command_line


def run(config: CompareConfig) -> None:
    """Print the table, or write it as a document with `out`; add the evaluations to a file with `lines`."""
    if isinstance(config.results, list):
        _compare_pairs(config, config.results)
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
