"""An episode's outcome depends on its seed alone."""

import random
import re
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import current_thread

import numpy as np
import pytest
import torch
import toys
from recede.checkpoints.opening import load_policy
from recede.configs.components.denoising import DDIMConfig, DDPMConfig
from recede.configs.components.encoders import ResNetEncoderConfig
from recede.configs.components.networks import DiTConfig, TransformerConfig, UNet1dConfig
from recede.configs.components.policies import DiffusionConfig, RegressionConfig
from recede.envs.catalogue import load_task
from recede.envs.vector import LoopedWorlds
from recede.evaluation.groups import ROWS
from recede.evaluation.intervals import wilson
from recede.evaluation.rollout import latency, noise_generator, predict, rollout
from recede.execution.guided import RealTimeChunking, WarmStart
from recede.execution.overlapping import AsyncReplace
from recede.execution.receding import RecedingHorizon
from recede.policy.engines.eager import EagerEngine, as_engine
from recede.policy.normalizer import Normalizer
from recede.policy.requests import Request
from recede.specification import Horizons, Specification, Stream
from representatives import representatives

SEEDS = range(100_000, 100_024)
UNET = UNet1dConfig(channels=[16, 32], time_size=16)


@pytest.fixture(scope="module")
def policy(trained):
    return load_policy(trained, sampler={"num_steps": 3})[0]


def roll(policy, seeds=SEEDS, *, task=toys.REACH, execution=RecedingHorizon, filmed=(), **options):
    options = {"progress": False, "filmed": filmed if isinstance(filmed, dict) else dict.fromkeys(filmed)} | options
    return rollout(policy, task, seeds, execution=partial(execution, policy.horizons), **options)


def untrained(specification, config):
    torch.manual_seed(0)
    ranges = {s.name: (np.array(s.low), np.array(s.high)) for s in specification.streams if not s.is_image}
    return config.build(specification, Horizons(), Normalizer(specification, ranges)).eval()


@pytest.fixture(scope="module")
def outcomes(policy):
    outcomes = roll(policy)
    assert 0 < sum(outcome.success for outcome in outcomes) < len(SEEDS)  # otherwise the episodes are too similar
    assert len({outcome.score for outcome in outcomes}) > len(SEEDS) / 2
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize("num_parallel", [1, 3, 16])
def test_outcomes_do_not_depend_on_how_many_run_at_once(policy, outcomes, num_parallel):
    assert roll(policy, num_parallel=num_parallel) == outcomes


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_episodes(policy, outcomes, monkeypatch):
    alive, most = weakref.WeakSet(), []

    class Noise(torch.Generator):
        pass

    def counted(seed, episode):
        generator = Noise()
        generator.set_state(noise_generator(seed, episode).get_state())
        alive.add(generator)
        most.append(len(alive))
        return generator

    monkeypatch.setattr("recede.evaluation.rollout.noise_generator", counted)
    assert roll(policy, num_parallel=2) == outcomes
    assert max(most) <= 4


@pytest.mark.parametrize("workers", representatives([1, 2], 2))
def test_outcomes_do_not_depend_on_the_processes(policy, outcomes, workers):
    assert roll(policy, workers=workers) == outcomes


def test_worker_processes_load_no_torch(policy):
    loaded = {workers: roll(policy, SEEDS[:1], task=toys.WATCHING, workers=workers)[0].score for workers in (0, 1)}
    assert loaded == {0: 1.0, 1: 0.0}  # this process has it


def test_outcomes_do_not_depend_on_the_order_or_the_others(policy, outcomes):
    by_seed = {outcome.seed: outcome for outcome in outcomes}
    shuffled = random.Random(0).sample(list(SEEDS), 11)
    assert roll(policy, shuffled, num_parallel=4) == [by_seed[seed] for seed in shuffled]


def test_outcomes_depend_on_the_seed_of_the_noise(policy, outcomes):
    assert [other.score for other in roll(policy, seed=1)] != [outcome.score for outcome in outcomes]


