"""The packages that Recede needs: their versions, the extras, and whether each can be loaded at all."""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Iterator, Sequence
from importlib import import_module, metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .children import NoAnswer, answers, described
from .report import Facts, Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OWN, DEVELOPMENT = "recede", ("dev", "docs")

IMPORT_S = 90.0
"""Longest time to load a package, s: a cold disk takes its time."""

MODULES = {
    "mcap-ros2-support": "mcap_ros2",
    "pillow": "PIL",
    "hydra-core": "hydra",
    "hydra-joblib-launcher": "hydra_plugins.hydra_joblib_launcher",
    "hydra-submitit-launcher": "hydra_plugins.hydra_submitit_launcher",
    "pyserial": "serial",
    "diffusers": "diffusers.schedulers",
}
"""Package -> what to import of it, where that has another name."""


class Declared(NamedTuple):
    """What Recede needs."""

    python: str
    """The versions of Python."""
    packages: dict[str, list[Requirement]]
    """Extra -> its packages, and those without an extra under ""."""


def declared() -> Declared:
    """What the installed Recede needs, or the checkout if it was never installed but stands on the path of Python."""
    from packaging.requirements import Requirement

    packages: dict[str, list[Requirement]] = {"": []}
    try:
        about = metadata.metadata(OWN)
        requirements = [Requirement(text) for text in metadata.requires(OWN) or []]
    except metadata.PackageNotFoundError:
        project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
        extras = {"": project["dependencies"], **project["optional-dependencies"]}
        texts = {extra: [Requirement(text) for text in packages] for extra, packages in extras.items()}
        return Declared(project["requires-python"], texts)
    for extra in ("", *(about.get_all("Provides-Extra") or [])):
        others = packages[""] if extra else []
        packages[extra] = [r for r in requirements if r not in others and _is_of(r, extra)]
    return Declared(about["Requires-Python"] or "", packages)


def _is_of(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def installed(name: str) -> str | None:
    """The version of a package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def look_at_packages(facts: Facts) -> Iterator[Finding]:
    """Versions that fit, extras, and packages that cannot be loaded."""
    from packaging.specifiers import SpecifierSet

    needs = declared()
    if not SpecifierSet(needs.python).contains(platform.python_version(), prereleases=True):
        text = f"Python must be {needs.python}, got {platform.python_version()}"
        yield Finding("problem", text, "make an environment with such a Python")
    versions: dict[str, str | None] = {OWN: installed(OWN)}
    for extra, requirements in needs.packages.items():
        if extra not in DEVELOPMENT:
            versions |= {requirement.name: installed(requirement.name) for requirement in requirements}
    facts["versions"] = versions
    core = {requirement.name for requirement in needs.packages[""]}
    yield from _versions(needs.packages[""], versions)
    yield from _extras(needs, versions, facts)
    loaded = [name for name, version in versions.items() if version is not None and name != OWN]
    yield from _loading(loaded, core, versions)


def _versions(requirements: Sequence[Requirement], versions: dict[str, str | None]) -> Iterator[Finding]:
    """Whether the packages that everything needs are there, and fit."""
    wrong = 0
    for requirement in requirements:
        version = versions[requirement.name]
        if text := _misfit(requirement, version):
            wrong += 1
            yield Finding("problem", text, f"pip install '{requirement.name}{requirement.specifier}'")
    if not wrong:
        shown = ", ".join(f"{r.name} {versions[r.name]}" for r in requirements)
        yield Finding("ok", f"all packages fit: {shown}")


def _misfit(requirement: Requirement, version: str | None) -> str:
    if version is None:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} must be {requirement.specifier}, got {version}"


def _extras(needs: Declared, versions: dict[str, str | None], facts: Facts) -> Iterator[Finding]:
    """Which extras are there. Packages of another version than an extra needs are a warning."""
    absent, present = list[str](), list[str]()
    for extra, requirements in needs.packages.items():
        if extra in ("", *DEVELOPMENT):
            continue
        missing = [requirement.name for requirement in requirements if versions[requirement.name] is None]
        (absent if missing else present).append(f"{extra} ({', '.join(missing)})" if missing else extra)
        for requirement in requirements:
            version = versions[requirement.name]
            if version is not None and (text := _misfit(requirement, version)):
                yield Finding("warning", f"extra {extra}: {text}", f"pip install 'recede[{extra}]'")
    facts |= {"extras": present, "missing extras": absent}
    if present:
        yield Finding("ok", f"extras: {', '.join(present)}")
    if absent:
        name = absent[0].partition(" ")[0]
        remedy = f"if you need one: pip install 'recede[{name}]'"
        yield Finding("note", f"extras that are not installed, with what they lack: {', '.join(absent)}", remedy)


def _loading(names: Sequence[str], core: set[str], versions: dict[str, str | None]) -> Iterator[Finding]:
    """Packages that cannot be loaded, as tried in another process."""
    left, broken = list(names), 0
    while left:
        for reason in answers(load, left, seconds=IMPORT_S):
            name = left.pop(0)
            if reason:
                broken += 1
                text = reason.reason if isinstance(reason, NoAnswer) else reason
                remedy = f"pip install --force-reinstall --no-deps {name}=={versions[name]}"
                place = _place(name)
                remedy += f", or remove {place} if that is another package of this name" if place else ""
                severity = "problem" if name in core else "warning"
                yield Finding(severity, f"{name} cannot be loaded: {text}", remedy)
    if not broken:
        yield Finding("ok", f"all {len(names)} packages can be loaded")


def load(names: Sequence[str]) -> Iterator[str]:
    """Import packages in turn: what went wrong with each, or nothing."""
    for name in names:
        try:
            _import(name)
        except (Exception, SystemExit) as error:
            yield described(error) or type(error).__name__
        else:
            yield ""


def _module(name: str) -> str:
    return MODULES.get(name, name.replace("-", "_"))


def _import(name: str) -> Any:
    if name == "openvino":
        from ..policy.engines.open_vino import library

        return library()  # plainly imported, it reports over the network
    return import_module(_module(name))


def _place(name: str) -> str:
    """The file that is imported, if it is none of the installed package; empty otherwise."""
    try:
        spec = PathFinder.find_spec(_module(name).partition(".")[0])  # whatever this process has loaded
        origin = "" if spec is None else spec.origin or ""
        home = str(metadata.distribution(name).locate_file(""))
    except (ImportError, ValueError, metadata.PackageNotFoundError):
        return ""
    return "" if Path(origin).is_relative_to(home) else origin
