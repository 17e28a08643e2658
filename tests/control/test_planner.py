"""A policy in a process of its own."""

import os
import signal
import time
from contextlib import closing

import numpy as np
import pytest
import toys
from recede.configs.components.executions import (
    AsyncReplaceConfig,
    RealTimeChunkingConfig,
    RecedingConfig,
    TemporalEnsembleConfig,
    WarmStartConfig,
)
from recede.control.planner import NUM_WARM, PolicyProcess, rehearsed
from recede.policy.denoising.guidance import Prefix
from recede.policy.requests import Request
from recede.specification import Horizons, Specification, Stream

SPECIFICATION = Specification(
    (Stream("state", (3,)), Stream("camera", (4, 4, 3), "uint8")), Stream("action", (2,)), control_dt=0.1
)
HORIZONS = Horizons(2, 16, 8)
SHAPES = {"state": (2, 3), "camera": (2, 4, 4, 3)}


def request(number, prefix=None):
    history = {"state": np.full((2, 3), number, np.float32), "camera": np.full((2, 4, 4, 3), number, np.uint8)}
    return Request(history, () if prefix is None else (prefix,))


def answer(planner, seconds=30.0):
    until = time.monotonic() + seconds
    while (chunk := planner.poll()) is None:
        assert time.monotonic() < until, "no answer"
        time.sleep(0.002)
    return chunk


@pytest.fixture(scope="module")
def planner():
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_echo)) as planner:
        assert 0 <= planner.wait() < 30
        yield planner


def test_a_chunk_is_that_of_its_request(planner):
    for number in (0, 1, 7):
        assert planner.poll() is None
        planner.ask(request(number))
        assert np.array_equal(answer(planner), toys.echo(request(number)))


def test_a_prefix_reaches_the_policy(planner):
    rng = np.random.default_rng(0)
    actions, weights = rng.normal(size=(16, 2)).astype(np.float32), rng.uniform(size=16).astype(np.float32)
    for options in ({}, {"start": 0.25, "limit": 7.0, "exact": True}):
        sent = request(2, Prefix(actions, weights, **options))
        planner.ask(sent)
        assert np.array_equal(answer(planner), toys.echo(sent))


REHEARSALS = [
    (RecedingConfig(), [()]),
    (AsyncReplaceConfig(), [()]),
    (TemporalEnsembleConfig(), [()]),
    (WarmStartConfig(start=0.3), [(), (0.3, 5.0, False)]),
    (RealTimeChunkingConfig(limit=4.0, exact=True), [(), (1.0, 4.0, True)]),
]


@pytest.mark.parametrize(("config", "kinds"), REHEARSALS, ids=lambda value: type(value).__name__)
def test_a_rehearsal_has_every_kind_of_request(config, kinds):
    requests = rehearsed(config.build(HORIZONS), SPECIFICATION)
    prefixes = [request.prefix for request in requests]
    assert [() if prefix is None else (prefix.start, prefix.limit, prefix.exact) for prefix in prefixes] == kinds
    for request in requests:
        assert {name: values.shape for name, values in request.history.items()} == SHAPES


def test_a_policy_is_ready_after_its_rehearsal(tmp_path):
    rehearsal = rehearsed(WarmStartConfig(start=0.3).build(HORIZONS), SPECIFICATION)
    notes = tmp_path / "notes"
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_noting, notes, rehearsal=rehearsal)) as planner:
        planner.wait()
        assert notes.read_text().split() == ["0"] * NUM_WARM + ["0.3"] * NUM_WARM


def test_only_the_latest_request_is_answered(planner):
    for number in (3, 4, 5):
        planner.ask(request(number))
    assert np.array_equal(answer(planner), toys.echo(request(5)))
    time.sleep(0.1)
    assert planner.poll() is None


def test_a_killed_process_is_a_lost_connection():
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_echo)) as planner:
        planner.wait()
        planner.ask(request(1))
        answer(planner)
        os.kill(planner.pid, signal.SIGKILL)
        with pytest.raises(ConnectionError, match="the process of the policy has ended"):
            answer(planner)
        with pytest.raises(ConnectionError):
            planner.ask(request(2))


def test_a_suspended_process_never_blocks():
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_echo)) as planner:
        planner.wait()
        os.kill(planner.pid, signal.SIGSTOP)
        sent = iter(range(10_000))

        def ask_repeatedly():
            for number in sent:
                planner.ask(request(number % 100))

        with pytest.raises(ConnectionError, match="does not read"):
            ask_repeatedly()
        assert planner.poll() is None
        os.kill(planner.pid, signal.SIGCONT)


def test_a_policy_that_cannot_be_loaded_is_an_error(capfd):
    refused = pytest.raises(ValueError, match="no such policy")
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_nothing, "no such policy")) as planner, refused:
        planner.wait()
    assert capfd.readouterr().err == ""


def test_a_stuck_or_killed_process_is_not_idle():
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_echo, 0.05)) as planner:
        planner.wait()
        assert planner.is_idle(0)
        planner.ask(request(1))
        assert not planner.is_idle(0)
        assert planner.is_idle()
        os.kill(planner.pid, signal.SIGSTOP)
        planner.ask(request(2))
        assert not planner.is_idle(0.2)
        os.kill(planner.pid, signal.SIGKILL)
        assert not planner.is_idle()


def test_a_policy_that_takes_too_long_to_load_is_an_error():
    late = pytest.raises(TimeoutError, match=r"0\.2 s")
    with closing(PolicyProcess(SPECIFICATION, HORIZONS, toys.load_echo, 60.0)) as planner, late:
        planner.wait(0.2)
