"""The page of `recede view` in a real browser: served, and in one file without a network."""

import re

import numpy as np
import pytest
from pages import until
from recede.benchmarks.hands import browser_path, opened
from recede.evaluation.viewing.one_file import FIRST, write_one_file
from recede.evaluation.viewing.showing import Showing
from viewed import ATTACK, served

pytest.importorskip("playwright", reason="needs the package playwright: pip install playwright")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser_path() is None, reason="needs a browser to drive: apt-get install chromium"),
]


class Oracle:
    """A policy with three chunks of four steps, each to another side."""

    def described(self):
        return {"name": ATTACK, "samples": 3, "observation": 2, "prediction": 4, "action": 2}

    def chunks(self, episode, step):
        ways = np.array([-1, 0, 1])[:, None] * np.linspace(0, 0.2, 4)
        return np.stack([ways, ways + 0.1 * episode], axis=2).astype(np.float32)


class Still:
    """A camera that stands still."""

    def points(self, chunks):
        return {"camera": 0.5 + chunks / 2}


@pytest.fixture(scope="module")
def showing(seen_store):
    return Showing(demonstrations=seen_store, name=ATTACK, foresight=Oracle(), projection=Still(), remarks=[ATTACK])


@pytest.fixture(scope="module")
def browser(showing):
    """A page of a browser, and the address of the page of `recede view`."""
    with served(showing) as address, opened("about:blank") as page:
        yield page, address


@pytest.fixture
def page(browser):
    page, address = browser
    page.goto("about:blank")
    page.goto(address)
    ready(page)
    return page


def ready(page):
    until(lambda: page.evaluate("Boolean(current)"), lambda: page.wait_for_timeout(20))


def text_of(page, selector):
    return page.locator(selector).inner_text()


def shows(page, expression):
    until(lambda: page.evaluate(expression), lambda: page.wait_for_timeout(20))


def test_the_list_the_filter_and_the_chips_choose_episodes(page):
    rows = page.locator("#list button")
    assert rows.count() == 4
    assert re.findall("success|failure|not judged", text_of(page, "#list")) == [
        "success",
        "failure",
        *["not judged"] * 2,
    ]
    page.locator("#where").fill("outcome=failure or steps>40")
    page.locator("#where").press("Enter")
    shows(page, "shown.length === 2")
    assert rows.count() == 2
    page.locator("#where").fill("outcome=lost")
    page.locator("#where").press("Enter")
    shows(page, "document.getElementById('wrong').textContent.includes('outcome is one of')")
    page.locator("#chips button", has_text="success").click()
    shows(page, "shown.length === 1")
    assert text_of(page, "#wrong") == ""
    page.locator("#chips button", has_text="success").click()
    shows(page, "shown.length === 4")
    rows.nth(1).click()
    shows(page, "current.episode === 1")
    assert page.locator("#legend [data-key=hand]").inner_text() == "led by Ada"
    assert page.locator("#legend [data-key=policy]").inner_text() == "led by a policy"
    assert text_of(page, "#end") == "failure"


def test_keys_and_the_mouse_move_one_cursor_over_all_streams_and_pictures(page, seen_store):
    def is_at(step):
        shows(page, f"step === {step}")
        rows = seen_store.episode(0)
        label = page.locator("[data-stream=hand][data-label=x] output").inner_text()
        assert float(label.removesuffix(" m")) == pytest.approx(rows["hand"][step, 0], abs=1e-3)
        assert page.locator("#track").get_attribute("aria-valuenow") == str(step)

    def picture():
        return page.locator("figure[data-name=camera] img").get_attribute("src")

    is_at(0)
    until(picture, lambda: page.wait_for_timeout(20))
    before = picture()
    for key, step in (("ArrowRight", 1), ("Shift+ArrowRight", 11), ("ArrowLeft", 10), ("End", 29), ("Home", 0)):
        page.keyboard.press(key)
        is_at(step)
    box = page.locator("#track .inside").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 1, middle)
    page.mouse.down()
    for share in (0.2, 0.4, 0.52):
        page.mouse.move(box["x"] + share * box["width"], middle)
    page.mouse.up()
    is_at(15)
    until(lambda: picture() != before, lambda: page.wait_for_timeout(20))
    cursors = "[...document.querySelectorAll('.cursor')].map(one => one.getBoundingClientRect().x - one.parentElement"
    places = page.evaluate(
        f"{cursors}.getBoundingClientRect().x).map((x, at) => x / [...document.querySelectorAll("
        "'.cursor')][at].parentElement.getBoundingClientRect().width)"
    )
    assert len(places) == 4  # on the time line and over three streams
    np.testing.assert_allclose(places, 15 / 29, atol=0.01)
    page.keyboard.press("ArrowDown")
    shows(page, "current.episode === 1 && step === 0")
    page.keyboard.press("Space")
    shows(page, "step === current.steps - 1 && !playing")  # at the control rate, to the end


