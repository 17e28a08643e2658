"""Names say what a thing is, not that somebody saw, said or found it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0][0] != ".")
EMPTY = {"found", "each", "told", "said", "seen", "wanted", "asked", "given", "known"}
"""Participles and pronouns that could name anything. `given` of hypothesis is an import, not a name of ours."""


def names(source: str) -> set[str]:
    """The variables and the arguments that a file names."""
    tree = list(ast.walk(ast.parse(source)))
    stored = {node.id for node in tree if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.arg for node in tree if isinstance(node, ast.arg)}


def empty_names(path: Path) -> set[str]:
    source = (ROOT / path).read_text()
    empty = EMPTY & set(re.findall(r"\w+", source))  # few files hold such a word at all: the others are not parsed
    return empty and empty & names(source)


def test_a_name_says_what_it_names() -> None:
    assert Path("tests/test_language.py") in FILES
    wrong = {str(path): sorted(empty) for path in FILES if (empty := empty_names(path))}
    assert not wrong, "these say nothing of the thing: name the stream, the match, the reading, ..."


def test_the_rule_sees_empty_names() -> None:
    assert names("def f(told): return [each for each in told]") == {"told", "each"}
