"""The log of a run: on a virtual clock, with the real process that writes."""

import os
import resource
import signal
import time
from contextlib import closing

import numpy as np
import pytest
from control_loop import FREE, HORIZONS, SPECIFICATION, Delayed, Ideal, line, path
from recede.control import log, outbox
from recede.control.alignment import Alignment
from recede.control.log import DEMONSTRATIONS, TICKS, RunLog, tick_specification
from recede.control.loop import Controller, Tick
from recede.control.planned import Planned
from recede.control.safety import Event, Safety
from recede.datasets.facts import UNKNOWN
from recede.datasets.store import DemonstrationStore
from recede.execution.overlapping import AsyncReplace
from recede.realtime import VirtualClock
from recede.robots.interface import Reading
from recede.specification import Specification, Stream
from representatives import representatives

SMALL = Specification((Stream("place", (1,), "float64"),), Stream("action", (1,), "float64", low=-1, high=1), 0.1)


def open_stores(folder):
    return DemonstrationStore.open(folder / DEMONSTRATIONS), DemonstrationStore.open(folder / TICKS)


def open_log(folder, specification=SPECIFICATION, **options):
    return closing(RunLog(folder, specification, **{"rate": 100.0, "actuation_delay": 0.0} | options))


@pytest.mark.parametrize(("sensor", "actuation"), [pytest.param(0.0, 0.0, marks=pytest.mark.slow), (0.12, 0.085)])
def test_a_run_becomes_evenly_spaced_demonstrations_with_the_commands_in_force(tmp_path, sensor, actuation):
    clock = VirtualClock(3.0)
    robot = Ideal(clock, sensor_delay=sensor, actuation_delay=actuation, camera_dt=0.03)
    with open_log(tmp_path, actuation_delay=actuation) as run:
        for seed in (7, 8):
            run.begin(seed)
            robot.is_stopped, until = False, clock.now() + 3.0
            first = len(robot.commands)
            controller = Controller(
                robot,
                Planned(Delayed(clock, line, 0.13), AsyncReplace(HORIZONS, delay=4)),
                Safety(FREE, 0.01),
                clock,
                log=run,
            )
            summary = controller.run(lambda until=until: clock.now() >= until - 1e-9)
            assert run.end() == 1
            assert run.num_dropped == 0
    demonstrations, ticks = open_stores(tmp_path)
    assert demonstrations.episode_seeds.tolist() == ticks.episode_seeds.tolist() == [7, 8]

    episode, commands = demonstrations.episode(1), robot.commands[first:]
    moments = episode["moment"][:, 0]
    np.testing.assert_allclose(np.diff(moments), 0.1, atol=1e-9)
    assert len(moments) == pytest.approx((3.0 - sensor - actuation) / 0.1, abs=2)
    for moment, action, frame in zip(moments, episode["action"], episode["camera"][:, 0, 0, 0], strict=True):
        in_force = [command for at, command in commands if at + actuation <= moment + 1e-6]
        np.testing.assert_array_equal(action, in_force[-1])
        assert abs(frame - moment / 0.03 % 256) <= 1
    late = moments > moments[0] + 1.0
    np.testing.assert_allclose(episode["action"][late], path(moments[late]), atol=0.3 * 0.0101)

    ticks = ticks.episode(1)
    assert len(ticks["time"]) == summary.num_ticks == len(commands)
    np.testing.assert_array_equal(ticks["action"], [command for _, command in commands])
    np.testing.assert_allclose(ticks["time"][:, 0], [at - commands[0][0] for at, _ in commands], atol=1e-9)
    assert (ticks["chunk"] > 0).sum() == summary.num_chunks
    assert ticks["chunk"].max() == pytest.approx(0.13, abs=0.0101)
    assert ticks["age"].min() >= sensor - 1e-9
    assert (ticks["events"][:, 0] == Event.NO_PLAN).sum() == summary.events["NO_PLAN"] > 0


def test_seams_are_logged_as_shares_of_the_range(tmp_path):
    def jumping(request):
        return np.full((HORIZONS.prediction, 2), 1.0 if request.history["moment"][-1, 0] < 1 else (3.0, 5.0))

    clock = VirtualClock()
    with open_log(tmp_path) as run:
        run.begin(0)
        robot = Ideal(clock)
        controller = Controller(
            robot, Planned(Delayed(clock, jumping), AsyncReplace(HORIZONS)), Safety(FREE, 0.01), clock, log=run
        )
        controller.run(lambda: clock.now() >= 3)
        run.end()
    seams = open_stores(tmp_path)[1].read("seam")[:, 0]
    assert seams[seams > 0].tolist() == [4 / 20]


def aligned(time, value=0.0):
    alignment = Alignment(SMALL)
    alignment.add({"place": Reading(np.array([value]), time)}, time)
    return alignment


def tick(time, command=0.5, events=0):
    return Tick(time, 0.001, 0.02, np.array([command]), events, 0.0, 0.0)


