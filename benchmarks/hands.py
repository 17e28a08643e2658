"""Hands that record a task by the page of `recede record`, in a real Chromium: how often they succeed, and how long it
takes.

    python benchmarks/hands.py STORE EPISODES [task=reach] [json=FILE]

They carry the cube of `pick_place`, or bring the gripper to the ball of `reach`. With `pick_place_arm` they move the
hand of a six-joint arm, whose joints follow by inverse kinematics (`mink`).

They do what a person does: press keys, drag in the picture with the mouse, and look at what the page shows. They read
the positions as numbers, because they cannot interpret pictures. A success is kept, and a failure discarded. Runs in
real time, with the package playwright and the Chromium of the system.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from recede.benchmarks.measure import Row, output, report
from recede.evaluation.intervals import wilson

NEAR = {"z": 0.003, "yaw": 0.06, "opening": 0.004}
"""How near to the goal is near enough."""

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names of a browser that can be driven."""

LOOK_S = 0.03
"""Time between two looks at the page, s."""

PATIENCE_S = 30.0
"""Seconds within which the recording must begin, and answer a key."""

SPEED = 0.75
"""Place of the slider of the speed of held keys, as a share of its length."""

SLOWEST, FASTEST_KEYS = 0.03, 0.8
"""Ends of that slider, in ranges of the action a second."""

GAIN, FASTEST = 2.5, 0.19
"""The hands drag with this speed for each metre to go, 1/s, and at most so fast, m/s."""

WIDTH = 0.62
"""Width of the scene in the picture, m, as the hands guess it. They look where the gripper goes, so it may differ."""

SQUEEZE_S = 0.5
"""Time for which the fingers go on to close on the cube, s."""

LAG_S = 0.25
"""Time from a key to its effect on the page, as the hands have learned it, s."""

LOOK = """() => ({
  phase: document.getElementById("phase").textContent,
  hint: document.getElementById("hint").textContent,
  rate: Number(document.getElementById("delay").dataset.rate || 0),
  age: Number(document.getElementById("delay").dataset.age || 0),
  codes: Object.fromEntries([...document.querySelectorAll("#axes [data-code]")].map(
    button => [button.getAttribute("aria-label"), button.dataset.code])),
  values: Object.fromEntries([...document.querySelectorAll("#positions [data-stream]")].map(
    row => [row.dataset.stream, Object.fromEntries([...row.querySelectorAll("[data-label]")].map(
      cell => [cell.dataset.label, parseFloat(cell.dataset.value)]))])),
})"""
"""What the page shows."""


@dataclass
class Look:
    """One look at the page."""

    phase: str
    hint: str
    rate: float
    age: float
    codes: Mapping[str, str]
    """The keys that the page lists: "z +" -> KeyR."""
    values: Mapping[str, Mapping[str, float]]
    """Stream -> label -> value."""

    @property
    def is_whole(self) -> bool:
        """Whether there are a picture and values."""
        return self.rate > 0 and all(np.isfinite([*row.values()]).all() for row in self.values.values())

    def of(self, stream: str, *labels: str) -> NDArray[np.float64]:
        """Some values of a stream."""
        return np.array([self.values[stream][label] for label in labels])


