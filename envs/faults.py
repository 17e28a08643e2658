"""What went wrong in an episode, in one place: whoever runs an environment catches and describes its errors alike.

An error is the user's to mend if it comes out of the user's own code. That is every frame of a traceback which belongs
neither to Recede nor to an installed package nor to Python.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sysconfig
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..specification import Specification
from .promises import PromiseError, check_end, check_observation, outcome, picture, reset, unpacked

MOST_CAUSES = 3
"""The most causes that a line names."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an episode broke off."""

    seed: int
    """The seed of the episode."""

    step: int | None
    """The control step, counted from 1; 0 is the reset. None if nobody knows it."""

    during: str
    """What was being done, such as "reset()", "step()", "render()" or "the expert"."""

    error: str
    """The name of the exception's type."""

    message: str
    """Its message, in one line."""

    place: str | None = None
    """Where in the user's own code, "file:line in function"."""

    stream: str | None = None
    """The stream to blame, if there is one."""

    @property
    def cause(self) -> str:
        """What went wrong, whatever the seed and the step."""
        text = self.message if self.error == PromiseError.__name__ else f"{self.error}: {self.message}".rstrip(": ")
        return f"{text} ({self.place})" if self.place else text

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step}"
        during = "" if self.error == PromiseError.__name__ else f", in {self.during}"  # its message names the method
        return f"seed {self.seed}{step}{during}: {self.cause}"


def summary(faults: Sequence[Fault]) -> str:
    """The first fault of each of the first causes, and how many are like it."""
    causes: dict[str, list[Fault]] = {}
    for fault in faults:
        causes.setdefault(f"{fault.during} {fault.cause}", []).append(fault)
    alike = [f"{first}{f' (and {len(rest)} more like it)' if rest else ''}" for first, *rest in causes.values()]
    more = len(alike) - MOST_CAUSES
    return "; ".join([*alike[:MOST_CAUSES], *([f"and {more} other causes"] if more > 0 else [])])


class Progress:
    """How far an episode is, for the description of its fault."""

    def __init__(self, during: str, seed: int = -1) -> None:
        self.seed, self.num_steps, self.during = seed, 0, during

    def fault(self, error: Exception) -> Fault:
        """Describe an error of this episode."""
        stream = error.stream if isinstance(error, PromiseError) else None
        message = one_line(str(error))
        return Fault(self.seed, self.num_steps, self.during, type(error).__name__, message, place(error), stream)


