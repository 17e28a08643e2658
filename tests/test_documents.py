"""The documents hold together: links lead somewhere, the index names every page, and the first programs run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recede.datasets.store import DemonstrationStore
from recede.envs.catalogue import load_task
from recede.specification import Specification, Stream

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("examples/*.md")])


def prose(document: Path) -> str:
    """The text of a document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.S | re.M)


def links(document: Path) -> list[str]:
    """The targets of its links and pictures inside the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(document))
    return [target for target in targets if not re.match("[a-z]+:", target)]


def anchors(document: Path) -> set[str]:
    """The anchors of its headings."""
    headings = re.findall(r"^#+ (.*)$", prose(document), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def programs(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in links(document):
        path, _, anchor = target.partition("#")
        place = (document.parent / path).resolve() if path else document
        assert place.exists(), f"{document.name} links to {target}"
        assert not anchor or anchor in anchors(place), f"{document.name} links to {target}, which has no such heading"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs/README.md"
    named = {target.partition("#")[0] for target in links(index)}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= named | {index.name}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_mark_of_a_merge_is_left(document: Path) -> None:
    assert not re.findall(r"^(?:<{7}|={7}|>{7})(?: .*)?$", document.read_text(), flags=re.M)


LONG = {"LOG.md", "commands.md", "python.md", "your_parts.md"}
"""The log, the generated reference, and a page that holds a package whole."""


def test_a_page_is_short() -> None:
    lengths = {page.name: len(page.read_text().splitlines()) for page in (ROOT / "docs").glob("*.md")}
    assert not {name: length for name, length in lengths.items() if length > 200 and name not in LONG}


def test_the_citation_names_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_program_of_the_readme_trains_and_predicts(
    reaches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = programs("README.md")
    settings = {"steps=2000": "steps=2, batch_size=8", "episodes=20": "episodes=1, is_timed=False"}
    for shown, short in {'"pick_place"': '"toys:REACH"', **settings}.items():
        assert shown in program
        program = program.replace(shown, short)
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/pick_place.zarr").symlink_to(reaches)
    names: dict[str, object] = {}
    exec(program, names)
    prepared, chunk = names["prepared"], names["chunk"]
    assert chunk.shape == (1, prepared.policy.horizons.prediction, 2)
    assert "over 1 episodes" in capsys.readouterr().out


def test_the_programs_about_data_fill_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (program, *_) = programs("docs/your_data.md")
    names: dict[str, object] = {}
    exec(program, names)
    assert len(names["store"]) == 1


ELSEWHERE = {
    "README.md": "test_documents.py",
    "docs/choices.md": "policy/test_likelihood.py",
    "docs/deploy.md": "test_documents.py",
    "docs/inputs.md": "teleoperation/test_record_page.py",
    "docs/python.md": "test_doctests.py",
    "docs/safety.md": "robots/test_your_robot.py",
    "docs/serving.md": "serving/test_client.py",
    "docs/so_arm.md": "robots/test_your_robot.py",
    "docs/your_data.md": "test_documents.py",
    "docs/your_parts.md": "configs/test_open_tables.py",
    "docs/your_robot.md": "robots/test_your_robot.py",
    "docs/your_scene.md": "envs/test_your_task.py",
    "docs/your_task.md": "envs/test_your_task.py",
}
"""Page -> the file of tests that runs its blocks of Python."""
HERE = {"docs/context.md", "docs/guidance.md", "docs/quality.md", "docs/table.md"}


def run_block(name: str, **names: object) -> dict[str, Any]:
    """Run the one block of Python of a page with the names that its text presupposes; returns all names."""
    (program,) = programs(name)
    exec(compile(program, name, "exec"), names)
    return names


def test_every_block_of_python_is_run() -> None:
    pages = {page.relative_to(ROOT).as_posix() for page in DOCUMENTS if "```python" in page.read_text()}
    assert pages == ELSEWHERE.keys() | HERE
    for page, test in ELSEWHERE.items():
        text = (ROOT / "tests" / test).read_text()
        assert Path(page).name in text or "doctest.testmod" in text


def test_the_block_about_context_describes_a_policy() -> None:
    specification = run_block("docs/context.md")["specification"]
    assert [stream.name for stream in specification.context] == ["goal", "task"]


def test_the_block_about_guidance_states_energies() -> None:
    names = run_block("docs/guidance.md")
    observation = {"cube": torch.zeros(1, 2, 3)}
    near, far = torch.zeros(1, 4, 5), torch.ones(1, 4, 5)
    energy = names["away_from_the_cube"]
    assert energy(near, observation) == pytest.approx(4 * 50)
    assert energy(far, observation) == 0
    assert len(names["guidance"].energies) == 2


def test_the_block_about_facts_notes_them(tmp_path: Path) -> None:
    stream = Stream("state", (1,))
    specification = Specification((stream,), Stream("action", (1,)), control_dt=0.1)
    store = DemonstrationStore.create(tmp_path / "mine.zarr", specification)
    rows = np.zeros((3, 1), np.float32)
    run_block("docs/quality.md", store=store, streams={"state": rows, "action": rows})
    assert store.episode_facts[0].notes == {"light": "dim"}


def test_the_block_about_worlds_steps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sort = load_task("sort")
    few = replace(sort, make_batch=lambda count: sort.make_batch(count // 500))
    monkeypatch.setattr("recede.envs.catalogue.load_task", lambda name: few)
    names = run_block("docs/table.md", actions=np.zeros((2, 5), np.float32))
    assert names["reward"].shape == (2,)


@pytest.mark.slow
def test_the_program_of_the_robot_predicts_without_torch(trained: Path, tmp_path: Path, recede) -> None:
    pytest.importorskip("onnxruntime")
    assert recede("export", trained, f"out={tmp_path / 'deploy/pick_place'}", "engine=onnx").status == 0
    (program,) = programs("docs/deploy.md")
    program += "\nimport sys\nassert 'torch' not in sys.modules\nprint(chunk.shape)\n"
    done = subprocess.run([sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(1, 16, 2)\n"