def drive(run, alignment, moments, silent=()):
    for moment in moments:
        if not any(first <= moment < last for first, last in silent):
            alignment.add({"place": Reading(np.array([moment]), moment)}, moment)
        run.tick(tick(moment, np.sin(moment)), alignment)


def test_silent_sensors_end_a_demonstration_and_the_next_one_begins_after_them(tmp_path):
    with open_log(tmp_path, SMALL) as run:
        run.begin(5)
        drive(run, aligned(0.0), np.arange(300) / 100, silent=[(1.0, 1.55)])
        assert run.end() == 2
    demonstrations, ticks = open_stores(tmp_path)
    assert demonstrations.episode_seeds.tolist() == [
        5,
        -1,
    ]  # the second one does not begin at a reset
    assert [len(demonstrations.episode(index)["place"]) for index in range(2)] == [10, 14]
    for index, first in ((0, 0.0), (1, 1.6)):
        places = demonstrations.episode(index)["place"][:, 0]
        np.testing.assert_allclose(places, first + 0.1 * np.arange(len(places)), atol=1e-9)
    assert ticks.num_steps == 300


def open_writer(folder, specification=SMALL, **options):
    """The writer in this process, and a function that passes it a message."""
    DemonstrationStore.create(folder / DEMONSTRATIONS, specification)
    DemonstrationStore.create(folder / TICKS, tick_specification(specification, 100.0))
    writer, layouts = log.Writer(folder, options.get("delay", 0.0)), log.layouts(specification)[0]
    writer.begin(3)

    def send(name, *values):
        getattr(writer, name)(np.array([values], layouts[name])[0])

    return writer, send


@pytest.mark.parametrize(("name", "value"), [("PART", 5), ("PART_BYTES", 5 * 16)])
def test_a_long_episode_is_written_in_parts(tmp_path, monkeypatch, name, value):
    monkeypatch.setattr(log, name, value)
    writer, send = open_writer(tmp_path)
    for step in range(12):
        send("tick", step, 0.1 * step, 0, 0, [step / 20], 0, 0, 0, 0, 0.0)
        send("step", step, step, 0.1 * step, ([step],))
    assert writer.end() == 3
    demonstrations, ticks = open_stores(tmp_path)
    assert demonstrations.read("place")[:, 0].tolist() == list(range(12))
    assert demonstrations.read("action")[:, 0].tolist() == [step / 20 for step in range(12)]
    assert demonstrations.episode_ends.tolist() == [5, 10, 12]
    assert demonstrations.episode_seeds.tolist() == [3, -1, -1]
    assert ticks.num_steps == 12
    np.testing.assert_allclose(ticks.read("time")[:, 0], 0.1 * np.arange(12))


def test_a_command_before_lost_ticks_does_not_count_as_in_force(tmp_path):
    """Commands take effect 0.25 s later; the ticks from 0.5 s to 0.9 s are lost."""
    writer, send = open_writer(tmp_path, delay=0.25)
    for step in range(20):
        if not 5 <= step < 10:
            send("tick", step, 0.1 * step, 0, 0, [step / 20], 0, 0, 0, 0, 0.0)
        send("step", step, step, 0.1 * step, ([step],))
    assert writer.end() == 2
    demonstrations, _ = open_stores(tmp_path)
    for episode in (demonstrations.episode(index) for index in range(2)):
        np.testing.assert_allclose(episode["action"], (np.floor(episode["place"] - 2.5) + 0) / 20, atol=1e-9)
    assert demonstrations.read("place")[:, 0].tolist() == [3, 4, *range(13, 20)]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_step_that_is_not_finite_is_left_out(tmp_path, wrong):
    writer, send = open_writer(tmp_path)
    for step in range(10):
        send("tick", step, 0.1 * step, 0, 0, [step / 20], 0, 0, 0, 0, 0.0)
        send("step", step, step, 0.1 * step, ([wrong if step == 4 else step],))
    assert writer.end() == 2
    assert open_stores(tmp_path)[0].read("place")[:, 0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_a_plan_that_is_not_finite_is_logged(tmp_path):
    clock = VirtualClock()
    with open_log(tmp_path) as run:
        run.begin(0)
        planner = Delayed(clock, lambda request: np.full((HORIZONS.prediction, 2), np.nan if clock.now() > 1 else 1.0))
        controller = Controller(
            Ideal(clock), Planned(planner, AsyncReplace(HORIZONS)), Safety(FREE, 0.01), clock, log=run
        )
        controller.run(lambda: clock.now() >= 2)
        run.end()
    ticks = open_stores(tmp_path)[1]
    assert ticks.read("seam").max() == 1.0
    assert (ticks.read("events")[:, 0] & Event.NOT_FINITE).any()


def test_the_log_of_a_killed_loop_is_kept(tmp_path):
    run = RunLog(tmp_path, SMALL, rate=100.0, actuation_delay=0.0)
    run.begin(5)
    drive(run, aligned(0.0), np.arange(100) / 100)
    run.close()  # a killed loop looks the same to the process
    demonstrations, ticks = open_stores(tmp_path)
    assert (len(demonstrations), demonstrations.num_steps, ticks.num_steps) == (1, 10, 100)


@pytest.mark.parametrize("number", representatives([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], signal.SIGTERM))
def test_a_signal_that_ends_the_loop_does_not_end_the_process_that_writes(tmp_path, number):
    with open_log(tmp_path, SMALL) as run:
        run.begin(5)
        drive(run, aligned(0.0), np.arange(50) / 100)
        os.kill(run.pid, number)
        drive(run, aligned(0.0), np.arange(50, 100) / 100)
        assert run.end() == 1
    assert open_stores(tmp_path)[1].num_steps == 100


def test_a_suspended_process_loses_records_but_never_holds_up_the_loop(tmp_path):
    with open_log(tmp_path, SMALL) as run:
        run.begin(5)
        os.kill(run.pid, signal.SIGSTOP)
        drive(run, aligned(0.0), np.arange(20_000) / 100)
        assert run.num_waiting == outbox.WAITING
        os.kill(run.pid, signal.SIGCONT)
        run.end()
        lost = run.num_dropped
        assert lost > 0
        run.begin(6)
        drive(run, aligned(300.0, 300.0), 300 + np.arange(100) / 100)
        assert run.end() == 1
        assert run.num_dropped == 0
    demonstrations, ticks = open_stores(tmp_path)
    assert ticks.num_steps + demonstrations.num_steps + lost >= 20_000
    for episode in (demonstrations.episode(index) for index in range(len(demonstrations))):
        np.testing.assert_allclose(np.diff(episode["place"][:, 0]), 0.1, atol=1e-9)
        np.testing.assert_allclose(episode["action"], np.sin(episode["place"]), atol=1e-2 + 1e-6)


def test_a_killed_process_is_an_error_at_the_end_of_the_episode(tmp_path):
    with open_log(tmp_path, SMALL) as run:
        run.begin(5)
        os.kill(run.pid, signal.SIGKILL)
        run._child.wait()
        drive(run, aligned(0.0), np.arange(10) / 100)
        with pytest.raises(OSError, match="could not be written"):
            run.end()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="this system cannot limit the files of another process")
