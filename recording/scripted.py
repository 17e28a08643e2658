"""Record the scripted expert of a task into a store of demonstrations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..cluster import Cluster, Lost
from ..datasets.episode_writer import NewEpisode
from ..datasets.facts import EpisodeFacts, versions_here
from ..datasets.store import DemonstrationStore
from ..envs.faults import Fault, RunningEnv, summary
from ..envs.promises import PromiseError
from ..envs.task import Expert, Observation, Task
from ..files import exclusive
from ..progress import Progress, say
from .stores import open_existing, open_or_create

WORLDS = 64
"""The most episodes that run at once."""
MOST_BYTES = 2**28
"""The most bytes of the episodes that run at once, unless one has more."""
SHARE = 16
"""The most episodes that run at once in one process of a cluster."""
MOST_FAULTS = 3
"""The episodes that may break off before the first one that does not."""


class _Stores:
    """The store of successes, and that of failures beside it. Episodes are written in their order, several at once.

    path: of the successes, whose store exists. images: see `DemonstrationStore.create`.
    """

    def __init__(self, path: Path, task: Task, *, images: str) -> None:
        self._specification, self._images = task.specification, images
        self._successes = DemonstrationStore.open(path)  # as the last process left it
        self._successes.remove_leftovers()
        self.failures_path = path.with_name(f"{path.stem}-failures{path.suffix}")
        self._failures = open_existing(self.failures_path, task.specification, of=repr(task.name))
        self._waiting, self._are_successes = list[NewEpisode](), True
        opened = [self._successes, *([] if self._failures is None else [self._failures])]
        self.last_seed = max((int(seed) for store in opened for seed in store.episode_seeds), default=-1)
        self.num_successes, self.num_failures = len(opened[0]), sum(map(len, opened[1:]))

    def add(self, episode: NewEpisode, *, success: bool) -> None:
        """Add an episode, which may wait for others of its kind before it is written."""
        if success != self._are_successes:
            self.write()
        self._are_successes = success
        self._waiting.append(episode)
        self.num_successes, self.num_failures = self.num_successes + success, self.num_failures + (not success)

    def write(self) -> None:
        """Write the episodes that wait."""
        waiting, self._waiting = self._waiting, []
        if waiting and self._are_successes:
            self._successes.append_many(waiting)
        elif waiting:
            if self._failures is None:
                self._failures = DemonstrationStore.create(self.failures_path, self._specification, images=self._images)
            self._failures.append_many(waiting)


class Collected(NamedTuple):
    """Number of episodes in the store and in the store of failures, the path of the latter, which may not exist, and
    the faults of the episodes that broke off, which are in neither.
    """

    successes: int
    failures: int
    failures_path: Path
    faults: Sequence[Fault]


def collect(
    task: Task,
    path: Path,
    *,
    episodes: int,
    first_seed: int,
    images: str,
    notes: Mapping[str, Any] | None = None,
    elsewhere: Elsewhere | None = None,
) -> Collected:
    """Record episodes, counting seeds up from `first_seed`, until the store at `path` holds `episodes` successes.

    images: compression of the images in a new store, see `DemonstrationStore.create`. notes: of every episode.
    elsewhere: runs the expert on a cluster. The store is the same; this process alone writes it.

    An existing store is continued, so an interrupted recording resumes. Failures go to a separate store beside it. An
    episode that breaks off is not recorded; a warning names it, and the next seed follows.

    Raises ValueError if the task has no expert, the store has another specification, another process records into it,
    the expert fails more often than it succeeds, or no episode runs to its end.
    """
    if task.expert is None:
        raise ValueError(
            f"task {task.name!r} has no scripted expert to record: download or record demonstrations of it"
        )
    open_or_create(path, task.specification, images=images, of=repr(task.name))
    running = RunningEnv(task.make, task.specification, max_steps=task.max_steps)
    with exclusive(path, "being recorded"), closing(running) as env:
        stores = _Stores(path, task, images=images)
        seed, faults, is_working, versions = (
            max(first_seed - 1, stores.last_seed),
            list[Fault](),
            False,
            versions_here(),
        )
        ready, first_unready = dict[int, Demonstrated](), seed + 1
        several = elsewhere or (None if task.make_batch is None else partial(demonstrate_at_once, task))
        most = 1 if several is None else most_at_once(task) if elsewhere is None else elsewhere.most
        with Progress(episodes, f"collect {task.name}", unit="episodes", done=stores.num_successes) as progress:
            while stores.num_successes < episodes:
                seed += 1
                if seed >= first_unready:
                    first_unready = seed + min(most, episodes - stores.num_successes)
                    ready = {} if several is None else several(range(seed, first_unready))
                try:
                    streams, success, sentence, own = ready.pop(seed, None) or demonstrate(task, env, seed)
                except Exception as error:  # whatever it is, it is no reason to stop recording
                    faults.append(env.fault(error))
                    env.close()  # its state is unknown
                    if len(faults) == MOST_FAULTS and not is_working:
                        raise ValueError(
                            f"the first {MOST_FAULTS} episodes of task {task.name!r} broke off: {summary(faults)}"
                        ) from None
                    say(f"warning: not recorded: {faults[-1]}")
                    continue
                is_working = True
                facts = EpisodeFacts(
                    outcome="success" if success else "failure",
                    task=task.name,
                    sentence=sentence,
                    operator="script",
                    input="expert",
                    versions=versions,
                    notes={**own, **(notes or {})},
                )
                stores.add(NewEpisode(streams, seed, facts), success=success)
                if seed + 1 == first_unready:
                    stores.write()
                num_failures = len(faults) + stores.num_failures
                progress.advance(int(success), text=f"{num_failures} failures" if num_failures else None)
                if num_failures > stores.num_successes + 10:
                    stores.write()
                    raise ValueError(
                        f"the expert of {task.name!r} fails more often than not, see {stores.failures_path}"
                        + (f"; {len(faults)} episodes broke off: {summary(faults)}" if faults else "")
                    )
            stores.write()
    return Collected(stores.num_successes, stores.num_failures, stores.failures_path, faults)


class Demonstrated(NamedTuple):
    """The streams (T, ...) of an episode, whether it succeeded, what it asked for in words, and the expert's notes."""

    streams: dict[str, NDArray[Any]]
    success: bool
    sentence: str
    notes: dict[str, Any]


