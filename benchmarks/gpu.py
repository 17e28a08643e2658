"""Everything that needs a GPU to be shown: agreement with the CPU, and the speed of training, chunks and episodes.

    python benchmarks/gpu.py [json=FILE] [device=cuda] [seconds=540] [only=parity] [tiny=true]

Where recede is not installed, give the checkout that name in a folder of PYTHONPATH; torch, einops, numpy, safetensors
and tqdm are enough for all proofs but two, "resume" (zarr) and "episodes" (gymnasium, mujoco):

    mkdir -p /tmp/src && ln -sfn "$PWD" /tmp/src/recede && PYTHONPATH=/tmp/src python3 benchmarks/gpu.py json=gpu.json

Each proof stands alone: one that needs a package that is not installed is skipped, one that fails does not stop the
others, and if it leaves the GPU unusable, the others run in a new process. None begins later than `seconds` after the
start. The file is written after each proof, so a kill loses one: it has the card, the versions, the command, the
figures, and the reasons of what was skipped or failed. only: the beginning of the names of proofs, or several with ";".

Without a GPU it exits 2. With device=cpu tiny=true it only shows that it runs, and no figure means anything.
Shapes: B rows of a batch; K noise draws a window.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from recede.benchmarks.inference import interleaved
from recede.benchmarks.measure import Row, report
from recede.benchmarks.proving import Results, machine, nothing, prove
from recede.benchmarks.windows import CROP, HORIZONS, IMAGE, STATE, InMemory
from recede.configs.augmentation import AugmentationConfig
from recede.configs.components.denoising import DDIMConfig
from recede.configs.components.encoders import LowdimEncoderConfig, ResNetEncoderConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.datasets.windows import Batch, Windows
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.engines.choice import difference
from recede.policy.engines.cuda_graph import CudaGraphEngine
from recede.policy.engines.eager import EagerEngine
from recede.policy.engines.interface import Engine
from recede.policy.interface import Lesson
from recede.policy.normalizer import Normalizer
from recede.specification import Specification, Stream
from recede.training.ema import EMA
from recede.training.flops import loss_flops
from recede.training.gradients import WARM_UPS, CapturedGradients, Gradients, Part, Update
from recede.training.parameters import parameter_groups

USAGE = "usage: python benchmarks/gpu.py [json=FILE] [device=cuda] [seconds=540] [only=parity] [tiny=true]"
POLICIES = {
    "U-Net": (STATE, "U-Net"),
    "U-Net of the paper": (STATE, "U-Net of the paper"),
    "ResNet-18 and U-Net": (IMAGE, "U-Net of the paper"),
}
"""Name -> the streams and the network of a policy."""
TOLERANCES = {"fp32": 1e-3, "fp32 with TF32": 0.01, "captured, bf16": 0.05}
"""How far a chunk may be from that of the CPU: root mean square over the actions, in half ranges."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    channels: dict[str, list[int]]
    """Name of a network -> its channels."""
    batch_size: int
    draws: int
    """K of the policy with a camera."""
    seconds: float
    """Length of each measurement."""
    denoising_steps: int
    rows: tuple[int, ...]
    """Batch sizes of the comparison with the CPU."""
    episodes: int
    steps: int
    """Steps of the training that is stopped and resumed."""


FULL = Size(
    {"U-Net": [64, 128, 256], "U-Net of the paper": [256, 512, 1024]}, 256, 4, 5.0, 10, (16, 32, 48, 64), 128, 40
)
TINY = Size({"U-Net": [8, 16], "U-Net of the paper": [16, 32]}, 4, 2, 0.0, 1, (2, 3), 2, 4)


@dataclass(frozen=True)
class Bench:
    """Where and how much to measure."""

    device: torch.device
    size: Size

    @property
    def is_gpu(self) -> bool:
        """Whether the device can capture CUDA graphs."""
        return self.device.type == "cuda"

    def policy(self, name: str) -> DiffusionPolicy:
        """An untrained policy of `POLICIES`, on the CPU."""
        return self.untrained(*POLICIES[name])

    def untrained(self, specification: Specification, network: str) -> DiffusionPolicy:
        """A policy with DDIM and fixed weights."""
        torch.manual_seed(0)
        vectors = [stream for stream in specification.streams if not stream.is_image]
        ranges = {stream.name: (np.zeros(stream.shape), np.full(stream.shape, 100.0)) for stream in vectors}
        encoder = ResNetEncoderConfig(crop=[84, 84]) if specification is IMAGE else LowdimEncoderConfig()
        config = DiffusionConfig(
            encoder=encoder,
            network=UNet1dConfig(channels=self.size.channels[network]),
            sampler=DDIMConfig(num_steps=self.size.denoising_steps),
        )
        policy: Any = config.build(specification, HORIZONS, Normalizer(specification, ranges))
        return policy.eval()

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)


