"""The training loop of every policy, in one place.

Exact resume: all randomness is a function of (seed, step). A checkpoint therefore holds only the weights, their
average, the optimiser's moments and the sums of the meter. On a CPU with the same number of threads, a resumed run is
bitwise equal to an uninterrupted one.

Cost: a step makes `batch_size` x `draws` forward and backward passes. Batches are gathered on the device that holds the
data. Several processes divide a batch (`training.parts`), and each may compute its share in several passes.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..checkpoints.folder import read_manifest
from ..checkpoints.opening import load_policy
from ..checkpoints.runs import resolve_checkpoint
from ..configs.normalisation import NormalisationConfig
from ..configs.notation import describe
from ..configs.training import TrainConfig
from ..datasets.demonstrations import Demonstrations
from ..datasets.findings import grouped
from ..datasets.fingerprint import kept_stream_digests, stream_digests, vector_digests
from ..datasets.mirror import Mirrored
from ..datasets.normalisation import Normalisation, Range, fit_ranges, lost_decimals
from ..datasets.windows import Windows
from ..envs.catalogue import load_task
from ..envs.task import Task
from ..policy.device import device as choose_device
from ..policy.diffusion import DiffusionPolicy
from ..policy.encoders.text import TextEncoder
from ..policy.interface import Policy
from ..policy.normalizer import Normalizer
from ..progress import Progress
from ..realtime import Interrupted, ReportedElsewhere
from ..specification import ABSENT, WORDS, Horizons
from .advice import Facts, as_stored, choice_lines, choose, setting
from .ema import EMA
from .gradients import compile_loss, recompute_images, update_of
from .interventions import only_led, who_led
from .measures import Meter, is_finite, metrics_writer
from .muon import optimizer_of
from .order import Order, mix_seeds
from .parts import draw_parts
from .prepared import Prepared
from .processes import ALONE, Processes
from .recipe import recipe
from .recorder import Due, Recorder
from .represented import fit_represented, in_units
from .resuming import (
    begun_manifest,
    check_episodes,
    check_specification,
    resumed_split,
    stored_configuration,
)
from .run import Run, stop_requests
from .schedule import learning_rate, stages_of
from .sources import Sources, drawn_from, held_out_of_each, open_sources
from .split import Split, choose_split
from .state import load_initial_weights, restore_training


def train(config: TrainConfig, processes: Processes = ALONE) -> Path:
    """Start, resume or continue the run of `config`; returns the folder of its last checkpoint.

    processes: those that train together. Each calls this with the same configuration.

    Raises ValueError or OSError, before anything is written, if the training cannot start. Raises FloatingPointError
    if the loss, a gradient or a weight is not finite; the last good checkpoint is kept. Raises Interrupted after a
    signal that ends it, once it is saved.
    """
    prepared = processes.together(lambda: prepare(config, processes))
    processes.check_same(_shared(prepared))
    config, policy, device = prepared.config, prepared.policy, prepared.device
    optimizer = optimizer_of(config, policy)
    gradients = update_of(config, policy, device, processes)
    num_steps: int = setting(config, "steps")
    ema = EMA(policy, power=config.ema_power, maximum=setting(config, "ema_maximum"))
    order = Order(len(prepared.windows), setting(config, "batch_size"), config.seed, device, mix=prepared.mix)
    generator = torch.Generator(device)
    run, start = Run(Path(config.out)), 0
    with ExitStack() as stack:
        record = None
        if processes.is_first:
            stack.enter_context(run.exclusive())
            record = Recorder(run, prepared, stack.enter_context(metrics_writer(run, config.tensorboard)), processes)
            start = record.begin()
        stop_signal = stack.enter_context(stop_requests())
        start = processes.agreed(start)
        meter = Meter(device)
        if start:
            restore_training(run.checkpoint(start), policy, ema, optimizer, meter)
        if record is not None:
            record.print_notes()
        if config.compile and start < num_steps:
            [first, *_] = draw_parts(prepared, ema.module, order.indices(start), start, generator, processes)
            compile_loss(gradients, first, processes)
        progress = Progress(num_steps, "train", unit="steps", done=start, is_shown=processes.is_first)
        stack.enter_context(progress)
        for step in range(start, num_steps):
            began = meter.moment()
            parts = draw_parts(prepared, ema.module, order.indices(step), step, generator, processes)
            torch.manual_seed(mix_seeds(config.seed, 2, step, *processes.own_seed))  # dropout
            gathered = meter.moment()

            rate = learning_rate(step, config, prepared.stages)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            loss, norm = gradients(parts)
            optimizer.step()
            ema.update(policy, step + 1)
            meter.add(loss, norm, data_s=(began, gathered), update_s=(gathered, meter.moment()))

            # Read once: a later signal stops the next step, which is then saved.
            due = Due.after(step + 1, config, num_steps, stopped_by=processes.agreed(stop_signal()))
            if (due.is_saved or due.is_logged) and not is_finite(meter, policy):
                raise not_finite(run, config, due.step) if processes.is_first else ReportedElsewhere
            if record is not None:
                record(due, rate, policy, ema.module, optimizer, meter)
            progress.advance(text=None if record is None else record.figures)
            if due.stopped_by and not due.is_last:
                kept = f"stopped and saved after step {due.step} of {num_steps}: repeat the command to resume"
                raise Interrupted(due.stopped_by, kept) if processes.is_first else ReportedElsewhere
    return run.checkpoint(num_steps)


def _shared(prepared: Prepared) -> dict[str, object]:
    """What all processes of a training must have alike, with the remedy -> its value."""
    config, begun = prepared.config, prepared.begun
    return {
        "settings: start each with the same command": {**describe(config), "device": None},
        f"demonstrations: let every machine see the same ones at {config.place}": prepared.manifest["streams_sha256"],
        f"checkpoints: let every machine see the folder {config.out}": begun and begun["weights_sha256"],
    }


def prepare(config: TrainConfig, processes: Processes = ALONE) -> Prepared:
    """Open and check everything that `config` names, and build the policy: untrained, also for a run that goes on."""
    config, chosen = as_stored(config, stored_configuration(config))
    begun = begun_manifest(config)
    device = choose_device(processes.device(config.device))
    task = load_task(config.task) if config.task else None
    text = None if config.text_encoder is None else TextEncoder(config.text_encoder)
    sources = open_sources(config, task, begun, text)
    demonstrations, num_episodes = sources.demonstrations, len(sources.demonstrations)
    parent = read_manifest(resolve_checkpoint(Path(config.init_from))) if begun is None and config.init_from else None
    split = _split(config, sources, begun, parent)
    (is_led, led_sha256), episodes = who_led(config, sources, begun), split.training
    if config.mirror:
        demonstrations = _mirrored(config, demonstrations, task)
        episodes = [*episodes, *(num_episodes + episode for episode in episodes)]
        is_led = None if is_led is None else np.tile(is_led, 2)
    config, choices = choose(config, Facts.of(demonstrations, episodes, is_led), parent)
    horizons, stages = config.horizons.build(), stages_of(begun, steps=setting(config, "steps"), episodes=num_episodes)
    # Added episodes do not change the ranges of a run, which its checkpoint holds.
    first = [episode for episode in episodes if episode % num_episodes < stages[0].episodes]
    methods = _methods(config)
    ranges = fit_ranges(demonstrations, first, in_units(methods, config.policy, demonstrations.specification))
    policy = _new_policy(config, demonstrations, horizons, ranges)
    learned_ranges = fit_represented(policy, demonstrations, first, methods, ranges)
    teacher, teacher_digest = load_teacher(config, policy, device, begun)
    windows = Windows(demonstrations, horizons, device=device, image_cache=config.image_cache)
    training = only_led(config, windows.of(episodes), is_led)
    processes.shares(min(setting(config, "batch_size"), len(training)), config.accumulate)
    # Last, because decoding images may take minutes.
    streams_sha256 = _checked_digests(config, sources, demonstrations, windows, begun)
    validation = only_led(config, windows.of(split.held_out), is_led, can_be_empty=True)
    init_from, changes = _initial_weights(config, policy, begun)
    counts = sources.counts if len(config.datasets) > 1 else ()
    manifest = {
        "specification": demonstrations.specification,
        "horizons": horizons,
        "policy": describe(config.policy),
        "task": config.task,
        **({} if text is None else {"text_encoder": text.noted}),
        "dataset": config.dataset,
        **split.manifest(),
        "streams_sha256": streams_sha256,
        "seed": config.seed,
        "stages": [list(stage) for stage in stages],
        "led_sha256": led_sha256,
        **({"pieces": sources.pieces} if len(config.datasets) > 1 else {}),
        "training": recipe(
            config, split, init_from=init_from, teacher=teacher_digest, stages=stages, led=led_sha256, counts=counts
        ),
    }
    mix, shares = drawn_from(config, sources, training)
    notes = [
        *sources.looks,
        *([f"only=interventions: {len(training)} of {len(windows.of(episodes))} windows"] if led_sha256 else []),
        *shares,
        *changes,
        *_notes(sources, policy, ranges | learned_ranges, split, has_parent=parent is not None),
        *choice_lines(choices),
    ]
    return Prepared(
        config,
        chosen | {key: choice.reason for key, choice in choices.items()},
        task,
        text,
        demonstrations,
        training,
        mix,
        validation,
        _validation_of(config, sources, split, windows, is_led),
        config.augmentation.build(policy.encoder.crop),
        policy.to(device),
        teacher,
        device,
        manifest,
        begun,
        stages,
        notes,
    )


def _new_policy(
    config: TrainConfig, demonstrations: Demonstrations, horizons: Horizons, ranges: dict[str, Range]
) -> Any:
    """The untrained policy, whose encoder has its pretrained weights."""
    torch.manual_seed(config.seed)  # initial weights
    policy: Any = config.policy.build(demonstrations.specification, horizons, _normalizer(demonstrations, ranges))
    config.policy.encoder.start(policy.encoder)
    if config.gradient_checkpointing:
        recompute_images(policy, is_on=True)
    return policy


def _normalizer(demonstrations: Demonstrations, ranges: dict[str, Range]) -> Normalizer:
    """The normalizer that maps these ranges of the streams."""
    bounds = {name: (fitted.low, fitted.high) for name, fitted in ranges.items()}
    return Normalizer(demonstrations.specification, bounds, action_std=ranges["action"].std)


def _checked_digests(
    config: TrainConfig,
    sources: Sources,
    demonstrations: Demonstrations,
    windows: Windows,
    begun: dict[str, Any] | None,
) -> list[str]:
    """A digest of all that is read of each episode. Raises ValueError if the run that goes on has read another."""
    loaded, count = windows.loaded, len(sources.demonstrations)
    if "mapped" in loaded.places.values():
        digests = kept_stream_digests(demonstrations, loaded.streams, count, cache=loaded.cache)
    else:
        digests = stream_digests(demonstrations, loaded.streams, count)
    if begun is not None:
        check_episodes(config, begun, digests, what="images", pieces=sources.pieces)
    return digests


def _validation_of(
    config: TrainConfig, sources: Sources, split: Split, windows: Windows, is_led: NDArray[np.bool_] | None
) -> dict[str, Windows]:
    """Name of each of several datasets -> the windows of its held-out episodes; a dataset without any is left out."""
    parts = {
        name: only_led(config, windows.of(held_out), is_led, can_be_empty=True)
        for name, held_out in held_out_of_each(config, sources, split.held_out).items()
    }
    return {name: part for name, part in parts.items() if len(part)}


def _mirrored(config: TrainConfig, demonstrations: Demonstrations, task: Task | None) -> Mirrored:
    """The demonstrations and their mirror images. Raises ValueError if the task has no mirror."""
    if task is None or task.mirror is None:
        raise ValueError(f"mirror=true needs a task that looks the same in a mirror, got task={config.task}")
    return Mirrored(demonstrations, task.mirror)


def _initial_weights(config: TrainConfig, policy: Any, begun: dict[str, Any] | None) -> tuple[str | None, list[str]]:
    """Load the weights of `init_from` into the policy of a new run; returns their digest, and notes for the user."""
    if begun is not None:
        return begun["training"]["init_from"], []
    if config.init_from is None:
        return None, []
    representation = describe(config.policy).get("representation")
    return load_initial_weights(policy, Path(config.init_from), representation)


def _methods(config: TrainConfig) -> dict[str, Normalisation]:
    """Stream -> how it is normalised, if not by the default."""
    # Sentences that training does not have may lie beyond the range of those that it has, and 1 says "absent".
    kept = [*([WORDS] if config.text_encoder else []), *([ABSENT] if config.missing else [])]
    methods = dict.fromkeys(kept, NormalisationConfig(kind="identity")) | config.normalisation
    return {name: normalisation.build() for name, normalisation in methods.items()}


def _split(
    config: TrainConfig,
    sources: Sources,
    begun: dict[str, Any] | None,
    parent: dict[str, Any] | None,
) -> Split:
    """The split of a new run, or that of the run that goes on. Raises ValueError if its demonstrations changed."""
    digests, counts = vector_digests(sources.demonstrations), sources.counts
    if begun is not None:
        check_specification(config, begun, sources.demonstrations.specification)
        check_episodes(config, begun, digests, what="vectors", pieces=sources.pieces)
        return resumed_split(begun, digests, counts)
    return choose_split(digests, held_out=config.held_out, seed=config.split_seed, parent=parent, counts=counts)


def _notes(sources: Sources, policy: Any, ranges: dict[str, Range], split: Split, *, has_parent: bool) -> list[str]:
    learned = policy.representation if isinstance(policy, DiffusionPolicy) else None
    notes, num_episodes = list(learned.references()) if learned else list[str](), len(sources.demonstrations)
    for stream in (learned.learned if learned else sources.demonstrations.specification).streams:
        if stream.name not in ranges:
            continue
        fitted = ranges[stream.name]
        coarse = lost_decimals(stream, fitted.low, fitted.high)
        notes += [f"still: {label} {reason}" for label, reason in grouped(stream, fitted.still).items()]
        notes += [f"coarse: {label} {reason}" for label, reason in grouped(stream, coarse).items()]
    if has_parent:
        origin = "as by init_from" if split.is_kept else "anew, because init_from was not trained on them"
        notes.append(f"held out: {len(split.held_out)} of {num_episodes} episodes, {origin}")
    elif len(split.held_out) != round(num_episodes * (share := split.origin["held_out"])) and not split.is_kept:
        scope = " of each dataset" if len(sources.pieces) > 1 else ""
        rule = f"at least one episode{scope} is" if split.held_out else "a single episode is never"
        notes.append(
            f"held out: {len(split.held_out)} of {num_episodes} episodes, although held_out={share:g}, because {rule} "
            "held out"
        )
    return notes


def not_finite(run: Run, config: TrainConfig, step: int) -> FloatingPointError:
    """The error of a training whose loss, gradient or weights are not finite; it names the last good checkpoint."""
    saved = f"the last good checkpoint is {run.checkpoint(run.steps[-1])}" if run.steps else "nothing was saved"
    return FloatingPointError(
        f"the loss, a gradient or a weight was not finite at step {step}: lower learning_rate="
        f"{config.learning_rate:g}, or look at {config.place} with `recede inspect`; {saved}"
    )


def load_teacher(
    config: TrainConfig, policy: Policy, device: torch.device, begun: dict[str, Any] | None = None
) -> tuple[Policy | None, str | None]:
    """The teacher of a distillation objective and the digest of its weights; None, None if `teacher` is not set.

    begun: the manifest of the run that goes on.

    Raises ValueError if the objective needs a teacher and none is set, if it has no use for one, if the teacher has
    another specification or cannot teach this objective, or if it has other weights than the teacher that the run
    began with.
    """
    if policy.has_teacher != (config.teacher is not None):
        rule = "needs a teacher: give teacher=RUN" if policy.has_teacher else "has no use for a teacher: leave it out"
        raise ValueError(f"the objective {rule}, got teacher={config.teacher}")
    if config.teacher is None:
        return None, None
    teacher, manifest = load_policy(config.teacher, device=device)
    if differences := manifest["specification"].differences(policy.specification):
        raise ValueError(
            f"teacher={config.teacher} must have the specification of the demonstrations: {'; '.join(differences)}"
        )
    if isinstance(policy, DiffusionPolicy):
        policy.objective.check_teacher(policy, teacher)
    digest = manifest["weights_sha256"][:12]
    if begun is not None and digest != (before := begun["training"]["teacher"]):
        raise ValueError(
            f"teacher={config.teacher} must have the weights that taught the run {config.out} so far, {before}, got "
            f"{digest}: name that checkpoint, or start a new run with init_from={config.out} out=NEW"
        )
    return teacher, digest
