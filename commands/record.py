"""`recede record`: a person drives a robot, and the episodes become demonstrations."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..configs.components.robots import SimulatedRobotConfig
from ..configs.recording import RecordConfig
from .hands import build_hands, facts_of
from .next_lines import print_train


def run(config: RecordConfig) -> None:
    """Record until there are enough episodes, or until somebody ends it; print how to go on."""
    from ..datasets.facts import EpisodeFacts
    from ..datasets.store import DemonstrationStore
    from ..recording.session import RecordingSession
    from ..recording.stores import open_or_create
    from ..robots.simulated import SimulatedRobot
    from ..robots.simulation import check_controllable

    chosen = config.robot
    if isinstance(chosen, SimulatedRobotConfig):
        if chosen.task not in (None, config.task):
            raise ValueError(f"task and robot.task must be one task, got {config.task} and {chosen.task}: give task=")
        chosen = replace(chosen, task=config.task)
    robot = chosen.build({}, rate=config.rate)
    if isinstance(robot, SimulatedRobot):
        check_controllable(robot.task)
    action, path = robot.specification.action, Path(config.out)
    if config.start is not None and (
        len(config.start) != action.size
        or not np.array_equal(np.clip(config.start, action.low, action.high), config.start)
    ):
        raise ValueError(f"start must be {action.size} numbers within the limits of the action, got {config.start}")
    safety = config.safety.build(robot.specification, robot.rate)
    hands = build_hands(config.input, robot)
    store = open_or_create(path, robot.specification, images=config.images, of=repr(config.task))
    session = RecordingSession(
        robot=robot,
        teleoperator=hands.teleoperator,
        clutch=hands.clutch,
        safety=safety,
        store=store,
        facts=EpisodeFacts(task=config.task, sentence=config.sentence, **facts_of(config.input, config.operator)),
        episodes=config.episodes,
        first_seed=config.first_seed,
        seconds=config.seconds or math.inf,
        action=config.action,
        start=config.start,
        approach=config.approach,
    )
    try:
        session.run()
    finally:  # what is kept is kept, however the recording ended
        count = len(DemonstrationStore.open(path))
        print(f"{count} demonstrations in {config.out}, {session.num_kept} of them new")
    if count and isinstance(robot, SimulatedRobot):
        print_train(config.task, config.out, config.imports, robot.specification)