def test_outcomes_of_a_stochastic_sampler_depend_on_the_seed_alone(trained):
    policy = load_policy(trained)[0]
    policy.sampler = DDPMConfig(num_steps=4).build(policy.schedule)
    outcomes = roll(policy)
    assert roll(policy, num_parallel=5) == outcomes
    assert roll(policy, SEEDS[::-1], num_parallel=5) == outcomes[::-1]


EXECUTIONS = {
    "async_replace": AsyncReplace,
    "rtc": partial(RealTimeChunking, limit=5.0, exact=False),
    "rtc, exact": partial(RealTimeChunking, limit=5.0, exact=True),
    "warm_start": partial(WarmStart, start=0.4),
}


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS.keys())
def test_outcomes_of_every_execution_depend_on_the_seed_alone(policy, outcomes, execution, delay):
    is_receding = delay == 0 and execution is AsyncReplace  # without delay nothing of the last chunk is left
    execution = partial(execution, delay=delay)
    delayed = roll(policy, execution=execution, delay=delay)
    assert (delayed == outcomes) == is_receding
    assert roll(policy, execution=execution, delay=delay, num_parallel=5) == delayed
    assert roll(policy, SEEDS[::-1], execution=execution, delay=delay, num_parallel=3) == delayed[::-1]


def test_an_execution_passes_between_processes(policy):
    options = {"execution": partial(EXECUTIONS["rtc"], delay=2), "delay": 2}
    assert roll(policy, SEEDS[:6], workers=2, **options) == roll(policy, SEEDS[:6], **options)


def test_a_chunk_acts_after_its_delay(policy):
    """The robot that stops to think loses the delay with every chunk but the first, for which it waits."""
    quick, slow = roll(policy, SEEDS[:1], filmed=SEEDS[:1])[0], roll(policy, SEEDS[:1], filmed=SEEDS[:1], delay=3)[0]
    action = policy.horizons.action
    assert [chunk.step for chunk in quick.chunks][:3] == [0, action, 2 * action]
    assert [chunk.step for chunk in slow.chunks][:3] == [0, action, 2 * action + 3]
    assert np.array_equal(quick.chunks[0].actions, slow.chunks[0].actions)


DTYPES = {"float32": torch.float32, "uint8": torch.uint8}
SMALL = {
    "unet1d": DiffusionConfig(network=UNET),
    "regression": RegressionConfig(network=UNET),
    "transformer": DiffusionConfig(network=TransformerConfig(num_layers=2, size=32)),
    "dit": DiffusionConfig(network=DiTConfig(num_layers=2, size=32)),
    "resnet": DiffusionConfig(network=UNET, encoder=ResNetEncoderConfig(width=16, stages=2, crop=[28, 28])),
}
SHORT = partial(DiffusionConfig, sampler=DDIMConfig(num_steps=2))
LARGE = {
    **{f"unet1d {c}": SHORT(network=UNet1dConfig(channels=c)) for c in ([16, 32], [64, 128, 256])},
    "transformer": SHORT(network=TransformerConfig()),
    "dit": SHORT(network=DiTConfig()),
    "resnet": SHORT(network=UNET, encoder=ResNetEncoderConfig(crop=[84, 84])),
}


