"""The normalizer maps between units and [-1, 1]."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from recede.policy.normalizer import Normalizer
from recede.specification import Specification, Stream

SPECIFICATION = Specification(
    (Stream("gripper", (3,), units="m", labels=("x", "y", "z")), Stream("yaw", (1,), low=-3.0, high=3.0)),
    Stream("action", (2,)),
    control_dt=0.1,
)
RANGES = {
    "gripper": (np.array([0.0, -2.0, 0.3]), np.array([1.0, 2.0, 0.3])),
    "yaw": (np.array([-0.1]), np.array([0.1])),
    "action": (np.array([-5.0, 10.0]), np.array([5.0, 20.0])),
}

finite = st.floats(-1e3, 1e3, width=32)


@settings(deadline=None)
@given(
    centre=arrays("float64", 2, elements=finite),
    half=arrays("float64", 2, elements=st.floats(0.5, 1e3)),
    data=st.data(),
)
def test_normalised_actions_are_unnormalised_exactly(centre, half, data):
    normalizer = Normalizer(SPECIFICATION, RANGES | {"action": (centre - half, centre + half)})
    action = torch.from_numpy(data.draw(arrays("float32", (4, 2), elements=finite)))
    normalised = normalizer.action(action)
    back = normalizer.unnormalised_action(normalised)
    torch.testing.assert_close(back, action, rtol=1e-5, atol=1e-3)
    inside = (action >= torch.from_numpy(centre - half)) & (action <= torch.from_numpy(centre + half))
    assert (normalised[inside].abs() <= 1 + 1e-5).all()
    assert (normalised[~inside].abs() >= 1 - 1e-5).all()


def test_the_range_is_mapped_to_minus_one_to_one():
    normalizer = Normalizer(SPECIFICATION, RANGES)
    normalised = normalizer.action(torch.tensor([[-5.0, 10.0], [0.0, 15.0], [5.0, 20.0], [10.0, 12.5]]))
    assert normalised.tolist() == [[-1, -1], [0, 0], [1, 1], [2, -0.5]]  # actions are not clipped


def test_observations_are_clipped_to_a_multiple_of_the_range():
    observation = {"gripper": torch.tensor([[[0.5, 2.6, 0.3], [9.0, -9.0, 0.3]]])}
    normalised = Normalizer(SPECIFICATION, RANGES).observation(observation)["gripper"]
    torch.testing.assert_close(normalised, torch.tensor([[[0.0, 1.3, 0.0], [1.5, -1.5, 0.0]]]))


def test_a_still_dimension_is_0_and_is_unnormalised_to_its_value():
    ranges = RANGES | {
        "yaw": (np.array([0.5]), np.array([0.5])),
        "action": (np.array([-5.0, 7.0]), np.array([5.0, 7.0])),
    }
    normalizer = Normalizer(SPECIFICATION, ranges)
    normalised = normalizer.observation({"gripper": torch.tensor([0.25, 0.0, 0.4]), "yaw": torch.tensor([1.0])})
    assert normalised["gripper"].tolist() == [-0.5, 0, 0]
    assert normalised["yaw"].tolist() == [0]
    assert normalizer.action(torch.tensor([2.5, 9.0])).tolist() == [0.5, 0]
    assert normalizer.unnormalised_action(torch.tensor([0.5, 0.9])).tolist() == [2.5, 7.0]


def test_small_ranges_are_not_widened():
    ranges = RANGES | {"action": (np.array([-1e-7, 12000 - 0.4]), np.array([1e-7, 12000 + 0.4]))}
    normalised = Normalizer(SPECIFICATION, ranges).action(torch.tensor([5e-8, 12000.2]))
    torch.testing.assert_close(normalised, torch.tensor([0.5, 0.5]), atol=2e-3, rtol=0)  # 12000.2 in fp32


def test_a_still_dimension_passes_a_gradient_of_zero():
    x = torch.tensor([0.5, 0.5, 0.5], requires_grad=True)
    Normalizer(SPECIFICATION, RANGES).observation({"gripper": x})["gripper"].sum().backward()
    assert x.grad.tolist() == [2.0, 0.5, 0.0]


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", "bool"])
def test_streams_of_any_dtype_become_floats(dtype):
    values = np.array([[0, 1, 1]]).astype(dtype)
    normalised = Normalizer(SPECIFICATION, RANGES).observation({"gripper": torch.from_numpy(values)})["gripper"]
    assert normalised.dtype == torch.float32
    assert normalised.tolist() == [[-1, 0.5, 0]]


def test_ranges_are_loaded_from_a_state_dict():
    fitted = Normalizer(SPECIFICATION, RANGES, action_std=np.array([0.3, 0.7]))
    loaded = Normalizer.empty(SPECIFICATION)
    loaded.load_state_dict(fitted.state_dict())
    action = torch.tensor([[1.0, 12.0]])
    assert torch.equal(loaded.action(action), fitted.action(action))
    assert torch.equal(loaded.unnormalised_action(action), fitted.unnormalised_action(action))
    torch.testing.assert_close(loaded.action_std, torch.tensor([0.3, 0.7]), rtol=0, atol=0)


def test_an_unknown_spread_of_actions_is_one():
    assert Normalizer(SPECIFICATION, RANGES).action_std.tolist() == [1, 1]
    assert Normalizer.empty(SPECIFICATION).action_std.tolist() == [1, 1]


@pytest.mark.parametrize("wrong", [[0.5], [0.5, 0.0], [0.5, np.nan], [0.5, np.inf], [0.5, -1.0]])
def test_an_impossible_spread_is_refused(wrong):
    with pytest.raises(ValueError, match="action_std must be 2 positive numbers, got"):
        Normalizer(SPECIFICATION, RANGES, action_std=np.array(wrong))


def test_ranges_are_saved_but_not_trained():
    normalizer = Normalizer(SPECIFICATION, RANGES)
    assert not list(normalizer.parameters())
    assert len(normalizer.state_dict()) == 7


def test_a_stream_without_a_range_is_refused_with_the_nearest_name():
    normalizer = Normalizer(SPECIFICATION, RANGES)
    with pytest.raises(ValueError, match="'griper': did you mean 'gripper'"):
        normalizer.observation({"griper": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"needs the range of every stream, got none for \['yaw'\]"):
        Normalizer(SPECIFICATION, {name: RANGES[name] for name in ("gripper", "action")})


@pytest.mark.parametrize(
    "wrong",
    [
        (np.zeros(3), np.ones(3)),
        (np.zeros(2), np.ones(3)),
        (np.array([0.0, 1.0]), np.array([1.0, 0.0])),
        (np.array([0.0, np.nan]), np.array([1.0, np.nan])),
        (np.array([0.0, 0.0]), np.array([1.0, np.inf])),
    ],
)
def test_an_impossible_range_is_refused(wrong):
    with pytest.raises(ValueError, match=r"stream 'action': the range must be finite, .* of shape \(2,\)"):
        Normalizer(SPECIFICATION, RANGES | {"action": wrong})