class RunningEnv(Progress):
    """An environment whose results are checked, and whose errors are described with the seed and the step.

    It is made at its first reset. make: makes the environment. max_steps: the steps of its longest episode; None lets
    an episode go on.
    """

    def __init__(self, make: Callable[[], Any], specification: Specification, *, max_steps: int | None = None) -> None:
        super().__init__("make()")
        self.specification, self.max_steps = specification, max_steps
        self._make, self._env, self._frame_shape = make, None, None

    @property
    def env(self) -> Any:
        """The environment."""
        if self._env is None:
            self.during = "make()"
            with exits_are_errors():
                self._env = self._make()
        return self._env

    def reset(self, seed: int, *, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; returns its observation and info. seed: with options, it only names the episode.

        Raises PromiseError for a broken promise, and passes on the errors of the environment.
        """
        self.seed, self.num_steps, self._frame_shape = seed, 0, None
        env, self.during = self.env, "reset()"
        with exits_are_errors():
            observation, info = reset(env, seed=seed if options is None else None, options=options)
        self._check(observation, info, env.reset)
        return observation, info

    def step(self, action: ArrayLike) -> tuple[Any, bool, bool, dict[str, Any]]:
        """Take a step; returns the observation, whether it terminated or was truncated, and the info.

        Raises PromiseError for a broken promise or an action that is not finite, and passes on the errors of the
        environment.
        """
        self.during = "step()"
        self.num_steps += 1
        if not np.isfinite(action).all():
            raise PromiseError(f"an action must be finite numbers, got {action}", stream="action")
        with exits_are_errors():
            result = self.env.step(action)
        observation, _, terminated, truncated, info = unpacked("step", result, culprit=self.env.step)
        self._check(observation, info, self.env.step)
        is_over = bool(terminated) or bool(truncated)
        check_end(self.num_steps, self.max_steps, is_over=is_over, culprit=self.env.step)
        return observation, bool(terminated), bool(truncated), info

    def picture(self) -> NDArray[np.uint8]:
        """Render an (H, W, 3) image. Raises PromiseError if it is none, or if its size changes in an episode."""
        self.during = "render()"
        with exits_are_errors():
            image = picture(self.env.render(), shape=self._frame_shape)
        self._frame_shape = image.shape
        return image

    def preview(self, action: ArrayLike, share: float) -> NDArray[np.uint8] | None:
        """An (H, W, 3) image after a share of a step with an action (Da,); None if the environment has no `preview`."""
        self.during = "preview()"
        method = getattr(self.env.unwrapped, "preview", None)
        with exits_are_errors():
            return None if method is None else picture(method(action, share))

    def close(self) -> None:
        """Close the environment. Errors are ignored, because what it did is done."""
        env, self._env = self._env, None
        if env is not None:
            with contextlib.suppress(Exception):
                env.close()

    def _check(self, observation: Any, info: dict[str, Any], culprit: Callable[..., Any]) -> None:
        check_observation(self.specification, observation, self.during, culprit=culprit)
        outcome(info, self.during, culprit=culprit)


def one_line(text: str) -> str:
    """A text in one line; what cannot be printed is escaped."""
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


@contextlib.contextmanager
def exits_are_errors() -> Generator[None]:
    """An environment that calls `sys.exit` breaks off an episode; only the user ends the command."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"it called sys.exit({error.code!r})").with_traceback(error.__traceback__) from None


def place(error: BaseException) -> str | None:
    """Where in the user's own code an error arose, "file:line in function"; the innermost place.

    None for an error that Recede raises on purpose, if no code of the user was under way.
    """
    frames = own_frames(error)
    if frames:
        return _text(frames[-1].filename, frames[-1].lineno, frames[-1].name)
    if isinstance(error, PromiseError):
        return _definition(error.culprit)
    (*_, last) = traceback.extract_tb(error.__traceback__) or (None,)
    return None if last is None or is_addressed(error) else _text(last.filename, last.lineno, last.name)


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an error that belong to the user's own code, the innermost last."""
    walked = list(traceback.walk_tb(error.__traceback__))
    return [
        traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in walked
        if not _is_recede(frame) and not _is_installed(frame.f_code.co_filename)
    ]


def is_addressed(error: BaseException) -> bool:
    """Whether Recede raised the error for the user to read, and no code of the user did by mistake."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours_or_own = [frame for frame in frames if _is_recede(frame) or not _is_installed(frame.f_code.co_filename)]
    return not ours_or_own or _is_recede(ours_or_own[-1])


def _is_recede(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == __name__.partition(".")[0]


@functools.cache
def _is_installed(filename: str) -> bool:
    """Whether a file belongs to Python or to an installed package."""
    if filename.startswith("<frozen") or {"site-packages", "dist-packages"} & set(Path(filename).parts):
        return True
    return Path(filename).is_relative_to(sysconfig.get_path("stdlib"))


def _definition(function: Callable[..., Any] | None) -> str | None:
    """Where a function of the user is defined; None if it is not one."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    module = str(getattr(function, "__module__", "")).partition(".")[0]
    if code is None or module == __name__.partition(".")[0] or _is_installed(code.co_filename):
        return None
    return _text(code.co_filename, code.co_firstlineno, code.co_name)


def _text(filename: str, line: int | None, name: str) -> str:
    relative = os.path.relpath(filename) if Path(filename).is_absolute() else filename
    return f"{filename if relative.startswith('..') else relative}:{line} in {name}"
