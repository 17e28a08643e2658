"""The page as hands: a client of its socket drives, and the rules of who may."""

import contextlib
import threading
import time
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from control_loop import SPECIFICATION
from pages import TIMEOUT_S, Line, Page, Watched, until
from recede.configs.components.inputs import BrowserInputConfig
from recede.control.safety import Limits, Safety
from recede.datasets.facts import EpisodeFacts
from recede.datasets.store import DemonstrationStore
from recede.realtime import Channel, MonotonicClock, VirtualClock, connected
from recede.recording.session import RecordingSession
from recede.robots.filming import Twin, film_layouts, picture_layouts
from recede.robots.interface import Reading
from recede.robots.simulated import SimulatedRobot
from recede.robots.simulation import Simulation
from recede.specification import Specification, Stream
from recede.teleoperation import browser as browser_module
from recede.teleoperation import web as web_module
from recede.teleoperation.axes import Axes, axis_names
from recede.teleoperation.browser import Browser
from recede.teleoperation.check import check_teleoperator
from recede.teleoperation.clutch import Clutch
from recede.teleoperation.interface import Status
from recede.teleoperation.web import NO_MESSAGES
from recede.web.look import script_source
from toys import REACH
from websockets.exceptions import ConnectionClosed, InvalidStatus


def test_the_way_is_in_units_of_the_action_and_the_page_is_the_clutch(start):
    hands = start()
    action = SPECIFICATION.action
    assert hands.read(0.0) is None
    page = Page(hands.address)
    page.send(way=[0.25, -0.5])
    reading = until(lambda: hands.read(0.0))
    np.testing.assert_allclose(reading.value, [0.25, -0.5] * np.subtract(action.high, action.low))
    assert reading.time == pytest.approx(time.monotonic(), abs=5)
    page.send(way=None)  # it lost the focus
    until(lambda: hands.read(0.0) is None)
    page.send(way=[0.0, 0.0])
    until(lambda: hands.read(0.0))
    page.close()
    until(lambda: hands.read(0.0) is None)


def test_orders_reach_the_recording_and_its_status_the_page(start):
    hands = start()
    page = Page(hands.address)
    page.send(order="sentence", text="wipe")
    page.send(order="begin")
    orders = []
    until(lambda: len(orders) == 2, lambda: orders.extend(hands.orders(Status(phase="ready", num_episodes=3))))
    assert orders == [("sentence", "wipe"), ("begin", "")]
    until(lambda: page.statuses, page.hear)
    assert (page.statuses[0]["phase"], page.statuses[0]["episodes"]) == ("ready", 3)
    status = Status(phase="ended", num_episodes=3, message="\U0001f916" * 900, sentence="\U0001f916" * 900)
    until(lambda: page.statuses[-1]["phase"] == "ended", lambda: (hands.orders(status), page.hear()))
    (hello,) = page.others
    assert (hello["kind"], hello["axes"], hello["task"]) == ("hello", list(hands.axes), "")
    page.send(ping=7)
    until(lambda: len(page.others) > 1, page.hear)
    assert (page.others[-1]["kind"], page.others[-1]["number"]) == ("pong", 7)
    assert page.others[-1]["time"] == pytest.approx(time.monotonic(), abs=5)


def test_the_page_gets_the_values_of_the_vectors_and_what_they_are(start):
    vectors = [stream for stream in SPECIFICATION.observations if not stream.is_image]
    robot = Watched()
    hands = start(robot)
    robot.readings = {stream.name: Reading(np.full(stream.shape, np.pi * 1e-3), 0.0) for stream in vectors}
    robot.readings[vectors[0].name].value.flat[0] = np.nan
    page = Page(hands.address)

    def values():
        return next((message["values"] for message in page.others if message["kind"] == "values"), None)

    listed = until(values, lambda: (hands.orders(Status(phase="ready", num_episodes=0)), page.hear()))
    assert page.others[0]["streams"] == [
        {"name": stream.name, "labels": [*axis_names(stream)], "units": [*stream.units] or [""] * stream.size}
        for stream in vectors
    ]
    assert listed == {stream.name: [0.0031416] * stream.size for stream in vectors} | {
        vectors[0].name: [None, *[0.0031416] * (vectors[0].size - 1)]
    }
    later = Page(hands.address, "socket?take=1")  # it gets what the first one got
    until(lambda: [message for message in later.others if message["kind"] == "values"], later.hear)


