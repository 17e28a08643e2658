"""Episodes in HDF5 files: robomimic, robosuite, LIBERO, ALOHA, and any file with a group for each episode.

The groups in `data`, or else in the file itself, whose names end in a number are its episodes. A file without such
groups is one episode. Several files in a folder follow one another, numbers in their names counting as numbers.

An array with a row for each action is a column, called by its path in the episode. So is one with a row more, which
holds the observation after the last action; that row is left out. All episodes must have the same observations and
actions.

Memory grows with the rows that are read, and with a chunk of the file, if it is compressed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..facts import EpisodeFacts
from . import hdf5_arrays
from .hdf5_arrays import SUFFIXES, Refusal, Stored, arrays, at, attributes, is_group, is_hdf5, number, opened
from .interface import ACTION, OBSERVATION, Column, ForeignDataset
from .numpy_files import ACTIONS, natural
from .robomimic import action_meaning, control_rate

OBSERVED = ("obs", "observations", "observation")
"""Groups of observations."""

NEXT = ("next_obs", "next_observations")
"""Groups of observations of the next step."""

ENDINGS = ("rewards", "reward", "dones", "done", "terminated", "terminations", "truncated", "truncations")
SUCCESSES = ("success", "successes", "is_success")
"""Arrays that say how an episode goes."""

SIMULATION = ("states", "env_states")
"""Arrays of the state of a simulation."""

INFORMATION = ("infos", "info")
"""Groups of what `step` of gymnasium returns last."""

FLAT = ("terminals", "timeouts", "episode_ends")
"""Arrays that divide other arrays into episodes."""

LONGEST_EPISODE, MOST_NAMES = 2**24, 2**20
"""Steps of an episode, and names of a filter that are read."""

COUNTS = ("num_samples", "total_steps", "id")
"""Attributes that number an episode or its steps."""

RATES = ("control_freq", "fps")
"""Attributes that note the steps a second."""


class Ending(NamedTuple):
    """What the rewards of an episode say. Only robomimic, which notes `env_args`, rewards success alone, by 1."""

    is_binary: bool = False
    """Whether all are 0 or 1."""
    has_one: bool = False
    is_last_one: bool = False


class Episode(NamedTuple):
    """Where an episode lies, and what is noted of it."""

    file: Path
    group: str
    """Its path in the file; empty for a file that is one episode."""
    length: int
    kinds: Mapping[str, Stored]
    """Column -> how it is stored."""
    others: Sequence[str]
    """Arrays without a row for each step."""
    facts: EpisodeFacts
    seed: int
    ending: Ending

    @property
    def place(self) -> str:
        """The episode, for messages."""
        return f"{self.file}: {self.group}".removesuffix(": ")


class Hdf5(ForeignDataset):
    """A file, or a folder of files, with episodes that have the same arrays. See the module."""

    kind = "hdf5"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether this is a file of HDF5, or a folder that directly holds some."""
        return bool(_files(path))

    def __init__(self, path: str | Path) -> None:
        self._open(Path(path), _files(Path(path)))

    def _open(self, path: Path, files: Sequence[Path]) -> None:
        """Open and check the files at a path."""
        self.path, self._files = path, files
        notes, self._episodes = dict[str, dict[str, Any]](), list[Episode]()
        for file in self._files:
            with opened(file) as root:
                notes[file.name] = _notes(root)
                self._episodes += _episodes(root, file, notes[file.name])
        first, shared = self._episodes[0], _shared(self._episodes)
        self.episode_lengths = np.array([episode.length for episode in self._episodes], dtype=np.int64)
        self.rate, self.metadata = _rate(notes), _common(notes, by_file=bool(first.group))
        if first.others:
            self.metadata["other_arrays"] = list(first.others)
        columns = [_column(key, first) for key in first.kinds if key in shared]
        actions = [index for index, column in enumerate(columns) if column.role == ACTION]
        for index in actions[:1]:
            size = math.prod(columns[index].shape)
            self.action_meaning, why = action_meaning(notes[first.file.name].get("env_args"), size)
            columns[index] = replace(columns[index], note=why)
        self.columns = tuple(columns)

    def read(self, key: str, episode: int, start: int, stop: int) -> NDArray[Any]:
        """Rows start .. stop of a column in an episode. Raises ValueError, naming the file, if they are damaged."""
        place = self._episodes[episode]
        with opened(place.file) as root:
            return hdf5_arrays.read(at(root, f"{place.group}/{key}"), place.kinds[key], start, stop)

    def files(self) -> Iterable[Path]:
        """The files."""
        return self._files

    @property
    def episode_facts(self) -> Sequence[EpisodeFacts]:
        """(n,): the outcome, the sentence, and as notes the masks of robomimic and the attributes of each episode.

        An episode whose rewards are 0 or 1 succeeds if the last one is 1. It fails if none is, though others have one.
        """
        endings = [episode.ending for episode in self._episodes]
        are_rewards = all(ending.is_binary for ending in endings) and any(ending.has_one for ending in endings)
        return [
            replace(episode.facts, outcome=_outcome(episode.ending))
            if are_rewards and episode.facts.outcome == "unknown"
            else episode.facts
            for episode in self._episodes
        ]

    @property
    def episode_seeds(self) -> NDArray[np.int64]:
        """(n,): the attribute `seed` of each episode, or -1."""
        return np.array([episode.seed for episode in self._episodes], dtype=np.int64)

    def episode_name(self, episode: int) -> str:
        """Its path in its file, behind the name of the file if there are several."""
        file, group = self._episodes[episode][:2]
        return "/".join(filter(None, [file.name if len(self._files) > 1 or not group else "", group]))


