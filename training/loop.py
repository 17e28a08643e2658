"""The training loop: in order, in one place, for every policy.

Exact resume: everything random is a function of (seed, step), so that the weights, their average, the optimiser's
moments and the sums of the meter are all there is to save. On a CPU with the same number of threads a resumed run is
bitwise the uninterrupted one.

Cost: a step costs `batch_size` x `draws` forward and backward passes; data are gathered on the device that holds them.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ..checkpoints.folder import read_manifest
from ..checkpoints.opening import load_policy
from ..checkpoints.runs import resolve_checkpoint
from ..configs.notation import describe
from ..configs.training import TrainConfig
from ..datasets.augmentation import Augmentation
from ..datasets.demonstrations import check_finite
from ..datasets.mirror import Mirrored
from ..datasets.normalisation import fit
from ..datasets.opening import open_demonstrations
from ..datasets.windows import Windows
from ..envs.catalogue import load_task
from ..envs.task import Task
from ..evaluation.evaluate import CHOICE_SEED, evaluate
from ..policy.device import device as choose_device
from ..policy.interface import Lesson, Policy
from ..policy.normalizer import Normalizer
from .ema import EMA
from .measures import Meter, action_error, is_finite, metrics_writer
from .parameters import parameter_groups
from .recipe import recipe
from .run import Run, stop_requests
from .split import choose
from .state import restore, start_from, training_state


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, and has saved its state."""


class Prepared(NamedTuple):
    """What a training starts from; nothing is written yet. notes: what its user should know, a sentence each."""

    task: Task | None
    windows: Windows
    validation: Windows
    augmentation: Augmentation
    policy: Any
    teacher: Policy | None
    device: torch.device
    manifest: dict[str, Any]
    notes: list[str]


def train(config: TrainConfig) -> Path:
    """Train, or go on with, the run of `config`; returns the folder of its last checkpoint.

    Raises ValueError or OSError for what cannot be trained, before anything is written; FloatingPointError once the
    loss, a gradient or a weight is not finite, keeping the last good checkpoint; Interrupted after SIGINT or SIGTERM.
    """
    task, windows, validation, augmentation, policy, teacher, device, manifest, notes = prepare(config)
    groups = parameter_groups(policy, weight_decay=config.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=(config.betas[0], config.betas[1]), fused=True)
    ema = EMA(policy, power=config.ema_power, maximum=config.ema_maximum)
    order, generator = Order(len(windows), config.batch_size, config.seed), torch.Generator(device)
    run = Run(Path(config.out))
    with run.exclusive(), stop_requests() as is_stopping, metrics_writer(run, config.tensorboard) as write:
        start = run.begin({key: value for key, value in describe(config).items() if key not in ("out", "imports")})
        meter = Meter(device)
        if start:
            restore(run.checkpoint(start), policy, ema, optimizer, meter)
        print(*notes, sep="\n", end="\n" if notes else "")
        bar = tqdm(range(start, config.steps), initial=start, total=config.steps, desc="train", unit="step")
        for step in bar:
            began = time.perf_counter()
            batch = windows.batch(order.indices(step))
            generator.manual_seed(mix(config.seed, 1, step))
            size = (config.draws, len(batch.action))
            noise = torch.randn(*size, *policy.noise_shape[1:], generator=generator, device=device)
            uniform = torch.rand(*size, policy.num_uniforms, generator=generator, device=device)
            observation, progress = augmentation(batch.observation, generator), step / config.steps
            lesson = Lesson(observation, batch.action, noise, uniform, ema.module, teacher, progress)
            torch.manual_seed(mix(config.seed, 2, step))  # of dropout
            gathered = time.perf_counter()

            rate = learning_rate(step, config)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                error = policy.loss(lesson)  # (K, B, L)
            loss = error[:, ~batch.is_padding].mean() if config.mask_padding else error.mean()
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.gradient_clip)
            optimizer.step()
            ema.update(policy, step + 1)
            meter.add(loss.detach(), norm, data_s=gathered - began, update_s=time.perf_counter() - gathered)

            done = step + 1
            is_last = done == config.steps
            is_evaluated = config.evaluate_every > 0 and (is_last or done % config.evaluate_every == 0)
            is_logged = is_last or done % config.log_every == 0
            is_stopped = is_stopping()  # asked once: what comes later stops the next step, which is then saved
            is_saved = is_last or is_evaluated or is_stopped or done % config.save_every == 0
            if (is_saved or is_logged) and not is_finite(meter, policy):
                raise not_finite(run, config, done)
            if is_logged:
                write(step=done, learning_rate=rate, **meter.drain())
                bar.set_postfix(loss=f"{run.last_loss:.4f}")
            if len(validation) and (is_last or done % config.validate_every == 0):
                write(step=done, action_error=action_error(ema.module, validation, seed=config.seed))
            if is_evaluated and task is not None:
                found = evaluate(ema.module, task, episodes=config.evaluate_episodes, first_seed=CHOICE_SEED)
                write(
                    step=done,
                    mean_score=found.mean_score,
                    success_rate=found.success_rate,
                    episodes=config.evaluate_episodes,
                )
            if is_saved:
                state = training_state(policy, optimizer, meter)
                run.save(done, weights=ema.module.state_dict(), training=state, manifest=manifest)
            if is_stopped and not is_last:
                raise Interrupted(f"stopped and saved after step {done} of {config.steps}: the same command goes on")
    return run.checkpoint(config.steps)