@pytest.mark.parametrize(
    "message", ["no", "[1]", '{"way": [1]}', '{"way": [1, 1e999]}', '{"way": [1, true]}', '{"order": "explode"}']
)
def test_a_wrong_message_ends_the_connection_and_lets_go(start, message):
    hands = start()
    page = Page(hands.address)
    page.send(way=[0.1, 0.1])
    until(lambda: hands.read(0.0))
    page.socket.send(message)
    assert page.closed() == 4003
    until(lambda: hands.read(0.0) is None)
    Page(hands.address).send(way=[0.1, 0.1])
    until(lambda: hands.read(0.0))


def test_one_page_holds_the_hands_until_another_takes_them(start):
    hands = start()
    first = Page(hands.address)
    first.send(way=[0.1, 0.1])
    until(lambda: hands.read(0.0))
    assert Page(hands.address).closed() == 4001
    assert hands.read(0.0) is not None  # the first one still holds
    second = Page(hands.address, "socket?take=1")
    assert first.closed() == 4002
    second.send(way=[0.2, 0.2])
    until(lambda: hands.read(0.0) is not None and hands.read(0.0).value[0] > 0.3)


def test_another_origin_another_name_and_another_path_are_refused(start):
    address = start().address
    for options in ({"origin": "http://evil.example"}, {"path": "else"}):
        with pytest.raises(InvalidStatus) as caught:
            Page(address, **options)
        assert caught.value.response.status_code == (403 if "origin" in options else 404)
    port = address.rstrip("/").rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}"):  # a name that leads here
        with pytest.raises(HTTPError, match="403"):
            urlopen(Request(address, headers={"Host": host}), timeout=TIMEOUT_S)
    with urlopen(address, timeout=TIMEOUT_S) as answer:
        page = answer.read().decode()
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Content-Security-Policy"].endswith(script_source(page))
    for elsewhere in ("http://", "https://", "//cdn", "@import", "src="):
        assert elsewhere not in page


def test_a_page_for_other_machines_needs_its_token(start):
    hands = start(token="a/secret&of sixteen")
    base = hands.address.partition("?")[0]
    for query in ("", "?token=", "?token=wrong"):
        with pytest.raises(HTTPError, match="401"):
            urlopen(base + query, timeout=TIMEOUT_S)
        with pytest.raises(InvalidStatus, match="401"):
            Page(base + query)
    assert urlopen(hands.address, timeout=TIMEOUT_S).status == 200
    Page(hands.address).send(way=[0.1, 0.1])
    until(lambda: hands.read(0.0))


def test_the_configuration_makes_a_token_for_other_machines_alone(monkeypatch):
    monkeypatch.delenv("RECEDE_TOKEN", raising=False)
    assert BrowserInputConfig().build(Watched()).token is None
    tokens = {BrowserInputConfig(host=host).build(Watched()).token for host in ("0.0.0.0", "192.0.2.1")}
    assert len(tokens) == 2
    assert min(map(len, tokens)) > 20
    monkeypatch.setenv("RECEDE_TOKEN", "sixteen letters!".replace(" ", "-"))
    assert BrowserInputConfig(host="::").build(Watched()).token == "sixteen-letters!"
    with pytest.raises(ValueError, match=r"input\.port.*65535.*70000"):
        BrowserInputConfig(port=70000)


def test_the_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(browser_module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"recede\[record\]"):
        Browser(Watched())


def test_a_taken_port_is_named_with_the_remedy(start):
    port = int(start().address.rstrip("/").rpartition(":")[2])
    second = Browser(Watched(), port=port)
    with contextlib.closing(second), pytest.raises(ConnectionError, match=rf"{port}.*input\.port=0"):
        second.start()


