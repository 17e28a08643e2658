"""The configurations of `recede evaluate`, `compare` and `replay`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..envs.disturbance_kinds import KINDS
from ..specification import nearest
from .changes import accept_changes
from .checks import (
    LARGEST_SEED,
    LONGEST_MS,
    MOST_EPISODES,
    PathName,
    PathNames,
    check_cluster,
    check_randomise,
    condition,
    known_engine,
    not_negative,
    one_or_several,
    positive,
    share,
    strictly_between,
)
from .choices import accept_none
from .components.executions import RecedingConfig, check_executions
from .notation import changed
from .packages import CommandConfig

SIMULATIONS = ("mujoco", "warp")
"""What may simulate the episodes."""

NOT_ON_DEVICE = {
    "workers": "whose worlds are in one process",
    "cluster": "whose worlds are in one process",
    "randomise": "whose worlds share one model",
    "disturb": "whose worlds share one model",
    "monitors": "whose chunks stay on the device",
    "guidance": "whose policy predicts alone",
    "context": "whose context is that of the task",
    "words": "whose words are those of the task",
    "delay_ms": "whose policy answers at once",
}
"""Option of `EvaluateConfig` -> why simulation=warp does not offer it."""


@dataclass(kw_only=True)
class EvaluateConfig(CommandConfig):
    """Measure a policy in closed-loop simulation: success rate, score and latency, with 95 % intervals.

    With several executions or delays, as in execution=[receding,rtc] delay_ms=[0,200], it measures every pair. Several
    policies, as in recede evaluate runs/a runs/b, act in the same episodes, and are compared.
    """

    "Policy"

    run: PathNames
    """Run folder, checkpoint folder, or folder of `recede export`; or several as [a,b]."""
    checkpoint: str = "last"
    """Checkpoint of a run: last or best. Seeds from 50000 on chose the best."""
    sampler: Any = None
    """Sampler to denoise with. null is that of the policy; sampler.num_steps=4 alone changes only that value.
An exported policy keeps its own."""
    guidance: Any = None
    """What guides every chunk. null leaves the policy as it was trained."""
    context: dict[str, Any] = field(default_factory=dict)
    """Context that is the same in all episodes, as context.goal=[1,0,0,0]. {} takes that of the task."""
    words: str | None = None
    """Sentence of all episodes, for a policy that observes sentences. null takes those of the task."""
    text_encoder: PathName | None = None
    """Folder of the text encoder, if it was moved since the training."""
    engine: str | None = None
    """What runs the policy: eager (PyTorch), cuda_graph, onnx, openvino, openvino_fp32, or auto for the fastest here.
