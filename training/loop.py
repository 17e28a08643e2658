"""The training loop of every policy, in one place.

Exact resume: all randomness is a function of (seed, step). A checkpoint therefore holds only the weights, their
average, the optimiser's moments and the sums of the meter. On a CPU with the same number of threads, a resumed run is
bitwise equal to an uninterrupted one.

Cost: a step makes `batch_size` x `draws` forward and backward passes. Batches are gathered on the device that holds the
data. Several processes divide a batch (`training.processes`), and each may compute its share in several passes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
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
from ..datasets.normalisation import Range, fit_ranges, lost_decimals
from ..datasets.windows import Windows
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
from ..realtime import Interrupted, ReportedElsewhere
from ..specification import WORDS
from .advice import Facts, as_stored, choice_lines, choose, setting
from .ema import EMA
from .gradients import CapturedGradients, Gradients, Part, Update
from .interventions import only_led, who_led
from .measures import Meter, action_error, held_out_bits, is_finite, metrics_writer, peak_memory
from .order import Mix, Order, mix_seeds
from .parameters import parameter_groups
from .processes import ALONE, Processes
from .recipe import recipe
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


def train(config: TrainConfig, processes: Processes = ALONE) -> Path:
    """Start, resume or continue the run of `config`; returns the folder of its last checkpoint.

    processes: those that train together. Each calls this with the same configuration.

    Raises ValueError or OSError, before anything is written, if the training cannot start. Raises FloatingPointError
    if the loss, a gradient or a weight is not finite; the last good checkpoint is kept. Raises Interrupted after a
    signal that ends it, once it is saved.
    """
    prepared = processes.together(lambda: prepare(config, processes))
    config, policy, device = prepared.config, prepared.policy, prepared.device
    groups = parameter_groups(policy, weight_decay=config.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=(config.betas[0], config.betas[1]), fused=True)
    gradients: Update = Gradients(
        policy,
        clip=config.gradient_clip,
        is_masked=config.mask_padding,
        is_bf16=config.precision == "bf16",
        processes=processes,
    )
    if config.capture and device.type == "cuda" and processes.count * config.accumulate == 1:
        gradients = CapturedGradients(gradients, device)
    num_steps: int = setting(config, "steps")
    ema = EMA(policy, power=config.ema_power, maximum=setting(config, "ema_maximum"))
    order = Order(len(prepared.windows), setting(config, "batch_size"), config.seed, device, mix=prepared.mix)
    generator = torch.Generator(device)
    run, start = Run(Path(config.out)), 0
    with ExitStack() as stack:
        record = None
        if processes.is_first:
            stack.enter_context(run.exclusive())
            record = Recorder(run, prepared, stack.enter_context(metrics_writer(run, config.tensorboard)))
            start = record.begin()
        stop_signal = stack.enter_context(stop_requests())
        start = processes.agreed(start)
        meter = Meter(device)
        if start:
            restore_training(run.checkpoint(start), policy, ema, optimizer, meter)
        if record is not None:
            record.print_notes()
        steps = range(start, num_steps)
        bar = tqdm(steps, initial=start, total=num_steps, desc="train", unit="step", disable=not processes.is_first)
        for step in bar:
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
            if due.is_logged:
                bar.set_postfix(loss=f"{run.last_loss:.4f}")
            if due.stopped_by and not due.is_last:
                kept = f"stopped and saved after step {due.step} of {num_steps}: repeat the command to resume"
                raise Interrupted(due.stopped_by, kept) if processes.is_first else ReportedElsewhere
    return run.checkpoint(num_steps)


class Due(NamedTuple):
    """What is to be done after a step."""

    step: int
    """Number of updates so far."""
    is_last: bool
    is_logged: bool
    is_validated: bool
    is_evaluated: bool
    is_saved: bool
    stopped_by: int
    """The signal that ends the training now, or 0."""

    @classmethod
    def after(cls, step: int, config: TrainConfig, num_steps: int, *, stopped_by: int) -> Due:
        """What a configuration asks for after so many updates."""

        def is_due(every: int) -> bool:
            return every > 0 and (step == num_steps or step % every == 0)

        is_evaluated = is_due(config.evaluate_every)
        return cls(
            step,
            step == num_steps,
            is_due(config.log_every),
            is_due(config.validate_every),
            is_evaluated,
            bool(is_due(config.save_every) or is_evaluated or stopped_by),
            stopped_by,
        )


class Recorder:
    """Writes metrics, page and checkpoints of a training, and measures its policy. Only the first process has one."""

    def __init__(self, run: Run, prepared: Prepared, write: Callable[..., None]) -> None:
        self.run, self.prepared, self.write = run, prepared, write
        config = prepared.config
        self._logged = 0
        self.chosen = [(f"{key}={typed(setting(config, key))}", reason) for key, reason in prepared.chosen.items()]

    def begin(self) -> int:
        """Start or resume the run; returns the updates that are done. Raises ValueError if it was trained meanwhile."""
        config, prepared = self.prepared.config, self.prepared
        if begun_manifest(config) != prepared.begun:
            raise ValueError(f"{self.run.folder} was trained by another process meanwhile: repeat the command")
        settings = {key: value for key, value in describe(config).items() if key not in ("out", "imports")}
        self._logged = self.run.begin(settings | {"chosen": prepared.chosen})
        return self._logged

    def print_notes(self) -> None:
        """Print what the user should know, once the weights are loaded."""
        notes = [*self.prepared.notes, *_resuming_notes(self.prepared.config, self.prepared)]
        print(*notes, sep="\n", end="\n" if notes else "")

    def __call__(
        self, due: Due, rate: float, policy: Any, average: Any, optimizer: torch.optim.Optimizer, meter: Meter
    ) -> None:
        """Do what is due. rate: the learning rate of the last update."""
        prepared, run = self.prepared, self.run
        if due.is_logged:
            means, count = meter.drain(), due.step - self._logged
            windows = count * min(setting(prepared.config, "batch_size"), len(prepared.windows))
            speed = {"windows_per_s": windows / (means["data_s"] + means["update_s"])}
            self.write(step=due.step, learning_rate=rate, **means, **speed, memory_gib=peak_memory(prepared.device))
            self._logged = due.step
        if len(prepared.validation) and due.is_validated:
            self._validate(due.step, average)
        if due.is_evaluated and prepared.task is not None:
            episodes, embed = prepared.config.evaluate_episodes, prepared.text
            self.write(step=due.step, **choice_scores(average, prepared.task, episodes=episodes, embed=embed))
        if due.is_evaluated or due.is_last or due.stopped_by:
            page = run.folder / "training.html"
            write_training_page(page, run.folder.name, read_metrics(run.folder), self.chosen)
        if due.is_saved:
            state = training_state(policy, optimizer, meter)
            run.save(due.step, weights=average.state_dict(), training=state, manifest=prepared.manifest)

    def _validate(self, step: int, average: Any) -> None:
        """Measure the averaged policy on held-out episodes."""
        prepared, seed = self.prepared, self.prepared.config.seed
        error = action_error(average, prepared.validation, seed=seed)
        errors = {
            f"{ERROR_OF}{name}": action_error(average, windows, seed=seed)
            for name, windows in prepared.validation_of.items()
        }
        self.write(step=step, action_error=error, **errors, **held_out_bits(average, prepared.validation, seed=seed))


def draw_parts(
    prepared: Prepared,
    average: Policy,
    indices: Tensor,
    step: int,
    generator: torch.Generator,
    processes: Processes = ALONE,
) -> list[Part]:
    """The parts of a batch that this process computes. indices: of the windows of the whole batch (B,).

    Noise, coupling and augmentation are those of the whole batch, and depend on (seed, step) and its windows alone.

    Raises ValueError if the batch cannot be divided evenly.
    """
    config, policy, windows, device = prepared.config, prepared.policy, prepared.windows, prepared.device
    generator.manual_seed(mix_seeds(config.seed, 1, step))
    size = (config.draws, len(indices))
    noise = torch.randn(*size, *policy.noise_shape[1:], generator=generator, device=device)
    if getattr(config.policy, "coupling", None) == "optimal":
        noise = optimal(noise, policy.space.encode(windows.actions(indices)))
    uniform = torch.rand(*size, policy.num_uniforms, generator=generator, device=device)
    progress, state = torch.full((), step / prepared.stages[-1].steps, device=device), generator.get_state()
    counted, parts = ~windows.is_padding(indices), list[Part]()
    for rows in processes.shares(len(indices), config.accumulate):
        batch = windows.batch(indices[rows])
        generator.set_state(state)
        observation = prepared.augmentation(batch.observation, generator, rows=rows, size=len(indices))
        lesson = Lesson(
            observation, batch.action, noise[:, rows], uniform[:, rows], average, prepared.teacher, progress
        )
        share = counted[rows].sum() / counted.sum() if config.mask_padding else len(batch.action) / len(indices)
        parts.append(Part(lesson, batch.is_padding, share))
    return parts


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
    ranges, normalizer = _fitted(config, demonstrations, first)
    torch.manual_seed(config.seed)  # initial weights
    policy: Any = config.policy.build(demonstrations.specification, horizons, normalizer)
    config.policy.encoder.start(policy.encoder)
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
    init_from = _initial_weights(config, policy, begun)
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
    mix, shares = drawn_from(config, sources, training)
    processes.shares(min(setting(config, "batch_size"), len(training)), config.accumulate)
    notes = [
        *sources.looks,
        *([f"only=interventions: {len(training)} of {len(windows.of(episodes))} windows"] if led_sha256 else []),
        *shares,
        *_notes(sources, ranges, split, has_parent=parent is not None),
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


def _initial_weights(config: TrainConfig, policy: Any, begun: dict[str, Any] | None) -> str | None:
    """Load the weights of `init_from` into the policy of a new run; returns what the run notes of them."""
    if begun is not None:
        return begun["training"]["init_from"]
    return None if config.init_from is None else load_initial_weights(policy, Path(config.init_from))


def _fitted(
    config: TrainConfig, demonstrations: Demonstrations, episodes: list[int]
) -> tuple[dict[str, Range], Normalizer]:
    """The ranges of the streams in some episodes, and the normalizer that has them."""
    # Sentences that training does not have may lie beyond the range of those that it has.
    words = {WORDS: NormalisationConfig(kind="identity")} if config.text_encoder else {}
    methods = {name: normalisation.build() for name, normalisation in (words | config.normalisation).items()}
    ranges = fit_ranges(demonstrations, episodes, methods)
    bounds = {name: (fitted.low, fitted.high) for name, fitted in ranges.items()}
    return ranges, Normalizer(demonstrations.specification, bounds, action_std=ranges["action"].std)


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


def _notes(sources: Sources, ranges: dict[str, Range], split: Split, *, has_parent: bool) -> list[str]:
    notes, demonstrations, num_episodes = list[str](), sources.demonstrations, len(sources.demonstrations)
    for name, fitted in ranges.items():
        stream = demonstrations.stream(name)
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