def demonstrate(task: Task, env: RunningEnv, seed: int) -> Demonstrated:
    """Run the expert for one episode.

    The action of a step is the expert's response to the observation of that step.

    Raises PromiseError if the expert or the environment breaks a promise, and passes on their errors.
    """
    assert task.expert is not None
    observation, info = env.reset(seed)
    env.during = "the expert"
    expert = task.expert(seed)
    steps: list[dict[str, Any]] = []
    done = False
    while not done:
        env.during = "the expert"
        if "state" not in info:
            raise PromiseError("info must hold 'state', the observation of the expert: add it in reset() and step()")
        action = _respond(task, expert, info["state"])
        steps.append({**observation, "action": action})
        observation, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    return Demonstrated(_stacked(task, steps), bool(info["success"]), str(info.get("sentence", "")), _notes(expert))


def _notes(expert: Expert) -> dict[str, Any]:
    """What an expert notes of its episode, such as the way that it took: its `notes`, if it has some."""
    return dict(getattr(expert, "notes", {}))


def demonstrate_at_once(task: Task, seeds: Sequence[int]) -> dict[int, Demonstrated]:
    """Run the experts of some seeds in the worlds of a task; returns the episodes by their seeds.

    An episode that breaks off is left out; `demonstrate` says why it does.
    """
    assert task.expert is not None
    assert task.make_batch is not None
    demonstrated, streams = dict[int, Demonstrated](), task.specification.streams
    rows = {s.name: np.zeros((len(seeds), task.max_steps, *s.shape), s.dtype) for s in streams}
    with contextlib.suppress(Exception), closing(task.make_batch(len(seeds))) as worlds:
        experts, ids = [task.expert(seed) for seed in seeds], np.arange(len(seeds))
        observation, info = worlds.begin(ids, seeds)
        is_over = np.zeros(len(seeds), bool)
        for step in range(task.max_steps + 1):
            actions: dict[int, NDArray[Any]] = {}  # row -> action
            for row, index in enumerate(ids.tolist()):
                if info["error"][row] is not None:
                    continue
                if is_over[row]:
                    sentence = info["sentence"][row] if "sentence" in info else ""
                    demonstrated[seeds[index]] = Demonstrated(
                        {name: values[index, :step] for name, values in rows.items()},
                        bool(info["success"][row]),
                        str(sentence),
                        _notes(experts[index]),
                    )
                    continue
                with contextlib.suppress(Exception):
                    state = {name: values[row] for name, values in info["state"].items()}
                    actions[row] = _respond(task, experts[index], state)
            if not actions or step == task.max_steps:
                break
            going, taken = list(actions), np.stack(list(actions.values()))
            ids = ids[going]
            for stream in task.specification.observations:
                rows[stream.name][ids, step] = observation[stream.name][going]
            rows["action"][ids, step] = taken
            observation, _, terminated, truncated, info = worlds.advance(ids, taken)
            is_over = terminated | truncated
    vectors = [stream.name for stream in streams if not stream.is_image]
    return {
        seed: episode
        for seed, episode in demonstrated.items()
        if all(np.isfinite(episode.streams[name]).all() for name in vectors)
    }