null is eager, or the engine of an exported policy."""
    device: str = "auto"
    """Device of torch, such as cpu or cuda:0. auto takes a GPU if there is one."""

    "Episodes"

    task: str | None = None
    """Task to evaluate in. null takes the task that the policy was trained for."""
    episodes: int = 50
    """Number of episodes to roll out."""
    first_seed: int = 100_000
    """Seed of the first episode; episode i has the seed first_seed + i."""
    seed: int = 0
    """Seed of the policy's noise."""
    workers: int = 0
    """Processes that step environments. 0 steps them in the main process, all at once if the task has worlds. With
cluster=, processes of the cluster that each roll out episodes with the policy; 0 is one for each of its CPUs."""
    cluster: str | None = None
    """Ray cluster whose CPUs roll the episodes out: local (this machine), HOST:PORT, or auto for that of RAY_ADDRESS.
null rolls them out in this process."""
    parallel: int = 64
    """Episodes that run at once; their observations are predicted together. On a CPU, 128 for each thread of torch are
fastest, if so many are left to run. With cluster=, in each process."""
    simulation: str = "mujoco"
    """What simulates the episodes: mujoco, or warp. MuJoCo Warp keeps physics, observations and policy on one device, a
CPU or an NVIDIA GPU. Nothing is filmed then, and episodes are not reproducible bit for bit."""

    until: str | None = None
    """decided rolls out two policies until one of them succeeds more often beyond chance, or until they differ by less
than indifference=. null rolls out episodes=."""
    most: int = 1000
    """With until=decided, the most episodes of each policy."""
    indifference: float | None = None
    """With until=decided, the largest difference of success rates that does not matter, as 0.05. null is none."""

    randomise: list[str] = field(default_factory=list)
    """What differs in the world of each episode, by its seed: any of mass, friction, colour, camera and light."""
    disturb: dict[str, Any] = field(default_factory=dict)
    """Also evaluate under disturbances, beside the undisturbed policy in the same episodes: disturb.push=[5,10]. They
are observation_noise and action_noise (shares of the range), delay (ms), push (N), camera (m), and light, mass,
friction and colour (shares)."""

    "Monitors"

    monitors: bool = False
    """Compute beside each chunk what may foretell a failure, and from which number on to raise an alarm."""
    dataset: PathName | None = None
    """With monitors=true, the demonstrations that the policy was trained on, from which the monitor distance measures.
null leaves it out."""
    false_alarms: float = 0.05
    """With monitors=true, the share of successful episodes that may raise an alarm."""

    "Execution"

    execution: dict[str, Any] = field(default_factory=lambda: {"receding": RecedingConfig()})
    """How action chunks follow one another. A list of several is measured one by one."""
    delay_ms: Any = 0
    """Milliseconds from requesting a chunk to receiving it, rounded up to whole control steps. A list is swept."""

    "Results"

    out: PathName | None = None
    """Folder for evaluation.json, the report and the films. null writes them beside the policy."""
    videos: int = 3
    """Episodes to film, from the first on. The report then shows the worst failures too, as film strips."""

    def __post_init__(self) -> None:
        accept_changes(self, "sampler")
        accept_none(self, "guidance")
        known_engine(self.engine)
        check_executions(self.execution)
        self.delays  # noqa: B018 - it raises
        positive(self, "episodes", most=MOST_EPISODES)
        positive(self, "parallel", most=10_000)
        not_negative(self, "first_seed", "seed", most=LARGEST_SEED)
        not_negative(self, "workers", most=1000)
        not_negative(self, "videos", most=MOST_EPISODES)
        check_cluster(self.cluster)
        if self.cluster is not None:
            if self.device not in ("auto", "cpu"):
                raise ValueError(f"device={self.device} is not for cluster=, whose CPUs run the policy: leave one out")
            self.device = "cpu"  # what is rolled out here, such as the films of the worst, then goes as it went there
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint must be 'last' or 'best', got {self.checkpoint!r}")
        self.run = one_or_several("run", self.run)
        check_randomise(self)
        self.disturb = {kind: _severities(kind, value) for kind, value in self.disturb.items()}
        if self.disturb and (len(self.runs) > 1 or len(self.execution) * len(self.delays) > 1):
            raise ValueError("disturb is for one policy with one execution and one delay: evaluate them one by one")
        self._check_monitors()
        self._check_simulation()
        positive(self, "most", most=MOST_EPISODES)
        share(self, "indifference")
        if self.until not in (None, "decided"):
            raise ValueError(f"until must be decided or null, got {self.until!r}")
        if self.until is None and self.indifference is not None:
            raise ValueError(f"indifference={self.indifference:g} is for until=decided: give that, or leave it out")
        if self.until is not None and len(self.runs) != 2:
            raise ValueError(f"until={self.until} compares two policies, got {len(self.runs)}: name two runs")
        if len(self.runs) > 1 and len(self.execution) * len(self.delays) > 1:
            raise ValueError("several policies are compared with one execution and one delay: give one of each")

    def _check_monitors(self) -> None:
        strictly_between(self, "false_alarms")
        if not self.monitors and self.dataset is not None:
            raise ValueError(f"dataset={self.dataset} is for monitors=true: give that, or leave it out")
        if self.monitors and (len(self.runs) > 1 or self.disturb or len(self.execution) * len(self.delays) > 1):
            raise ValueError(
                "monitors=true is for one policy with one execution and one delay, undisturbed: evaluate them one by "
                "one, and disturbed with randomise="
            )

    def _check_simulation(self) -> None:
        if self.simulation not in SIMULATIONS:
            raise ValueError(
                f"simulation must be one of {', '.join(SIMULATIONS)}, got {self.simulation!r}: "
                + nearest(self.simulation, SIMULATIONS)
            )
        if self.simulation == "mujoco":
            return
        if refused := [name for name in NOT_ON_DEVICE if name in changed(self)]:
            raise ValueError(
                f"{refused[0]}= is not for simulation={self.simulation}, {NOT_ON_DEVICE[refused[0]]}: leave one out"
            )
        if not all(isinstance(one, RecedingConfig) for one in self.execution.values()):
            raise ValueError(f"simulation={self.simulation} stops for each chunk: leave execution out, or it")
        if len(self.runs) > 1:
            raise ValueError(
                f"simulation={self.simulation} is not reproducible bit for bit, so policies cannot be compared in the "
                "same episodes: evaluate them one by one"
            )
        self.videos = 0

    @property
    def runs(self) -> list[str]:
        """The policies, one or several."""
        return self.run if isinstance(self.run, list) else [self.run]

    @property
    def pairs(self) -> list[EvaluateConfig]:
        """One configuration for each pair of an execution and a delay."""
        changes = [
            {"execution": {name: option}, "delay_ms": ms}
            for name, option in self.execution.items()
            for ms in self.delays
        ]
        return [replace(self, **change) for change in changes]  # pyright: ignore[reportReturnType]

    @property
    def parts(self) -> Mapping[str, EvaluateConfig]:
        """Name -> each evaluation of one policy. Several are each written to a folder of their name; one is ".".

        If disturbances are given, the first part is undisturbed.
        """
        if self.disturb:
            undisturbed: EvaluateConfig = replace(self, disturb={})  # pyright: ignore[reportAssignmentType]
            parts = {"undisturbed": undisturbed}
            for kind, severities in self.disturb.items():
                for severity in severities:
                    change = (
                        {"delay_ms": severity, "disturb": {}} if kind == "delay" else {"disturb": {kind: [severity]}}
                    )
                    parts[f"{kind}-{severity:g}"] = replace(self, **change)  # pyright: ignore[reportArgumentType]
            return parts
        pairs = self.pairs
        if len(pairs) == 1:
            return {".": pairs[0]}
        return {f"{next(iter(pair.execution))}-{pair.delays[0]:g}ms": pair for pair in pairs}

    @property
    def delays(self) -> list[float]:
        """The delays in milliseconds. Raises ValueError unless `delay_ms` is a number >= 0 or a list of them."""
        values = self.delay_ms if isinstance(self.delay_ms, list) else [self.delay_ms]
        if not values or not all(type(value) in (int, float) and 0 <= value <= LONGEST_MS for value in values):
            raise ValueError(
                f"delay_ms must be milliseconds from 0 to {LONGEST_MS}, or a list of them, got {self.delay_ms}"
            )
        return [float(value) for value in values]


