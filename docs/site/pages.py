"""A hook of MkDocs: the pages of the site are the documents where they lie, so their links lead as on disk.

MkDocs would take `docs/` alone, and the README, the examples and the code that pages link to lie beside it.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PLACES = (
    "*.md",
    "CITATION.cff",
    "docs/*.md",
    "docs/*.png",
    "docs/*.svg",
    "docs/site/*.js",
    "docs/site/*.css",
    "examples/*",
)
CODE = ("envs/tasks/*", "envs/experts/*")
WIDE = ("docs/coming_from.md", "docs/results.md")
"""Pages whose table needs the room of the table of contents."""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The documents, their pictures, and the code that they link to, under their paths in the repository."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    paths = sorted({path for place in (*PLACES, *CODE) for path in ROOT.glob(place) if path.is_file()})
    return Files([*theme, *(_file(path, config) for path in paths)])


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> None:
    """Widen a page with a wide table."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["toc"]


def _file(path: Path, config: MkDocsConfig) -> File:
    return File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
