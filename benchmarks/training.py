"""The cost of training: milliseconds of a step of the U-Net, and whole updates of `recede train` beside a plain loop.

    python benchmarks/training.py [json=FILE]

First the network alone: ours, the same with torch's own layers, the same with `precision=bf16` on a processor that
multiplies it fast, and the reference network's. The step is that of the
default recipe: 256 chunks of 16 actions, 2 observed steps of a vector, channels 64, 128 and 256, a noise level and a
noise for each chunk, the squared error of x_0, and AdamW. The plain loop has the network as it was published, with a
linear layer for time and conditioning in every block. All take turns in one run, with `OMP_NUM_THREADS` threads, or as
many as there are cores. Hold torch to AVX2 by ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2.

Then whole updates, batches, averaged weights and all, of one recipe of vectors and one of images (96 x 96 pixels, crops
of 84 x 84, ResNet-18), in one process and in two that `torchrun` starts, each with one thread. The plain loop is what
the reference implementation does, with DataLoader, DistributedDataParallel and its average of the weights; its images
pass our encoder. Each way is a program of its own, so its peak of memory is its own; the ways take turns.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice, pairwise, product, repeat
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from recede.benchmarks.measure import Row, interleaved_medians, output, report
from recede.benchmarks.windows import HORIZONS, IMAGE, STATE, InMemory, Samples
from recede.configs.components.encoders import LowdimEncoderConfig, ResNetEncoderConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig, HorizonsConfig
from recede.configs.training import TrainConfig
from recede.datasets.store import DemonstrationStore
from recede.policy.device import is_bf16_fast
from recede.policy.networks import cpu_training
from recede.policy.networks.unet1d import UNet1d
from recede.training.loop import train
from recede.training.measures import Meter, peak_memory
from recede.training.processes import Processes, joined
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

BATCH_SIZE, NUM_STEPS, ACTION_SIZE, CONDITIONING = 256, 16, 4, (2, 10)
CHANNELS, GROUPS, TIME_SIZE = (64, 128, 256), 8, 128
KERNEL_SIZES = (5, 3)
PRODUCT = (4096, 320, 64)
"""Rows, inputs and outputs of a matrix product with the sizes of a convolution at the finest level."""
SECONDS = 30.0
"""How long the networks of one kernel size take turns."""


@dataclass(frozen=True)
class Recipe:
    """How much the whole updates of one kind compute."""

    streams: str
    """Of `STREAMS`."""
    batch_size: int
    """Windows of an update, of all processes together."""
    updates: int
    """Updates that are timed."""
    episodes: int
    steps: int
    channels: tuple[int, ...] = CHANNELS
    width: int = 64
    """Channels of the first stage of the ResNet."""
    warm_ups: int = 3
    """Updates before those that are timed."""


STREAMS = {"vectors": STATE, "images": IMAGE}
RECIPES = (Recipe("vectors", 256, 20, 41, 5_130), Recipe("images", 16, 8, 6, 600))
COUNTS = (1, 2)
"""Numbers of processes."""
WAYS: dict[str, dict[str, Any]] = {
    "plain loop": {},
    "ours": {},
    "ours, gradient checkpointing": {"gradient_checkpointing": True},
    "ours, compiled": {"compile": True},
    "ours, muon": {"optimizer": "muon"},
}
"""Way -> further options of `recede train`. The last three are measured in one process, each with one recipe."""
ONLY = {"ours, gradient checkpointing": "images", "ours, compiled": "vectors", "ours, muon": "vectors"}
TURNS = 2
"""How often each program runs."""


class PlainBlock(nn.Module):
    """A residual block of the reference implementation."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int, conditioning_size: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Sequential(
                nn.Conv1d(channels, channels_out, kernel_size, padding=kernel_size // 2),
                nn.GroupNorm(GROUPS, channels_out),
                nn.Mish(),
            )
            for channels in (channels_in, channels_out)
        )
        self.film = nn.Sequential(nn.Mish(), nn.Linear(TIME_SIZE + conditioning_size, 2 * channels_out))
        self.skip = nn.Conv1d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        """(B, C_in, T), time and conditioning (B, E + S Dc) -> (B, C_out, T)."""
        scale, shift = self.film(conditioning)[:, :, None].chunk(2, dim=1)
        return self.second(scale * self.first(x) + shift) + self.skip(x)


