"""Every notebook of the examples is listed, holds no outputs, and its cells run in their order.

They run in one namespace, as plain Python: a kernel would bring forty packages, and prove the kernel as well.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SAYS = {
    "comparing": r"difference [+-]\d+ points \(95 % interval .*decided after 30 episodes: ",
    "two_ways": r"\d+ chunks pass on the left, \d+ on the right, \d+ hit the obstacle",
}
"""Notebook -> what it prints in the end, and what it is about."""


def cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_cells_run_in_their_order(path, tmp_path, monkeypatch, capsys) -> None:
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("agg")  # no window
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells(path), start=1):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), namespace)
    assert pyplot.get_fignums()
    pyplot.close("all")
    assert re.search(SAYS[path.stem], capsys.readouterr().out, re.DOTALL)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_small_stripped_and_listed(path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert sum(len(cell["source"]) for cell in content["cells"]) <= 120
    assert f"]({path.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_no_notebook_is_forgotten() -> None:
    assert {path.stem for path in NOTEBOOKS} == SAYS.keys()
