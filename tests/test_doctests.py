"""Every example in a docstring runs, and every module loads by its recede name from this very folder."""

from __future__ import annotations

import doctest
import importlib
import tomllib
from pathlib import Path

import pytest
import recede

ROOT = Path(__file__).parents[1]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
MODULES = {
    package if path.stem == "__init__" else f"{package}.{path.stem}": path
    for package in PACKAGES
    for path in sorted(ROOT.joinpath(*package.split(".")[1:]).glob("*.py"))
}


def test_recede_is_this_folder() -> None:
    assert Path(str(recede.__file__)).resolve().parent == ROOT


def test_every_module_loads_from_this_folder() -> None:
    for name, path in MODULES.items():
        assert Path(str(importlib.import_module(name).__file__)).resolve() == path.resolve()


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if ">>>" in path.read_text()])
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name)).failed == 0
    assert not list(tmp_path.iterdir()), "an example leaves files behind"


def test_examples_are_found() -> None:
    assert doctest.testmod(importlib.import_module("recede.specification")).attempted >= 5
