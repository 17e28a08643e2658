"""The training loop of every policy, in one place.

Exact resume: all randomness is a function of (seed, step). A checkpoint therefore holds only the weights, their
average, the optimiser's moments and the sums of the meter. On a CPU with the same number of threads, a resumed run is
bitwise equal to an uninterrupted one.

Cost: a step makes `batch_size` x `draws` forward and backward passes. Batches are gathered on the device that holds the
data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ..checkpoints.folder import read_manifest
from ..checkpoints.opening import load_policy
from ..checkpoints.runs import ERROR_OF, read_metrics, resolve_checkpoint
from ..configs.normalisation import NormalisationConfig
from ..configs.notation import describe, typed
from ..configs.training import TrainConfig
from ..datasets.augmentation import Augmentation
from ..datasets.demonstrations import Demonstrations
from ..datasets.findings import grouped
from ..datasets.fingerprint import stream_digests, vector_digests
from ..datasets.mirror import Mirrored
from ..datasets.normalisation import Normalisation, Range, fit_ranges, lost_decimals
from ..datasets.windows import Batch, Windows
from ..envs.catalogue import load_task
from ..envs.task import Task
from ..evaluation.evaluate import choice_scores
from ..evaluation.reports.learning import write_training_page
from ..policy.denoising.coupling import optimal
from ..policy.device import device as choose_device
from ..policy.diffusion import DiffusionPolicy
from ..policy.encoders.text import TextEncoder
from ..policy.interface import Lesson, Policy
from ..policy.normalizer import Normalizer
from ..realtime import Interrupted
from ..specification import WORDS, Specification
from .advice import Facts, as_stored, choice_lines, choose, setting
from .ema import EMA
from .gradients import CapturedGradients, Gradients, Update
from .interventions import only_led, who_led
from .measures import Meter, action_error, held_out_bits, is_finite, metrics_writer
from .order import Mix, Order, mix_seeds
from .parameters import parameter_groups
from .recipe import recipe
from .represented import fit_represented, in_units
from .resuming import (
    begun_manifest,
    check_episodes,
    check_specification,
    resumed_split,
    stored_configuration,
    values_beyond,
)
from .run import Run, stop_requests
from .schedule import Stage, learning_rate, stages_of
from .sources import Sources, drawn_from, held_out_of_each, open_sources
from .split import Split, choose_split
from .state import load_initial_weights, restore_training, training_state


class Prepared(NamedTuple):
    """Everything that a training starts from; nothing is written yet."""

    config: TrainConfig
    """With a value for every setting that was chosen from the demonstrations."""
    chosen: dict[str, str]
    """Key of each such setting -> the reason."""
    task: Task | None
    text: TextEncoder | None
    """Embeds the sentences of the episodes, if the policy observes them."""
    demonstrations: Demonstrations
    """All episodes, perhaps followed by their mirror images."""
    windows: Windows
    """Windows of the training episodes."""
    mix: Mix | None
    """How often those of each dataset are drawn; None if all are drawn equally often."""
    validation: Windows
    """Windows of the held-out episodes."""
    validation_of: dict[str, Windows]
    """Name of each of several datasets -> those of its held-out episodes; a dataset without any is left out."""
    augmentation: Augmentation
    policy: Any
    teacher: Policy | None
    device: torch.device
    manifest: dict[str, Any]
    """What a checkpoint says of the policy and its training."""
    begun: dict[str, Any] | None
    """The manifest of the checkpoint that the training resumes from."""
    stages: list[Stage]
    """The last one is that of this command."""
    notes: list[str]
    """What the user should know, a sentence each."""


def train(config: TrainConfig) -> Path:
    """Start, resume or continue the run of `config`; returns the folder of its last checkpoint.

    Raises ValueError or OSError, before anything is written, if the training cannot start. Raises FloatingPointError
    if the loss, a gradient or a weight is not finite; the last good checkpoint is kept. Raises Interrupted after a
    signal that ends it, once it is saved.
    """
    prepared = prepare(config)
    config, policy, device = prepared.config, prepared.policy, prepared.device
    groups = parameter_groups(policy, weight_decay=config.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=(config.betas[0], config.betas[1]), fused=True)
    gradients: Update = Gradients(
        policy,
        clip=config.gradient_clip,
        is_masked=config.mask_padding,
        is_bf16=config.precision == "bf16",
    )
    if config.capture and device.type == "cuda":
        gradients = CapturedGradients(gradients, device)
    num_steps: int = setting(config, "steps")
    ema = EMA(policy, power=config.ema_power, maximum=setting(config, "ema_maximum"))
    order = Order(len(prepared.windows), setting(config, "batch_size"), config.seed, device, mix=prepared.mix)
    generator = torch.Generator(device)
    run = Run(Path(config.out))
    with run.exclusive(), stop_requests() as stop_signal, metrics_writer(run, config.tensorboard) as write:
        if begun_manifest(config) != prepared.begun:
            raise ValueError(f"{run.folder} was trained by another process meanwhile: repeat the command")
        chosen = [(f"{key}={typed(setting(config, key))}", reason) for key, reason in prepared.chosen.items()]
        settings = {key: value for key, value in describe(config).items() if key not in ("out", "imports")}
        start = run.begin(settings | {"chosen": prepared.chosen})
        meter = Meter(device)
        if start:
            restore_training(run.checkpoint(start), policy, ema, optimizer, meter)
        notes = [*prepared.notes, *_resuming_notes(config, prepared)]
        print(*notes, sep="\n", end="\n" if notes else "")
        bar = tqdm(range(start, num_steps), initial=start, total=num_steps, desc="train", unit="step")
        for step in bar:
            began = meter.moment()
            batch = prepared.windows.batch(order.indices(step))
            lesson = draw_lesson(config, prepared, ema.module, batch, step, generator)
            torch.manual_seed(mix_seeds(config.seed, 2, step))  # dropout
            gathered = meter.moment()

            rate = learning_rate(step, config, prepared.stages)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            loss, norm = gradients(lesson, batch.is_padding)
            optimizer.step()
            ema.update(policy, step + 1)
            meter.add(loss, norm, data_s=(began, gathered), update_s=(gathered, meter.moment()))

            done = step + 1
            is_last = done == num_steps
            is_evaluated = config.evaluate_every > 0 and (is_last or done % config.evaluate_every == 0)
            is_logged = is_last or done % config.log_every == 0
            stopped_by = stop_signal()  # read once: a later signal stops the next step, which is then saved
            is_saved = is_last or is_evaluated or stopped_by or done % config.save_every == 0
            if (is_saved or is_logged) and not is_finite(meter, policy):
                raise not_finite(run, config, done)
            if is_logged:
                write(step=done, learning_rate=rate, **meter.drain())
                bar.set_postfix(loss=f"{run.last_loss:.4f}")
            if len(prepared.validation) and (is_last or done % config.validate_every == 0):
                error = action_error(ema.module, prepared.validation, seed=config.seed)
                errors = {
                    f"{ERROR_OF}{name}": action_error(ema.module, windows, seed=config.seed)
                    for name, windows in prepared.validation_of.items()
                }
                bits = held_out_bits(ema.module, prepared.validation, seed=config.seed)
                write(step=done, action_error=error, **errors, **bits)
            if is_evaluated and prepared.task is not None:
                write(
                    step=done,
                    **choice_scores(ema.module, prepared.task, episodes=config.evaluate_episodes, embed=prepared.text),
                )
            if is_evaluated or is_last or stopped_by:
                write_training_page(run.folder / "training.html", run.folder.name, read_metrics(run.folder), chosen)
            if is_saved:
                state = training_state(policy, optimizer, meter)
                run.save(done, weights=ema.module.state_dict(), training=state, manifest=prepared.manifest)
            if stopped_by and not is_last:
                raise Interrupted(
                    stopped_by, f"stopped and saved after step {done} of {num_steps}: repeat the command to resume"
                )
    return run.checkpoint(num_steps)


def draw_lesson(
    config: TrainConfig, prepared: Prepared, average: Policy, batch: Batch, step: int, generator: torch.Generator
) -> Lesson:
    """Augment the images of a batch, draw its noise and couple it; all depend on (seed, step) and the batch alone."""
    generator.manual_seed(mix_seeds(config.seed, 1, step))
    size, policy = (config.draws, len(batch.action)), prepared.policy
    noise = torch.randn(*size, *policy.noise_shape[1:], generator=generator, device=prepared.device)
    if getattr(config.policy, "coupling", None) == "optimal":
        noise = optimal(noise, policy.space.at(batch.observation).encode(batch.action))
    uniform = torch.rand(*size, policy.num_uniforms, generator=generator, device=prepared.device)
    observation = prepared.augmentation(batch.observation, generator)
    progress = torch.full((), step / prepared.stages[-1].steps, device=prepared.device)
    return Lesson(observation, batch.action, noise, uniform, average, prepared.teacher, progress)


def prepare(config: TrainConfig) -> Prepared:
    """Open and check everything that `config` names, and build the policy: untrained, also for a run that goes on."""
    config, chosen = as_stored(config, stored_configuration(config))
    begun = begun_manifest(config)
    device = choose_device(config.device)
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
    bounds = {name: (fitted.low, fitted.high) for name, fitted in ranges.items()}
    normalizer = Normalizer(demonstrations.specification, bounds, action_std=ranges["action"].std)
    torch.manual_seed(config.seed)  # initial weights
    policy: Any = config.policy.build(demonstrations.specification, horizons, normalizer)
    config.policy.encoder.start(policy.encoder)
    learned_ranges = fit_represented(policy, demonstrations, first, methods, ranges)
    teacher, teacher_digest = load_teacher(config, policy, device, begun)
    # Last, because decoding images may take minutes.
    windows = Windows(demonstrations, horizons, device=device, image_cache=config.image_cache)
    streams_sha256 = stream_digests(demonstrations, windows.streams, num_episodes)
    if begun is not None:
        check_episodes(config, begun, streams_sha256, what="images", pieces=sources.pieces)
    training = only_led(config, windows.of(episodes), is_led)
    validation = only_led(config, windows.of(split.held_out), is_led, can_be_empty=True)
    validation_of = {
        name: only_led(config, windows.of(held_out), is_led, can_be_empty=True)
        for name, held_out in held_out_of_each(config, sources, split.held_out).items()
    }
    init_from, changes = _initial_weights(config, policy, begun)
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
            config,
            split,
            init_from=init_from,
            teacher=teacher_digest,
            stages=stages,
            led=led_sha256,
            counts=sources.counts if len(config.datasets) > 1 else (),
        ),
    }
    learned = policy.representation if isinstance(policy, DiffusionPolicy) else None
    specification = learned.learned if learned else demonstrations.specification
    mix, shares = drawn_from(config, sources, training)
    notes = [
        *sources.looks,
        *([f"only=interventions: {len(training)} of {len(windows.of(episodes))} windows"] if led_sha256 else []),
        *shares,
        *changes,
        *(learned.references() if learned else []),
        *_notes(sources, specification, ranges | learned_ranges, split, has_parent=parent is not None),
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
        {name: part for name, part in validation_of.items() if len(part)},
        config.augmentation.build(policy.encoder.crop),
        policy.to(device),
        teacher,
        device,
        manifest,
        begun,
        stages,
        notes,
    )


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
    # Sentences that training does not have may lie beyond the range of those that it has.
    words = {WORDS: NormalisationConfig(kind="identity")} if config.text_encoder else {}
    return {name: normalisation.build() for name, normalisation in (words | config.normalisation).items()}


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


def _notes(
    sources: Sources, learned: Specification, ranges: dict[str, Range], split: Split, *, has_parent: bool
) -> list[str]:
    notes, num_episodes = list[str](), len(sources.demonstrations)
    for stream in learned.streams:
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
        rule = "at least one is" if split.held_out else "a single one is never"
        scope = " of each dataset" if len(sources.pieces) > 1 else ""
        notes.append(
            f"held out: {len(split.held_out)} of {num_episodes} episodes for held_out={share:g}: {rule}{scope}"
        )
    return notes


def _resuming_notes(config: TrainConfig, prepared: Prepared) -> list[str]:
    """What this command changes of the run that it resumes, once its weights are loaded."""
    begun, stages = prepared.begun, prepared.stages
    if begun is None or begun["stages"] == prepared.manifest["stages"]:
        return []
    notes, (before, now) = list[str](), stages[-2:]
    if now.steps != before.steps:
        rise = min(config.warmup, now.steps - now.start)
        first = learning_rate(now.start, config, stages[:-1])
        top = learning_rate(now.start + max(rise - 1, 0), config, stages)
        fall = "" if rise < config.warmup else f", then falls along a cosine to 0 at step {now.steps}"
        notes.append(
            f"steps: {before.steps} were to be done, {now.start} are done, and now {now.steps} are to be: the learning "
            f"rate rises from {first:.3g} to {top:.3g} in {rise} updates{fall}"
        )
    if now.episodes != before.episodes:
        held_out = sum(episode >= before.episodes for episode in prepared.manifest["held_out_episodes"])
        notes.append(f"data: {now.episodes - before.episodes} added episodes, {held_out} of them held out")
        added = range(before.episodes, now.episodes)
        notes += values_beyond(prepared.policy.normalizer, prepared.demonstrations, prepared.windows, added)
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
