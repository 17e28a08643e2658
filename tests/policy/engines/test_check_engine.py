"""`check_engine` accepts an engine that keeps every promise, and names each broken one."""

import numpy as np
import pytest
import recede
from engines import random_input
from policies import SPECIFICATION
from recede.policy.denoising.guidance import Prefix
from recede.policy.engines.check import check_engine
from recede.policy.engines.eager import EagerEngine
from recede.specification import Horizons


class Copy:
    """An engine like another, of which tests change single attributes."""

    def __init__(self, engine, **changes):
        self.engine, self.name, self.precision = engine, "mine", engine.precision
        self.specification, self.horizons, self.noise_shape = engine.specification, engine.horizons, engine.noise_shape
        self.__dict__.update(changes)

    def predict(self, observation, noise, guidance=()):
        return self.engine.predict(observation, noise, guidance)


def edited(edit):
    """A `Copy` with edited chunks; edit: (engine, chunk, observation, noise, guidance) -> chunk."""

    class Edited(Copy):
        def predict(self, observation, noise, guidance=()):
            chunk = self.engine.predict(observation, noise, guidance)
            return edit(self, chunk, observation, noise, guidance)

    return Edited


def write_to_noise(engine, chunk, observation, noise, guidance):
    noise *= 0
    return chunk


def draw_noise(engine, chunk, observation, noise, guidance):
    """Other noise at every call, small enough to agree with eager."""
    engine.num_calls = vars(engine).get("num_calls", 0) + 1
    return chunk + np.random.default_rng(engine.num_calls).normal(0, 1e-5, chunk.shape).astype("f4")


def return_buffer(engine, chunk, observation, noise, guidance):
    buffer = engine.__dict__.setdefault(f"buffer {chunk.shape}", np.zeros_like(chunk))
    buffer[:] = chunk
    return buffer


def mix_rows(engine, chunk, observation, noise, guidance):
    return chunk + np.float32(0.1) * chunk.mean(axis=0)


def offset_by_place(engine, chunk, observation, noise, guidance):
    return chunk + np.arange(len(chunk), dtype="f4")[:, None, None]


def round_guided(engine, chunk, observation, noise, guidance):
    return chunk + np.float32(1e-3) if guidance else chunk


def is_prefix(guidance, **settings):
    return guidance and all(getattr(guidance[0], name) == value for name, value in settings.items())


def ignore_prefix(engine, chunk, observation, noise, guidance):
    return engine.engine.predict(observation, noise) if guidance else chunk


def ignore_start(engine, chunk, observation, noise, guidance):
    return engine.engine.predict(observation, noise) if is_prefix(guidance, start=0.5) else chunk


def ignore_limit(engine, chunk, observation, noise, guidance):
    if not is_prefix(guidance, limit=0.3):
        return chunk
    return engine.engine.predict(observation, noise, [Prefix(guidance[0].actions, guidance[0].weights)])


def wrong_exact(engine, chunk, observation, noise, guidance):
    return chunk[:1] if is_prefix(guidance, exact=True) else chunk


def lenient(adapt):
    """A `Copy` that adapts wrong input until it fits."""

    class Lenient(Copy):
        def predict(self, observation, noise, guidance=()):
            return self.engine.predict(*adapt(dict(observation), noise, guidance))

    return Lenient


STREAMS = [stream.name for stream in SPECIFICATION.observations]


def fill_in(observation, noise, guidance):
    return {"state": np.zeros((noise.shape[1], 2, 3), "f4")} | observation, noise, guidance


def pick(observation, noise, guidance):
    return {name: observation[name] for name in STREAMS if name in observation}, noise, guidance


def shorten(observation, noise, guidance):
    return {name: values[:, :2] for name, values in observation.items()}, noise, guidance


def pad_rows(observation, noise, guidance):
    rows = max(len(values) for values in observation.values())
    return {name: np.resize(values, (rows, *values.shape[1:])) for name, values in observation.items()}, noise, guidance


def pad_noise(observation, noise, guidance):
    rows = len(next(iter(observation.values())))
    return observation, np.resize(noise, (len(noise), rows, *noise.shape[2:])), guidance


def first_draw(observation, noise, guidance):
    return observation, noise[:1], guidance


def pad_plan(observation, noise, guidance):
    shape = noise.shape[1:]
    plans = [Prefix(np.resize(guide.actions, shape), np.resize(guide.weights, shape[:2])) for guide in guidance]
    return (
        (observation, noise, plans)
        if guidance and len(guidance[0].actions) < shape[0]
        else (observation, noise, guidance)
    )