def assert_rows_are_independent(config, image_size):
    """For multiples of `ROWS` rows, a policy's result of a row is the same, bit for bit.

    For other numbers it is not: the library that multiplies matrices takes other ways through them, and results were
    seen to differ by 1e-8 to 3e-5 in the units of the action, for one thread and for two, and for 31, 33 or 63 rows as
    well as for fewer than 16. That is enough to flip a contact in simulation, after which nothing is alike.
    """
    specification = toys.SPECIFICATION
    if isinstance(config.encoder, ResNetEncoderConfig):
        camera = Stream("camera", (image_size, image_size, 3), "uint8")
        specification = Specification((*specification.observations, camera), specification.action, 0.1)
    policy = untrained(specification, config)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.parameters():  # a DiT begins with zeros
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    draws, *shape = policy.noise_shape
    noise = torch.randn(draws, 4 * ROWS, *shape, generator=generator)
    observation = {
        s.name: torch.rand(4 * ROWS, 2, *s.shape, generator=generator).mul(255 if s.is_image else 1).to(DTYPES[s.dtype])
        for s in specification.observations
    }
    everything = policy.predict(observation, noise)
    order = torch.randperm(4 * ROWS, generator=generator)
    for count in (ROWS, 2 * ROWS, 3 * ROWS, 4 * ROWS):
        rows = order[:count]
        chunk = policy.predict({name: values[rows] for name, values in observation.items()}, noise[:, rows])
        assert torch.equal(chunk, everything[rows]), count


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_a_row_does_not_depend_on_the_number_of_rows(config):
    assert_rows_are_independent(config, image_size=32)


@pytest.mark.slow
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("config", LARGE.values(), ids=LARGE)
def test_a_row_of_a_larger_network_does_not_depend_on_the_number_of_rows(num_threads, config):
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        assert_rows_are_independent(config, image_size=96)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_every_prediction_is_of_a_group_and_on_one_thread(policy, outcomes, monkeypatch, num_threads):
    calls, original, before = [], policy.predict, torch.get_num_threads()

    def counted(observation, noise, guidance):
        calls.append((noise.shape[1], torch.get_num_threads(), current_thread().name))
        return original(observation, noise, guidance)

    monkeypatch.setattr(policy, "predict", counted)
    torch.set_num_threads(num_threads)
    try:
        assert roll(policy, SEEDS[:19]) == outcomes[:19]
        assert torch.get_num_threads() == num_threads
        with ThreadPoolExecutor(1) as pool:  # a thread that begins later
            assert pool.submit(torch.get_num_threads).result() == num_threads
    finally:
        torch.set_num_threads(before)
    assert len(calls) > 2
    assert {call[:2] for call in calls} == {(ROWS, 1)} | ({(2 * ROWS, 1)} if num_threads == 1 else set())
    assert 1 <= len({name for _, _, name in calls}) <= num_threads


def test_another_engine_predicts_all_rows_on_the_thread_that_asks(policy):
    """Only the eager engine may be used by several threads."""
    calls = []

    class Other(EagerEngine):
        name = "other"

        def predict(self, observation, noise, guidance=()):
            calls.append((noise.shape[1], current_thread()))
            return super().predict(observation, noise, guidance)

    roll(Other(policy), SEEDS[:19])
    assert calls[0] == (2 * ROWS, current_thread())
    assert all(count % ROWS == 0 and thread is current_thread() for count, thread in calls)


def test_an_environment_is_never_stepped_after_its_end(policy):
    """`toys.Reach` refuses that; an episode of it ends anywhere within a chunk."""
    env = toys.Reach()
    env.reset(seed=0)
    for _ in range(toys.MAX_STEPS):
        env.step(env.position)
    with pytest.raises(AssertionError, match="a finished environment was stepped again"):
        env.step(env.position)
    lengths = {outcome.num_steps for outcome in roll(policy, range(30))}
    assert max(lengths) == toys.MAX_STEPS
    assert any(length % policy.horizons.action for length in lengths)


def test_success_and_score_come_from_the_task(policy, outcomes):
    for outcome in outcomes:
        assert outcome.success == (outcome.score > 0.9)  # within 0.1 m
        assert outcome.success or outcome.num_steps == toys.MAX_STEPS
        assert (outcome.frames, outcome.chunks) == ({}, ())


FAULTS = {
    "reset": (0, "reset()", "KeyError: 'nothing' (", None),
    "step": (5, "step()", "ValueError: operands could not be broadcast together", None),
    "nan": (5, "step()", "step() must return 'position' as finite numbers, got [", "position"),
    "shape": (5, "step()", "step() must return 'position' as (2,) in float32, got (3,) in float32", "position"),
    "missing": (5, "step()", "step() must return every stream of the specification, 'target' is missing", "target"),
    "score": (5, "step()", "info['score'] must be a number in [0, 1], step() gave ", None),
    "success": (5, "step()", "step() must return an info that holds 'success'", None),
    "endless": (40, "step()", "an episode must be over after max_steps=40 steps, but step() returned neither", None),
}
"""The kind of a fault -> the step, what was being done, the cause and the stream."""


