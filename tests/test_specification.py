"""Horizons, streams and specifications: accepted and refused values, differences, and JSON."""

from __future__ import annotations

import itertools
import json
import math
import re
import string
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.specification import DTYPES, HOLDS, Horizons, Specification, Stream, nearest

FINITE = st.floats(-1e6, 1e6)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name != "action")
WORDS = st.text([letter for letter in string.printable if letter.isprintable()], max_size=4)


@st.composite
def streams(draw: st.DrawFn, name: str | None = None) -> Stream:
    """Vectors with and without units, labels and limits, and images."""
    name = name or draw(NAMES)
    dtype = draw(st.sampled_from(["float32", "float64", "int64", "uint8", "bool"]))
    if name != "action" and draw(st.booleans()):
        return Stream(name, draw(st.tuples(*[st.integers(5, 96)] * 2, st.integers(1, 6))), "uint8")
    size = draw(st.integers(1, 5))
    words = st.just(()) | st.tuples(*[WORDS] * size)
    value = {"bool": st.integers(0, 1), "uint8": st.integers(0, 255), "int64": st.integers(-(2**53), 2**53)}.get(
        dtype, FINITE.map(np.float32).map(float)
    )
    limits = [
        sorted(pair)
        for pair in draw(st.lists(st.lists(value, min_size=2, max_size=2, unique=True), min_size=size, max_size=size))
    ]
    low, high = zip(*limits, strict=True) if draw(st.booleans()) else ((), ())
    hold = draw(st.tuples(*[st.sampled_from(HOLDS)] * size)) if name == "action" else ()
    return Stream(name, (size,), dtype, draw(words), draw(words), low, high, hold)


@st.composite
def specifications(draw: st.DrawFn) -> Specification:
    observations = draw(st.lists(streams(), min_size=1, max_size=4, unique_by=lambda stream: stream.name))
    return Specification(tuple(observations), draw(streams("action")), draw(st.floats(1e-4, 10.0)))


def specification(**changes: Any) -> Specification:
    fields = {"observations": (Stream("gripper", (3,)),), "action": Stream("action", (2,)), "control_dt": 0.1}
    return Specification(**(fields | changes))


def test_horizons_are_accepted_if_the_executed_steps_lie_in_the_chunk() -> None:
    for horizons in itertools.product(range(-1, 6), repeat=3):
        check_horizons(horizons)


def check_horizons(horizons: tuple[int, int, int]) -> None:
    observation, prediction, action = horizons
    chunk = list(range(observation - 1, observation - 1 + action))
    if min(horizons) < 1:
        with pytest.raises(ValueError, match="at least 1 step"):
            Horizons(*horizons)
    elif set(chunk) <= set(range(prediction)):
        assert list(range(prediction))[Horizons(*horizons).executed] == chunk
        assert Horizons(*horizons).future == len(range(prediction)[observation - 1 :])
    else:
        with pytest.raises(ValueError, match="prediction horizon") as refusal:
            Horizons(*horizons)
        least, most = observation - 1 + action, prediction - observation + 1
        assert f"= {least} steps, got {prediction}: predict at least {least} steps" in str(refusal.value)
        assert f"execute at most {most}" in str(refusal.value)
        assert Horizons(observation, least, action)
        if most >= 1:
            assert Horizons(observation, prediction, most)


def test_kinds_come_in_blocks() -> None:
    kinds = ("position", *["euler_zyx_yxz"] * 3, *["rotation_6d"] * 6, *["cosine_sine"] * 2, "gripper")
    assert [block[1:] for block in Stream("hand", (13,), kinds=kinds).blocks()] == [
        *((0, 1), (1, 4), (4, 10), (10, 12), (12, 13))
    ]
    assert Stream("hand", (8,), kinds="quaternion_wxyz").blocks()[1] == ("quaternion_wxyz", 4, 8)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("quaternion",) * 4, "dimension 0: there is no kind 'quaternion': did you mean 'quaternion_"),
        (("position", *["axis_angle"] * 3), "kind 'axis_angle' has 3 dimensions in a row"),
        (("euler_xyy_xyz",) * 4, "there is no kind 'euler_xyy_xyz'"),
        (("position",) * 3, "kinds must be empty or hold one entry for each of its 4 dimensions"),
    ],
)
def test_impossible_kinds_are_refused(kinds: tuple[str, ...], message: str) -> None:
    if kinds[0] == "position" and len(kinds) == 4:
        kinds = (*kinds[:3], "number")
    with pytest.raises(ValueError, match=re.escape(message)):
        Stream("hand", (4,), kinds=kinds)


