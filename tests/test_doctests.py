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
MODULES = sorted(
    package if path.stem == "__init__" else f"{package}.{path.stem}"
    for package in PACKAGES
    for path in ROOT.joinpath(*package.split(".")[1:]).glob("*.py")
)


def test_recede_is_this_folder() -> None:
    assert Path(str(recede.__file__)).resolve().parent == ROOT


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(name)
    if ">>>" not in Path(str(module.__file__)).read_text():
        return  # to look for examples takes longer than to load a module
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(module).failed == 0
    assert not list(tmp_path.iterdir()), "an example leaves files behind"


def test_examples_are_found() -> None:
    assert doctest.testmod(importlib.import_module("recede.specification")).attempted >= 5
