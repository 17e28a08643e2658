"""Packages that are broken, missing or of another version are named, with what to install."""

import pytest
from recede.diagnosis.packages import DEVELOPMENT, declared, look_at_packages
from recede.diagnosis.packages import _extras as extras
from recede.diagnosis.packages import _loading as loading
from recede.diagnosis.packages import _versions as versions


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A package that cannot be imported, before the installed one of its name."""
    (tmp_path / "einops.py").write_text("raise ImportError('broken on purpose')")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "einops.py"


def test_a_package_that_cannot_be_loaded_is_named_with_its_place(broken):
    names = {"tqdm": "1", "einops": "2", "filelock": "3"}
    (finding,) = loading(list(names), {"einops"}, names)
    assert finding.severity == "problem"
    assert finding.what == "einops cannot be loaded: ImportError: broken on purpose"
    assert finding.remedy == f"pip install --force-reinstall --no-deps einops==2, or remove {broken} if that is " + (
        "another package of this name"
    )


def test_a_package_that_ends_its_process_does_not_hide_the_others(tmp_path, monkeypatch):
    (tmp_path / "einops.py").write_text("import os; os.abort()")
    (tmp_path / "safetensors.py").write_text("raise SystemExit('bye')")
    monkeypatch.syspath_prepend(tmp_path)
    names = dict.fromkeys(["einops", "tqdm", "safetensors"], "1")
    first, second = loading(list(names), set(), names)
    assert "einops cannot be loaded: it was ended by SIGABRT" in first.what
    assert "safetensors cannot be loaded: SystemExit: bye" in second.what
    assert {first.severity, second.severity} == {"warning"}  # only an extra needs them


def test_what_is_declared_is_read_from_the_package():
    needs = declared()
    assert {"torch", "numpy", "zarr"} <= {requirement.name for requirement in needs.packages[""]}
    assert [requirement.name for requirement in needs.packages["arm"]] == ["pyserial"]
    assert DEVELOPMENT[0] in needs.packages
    assert "3.11" in needs.python


def test_another_version_and_a_missing_package_are_problems():
    requirements = [r for r in declared().packages[""] if r.name in ("numpy", "einops")]
    wrong = list(versions(requirements, {"numpy": "1.26.4", "einops": None}))
    assert [finding.what for finding in wrong] == ["numpy must be >=2.0, got 1.26.4", "einops is missing"]
    assert wrong[0].remedy == "pip install 'numpy>=2.0'"
    (fine,) = versions(requirements, {"numpy": "2.1.0", "einops": "0.8.1"})
    assert fine.severity == "ok"


def test_extras_that_lack_a_package_are_a_note():
    needs, facts = declared(), {}
    present = {requirement.name: "1" for all_of in needs.packages.values() for requirement in all_of}
    absent = [finding for finding in extras(needs, present | {"pyserial": None}, facts) if finding.severity == "note"]
    assert "arm (pyserial)" in absent[0].what
    assert absent[0].remedy == "if you need one: pip install 'recede[arm]'"
    assert "arm" not in facts["extras"]


@pytest.mark.slow
def test_the_packages_of_the_tests_are_fine():
    facts = {}
    assert {finding.severity for finding in look_at_packages(facts)} <= {"ok", "note"}
    assert facts["versions"]["numpy"]