def test_unknown_kinds_differ_from_none() -> None:
    old, new = specification(), specification(observations=(Stream("gripper", (3,), kinds="position"),))
    assert not old.differences(new)
    other = specification(observations=(Stream("gripper", (3,), kinds="number"),))
    assert "kinds is" in new.differences(other)[0]


@settings(max_examples=30, deadline=None)
@given(specifications())
def test_a_specification_survives_json(spec: Specification) -> None:
    back = Specification.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False)))
    assert back == spec
    assert hash(back) == hash(spec)
    assert back.differences(spec) == []


@settings(max_examples=30, deadline=None)
@given(specifications(), specifications())
def test_only_equal_specifications_have_no_differences(first: Specification, second: Specification) -> None:
    by_name = lambda spec: sorted(spec.streams, key=lambda stream: stream.name)  # noqa: E731
    equal = by_name(first) == by_name(second) and first.control_dt == second.control_dt
    assert (first.differences(second) == []) == equal
    assert len(first.differences(second)) == len(second.differences(first))


@settings(max_examples=30, deadline=None)
@given(specifications(), st.randoms(use_true_random=False))
def test_the_order_of_observations_is_no_difference(spec: Specification, random: Any) -> None:
    shuffled = random.sample(spec.observations, len(spec.observations))
    assert spec.differences(replace(spec, observations=tuple(shuffled))) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"observations": (Stream("arm", (3,)),)}, ["arm: only on one side", "gripper: only on one side"]),
        (
            {"observations": (Stream("gripper", (3,), units="m"),)},
            ["gripper: units is () on one side and ('m', 'm', 'm') on the other"],
        ),
        (
            {"action": Stream("action", (2,), "float64", low=0, high=1), "control_dt": 0.05},
            [
                "action: dtype is float32 on one side and float64 on the other",
                "action: low is () on one side and (0.0, 0.0) on the other",
                "action: high is () on one side and (1.0, 1.0) on the other",
                "control_dt is 0.1 s on one side and 0.05 s on the other",
            ],
        ),
        (
            {"action": Stream("action", (2,), hold=("zero", "last"))},
            ["action: hold is () on one side and ('zero', 'last') on the other"],
        ),
    ],
)
def test_differences_name_the_stream_the_field_and_both_values(changes: dict[str, Any], expected: list[str]) -> None:
    assert specification().differences(specification(**changes)) == expected


def test_actions_hold_their_last_value_by_default() -> None:
    assert (
        Stream("action", (2,)) == Stream("action", (2,), hold="last") == Stream("action", (2,), hold=("last", "last"))
    )
    assert Stream("action", (2,), hold="zero").hold == ("zero", "zero")
    assert Stream("action", (2,), hold=("last", "zero")).hold == ("last", "zero")


def test_json_without_hold_is_read() -> None:
    data = specification().to_json()
    for stream in (*data["observations"], data["action"]):
        del stream["hold"]
    assert Specification.from_json(json.loads(json.dumps(data))) == specification()


def test_one_unit_or_limit_stands_for_every_dimension() -> None:
    stream = Stream("gripper", (3,), units="m", labels=("x", "y", "z"), low=-1, high=2)
    assert stream.units == ("m", "m", "m")
    assert stream.low == (-1.0, -1.0, -1.0)
    assert stream.high == (2.0, 2.0, 2.0)
    assert stream == Stream("gripper", (3,), "f4", ("m",) * 3, ("x", "y", "z"), (-1.0,) * 3, (2.0,) * 3)
    assert [stream.label(index) for index in range(3)] == ["gripper.x", "gripper.y", "gripper.z"]
    assert Stream("joints", (2,)).label(1) == "joints[1]"


def test_numpy_values_become_plain_python_values() -> None:
    limits = np.array([0.5, 1.5])
    stream = Stream("arm", np.array([2]).tolist(), np.dtype("float64"), low=list(-limits), high=limits.tolist())  # type: ignore[arg-type]
    assert stream == Stream("arm", (2,), "float64", low=(-0.5, -1.5), high=(0.5, 1.5))
    low_and_high: Any = (stream.low, stream.high)
    assert {type(value) for values in low_and_high for value in values} == {float}
    assert type(specification(control_dt=np.float32(1)).control_dt) is float


