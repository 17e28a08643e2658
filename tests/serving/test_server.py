"""The server: its chunks, and the clients that it admits."""

import contextlib
import urllib.error

import numpy as np
import pytest
import toys
from policy_server import (
    SECONDS,
    TOKEN,
    Held,
    ask_chunk,
    noise,
    open_session,
    predict_alone,
    read_health,
    receive,
    serve,
    steps,
    wait_until,
)
from recede.policy.denoising.guidance import Prefix
from recede.serving import server
from recede.serving.wire import PROTOCOL, pack
from recede.specification import Horizons, Specification
from websockets.exceptions import ConnectionClosed, InvalidStatus


def test_a_chunk_is_that_of_the_engine(address, engine):
    with open_session(address) as (opened, hello):
        assert hello["protocol"] == PROTOCOL
        assert hello["task"] is None
        assert Specification.from_json(hello["specification"]) == toys.SPECIFICATION
        assert Horizons(**hello["horizons"]) == engine.horizons
        drawn = noise(engine, 5, hello["session"])
        for seed in range(3):
            expected = predict_alone(engine, steps(seed), next(drawn))
            chunk = ask_chunk(opened, steps(seed))
            assert chunk.dtype == np.float32
            np.testing.assert_array_equal(chunk, expected)


def test_the_last_steps_are_remembered(address, engine):
    whole = steps(0, 5)
    with open_session(address) as (opened, hello):
        drawn = noise(engine, 5, hello["session"])
        for last in range(5):
            chunk = ask_chunk(opened, {name: values[last : last + 1] for name, values in whole.items()})
            history = {name: values[[max(last - 1, 0), last]] for name, values in whole.items()}
            np.testing.assert_array_equal(chunk, predict_alone(engine, history, next(drawn)))
        for reset, first, last in ((False, 4, 2), (True, 0, 0), (False, 0, 3)):
            chunk = ask_chunk(opened, {name: values[[last]] for name, values in whole.items()}, reset=reset)
            history = {name: values[[first, last]] for name, values in whole.items()}
            np.testing.assert_array_equal(chunk, predict_alone(engine, history, next(drawn)))


def test_a_prefix_guides_the_chunk(address, engine):
    rng = np.random.default_rng(0)
    actions, weights = rng.uniform(-1, 1, (16, 2)).astype(np.float32), rng.uniform(0, 1, 16).astype(np.float32)
    with open_session(address) as (opened, hello):
        drawn = noise(engine, 5, hello["session"])
        for options in ({}, {"start": 0.5}, {"limit": 2.0, "exact": True}):
            prefix = Prefix(actions, weights, **options)
            sent = {name: getattr(prefix, name) for name in ("actions", "weights", "start", "limit", "exact")}
            expected = predict_alone(engine, steps(1), next(drawn), prefix)
            np.testing.assert_array_equal(ask_chunk(opened, steps(1), prefix=sent), expected)


def test_the_requests_of_a_session_are_answered_in_their_order(address, engine):
    with open_session(address) as (opened, hello):
        drawn = noise(engine, 5, hello["session"])
        for number in range(20):
            opened.send(pack({"kind": "infer", "number": number, "observation": steps(number)}))
        for number in range(20):
            reply = receive(opened)
            assert reply["number"] == number
            np.testing.assert_array_equal(reply["chunk"], predict_alone(engine, steps(number), next(drawn)))


def status(address, **options):
    with pytest.raises(InvalidStatus) as refused, open_session(address, **options):
        pass
    return refused.value.response.status_code


def test_only_clients_with_the_token_are_served(engine):
    with serve(engine, token=TOKEN) as (address, _):
        for credentials in (
            None,
            "Bearer",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            TOKEN,
            f"Basic {TOKEN}",
            "Bearer é",
        ):
            assert status(address, additional_headers={"Authorization": credentials} if credentials else {}) == 401
        twice = [("Authorization", f"Bearer {TOKEN}")] * 2
        assert status(address, additional_headers=twice) == 401
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            read_health(address)
        refused.value.close()
        assert read_health(address, TOKEN)["status"] == "ok"
        with open_session(address, additional_headers=twice[:1]) as (opened, _):
            ask_chunk(opened, steps(0))


def test_web_pages_and_other_paths_are_refused(address):
    assert status(address, origin="http://example.org") == 403
    assert status(f"{address}/other") == 404


def test_sessions_beyond_the_allowed_number_are_refused(engine):
    with serve(engine, max_sessions=2) as (address, _), open_session(address), contextlib.ExitStack() as stack:
        stack.enter_context(open_session(address))
        with pytest.raises(ConnectionClosed, match=r"1013 .*2 sessions"), open_session(address):
            pass
        stack.close()
        wait_until(lambda: read_health(address)["sessions"] == 1)
        with open_session(address) as (opened, _):
            ask_chunk(opened, steps(0))


def test_a_session_without_requests_is_closed(engine, monkeypatch):
    monkeypatch.setattr(server, "IDLE_S", 0.2)
    with serve(engine) as (address, _), open_session(address) as (opened, _):
        ask_chunk(opened, steps(0))
        with pytest.raises(ConnectionClosed, match=r"1001 .*0\.2 s"):
            opened.recv(SECONDS)


def test_an_idle_session_gives_its_place_to_a_newer_client(engine, monkeypatch):
    with (
        serve(engine, max_sessions=2) as (address, _),
        open_session(address) as (first, _),
        open_session(address) as (second, _),
    ):
        ask_chunk(first, steps(0))
        monkeypatch.setattr(server, "PLACE_S", 0.0)
        with open_session(address) as (third, _):
            with pytest.raises(ConnectionClosed, match=r"1001 .*needed the place"):
                second.recv(SECONDS)  # it has waited longest
            ask_chunk(first, steps(0))
            ask_chunk(third, steps(0))


def test_a_session_whose_request_is_being_predicted_keeps_its_place(engine, monkeypatch):
    monkeypatch.setattr(server, "PLACE_S", 0.0)
    held = Held(engine)
    with serve(held, max_sessions=1, max_batch=1) as (address, _), open_session(address) as (busy, _):
        assert held.begun.acquire(timeout=SECONDS)  # the warm-up
        held.is_free.clear()
        busy.send(pack({"kind": "infer", "number": 1, "observation": steps(0)}))
        assert held.begun.acquire(timeout=SECONDS)
        with pytest.raises(ConnectionClosed, match=r"1013 .*1 sessions"), open_session(address):
            pass
        held.is_free.set()
        assert receive(busy)["kind"] == "chunk"


def test_requests_of_clients_that_are_gone_are_not_predicted(engine):
    held = Held(engine)
    with serve(held, max_batch=1) as (address, made), open_session(address) as (honest, _):
        assert held.begun.acquire(timeout=SECONDS)  # the warm-up
        held.is_free.clear()
        honest.send(pack({"kind": "infer", "number": 1, "observation": steps(0)}))
        assert held.begun.acquire(timeout=SECONDS)
        for number in range(3):
            with open_session(address) as (leaving, _):
                leaving.send(pack({"kind": "infer", "number": number, "observation": steps(0)}))
                wait_until(lambda: made.inference.num_waiting == 1)
            wait_until(lambda: made.inference.num_waiting == 0)
        assert read_health(address)["sessions"] == 1
        held.is_free.set()
        assert receive(honest)["kind"] == "chunk"
        ask_chunk(honest, steps(0))
        assert made.inference.sizes == {1: 2}