@pytest.mark.parametrize("kind", FAULTS)
def test_an_episode_that_breaks_off_is_described_and_the_others_are_kept(policy, outcomes, kind):
    broken = roll(policy, SEEDS[:4], task=toys.faulty(kind))
    assert [broken[0], *broken[2:]] == [outcomes[0], *outcomes[2:4]]
    fault = broken[1].fault
    assert (broken[1].success, broken[1].score, fault.seed) == (False, 0.0, SEEDS[1])
    step, during, cause, stream = FAULTS[kind]
    assert (fault.step, fault.during, fault.stream) == (step, during, stream)
    assert fault.cause.startswith(cause)
    assert re.search(rf"toys.py:\d+ in {during[:-2]}$", fault.place)
    assert str(fault).startswith(f"seed {SEEDS[1]}, step {step}")


def test_a_fault_does_not_depend_on_the_processes(policy):
    options = {"task": toys.faulty("nan")}
    assert roll(policy, SEEDS[:3], workers=1, **options) == roll(policy, SEEDS[:3], **options)


@pytest.mark.parametrize(("kind", "remedy"), [("old reset", "return an info too"), ("old step", "instead of done")])
def test_an_environment_of_the_old_gym_is_named(policy, kind, remedy):
    fault = roll(policy, SEEDS[:1], task=toys.faulty(kind))[0].fault
    method = kind.split()[1]
    assert fault.message.startswith(f"{method}() must return (observation, ")
    assert remedy in fault.message


@pytest.mark.parametrize("workers", representatives([0, 1], 1))
def test_a_filmed_episode_shows_its_success(policy, outcomes, workers):
    winner = next(outcome for outcome in outcomes if outcome.success)
    loser = next(outcome for outcome in outcomes if not outcome.success)
    filmed = roll(policy, [winner.seed, loser.seed, SEEDS[-1]], filmed=[winner.seed, loser.seed], workers=workers)
    for outcome, expected in zip(filmed, (winner, loser, outcomes[-1]), strict=True):
        assert (outcome.seed, outcome.success, outcome.score) == (expected.seed, expected.success, expected.score)
        assert outcome.num_steps == expected.num_steps
    assert filmed[2].frames == {}
    for outcome in filmed[:2]:
        assert list(outcome.frames) == list(range(outcome.num_steps + 1))
        shades = [int(frame.max()) for frame in outcome.frames.values()]
        assert shades == [*range(outcome.num_steps), 255 if outcome.success else toys.MAX_STEPS]
        assert [chunk.step for chunk in outcome.chunks] == list(range(0, outcome.num_steps, policy.horizons.action))
        for chunk in outcome.chunks:
            assert chunk.actions.shape == (policy.horizons.prediction, 2)
            assert chunk.history["position"].shape == (policy.horizons.observation, 2)


def test_a_failed_episode_knows_the_phase_in_which_it_ended(policy, outcomes):
    """Whatever steps the environments, and even if the function that names phases fails."""
    task = replace(toys.REACH, phase=toys.half)
    in_environments = roll(policy, task=task, filmed=SEEDS[:2])
    worlds = partial(LoopedWorlds, task.make, task.specification)
    in_worlds = roll(policy, task=replace(task, make_batch=worlds))
    in_workers = roll(policy, task=task, workers=1)
    assert [replace(outcome, phase=None) for outcome in in_worlds] == outcomes
    phases = [outcome.phase for outcome in in_environments]
    assert [outcome.phase for outcome in in_worlds] == [outcome.phase for outcome in in_workers] == phases
    for outcome, phase in zip(outcomes, phases, strict=True):
        assert (phase is None) == outcome.success
        target = outcome.start["target x, m"], outcome.start["target y, m"]
        if not outcome.success:
            assert phase == "unknown, KeyError: 'nothing'" if target[1] <= -0.6 else phase in ("left", "right")
    assert len({*phases}) > 1


