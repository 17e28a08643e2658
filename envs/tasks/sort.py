"""`sort`: the gantry gripper puts the named one of two cubes onto the named one of two marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...specification import Stream
from ..experts.sort import SortExpert
from ..table_streams import Things
from ..table_worlds import table_worlds
from ..tabletop import (
    CUBE_HALF,
    WITHDRAWN,
    Array,
    TableTask,
    cube_at,
    distance,
    draw_apart,
    holds,
    table_tasks,
)
from ..task import Observation
from ..vector import BatchOf

CUBES, MARKS = ("orange", "blue"), ("teal", "red")
GOALS = tuple(product(CUBES, MARKS))
"""What an episode may ask for: a cube and a mark, in the order of the stream `goal`."""
MARK_TOLERANCE = 0.03
"""Largest distance (m) from the mark's centre at which the whole cube is on the mark (radius 0.06), at any yaw."""
HEIGHT_TOLERANCE = 0.003
"""Largest difference (m) between the height of the cube and that of one which lies flat."""

GOAL = Stream(
    "goal", (4,), units="1", labels=tuple(f"{cube}_on_{mark}" for cube, mark in GOALS), low=0, high=1, context=True
)
"""1 for what the episode asks for, 0 for the three others."""


class Wordings(NamedTuple):
    """The words of sentences; each template is filled with one of each of the others."""

    templates: tuple[str, ...]
    verbs: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]

    def sentence(self, words: Sequence[int], *, cube: str, mark: str) -> str:
        """The sentence with the words of these indices (4,), for the colours of a cube and a mark."""
        template, verb, thing, place = (choices[index] for choices, index in zip(self, words, strict=True))
        return template.format(verb=verb, cube=f"{cube} {thing}", mark=f"{mark} {place}")


PLAIN = (0, 0, 0, 0)
"""The words of an episode that starts in a state, which no seed draws."""


def named(state: Observation) -> tuple[Array, Array]:
    """The cube (..., 5) and the mark (..., 2) that the goal names."""
    goal = state["goal"].argmax(-1)[..., None]
    cube = np.where(goal < len(MARKS), state["orange"], state["blue"])
    return cube, np.where(goal % len(MARKS) == 0, state["teal"], state["red"])


class Sort(TableTask):
    """Put the named cube onto the named mark and withdraw.

    The seed draws which cube goes to which mark; `goal` shows it, and `info["sentence"]` says it, in `wordings` that
    the seed draws too.

    Success: the centre of the named cube is within 3 cm of that of the named mark (the whole cube is on the mark), the
    cube rests on the table, and the gripper has withdrawn above it. The way that the score counts is the straight one
    of the named cube to the named mark. At a reset the cubes are on the near side, turned in any way and at least 10 cm
    apart, and the marks on the far side, at least 14 cm apart.
    """

    scene = "sort.xml"
    things = Things(cubes=CUBES, marks=dict.fromkeys(MARKS, 2), fixed=(GOAL,))
    wordings: ClassVar[Wordings] = Wordings(
        templates=(
            "{verb} the {cube} onto the {mark}",
            "{verb} the {cube} on the {mark}",
            "please {verb} the {cube} onto the {mark}",
            "on the {mark}, {verb} the {cube}",
            "{verb} the {cube} so that it is on the {mark}",
            "the {mark} is where you {verb} the {cube}",
        ),
        verbs=("put", "place", "move", "bring", "shift", "drop"),
        things=("cube", "block", "item", "brick", "toy"),
        places=("mark", "spot", "circle", "area", "zone", "field"),
    )
    """What the sentences are made of."""
    _words: Sequence[int] = PLAIN

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start an episode; a state that `options` hold is asked for in the first words of each kind."""
        self._words = PLAIN
        return super().reset(seed=seed, options=options)

    def draw(self, random: np.random.Generator) -> dict[str, Array]:
        """The cubes and the gripper on the near side, the marks on the far side, and a goal."""
        places = draw_apart(random, (-0.22, -0.12), (-0.08, 0.12), gap=0.1)
        marks = draw_apart(random, (0.08, -0.15), (0.2, 0.15), gap=0.14)
        cubes = [cube_at(place, yaw) for place, yaw in zip(places, random.uniform(-0.78, 0.78, 2), strict=True)]
        gripper = random.uniform((-0.22, -0.12, 0.06, -0.4, 0.0), (-0.08, 0.12, 0.085, 0.4, 0.08))
        goal = np.eye(len(GOALS))[random.integers(len(GOALS))]
        self._words = random.integers([len(choices) for choices in self.wordings]).tolist()
        return {"gripper": gripper, **dict(zip((*CUBES, *MARKS), (*cubes, *marks), strict=True)), "goal": goal}

    def remaining(self, state: Observation) -> Array:
        """The straight way of the named cube to the named mark."""
        cube, mark = named(state)
        return distance(cube, mark).astype(np.float64)

    def is_solved(self, state: Observation, velocities: Array) -> Array:
        """The named cube rests on the named mark, and the gripper has withdrawn."""
        cube, _ = named(state)
        is_flat = np.abs(cube[..., 2] - CUBE_HALF) < HEIGHT_TOLERANCE
        rests = self.rests(velocities)
        is_still = np.where(state["goal"].argmax(-1) < len(MARKS), rests[..., 0], rests[..., 1])
        is_withdrawn = state["gripper"][..., 2] >= WITHDRAWN
        return (self.remaining(state) <= MARK_TOLERANCE) & is_flat & is_still & is_withdrawn

    def sentence(self, state: Observation) -> str:
        """The goal in words."""
        cube, mark = GOALS[int(state["goal"].argmax())]
        return self.wordings.sentence(self._words, cube=cube, mark=mark)


class SortReworded(Sort):
    """`Sort` with the same scenes and other sentences, to try policies on words that no demonstration had."""

    wordings = Wordings(
        templates=(
            "{verb} the {cube} to the {mark}",
            "could you {verb} the {cube} over to the {mark}?",
            "I want you to {verb} the {cube} until it rests upon the {mark}",
            "{verb} the {cube} and leave it at the {mark}",
            "we need the {cube} at the {mark}, so {verb} it there",
        ),
        verbs=("carry", "take", "transport", "deliver", "lift"),
        things=("box", "object", "piece", "die"),
        places=("target", "disc", "dot", "patch", "plate"),
    )


def is_other_goal_met(state: Observation) -> bool:
    """Whether a cube lies on a mark that the goal does not name together."""
    goal = int(state["goal"].argmax())
    return any(
        distance(state[cube], state[mark]) <= MARK_TOLERANCE and abs(state[cube][2] - CUBE_HALF) < HEIGHT_TOLERANCE
        for index, (cube, mark) in enumerate(GOALS)
        if index != goal
    )


def phase(state: Observation) -> str:
    """What the named cube is doing, or the other one if that is carried; or that another goal is met instead."""
    cube, mark = named(state)
    if distance(cube, mark) <= MARK_TOLERANCE:
        return "on the mark, not released"
    if is_other_goal_met(state):
        return "met another goal"
    if holds(state["gripper"], cube):
        return "carrying"
    is_other = any(holds(state["gripper"], state[name]) for name in CUBES)
    return "carrying the other cube" if is_other else "before the grasp"


SORT, SORT_IMAGE = table_tasks("sort", Sort, SortExpert, phase)
SORT_REWORDED = replace(SORT, name="sort_reworded", make=SortReworded, make_batch=BatchOf(table_worlds, SortReworded))