class Screen:
    """The page as hands have it: looks, keys and a mouse."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.codes: Mapping[str, str] = {}
        self._down = set[str]()
        self._place: NDArray[np.float64] | None = None  # of the mouse, while it drags

    def look(self) -> Look:
        """Look at the page."""
        look = Look(**self.page.evaluate(LOOK))
        self.codes = look.codes
        return look

    def wait_while(self, phase: str) -> None:
        """Wait until the page shows another phase. Raises TimeoutError if it does not."""
        end = time.monotonic() + PATIENCE_S
        while self.look().phase == phase:
            if time.monotonic() > end:
                raise TimeoutError(f"the page shows {phase!r} for {PATIENCE_S:g} s: see what the recording prints")
            time.sleep(LOOK_S)

    def set_speed(self) -> None:
        """Click on the slider."""
        box = self.page.locator("#speed").bounding_box()
        self.page.mouse.click(box["x"] + SPEED * box["width"], box["y"] + box["height"] / 2)

    def hold(self, names: set[str]) -> None:
        """Hold exactly these keys, by the names that the page has for them."""
        codes = {self.codes[name] for name in names}
        for code in sorted(self._down - codes):
            self.page.keyboard.up(code)
        for code in sorted(codes - self._down):
            self.page.keyboard.down(code)
        self._down = codes

    def drag(self, way: NDArray[np.float64]) -> None:
        """Drag in the picture by a way (x, y) of the table, m."""
        box = self.page.locator("#picture").bounding_box()
        start, size = np.array([box["x"], box["y"]]), np.array([box["width"], box["height"]])
        signs = [1 if self.codes["x +"] == "KeyW" else -1, 1 if self.codes["y +"] == "KeyD" else -1]
        x, y = way * signs * size.min() / WIDTH
        if self._place is None or not np.all(np.abs(self._place - start - size / 2) < size * 0.45):
            self.let_go()
            self._place = start + size / 2
            self.page.mouse.move(*self._place)
            self.page.mouse.down()
        self._place = self._place + np.array([y, -x])
        self.page.mouse.move(*self._place)

    def let_go(self) -> None:
        """Release the mouse."""
        if self._place is not None:
            self.page.mouse.up()
            self._place = None


Goal: TypeAlias = tuple[NDArray[np.float64], float, float | None, float | None]
"""Where the gripper should be: (x, y) and z, m; yaw, rad; the opening of the fingers, m. None leaves it as it is."""


class Plan(Protocol):
    """What the hands intend in one episode."""

    def goal(self, look: Look, now: float) -> Goal:
        """Where the gripper should be. now: the time, s."""
        ...


class Reach:
    """The gripper goes to the ball, straight in the plane while keys mend its height."""

    def __init__(self, rng: np.random.Generator) -> None:
        del rng

    def goal(self, look: Look, now: float) -> Goal:
        """The ball."""
        del now
        return look.of("target", "x", "y"), look.values["target"]["z"], None, None


@dataclass
class Carry:
    """Reach the cube, close, lift, carry, lower, open and rise."""

    side: float
    """The end of the wall to carry the cube round: 1 or -1 along y."""
    height: float
    """Of the gripper on the way, m."""
    corner: tuple[float, float]
    """Where the way turns, as distances from the middle of the wall along x and y, m."""
    passed: int = 0
    """The corners behind the cube."""
    closed_s: float | None = None
    """When the fingers met the cube."""
    is_placed: bool = False
    """Whether the cube lies on the target."""

    @classmethod
    def draw(cls, rng: np.random.Generator, *, across: tuple[float, float], along: tuple[float, float]) -> Carry:
        """As a person does: now by this side, now by that.

        across: how far before and behind the wall their way turns, at least and at most, m. along: the same from the
        middle of the wall.
        """
        return cls(
            side=float(rng.choice([-1.0, 1.0])),
            height=float(rng.uniform(0.068, 0.078)),
            corner=(float(rng.uniform(*across)), float(rng.uniform(*along))),
        )

    def goal(self, look: Look, now: float) -> Goal:
        """The next part of the way."""
        gripper, z = look.of("gripper", "x", "y"), look.values["gripper"]["z"]
        opening = look.values["gripper"]["opening"]
        cube, target = look.of("cube", "x", "y", "z"), look.of("target", "x", "y")
        yaw = float(np.arctan2(look.values["cube"]["sin_4_yaw"], look.values["cube"]["cos_4_yaw"]) / 4)
        is_between = np.hypot(*(cube[:2] - gripper)) < 0.014 and abs(cube[2] - z) < 0.016
        is_held = is_between and opening < 0.0445
        if not is_held:
            self.closed_s = None
        elif self.closed_s is None:
            self.closed_s = now
        on_target = np.hypot(*(cube[:2] - target)) < 0.018 and cube[2] < 0.0228
        self.is_placed = self.is_placed or bool(on_target)
        if self.is_placed and np.hypot(*(cube[:2] - target)) < 0.03:
            return gripper, (0.09 if opening > 0.056 else z), 0.0, 0.08
        self.is_placed = False
        if self.closed_s is not None:
            if now - self.closed_s < SQUEEZE_S:
                return gripper, z, look.values["gripper"]["yaw"], 0.0
            return self._carried(gripper, z, float(cube[2]), target)
        away = float(np.hypot(*(cube[:2] - gripper)))
        misaligned = away > 0.008 or abs(yaw - look.values["gripper"]["yaw"]) > 0.12 or opening < 0.058
        height = self.height if misaligned and not is_between else 0.02
        return cube[:2], height, yaw, 0.0 if is_between else 0.08

    def _carried(self, gripper: NDArray[np.float64], z: float, cube_z: float, target: NDArray[np.float64]) -> Goal:
        """The goal while the cube is held: up, round the wall, and down onto the target."""
        x, y = self.corner
        route = [np.array([-x, self.side * y]), np.array([x, self.side * y]), target]
        if self.passed < 2 and np.hypot(*(route[self.passed] - gripper)) < 0.035:
            self.passed += 1
        goal, away = route[self.passed], float(np.hypot(*(target - gripper)))
        if self.passed == 2 and away < 0.01:
            return goal, z - cube_z + 0.0195, 0.0, None
        return (goal if z > self.height - 0.02 else gripper), self.height, 0.0, None


@dataclass(frozen=True)
class Task:
    """What the hands know of a task."""

    height: float
    """Range of the keys of the height, m."""
    plan: Callable[[np.random.Generator], Plan]
    """Draws what they intend in an episode."""

    @property
    def ranges(self) -> dict[str, float]:
        """Ranges of the keys, m and rad."""
        return {"z": self.height, "yaw": 2.4, "opening": 0.08}


TASKS = {
    "reach": Task(height=0.094, plan=Reach),
    "pick_place": Task(height=0.074, plan=partial(Carry.draw, across=(0.06, 0.12), along=(0.165, 0.19))),
    "pick_place_arm": Task(height=0.104, plan=partial(Carry.draw, across=(0.04, 0.06), along=(0.12, 0.135))),
}


class Keys:
    """The keys that bring height, yaw and fingers to a goal, in presses as long as the gap needs.

    Where a press has led is on the page `LAG_S` later, and the next press mends what is left.
    """

    def __init__(self, speed: float, ranges: Mapping[str, float]) -> None:
        self._speed, self._ranges = speed, ranges
        self._presses = dict[str, tuple[str, float]]()  # axis -> the key, and until when it is held

    def held(self, look: Look, goals: Mapping[str, float | None], now: float) -> set[str]:
        """The names of the keys to hold now. A goal of None is to leave an axis alone."""
        for axis, goal in goals.items():
            name, until = self._presses.get(axis, ("", -math.inf))
            gap = 0.0 if goal is None else goal - look.values["gripper"][axis]
            sign = "+" if gap > 0 else "−"
            if goal is None or (now < until and name != f"{axis} {sign}"):
                self._presses[axis] = name, min(until, now)
            elif abs(gap) > NEAR[axis] and now > until + LAG_S:
                self._presses[axis] = f"{axis} {sign}", now + abs(gap) / self._ranges[axis] / self._speed
        return {name for name, until in self._presses.values() if now < until}


def drive(screen: Screen, plan: Plan, ranges: Mapping[str, float]) -> Iterator[Look]:
    """Drive one episode to its end; yields every look. ranges: of the keys, m and rad."""
    keys, before = Keys(SLOWEST + SPEED * (FASTEST_KEYS - SLOWEST), ranges), time.monotonic()
    while (look := screen.look()).phase == "Recording":
        yield look
        now = time.monotonic()
        seconds, before = min(now - before, 0.1), now
        if not look.is_whole:
            continue
        place, z, yaw, opening = plan.goal(look, now)
        screen.hold(keys.held(look, {"z": z, "yaw": yaw, "opening": opening}, now))
        way = GAIN * (place - look.of("gripper", "x", "y"))
        way *= min(1.0, FASTEST / max(float(np.hypot(*way)), 1e-9))
        if np.hypot(*way) > GAIN * 0.002:
            screen.drag(way * seconds)
        time.sleep(max(0.0, now + LOOK_S - time.monotonic()))
    screen.hold(set())
    screen.let_go()


@contextmanager
def recording(store: Path, episodes: int, task: str) -> Generator[str]:
    """Run `recede record`; the address of its page."""
    command = [sys.executable, "-P", "-m", "recede", "record", f"task={task}", f"out={store}", "input=browser"]
    command += ["input.port=0", f"episodes={episodes}", "operator=hands"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if address := re.search(r"http://\S+", line):
                    yield address[0]
                    break
            print(process.stdout.read(), end="")
            if process.wait():
                raise RuntimeError(f"the recording ended with status {process.returncode}")
        finally:
            process.terminate()


def browser_path() -> str | None:
    """The Chromium of this system, or None."""
    return next((path for name in CHROMIUM if (path := shutil.which(name))), None)


@contextmanager
def opened(address: str) -> Generator[Any]:
    """The page in a headless Chromium."""
    from playwright.sync_api import sync_playwright

    path = browser_path()
    if path is None:
        raise RuntimeError(f"there is no browser to drive: install one of {', '.join(CHROMIUM)}")
    with ExitStack() as stack:
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=path)
        stack.callback(browser.close)
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(address)
        yield page


def record(store: Path, episodes: int, task: str, *, seed: int = 0) -> tuple[list[bool], list[Look]]:
    """Record until the store has so many episodes: whether each attempt succeeded, and every look while driving."""
    rng, outcomes, looks = np.random.default_rng(seed), list[bool](), list[Look]()
    with recording(store, episodes, task) as address, opened(address) as page:
        screen, is_ready = Screen(page), False
        while (look := screen.look()).phase != "Stopped":
            if look.phase == "Ready" and look.values:
                if not is_ready:
                    screen.set_speed()
                    is_ready = True
                page.keyboard.press("Enter")
                screen.wait_while("Ready")
            elif look.phase == "Recording":
                looks += drive(screen, TASKS[task].plan(rng), TASKS[task].ranges)
            elif look.phase == "Ended":
                outcomes.append("success" in look.hint)
                page.keyboard.press("Enter" if outcomes[-1] else "Backspace")
                screen.wait_while("Ended")
            else:
                screen.wait_while(look.phase)
    return outcomes, looks


def main() -> None:
    """Record, print the table, and write it to `json=FILE`."""
    store, episodes, *rest = sys.argv[1:]
    task = "pick_place"
    if rest and rest[0].startswith("task="):
        task = rest.pop(0).removeprefix("task=")
    if task not in TASKS:
        raise SystemExit(f"the hands know the tasks {', '.join(TASKS)}, not {task}")
    path = output(rest)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    begin = time.monotonic()
    outcomes, looks = record(Path(store), int(episodes), task)
    minutes = (time.monotonic() - begin) / 60
    low, high = wilson(sum(outcomes), len(outcomes))
    rates, ages = [look.rate for look in looks], [look.age for look in looks]
    rows = [
        Row(name="attempts", value=len(outcomes), unit="episodes"),
        Row(name="success", value=100 * sum(outcomes) / len(outcomes), unit=f"% [{100 * low:.0f}, {100 * high:.0f}]"),
        Row(name="from the command to its end", value=minutes, unit="minutes"),
        Row(name="pictures on the page, median", value=median(rates), unit="a second"),
        Row(name="pictures on the page, slowest 5 %", value=float(np.quantile(rates, 0.05)), unit="a second"),
        Row(name="age of a picture, median", value=median(ages), unit="ms"),
        Row(name="age of a picture, oldest 5 %", value=float(np.quantile(ages, 0.95)), unit="ms"),
    ]
    report(rows, path)


if __name__ == "__main__":
    main()
