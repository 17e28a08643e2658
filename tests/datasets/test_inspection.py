"""Inspecting demonstrations: every warning if it is due and only then, the summary, and the picture."""

from dataclasses import dataclass

import numpy as np
import pytest
from recede.datasets.demonstrations import Demonstrations
from recede.datasets.inspection import summarise, warnings
from recede.datasets.store import DemonstrationStore
from recede.evaluation.reports.demonstrations import draw_demonstrations
from recede.specification import Specification, Stream
from representatives import representatives

SPECIFICATION = Specification(
    (
        Stream("gripper", (2,), units=("m", "rad"), labels=("x", "yaw"), low=(-1.0, -3.2), high=(1.1, 3.2)),
        Stream("contact", (1,), "bool"),
        Stream("image", (4, 4, 3), "uint8"),
    ),
    Stream("action", (2,), labels=("x", "opening")),
    control_dt=0.1,
)


@dataclass
class InMemory(Demonstrations):
    """Demonstrations whose rows a test may change."""

    rows: dict
    episode_ends: np.ndarray
    specification: Specification = SPECIFICATION

    def read(self, name, start=0, stop=None):
        return self.rows[name][start:stop]

    def episode(self, index):
        """Writable views of the rows of one episode."""
        return {name: rows[slice(*self.bounds(index))] for name, rows in self.rows.items()}


@pytest.fixture
def sound():
    """Six sound episodes of 20 steps: all dimensions move smoothly, and the gripper closes and opens."""
    time = np.linspace(0, 1, 20)
    phase = np.arange(6)[:, None]
    x = np.sin(time * 3 + phase).ravel()
    opening = np.tile(np.where((time > 0.3) & (time < 0.7), 0.015, 0.08), 6)
    rows = {
        "gripper": np.stack([x, 3 * np.cos(x)], axis=1).astype("float32"),
        "contact": (opening < 0.05)[:, None],
        "image": np.random.default_rng(0).integers(0, 256, (120, 4, 4, 3), dtype=np.uint8),
        "action": np.stack([x, opening], axis=1).astype("float32"),
    }
    return InMemory(rows, np.arange(20, 121, 20))


def test_sound_demonstrations_raise_no_warning(sound):
    assert warnings(sound) == []


def test_a_gripper_that_snaps_shut_in_most_episodes_is_sound(sound):
    for index in range(3):
        sound.episode(index)["action"][:, 1] = 0.08
    assert warnings(sound) == []  # half of the episodes
    sound.episode(3)["action"][:, 1] = 0.08
    (warning,) = warnings(sound)
    assert warning.startswith("action.opening jumps by more than 50% of its range in 2 of 6 episodes")


def test_a_spike_is_a_jump(sound):
    sound.episode(2)["action"][7, 0] = 40
    (warning,) = warnings(sound)
    assert warning.startswith(
        "action.x jumps by more than 50% of its range in 1 of 6 episodes, the first at step 7 of episode 2: "
    )


def test_an_angle_that_wraps_is_named_as_such(sound):
    yaw = np.linspace(2, 5, 20)
    sound.episode(4)["gripper"][:, 1] = (yaw + np.pi) % (2 * np.pi) - np.pi
    wrap = int(np.flatnonzero(yaw > np.pi)[0])
    (warning,) = warnings(sound)
    assert warning.startswith("gripper.yaw wraps round by a whole turn in 1 of 6 episodes")
    assert f"the first at step {wrap} of episode 4: store its sine and cosine" in warning


def test_the_start_of_an_episode_is_no_jump(sound):
    for index, offset in enumerate([0.0, 0.0, 0.0, 0.0, 0.0, 100.0]):
        sound.episode(index)["action"][:, 0] = offset + np.linspace(0, 1, 20)
    assert warnings(sound) == []


