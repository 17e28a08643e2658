"""Environments of other packages, tried by their ids."""

from functools import partial

import numpy as np
import torch
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import RegressionConfig
from recede.envs.catalogue import load_task
from recede.envs.check import check_task
from recede.evaluation.rollout import rollout
from recede.execution.receding import RecedingHorizon
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons

SEEDS = (100_000, 100_001)


def tried(words, *, steps=20):
    """The task of `task=words`, which keeps every promise, and in which a policy acts alike in another process."""
    task = load_task(words)
    print(check_task(task, steps=steps))
    here, there = rolled(task), rolled(task, workers=1)
    assert here == there
    assert [outcome.fault for outcome in here] == [None] * len(SEEDS)
    assert here[0].start != here[1].start
    return task


def rolled(task, **options):
    """The outcomes of an untrained policy in episodes of a task, as `recede evaluate` rolls them out."""
    torch.manual_seed(0)
    specification, horizons = task.specification, Horizons()
    ranges = {stream.name: (-np.ones(stream.size), np.ones(stream.size)) for stream in specification.streams}
    config = RegressionConfig(network=UNet1dConfig(channels=[16, 32], time_size=16))
    policy = config.build(specification, horizons, Normalizer(specification, ranges)).eval()
    return rollout(policy, task, SEEDS, execution=partial(RecedingHorizon, horizons), progress=False, **options)


def played(task, act, *, seed=0, **options):
    """The last observation, info and environment of an episode of a script, from an observation to an action."""
    env = task.make(**options)
    (observation, info), is_over = env.reset(seed=seed), False
    while not is_over:
        observation, _, terminated, truncated, info = env.step(act(observation))
        is_over = terminated or truncated
    return observation, info, env
