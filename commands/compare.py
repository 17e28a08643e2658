"""`recede compare`: one table of many evaluations."""

from __future__ import annotations

from pathlib import Path

from ..configs.schema import CompareConfig, command_line


def run(config: CompareConfig) -> None:
    """Print the table of every `evaluation.json` below a folder, or write it as a document."""
    from ..evaluation.comparison import document, find, table
    from ..files import write_text

    results = find(Path(config.folder))
    if config.out is None:
        print(table(results), end="")
        return
    write_text(Path(config.out), document(results, command=command_line("compare", config)))
    print(f"table of {len(results)} evaluations: {config.out}")
