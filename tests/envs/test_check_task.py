"""`check_task` accepts a task that keeps every promise, and names each broken promise."""

from dataclasses import replace
from functools import partial

import gymnasium
import numpy as np
import pytest
from recede.envs.check import check_task
from recede.envs.gymnasium_adapter import box
from recede.specification import Stream
from toys import REACH, SPECIFICATION, Reach

FLIP = np.array([1, -1], np.float32)


class Whole(Reach):
    """A task with all optional parts."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        for name, value in (options or {}).items():
            setattr(self, name, np.array(value, np.float64))
        return self._observe()

    def pixels(self, actions):
        return 4 + 4 * actions

    def preview(self, action, share):
        return np.full((8, 8, 3), round(100 * share), np.uint8)


def restore(observation):
    return dict(observation)


def mirrored(rows):
    return rows * FLIP


MIRROR = {stream.name: mirrored for stream in SPECIFICATION.streams}
WHOLE = replace(REACH, make=Whole, restore=restore, mirror=MIRROR)


def edited(edit):
    """A `Whole` whose `_observe` is edited; edit: (environment, observation, info) -> None."""

    def _observe(self):
        observation, info = Whole._observe(self)
        edit(self, observation, info)
        return observation, info

    return {"_observe": _observe}


def stepped(edit):
    """A `Whole` whose steps are edited; edit: (environment, [observation, reward, ...]) -> None."""

    def step(self, action):
        results = list(Whole.step(self, action))
        edit(self, results)
        return tuple(results)

    return {"step": step}


def drawn_at_construction(self, observation, info):
    self.__dict__.setdefault("offset", np.random.default_rng().uniform(0, 0.1))
    observation["target"] = observation["target"] * np.float32(1 - self.offset)


def drawn_from_elsewhere(self, observation, info):
    observation["target"] = observation["target"] * np.random.default_rng().uniform(0.9, 1, 2).astype(np.float32)


def kept_over_resets(self, observation, info):
    self.count = min(self.__dict__.get("count", 0) + 1, 200)
    observation["target"] = observation["target"] * np.float32(1 - self.count / 1000)


def overwritten(self, observation, info):
    buffer = self.__dict__.setdefault("buffer", np.zeros(2, np.float32))
    buffer[:] = observation["position"]
    observation["position"] = buffer


def without_clipping(self, action):
    self.position, self.num_steps = np.clip(self.position + 0.03 * action, -1, 1), self.num_steps + 1
    observation, info = self._observe()
    return observation, 0.0, info["success"], self.num_steps == 40, info


def solved(self, results):
    results[2], results[4]["success"] = False, True


def endless(self, results):
    results[2:4], self.is_over = (False, False), False
    results[4] |= {"success": False}


CHANGES = {
    "renders unasked": {"__init__": lambda self, render_mode=None: Whole.__init__(self, "rgb_array")},
    "observation space": {"observation_space": gymnasium.spaces.Dict(position=box(SPECIFICATION.action))},
    "action space": {"action_space": gymnasium.spaces.Box(-2, 2, (2,))},
    "unknown stream": edited(lambda env, observation, info: observation.update(positon=np.zeros(2))),
    "missing stream": edited(lambda env, observation, info: observation.pop("target")),
    "shape": edited(lambda env, observation, info: observation.update(target=np.zeros(3, np.float32))),
    "dtype": edited(lambda env, observation, info: observation.update(target=np.zeros(2))),
    "list": edited(lambda env, observation, info: observation.update(target=[0.0, 0.0])),
    "nan": edited(lambda env, observation, info: observation.update(target=np.array([0, np.nan], np.float32))),
    "limits": edited(lambda env, observation, info: observation.update(target=np.array([0, 1.5], np.float32))),
    "no score": edited(lambda env, observation, info: info.pop("score")),
    "success": edited(lambda env, observation, info: info.update(success=np.bool_(False))),
    "score": edited(lambda env, observation, info: info.update(score=1.5)),
    "whole score": edited(lambda env, observation, info: info.update(score=0)),
    "reward": stepped(lambda env, results: results.__setitem__(1, np.nan)),
    "goes on": stepped(solved),
    "endless": stepped(endless),
    "overwritten": edited(overwritten),
    "half a position": edited(
        lambda env, observation, info: observation.update(position=env.position.astype("f4") / 2)
    ),
    "unseeded": edited(drawn_from_elsewhere),
    "kept": edited(kept_over_resets),
    "drawn at construction": edited(drawn_at_construction),
    "unclipped": {"step": without_clipping},
    "no state": edited(lambda env, observation, info: info.pop("state")),
    "no image": {"render": lambda self: None},
    "float image": {"render": lambda self: np.zeros((8, 8, 3))},
    "pixels": {"pixels": lambda self, actions: actions[0]},
    "small preview": {"preview": lambda self, action, share: np.zeros((4, 4, 3), np.uint8)},
    "preview moves": {"preview": lambda self, action, share: (Whole.step(self, action), self.render())[1]},
}


def made(name, render_mode=None):
    """An environment with one of the `CHANGES`. It is at the top of the module so that tasks can be pickled."""
    changes = CHANGES[name]
    methods = {key: value for key, value in changes.items() if not key.endswith("_space")}
    env = type("Changed", (Whole,), methods)(render_mode)
    env.__dict__.update({key: value for key, value in changes.items() if key not in methods})
    return env


def broken(name):
    return replace(WHOLE, make=partial(made, name))


def expert_of(answer, seed):
    return answer


def unseeded_expert(seed):
    return lambda state: np.random.default_rng().uniform(-1, 1, 2)


def one_number(state):
    return state["target"][:1]


def no_number(state):
    return state["target"] * np.float32(np.nan)


def halved(rows):
    return rows / 2


def one_column(rows):
    return rows[:, :1]


def shifted(rows):
    return 2 - rows


def nothing(observation):
    return {}


def no_phase(state):
    return 3


TASKS = {
    "phase": (replace(WHOLE, phase=no_phase), "phase.state. must return a name of 1 to 60 characters, got 3"),
    "max_steps": (replace(WHOLE, max_steps=0), "max_steps.* got 0"),
    "sources": (replace(WHOLE, sources={"target": ("t", mirrored)}), r"sources .*\['action', 'position'\]"),
    "mirror of nothing": (replace(WHOLE, mirror=MIRROR | {"tarmac": mirrored}), r"\['tarmac'\] are no streams"),
    "lambda": (
        replace(WHOLE, make=lambda render_mode=None: Whole(render_mode)),
        "picklable.*lambdas",
    ),
    "no environment": (replace(WHOLE, make=dict), "make.*got dict"),
    "wrong shape": (replace(WHOLE, expert=partial(expert_of, one_number)), r"expert .*\(2,\) finite"),
    "not finite": (replace(WHOLE, expert=partial(expert_of, no_number)), r"expert .* got \[nan nan\]"),
    "unseeded expert": (replace(WHOLE, expert=unseeded_expert), "experts of seed 0.*seed"),
    "halved": (
        replace(WHOLE, mirror=MIRROR | {"position": halved}),
        r"twice.*mirror\['position'\] differs",
    ),
    "one column": (replace(WHOLE, mirror=MIRROR | {"target": one_column}), r"shape \(\d+, 2\), got"),
    "shifted": (replace(WHOLE, mirror=MIRROR | {"action": shifted}), r"mirror\['action'\] .*limits"),
    "restore": (replace(WHOLE, restore=nothing), "restore.*'position' differs"),
    "position": (
        replace(broken("half a position"), restore=None),
        "position 'position' .*moved by",
    ),
}

MESSAGES = {
    "renders unasked": "make.*got 'rgb_array'",
    "observation space": "observation_space .*box",
    "action space": "action_space .*box",
    "unknown stream": r"reset\(\) .*'positon': did you mean 'position'",
    "missing stream": "'target' is missing",
    "shape": r"'target' as an array of float32 of shape \(2,\), got float32 of shape \(3,\): cast",
    "dtype": r"'target' as an array of float32 of shape \(2,\), got float64 of shape \(2,\)",
    "list": "'target' as an array of float32 .* got a list of 2 values",
    "nan": r"'target' as finite numbers, got \[ 0. nan\]",
    "limits": r"'target' within its limits, but target.y is 1.5 and not in \[-1.0, 1.0\]: clip it there",
    "no score": r"an info that holds 'score', got \['state', 'success'\]",
    "success": r"info\['success'\] must be True or False, .*: use bool",
    "score": r"info\['score'\] .*\[0, 1\], reset\(\) .*1.5: scale it",
    "whole score": r"info\['score'\] .* float .*reset\(\) .*0",
    "reward": "a finite float as reward, got nan",
    "goes on": r"success, .*terminated=True",
    "endless": "max_steps=40 .*truncated=True",
    "overwritten": r"later steps changed \['position'\]: return copies",
    "unseeded": "'target' differs in step 0 when it is reset again.*np_random",
    "kept": "'target' differs in step 0 when it is reset again: .*reset all state",
    "drawn at construction": "'target' differs in step 0 in a fresh environment",
    "unclipped": r"limits .* 'position' differs in step \d+ .*clip actions to \[-1.0, -1.0\]",
    "no state": "info must hold 'state'",
    "no image": r"render\(\) must return an \(H, W, 3\) uint8 array .* got NoneType",
    "float image": r"uint8 array .* got float64 of shape \(8, 8, 3\)",
    "pixels": r"pixels\(actions\) must return \(T, 2\) .* got float32 of shape \(2,\)",
    "small preview": r"preview\(action, share\) .* of shape \(8, 8, 3\), got uint8 of shape \(4, 4, 3\)",
    "preview moves": r"preview\(action, share\) must change nothing, but 'position' differs .* a copy",
}


def test_a_task_with_all_optional_parts_passes():
    report = check_task(WHOLE)
    for line in ("position (2,), target (2,) -> action (2,)", "seeds 0 and 1 differ", "clipped", "success", "inverse"):
        assert line in report
    assert "begins in an observed state" in report
    assert report.endswith("8 x 8 pixels, also between two steps")


def test_optional_parts_of_a_task_are_not_required():
    report = check_task(replace(REACH, expert=None, position=None))
    assert not any(word in report for word in ("expert", "mirror", "restore", "position  "))
    assert "there is no pixels(actions)" in report


def without_limits():
    action = Stream("action", (2,), units="m")
    return replace(SPECIFICATION, action=action)


class Unlimited(Whole):
    """A task whose action has no limits."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.action_space = box(without_limits().action)


