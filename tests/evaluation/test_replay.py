from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
from recede.datasets.demonstrations import Demonstrations
from recede.envs.gymnasium_adapter import GymnasiumAdapter
from recede.envs.task import Task
from recede.evaluation.replay import replay
from recede.specification import Specification, Stream

SPECIFICATION = Specification(
    (Stream("angle", (2,), units="1", low=-1, high=1), Stream("velocity", (1,), units="rad/s", low=-8, high=8)),
    Stream("action", (1,), units="N m", low=-2, high=2),
    control_dt=0.05,
)


def make(render_mode=None, *, threshold=0.9):
    return GymnasiumAdapter(
        gymnasium.make("Pendulum-v1"),
        SPECIFICATION,
        observe=lambda raw, info: {"angle": raw[:2], "velocity": raw[2:]},
        judge=lambda raw, reward, terminated, info: (raw[0] > threshold, (raw[0] + 1) / 2),
        max_steps=30,
    )


PENDULUM = Task("pendulum", SPECIFICATION, 30, make)


@dataclass
class Recorded(Demonstrations):
    specification: Specification
    streams: dict
    episode_ends: np.ndarray
    episode_seeds: np.ndarray

    def read(self, name, start=0, stop=None):
        return self.streams[name][start:stop]


def record(seeds, task=PENDULUM, max_steps=30):
    """Random actions, as many as the environment takes."""
    env, rows, ends = task.make(), [], []
    for seed in seeds:
        rng, (observation, _), is_over, steps = np.random.default_rng(seed), env.reset(seed=seed), False, 0
        while not is_over and steps < max_steps:
            rows.append({**observation, "action": rng.uniform(-2, 2, 1).astype(np.float32)})
            observation, _, terminated, truncated, _ = env.step(rows[-1]["action"])
            is_over, steps = terminated or truncated, steps + 1
        ends.append(len(rows))
    streams = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return Recorded(task.specification, streams, np.array(ends), np.array(seeds))


def lengths(recorded):
    return np.diff(recorded.episode_ends, prepend=0).tolist()


def test_an_episode_with_its_seed_is_repeated_exactly():
    recorded = record(range(8))
    episodes = list(replay(PENDULUM, recorded))
    assert [e.episode for e in episodes] == list(range(8))
    assert all(e.deviations == {"angle": 0.0, "velocity": 0.0} for e in episodes)
    assert [e.num_steps for e in episodes] == [e.recorded_steps for e in episodes] == lengths(recorded)
    assert [e.success for e in episodes] == [length < 30 for length in lengths(recorded)]
    assert {e.success for e in episodes} == {True, False}


def test_the_largest_deviation_of_each_stream_is_found():
    recorded = record(range(8))
    episode = lengths(recorded).index(30, 1)
    start, _ = recorded.bounds(episode)
    recorded.streams["velocity"][start + 4] += 0.5
    recorded.streams["velocity"][start + 2] -= 0.25
    [replayed] = replay(PENDULUM, recorded, [episode])
    assert replayed.episode == episode
    assert replayed.deviations["angle"] == 0
    assert replayed.deviations["velocity"] == pytest.approx(0.5, abs=1e-6)


def test_the_last_recorded_step_counts():
    recorded = record([0])
    recorded.streams["angle"][-1] += 1
    assert next(replay(PENDULUM, recorded)).deviations["angle"] == pytest.approx(1, abs=1e-6)


def test_an_environment_that_ends_early_is_not_stepped_on():
    recorded = record([0], max_steps=25)
    soon = Task("pendulum", SPECIFICATION, 30, lambda: make(threshold=-2.0))
    replayed = next(replay(soon, recorded))
    assert (replayed.num_steps, replayed.recorded_steps, replayed.success) == (1, 25, True)


def test_without_a_seed_the_first_observation_is_restored():
    recorded = record([5, 6])
    recorded.episode_seeds = np.array([5, -1])
    observations = []

    def restore(observation):
        observations.append(observation)
        return {"x_init": 1e-9, "y_init": 1e-9}  # the pendulum upright and at rest, so that it differs

    task = Task("pendulum", SPECIFICATION, 30, make, restore=restore)
    with_seed, without = replay(task, recorded)
    assert max(with_seed.deviations.values()) == 0
    assert without.deviations["angle"] > 0
    [first] = observations
    for name in ("angle", "velocity"):
        np.testing.assert_array_equal(first[name], recorded.streams[name][recorded.episode_ends[0]])


@pytest.mark.parametrize(
    ("change", "episodes", "message"),
    [
        (
            {"specification": Specification(SPECIFICATION.observations, SPECIFICATION.action, control_dt=0.1)},
            None,
            "pendulum.*control_dt is 0.1 s",
        ),
        ({}, [0, 2], r"the episode must be one of 0 .. 1, got 2"),
        ({"episode_seeds": np.array([0, -1])}, None, "episode 1 was recorded without its seed"),
    ],
)
def test_an_impossible_replay_is_an_error_at_once(change, episodes, message):
    recorded = record([0, 1], max_steps=2)
    for name, value in change.items():
        setattr(recorded, name, value)
    with pytest.raises(ValueError, match=message):
        replay(PENDULUM, recorded, episodes)
