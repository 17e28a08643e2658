"""Requests of many sessions, predicted together."""

import asyncio
import contextlib

import numpy as np
from policy_server import (
    SECONDS,
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
from recede.policy.requests import Request
from recede.serving.inference import Inference
from recede.serving.wire import pack


def test_waiting_requests_of_one_kind_are_predicted_together(engine):
    held = Held(engine)
    with serve(held, seed=5, max_batch=3) as (address, made), contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(open_session(address)) for _ in range(6)]
        before = read_health(address)
        assert [before["sessions"], before["batches"], before["mean_batch"], before["p99_ms"]] == [6, 0, None, None]
        while held.begun.acquire(blocking=False):  # the warm-up
            pass
        held.is_free.clear()
        prefix = {"actions": np.zeros((16, 2), np.float32), "weights": np.ones(16, np.float32)}
        prefix |= {"start": 1.0, "limit": 5.0, "exact": False}
        for index, (opened, _) in enumerate(sessions):
            more = {"prefix": prefix} if index in (2, 4) else {}
            opened.send(pack({"kind": "infer", "number": index, "observation": steps(index), **more}))
            if index == 0:
                assert held.begun.acquire(timeout=SECONDS)
            else:
                wait_until(lambda queued=index: made.inference.num_waiting == queued)
        held.is_free.set()
        for index, (opened, hello) in enumerate(sessions):
            reply = receive(opened)
            guided = Prefix(prefix["actions"], prefix["weights"]) if index in (2, 4) else None
            expected = predict_alone(engine, steps(index), next(noise(engine, 5, hello["session"])), guided)
            assert reply["number"] == index
            np.testing.assert_allclose(reply["chunk"], expected, atol=1e-5)
        assert made.inference.sizes == {1: 1, 3: 1, 2: 1}  # the first, those without a prefix, those with it
        after = read_health(address)
        assert [after["answers"], after["batches"], after["mean_batch"]] == [6, 3, 2.0]
        assert 0 < after["p50_ms"] <= after["p99_ms"]


def test_a_failing_prediction_is_an_error_of_its_request_alone(engine, capsys):
    class Failing(Held):
        def predict(self, *arguments):
            if (arguments[0]["position"] > 100).any():
                raise RuntimeError("out of memory")
            return super().predict(*arguments)

    held, far = Failing(engine), steps(0) | {"position": np.full((2, 2), 101, np.float32)}
    with serve(held, seed=5) as (address, made), contextlib.ExitStack() as stack:
        (first, _), (second, hello), (third, _) = (stack.enter_context(open_session(address)) for _ in range(3))
        while held.begun.acquire(blocking=False):  # the warm-up
            pass
        held.is_free.clear()
        first.send(pack({"kind": "infer", "number": 1, "observation": steps(0)}))
        assert held.begun.acquire(timeout=SECONDS)
        for number, (opened, observation) in enumerate([(second, steps(2)), (third, far)]):
            opened.send(pack({"kind": "infer", "number": number, "observation": observation}))
            wait_until(lambda queued=number + 1: made.inference.num_waiting == queued)
        held.is_free.set()
        assert receive(third) == {"kind": "error", "number": 1, "message": "the prediction failed: out of memory"}
        expected = predict_alone(engine, steps(2), next(noise(engine, 5, hello["session"])))
        np.testing.assert_array_equal(receive(second)["chunk"], expected)
        ask_chunk(third, steps(0), reset=True)
        assert [read_health(address)[key] for key in ("answers", "errors")] == [3, 1]
    assert "a prediction failed: RuntimeError('out of memory')" in capsys.readouterr().err


def test_a_cancelled_request_does_not_disturb_the_others(engine):
    async def ask():
        inference = Inference(engine, 4)
        request, noise = toy_request(engine), np.zeros(engine.noise_shape, np.float32)
        gone, staying = (asyncio.create_task(inference.ask(request, noise)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        answering = asyncio.create_task(inference.run())
        answer = await asyncio.wait_for(staying, 30)
        again = await asyncio.wait_for(inference.ask(request, noise), 30)
        answering.cancel()
        inference.close()
        return answer.chunk, again.chunk

    for chunk in asyncio.run(ask()):
        assert chunk.shape == (engine.horizons.prediction, engine.specification.action.size)


def toy_request(engine):
    steps = engine.horizons.observation
    return Request({s.name: np.zeros((steps, *s.shape), s.dtype) for s in engine.specification.observations})