def test_the_fan_is_drawn_when_the_cursor_rests_and_goes_when_it_moves(page):
    chunks = page.locator("#acted .chunk")
    shows(page, "document.querySelectorAll('#acted .chunk').length === 6")  # three of each dimension
    first = page.locator("#acted [data-label=x] .chunk").first.get_attribute("d")
    assert re.findall(r"[ML](-?\d+)", first) == ["-1", "0", "1", "2"]  # from the oldest observed step on
    paths = page.locator("#acted path").evaluate_all("paths => paths.map(path => path.getAttribute('d'))")
    heights = [float(number) for path in paths for number in re.findall(r" (-?[\d.]+)", path)]
    assert 0 <= min(heights) < max(heights) <= 1  # the scale grows with what the policy would do
    page.keyboard.press("ArrowRight")
    shows(page, "fan && fan.step === 1")
    assert chunks.count() == 6
    veil = "name => figureOf(name).querySelector('canvas').getContext('2d').getImageData(0, 0, 1, 1).data[3] > 0"
    shows(page, f"({veil})('camera')")  # the picture is darker below a fan
    assert not page.evaluate(veil, "depth")
    page.locator("#ask input").uncheck()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(400)
    assert chunks.count() == 0
    assert not page.evaluate(veil, "camera")


def test_the_line_of_a_long_episode_keeps_its_extremes(page):
    entry = "{rows, index: 1, stream: {labels: ['x', 'y']}, low: -2, high: 2}"
    spikes = "const rows = new Float32Array(100000); rows[2 * 31234 + 1] = 1; rows[2 * 40001 + 1] = -1;"
    path = page.evaluate(f"() => {{ {spikes} return pathOf({entry}); }}")
    points = dict(point.split() for point in re.split("[ML]", path)[1:])
    assert len(points) <= 2000
    assert (float(points["31234"]), float(points["40001"])) == (0.25, 0.75)


def test_no_text_of_a_store_becomes_an_element(page, showing, tmp_path):
    assert ATTACK in page.locator("#list").inner_text()
    page.locator("#list button").nth(1).click()
    shows(page, "current.episode === 1")
    assert ATTACK in page.locator("#facts").inner_text()
    assert ATTACK in page.locator("#remarks").inner_text()
    assert page.evaluate("window.hacked") is None
    assert page.locator("b").count() == 0
    write_one_file(tmp_path / "page.html", showing, is_chosen=True, most_mb=20)
    page.goto((tmp_path / "page.html").as_uri())
    ready(page)
    assert page.evaluate("window.hacked") is None
    assert page.locator("b").count() == 0
    assert page.locator("h1").inner_text() == ATTACK


def test_a_page_in_one_file_needs_nothing_else(browser, seen_store, showing, tmp_path):
    page, path = browser[0], tmp_path / "page.html"
    write_one_file(path, showing, is_chosen=False, most_mb=20)
    requests, errors = list[str](), list[str]()
    page.goto("about:blank")
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.context.set_offline(True)
    try:
        page.goto(path.as_uri())
        ready(page)
        assert page.locator("#list button").count() == FIRST
        page.keyboard.press("ArrowDown")
        shows(page, "current.episode === 1")
        page.keyboard.press("Shift+ArrowRight")
        shows(page, "fan && fan.step === 10")
        assert page.locator("#acted .chunk").count() == 6
        shows(page, "figureOf('camera').querySelector('img').naturalWidth === 32")
        label = page.locator("[data-stream=hand][data-label=y] output").inner_text()
        assert float(label.removesuffix(" m")) == pytest.approx(seen_store.episode(1)["hand"][10, 1], abs=1e-3)
    finally:
        page.context.set_offline(False)
    assert [url for url in requests if not url.startswith(("data:", path.as_uri()))] == []
    assert errors == []


def test_a_page_comes_back_when_the_command_does(page):
    page.evaluate("socket.close()")
    shows(page, "document.getElementById('link').textContent === 'recede view has ended'")
    page.keyboard.press("ArrowRight")
    shows(page, "document.getElementById('link').textContent === 'connected'")
    shows(page, "step === 1 && figureOf('camera').querySelector('img').naturalWidth === 32")
