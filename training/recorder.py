"""What one process of a training writes and measures: metrics, the page, checkpoints, errors and success rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..checkpoints.runs import ERROR_OF, read_metrics
from ..configs.notation import describe, typed
from ..configs.training import TrainConfig
from ..evaluation.evaluate import choice_scores
from ..evaluation.reports.learning import write_training_page
from .advice import setting
from .flops import peak
from .measures import Meter, action_error, held_out_bits, peak_memory
from .parts import window_flops
from .prepared import Prepared
from .processes import ALONE, Processes
from .resuming import begun_manifest, values_beyond
from .run import Run
from .schedule import learning_rate
from .state import training_state


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
    """Writes metrics, page and checkpoints of a training, and measures its policy. Only the first process has one.

    processes: those that train together, whose speed it notes.
    """

    def __init__(self, run: Run, prepared: Prepared, write: Callable[..., None], processes: Processes = ALONE) -> None:
        self.run, self.prepared, self.write, self.processes = run, prepared, write, processes
        config = prepared.config
        self._logged, self.figures = 0, ""
        self._window_flops: float | None = None
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
            self._log(due.step, rate, meter.drain(), average)
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

    def _log(self, step: int, rate: float, means: dict[str, float], average: Any) -> None:
        """Write the means since the last line, and how fast that was. rate: the learning rate of the last update."""
        config, device, seconds = self.prepared.config, self.prepared.device, means["data_s"] + means["update_s"]
        speed = (step - self._logged) * min(setting(config, "batch_size"), len(self.prepared.windows)) / seconds
        if self._window_flops is None:
            self._window_flops = window_flops(self.prepared, average)
        tflops, highest = 1e-12 * speed * self._window_flops, peak(device, setting(config, "precision"))
        self.write(
            step=step,
            learning_rate=rate,
            **means,
            data_share=means["data_s"] / seconds,
            windows_per_s=speed,
            tflops=tflops,
            **({} if highest is None else {"peak_share": tflops / (highest * self.processes.count)}),
            memory_gib=peak_memory(device),
        )
        self._logged, self.figures = step, f"loss {means['loss']:.4f}, {speed:.0f} windows/s"

    def _validate(self, step: int, average: Any) -> None:
        """Measure the averaged policy on held-out episodes."""
        prepared, seed = self.prepared, self.prepared.config.seed
        error = action_error(average, prepared.validation, seed=seed)
        errors = {
            f"{ERROR_OF}{name}": action_error(average, windows, seed=seed)
            for name, windows in prepared.validation_of.items()
        }
        self.write(step=step, action_error=error, **errors, **held_out_bits(average, prepared.validation, seed=seed))


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