@pytest.mark.parametrize(("shape", "size"), [((3,), 3), ((96, 128, 3), 36864), ((1,), 1)])
def test_the_size_of_a_stream_is_its_number_of_values(shape: tuple[int, ...], size: int) -> None:
    assert Stream("x", shape, "uint8").size == size == np.zeros(shape).size


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"name": "Gripper"}, "lower-case identifier, got 'Gripper'"),
        ({"name": "2d"}, "lower-case identifier, got '2d'"),
        ({"name": "a/b"}, "lower-case identifier, got 'a/b'"),
        ({"name": ""}, "lower-case identifier, got ''"),
        ({"name": "arm\n"}, "lower-case identifier"),
        ({"shape": ()}, "positive sizes, got ()"),
        ({"shape": (0,)}, "positive sizes, got (0,)"),
        ({"shape": (3, -1)}, "positive sizes, got (3, -1)"),
        *[({"shape": (value,)}, f"positive sizes, got ({value},)") for value in (2.5, math.inf, True, 2**21)],
        ({"shape": (2**20, 2**20)}, "positive sizes, got (1048576, 1048576)"),
        ({"shape": "345"}, "positive sizes, got 345"),
        ({"dtype": "(2"}, "got '(2'"),
        ({"dtype": "flaot32"}, "got 'flaot32'"),
        ({"units": ("m", "m")}, "units must be empty or hold one entry for each of its 3 dimensions, got 2"),
        (
            {"labels": ("x", "y", "z", "w")},
            "labels must be empty or hold one entry for each of its 3 dimensions, got 4",
        ),
        ({"shape": (8, 8, 3), "dtype": "uint8", "low": (0, 0), "high": (1, 1)}, "low must be empty"),
        ({"labels": ("x", "y\x1b]0;title\x07", "z")}, "labels must be printable, got 'y\\x1b]0;title\\x07'"),
        ({"units": "m\n"}, "units must be printable, got 'm\\n'"),
        ({"labels": ("x", "y\u202e", "z")}, "labels must be printable"),
        ({"hold": "zeros"}, "hold must be 'last' or 'zero', got 'zeros': did you mean 'zero'?"),
        ({"hold": ("last", "zero")}, "hold must be empty or hold one entry for each of its 3 dimensions, got 2"),
        ({"low": 0}, "give both limits or neither"),
        ({"high": 1}, "give both limits or neither"),
        ({"low": 0, "high": math.inf}, "dimension 0: limits must be finite and ascend, got [0.0, inf]"),
        ({"low": math.nan, "high": 1}, "dimension 0: limits must be finite and ascend, got [nan, 1.0]"),
        ({"low": 0, "high": (1, 2, 0)}, "dimension 2: limits must be finite and ascend, got [0.0, 0.0]"),
    ],
)
def test_impossible_streams_are_refused(arguments: dict[str, Any], rule: str) -> None:
    fields: dict[str, Any] = {"name": "arm", "shape": (3,)} | arguments
    with pytest.raises(ValueError) as refusal:
        Stream(**fields)
    assert rule in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert repr(fields["name"]) in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"observations": ()}, "at least one observation stream"),
        ({"observations": (Stream("arm", (3,)), Stream("arm", (2,)))}, "different names"),
        ({"observations": (Stream("action", (3,)),)}, "none of them 'action'"),
        ({"observations": (Stream("arm", (3,), hold="zero"),)}, "['arm'] have it too"),
        ({"action": Stream("command", (2,))}, "vector stream named 'action', got 'command'"),
        (
            {"action": Stream("action", (2, 2, 3), "uint8")},
            "vector stream named 'action', got 'action' of shape (2, 2, 3)",
        ),
        *[({"control_dt": value}, "positive number of seconds") for value in (0, -0.1, math.nan, math.inf)],
    ],
)
def test_impossible_specifications_are_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError) as refusal:
        specification(**changes)
    assert rule in str(refusal.value)


@pytest.mark.parametrize("data", [
    {},
    {"observations": [], "action": {}, "control_dt": 0.1},
    specification().to_json() | {"control_dt": "fast"},
    specification().to_json() | {"control_dt": None},
    specification().to_json() | {"control_dt": 10**400},
    specification().to_json() | {"observations": 3},
    specification().to_json() | {"observations": [{"name": "arm", "shape": [1], "low": 10**400, "high": 1}]},
    specification().to_json() | {"observations": {"name": "arm", "shape": [math.inf]}},
    [],
    "text",
    specification().to_json() | {"action": {"name": "action", "shape": [2], "unit": "m"}},
    specification().to_json() | {"action": {"name": "action", "shape": None}},
    specification().to_json() | {"observations": [{"name": 3, "shape": [2]}]},
    {key: value for key, value in specification().to_json().items() if key != "action"},
])  # fmt: skip
def test_invalid_json_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Specification.from_json(data)


