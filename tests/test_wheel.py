"""The wheel, built from a clean export through the source distribution, is the whole package and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
SHIPPED = {".py", ".yaml", ".xml", ".html", ".css"}

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def listed_files() -> list[Path]:
    """What a commit of the working tree would hold: no build folder of yesterday is among it."""
    listing = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return [Path(name) for name in listing.split("\0") if name and (ROOT / name).is_file()]


def expected() -> set[str]:
    """The files that the package consists of, as they are called in the wheel."""
    tops = {package.split(".")[1] for package in PACKAGES if "." in package} | {"recipes"}
    inside = [path for path in listed_files() if len(path.parts) == 1 or path.parts[0] in tops]
    code = {path for path in inside if path.suffix in SHIPPED and (path.suffix == ".py" or len(path.parts) > 1)}
    return {f"recede/{path.as_posix()}" for path in code} | {"recede/py.typed"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("an export needs git and a clone")
    export = tmp_path_factory.mktemp("export")
    for path in listed_files():
        (export / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, export / path)
    output = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", output, export, cwd=output)
    return next(output.glob("*.whl"))


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected()
    assert {"recede/py.typed", "recede/specification.py", "recede/envs/tasks/pick_place.xml"} <= names
    assert any(name.endswith(".yaml") for name in names)
    assert not [name for name in names if "test" in Path(name).parts[1]]


@pytest.mark.slow
def test_every_module_loads_from_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    purelib = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    site = Path(run(python, "-c", purelib, cwd=tmp_path).strip())
    # What recede needs is found in our environment; .pth files in there are not read, so this tree stays out of sight.
    ours = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in ours))
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(*pip, "install", "--no-deps", "--no-index", "--ignore-installed", wheel, cwd=tmp_path)

    files = [Path(name) for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    modules = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
    program = "import importlib, sys; [print(importlib.import_module(name).__file__) for name in sys.argv[1:]]"
    loaded = run(python, "-P", "-c", program, *modules, cwd=tmp_path).split("\n")[:-1]
    assert len(loaded) == len(modules)
    assert all(Path(path).is_relative_to(site) for path in loaded), loaded
    assert run(tmp_path / "venv" / "bin" / "recede", "--version", cwd=tmp_path).startswith("recede ")
