"""A package of a user that adds an input: `imports=[ceaseless]`, in processes of their own alone."""

from dataclasses import dataclass

import recede
from hands import Hands
from recede.configs.components.inputs import InputConfig
from recede.teleoperation.interface import Order


class Ceaseless(Hands):
    """Begins and keeps one episode after the other, and says so."""

    def orders(self, status):
        if status.phase == "ready":
            return [Order("begin")]
        if status.phase == "recording" and status.seconds > 0.25:
            return [Order("success"), Order("keep")]
        return []


@dataclass(kw_only=True)
class CeaselessConfig(InputConfig):
    """Hands of a package of a user."""

    def build(self, robot):
        return Ceaseless()


recede.add_choice("input", "ceaseless", CeaselessConfig)