def test_a_disk_that_is_full_is_told_during_the_episode_and_in_one_line(tmp_path, capfd):
    with open_log(tmp_path, SMALL) as run:
        run.begin(5)
        resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (5000, 5000))
        drive(run, aligned(0.0), np.arange(log.PART + 1) / 100)
        end, time_s = time.monotonic() + 20, (log.PART + 1) / 100
        while not run.failure:
            assert time.monotonic() < end
            drive(run, aligned(0.0), [time_s])
            time_s += 0.01
        with pytest.raises(OSError, match=r"could not be written, what came before .*File too large.*has room"):
            run.end()
    assert "Traceback" not in capfd.readouterr().err
    assert len(open_stores(tmp_path)[1]) == 0


def test_a_folder_that_holds_a_run_is_refused_and_a_run_without_episodes_leaves_no_stores(tmp_path):
    with open_log(tmp_path, SMALL), pytest.raises(FileExistsError, match="exists"):
        RunLog(tmp_path, SMALL, rate=100.0, actuation_delay=0.0)
    assert not list(tmp_path.iterdir())


def test_a_log_that_cannot_be_created_leaves_nothing_behind(tmp_path):
    (tmp_path / TICKS).mkdir()
    with pytest.raises(FileExistsError):
        RunLog(tmp_path, SMALL, rate=100.0, actuation_delay=0.0)
    assert [path.name for path in tmp_path.iterdir()] == [TICKS]


@pytest.mark.parametrize("delay", representatives([0.0, 0.25], 0.25))
def test_the_facts_name_the_steps_whose_command_followed_a_person(tmp_path, monkeypatch, delay):
    """In three parts, each with its own count of steps; only the last one has the outcome of the episode."""
    monkeypatch.setattr(log, "PART", 10)
    rng = np.random.default_rng(0)
    leads = np.repeat(rng.permutation([True, False] * 6), 3)
    writer, send = open_writer(tmp_path, delay=delay)
    for step, is_led in enumerate(leads):
        send("tick", step, 0.1 * step, 0, 0, [float(is_led)], 0, 0, 0, is_led, 0.0)  # the command says who gave it
        send("step", step, step, 0.1 * step, ([step],))
    assert writer.end("success") == 4
    demonstrations, ticks = open_stores(tmp_path)
    for index, facts in enumerate(demonstrations.episode_facts):
        commands = demonstrations.episode(index)["action"][:, 0]
        mask = np.zeros(len(commands))
        for begin, end in facts.notes["led"]:
            mask[begin:end] = 1
        np.testing.assert_array_equal(mask, commands)
    assert [facts.outcome for facts in demonstrations.episode_facts] == [*["unknown"] * 3, "success"]
    assert ticks.episode_facts[0] == UNKNOWN
