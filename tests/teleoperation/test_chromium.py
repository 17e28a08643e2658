"""The page in a real browser: what it sends, and what becomes of it if its computer or its network fails."""

import os
import signal
import time

import numpy as np
import pytest
from pages import Watched, until
from recede.benchmarks.hands import Screen, browser_path, opened
from recede.robots.interface import Reading
from recede.specification import Specification, Stream
from recede.teleoperation import web as web_module
from recede.teleoperation.interface import Status

pytest.importorskip("playwright", reason="needs the package playwright: pip install playwright")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser_path() is None, reason="needs a browser to drive: apt-get install chromium"),
]

CAMERA = Stream("camera", (480, 480, 3), "uint8")
SPECIFICATION = Specification(
    (Stream("place", (2,), units="m", labels=("x", "y"), low=-1, high=1), CAMERA),
    Stream("action", (2,), units="m", labels=("x", "y"), low=-1, high=1),
    control_dt=0.1,
)


@pytest.fixture
def served(start):
    """The input, and a function that lets the recording go on for some seconds."""
    robot, noise = Watched(SPECIFICATION), np.random.default_rng(0)
    rows = noise.integers(0, 256, (60, 60, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    hands, seconds = start(robot), [0.0]

    def go_on(until_s=0.0):
        end = time.monotonic() + until_s
        while True:
            now = time.monotonic()
            robot.readings = {
                "place": Reading(np.array([0.25, -0.5], np.float32), now),
                "camera": Reading(np.roll(rows, int(1e3 * now), axis=0), now),
            }
            seconds[0] += 0.01
            hands.orders(Status(phase="recording", num_episodes=0, seconds=seconds[0], is_led=True))
            if now > end:
                return
            time.sleep(0.01)

    return hands, go_on


def test_keys_the_mouse_and_the_list_of_positions(served):
    hands, go_on = served
    with opened(hands.address) as page:
        screen = Screen(page)
        until(lambda: (look := screen.look()).rate > 0 and look.is_whole, go_on)
        assert screen.look().values == {"place": {"x": 0.25, "y": -0.5}}
        assert screen.codes == {"x +": "KeyD", "x −": "KeyA", "y +": "KeyW", "y −": "KeyS"}
        before = until(lambda: hands.read(0.0), go_on).value
        screen.hold({"x +"})
        go_on(0.5)
        screen.hold(set())
        go_on(0.2)
        way = hands.read(0.0).value - before
        assert 0.1 < way[0] < 0.6  # a quarter of the range of 2 in a second
        assert way[1] == 0
        box = page.locator("#picture").bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0], middle[1] - min(box["width"], box["height"]) / 4)
        page.mouse.up()
        go_on(0.2)
        np.testing.assert_allclose(hands.read(0.0).value - before - way, [0, 0.5], atol=1e-6)


def test_a_second_tab_takes_the_hands_and_a_reload_gives_them_back(served):
    hands, go_on = served
    with opened(hands.address) as page:
        until(lambda: hands.read(0.0), go_on)
        second = page.context.browser.new_page()
        second.goto(hands.address)
        until(lambda: "holds the hands" in second.locator("#veil").inner_text(), go_on)
        second.locator("#take").click()
        until(lambda: "has taken the hands" in page.locator("#veil").inner_text(), go_on)
        second.keyboard.down("KeyD")
        until(lambda: (reading := hands.read(0.0)) and reading.value[0] > 0.05, go_on)
        second.reload()
        reading = until(lambda: (reading := hands.read(0.0)) and reading.value[0] == 0 and reading, go_on)
        time.sleep(0.2)
        assert hands.read(0.0).time > reading.time  # it holds again, from here
        assert Screen(second).look().phase == "Recording"


def test_a_computer_that_sleeps_lets_go_and_comes_back_where_it_was(served, monkeypatch):
    monkeypatch.setattr(web_module, "PING_S", 0.3)
    monkeypatch.setattr(web_module, "GONE_S", 0.5)
    hands, go_on = served
    with opened(hands.address) as page:
        screen = Screen(page)
        until(lambda: screen.look().rate > 0, go_on)
        processes = page.context.browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
        page.keyboard.down("KeyD")
        until(lambda: (reading := hands.read(0.0)) and reading.value[0] > 0.1, go_on)
        for process in processes:
            os.kill(process["id"], signal.SIGSTOP)
        try:
            go_on(0.2)
            last = hands.read(0.0)
            go_on(0.2)
            assert last is None or hands.read(0.0) is None or hands.read(0.0).time == last.time  # it grows stale
            until(lambda: hands.read(0.0) is None, go_on)
        finally:
            for process in processes:
                os.kill(process["id"], signal.SIGCONT)
        reading = until(lambda: hands.read(0.0), go_on)
        assert abs(reading.value[0]) < 0.3  # a new way from here, whatever the time of the sleep
        assert screen.look().phase == "Recording"


def test_a_slow_network_shows_the_newest_picture_and_its_age_and_keeps_the_hands_quick(served):
    hands, go_on = served
    with opened(hands.address) as page:
        screen = Screen(page)
        until(lambda: screen.look().rate > 10, go_on)
        go_on(1.5)  # the rate is that of the last second
        quick = screen.look()
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        slow = {"offline": False, "latency": 40, "downloadThroughput": 150_000, "uploadThroughput": 150_000}
        network.send("Network.emulateNetworkConditions", slow)
        for _ in range(3):  # the conditions hold for new connections; Chromium misses one now and then
            page.reload()
            go_on(4.0)
            if (look := screen.look()).age > quick.age:
                break
        assert 0 < look.rate < quick.rate
        assert quick.age < look.age < 3000
        before, pressed = hands.read(0.0).value[0], time.monotonic()
        page.keyboard.down("KeyD")
        until(lambda: hands.read(0.0).value[0] > before, go_on)
        assert time.monotonic() - pressed < 1.0
        assert time.monotonic() - hands.read(0.0).time < 0.3


def test_another_site_and_a_wrong_token_drive_nothing(start):
    hands = start(Watched(SPECIFICATION), token="a secret of sixteen")
    base, query = hands.address.split("?")
    with opened(f"{base}?token=wrong") as page:
        assert "needs its token" in page.locator("body").inner_text()
        page.goto("about:blank")
        socket = f"ws{base[4:]}socket?{query}"  # with the right token, but of another origin
        tried = """url => new Promise(done => {
            const socket = new WebSocket(url);
            socket.onopen = () => done("open");
            socket.onerror = () => done("refused");
        })"""
        assert page.evaluate(tried, socket) == "refused"
        page.goto(hands.address)
        page.keyboard.down("KeyD")
        until(lambda: hands.read(0.0), lambda: hands.orders(Status(phase="recording", num_episodes=0)))
