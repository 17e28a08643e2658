"""An error of an environment is named with its place in the user's own code."""

import json
import subprocess
import sys
from dataclasses import asdict
from functools import partial

import gymnasium
import numpy as np
import pytest
import toys
from recede.envs.faults import RunningEnv, is_addressed, own_frames, place, summary
from recede.envs.gymnasium_adapter import GymnasiumAdapter
from recede.envs.promises import PromiseError, outcome, picture
from recede.envs.task import check_picklable
from recede.specification import Specification, Stream

ANGLE = Specification((Stream("angle", (3,)),), Stream("action", (1,), low=-2, high=2), control_dt=0.05)


def raised(function, *arguments):
    """The error of a call, with the frames within it alone."""
    try:
        function(*arguments)
    except Exception as error:
        error.__traceback__ = error.__traceback__.tb_next
        return error


def bug():
    return np.concatenate([np.zeros(2), np.zeros((2, 2))])


def test_the_place_is_the_innermost_line_of_the_users_own_code():
    assert place(raised(bug)).endswith(f"test_faults.py:{bug.__code__.co_firstlineno + 1} in bug")
    assert not is_addressed(raised(bug))
    ours = raised(Stream, "Not a name", (2,))
    assert is_addressed(ours)
    assert (place(ours), own_frames(ours)) == (None, [])


def test_a_fault_is_json_and_one_line():
    env = RunningEnv(partial(toys.Faulty, kind="reset"), toys.SPECIFICATION)
    fault = env.fault(raised(env.reset, toys.BAD_SEEDS[0]))
    assert json.loads(json.dumps(asdict(fault)))["error"] == "KeyError"
    assert "\n" not in str(fault)
    assert summary([fault, fault]).endswith("(and 1 more like it)")


class Quits(toys.Reach):
    """A simulation that ends the program, as one does that lacks its licence."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        if name == "make":
            sys.exit("no licence")

    def reset(self, *, seed=None, options=None):
        if self.name == "reset":
            sys.exit(3)
        return super().reset(seed=seed)

    def step(self, action):
        sys.exit()

    def render(self):
        sys.exit()


@pytest.mark.parametrize("name", ["make", "reset", "step", "picture"])
def test_an_environment_cannot_end_the_command(name):
    env = RunningEnv(partial(Quits, name), toys.SPECIFICATION)
    if name in ("step", "picture"):
        env.reset(1)
    calls = {"step": partial(env.step, np.zeros(2)), "picture": env.picture}
    fault = env.fault(raised(calls.get(name, partial(env.reset, 1))))
    assert "sys.exit(" in fault.message
    assert "test_faults.py:" in fault.place


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"success": "no", "score": 0.5}, r"info\['success'\] .* step\(\) gave 'no'"),
        ({"success": None, "score": 0.5}, "gave None"),
        ({"success": 2, "score": 0.5}, "gave 2"),
        ({"success": np.array([True, False]), "score": 0.5}, r"gave array\(\[ True, False\]\)"),
        ({"success": False, "score": None}, r"info\['score'\] .* step\(\) gave None"),
        ({"success": False, "score": "1" * 500}, r"gave '1{90,}\.\.\."),
        ({"success": False, "score": np.nan}, "gave nan"),
    ],
)
def test_a_success_and_a_score_are_no_guesses(info, words):
    with pytest.raises(PromiseError, match=words):
        outcome(info, "step()")


@pytest.mark.parametrize("success", [True, np.True_, 1, 1.0, np.array([1]), np.ones((1, 1), bool)])
def test_a_success_may_have_any_type_of_a_truth_value(success):
    assert outcome({"success": success, "score": np.float32(0.5)}, "step()") == (True, 0.5)


def test_no_message_of_an_environment_controls_the_terminal():
    env = RunningEnv(partial(toys.Faulty, kind=""), toys.SPECIFICATION)
    assert str(env.fault(ValueError("red \x1b[31m\nüber"))).endswith(r"ValueError: red \x1b[31m über")


def pendulum(**changes):
    inner = changes.pop("env", gymnasium.make("Pendulum-v1"))
    functions = {"observe": observe, "judge": lambda *_: (False, 0.0)} | changes
    return GymnasiumAdapter(inner, ANGLE, max_steps=5, **functions)


def observe(raw, info):
    return {"angle": raw}


def spoilt(raw, info):
    return {"angle": raw * np.nan}


class OldGym(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (3,))

    def reset(self):  # type: ignore[override]
        return np.zeros(3)


def test_an_adapter_names_the_function_of_the_user():
    error = raised(partial(pendulum(observe=spoilt).reset, seed=0))
    assert isinstance(error, PromiseError)
    assert error.stream == "angle"
    assert place(error).endswith(f"test_faults.py:{spoilt.__code__.co_firstlineno} in spoilt")
    with pytest.raises(PromiseError, match=r"judge must return \(success, score\), got bool"):
        pendulum(judge=lambda *_: True).reset(seed=0)
    with pytest.raises(PromiseError, match=r"reset\(\) must take seed= .*unexpected keyword argument 'seed'"):
        pendulum(env=OldGym()).reset(seed=0)


GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
RGB = np.repeat(GREY[..., None], 3, axis=2)


@pytest.mark.parametrize(
    "image",
    [RGB, GREY, GREY[..., None], np.dstack([RGB, GREY]), RGB / 255, (RGB / 255).astype(np.float32), GREY.tolist()],
    ids=["RGB", "grey", "one channel", "RGBA", "float", "float32", "list"],
)
def test_every_kind_of_picture_is_converted(image):
    if isinstance(image, list):
        with pytest.raises(PromiseError, match=r"an \(H, W, 3\) uint8 image .*, got a list of 3 values"):
            picture(image)
    else:
        converted = picture(image)
        assert converted.dtype == np.uint8
        np.testing.assert_array_equal(converted, RGB)
        assert not np.shares_memory(converted, image)


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (None, "got NoneType"),
        ([], "got a list of 0 values"),
        (RGB / 1.0, r"got float64 of shape \(3, 4, 3\) from 0 to 11"),
        (RGB.astype(np.int64), r"got int64 of shape \(3, 4, 3\)"),
        (np.full((2, 2), np.nan), "got float64"),
        (np.zeros((3, 8, 8), np.uint8), r"got uint8 of shape \(3, 8, 8\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 of shape \(0, 4, 3\)"),
    ],
)
def test_what_is_no_picture_is_refused(image, got):
    with pytest.raises(PromiseError, match=got):
        picture(image)


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(PromiseError, match=r"got \(4, 3, 3\) after \(3, 4, 3\)"):
        picture(RGB.swapaxes(0, 1), shape=RGB.shape)


def test_a_program_without_a_file_cannot_be_sent_to_a_process():
    check_picklable(toys.REACH, "the task")
    program = """
from recede.envs.task import check_picklable
def make(): pass
try: check_picklable(make, "the task")
except ValueError as error: print(error)
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.startswith("the task must be picklable, but <function make")
    assert "defined in a program without a file" in process.stdout