def _severities(kind: str, value: Any) -> list[float]:
    """The severities of a disturbance. Raises ValueError if there is no such kind, or for impossible severities."""
    if kind not in KINDS:
        raise ValueError(f"disturb.{kind}: there is no such disturbance: {nearest(kind, KINDS)}")
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(one) in (int, float) and 0 < one <= KINDS[kind].most for one in values):
        raise ValueError(
            f"disturb.{kind} must be severities above 0, at most {KINDS[kind].most:g} {KINDS[kind].unit}, got {value}"
        )
    if len(set(values)) < len(values):
        raise ValueError(f"disturb.{kind} must name each severity once, got {value}")
    return [float(one) for one in values]


@dataclass(kw_only=True)
class ReplayConfig(CommandConfig):
    """Apply recorded actions open loop in simulation, and compare the observations with the recorded ones."""

    task: str
    """Task to replay in."""
    dataset: PathName
    """Folder of the demonstrations."""
    episodes: str | None = None
    """Which of its episodes, as in "outcome=success and operator!=script". episode<20 is the first 20, null all."""
    randomise: list[str] = field(default_factory=list)
    """What differed in the world of each episode when it was recorded by `recede collect randomise=`."""

    def __post_init__(self) -> None:
        condition(self, "episodes")
        check_randomise(self)


@dataclass(kw_only=True)
class CompareConfig(CommandConfig):
    """Put many evaluations into one table, or test whether policies differ in the same episodes.

    With one folder, it writes the table; with that of a sweep (-m), a row for each combination of values, pooled over
    seeds, and a picture. With several, as in recede compare runs/a runs/b, each must hold one evaluation, and every two
    of them are compared in the episodes that both have.
    """

    results: PathNames
    """Folder whose evaluation.json files are read, at any depth; or a file that lines= wrote; or several as [a,b], each
with one evaluation, to compare them."""
    out: PathName | None = None
    """Markdown file for the table. null prints it."""
    lines: PathName | None = None
    """File (.jsonl) to add the evaluations to, one a line. An evaluation of the same path is replaced."""

    def __post_init__(self) -> None:
        if self.lines is not None and not self.lines.endswith(".jsonl"):
            raise ValueError(f"lines must be a file that ends in .jsonl, got {self.lines!r}")
        self.results = one_or_several("results", self.results)
        if isinstance(self.results, list) and self.lines is not None:
            raise ValueError("lines= adds the evaluations of one folder: leave it out, or name one folder")
