"""The plan of the house: imports only point down its floors, and what is on disk is what is shipped."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
FOLDERS = [ROOT.joinpath(*package.split(".")[1:]) for package in PACKAGES]
FILES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in folder.glob("*.py"))
SOURCES = {path.with_suffix("").parts: (ROOT / path).read_text() for path in FILES}

FLOORS = {
    ("specification",): 0,
    ("files",): 0,
    ("progress",): 0,
    ("interpolation",): 0,
    ("realtime",): 0,
    ("version",): 0,
    ("cluster",): 0,
    ("web",): 1,
    ("datasets",): 1,
    ("envs",): 1,
    ("policy", "denoising"): 1,
    ("policy", "affine"): 2,
    ("policy", "elements"): 2,
    ("policy", "represent"): 2,
    ("policy", "representation"): 2,
    ("policy", "rotations"): 2,
    ("policy", "interface"): 2,
    ("policy", "requests"): 2,
    ("policy", "weights"): 2,
    ("policy", "networks"): 3,
    ("policy", "encoders"): 3,
    ("policy", "normalizer"): 3,
    ("execution",): 3,
    ("policy",): 4,
    ("robots",): 4,
    ("serving",): 5,
    ("teleoperation",): 5,
    ("control",): 6,
    ("recording",): 7,
    ("configs",): 8,
    ("checkpoints",): 9,
    ("evaluation",): 10,
    ("training",): 11,
    ("diagnosis",): 12,
    ("commands",): 13,
    ("__init__",): 14,
    ("__main__",): 14,
}
APART = {"policy", "datasets", "envs"}


def floor(module: tuple[str, ...]) -> int:
    floors = [FLOORS[module[:length]] for length in (2, 1) if module[:length] in FLOORS]
    assert floors, f"{'/'.join(module)} has no floor: give it one in FLOORS"
    return floors[0]


@cache
def nodes(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source)))


def imports(importer: tuple[str, ...], source: str) -> Iterator[tuple[str, ...]]:
    """The modules of the package that `importer` imports, wherever in the file it does."""
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = importer[: len(importer) - node.level] + tuple((node.module or "").split(".") if node.module else ())
            for alias in node.names:
                yield (*base, alias.name) if (*base, alias.name) in SOURCES else base


def is_allowed(importer: tuple[str, ...], imported: tuple[str, ...]) -> bool:
    if importer[0] != imported[0] and {importer[0], imported[0]} <= APART:
        return False
    return floor(imported) < floor(importer) or (importer[0] == imported[0] and floor(imported) == floor(importer))


def test_imports_only_point_down_the_floors() -> None:
    wrong = [
        f"{'/'.join(importer)} must not import {'/'.join(to)}"
        for importer, source in SOURCES.items()
        for to in imports(importer, source)
        if to and not is_allowed(importer, to)
    ]
    assert not wrong


def test_no_files_import_each_other_in_a_circle() -> None:
    """Not even for types, and not inside a function."""
    left = {name: set(imports(name, source)) & set(SOURCES) - {name} for name, source in SOURCES.items()}
    while leaves := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in leaves}
    assert not left, f"these import each other, or import files that do: {sorted(map('/'.join, left))}"


def test_the_rules_know_right_from_wrong() -> None:
    assert is_allowed(("policy", "diffusion"), ("policy", "normalizer"))
    assert is_allowed(("evaluation", "rollout"), ("execution", "interface"))
    assert is_allowed(("training", "loop"), ("evaluation", "evaluate"))
    assert not is_allowed(("evaluation", "evaluate"), ("training", "loop"))
    assert not is_allowed(("policy", "diffusion"), ("datasets", "windows"))
    assert not is_allowed(("datasets", "windows"), ("envs", "task"))
    assert not is_allowed(("policy", "denoising", "sampling"), ("policy", "diffusion"))
    assert not is_allowed(("envs", "task"), ("configs", "choices"))
    assert list(imports(("policy", "networks", "x"), "from ..interface import a\nfrom .. import space")) == [
        ("policy", "interface"),
        ("policy", "space"),
    ]


def absolute_imports(source: str) -> Iterator[str]:
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_inside_the_package_are_relative() -> None:
    own = {"recede"} | {name[0] for name in SOURCES}
    wrong = {
        "/".join(module): absolute
        for module, source in SOURCES.items()
        if (absolute := [name for name in absolute_imports(source) if name.split(".")[0] in own])
    }
    assert not wrong


def test_only_the_evaluation_draws() -> None:
    drawing = {"/".join(name) for name, source in SOURCES.items() if "matplotlib" in source}
    assert {name.split("/")[0] for name in drawing} == {"evaluation"}, drawing


def test_subpackages_hold_a_docstring_only() -> None:
    for name, source in SOURCES.items():
        if name[-1] == "__init__" and len(name) > 1:
            body = ast.parse(source).body
            assert len(body) == 1, f"{'/'.join(name)} holds more than its docstring"
            assert ast.get_docstring(ast.parse(source)), f"{'/'.join(name)} holds no docstring"


def test_every_folder_of_python_files_is_listed_in_pyproject() -> None:
    others = {"tests", "benchmarks", "docs", "examples", "build", "dist", "runs", "outputs", "multirun"}
    packages = {
        ".".join(("recede", *path.parent.relative_to(ROOT).parts))
        for top in (ROOT, *(path for path in ROOT.iterdir() if path.is_dir()))
        if top == ROOT or not (top.name.startswith(".") or top.name in others)
        for path in (top.glob("*.py") if top == ROOT else top.rglob("*.py"))
    }
    assert packages == set(PACKAGES)
    assert all((folder / "__init__.py").is_file() for folder in FOLDERS)


AT_THE_ROOT = {
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff"),
    *("Makefile", "pyproject.toml", "constraints.txt"),
    *(".gitignore", ".pre-commit-config.yaml", ".ci", "py.typed"),
    *("__init__.py", "__main__.py", "specification.py", "files.py", "progress.py", "realtime.py"),
    *("interpolation.py", "cluster.py", "version.py"),
    *("policy", "datasets", "envs", "execution", "robots", "recording", "serving", "control"),
    *("teleoperation", "web"),
    *("configs", "checkpoints", "evaluation", "training", "diagnosis", "commands"),
    *("tests", "benchmarks", "docs", "examples", "recipes"),
}


def test_nothing_but_the_house_stands_at_the_root_of_the_repository() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git, which alone knows what belongs to the repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    strangers = {name.split("/")[0] for name in listed.split("\0") if name} - AT_THE_ROOT
    assert not strangers, f"git tracks {strangers} at the root: delete them, or name them in AT_THE_ROOT"


def test_no_module_is_called_utils() -> None:
    assert not [path for path in FILES if path.stem in ("util", "utils", "helpers", "common", "misc")]