def question(policy: DiffusionPolicy, rows: int) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
    """An observation (B, To, ...) and its noise; fewer rows are the first of more."""
    rng, observation = np.random.default_rng(0), dict[str, NDArray[Any]]()
    for stream in policy.specification.observations:
        values = rng.uniform(0, 255 if stream.is_image else 100, (64, HORIZONS.observation, *stream.shape))
        observation[stream.name] = values[:rows].astype(stream.dtype)
    draws, *shape = policy.noise_shape
    noise = rng.standard_normal((64, draws, *shape), dtype=np.float32)
    return observation, np.ascontiguousarray(noise[:rows].swapaxes(0, 1))


def frozen(policy: DiffusionPolicy, device: torch.device) -> DiffusionPolicy:
    """A copy on the device that only predicts."""
    return copy.deepcopy(policy).to(device).requires_grad_(False)


@contextmanager
def tf32(is_on: bool) -> Generator[None]:
    """Whether convolutions and products of fp32 may be rounded to TF32."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = is_on
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def require(is_true: bool, message: str) -> None:
    """Raise AssertionError with the message."""
    if not is_true:
        raise AssertionError(message)


# --- the proofs


def parity(bench: Bench, name: str) -> Iterator[Row]:
    """Chunks of the device are those of the CPU, and a row of a batch does not depend on how many rows there are."""
    policy, failures = bench.policy(name), list[str]()
    half_range: NDArray[np.float32] = policy.normalizer.streams["action"].half_range.numpy()  # type: ignore[union-attr]
    largest = bench.size.rows[-1]
    expected = EagerEngine(frozen(policy, torch.device("cpu"))).predict(*question(policy, largest))
    engine: Engine = EagerEngine(frozen(policy, bench.device))
    ways: dict[str, tuple[Engine, bool]] = {"fp32": (engine, False), "fp32 with TF32": (engine, True)}
    if bench.is_gpu:
        ways["captured, bf16"] = CudaGraphEngine(frozen(policy, bench.device)), True
    for way, (engine, is_tf32) in ways.items():
        with tf32(is_tf32):
            chunks = {rows: engine.predict(*question(policy, rows)) for rows in bench.size.rows}
        first = min(chunks)
        off = difference(chunks[largest], expected, half_range)
        beside = max(difference(chunk[:first], chunks[first], half_range) for chunk in chunks.values())
        yield Row(name=f"{way}, off the CPU", value=1e6 * off, unit="millionths of a half range")
        yield Row(name=f"{way}, off other batch sizes", value=1e6 * beside, unit="millionths of a half range")
        failures += [] if off <= TOLERANCES[way] else [f"{way}: off the CPU by {off:.1e} half ranges"]
    require(not failures, "; ".join(failures))


def gradients(bench: Bench, name: str) -> Iterator[Row]:
    """The loss and the norm of the gradient are those of the CPU, also of a CUDA graph."""
    policy, failures = bench.policy(name), list[str]()
    expected = _loss_and_norm(policy, torch.device("cpu"), is_captured=False)
    for way in ("eager", "captured") if bench.is_gpu else ("eager",):
        measured = _loss_and_norm(policy, bench.device, is_captured=way == "captured")
        for quantity, one, other in zip(("loss", "gradient norm"), expected, measured, strict=True):
            off = abs(other / one - 1)
            yield Row(name=f"{way}, {quantity}, off the CPU", value=1e6 * off, unit="millionths")
            failures += [] if off < 1e-3 else [f"{way}: the {quantity} is {other:.6g}, on the CPU {one:.6g}"]
    require(not failures, "; ".join(failures))


def _loss_and_norm(policy: DiffusionPolicy, device: torch.device, *, is_captured: bool) -> tuple[float, float]:
    trained = copy.deepcopy(policy).to(device)
    update = _update(trained, device, is_captured=is_captured)
    lesson = _lesson(policy, device, rows=8, draws=1)
    part = Part(lesson, torch.zeros(lesson.action.shape[:2], dtype=torch.bool, device=device))
    with tf32(False):
        for _ in range(WARM_UPS if is_captured else 0):
            update([part])
        loss, norm = update([part])
    return loss.item(), norm.item()


def _lesson(policy: DiffusionPolicy, device: torch.device, *, rows: int, draws: int) -> Lesson:
    """Windows that are the same on every device."""
    arrays, generator = question(policy, rows)[0], torch.Generator().manual_seed(0)
    observation = {key: torch.from_numpy(values).to(device) for key, values in arrays.items()}
    action = torch.rand(rows, HORIZONS.prediction, 2, generator=generator)
    noise = torch.randn(draws, rows, *policy.noise_shape[1:], generator=generator)
    uniform = torch.rand(draws, rows, policy.num_uniforms, generator=generator)
    inputs, progress = [x.to(device) for x in (100 * action, noise, uniform)], torch.zeros((), device=device)
    return Lesson(observation, inputs[0], inputs[1], inputs[2], progress=progress)


def flops(bench: Bench, name: str) -> Iterator[Row]:
    """The floating-point operations of an update, for each of its windows, and the bytes of its gradient."""
    policy = bench.policy(name).train()
    for draws in (1, bench.size.draws) if policy.specification is IMAGE else (1,):
        count = loss_flops(policy, _lesson(policy, torch.device("cpu"), rows=2, draws=draws)) / 2
        yield Row(name=f"a window x {draws}", value=1e-6 * count, unit="MFLOP")
    yield Row(name="gradient", value=4e-6 * sum(x.numel() for x in policy.parameters()), unit="MB")


def _update(policy: DiffusionPolicy, device: torch.device, *, is_captured: bool, is_bf16: bool = False) -> Update:
    gradients = Gradients(policy, clip=1.0, is_masked=False, is_bf16=is_bf16)
    return CapturedGradients(gradients, device) if is_captured else gradients


def chunks(bench: Bench, name: str) -> Iterator[Row]:
    """How long one robot waits for a chunk, eager and captured; all of it included."""
    policy, failure = bench.policy(name), None
    engines: dict[str, Engine] = {"eager (fp32)": EagerEngine(frozen(policy, bench.device))}
    if bench.is_gpu:
        engines["captured (bf16)"] = CudaGraphEngine(frozen(policy, bench.device))
    inputs, works = question(policy, 1), dict[str, Callable[[], object]]()
    for way, engine in engines.items():
        began = time.perf_counter()
        try:
            engine.predict(*inputs)
        except Exception as error:  # the other way is measured all the same
            failure = error
            continue
        yield Row(name=f"{way}, first chunk", value=1e3 * (time.perf_counter() - began), unit="ms")
        works[way] = partial(engine.predict, *inputs)
    if failure is not None and not is_usable(bench.device):
        raise failure
    measured = interleaved(list(works.values()), seconds=bench.size.seconds)
    for way, times in zip(works, measured, strict=True):
        yield Row(name=f"{way}, median", value=1e3 * float(np.median(times)), unit="ms")
        yield Row(name=f"{way}, 99th percentile", value=1e3 * float(np.percentile(times, 99)), unit="ms")
    if failure is not None:
        raise failure
    if len(measured) > 1:
        yield Row(name="eager / captured", value=float(np.median(measured[0]) / np.median(measured[1])), unit="x")


def training(bench: Bench, name: str) -> Iterator[Row]:
    """Windows a second in fp32 and bf16, eager and captured: batch, loss, backward, optimiser and average."""
    policy, sizes = bench.policy(name), {STATE: (206, 25_650), IMAGE: (41, 5_130)}
    if bench.size is not FULL:
        sizes = {STATE: (3, 100), IMAGE: (2, 60)}
    is_image = policy.specification is IMAGE
    windows = Windows(InMemory(policy.specification, *sizes[policy.specification]), HORIZONS, device=bench.device)
    draws = bench.size.draws if is_image else 1
    for precision, way in product(("fp32", "bf16"), ("eager", "captured") if bench.is_gpu else ("eager",)):
        if bench.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(bench.device)
        trained = copy.deepcopy(policy).to(bench.device)
        update = _update(trained, bench.device, is_captured=way == "captured", is_bf16=precision == "bf16")
        step = Step(trained, update, windows, bench, draws=draws)
        seconds = _seconds_of(step, bench)
        label = f"{precision}, {way}, {bench.size.batch_size} windows x {draws}"
        yield Row(name=label, value=bench.size.batch_size / seconds, unit="windows/s")
        yield Row(name=f"{label}, a step", value=1e3 * seconds, unit="ms")
        if bench.is_gpu:
            peak = torch.cuda.max_memory_allocated(bench.device) / 2**30
            yield Row(name=f"{label}, memory", value=peak, unit="GiB")


def _seconds_of(step: Callable[[], None], bench: Bench) -> float:
    """Mean seconds of a step, after some that warm up."""
    for _ in range(10 if bench.size is FULL else 1):
        step()
    bench.synchronize()
    began, count = time.perf_counter(), 0
    while not count or time.perf_counter() - began < bench.size.seconds:
        for _ in range(10 if bench.size is FULL else 1):
            step()
            count += 1
        bench.synchronize()
    return (time.perf_counter() - began) / count


class Step:
    """A step of training as the training loop takes it, without its checks and its files."""

    def __init__(self, policy: DiffusionPolicy, update: Update, windows: Windows, bench: Bench, *, draws: int) -> None:
        self.policy, self.update, self.windows, self.device = policy.train(), update, windows, bench.device
        self.draws, self.batch_size = draws, bench.size.batch_size
        self.optimizer = torch.optim.AdamW(parameter_groups(policy, weight_decay=1e-6), lr=1e-4, fused=True)
        self.average, self.generator = EMA(policy, power=0.75, maximum=0.9999), torch.Generator(bench.device)
        self.augmentation = CROP if policy.specification is IMAGE else AugmentationConfig().build(None)
        self.order, self.count = torch.randperm(len(windows)).to(bench.device), 0

    def __call__(self) -> None:
        """Take it."""
        start = self.count * self.batch_size % max(len(self.order) - self.batch_size, 1)
        batch = self.windows.batch(self.order[start : start + self.batch_size])
        self.update([Part(self._lesson(batch), batch.is_padding)])
        self.optimizer.step()
        self.count += 1
        self.average.update(self.policy, self.count)

    def _lesson(self, batch: Batch) -> Lesson:
        size, generator, device = (self.draws, len(batch.action)), self.generator, self.device
        noise = torch.randn(*size, *self.policy.noise_shape[1:], generator=generator, device=device)
        uniform = torch.rand(*size, self.policy.num_uniforms, generator=generator, device=device)
        observation, progress = self.augmentation(batch.observation, self.generator), torch.zeros((), device=device)
        return Lesson(observation, batch.action, noise, uniform, progress=progress)


def episodes(bench: Bench) -> Iterator[Row]:
    """Episodes of `pick_place` a second, all of full length, because the policy is untrained."""
    from recede.envs.tasks.pick_place import PICK_PLACE
    from recede.evaluation.rollout import rollout
    from recede.execution.receding import RecedingHorizon

    count, workers = bench.size.episodes, min(os.cpu_count() or 1, 16) if bench.size is FULL else 0
    policy = bench.untrained(PICK_PLACE.specification, "U-Net")
    execution = partial(RecedingHorizon, HORIZONS, hold=policy.specification.action.hold)
    engines: dict[str, Engine] = {"eager": EagerEngine(frozen(policy, bench.device))}
    if bench.is_gpu:
        engines["captured"] = CudaGraphEngine(frozen(policy, bench.device))
    for way, engine in engines.items():
        began = time.perf_counter()
        with patch.object(sys.modules["__main__"], "__file__", None, create=True):  # or workers import this script
            outcomes = rollout(
                *(engine, PICK_PLACE, range(count)),
                execution=execution,
                workers=workers,
                num_parallel=count,
                progress=False,
            )
        seconds, steps = time.perf_counter() - began, sum(outcome.num_steps for outcome in outcomes)
        yield Row(name=f"pick_place, {way}, {workers} workers", value=count / seconds, unit="episodes/s")
        yield Row(name=f"pick_place, {way}, {workers} workers, control", value=steps / seconds, unit="steps/s")


def resume(bench: Bench) -> Iterator[Row]:
    """A training that is stopped half way and resumed ends with the weights of one that is not."""
    from recede.configs.training import TrainConfig
    from recede.datasets.store import DemonstrationStore
    from recede.training.loop import train
    from recede.training.run import Run

    half, save = bench.size.steps // 2, Run.save

    def save_and_stop(self: Run, step: int, **state: Any) -> Path:
        save(self, step, **state)
        raise KeyboardInterrupt

    with TemporaryDirectory() as scratch:
        action = Stream("action", (2,), low=0.0, high=1.0)
        store = DemonstrationStore.create(
            Path(scratch) / "demos.zarr", Specification((STATE.observations[0],), action, control_dt=0.1)
        )
        rng = np.random.default_rng(0)
        for seed in range(4):
            store.append(
                {"state": rng.random((60, 20), np.float32), "action": rng.random((60, 2), np.float32)}, seed=seed
            )
        config = partial(
            TrainConfig,
            dataset=f"{scratch}/demos.zarr",
            device=str(bench.device),
            steps=2 * half,
            batch_size=32,
            warmup=1,
            held_out=0.25,
            save_every=half,
            policy=DiffusionConfig(network=UNet1dConfig(channels=bench.size.channels["U-Net"])),
        )
        whole = train(config(out=f"{scratch}/whole"))
        with patch.object(Run, "save", save_and_stop), suppress(KeyboardInterrupt):
            train(config(out=f"{scratch}/resumed"))
        resumed = train(config(out=f"{scratch}/resumed"))
        off = _weights_off(whole, resumed)
    yield Row(name="resumed training, weights off the uninterrupted one", value=1e6 * off, unit="millionths")
    require(off < 0.01, f"a resumed training differs by {off:.1e} of the largest weight of a tensor")


def _weights_off(one: Path, other: Path) -> float:
    """The largest difference of two checkpoints, as a share of the largest weight of its tensor."""
    from recede.checkpoints.folder import read_checkpoint

    first, second = read_checkpoint(one)[1], read_checkpoint(other)[1]
    return max(
        float((first[name] - second[name]).abs().max() / first[name].abs().max().clamp(min=1e-3))
        for name in first
        if first[name].is_floating_point()
    )


PROOFS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    **{f"{proof.__name__}, {name}": partial(proof, name=name) for proof in (parity, gradients) for name in POLICIES},
    **{f"flops, {name}": partial(flops, name=name) for name in POLICIES},
    "resume": resume,
    **{f"{proof.__name__}, {name}": partial(proof, name=name) for proof in (chunks, training) for name in POLICIES},
    "episodes": episodes,
}


# --- the command


def options(arguments: list[str]) -> dict[str, str]:
    """The arguments by key. Exits 2 if one is not of this command."""
    values = {key: value for key, _, value in (argument.partition("=") for argument in arguments)}
    is_good = values.keys() <= {"json", "device", "seconds", "only", "tiny"} and all(values.values())
    is_good = is_good and len(values) == len(arguments) and values.get("tiny", "true") in ("true", "false")
    if not is_good or not values.get("seconds", "540").isdigit() or not chosen(values):
        print(f"{USAGE}, got {' '.join(arguments)}", file=sys.stderr)
        raise SystemExit(2)
    return values


def chosen(values: dict[str, str]) -> list[str]:
    """The names of the proofs to run."""
    return [name for name in PROOFS if name.startswith(tuple(values.get("only", "").split(";")))]


def is_usable(device: torch.device) -> bool:
    """Whether the device still computes: some errors end the use of a GPU by the process."""
    try:
        return torch.ones(2, device=device).sum().item() == 2
    except Exception:  # torch raises errors of several kinds
        return False


def in_new_process(values: dict[str, str], names: list[str], until: float) -> Results:
    """The named proofs, by a process that has not used the GPU yet."""
    print("the GPU is unusable in this process, so another one goes on", flush=True)
    with TemporaryDirectory() as scratch:
        path = Path(values["json"] + ".rest" if "json" in values else f"{scratch}/rest.json")
        seconds = max(int(until - time.monotonic()), 0)
        changed = values | {"json": str(path), "only": ";".join(names), "seconds": str(seconds)}
        command = [sys.executable, __file__, *(f"{key}={value}" for key, value in changed.items())]
        subprocess.run(command, check=False)
        if not path.exists():
            return nothing() | {"failed": dict.fromkeys(names, "its process ended")}
        return json.loads(path.read_text())


def main() -> None:
    """Run the proofs. Exits 2 without a GPU, and 1 if a proof fails."""
    values = options(sys.argv[1:])
    until = time.monotonic() + int(values.get("seconds", "540"))
    device = torch.device(values.get("device", "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no GPU that torch can use here: run this on a machine that has one", file=sys.stderr)
        raise SystemExit(2)
    bench = Bench(device, TINY if values.get("tiny") == "true" else FULL)
    about = machine(device)
    print(f"{about['card']}, torch {torch.__version__}", flush=True)

    def write(results: Results) -> None:
        if "json" in values:
            Path(values["json"]).write_text(json.dumps(about | results, indent=2) + "\n")

    results = prove(
        {name: partial(PROOFS[name], bench) for name in chosen(values)},
        until=until,
        write=write,
        is_usable=partial(is_usable, device),
        go_on=partial(in_new_process, values, until=until),
    )
    if results["rows"]:
        report(results["rows"], None)
    if results["failed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