def test_an_action_without_limits_is_not_clipped():
    assert "have no limits" in check_task(replace(WHOLE, specification=without_limits(), make=Unlimited))


class Dark(Whole):
    """A task that cannot be rendered on this machine."""

    def render(self):
        raise OSError("there is no EGL")


def test_a_machine_that_cannot_render_breaks_no_promise():
    assert "there is no EGL" in check_task(replace(WHOLE, make=Dark))


@pytest.mark.parametrize("name", MESSAGES)
def test_a_broken_promise_of_an_environment_is_named(name):
    with pytest.raises(ValueError, match=MESSAGES[name]):
        check_task(broken(name))


@pytest.mark.parametrize("name", TASKS)
def test_a_broken_promise_of_a_task_is_named(name):
    task, message = TASKS[name]
    with pytest.raises(ValueError, match=message):
        check_task(task)


EYE = Stream("eye", (8, 8, 3), "uint8")
SEEN = replace(SPECIFICATION, observations=(*SPECIFICATION.observations, EYE))


class Eyed(Whole):
    """A task with a camera in whose images `points` knows where actions are."""

    def __init__(self, render_mode=None, *, points):
        super().__init__(render_mode)
        self.observation_space = gymnasium.spaces.Dict({stream.name: box(stream) for stream in SEEN.observations})
        self.points = points

    def _observe(self):
        observation, info = super()._observe()
        return observation | {"eye": np.zeros(EYE.shape, np.uint8)}, info

    def pixels_in(self, stream, actions):
        return self.points(actions)


def scaled(actions):
    return 4 + 4 * actions


def unknown(actions):
    return None


def first(actions):
    return actions[0]


@pytest.mark.parametrize("points", [scaled, unknown, first])
def test_points_in_the_images_of_a_camera_are_finite_or_none(points):
    task = replace(REACH, specification=SEEN, make=partial(Eyed, points=points))
    if points is not first:
        check_task(task)
        return
    with pytest.raises(ValueError, match=r"pixels_in\('eye', actions\) must return None, or \(T, 2\) finite"):
        check_task(task)