def test_a_slow_page_gets_the_newest_picture_and_not_all(start):
    robot = Watched()
    hands = start(robot)
    camera = next(stream for stream in SPECIFICATION.observations if stream.is_image)
    page, number = Page(hands.address), 0

    def show():
        nonlocal number
        number += 1
        robot.readings = {camera.name: Reading(np.zeros(camera.shape, np.uint8), time.monotonic())}
        hands.orders(Status(phase="ready", num_episodes=0))
        page.hear()

    until(lambda: len(page.pictures) == 2, show)
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        show()
    assert len(page.pictures) == 2
    page.send(shown=True)
    until(lambda: len(page.pictures) == 3, show)
    head, data = page.pictures[-1]
    assert data[:2] == b"\xff\xd8"
    assert head["time"] == pytest.approx(time.monotonic(), abs=5)
    assert head["ways"] is None


def test_on_a_slow_network_the_newest_picture_comes_and_the_hands_are_quick(start):
    camera = Stream("camera", (256, 256, 3), "uint8")
    specification = Specification((camera,), SPECIFICATION.action, 0.1)
    robot, noise = Watched(specification), np.random.default_rng(0)
    hands = start(robot)
    sent, way, waits = [], 0.0, []
    with contextlib.closing(Line(hands.address, rate=600_000)) as line:
        page = Page(line.address)
        while len(page.pictures) < 6:  # of about 60 kB
            sent.append(time.monotonic())
            robot.readings = {"camera": Reading(noise.integers(0, 256, camera.shape, np.uint8), sent[-1])}
            hands.orders(Status(phase="ready", num_episodes=0))
            way += 0.001
            page.send(way=[way, 0.0])
            before, count = time.monotonic(), len(page.pictures)
            until(lambda way=way: (reading := hands.read(0.0)) and reading.value[0] >= 20 * way - 1e-9)
            waits.append(time.monotonic() - before)
            page.hear()
            if len(page.pictures) > count:
                page.send(shown=True)

        def go_on():
            hands.orders(Status(phase="ready", num_episodes=0))
            page.hear()
            page.send(shown=True)

        until(lambda: page.pictures[-1][0]["time"] == sent[-1], go_on)
        assert len(page.pictures) <= 9  # two were on their way, and no others waited
        assert np.median(waits) < 0.1


def test_a_page_whose_computer_sleeps_is_gone_and_another_one_may_drive(start, monkeypatch):
    for name in ("PING_S", "GONE_S", "CLOSE_S"):
        monkeypatch.setattr(web_module, name, 0.2)
    hands = start()
    with contextlib.closing(Line(hands.address)) as line:
        page = Page(line.address)
        page.send(way=[0.1, 0.1])
        reading = until(lambda: hands.read(0.0))
        line.is_asleep = True
        page.send(way=[0.5, 0.5])
        time.sleep(0.1)
        assert hands.read(0.0).time == reading.time  # so the clutch lets go, within `stale_ms`
        until(lambda: hands.read(0.0) is None)
        second = Page(hands.address)
        second.send(way=[0.2, 0.2])
        until(lambda: hands.read(0.0))


def test_it_keeps_the_promises_of_an_input(start):
    hands = Browser(Watched())
    hands_thread = threading.Thread(target=lambda: _hold(hands))
    hands_thread.start()
    line = check_teleoperator(hands, MonotonicClock(), seconds=0.5, max_call_s=1.0)
    hands_thread.join()
    assert "the relative input" in line


def _hold(hands):
    until(lambda: hands.address)
    page = Page(hands.address)
    with contextlib.suppress(ConnectionClosed):
        for _ in range(1000):
            page.send(way=[0.0, 0.0])
            time.sleep(0.01)


