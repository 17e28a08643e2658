"""Sessions: every faulty message is answered with one error, and changes nothing."""

import msgpack
import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_server import ask_chunk, noise, open_session, predict_alone, receive, steps
from recede.serving.session import Session
from recede.serving.wire import pack, unpack
from recede.specification import DTYPES


def with_prefix(**changes):
    prefix = {"actions": np.zeros((16, 2), np.float32), "weights": np.zeros(16, np.float32)}
    return {"prefix": prefix | {"start": 1.0, "limit": 5.0, "exact": False} | changes}


def with_observation(**changes):
    return {"observation": steps(0) | changes}


WRONG = {
    "another kind": ({"kind": "hello"}, "'infer', got 'hello'"),
    "no number": ({"number": None}, "integer number"),
    "a boolean for a number": ({"number": True}, "integer number"),
    "an unknown key": ({"resett": True}, "'resett'"),
    "reset": ({"reset": 1}, "boolean reset"),
    "no observation": ({"observation": None}, "['position', 'target'], got NoneType"),
    "a stream is missing": (
        {"observation": {"position": np.zeros((1, 2), np.float32)}},
        "'target', got ['position']",
    ),
    "a stream too many": (with_observation(positon=1), "'positon': did you mean 'position'?"),
    "no array": (with_observation(target=[0.0, 0.0]), "float32 of shape (1 to 2, 2), got list"),
    "dtype": (with_observation(target=np.zeros((2, 2))), "of shape (1 to 2, 2), got float64 of shape (2, 2)"),
    "a step alone": (with_observation(target=np.zeros(2, np.float32)), "got float32 of shape (2,)"),
    "no shape": (with_observation(target=np.zeros((), np.float32)), "got float32 of shape ()"),
    "no steps": (with_observation(target=np.zeros((0, 2), np.float32)), "got float32 of shape (0, 2)"),
    "too many steps": (with_observation(target=np.zeros((3, 2), np.float32)), "got float32 of shape (3, 2)"),
    "another shape": (with_observation(target=np.zeros((2, 3), np.float32)), "got float32 of shape (2, 3)"),
    "different steps": (
        with_observation(target=np.zeros((1, 2), np.float32)),
        "got {'position': 2, 'target': 1}",
    ),
    "not a number": (with_observation(target=np.full((2, 2), np.nan, np.float32)), "'target' must be finite"),
    "infinity": (with_observation(target=np.full((2, 2), -np.inf, np.float32)), "'target' must be finite"),
    "no prefix": ({"prefix": 3}, "actions, weights, start, limit and exact"),
    "half a prefix": ({"prefix": {"actions": None}}, "exact, got ['actions']"),
    "planned actions": (with_prefix(actions=np.zeros((8, 2), np.float32)), "array of float32 of shape (16, 2)"),
    "weights": (with_prefix(weights=np.zeros((16, 1), np.float32)), "must be an array of float32 of shape (16)"),
    "infinite weights": (with_prefix(weights=np.full(16, np.inf, np.float32)), "weights of a prefix must be finite"),
    "start": (with_prefix(start=0.0), "start must be above 0 and at most 1"),
    "limit": (with_prefix(limit=float("nan")), "must be finite numbers"),
    "exact": (with_prefix(exact=0), "exact a boolean"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_faulty_message_is_answered_with_its_error_and_the_session_goes_on(address, engine, name):
    changes, error = WRONG[name]
    with open_session(address) as (opened, hello):
        drawn = noise(engine, 5, hello["session"])
        before = ask_chunk(opened, {name: values[:1] for name, values in steps(0).items()})
        opened.send(pack({"kind": "infer", "number": 9, "observation": steps(7), **changes}))
        reply = receive(opened)
        assert reply["kind"] == "error"
        assert reply["number"] == (9 if "number" not in changes else None)
        assert error in reply["message"]
        first = {name: values[[0, 0]] for name, values in steps(0).items()}
        np.testing.assert_array_equal(before, predict_alone(engine, first, next(drawn)))
        after = ask_chunk(opened, {name: values[1:] for name, values in steps(0).items()})
        np.testing.assert_array_equal(after, predict_alone(engine, steps(0), next(drawn)))  # nothing was remembered


@pytest.mark.parametrize("data", ["text", b"", b"\xff" * 100, b"\x91" * 2000, msgpack.packb([1]), pack({"kind": "x"})])
def test_other_data_than_a_message_is_answered_with_an_error(address, data):
    with open_session(address) as (opened, _):
        opened.send(data)
        assert receive(opened)["kind"] == "error"
        ask_chunk(opened, steps(0))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=9) | st.sampled_from(["position", "target", "actions", "weights"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


arrays = st.builds(
    lambda dtype, shape: np.full(shape, 1).astype(dtype),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3) | st.just(16), max_size=3),
)


maps = st.fixed_dictionaries(
    {},
    optional={
        "number": st.just(1) | values,
        "observation": st.just(steps(0)) | st.fixed_dictionaries({"position": arrays, "target": arrays}) | values,
        "prefix": values | st.fixed_dictionaries(
            {"actions": arrays, "weights": arrays, "start": values, "limit": values, "exact": values}
        ),
        "reset": st.booleans() | values,
        "more": values,
    },
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(message=maps)
def test_any_message_becomes_a_request_that_fits_or_one_error(engine, message):
    session = Session(0, engine, 0)
    message = unpack(pack({"kind": "infer", "number": 1, **message}))
    try:
        request = session.request(message)
    except ValueError as error:
        assert len(str(error)) < 2000  # noqa: PT017 - either is right
        assert session._history == {}
        return
    for stream in toys.SPECIFICATION.observations:
        value = request.history[stream.name]
        assert (value.shape, value.dtype) == ((2, *stream.shape), stream.dtype)
    if request.prefix is not None:
        assert request.prefix.actions.shape == (16, 2)
