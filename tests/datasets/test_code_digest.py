"""The digest of a function changes with everything that it does, and there is none for what cannot be told."""

import random
from functools import partial

import numpy as np
import pytest
from recede.datasets.code_digest import code_digest

FACTOR = 2
STATE = random.Random(0)


def flip(rows, axis=-1):
    return np.flip(rows, axis)


def times(k):
    return lambda rows: rows * k


def source(text, **names):
    """A function as a user's file has it."""
    scope = {"np": np, "flip": flip, **names}
    exec(f"def f(rows):\n    return {text}", scope)
    return scope["f"]


def test_the_same_function_has_the_same_digest():
    for text in ("rows", "rows[..., ::-1]", "flip(rows)", "np.flip(rows, -1).astype(np.uint8)", "len(rows) * K"):
        assert code_digest(source(text, K=1)) == code_digest(source(text, K=1)) is not None
    assert code_digest(partial(flip, axis=1)) == code_digest(partial(flip, axis=1)) is not None
    assert code_digest(np.negative) == code_digest(np.negative) is not None


def test_functions_that_differ_have_different_digests():
    functions = [
        *(
            source(text)
            for text in ("rows", "rows[..., ::-1]", "rows[..., ::1]", "rows + 1", "rows + 1.0", "flip(rows)")
        ),
        *(source("rows * K", K=value) for value in (1, 2, 1.0, True, (1, 2), np.arange(3), np.arange(3.0))),
        *(source("g(rows)", g=source(text)) for text in ("rows", "rows + 1")),
        *(source("rows.astype(t)", t=dtype) for dtype in (np.uint8, np.float32, np.dtype("u1"))),
        *(partial(flip, axis=axis) for axis in (0, 1)),
        *(times(k) for k in (1, 2)),
        *((lambda rows, k=k: rows * k) for k in (3, 4)),
        source("[row + 1 for row in rows]"),
        source("[row + 2 for row in rows]"),
        np.negative,
        np.flip,
    ]
    digests = [code_digest(function) for function in functions]
    assert None not in digests
    assert len(set(digests)) == len(digests)


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, rows):
        return rows * self.factor


@pytest.mark.parametrize(
    "function",
    [
        Scale(2),
        Scale(2).__call__,
        lambda rows: rows * STATE.random(),
        lambda rows: random.random() * rows,
        lambda rows: np.load("mean.npy") + rows,
        lambda rows: eval("rows"),
        lambda rows: rows + np.random.default_rng().random(),
        lambda rows: __import__("random").random() * rows,
        np.vectorize(lambda x: x + 1),
        np.load,
        source("missing(rows)"),
        source("rows * K", K=Scale(1)),
    ],
)
def test_a_function_that_uses_more_than_its_code_shows_has_no_digest(function):
    assert code_digest(function) is None


def imports(rows):
    import random as other

    return rows * other.random()


def test_an_import_within_a_function_has_no_digest():
    assert code_digest(imports) is None


def test_functions_that_call_themselves_are_identified():
    def down(rows, n=2):
        return down(rows, n - 1) if n else rows

    assert code_digest(down) is not None
