"""Every block of docs/your_task.md and of docs/your_scene.md runs, in order, in a folder of its own."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import recede as library
from recede.datasets.store import DemonstrationStore
from recede.envs.gymnasium_task import Words

ID, MJCF = ((Path(library.__file__).parent / "docs" / page).read_text() for page in ("your_task.md", "your_scene.md"))
FILE = re.compile(r"(?:#|<!--) ([\w/]+\.(?:py|yaml|xml))")
QUICK = {
    "collect": ["episodes=3"],
    "train": ["steps=2"],
    "evaluate": ["episodes=2", "videos=1", "device=cpu"],
    "control": ["episodes=1", "seconds=1", "device=cpu"],
}
"""Command -> what makes it quick."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, on the path, where the files of the document are written as they are read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("reacher", "bench", "bench.task"):
        sys.modules.pop(name, None)


def walked(text, recede, small):
    """Write the files, run the Python and the commands of a text; returns the names of its Python and its outputs."""
    names, results = {}, []
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        file = FILE.match(block)
        if file:
            Path(file[1]).parent.mkdir(exist_ok=True)
            Path(file[1]).write_text(block)
        elif language == "python":
            exec(compile(block, "your_task.md", "exec"), names)
        for line in block.splitlines() if language == "sh" else ():
            arguments = shlex.split(line, comments=True)
            if arguments[0] == "recede":
                more = [*QUICK.get(arguments[1], []), *(small if arguments[1] == "train" else [])]
                results.append((arguments[1], recede(*arguments[1:], *more)))
                assert results[-1][1].status == 0, (line, results[-1][1].err)
    return names, results


@pytest.mark.slow
def test_an_id_becomes_an_evaluated_policy(folder, recede, small):
    names, results = walked(ID, recede, small)
    commands = [command for command, _ in results]
    assert commands == ["check", "check", "collect", "inspect", "replay", "train", "evaluate", "evaluate"]
    (line,) = re.findall(r"```\n(gymnasium:.*?\n)```", ID)
    assert results[0][1].err == results[1][1].err == line
    assert "3 episodes replayed, 3 of them succeed" in results[4][1].out
    assert len(DemonstrationStore.open(folder / "data" / "mine.zarr")) == 3
    assert names["task"].specification == DemonstrationStore.open(folder / "data" / "reacher.zarr").specification
    assert (folder / "runs" / "reacher" / "episode-100000.mp4").exists()


@pytest.mark.slow
def test_a_scene_becomes_an_evaluated_policy(folder, recede, small):
    _, results = walked(MJCF, recede, small)
    assert [command for command, _ in results] == ["check", "collect", "train", "evaluate", "control"]
    assert "256 x 256 pixels" in results[0][1].out
    assert "expert              score" in results[0][1].out


def test_the_table_names_every_key_of_a_mapping():
    (table,) = re.findall(r"\| key \| meaning .*?\n\n", ID, re.DOTALL)
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(Words.__dataclass_fields__)
