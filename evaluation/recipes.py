"""Recipes: published figures, the commands that reproduce them, and the rule by which a new measurement agrees.

A recipe is a YAML file. It holds commands of recede and nothing else, so to run one is as safe as to type it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..files import interpreting
from ..specification import nearest
from .intervals import Interval, difference, wilson

FOLDER = Path(__file__).parents[1] / "recipes"
"""The recipes that come with recede."""

REMEDY = "docs/recipes.md shows how a recipe is written"


@dataclass(frozen=True)
class Figure:
    """A published success rate."""

    name: str
    """What succeeds, in a few words."""
    evaluations: tuple[str, ...]
    """The folders with the evaluation.json of each training, whose episodes count together."""
    successes: int
    episodes: int
    """Of all evaluations."""
    interval: tuple[float, float]
    """The 95 % interval as published, in percent. It must be Wilson's, rounded to tenths."""

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.episodes or not self.episodes:
            raise ValueError(f"successes must be 0 .. episodes={self.episodes}, got {self.successes}")
        expected = tuple(round(100 * bound, 1) for bound in wilson(self.successes, self.episodes))
        if tuple(self.interval) != expected:
            raise ValueError(
                f"interval must be that of {self.successes} of {self.episodes} episodes (Wilson), "
                f"[{expected[0]}, {expected[1]}], got {list(self.interval)}"
            )


@dataclass(frozen=True)
class Recipe:
    """A published figure, or several, and how to reproduce them."""

    name: str
    """The name of its file."""
    summary: str
    """What is trained on what."""
    published: str
    """The page that shows the figures."""
    processor: str
    """What computed them."""
    time: str
    """How long that took there."""
    steps: tuple[str, ...]
    """Commands of recede without the word `recede`, in their order. Their paths are relative to one folder."""
    figures: tuple[Figure, ...]


def recipe_names() -> list[str]:
    """The names of the recipes that come with recede."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(name: str) -> Recipe:
    """The recipe of a file, or one that comes with recede by its name.

    Raises ValueError if there is none of this name, or if the file is not a recipe.
    """
    path = Path(name)
    if path.suffix != ".yaml":
        if name not in recipe_names():
            raise ValueError(
                f"recipe must be a file that ends in .yaml or a name, got {name!r}: {nearest(name, recipe_names())}"
            )
        path = FOLDER / f"{name}.yaml"
    with interpreting(path, REMEDY, ValueError):
        content = _content(path.read_text(encoding="utf-8"))
        _check_texts(content)
        figures = tuple(_made(Figure, dict(figure)) for figure in content.pop("figures", ()))
        return _made(Recipe, {"name": path.stem, **content, "figures": figures})


def _check_texts(content: Mapping[str, Any]) -> None:
    """Raises ValueError unless there are steps and figures, and everything but the figures is text."""
    if not content.get("steps") or not content.get("figures"):
        raise ValueError("a recipe must have steps and figures")
    for text in [value for key, value in content.items() if key not in ("steps", "figures")] + content["steps"]:
        if not isinstance(text, str):
            raise ValueError(f"everything but the figures must be texts, got {text!r}: write it between quotes")


def _content(text: str) -> dict[str, Any]:
    """The mapping of a YAML text. Raises ValueError if it is none."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    if not isinstance(content, dict):
        raise ValueError(f"a recipe must be a mapping, got {str(content)[:100]!r}")
    return {str(key): value for key, value in content.items()}


def _made(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass; lists become tuples. Raises ValueError for a key too many or too few."""
    keys = {field.name for field in fields(kind)}
    if wrong := values.keys() ^ keys:
        raise ValueError(f"{kind.__name__.lower()}: the keys must be {sorted(keys)}, but {sorted(wrong)} differ")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


@dataclass(frozen=True)
class Verdict:
    """A published figure beside a new measurement of it."""

    figure: Figure
    successes: int
    episodes: int

    @property
    def difference(self) -> Interval:
        """The 95 % interval of the measured rate minus the published one."""
        return difference((self.successes, self.episodes), (self.figure.successes, self.figure.episodes))

    @property
    def word(self) -> str:
        """agrees, if the interval of the difference includes 0; else higher or lower."""
        low, high = self.difference
        return "agrees" if low <= 0 <= high else "higher" if low > 0 else "lower"

    def __str__(self) -> str:
        """One line for each of the two rates, and the verdict."""
        low, high = self.difference
        return (
            f"{self.figure.name}\n"
            f"  published  {_rate(self.figure.successes, self.figure.episodes)}\n"
            f"  measured   {_rate(self.successes, self.episodes)}\n"
            f"  {self.word}: the difference is {100 * low:+.1f} to {100 * high:+.1f} points (95 % interval)"
        )

    def to_json(self) -> dict[str, Any]:
        """The figure by its name, what was measured, and the verdict."""
        return {
            "name": self.figure.name,
            "published": [self.figure.successes, self.figure.episodes],
            "measured": [self.successes, self.episodes],
            "verdict": self.word,
        }


def _rate(successes: int, episodes: int) -> str:
    low, high = wilson(successes, episodes)
    return f"{100 * successes / episodes:.1f} % ({100 * low:.1f} to {100 * high:.1f} %) of {episodes} episodes"


def judge(figure: Figure, results: Sequence[Mapping[str, Any]]) -> Verdict:
    """Compare a published figure with the contents of the `evaluation.json` of all its trainings.

    Raises ValueError if they have another number of episodes than was published.
    """
    successes = sum(sum(map(bool, result["success"])) for result in results)
    episodes = sum(result["episodes"] for result in results)
    if episodes != figure.episodes:
        raise ValueError(f"{figure.name}: {figure.episodes} episodes were published, and {episodes} measured")
    return Verdict(figure, successes, episodes)