def test_only_the_frames_of_chosen_moments_are_kept(policy, outcomes):
    (outcome,) = roll(policy, [SEEDS[3]], filmed={SEEDS[3]: frozenset((0, 7, 12))})
    assert {step: int(frame.max()) for step, frame in outcome.frames.items()} == {0: 0, 7: 7, 12: 12}
    assert replace(outcome, frames={}, chunks=()) == outcomes[3]


def test_the_filmed_chunks_are_the_executed_ones(policy, outcomes):
    """Replaying the executed part of every chunk leads to the same end."""
    filmed = roll(policy, [SEEDS[3]], filmed=[SEEDS[3]])[0]
    env = toys.Reach()
    observation, info = env.reset(seed=filmed.seed)
    score = info["score"]
    for chunk in filmed.chunks:
        assert np.array_equal(chunk.history["position"][-1], observation["position"])
        for action in chunk.actions[policy.horizons.executed][: filmed.num_steps - chunk.step]:
            observation, _, _, _, info = env.step(action)
            score = max(score, info["score"])
    assert score == filmed.score


def test_the_noise_of_an_episode_is_a_function_of_both_seeds():
    def first(seed, episode):
        return torch.randn(4, generator=noise_generator(seed, episode)).tolist()

    assert first(0, 5) == first(0, 5)
    drawn = [first(seed, episode) for seed in range(6) for episode in range(6)]
    assert len({tuple(values) for values in drawn}) == 36  # neither their sum nor their order is all that counts


def test_rows_get_the_noise_of_their_own_episode(policy):
    """An episode draws its noise in turn from its own generator, whatever the other rows."""
    history = {s.name: np.zeros((2, *s.shape), np.float32) for s in toys.SPECIFICATION.observations}
    alone = noise_generator(0, 3)
    expected = [predict(as_engine(policy), [Request(history)], [alone])[0].chunk for _ in range(3)]
    generator, neighbours = noise_generator(0, 3), [noise_generator(0, episode) for episode in range(20)]
    for number, chunk in enumerate(expected):
        chunks = predict(
            as_engine(policy), [Request(history)] * 21, [*neighbours[:number], generator, *neighbours[number:]]
        )
        assert np.array_equal(chunks[number].chunk, chunk)
        assert not np.array_equal(chunks[number].chunk, chunks[number + 1].chunk)


def test_a_process_that_dies_takes_only_the_guilty_episode_with_it(policy, outcomes):
    first, dead, third = roll(policy, SEEDS[:3], task=toys.faulty("die"), workers=1)
    assert [first, third] == [outcomes[0], outcomes[2]]
    assert (dead.fault.seed, dead.fault.step, dead.fault.during) == (SEEDS[1], None, "its process")
    assert dead.fault.message == "the process ended with exit status 7, and again when the episode ran alone"


@pytest.mark.parametrize("workers", representatives([1, 2], 1))
def test_the_episodes_of_a_process_that_crashes_once_are_run_again(policy, outcomes, tmp_path, workers):
    """With two processes the episode that crashes is alone in its own."""
    mark = tmp_path / "crashed"
    noted = []
    task = toys.faulty("crash once", mark=mark)
    assert roll(policy, SEEDS[:3], task=task, workers=workers, note=noted.append) == outcomes[:3]
    assert mark.exists()
    assert sorted(noted, key=lambda outcome: outcome.seed) == outcomes[:3]  # each once


def test_environments_that_end_every_process_are_not_tried_for_every_episode(policy):
    with pytest.raises(ChildProcessError, match=r"one of 1 .* ended with exit status 3, and no episode .* workers=0"):
        roll(policy, SEEDS[:4], task=toys.DYING, workers=1)


