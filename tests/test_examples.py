"""Every example is short, complete, listed, and runs to its end in a folder of its own: `make examples`."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from recede.configs.choices import CHOICES

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
SAYS = {
    "compare": r"mean scores differ by [+-]0\.\d{3}",
    "control_loop": r"episode 100002: \d+ steps, \d+ chunks",
    "custom_encoder": r"Waves reach: success",
    "custom_guidance": r"and 0\.1[45]\d m with guidance",
    "custom_robot": r"all right: the robot",
    "custom_sampler": r"two_step +in 5 steps is \d",
    "custom_task": r"10 demonstrations",
    "fan": r"fan\.png",
    "read_store": r"a table of \d+ rows and 17 columns",
    "train": r"over 20 episodes",
}
"""Example -> what it prints in the end."""


@pytest.fixture(autouse=True)
def choices() -> Iterator[None]:
    """An example may add a choice, which no other test shall have."""
    before = {slot: dict(options) for slot, options in CHOICES.items()}
    yield
    for slot, options in CHOICES.items():
        options.clear()
        options.update(before[slot])


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), str(tmp_path)])
    runpy.run_path(str(path), run_name="__main__")
    assert re.search(SAYS[path.stem], capsys.readouterr().out)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_needs_the_package_alone(path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(text)) or "")
    assert f"]({path.name})" in (FOLDER / "README.md").read_text()
    assert "sys.path" not in text


def test_there_are_ten() -> None:
    assert {path.stem for path in EXAMPLES} == SAYS.keys()
    assert len(SAYS) == 10
