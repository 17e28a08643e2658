"""The page is served to this machine alone, and its socket answers the page alone."""

import contextlib
import json
import threading
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from recede.evaluation.viewing import server as server_module
from recede.evaluation.viewing.showing import Showing
from recede.web.look import script_source
from viewed import decoded, served
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

TIMEOUT_S = 20.0


@pytest.fixture
def address(seen_store):
    with served(Showing(demonstrations=seen_store, name="seen")) as address:
        yield address


def opened(address, origin=None, **options):
    return connect(address.replace("http", "ws") + "socket", origin=origin or address.rstrip("/"), **options)


def answer(socket):
    return json.loads(socket.recv(timeout=TIMEOUT_S))


def ask(socket, **question):
    socket.send(json.dumps(question))
    return answer(socket)


def closed(socket):
    """The code with which the connection is closed."""
    try:
        while True:
            socket.recv(timeout=TIMEOUT_S)
    except ConnectionClosed as error:
        return error.rcvd.code


def test_the_page_loads_nothing_and_its_socket_answers(address, seen_store):
    with urlopen(address) as response:
        text = response.read().decode()
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert policy.endswith(script_source(text))
    assert "--accent: #0b6e69" in text  # the look of all pages
    assert "innerHTML" not in text
    with opened(address) as socket:
        assert answer(socket)["kind"] == "hello"
        episode = ask(socket, episode=1)
        np.testing.assert_array_equal(decoded(episode["vectors"]["hand"]).reshape(-1, 2), seen_store.episode(1)["hand"])
        assert ask(socket, images=[1, 4])["pictures"].keys() == {"camera", "depth"}
        assert ask(socket, listing="steps>40")["episodes"] == [2]


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ({"listing": "outcome=lost"}, "outcome is one of"),
        ({"episode": 99}, "must be one of 0 .. 3, got 99"),
        ({"images": [0, 99]}, "must be one of 0 .. 29, got 99"),
        ({"dance": 1}, "a question must be"),
        ({}, "a question must be"),
    ],
    ids=str,
)
def test_a_question_without_an_answer_has_a_fault_and_the_next_one_an_answer(address, question, text):
    with opened(address) as socket:
        answer(socket)
        fault = ask(socket, **question)
        assert (fault["kind"], fault["question"]) == ("fault", next(iter(question), ""))
        assert text in fault["text"]
        assert ask(socket, episode=0)["kind"] == "episode"


@pytest.mark.parametrize("message", ["no", "[1]", "[" * 3000, b"\xff"], ids=["text", "list", "deep", "bytes"])
def test_what_is_no_question_ends_the_connection(address, message):
    with opened(address) as socket:
        answer(socket)
        socket.send(message)
        assert closed(socket) == 4003


def status_of(request):
    try:
        with urlopen(request) as response:
            return response.status
    except HTTPError as error:
        with error:
            return error.code


def test_who_may_see_it(address):
    port = address.rpartition(":")[2].rstrip("/")
    for host, path, status in (
        ("evil.example", "", 403),  # a name that somebody has made to mean this machine
        (f"evil.example:{port}", "", 403),
        ("[", "", 403),
        (f"127.0.0.1:{port}", "images", 404),
        (f"127.0.0.1:{port}", "../etc/passwd", 404),
        (f"localhost:{port}", "", 200),
    ):
        assert status_of(Request(address + path, headers={"Host": host})) == status
    for origin in ("http://evil.example", f"http://localhost:{port}", "null", "http://["):
        with pytest.raises(InvalidStatus) as refused:
            opened(address, origin)
        assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus):
        connect(address.replace("http", "ws") + "socket")  # no page at all


def test_so_many_pages_may_be_open_and_a_closed_one_makes_room(address, monkeypatch):
    monkeypatch.setattr(server_module, "MOST_PAGES", 2)
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(opened(address)) for _ in range(2))
        for socket in (first, second):
            assert answer(socket)["kind"] == "hello"
        with opened(address) as third:
            assert closed(third) == 4004
        first.close()
        for _ in range(100):  # the server learns of it a moment later
            with opened(address) as third, contextlib.suppress(ConnectionClosed):
                assert answer(third)["kind"] == "hello"
                break
        else:
            raise AssertionError("no place became free")


class Broken:
    """A policy with a fault."""

    def described(self):
        return {"name": "broken", "samples": 1, "observation": 1, "prediction": 1, "action": 1}

    def chunks(self, episode, step):
        return {}["weights"]


def test_a_policy_that_breaks_says_so_and_the_page_goes_on(seen_store):
    showing = Showing(demonstrations=seen_store, name="seen", foresight=Broken())
    with served(showing) as address, opened(address) as socket:
        answer(socket)
        assert ask(socket, fan=[0, 1]) == {"kind": "fault", "question": "fan", "text": "KeyError: 'weights'"}
        assert ask(socket, images=[0, 1])["kind"] == "images"


class Slow:
    """A policy that thinks until it is told to stop."""

    def __init__(self):
        self.is_asked, self.may_answer = threading.Event(), threading.Event()

    def described(self):
        return {"name": "slow", "samples": 1, "observation": 1, "prediction": 1, "action": 1}

    def chunks(self, episode, step):
        self.is_asked.set()
        assert self.may_answer.wait(TIMEOUT_S)
        return np.zeros((1, 1, 2))


def test_images_do_not_wait_for_the_policy_and_too_many_questions_end_the_connection(seen_store):
    slow = Slow()
    with served(Showing(demonstrations=seen_store, name="seen", foresight=slow)) as address, opened(address) as socket:
        answer(socket)
        socket.send(json.dumps({"fan": [0, 1]}))
        assert slow.is_asked.wait(TIMEOUT_S)
        assert ask(socket, images=[0, 1])["kind"] == "images"
        slow.may_answer.set()
        assert answer(socket)["kind"] == "fan"
        slow.may_answer.clear()
        for _ in range(server_module.MOST_WAITING + 1):
            socket.send(json.dumps({"fan": [0, 1]}))
        assert closed(socket) == 4003
        slow.may_answer.set()
