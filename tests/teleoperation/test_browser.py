"""The page as hands: a client of its socket drives, and the rules of who may."""

import contextlib
import json
import socket
import threading
import time
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from control_loop import SPECIFICATION
from hands import ThreadChild
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
from recede.teleoperation import browser as browser_module
from recede.teleoperation.axes import Axes
from recede.teleoperation.browser import Browser
from recede.teleoperation.check import check_teleoperator
from recede.teleoperation.clutch import Clutch
from recede.teleoperation.interface import Status
from recede.teleoperation.web import NO_MESSAGES
from toys import REACH
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

TIMEOUT_S = 20.0


class Threads(ThreadChild):
    """A process that is a thread, with copies of its sockets."""

    def __init__(self, serve, outgoing, incoming, *arguments):
        copies = [value.dup() if isinstance(value, socket.socket) else value for value in arguments]
        super().__init__(serve, outgoing, incoming, *copies)


class Watched:
    """A robot that is only looked at."""

    def __init__(self, specification=SPECIFICATION):
        self.specification = specification
        self.readings = {}

    def read(self):
        return self.readings


class Page:
    """What the page does, without a browser."""

    def __init__(self, address, path="socket", origin=None):
        self.statuses, self.pictures, self.others = [], [], []
        base = address.partition("?")[0]
        query = address.partition("?")[2]
        url = base.replace("http", "ws") + path + (f"?{query}" if query else "")
        self._stack = contextlib.ExitStack()
        self.socket = self._stack.enter_context(connect(url, origin=origin or base.rstrip("/")))

    def close(self):
        self._stack.close()

    def send(self, **message):
        self.socket.send(json.dumps(message))

    def hear(self):
        """One message, if there is one."""
        with contextlib.suppress(TimeoutError):
            data = self.socket.recv(timeout=0.02)
            if isinstance(data, bytes):
                size = int.from_bytes(data[:4], "little")
                self.pictures.append((json.loads(data[4 : 4 + size]), data[4 + size :]))
            else:
                message = json.loads(data)
                (self.statuses if message["kind"] == "status" else self.others).append(message)

    def closed(self):
        """The code with which the connection is closed."""
        try:
            while True:
                self.socket.recv(timeout=TIMEOUT_S)
        except ConnectionClosed as error:
            return error.rcvd.code


def until(true, step=lambda: time.sleep(0.005)):
    """Repeat a step until something is true."""
    end = time.monotonic() + TIMEOUT_S
    while not (value := true()):
        assert time.monotonic() < end
        step()
    return value


@pytest.fixture
def start(monkeypatch, capsys):
    monkeypatch.setattr(browser_module, "Child", Threads)
    with contextlib.ExitStack() as stack:

        def start(robot=None, **options):
            hands = stack.enter_context(contextlib.closing(Browser(robot or Watched(), **options)))
            hands.start()
            assert hands.address in capsys.readouterr().out
            return hands

        yield start


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
    assert page.others == [{"kind": "hello", "axes": list(hands.axes), "task": ""}]
    page.send(ping=7)
    until(lambda: len(page.others) > 1, page.hear)
    assert page.others[-1] == {"kind": "pong", "number": 7}


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
    assert head["age"] < 2
    assert head["ways"] is None


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
        twin.show()
        ((name, record),) = [*pictures.receive()]
        assert name == "picture"
        assert record["jpeg"][: record["size"]].tobytes()[:2] == b"\xff\xd8"
        assert not record["has_map"]
        twin.show()
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
    point, ways = twin._places((100, 200, 3))
    np.testing.assert_allclose(point, [0.2, 0.45])
    np.testing.assert_allclose(ways, [[0, -0.2], [0.2, 0]], atol=1e-9)  # the range is 2
    twin.env._env = None
    twin.env._make = lambda: SimpleNamespace(unwrapped=None)
    assert not twin._places((100, 200, 3))[1].any()


def test_a_simulation_that_cannot_be_rendered_says_why_and_goes_on():
    shown, looked = connected(picture_layouts(2), NO_MESSAGES)
    pictures = Channel(looked, NO_MESSAGES, picture_layouts(2))
    twin = Twin(REACH, Channel(shown, picture_layouts(2), NO_MESSAGES))
    with shown, looked, contextlib.closing(twin.env):
        twin.env._make = raise_no_egl
        for name in ("reset", "step"):
            twin.follow(name, {"seed": 0, "time": 0.0, "number": 1, "action": np.zeros(2)})
            twin.show()
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