def test_a_task_that_processes_cannot_get_is_refused(policy):
    with pytest.raises(ValueError, match=r"task 'reach', .* must be picklable, .*lambda.*workers=0"):
        roll(policy, SEEDS[:2], task=toys.LAMBDA, workers=1)


def test_another_specification_is_an_error(policy):
    with pytest.raises(
        ValueError, match=r"must be that of task 'pick_place', but differs: .*position: only on one side"
    ):
        roll(policy, task=load_task("pick_place"))


@pytest.mark.parametrize("options", [{"num_parallel": 0}, {"workers": -1}, {"delay": -1}, {"seeds": [1, 2, 1]}])
def test_impossible_options_are_an_error(policy, options):
    with pytest.raises(
        ValueError, match="num_parallel must be at least 1, workers and delay at least 0, and the seeds must differ"
    ):
        roll(policy, **options)


def test_no_episodes_have_no_outcomes(policy):
    assert roll(policy, []) == []


def test_every_environment_is_closed(policy, monkeypatch):
    opened, closed = [], []
    monkeypatch.setattr(toys.Reach, "close", lambda env: closed.append(id(env)))

    def make(**options):
        opened.append(toys.Reach(**options))
        return opened[-1]

    roll(policy, SEEDS[:8], task=replace(toys.REACH, make=make), num_parallel=3, filmed=[SEEDS[1]])
    assert sorted(closed) == sorted(map(id, opened))
    assert len(opened) <= 4  # environments are reused


def test_latency_is_of_one_robot(policy):
    milliseconds = latency(as_engine(policy), repeats=5)
    assert 0 < milliseconds["p50_ms"] <= milliseconds["p95_ms"] <= milliseconds["p99_ms"] < 10_000


@pytest.mark.slow
def test_outcomes_of_pick_place_depend_on_the_seed_alone():
    """With contacts, where the last bit of an action decides; from 64 at once to one alone, and in other processes."""
    task = load_task("pick_place")
    policy = untrained(task.specification, DiffusionConfig(network=UNET))
    seeds = range(100_000, 100_010)
    outcomes = roll(policy, seeds, task=task, num_parallel=64)
    for options in ({"num_parallel": 1}, {"num_parallel": 3}, {"workers": 1}, {"workers": 2, "num_parallel": 7}):
        assert roll(policy, seeds, task=task, **options) == outcomes, options


def test_progress_shows_the_rate_so_far_with_its_interval(policy, capsys):
    outcomes = roll(policy, range(20), progress=True)
    successes = sum(outcome.success for outcome in outcomes)
    low, high = (100 * bound for bound in wilson(successes, 20))
    shown = capsys.readouterr().err
    assert f"success {5 * successes} % [{low:.0f}, {high:.0f}]" in shown


def last_of(requests, chunks):
    """A monitor: the first number of the current position, and whether the batch is padded."""
    assert len(requests) % ROWS == 0
    return {"x": np.array([request.history["position"][-1, 0] for request in requests], np.float64)}


@pytest.mark.parametrize("workers", representatives([0, 1], 1))
def test_every_chunk_of_an_episode_is_monitored(policy, outcomes, workers):
    watched = roll(policy, SEEDS, workers=workers, monitor=last_of)
    assert [replace(outcome, monitors={}) for outcome in watched] == outcomes
    for outcome in watched:
        assert outcome.requested == list(range(0, outcome.num_steps, policy.horizons.action))
        assert len(outcome.monitors["x"]) == len(outcome.requested)
        assert outcome.monitors["x"][0] == np.float32(outcome.start["position x, m"])
    assert len({outcome.monitors["x"][-1] for outcome in watched}) == len(watched)


def test_an_episode_that_is_run_again_has_the_numbers_of_its_last_run(policy):
    first, dead, third = roll(policy, SEEDS[:3], task=toys.faulty("die"), workers=1, monitor=last_of)
    for outcome in (first, third):
        assert len(outcome.monitors["x"]) == len(outcome.requested) > 1
    assert dead.fault is not None