def most_at_once(task: Task) -> int:
    """The most episodes of a task that run at once, whose longest fit into `MOST_BYTES`."""
    step = sum(stream.size * np.dtype(stream.dtype).itemsize for stream in task.specification.streams)
    return int(np.clip(MOST_BYTES // (step * task.max_steps), 1, WORLDS))


class Demonstrating:
    """The expert of a task in a process of a cluster; a `cluster.Work`. make: loads the task."""

    def __init__(self, make: Callable[[], Task]) -> None:
        self._task = make()
        self.facts = versions_here()

    def run(self, share: Sequence[int]) -> Iterator[tuple[int, Demonstrated]]:
        """The episodes of some seeds, by their seeds, without those that break off."""
        if self._task.make_batch is not None:
            yield from demonstrate_at_once(self._task, share).items()
            return
        with closing(RunningEnv(self._task.make, self._task.specification, max_steps=self._task.max_steps)) as env:
            for seed in share:
                try:
                    yield seed, demonstrate(self._task, env, seed)
                except Exception:  # it is demonstrated again where it can be told
                    env.close()


class Elsewhere:
    """Runs the expert of a task on a cluster. make: loads the task; it must be picklable.

    Raises ValueError if a node of the cluster cannot load the task, or simulates with other versions of a package.
    """

    def __init__(self, cluster: Cluster, make: Callable[[], Task]) -> None:
        self._cluster = cluster
        self._job = cluster.check(partial(Demonstrating, make), _other_versions)
        self.most = max(WORLDS, SHARE * cluster.workers)
        """The most episodes that run at once."""

    def __call__(self, seeds: Sequence[int]) -> dict[int, Demonstrated]:
        """The episodes of some seeds, by their seeds; see `demonstrate_at_once`."""
        size = max(min(SHARE, len(seeds) // self._cluster.workers), 1)
        shares = [seeds[first : first + size] for first in range(0, len(seeds), size)]
        answers = [answer for _, answer in self._cluster.run(self._job, shares)]
        return dict(answer for answer in answers if not isinstance(answer, Lost))


def _other_versions(there: Mapping[str, str]) -> list[str]:
    here = versions_here()
    names = sorted(name for name in here.keys() & there.keys() if here[name] != there[name])
    return [f"the version of {name} is {there[name]} there and {here[name]} here" for name in names]


def _respond(task: Task, expert: Expert, state: Observation) -> NDArray[Any]:
    """The action (Da,) of an expert. Raises PromiseError if it is none."""
    returned, stream = np.asarray(expert(state)), task.specification.action
    if returned.shape != stream.shape or not np.isfinite(returned).all():
        message = f"the expert must return {stream.shape} finite numbers, got {returned}"
        raise PromiseError(message, stream="action", culprit=expert)
    return stream.cast(returned)


def _stacked(task: Task, steps: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    return {stream.name: np.stack([step[stream.name] for step in steps]) for stream in task.specification.streams}