def test_constant_dimensions_are_named(sound):
    sound.rows["action"][:, 1] = 0.5
    sound.rows["contact"][:] = True
    assert warnings(sound) == ["contact[0] is constant at 1", "action.opening is constant at 0.5"]


def test_still_dimensions_are_named_with_the_rule(sound):
    """Their jumps are not named: noise may jump."""
    sound.rows["gripper"][:, 1] = np.where(np.arange(120) == 50, 6e-4, 0)  # of limits 6.4 apart
    sound.rows["action"][:, 0] = np.where(np.arange(120) == 50, 12000.5, 12000)
    assert warnings(sound) == [
        "gripper.yaw moves by 0.0006, from 0 to 0.000600000028, and 0.00064 or less counts as still: "
        "0.0001 of its limits",
        "action.x moves by 0.5, from 12000 to 12000.5, and 1.2 or less counts as still: "
        "0.0001 of its largest magnitude, or of 1 if that is more",
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_located(sound, value):
    sound.episode(1)["gripper"][3:5, 0] = value
    sound.episode(5)["gripper"][19, 0] = value
    assert warnings(sound) == [
        "gripper.x is NaN or infinite in 3 of 120 steps, the first at step 3 of episode 1",
    ]


def test_a_stream_of_nothing_but_nan_is_reported(sound):
    sound.rows["action"][:] = np.nan
    (warning,) = warnings(sound)
    assert warning.startswith("action.x, action.opening is NaN or infinite, action.x most, in 120 of 120 steps, ")


def test_values_outside_the_limits_are_counted_and_located(sound):
    x = sound.rows["gripper"][:, 0]
    highest, lowest = int(x.argmax()), int(x.argmin())
    x[highest], x[lowest] = 1.11, -1.01
    episode, step = divmod(min(highest, lowest), 20)
    assert warnings(sound) == [
        f"gripper.x is outside its limits [-1, 1.1] in 2 of 120 steps, the first at step {step} of episode {episode}",
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_a_value_at_its_limit_is_inside_in_any_dtype(dtype):
    rows = np.tile(np.linspace(-0.1, 0.1, 10)[:, None], (2, 1)).astype(dtype)
    rows[0], rows[9] = -0.1, 0.1
    stream = Stream("state", (1,), dtype, low=-0.1, high=0.1)
    specification = Specification((stream,), Stream("action", (1,)), 0.1)
    demonstrations = InMemory({"state": rows, "action": rows.astype("float32")}, np.array([10, 20]), specification)
    assert warnings(demonstrations) == []
    demonstrations.rows["state"][5] = np.nextafter(np.asarray(0.1, dtype), np.asarray(1, dtype))
    assert len(warnings(demonstrations)) == 1


def test_limits_of_whole_numbers_are_checked():
    rows = np.tile(np.arange(10, dtype=np.uint8)[:, None], (2, 1))
    stream = Stream("count", (1,), "uint8", low=0, high=8)
    specification = Specification((stream,), Stream("action", (1,)), 0.1)
    demonstrations = InMemory({"count": rows, "action": rows.astype("float32")}, np.array([10, 20]), specification)
    (warning,) = warnings(demonstrations)
    assert warning.startswith(
        "count[0] is outside its limits [0, 8] in 2 of 20 steps, the first at step 9 of episode 0"
    )


def test_episodes_too_short_to_train_on_are_named(sound):
    sound.episode_ends = np.array([7, 20, 40, 60, 80, 112, 120])
    lines = warnings(sound)
    (short,) = [warning for warning in lines if "too short" in warning]
    assert "8 steps: 1 of 7 episodes" in short
    assert "episode 0 with 7" in short
    assert not [warning for warning in warnings(sound, action_horizon=7) if "too short" in warning]


@pytest.fixture
def wide():
    """Twenty episodes of a state of 39 dimensions: 12 move, 6 jump, 7 hardly move, 14 are constant at three values."""
    rng, count = np.random.default_rng(0), 20 * 30
    state = np.cumsum(rng.normal(size=(count, 39)), axis=0)
    for index in range(12, 18):
        state[30 * index + 7, index] = 1e4
    state[:, 18:25] = 1e-6 * rng.normal(size=(count, 7))
    state[:, 25:] = [0] * 10 + [0.24, 0.5, 0.24, 1]
    action = np.cumsum(rng.normal(size=(count, 4)), axis=0)
    specification = Specification((Stream("state", (39,)),), Stream("action", (4,)), 0.1)
    rows = {"state": state.astype("float32"), "action": action.astype("float32")}
    return InMemory(rows, np.arange(30, count + 1, 30), specification)


def test_a_finding_of_many_dimensions_is_one_line(wide):
    lines = warnings(wide)
    assert [line.split(" is ")[0].split(" moves ")[0].split(" jumps ")[0] for line in lines] == [
        "state[18:25]",
        "state[25:39]",
        "state[12:18]",
    ]
    assert all("state[18]" in line or "state[25]" in line or "state[12]" in line for line in lines)
    assert "in 1 of 20 episodes, the first at step 7 of episode 12" in lines[2]
    assert len(summarise(wide)) < 40


def test_equal_rows_of_the_summary_are_one(wide):
    rows = [line.split("  ")[0] for line in summarise(wide) if line.startswith("state")]
    assert rows[-4:] == ["state[25:35]", "state[35, 37]", "state[36]", "state[38]"]


@pytest.fixture
def store(sound, tmp_path):
    store = DemonstrationStore.create(tmp_path / "demos.zarr", SPECIFICATION)
    for index in range(6):
        store.append(sound.episode(index))
    return store


def test_the_summary_of_a_store(store):
    text = summarise(store)
    assert text[0] == "6 episodes, 120 steps of 0.1 s (0.2 min)"
    assert text[1] == "episode length: min 20, median 20, max 20 steps"
    opening = store.read("action")[:, 1].astype(float)
    (line,) = [line for line in text if line.startswith("action.opening")]
    numbers = [float(number) for number in line.split()[1:5]]
    np.testing.assert_allclose(numbers, [opening.min(), opening.mean(), opening.max(), opening.std()], rtol=2e-3)
    (line,) = [line for line in text if line.startswith("gripper.yaw")]
    assert line.split()[1] == "rad"
    assert line.endswith("[-3.2, 3.2]")
    (line,) = [line for line in text if line.startswith("image")]
    assert "uint8[4, 4, 3]" in line
    assert store.episode_lengths.tolist() == [20] * 6
    assert warnings(store) == []


def test_a_store_without_episodes_is_described(tmp_path):
    empty = DemonstrationStore.create(tmp_path / "empty.zarr", SPECIFICATION)
    assert summarise(empty) == ["no episodes yet"]
    assert warnings(empty) == []


@pytest.mark.parametrize("damage", representatives([None, np.nan], np.nan))
def test_a_picture_is_drawn(sound, tmp_path, damage):
    import imageio.v3

    if damage is not None:
        sound.rows["action"][5, 0] = damage
    draw_demonstrations(sound, tmp_path / "demos.png", most=3)
    picture = imageio.v3.imread(tmp_path / "demos.png")
    assert min(picture.shape[:2]) > 200
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50


@pytest.mark.parametrize(("units", "is_named"), [("rad", True), ("deg", False)])
def test_radians_over_many_turns_may_be_degrees(tmp_path, units, is_named):
    specification = Specification((Stream("joints", (1,), units=units),), Stream("action", (1,)), control_dt=0.1)
    store = DemonstrationStore.create(tmp_path / "store.zarr", specification)
    for begin in (-60.0, -50.0):
        rows = np.linspace(begin, 60, 40, dtype=np.float32)[:, None]
        store.append({"joints": rows, "action": rows})
    assert ("are these degrees?" in "".join(warnings(store))) == is_named
