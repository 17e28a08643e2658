"""The configuration of `recede reproduce`."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import PathName
from .packages import CommandConfig


@dataclass(kw_only=True)
class ReproduceConfig(CommandConfig):
    """Run the commands of a recipe, one after the other, and compare what they measure with the published figure.

    A finished command is not repeated, so the same line goes on after an interruption.
    """

    recipe: PathName
    """Name of a recipe that comes with recede, see docs/recipes.md; or a file of yours that ends in .yaml."""
    out: PathName | None = None
    """Folder for everything that the commands write. null is runs/reproduce/NAME."""