def _outcome(ending: Ending) -> str:
    return "success" if ending.is_last_one else "unknown" if ending.has_one else "failure"


def _files(path: Path) -> list[Path]:
    """The files of HDF5 at a path, in order."""
    if not path.is_dir():
        return [path] if is_hdf5(path) else []
    return sorted((entry for entry in path.iterdir() if entry.suffix in SUFFIXES and entry.is_file()), key=natural)


def _notes(root: Any) -> dict[str, Any]:
    """The attributes of a file and of its group `data`."""
    data = hdf5_arrays.child(root, "data") if "data" in root else root
    return attributes(root) | attributes(data)


def _episodes(root: Any, file: Path, notes: Mapping[str, Any]) -> list[Episode]:
    """The episodes of a file. Raises ValueError if there are none, or if several lie in the same arrays."""
    base = root
    if "data" in root and is_group(data := hdf5_arrays.child(root, "data")):
        base = data
    names = {name: is_group(hdf5_arrays.child(base, name)) for name in base}
    numbered = [name for name in names if re.search(r"\d$", name)]
    are_episodes = bool(numbered) and all(names[name] for name in numbered) and not names.keys() & {*ACTIONS, *OBSERVED}
    if not are_episodes and (flat := sorted(names.keys() & {*FLAT})):
        raise Refusal(
            f"{file} holds all episodes in the same arrays, which {flat[0]} divides, and that is not read: write a "
            "group for each episode (Minari has most of these data sets)"
        )
    groups = sorted(numbered, key=lambda name: natural(Path(name))) if are_episodes else [""]
    masks = _masks(root)
    prefix = base.name.strip("/")
    paths = ["/".join(filter(None, [prefix, name])) for name in groups]
    return [_episode(at(root, path), file, notes=notes, masks=masks.get(path.rsplit("/", 1)[-1], [])) for path in paths]


def _masks(root: Any) -> dict[str, list[str]]:
    """Episode -> the filters of robomimic, `mask/<filter>`, that name it."""
    masks = dict[str, list[str]]()
    if "mask" in root and is_group(folder := hdf5_arrays.child(root, "mask")):
        for filter_name, names in arrays(folder).items():
            for name in hdf5_arrays.values(names, 0, min(len(names), MOST_NAMES)).ravel():
                masks.setdefault(name.decode() if isinstance(name, bytes) else str(name), []).append(filter_name)
    return masks


def _episode(group: Any, file: Path, *, notes: Mapping[str, Any], masks: Sequence[str]) -> Episode:
    """An episode and its columns. Raises ValueError if arrays that have a row for each step have other lengths."""
    own = attributes(group)
    present = arrays(group)
    kinds = {key: hdf5_arrays.stored(array) for key, array in present.items()}
    place = f"{file}: {group.name.strip('/')}".removesuffix(": ")
    length = _length(kinds, own.get("num_samples"), place)
    columns = {key: kind for key, kind in kinds.items() if kind.rows in (length, length + 1)}
    for key, kind in kinds.items():
        if key not in columns and key.split("/")[0] in (*OBSERVED, *NEXT, *ACTIONS, *ENDINGS, *SIMULATION):
            raise Refusal(
                f"{place}: {key} must have a row for each of {length} steps, got {kind.rows}: restore the file from a "
                "copy, or delete this episode"
            )
    seed, success = own.pop("seed", -1), _success(present, columns)
    facts = EpisodeFacts(
        outcome=success,
        sentence=_sentence(own, notes),
        notes={name: value for name, value in own.items() if name not in COUNTS}
        | ({"mask": dict.fromkeys(masks, True)} if masks else {}),
    )
    return Episode(
        file,
        group.name.strip("/"),
        length,
        columns,
        sorted(kinds.keys() - columns.keys()),
        facts,
        seed if isinstance(seed, int) and 0 <= seed < 2**63 else -1,
        _ending(present, columns) if "env_args" in notes else Ending(),
    )


def _length(kinds: Mapping[str, Stored], noted: Any, place: str) -> int:
    """The steps of an episode: the rows of its action, or else of all its arrays. Raises ValueError without any."""
    actions = {kind.rows for key, kind in kinds.items() if key.split("/")[0] in ACTIONS}
    lengths = actions or {kind.rows for kind in kinds.values()}
    if isinstance(noted, int) and lengths and lengths != {noted}:
        raise Refusal(
            f"{place} must have {noted} steps as num_samples says, got {sorted(lengths)}: restore it from a copy"
        )
    if len(lengths) != 1 or not 1 <= min(lengths) <= LONGEST_EPISODE:
        rows = {key: kind.rows for key, kind in kinds.items()}
        raise Refusal(
            f"{place} must hold arrays with a row for each of 1 to {LONGEST_EPISODE} steps, got {str(rows)[:300]}: "
            "name a file or folder whose groups are episodes"
        )
    return lengths.pop()