def prepare(config: TrainConfig) -> Prepared:
    """Open and check everything that `config` names, and build the untrained policy."""
    horizons, device = config.horizons.build(), choose_device(config.device)
    task = load_task(config.task) if config.task else None
    demonstrations = open_demonstrations(config.dataset, task)
    specification = demonstrations.specification
    if not len(demonstrations):
        raise ValueError(f"{config.dataset} must hold demonstrations to train on, got a store without episodes")
    for stream in specification.streams:
        if np.dtype(stream.dtype).kind == "f":  # foreign writers check nothing
            check_finite(demonstrations.read(stream.name), stream, config.dataset)
    num_episodes, before = len(demonstrations), None
    if config.init_from is not None:
        before = read_manifest(resolve_checkpoint(Path(config.init_from)))
    split = choose(demonstrations, held_out=config.held_out, seed=config.split_seed, before=before)
    episodes = split.training
    if config.mirror:
        if task is None or task.mirror is None:
            raise ValueError(f"mirror=true needs a task that stays the same in a mirror, got task={config.task}")
        demonstrations = Mirrored(demonstrations, task.mirror)
        episodes = [*episodes, *(num_episodes + episode for episode in episodes)]
    ranges = fit(demonstrations, episodes, {name: each.build() for name, each in config.normalisation.items()})
    normalizer = Normalizer(
        specification,
        {name: (found.low, found.high) for name, found in ranges.items()},
        action_std=ranges["action"].std,
    )
    torch.manual_seed(config.seed)  # of the initial weights
    policy: Any = config.policy.build(specification, horizons, normalizer)
    config.policy.encoder.start(policy.encoder)
    teacher, taught_by = load_teacher(config, policy, device)
    windows = Windows(demonstrations, horizons, device=device, frames=config.frames)  # last: it may decode for minutes
    if not len(windows.of(episodes)):
        raise ValueError(f"{config.dataset}: no episode has the {horizons.action} steps of the action horizon")
    init_from = start_from(policy, Path(config.init_from)) if config.init_from is not None else None
    manifest = {
        "specification": specification,
        "horizons": horizons,
        "policy": describe(config.policy),
        "task": config.task,
        "dataset": config.dataset,
        **split.manifest(),
        "seed": config.seed,
        "training": recipe(config, split, init_from=init_from, teacher=taught_by),
    }
    notes = [f"still: {name} {what}" for found in ranges.values() for name, what in found.still.items()]
    if before is not None:
        how = "as by init_from" if split.is_kept else "anew, because init_from was not trained on them"
        notes.append(f"held out: {len(split.held_out)} of {num_episodes} episodes, {how}")
    augmentation = config.augmentation.build(policy.encoder.crop)
    policy = policy.to(device)
    validation = windows.of(split.held_out)
    return Prepared(task, windows.of(episodes), validation, augmentation, policy, teacher, device, manifest, notes)


def not_finite(run: Run, config: TrainConfig, step: int) -> FloatingPointError:
    """What to raise once something is not finite, with the last good checkpoint."""
    saved = f"the last good checkpoint is {run.checkpoint(run.steps[-1])}" if run.steps else "nothing was saved"
    return FloatingPointError(
        f"the loss, a gradient or a weight was not finite at step {step}: lower learning_rate="
        f"{config.learning_rate:g}, or look at {config.dataset} with `recede inspect`; {saved}"
    )


def load_teacher(config: TrainConfig, policy: Policy, device: torch.device) -> tuple[Policy | None, str | None]:
    """The policy that the objective learns from, if it needs one, and the digest of its weights.

    Raises ValueError if a teacher is missing, given in vain, or of another specification.
    """
    if policy.has_teacher != (config.teacher is not None):
        needed = "needs a teacher: give teacher=RUN" if policy.has_teacher else "has no use for a teacher: leave it out"
        raise ValueError(f"the objective {needed}, got teacher={config.teacher}")
    if config.teacher is None:
        return None, None
    teacher, manifest = load_policy(config.teacher, device=device)
    if differences := manifest["specification"].differences(policy.specification):
        raise ValueError(f"teacher={config.teacher} must be of these demonstrations: {'; '.join(differences)}")
    return teacher, manifest["weights_sha256"][:12]


def learning_rate(step: int, config: TrainConfig) -> float:
    """A linear rise over `warmup` steps, then half a cosine down to 0 at the last step."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def mix(*numbers: int) -> int:
    """A well-spread seed from several numbers, of 63 bits.

    A generator of torch on a CPU uses only its lower 32 bits. Of n seeds, two are therefore one with a probability of
    about n^2 / 2^33, which is 0.4 % for the two seeds of each of 3,000 steps.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Order:
    """Which windows each step trains on: a fresh permutation an epoch, a function of (seed, step) alone.

    The windows that do not fill the last batch of an epoch are left to later epochs.
    """

    def __init__(self, num_windows: int, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = min(batch_size, num_windows), seed
        self.num_windows, self.num_batches = num_windows, num_windows // self.batch_size
        self._epoch, self._permutation = -1, torch.empty(0)

    def indices(self, step: int) -> torch.Tensor:
        """The windows of one batch."""
        epoch, batch = divmod(step, self.num_batches)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, 0, epoch))
            self._epoch, self._permutation = epoch, torch.randperm(self.num_windows, generator=generator)
        return self._permutation[batch * self.batch_size : (batch + 1) * self.batch_size]
