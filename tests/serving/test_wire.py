"""Messages over a network: packed messages come back whole, and other data is one error."""

import sys
from importlib import import_module

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from recede.serving import wire
from recede.serving.wire import pack, read_token, require, unpack
from recede.specification import DTYPES


def roundtrip(value):
    return unpack(pack({"kind": "test", "value": value}))["value"]


def swapped(name):
    return arrays.arrays(
        np.dtype(name).newbyteorder(">"), arrays.array_shapes(min_dims=0, max_dims=8, min_side=0, max_side=3)
    )


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(DTYPES).flatmap(swapped))
def test_every_array_comes_back(value):
    array = roundtrip(value)
    assert array.dtype == value.dtype.newbyteorder("=")
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, value)
    np.testing.assert_array_equal(roundtrip(value.T), value.T)


def test_arrays_of_any_memory_layout_come_back():
    value = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for view in (value[:, ::2], value[..., ::-1], value.transpose(2, 0, 1), np.broadcast_to(value[0], (5, 3, 4))):
        assert np.array_equal(roundtrip(view), view)
    assert roundtrip(np.full((), 3, np.float32)).shape == ()


def test_unpacked_arrays_are_read_only():
    assert not roundtrip(np.zeros(3)).flags.writeable


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=40, deadline=None)
@given(plain)
def test_names_numbers_lists_and_maps_come_back(value):
    assert roundtrip(value) == value


def is_message_or_error(data):
    try:
        message = unpack(data)
    except ValueError as error:
        message = {"kind": str(error)}
        is_short = message["kind"].startswith("a message must be ") and len(message["kind"]) < 2000
        assert is_short, message
    assert isinstance(message["kind"], str)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_message_or_one_error(data):
    is_message_or_error(data)


WHOLE = pack({"kind": "infer", "number": 7, "observation": {"state": np.arange(6.0).reshape(2, 3)}, "prefix": None})


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(WHOLE)))
def test_a_damaged_message_is_a_message_or_one_error(changes, length):
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    is_message_or_error(bytes(data[:length]))
    is_message_or_error(bytes(data) + b"\0")


odd = st.one_of(plain, st.binary(max_size=40), st.sampled_from(DTYPES), st.lists(st.integers(-1, 2**70), max_size=9))


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.fixed_dictionaries({"dtype": odd, "shape": odd, "data": odd}))
def test_an_impossible_array_is_one_error(array):
    try:
        data = msgpack.packb({"kind": "test", "value": array})
    except OverflowError:  # msgpack has no such numbers
        return
    is_message_or_error(data)


@pytest.mark.parametrize(
    ("array", "error"),
    [
        ({"dtype": "object", "shape": [1], "data": bytes(8)}, "one of bool, .*, got 'object'"),
        ({"dtype": "O8", "shape": [1], "data": bytes(8)}, "got 'O8'"),
        ({"dtype": ["float32"], "shape": [1], "data": bytes(8)}, "got list"),
        ({"dtype": "float32", "shape": 2, "data": bytes(8)}, "a list of at most 8 sizes"),
        ({"dtype": "float32", "shape": [1] * 9, "data": bytes(4)}, "a list of at most 8 sizes"),
        ({"dtype": "float32", "shape": [-1, -2], "data": bytes(8)}, "a list of at most 8 sizes"),
        ({"dtype": "float32", "shape": [True, 2], "data": bytes(8)}, "a list of at most 8 sizes"),
        ({"dtype": "float32", "shape": [2**62, 2**62], "data": bytes(8)}, "bytes of data, got 8"),
        ({"dtype": "float32", "shape": [2**62, 0, 2**62], "data": b""}, "a message must be msgpack, but "),
        ({"dtype": "float32", "shape": [3], "data": bytes(8)}, r"of shape \[3\] must have 12 bytes of data, got 8"),
        ({"dtype": "float32", "shape": [2], "data": "12345678"}, "must have 8 bytes of data, got str"),
    ],
)
def test_the_error_of_an_array_names_its_fault(array, error):
    with pytest.raises(ValueError, match=error):
        unpack(msgpack.packb({"kind": "test", "value": array}))


@pytest.mark.parametrize(
    "data",
    [
        "text",
        b"",
        msgpack.packb([1, 2]),
        msgpack.packb({"number": 1}),
        msgpack.packb({"kind": 1}),
        msgpack.packb({"kind": "x", 5: 1}),
        msgpack.packb({"kind": "x", "value": msgpack.ExtType(5, b"abc")}),
        msgpack.packb({"kind": "x", "value": msgpack.ExtType(5, b"")}),
        msgpack.packb({"kind": "x", "value": msgpack.Timestamp(1, 2)}),
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\xa4kind\xa1\xff",
    ],
    ids=repr,
)
def test_other_data_is_one_error(data):
    with pytest.raises(ValueError, match="a message must be "):
        unpack(data)


@pytest.mark.parametrize("part", [[], {}])
def test_a_message_of_a_million_parts_is_refused(part):
    data = msgpack.packb({"kind": "x", "value": [part] * 1_000_000})
    with pytest.raises(ValueError, match="4096"):
        unpack(data)


def test_a_boolean_is_0_or_1():
    array = unpack(msgpack.packb({"kind": "x", "value": {"dtype": "bool", "shape": [3], "data": b"\0\x02\x01"}}))[
        "value"
    ]
    assert array.tolist() == [False, True, True]
    assert array.view(np.uint8).max() == 1


def test_objects_and_sets_cannot_be_packed():
    with pytest.raises(ValueError, match=r"one of bool, .*, got object"):
        pack({"kind": "x", "value": np.array([{}])})
    with pytest.raises(TypeError, match="got set"):
        pack({"kind": "x", "value": {1}})


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ValueError, match=r"needs msgpack: pip install 'recede\[serve\]'"):
        pack({"kind": "x"})
    monkeypatch.setattr(wire, "import_module", lambda name: import_module(f"{name}.nowhere"))
    with pytest.raises(ValueError, match="needs websockets: "):
        require("websockets.sync.client")


@pytest.mark.parametrize("token", ["", "short", "with a space in it!", "zwölf Boxkämpfer!!", "1234567890123456\n"])
def test_a_weak_token_is_refused(monkeypatch, token):
    monkeypatch.setenv("RECEDE_TOKEN", token)
    with pytest.raises(ValueError, match=r"RECEDE_TOKEN.*16") as refused:
        read_token()
    assert not token or token not in str(refused.value)