class WrongError(Copy):
    """An engine that raises KeyError for a missing stream."""

    def predict(self, observation, noise, guidance=()):
        for name in STREAMS:
            observation[name]
        return super().predict(observation, noise, guidance)


BROKEN = {
    "name": (lambda engine: Copy(engine, name=""), "name .* got ''"),
    "precision": (lambda engine: Copy(engine, precision="int8"), r"precision .*'fp32'.* got 'int8'"),
    "specification": (lambda engine: Copy(engine, specification={}), "specification .* got {}"),
    "noise shape": (lambda engine: Copy(engine, noise_shape=(1, 6)), r"noise_shape .* got \(1, 6\)"),
    "horizons": (lambda engine: Copy(engine, horizons=Horizons(2, 6, 4)), "horizons must be that of the reference"),
    "type": (edited(lambda engine, chunk, *_: chunk.tolist()), r"\(5, 6, 2\), got list"),
    "dtype": (edited(lambda engine, chunk, *_: chunk.astype("f8")), "got float64"),
    "shape": (edited(lambda engine, chunk, *_: chunk[:, :3]), r"got float32 of shape \(5, 3, 2\)"),
    "nan": (edited(lambda engine, chunk, *_: chunk * np.float32(np.nan)), "finite numbers, got .*nan"),
    "input": (edited(write_to_noise), r"changed \['the noise'\]: copy"),
    "wrong": (edited(lambda engine, chunk, *_: chunk + np.float32(1)), "without guidance must agree with eager"),
    "noise": (edited(draw_noise), "to the last bit: take all randomness from the noise"),
    "buffer": (edited(return_buffer), "a later prediction changed it"),
    "mixed": (edited(mix_rows), "must not depend on the others, but in a batch of 1 "),
    "place": (edited(offset_by_place), "must not depend on its place, but row 4 alone"),
    "weightless": (edited(round_guided), "without weight must change not a bit"),
    "prefix": (edited(ignore_prefix), "steps of weight 1 must be the planned actions"),
    "limit": (edited(ignore_limit), "guided by a prefix of limit 0.3 must agree with eager"),
    "warm start": (edited(ignore_start), "guided by a warm start of 0.5 must agree with eager"),
    "exact": (edited(wrong_exact), "guided by an exact prefix must be .* got shape"),
    "missing stream": (lenient(fill_in), "without the stream 'state' must raise ValueError, but gave"),
    "unknown stream": (lenient(pick), "with a stream of no specification must raise ValueError"),
    "steps": (lenient(shorten), "with 'state' of one step too many must raise"),
    "rows": (lenient(pad_rows), "with 'state' of one row less must raise"),
    "rows of noise": (lenient(pad_noise), "with noise of one row less must raise"),
    "draws": (lenient(first_draw), "with one draw of noise too many must raise"),
    "rows of a plan": (lenient(pad_plan), "with a plan of one row less must raise"),
    "error": (WrongError, "without the stream 'state' must raise ValueError, got KeyError"),
}
ALONE = {"mixed", "place", "weightless", "prefix"}
"""Promises that are tested without a reference, which would find the engine wrong earlier."""


@pytest.fixture(scope="module")
def eager(workshop):
    return EagerEngine(workshop.policy("unet1d"))


def test_an_engine_of_your_own_keeps_every_promise(eager):
    assert recede.check_engine is check_engine
    report = check_engine(Copy(eager), eager)
    assert "mine, fp32" in report
    assert "differs from eager by at most 0.0e+00 half ranges" in report
    assert "agreement" not in check_engine(Copy(eager))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_named(eager, name):
    change, message = BROKEN[name]
    with pytest.raises(ValueError, match=message):
        check_engine(change(eager), None if name in ALONE else eager, half_range=np.array([50.0, 1.0]))


def test_images_must_be_refused_as_floats(workshop):
    class Scaling(Copy):
        def predict(self, observation, noise, guidance=()):
            scaled = {k: v * 255 if v.dtype == np.float32 and v.ndim == 5 else v for k, v in observation.items()}
            whole = {k: v.round().astype("u1") if v.ndim == 5 else v for k, v in scaled.items()}
            return super().predict(whole, noise, guidance)

    eager = EagerEngine(workshop.policy("images"))
    assert "refused" in check_engine(Copy(eager), eager)
    with pytest.raises(ValueError, match="in float32 must raise ValueError"):
        check_engine(Scaling(eager), eager)


def test_a_policy_without_noise_can_be_checked(workshop):
    eager = EagerEngine(workshop.policy("regression"))
    report = check_engine(Copy(eager), eager, observation=random_input(eager, rows=16)[0])
    assert "noise (0, 6, 2)" in report