def test_a_twin_does_what_the_simulation_did_and_shows_its_newest_step():
    clock = VirtualClock()
    simulation = Simulation(REACH, clock)
    filmed, followed = connected(film_layouts(REACH.specification), NO_MESSAGES)
    shown, looked = connected(picture_layouts(2), NO_MESSAGES)
    sender = Channel(filmed, film_layouts(REACH.specification), NO_MESSAGES)
    steps = Channel(followed, NO_MESSAGES, film_layouts(REACH.specification))
    twin = Twin(REACH, Channel(shown, picture_layouts(2), NO_MESSAGES))
    pictures = Channel(looked, NO_MESSAGES, picture_layouts(2))
    ends = [filmed, followed, shown, looked]
    with contextlib.closing(simulation), contextlib.closing(twin.env):
        simulation.tell = sender.send
        simulation.start()
        for number in range(12):
            if number == 6:
                simulation.reset(5)
            simulation.command(np.array([0.1, 0.05 * number]), clock.now())
            clock.sleep_until(clock.now() + 0.1)
            simulation.read()
        for name, record in steps.receive():
            twin.follow(name, record)
        np.testing.assert_array_equal(twin._observation["position"], simulation.read()["position"].value)
        np.testing.assert_array_equal(twin._observation["target"], simulation.read()["target"].value)
        twin.show(clock.now())
        ((name, record),) = [*pictures.receive()]
        assert name == "picture"
        assert record["jpeg"][: record["size"]].tobytes()[:2] == b"\xff\xd8"
        assert not record["has_map"]
        twin.show(clock.now() + 0.5)
        assert not [*pictures.receive()]
        sender.send("step", 0.0, 99, np.zeros(2))  # steps between them were lost
        for name, record in steps.receive():
            twin.follow(name, record)
        assert twin._number == -1
    for end in ends:
        end.close()


class Mapped:
    """An environment in whose pictures the second dimension leads to the right, and the first one up."""

    unwrapped = property(lambda self: self)

    def pixels(self, actions):
        return np.stack([50 + 20 * actions[:, 1], 50 - 10 * actions[:, 0]], axis=1)


def test_the_ways_in_the_picture_are_shares_of_it_for_a_range_of_each_dimension():
    twin = Twin(REACH, None)
    twin.env._env, twin._observation = Mapped(), {"position": np.array([0.5, -0.5])}
    point, ways = twin._places((100, 200, 3), 0.0)
    np.testing.assert_allclose(point, [0.2, 0.45])
    np.testing.assert_allclose(ways, [[0, -0.2], [0.2, 0]], atol=1e-9)  # the range is 2
    twin._before = {"position": np.array([0.5, -0.7])}
    np.testing.assert_allclose(twin._places((100, 200, 3), 0.5)[0], [0.21, 0.45])  # it goes on
    twin.env._env = None
    twin.env._make = lambda: SimpleNamespace(unwrapped=None)
    assert not twin._places((100, 200, 3), 0.0)[1].any()


def test_a_twin_shows_how_far_the_step_under_way_has_come():
    shown, looked = connected(picture_layouts(2), NO_MESSAGES)
    pictures = Channel(looked, NO_MESSAGES, picture_layouts(2))
    twin, shares = Twin(REACH, Channel(shown, picture_layouts(2), NO_MESSAGES)), []
    environment = REACH.make(render_mode="rgb_array")
    environment.preview = lambda action, share: (shares.append(round(share, 2)), np.zeros((8, 8, 3), np.uint8))[1]
    twin.env._env = environment
    action = np.full(2, 0.5, np.float32)
    with shown, looked:
        twin.follow("reset", {"time": 10.0, "seed": 0})
        twin.follow("ahead", {"time": 10.0, "number": 0, "action": action})
        for now in (10.0, 10.02, 10.05, 10.09, 10.15, 10.2):  # too early after 10.0; and nothing new after 10.1
            twin.show(now)
        assert shares == [0, 0.5, 0.9, 1]
        assert [round(float(record["time"]), 3) for _, record in pictures.receive()] == [10.0, 10.05, 10.09, 10.1]
        twin.follow("step", {"time": 10.1, "number": 1, "action": action})
        twin.show(10.3)  # nobody says what follows, so it shows the step that was taken
        twin.follow("ahead", {"time": 10.1, "number": 7, "action": action})
        twin.show(10.5)
        assert shares == [0, 0.5, 0.9, 1, 0]
        assert [round(float(record["time"]), 3) for _, record in pictures.receive()] == [10.1]