class PlainUNet(nn.Module):
    """The U-Net of Chi et al. (2023) as it was published, with three levels."""

    def __init__(
        self, kernel_size: int, *, action_size: int, conditioning_size: int, channels: tuple[int, ...]
    ) -> None:
        super().__init__()
        block = partial(PlainBlock, kernel_size=kernel_size, conditioning_size=conditioning_size)
        self.embedding = nn.Sequential(
            nn.Linear(TIME_SIZE, 4 * TIME_SIZE), nn.Mish(), nn.Linear(4 * TIME_SIZE, TIME_SIZE)
        )
        self.down = nn.ModuleList(
            nn.ModuleList([block(a, b), block(b, b)]) for a, b in pairwise((action_size, *channels))
        )
        self.downsample = nn.ModuleList(nn.Conv1d(width, width, 3, 2, 1) for width in channels[:-1])
        self.middle = nn.ModuleList(block(channels[-1], channels[-1]) for _ in range(2))
        ascending = list(pairwise(reversed(channels)))
        self.up = nn.ModuleList(nn.ModuleList([block(2 * a, b), block(b, b)]) for a, b in ascending)
        self.upsample = nn.ModuleList(nn.ConvTranspose1d(b, b, 4, 2, 1) for _, b in ascending)
        self.head = nn.Sequential(
            nn.Conv1d(channels[0], channels[0], kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(GROUPS, channels[0]),
            nn.Mish(),
            nn.Conv1d(channels[0], action_size, 1),
        )

    def forward(self, noisy: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        """Noisy chunk (B, Tp, Da), times (B,), conditioning (B, S, Dc) -> (B, Tp, Da)."""
        angles = t[:, None] * torch.exp(torch.arange(TIME_SIZE // 2) * (-9.21 / (TIME_SIZE // 2 - 1)))
        embedded = self.embedding(torch.cat([angles.sin(), angles.cos()], dim=1))
        conditioning = torch.cat([embedded, conditioning.flatten(1)], dim=1)
        x, passed = noisy.transpose(1, 2), []
        for level, (first, second) in enumerate(self.down):  # type: ignore[misc]
            x = self.downsample[level - 1](x) if level else x
            x = second(first(x, conditioning), conditioning)
            passed.append(x)
        for middle in self.middle:
            x = middle(x, conditioning)
        for (first, second), upsample in zip(self.up, self.upsample, strict=True):  # type: ignore[misc]
            x = torch.cat([x, passed.pop()], dim=1)
            x = upsample(second(first(x, conditioning), conditioning))
        return self.head(x).transpose(1, 2)


def training_step(network: nn.Module) -> Callable[[], None]:
    """A training step of a network on random chunks, with an optimiser of its own."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    chunk = torch.rand(BATCH_SIZE, NUM_STEPS, ACTION_SIZE) * 2 - 1
    conditioning = torch.rand(BATCH_SIZE, *CONDITIONING)

    def step() -> None:
        noise, t = torch.randn_like(chunk), torch.rand(BATCH_SIZE)
        share = t[:, None, None]
        loss = F.mse_loss(network((1 - share) * chunk + share * noise, 1000 * t, conditioning), chunk)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def with_layers_of_torch(step: Callable[[], None]) -> Callable[[], None]:
    """The same step without the layers for training on a CPU."""

    def torchs() -> None:
        with cpu_training.left_out():
            step()

    return torchs


def in_bf16(step: Callable[[], None]) -> Callable[[], None]:
    """The same step with matrix products in 16 bits."""

    def half() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            step()

    return half


def product_rate() -> float:
    """GFLOP a second of a matrix product of the sizes of a convolution: what the processor can reach."""
    rows, inputs, outputs = PRODUCT
    left, right = torch.rand(rows, inputs), torch.rand(inputs, outputs)
    best = min(_seconds(lambda: left @ right) for _ in range(50))
    return 2e-9 * rows * inputs * outputs / best


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# --- whole updates


@dataclass(frozen=True)
class Task:
    """What one program measures."""

    way: str
    recipe: Recipe
    data: str
    """Folder of the demonstrations, which `ours` reads."""
    result: str
    """File for the outcome."""


class Clock:
    """The times of the updates of one program, and its peak of memory."""

    def __init__(self) -> None:
        self.began, self.times, self.memory = time.perf_counter(), list[float](), 0.0

    def __call__(self) -> None:
        """Note the end of an update."""
        self.times.append(time.perf_counter())
        self.memory = peak_memory(torch.device("cpu"))

    def outcome(self, warm_ups: int) -> dict[str, float]:
        """Median seconds of an update, GiB, and seconds until the end of the first update."""
        seconds = [later - earlier for earlier, later in pairwise(self.times[warm_ups - 1 :])]
        return {"seconds": median(seconds), "memory": self.memory, "first": self.times[0] - self.began}


def policy_config(recipe: Recipe) -> DiffusionConfig:
    """The policy of a recipe."""
    is_image = recipe.streams == "images"
    encoder = ResNetEncoderConfig(crop=[84, 84], width=recipe.width) if is_image else LowdimEncoderConfig()
    return DiffusionConfig(encoder=encoder, network=UNet1dConfig(channels=list(recipe.channels), time_size=TIME_SIZE))


def train_ours(task: Task, clock: Clock, processes: Processes) -> None:
    """The updates of `recede train`."""
    recipe, add = task.recipe, Meter.add
    steps = recipe.warm_ups + recipe.updates
    config = TrainConfig(
        dataset=task.data,
        out=f"{task.result}.run",
        policy=policy_config(recipe),
        horizons=HorizonsConfig(**asdict(HORIZONS)),
        batch_size=recipe.batch_size,
        device="cpu",
        steps=steps,
        **dict.fromkeys(("log_every", "save_every", "validate_every"), steps),
        **WAYS[task.way],
    )

    def add_and_note(self: Meter, *args: Any, **spans: Any) -> None:
        add(self, *args, **spans)
        clock()

    with patch.object(Meter, "add", add_and_note):
        train(config, processes)


class PlainPolicy(nn.Module):
    """The loss of the reference recipe: observed vectors as they are, or images through our encoder."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.images = None
        if recipe.streams == "images":
            self.images = policy_config(recipe).encoder.build(IMAGE, HORIZONS)
        observed = self.images.conditioning_shape[1] if self.images else STATE.observations[0].size
        size, channels = HORIZONS.observation * observed, recipe.channels
        self.network = PlainUNet(
            KERNEL_SIZES[0], action_size=STATE.action.size, conditioning_size=size, channels=channels
        )

    def forward(self, observed: dict[str, Tensor], action: Tensor) -> Tensor:
        """Observations (B, To, ...) and chunks (B, Tp, Da), both from 0 to 100 but for images -> the loss, ()."""
        conditioning = observed["state"] / 50 - 1 if self.images is None else self.images(observed)
        chunk, noise, t = action / 50 - 1, torch.randn_like(action), torch.rand(len(action))
        noisy = (1 - t[:, None, None]) * chunk + t[:, None, None] * noise
        return F.mse_loss(self.network(noisy, 1000 * t, conditioning), chunk)


def train_plain(task: Task, clock: Clock, processes: Processes) -> None:
    """The updates of a plain loop."""
    recipe, count = task.recipe, processes.count
    torch.manual_seed(0)
    samples = Samples(InMemory(STREAMS[recipe.streams], recipe.episodes, recipe.steps))
    sampler = DistributedSampler(samples, count, processes.rank)  # type: ignore[arg-type]
    loader = DataLoader(
        samples, recipe.batch_size // count, sampler=sampler, num_workers=1, drop_last=True, persistent_workers=True
    )
    policy = PlainPolicy(recipe)
    average, trained = deepcopy(policy).requires_grad_(False), policy
    if count > 1:
        trained = DistributedDataParallel(policy)  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    for observed, action in islice(chain.from_iterable(repeat(loader)), recipe.warm_ups + recipe.updates):
        optimizer.zero_grad()
        trained(observed, action).backward()
        optimizer.step()
        with torch.no_grad():
            for old, new in zip(average.parameters(), policy.parameters(), strict=True):
                old.mul_(0.999).add_(new, alpha=0.001)
        clock()


def work(task: Task) -> None:
    """Be one of the processes of a program; the first one writes the outcome."""
    torch.set_num_threads(1)
    clock = Clock()
    with joined() as processes:
        (train_plain if task.way == "plain loop" else train_ours)(task, clock, processes)
    if processes.is_first:
        Path(task.result).write_text(json.dumps(clock.outcome(task.recipe.warm_ups)))


def outcome_of(task: Task, count: int) -> dict[str, float]:
    """Run a program with so many processes. Raises CalledProcessError if it fails."""
    Path(task.result).unlink(missing_ok=True)
    shutil.rmtree(f"{task.result}.run", ignore_errors=True)
    launcher = []
    if count > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--master-port={port}"]
    command = [sys.executable, *launcher, __file__, f"task={json.dumps(asdict(task))}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{task.way} failed: {done.stderr[-2000:]}")
    return json.loads(Path(task.result).read_text())


def whole_updates(folder: Path) -> list[Row]:
    """Seconds, windows a second and memory of every way, and how they compare."""
    rows = list[Row]()
    for recipe, count in product(RECIPES, COUNTS):
        data = folder / f"{recipe.streams}.zarr"
        if not data.exists():
            write_demonstrations(recipe, data)
        ways = [way for way in WAYS if way not in ONLY or (count == 1 and ONLY[way] == recipe.streams)]
        outcomes = dict[str, list[dict[str, float]]]()
        for _, way in product(range(TURNS), ways):
            task = Task(way, recipe, str(data), str(folder / "result"))
            outcomes.setdefault(way, []).append(outcome_of(task, count))
        name = f"{recipe.streams}, {count} process{'es' if count > 1 else ''}"
        rows += compared(name, outcomes, recipe.batch_size)
    return rows


def compared(name: str, outcomes: dict[str, list[dict[str, float]]], batch_size: int) -> list[Row]:
    """The rows of one recipe with one number of processes. outcomes: way -> what each of its programs measured."""
    rows = list[Row]()
    means = {way: {key: median(one[key] for one in of) for key in of[0]} for way, of in outcomes.items()}
    for way, of in means.items():
        rows.append({"name": f"{name}, {way}", "value": 1e3 * of["seconds"], "unit": "ms"})
        rows.append({"name": f"{name}, {way}, rate", "value": batch_size / of["seconds"], "unit": "windows/s"})
        rows.append({"name": f"{name}, {way}, memory", "value": of["memory"], "unit": "GiB"})
    for way in (way for way in means if way != "ours"):
        ratios = {"": "seconds", ", memory": "memory"} if "ours" in means else {}
        for ending, key in ratios.items():
            ratio = means[way][key] / means["ours"][key]
            rows.append({"name": f"{name}, {way} / ours{ending}", "value": ratio, "unit": "x"})
    if "ours, compiled" in means:
        first = max(one["first"] for one in outcomes["ours, compiled"])
        rows.append({"name": f"{name}, ours, compiled, until the first update", "value": first, "unit": "s"})
    return rows


def write_demonstrations(recipe: Recipe, path: Path) -> None:
    """The demonstrations of a recipe as a store."""
    demonstrations = InMemory(STREAMS[recipe.streams], recipe.episodes, recipe.steps)
    store = DemonstrationStore.create(path, demonstrations.specification)
    for episode in range(recipe.episodes):
        start, stop = demonstrations.bounds(episode)
        streams = (stream.name for stream in demonstrations.specification.streams)
        store.append({name: demonstrations.read(name, start, stop) for name in streams}, seed=episode)


# --- the command


def main() -> None:
    """Measure both, and print the table; or do what one program is to do."""
    if sys.argv[1:] and sys.argv[1].startswith("task="):
        described = json.loads(sys.argv[1].removeprefix("task="))
        recipe = Recipe(**described.pop("recipe"))
        work(Task(**described, recipe=recipe))
        return
    path, rows = output(sys.argv[1:]), list[Row]()
    print(f"threads: {torch.get_num_threads()}, instructions: {torch.backends.cpu.get_cpu_capability()}")
    rows.append({"name": "a matrix product", "value": product_rate(), "unit": "GFLOP/s"})
    for kernel_size in KERNEL_SIZES:
        torch.manual_seed(0)
        numbers = CONDITIONING[0] * CONDITIONING[1]
        plain = PlainUNet(kernel_size, action_size=ACTION_SIZE, conditioning_size=numbers, channels=CHANNELS)
        sizes = {"action_size": ACTION_SIZE, "conditioning_shape": CONDITIONING, "channels": CHANNELS}
        ours = UNet1d(**sizes, kernel_size=kernel_size, groups=GROUPS, time_size=TIME_SIZE, hidden=())  # type: ignore[arg-type]
        works = {
            "plain loop": training_step(plain),
            "layers of torch": with_layers_of_torch(training_step(ours)),
            "ours": training_step(ours),
        }
        if is_bf16_fast(torch.device("cpu")):
            works["ours in bf16"] = in_bf16(works["ours"])
        taken = dict(zip(works, interleaved_medians(list(works.values()), seconds=SECONDS), strict=True))
        name = f"kernels of {kernel_size}"
        for who, seconds in taken.items():
            rows.append({"name": f"{name}, {who}", "value": 1e3 * seconds, "unit": "ms"})
        for who, seconds in taken.items():
            if who != "ours":
                rows.append({"name": f"{name}, {who} / ours", "value": seconds / taken["ours"], "unit": "x"})
    with TemporaryDirectory() as folder:
        rows += whole_updates(Path(folder))
    report(rows, path)


if __name__ == "__main__":
    main()
