"""Guidance by energies from the command line: what is chosen becomes energies, and what does not suit is refused."""

from types import SimpleNamespace

import policies
import pytest
from recede.configs.components.guidance import ClassifierConfig, EnergyConfig
from recede.policy.denoising.energies import HalfSpace, KeepOut, Path, RateLimit, Reach
from recede.policy.engines.eager import EagerEngine


@pytest.fixture(scope="module")
def engine():
    """Of two observed steps, six predicted ones, and an action of two numbers."""
    return EagerEngine(policies.diffusion())


def test_every_key_is_an_energy(engine):
    control_dt = engine.specification.control_dt
    config = EnergyConfig(
        width=0.5,
        reach=[1, None],
        reach_after=2 * control_dt,
        keep_out=[[[0, None], [1, None]], [[None, 2], [None, 3]]],
        stay_below=[[[1.0, 0.0], 4.0]],
        max_velocity=2.0,
        max_acceleration=[3.0, None],
        path=[[0, 0], [1, 1]],
        exact=False,
        rounds=7,
    )
    made, width = config.build(engine, {}), (0.5, 0.5)
    assert (made.exact, made.rounds) == (False, 7)
    assert made.energies == (
        Reach(width, (1, None), engine.horizons.observation + 1),
        KeepOut(width, (0, None), (1, None)),
        KeepOut(width, (None, 2), (None, 3)),
        HalfSpace(width, (1.0, 0.0), 4.0),
        RateLimit(width, (2.0, 2.0), control_dt, 1),
        RateLimit(width, (3.0, None), control_dt, 2),
        Path(width, ((0, 0), (1, 1))),
    )
    made.check((1, *engine.noise_shape[1:]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 1.0}, "got nothing: give guidance.keep_out"),
        ({"width": None, "max_velocity": 1.0}, r"guidance.width needs 2 numbers.*got None"),
        ({"width": [1.0], "max_velocity": 1.0}, r"guidance.width needs 2 numbers.*got \[1.0\]"),
        ({"width": [1.0, None], "max_velocity": 1.0}, r"guidance.width needs a number per dimension"),
        ({"width": 0.0, "max_velocity": 1.0}, "above 0"),
        ({"width": 1.0, "reach": [1, 2, 3]}, r"guidance.reach needs 2 numbers"),
        ({"width": 1.0, "reach": ["x", 2]}, r"must hold numbers and null, got \['x', 2\]"),
        ({"width": 1.0, "reach": [1, 2], "reach_after": 60.0}, r"reach_after must be at most .* got 60"),
        ({"width": 1.0, "keep_out": [[1, 2], [3, 4], [5, 6, 7]]}, "list of pairs"),
        ({"width": 1.0, "keep_out": [[[1, 1], [0, 2]]]}, "low < high"),
        ({"width": 1.0, "stay_below": [[[0, 0], 1.0]]}, "normal"),
        ({"width": 1.0, "path": [[1, 2]]}, "two points"),
    ],
)
def test_what_does_not_suit_is_refused(engine, options, message):
    with pytest.raises(ValueError, match=message):
        EnergyConfig(**options).build(engine, {})


def test_a_distilled_policy_is_refused(engine):
    parts = {"objective": {"choice": "progressive"}}
    for config in (EnergyConfig(width=1.0, max_velocity=1.0), ClassifierConfig(folder="x")):
        with pytest.raises(ValueError, match="guide its teacher"):
            config.build(engine, parts)


def test_a_classifier_must_be_named_and_needs_eager(engine):
    with pytest.raises(ValueError, match=r"weight must be at least 0, got -1"):
        ClassifierConfig(folder="x", weight=-1.0)
    with pytest.raises(FileNotFoundError, match="train-classifier"):
        ClassifierConfig(folder="x").build(engine, {})
    other = SimpleNamespace(name="onnx")
    with pytest.raises(ValueError, match=r"engine=onnx: use engine=eager"):
        ClassifierConfig(folder="x").build(other, {})