def test_a_simulation_that_cannot_be_rendered_says_why_and_goes_on():
    shown, looked = connected(picture_layouts(2), NO_MESSAGES)
    pictures = Channel(looked, NO_MESSAGES, picture_layouts(2))
    twin = Twin(REACH, Channel(shown, picture_layouts(2), NO_MESSAGES))
    with shown, looked, contextlib.closing(twin.env):
        twin.env._make = raise_no_egl
        for name in ("reset", "step"):
            twin.follow(name, {"seed": 0, "time": 0.0, "number": 1, "action": np.zeros(2)})
            twin.show(0.0)
        ((name, record),) = [*pictures.receive()]
        assert name == "no_pictures"
        assert b"libegl1" in record["why"]


def raise_no_egl():
    raise OSError("rendering needs EGL: apt-get install libegl1")


def drive(hands, done):
    """One episode by a page that is reloaded in the middle of it."""
    page, way = Page(until(lambda: hands.address)), [0.0, 0.0]

    def go():
        way[0] += 0.002
        page.send(way=way)
        page.hear()
        page.pictures and page.send(shown=True)

    def shows(**values):
        return page.statuses and values.items() <= page.statuses[-1].items()

    until(lambda: shows(phase="ready") and (page.pictures or not done["pictures"]), go)
    page.send(order="begin")
    until(lambda: shows(phase="recording", led=True), go)
    until(lambda: page.statuses[-1]["seconds"] > 0.8, go)
    page.close()  # a reload
    page = Page(hands.address)
    until(lambda: shows(phase="recording", led=False), page.hear)
    before = page.statuses[-1]["seconds"]
    until(lambda: page.statuses[-1]["seconds"] > before + 0.3, page.hear)
    until(lambda: shows(phase="recording", led=True), go)
    until(lambda: page.statuses[-1]["seconds"] > before + 0.8, go)
    page.send(order="success")
    page.send(order="keep")
    until(lambda: shows(episodes=1), page.hear)
    page.send(order="quit")
    until(lambda: {"kind": "over"} in page.others, page.hear)
    done["is_done"] = True


def record(robot, hands, path, *, pictures):
    action = robot.specification.action
    session = RecordingSession(
        robot=robot,
        teleoperator=hands,
        clutch=Clutch(hands.kind, Axes(hands.axes, action), near=0.05, step=0.2, stale_s=3.0),
        safety=Safety(Limits.of(robot.specification, speed=5.0, acceleration=50.0, jump=np.inf), 1 / robot.rate),
        store=DemonstrationStore.create(path, robot.specification),
        facts=EpisodeFacts(task="reach", operator="Ada", input="browser"),
    )
    done = {"is_done": False, "pictures": pictures}
    driving = threading.Thread(target=drive, args=(hands, done))
    driving.start()
    session.run()
    driving.join()
    assert done["is_done"]
    return DemonstrationStore.open(path)


@pytest.mark.slow
def test_a_page_that_is_reloaded_lets_go_and_the_episode_goes_on_and_is_repeated_bit_by_bit(tmp_path):
    robot = SimulatedRobot(REACH, rate=50.0)
    store = record(robot, Browser(robot), tmp_path / "hands.zarr", pictures=True)
    assert (len(store), store.episode_facts[0].outcome, store.episode_facts[0].input) == (1, "success", "browser")
    led = store.episode_facts[0].notes["led"]
    assert len(led) == 2  # it was let go once
    steps = store.episode(0)
    between = steps["action"][led[0][1] + 1 : led[1][0]]
    np.testing.assert_allclose(between, np.broadcast_to(between[0], between.shape), atol=1e-6)
    assert steps["action"][-1, 0] > steps["action"][0, 0] + 0.05
    seed = int(store.episode_seeds[0])
    assert seed >= 0
    env = REACH.make()
    observation, _ = env.reset(seed=seed)
    for index in range(len(steps["action"])):
        np.testing.assert_array_equal(observation["position"], steps["position"][index])
        observation, *_ = env.step(steps["action"][index])