def _ending(present: Mapping[str, Any], columns: Mapping[str, Stored]) -> Ending:
    """What the rewards of an episode say."""
    key = next((key for key in ("rewards", "reward") if key in columns and columns[key].shape in ((), (1,))), None)
    if key is None or present[key].dtype.kind not in "biuf":
        return Ending()
    rewards = hdf5_arrays.values(present[key], 0, columns[key].rows).ravel()
    return Ending(bool(np.isin(rewards, (0, 1)).all()), bool((rewards == 1).any()), bool(rewards[-1] == 1))


def _success(present: Mapping[str, Any], columns: Mapping[str, Stored]) -> str:
    """How an episode ended, if an array of truth values says so."""
    for key, kind in columns.items():
        if key.split("/")[-1] in SUCCESSES and kind.dtype == "bool" and kind.shape in ((), (1,)):
            return "success" if hdf5_arrays.values(present[key], kind.rows - 1, kind.rows).all() else "failure"
    return "unknown"


def _sentence(own: Mapping[str, Any], notes: Mapping[str, Any]) -> str:
    """What was to be done, in words, as RoboCasa, LIBERO and others note it."""
    for holder, name in (
        (own.get("ep_meta"), "lang"),
        (own, "language_instruction"),
        (notes.get("problem_info"), "language_instruction"),
        (notes, "language_instruction"),
    ):
        if isinstance(holder, Mapping) and isinstance(holder.get(name), str):
            return holder[name]
    return ""


def _shared(episodes: Sequence[Episode]) -> set[str]:
    """The columns that all episodes have. Raises ValueError if an observation or an action is not among them."""
    first = episodes[0]
    shared = set(first.kinds)
    for episode in episodes:
        for key in sorted(episode.kinds.keys() | first.kinds.keys()):
            kind, other = episode.kinds.get(key), first.kinds.get(key)
            if kind is not None and other is not None and kind.kind == other.kind:
                continue
            if _role(key, (episode if other is None else first).kinds) in (ACTION, OBSERVATION):
                raise Refusal(_difference(key, episode, first))
            shared.discard(key)
    return shared


def _difference(key: str, episode: Episode, first: Episode) -> str:
    """How a column of an episode differs from that of the first one, and what to do."""
    if key in episode.kinds and key in first.kinds:
        return (
            f"{episode.place}: {key} must have rows of {first.kinds[key].kind} as in {first.place}, got "
            f"{episode.kinds[key].kind}: write the others to another file"
        )
    has, lacks = (episode, first) if key in episode.kinds else (first, episode)
    return (
        f"{has.place} has {key} with a row for each step, and {lacks.place} has not: all episodes must have the same "
        "observations and actions, so restore the file, or write the others to another one"
    )


def _rate(notes: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The steps a second that the files note. Raises ValueError if they note several rates."""
    rates = {name: control_rate(of.get("env_args")) or number(of, *RATES) for name, of in notes.items()}
    if len(set(rates.values())) > 1:
        raise Refusal(f"all files must have one rate, got {str(rates)[:300]}: convert them one by one")
    return next(iter(rates.values()))


def _common(notes: Mapping[str, Mapping[str, Any]], *, by_file: bool) -> dict[str, Any]:
    """The attributes that all files share. by_file: also the others, under the names of their files.

    Those of a file that is one episode are facts of the episode.
    """
    first = next(iter(notes.values()))
    common = {name: value for name, value in first.items() if all(of.get(name) == value for of in notes.values())}
    own = {file: {name: of[name] for name in of if name not in common} for file, of in notes.items()}
    return common | ({"files": own} if by_file and any(own.values()) else {})


def _column(key: str, episode: Episode) -> Column:
    """A column, and what it is proposed to become."""
    kind = episode.kinds[key]
    more = "" if kind.rows == episode.length else "a row more than actions"
    note = " ".join(filter(None, [kind.pictures, more]))
    return Column(key, kind.shape, kind.dtype, role=_role(key, episode.kinds), note=note)


def _role(key: str, keys: Iterable[str]) -> str:
    """What a column is proposed to become, by its path."""
    top, name = key.split("/")[0], key.split("/")[-1]
    if top in ACTIONS:
        return ACTION
    if top in NEXT:
        return "it is an observation of the next step"
    if "action" in top:
        return "it is another form of the action"
    if name in (*ENDINGS, *SUCCESSES):
        return "it says how the episode goes"
    if top in INFORMATION:
        return "it is what the environment tells beside the observations"
    if top in OBSERVED or not any(other.split("/")[0] in OBSERVED for other in keys):
        return OBSERVATION
    return "it is the state of the simulation" if top in SIMULATION else "it lies outside the observations"