@pytest.mark.parametrize("steps", [16.5, 16.0, 1e400, math.nan, True, "16", None, [16], 0])
@pytest.mark.parametrize("name", ["observation", "prediction", "action"])
def test_a_horizon_must_be_a_whole_number(name: str, steps: Any) -> None:
    with pytest.raises(ValueError, match=f"the {name} horizon .*at least 1 step, got .*whole number"):
        Horizons(**{name: steps})


def test_specifications_are_immutable() -> None:
    spec = specification()
    for value, field in ((Horizons(), "action"), (spec, "control_dt"), (spec.action, "name")):
        with pytest.raises((FrozenInstanceError, AttributeError)):
            setattr(value, field, None)


def test_the_action_is_the_last_stream() -> None:
    assert [stream.name for stream in specification().streams] == ["gripper", "action"]


@pytest.mark.parametrize(
    ("name", "options", "ending"),
    [
        ("pushed", ["pusht", "pick_place"], "did you mean 'pusht'?"),
        ("kitchen", ["pusht", "pick_place"], "choose from 'pick_place', 'pusht'"),
        ("anything", [], "there are none to choose from"),
    ],
)
def test_errors_end_with_the_nearest_name(name: str, options: list[str], ending: str) -> None:
    assert nearest(name, options) == nearest(name, iter(options)) == ending


@given(
    dtype=st.sampled_from(DTYPES),
    source=st.sampled_from(DTYPES),
    numbers=st.lists(st.floats(-1e20, 1e20) | st.floats(-300, 300) | st.integers(-(2**63), 2**64 - 1), max_size=6),
)
def test_a_cast_rounds_and_clips_exactly(dtype: str, source: str, numbers: list[float]) -> None:
    numbers_of_source = Stream("a", (1,), source).cast(np.array(numbers, np.float64))
    cast = Stream("a", (1,), dtype).cast(numbers_of_source)
    assert (cast.dtype, cast.shape) == (dtype, numbers_of_source.shape)
    assert not np.shares_memory(cast, numbers_of_source)
    for value, result in zip(numbers_of_source.tolist(), cast.tolist(), strict=True):  # exact: Python's own numbers
        if np.dtype(dtype).kind == "f":
            most = float(np.finfo(dtype).max)
            assert result == float(np.dtype(dtype).type(min(max(value, -most), most)))
        else:
            kind = np.iinfo(dtype) if dtype != "bool" else None
            least, most = (kind.min, kind.max) if kind else (0, 1)
            assert result == min(max(round(value), int(least)), int(most))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cast_keeps_nan_in_floats_and_refuses_it_elsewhere(dtype: str) -> None:
    stream = Stream("a", (1,), dtype)
    if np.dtype(dtype).kind == "f":
        np.testing.assert_array_equal(
            stream.cast([math.nan, -math.inf, 1.0]), np.array([math.nan, -math.inf, 1], dtype)
        )
    else:
        with pytest.raises(ValueError, match=f"'a': values of {dtype} must be finite, got .*nan"):
            stream.cast([math.nan, 1.0])
    with pytest.raises(ValueError, match="'a': values must be numbers, got <U1"):
        stream.cast(["x"])


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1,), "complex64", "dtype must be one of bool, .*float64, got 'complex64'"),
        ((1,), "U3", "dtype must be one of .* got 'U3'"),
        ((1,), "object", "dtype must be one of .* got 'object'"),
        ((4, 5), "float32", r"a vector \(D,\) or an image .*uint8.*float32 \(4, 5\): flatten it to \(20,\)"),
        ((48, 64, 1), "uint16", r"uint16 \(48, 64, 1\): scale the image to 0 .. 255"),
        ((3, 96, 128), "uint8", r"got \(3, 96, 128\): .* give \(96, 128, 3\) and np.moveaxis\(image, 0, -1\)"),
        ((1, 6, 8), "uint8", r"give \(6, 8, 1\) and np.moveaxis"),
        ((48, 64, 33), "uint8", "at most 32 channels"),
    ],
)
def test_a_stream_that_no_policy_can_take_is_refused_with_its_remedy(
    shape: tuple[int, ...], dtype: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Stream("camera", shape, dtype)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 0, 300),
        ("int64", 0, 0.5),
        ("bool", 0, 5),
        ("bool", -1, 1),
        ("float16", 0, 1e6),
        ("float32", 1e9, 1e9 + 1),
    ],
)
def test_limits_that_the_dtype_does_not_have_are_refused(dtype: str, low: float, high: float) -> None:
    with pytest.raises(ValueError, match=f"dimension 0: limits must be two values of {dtype}, got .*another dtype"):
        Stream("a", (1,), dtype, low=low, high=high)
