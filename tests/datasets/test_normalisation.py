"""Ranges of normalisation: by hand for each kind, still dimensions, and refused options."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from recede.datasets.demonstrations import Demonstrations
from recede.datasets.normalisation import Normalisation, fit_ranges
from recede.policy.normalizer import Normalizer
from recede.specification import Specification, Stream


@dataclass
class InMemory(Demonstrations):
    """Demonstrations of given rows: two episodes, of which only the first is trained on."""

    arm: np.ndarray
    action: np.ndarray
    streams: dict = field(default_factory=dict)
    path: Path = Path("memory")

    def __post_init__(self):
        self.rows = {"arm": np.array(self.arm, dtype=float), "action": np.array(self.action, dtype=float)}
        made = {name: Stream(name, rows.shape[1:], **self.streams.get(name, {})) for name, rows in self.rows.items()}
        self.specification = Specification((made["arm"],), made["action"], 0.1)
        length = len(self.rows["action"])
        self.episode_ends = np.array([length, 2 * length])
        self.episode_seeds = np.full(2, -1)

    def read(self, name, start=0, stop=None):
        return np.concatenate([self.rows[name], 1e3 + self.rows[name]])[start:stop]


MOVING = np.linspace([-1, 10], [1, 30], 11)
"""Rows of a stream in which every dimension moves."""


def fitted(arm=MOVING, action=MOVING, *, streams=None, **how):
    """The fitted ranges; how: options by stream, such as arm_kind="quantiles"."""
    chosen = {}
    for key, value in how.items():
        name, option = key.split("_")
        chosen.setdefault(name, {})[option] = value
    chosen = {name: Normalisation(**options) for name, options in chosen.items()}
    return fit_ranges(InMemory(arm, action, streams or {}), [0], chosen)


def test_the_range_is_that_of_the_training_episodes():
    ranges = fitted()["action"]
    assert (ranges.low.tolist(), ranges.high.tolist(), ranges.still) == ([-1, 10], [1, 30], {})


def test_quantiles_leave_outliers_out():
    arm = np.linspace(0, 100, 101)[:, None]
    arm[0], arm[100] = -1e6, 1e9
    ranges = fitted(arm, arm, arm_kind="quantiles", arm_tail=0.05, action_kind="quantiles")
    assert (ranges["arm"].low.tolist(), ranges["arm"].high.tolist()) == ([5], [95])
    assert (ranges["action"].low.tolist(), ranges["action"].high.tolist()) == ([1], [99])  # one in a hundred


def test_the_identity_changes_nothing():
    quaternions = np.random.default_rng(0).normal(size=(20, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    demonstrations = InMemory(quaternions, MOVING.repeat(2, axis=0)[:20])
    ranges = fit_ranges(demonstrations, [0], {"arm": Normalisation(kind="identity")})
    normalizer = Normalizer(demonstrations.specification, {name: (r.low, r.high) for name, r in ranges.items()})
    values = torch.from_numpy(quaternions).float()
    assert torch.equal(normalizer.observation({"arm": values})["arm"], values)
    np.testing.assert_allclose(ranges["arm"].std, quaternions.std(axis=0))


def test_identity_is_refused_for_values_outside_the_interval():
    with pytest.raises(ValueError, match=r"normalisation.action.kind=identity .* -1 to 30: choose"):
        fitted(action_kind="identity")


@pytest.mark.parametrize("options", [{}, {"kind": "quantiles", "tail": 0.2}, {"kind": "identity"}])
def test_the_spread_is_that_of_normalised_actions(options):
    action = np.random.default_rng(0).uniform(-0.9, 0.7, (200, 2)) ** 3
    demonstrations = InMemory(MOVING.repeat(20, axis=0)[:200], action)
    ranges = fit_ranges(demonstrations, [0], {"action": Normalisation(**options)})
    normalizer = Normalizer(
        demonstrations.specification,
        {name: (fitted_range.low, fitted_range.high) for name, fitted_range in ranges.items()},
        action_std=ranges["action"].std,
    )
    expected = normalizer.action(torch.from_numpy(action)).std(dim=0, correction=0)
    torch.testing.assert_close(normalizer.action_std, expected.float(), rtol=1e-5, atol=0)
    assert (normalizer.action_std != 1).all()


# --- what is still


@pytest.mark.parametrize(
    ("low", "high", "stream", "is_still"),
    [
        (0.3, 0.3, {}, True),
        (-1e-7, 1e-7, {}, True),  # rounding about zero
        (-4e-5, 4e-5, {}, True),  # a share of 1, the unit
        (0.0, 2e-4, {}, False),
        (11999.6, 12000.4, {}, True),
        (12000.0, 12002.0, {}, False),
        (-12002.0, -12000.0, {}, False),
        (-12000.4, -11999.6, {}, True),
        (0.0, 5e-4, {"low": -3, "high": 3}, True),
        (0.0, 7e-4, {"low": -3, "high": 3}, False),
        (0.0, 1e-6, {"low": 0, "high": 1e-5}, False),  # the limits say how small it is
    ],
)
def test_a_small_range_is_still(low, high, stream, is_still):
    arm = np.linspace([low], [high], 11)
    arm_range = fitted(arm, streams={"arm": stream})["arm"]
    assert bool(arm_range.still) == is_still
    bounds = [(low + high) / 2] * 2 if is_still else [low, high]
    assert [arm_range.low[0], arm_range.high[0]] == pytest.approx(bounds, abs=1e-12)
    assert (arm_range.std[0] == 1) == is_still


def test_still_dimensions_are_named_with_their_range_and_the_rule():
    arm = np.linspace([0, 0.3, 100, 0], [1, 0.3, 100.005, 5e-5], 11)
    still = fitted(arm, streams={"arm": {"labels": tuple("xyzw")}})["arm"].still
    assert list(still) == ["arm.y", "arm.z", "arm.w"]
    assert still["arm.y"] == "is constant at 0.3"
    assert re.search("by 0.005, from 100 to 100.005, and 0.01 or less .* 0.0001 of .* magnitude", still["arm.z"])
    assert re.search("by 5e-05, from 0 to 5e-05, and 0.0001 or less .* 0.0001 of .* of 1", still["arm.w"])
    (rule,) = fitted(arm[:, 2:3], streams={"arm": {"low": 0, "high": 1e3}})["arm"].still.values()
    assert re.search("0.1 or less .* 0.0001 of its limits", rule)
    (rule,) = fitted(arm[:, :1], arm_floor=2)["arm"].still.values()
    assert re.search("by 1, from 0 to 1, and 2 or less .* its floor", rule)
    (rule,) = fitted((arm[:, :1] > 0.95).astype(float), arm_kind="quantiles", arm_tail=0.2)["arm"].still.values()
    assert rule == "is constant at 0 between its quantiles"


def test_a_floor_replaces_the_rule():
    arm = np.linspace([0, 0], [1e-6, 0.5], 11)
    assert list(fitted(arm, arm_floor=0)["arm"].still) == []
    assert list(fitted(arm, arm_floor=0.5)["arm"].still) == ["arm[0]", "arm[1]"]
    assert list(fitted(arm, arm_floor=[0, 1])["arm"].still) == ["arm[1]"]
    assert list(fitted(np.zeros((11, 1)), arm_floor=0)["arm"].still) == ["arm[0]"]


def test_the_range_of_a_velocity_includes_the_zero_of_padding():
    action = np.linspace([0.2, -2, 0.2, 5], [1, -1, 1, 5], 11)
    streams = {"action": {"hold": ("zero", "zero", "last", "zero")}}
    action_range = fitted(action=action, streams=streams)["action"]
    assert action_range.low.tolist() == [0, -2, 0.2, 0]
    assert action_range.high.tolist() == [1, 0, 1, 5]
    assert action_range.still == {}
    assert action_range.std[3] == 1
    narrow = fitted(action=action, streams=streams, action_kind="quantiles", action_tail=0.4)["action"]
    assert narrow.low[0] == 0


# --- an action that would not move


def test_an_action_that_never_moves_is_refused():
    rows, labels = np.linspace([5, 0], [5, 1e-5], 11), {"labels": ("x", "y")}
    with pytest.raises(ValueError, match=r"must move .* action\.x .* 5; action\.y .* 1e-05"):
        fitted(action=rows, streams={"action": labels})
    with pytest.raises(ValueError, match=r"must move .*its floor: .*floor=0"):
        fitted(action_floor=100)


def test_a_small_movement_of_the_action_is_refused():
    """A gantry moves by 0.8 mm about 12 m. Constant dimensions are accepted."""
    rows = np.linspace([11999.6, 0, 3], [12000.4, 1, 3], 11)
    values, remedies = r"action\.x .* 0.8, from 11999.6 to 12000.4, and 1.2 or less", r"action.floor=0 .*action.floor=F"
    with pytest.raises(ValueError, match=f"^{values} .*: give normalisation.{remedies}"):
        fitted(action=rows, streams={"action": {"labels": ("x", "y", "z")}})
    learned, kept = (fitted(action=rows, action_floor=floor)["action"] for floor in (0, [0.9, 0, 0]))
    assert (learned.low[0], learned.high[0], list(learned.still)) == (11999.6, 12000.4, ["action[2]"])
    assert (kept.low[0], kept.high[0], list(kept.still)) == (12000, 12000, ["action[0]", "action[2]"])


def test_an_action_that_moves_only_in_the_tails_is_refused():
    rows = np.linspace([0, 0], [0, 1], 200)
    rows[0, 0] = 7
    with pytest.raises(ValueError, match=r"action\[0\] .* 0 between its quantiles; .*action.kind=range"):
        fitted(np.zeros((200, 1)), rows, action_kind="quantiles")
    assert fitted(np.zeros((200, 1)), rows, action_kind="quantiles", action_floor=[8, 0])["action"].high[0] == 0


# --- impossible options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kind": "quantile"},
            "kind must be .*'quantile': did you mean 'quantiles'",
        ),
        ({"kind": "quantiles", "tail": 0.5}, "tail must be a share between 0 and 0.5, got 0.5"),
        ({"kind": "quantiles", "tail": float("nan")}, "tail must be a share between 0 and 0.5, got nan"),
        ({"tail": 0.1}, "kind=quantiles, got .*kind=range: leave it out"),
        ({"kind": "identity", "floor": 0}, "floor must be left out with kind=identity"),
        *(
            ({"floor": wrong}, "floor must be a number of at least 0, or a list of them, got")
            for wrong in (-1, [0, -1], float("nan"), float("inf"), "x", [])
        ),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Normalisation(**options)


def test_streams_and_floors_must_fit_the_data():
    with pytest.raises(ValueError, match="'amr': did you mean 'arm'"):
        fitted(amr_kind="range")
    with pytest.raises(ValueError, match=r"normalisation.arm.floor .*2 dimensions, got \[1, 2, 3\]"):
        fitted(arm_floor=[1, 2, 3])
