"""A check of your own policy: `check_policy` tries every promise of `recede.policy.interface.Policy`.

It computes losses, gradients and chunks of random observations, and changes nothing on disk.

Shapes: B windows, K noise draws, U uniform numbers; To, Tp observation and prediction horizon; L rows of size Dz of
what is denoised; Da size of the action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ..specification import Horizons, Specification, Stream
from .denoising.guidance import Guidance, Prefix
from .interface import Lesson, Policy

BATCH, DRAWS = 4, 3
"""B and K of the inputs."""

ROUNDING = 2e-3
"""Differences up to this share of the range of the predicted actions are rounding, which denoising steps multiply."""

MEMBERS = ("specification", "horizons", "noise_shape", "num_uniforms", "has_teacher", "loss", "predict")


def check_policy(make: Callable[[], Policy], *, seed: int = 0) -> str:
    """Check every promise of `recede.policy.interface.Policy`; returns what was observed, in lines to print.

    make: makes an untrained policy, as the `build` of a configuration does. It is called twice; the two policies may
    differ in their weights alone. To check a policy that you have, pass `lambda: policy`: it is copied, not changed.

    Its weights are moved at random first, because networks that begin with zeros would hide what depends on what.
    Observations are drawn within the limits of their streams, or from [-1, 1]. If the machine has an accelerator,
    the policy is also tried there.

    Raises ValueError for the first promise that is broken, with the value and the remedy. What the policy itself raises
    is passed on.
    """
    policy: Any = deepcopy(make())
    _check_members(policy)
    policy.cpu()
    _move_weights(policy, seed)
    check = _Check(policy, seed)
    check.loss()
    check.gradient()
    check.prediction()
    check.randomness()
    check.rows()
    check.observations()
    check.prefix()
    check.warm_start()
    check.weights(make)
    check.dtype()
    check.device()
    return "\n".join(f"{name:<14}{text}" for name, text in check.lines.items())


@dataclass
class _Check:
    """A policy and what was observed of it; each method checks promises about one thing."""

    policy: Any
    seed: int
    lines: dict[str, str] = field(default_factory=lambda: dict[str, str]())

    def __post_init__(self) -> None:
        self.policy.eval()
        specification: Specification = self.policy.specification
        self.horizons: Horizons = self.policy.horizons
        self.generator = torch.Generator().manual_seed(self.seed)
        self.observation, self.other = self.draw_observation(), self.draw_observation()
        self.noise, self.other_noise = self.draw_noise(), self.draw_noise()
        streams = ", ".join(f"{stream.name} {stream.shape}" for stream in specification.observations)
        self.lines["policy"] = f"{streams} -> action {specification.action.shape}"

    def draw_observation(self) -> dict[str, Tensor]:
        """Random streams (B, To, ...) in units."""
        streams = self.policy.specification.observations
        return {stream.name: _values(stream, self.horizons.observation, self.generator) for stream in streams}

    def draw_noise(self) -> Tensor:
        """(draws, B, L, Dz)."""
        draws, *rows = self.policy.noise_shape
        return torch.randn(draws, BATCH, *rows, generator=self.generator)

    def lesson(self, *, more: int = 0) -> Lesson:
        """What one update learns from. more: uniform numbers beyond those that the policy asks for."""
        generator = torch.Generator().manual_seed(self.seed)
        action = _values(self.policy.specification.action, self.horizons.prediction, generator).float()
        noise = torch.randn(DRAWS, BATCH, *self.policy.noise_shape[1:], generator=generator)
        uniform = torch.rand(DRAWS, BATCH, self.policy.num_uniforms + more, generator=generator)
        copy = deepcopy(self.policy).requires_grad_(False)
        return Lesson(self.observation, action, noise, uniform, copy, copy if self.policy.has_teacher else None)

    def predict(self, guidance: Sequence[Guidance] = ()) -> Tensor:
        """The chunks (B, Tp, Da) of the one observation and noise."""
        return self.policy.predict(self.observation, self.noise, guidance)

    def loss(self) -> None:
        """Shape, range, draws and rows of the loss, and what it needs."""
        lesson = self.lesson()
        loss, shape = self._loss(lesson), (DRAWS, BATCH, self.policy.noise_shape[1])
        _require(
            tuple(loss.shape) == shape,
            f"the loss must have shape (K, B, L) = {shape}, got {tuple(loss.shape)}: do not reduce it over steps, "
            "rows or draws",
        )
        _require(loss.isfinite().all(), f"the loss must be finite, got {loss.detach().flatten()[:4].tolist()} ...")
        _require(
            torch.equal(self.policy.loss(lesson), loss),
            "the loss must be the same for the same lesson in evaluation mode: draw nothing, take lesson.noise and "
            "lesson.uniform",
        )
        for draw in range(DRAWS):
            one = replace(lesson, noise=lesson.noise[draw : draw + 1], uniform=lesson.uniform[draw : draw + 1])
            self._check_part(self.policy.loss(one)[0], loss[draw], "draw")
        row = {name: values[1:2] for name, values in lesson.observation.items()}
        one = replace(lesson, observation=row, action=lesson.action[1:2])
        one = replace(one, noise=lesson.noise[:, 1:2], uniform=lesson.uniform[:, 1:2])
        self._check_part(self.policy.loss(one)[:, 0], loss[:, 1], "row")
        self.lines["loss"] = f"(K, B, L) = {shape}, {loss.mean().item():.3g} on average before training"

    def _loss(self, lesson: Lesson) -> Tensor:
        """The loss. Raises ValueError if it needs more than the policy says, or less."""
        try:
            loss = self.policy.loss(lesson)
        except Exception as error:
            if self._has_loss(self.lesson(more=8)):
                raise ValueError(
                    f"num_uniforms must count the uniform numbers that the loss takes, got {self.policy.num_uniforms}, "
                    f"but the loss takes more ({error}): state the number in num_uniforms"
                ) from error
            if self._has_loss(replace(lesson, teacher=lesson.average)):
                raise ValueError(
                    f"has_teacher must be True if the loss needs a teacher, got {self.policy.has_teacher}: return True"
                ) from error
            raise
        if self.policy.has_teacher and self._has_loss(replace(lesson, teacher=None)):
            raise ValueError("has_teacher must be False if the loss needs no teacher, got True: return False")
        return loss

    def _has_loss(self, lesson: Lesson) -> bool:
        try:
            self.policy.loss(lesson)
        except Exception:  # whatever it is, the loss does not work with this lesson
            return False
        return True

    def _check_part(self, alone: Tensor, together: Tensor, part: str) -> None:
        scale = together.abs().max().clamp(min=1e-6)
        _require(
            alone.shape == together.shape and ((alone - together).abs() <= ROUNDING * scale).all(),
            f"the loss of one {part} must not depend on the others, got {_few(alone)} alone and {_few(together)} in a "
            "batch: let nothing reach across the batch, as batch norms do",
        )

    def gradient(self) -> None:
        """In training mode, the loss has a finite gradient in every parameter that learns."""
        learner = deepcopy(self.policy).train()
        loss = learner.loss(self.lesson())
        _require(loss.requires_grad, "the loss must be differentiable, but is detached from every parameter")
        loss.mean().backward()
        learning = {name: parameter for name, parameter in learner.named_parameters() if parameter.requires_grad}
        without = [name for name, parameter in learning.items() if parameter.grad is None]
        _require(
            not without,
            f"the loss must depend on every parameter, but not on {without[:3]}: use them, or freeze them by "
            "requires_grad_(False)",
        )
        infinite = [name for name, parameter in learning.items() if not _is_finite(parameter.grad)]
        _require(not infinite, f"the gradient of the loss must be finite, but is not in {infinite[:3]}")
        _require(any(parameter.grad.any() for parameter in learning.values()), "the gradient of the loss is 0")
        count = sum(parameter.numel() for parameter in learning.values())
        self.lines["gradient"] = f"finite in {count} numbers of {len(learning)} parameters"

    def prediction(self) -> None:
        """Shape, dtype and range of a prediction."""
        chunk: Any = self.predict()
        shape = BATCH, self.horizons.prediction, self.policy.specification.action.size
        _require(
            isinstance(chunk, Tensor) and tuple(chunk.shape) == shape,
            f"predict must return (B, Tp, Da) = {shape}, got {tuple(getattr(chunk, 'shape', ()))}",
        )
        _require(chunk.isfinite().all(), f"a prediction must be finite, got {_few(chunk)}")
        _require(
            not chunk.requires_grad, "a prediction must not need a gradient: decorate predict with torch.no_grad()"
        )
        self.chunk, self.other_chunk = chunk, self.policy.predict(self.other, self.other_noise)
        both = torch.cat([self.chunk, self.other_chunk])
        self.range = (both.amax(dim=(0, 1)) - both.amin(dim=(0, 1))).clamp(min=1e-6 * both.abs().max().item() + 1e-12)
        self.lines["prediction"] = f"from {both.min().item():.3g} to {both.max().item():.3g} before training"

    def randomness(self) -> None:
        """All randomness of a prediction is its noise."""
        before = torch.get_rng_state()
        again = self.predict()
        _require(
            torch.equal(again, self.chunk),
            f"the same observation and noise must give the same chunk to the last bit, but it differs by "
            f"{(again - self.chunk).abs().max():.2g}: draw nothing, take the noise",
        )
        _require(
            torch.equal(torch.get_rng_state(), before),
            "a prediction must leave torch's random numbers alone: draw nothing, take the noise",
        )
        draws = self.policy.noise_shape[0]
        _require(
            not draws or not torch.equal(self.policy.predict(self.observation, self.other_noise), self.chunk),
            f"a prediction must depend on its noise, of which noise_shape asks for {draws} draws: use the noise, or "
            "state 0 draws",
        )
        self.lines["noise"] = f"{self.policy.noise_shape}, and nothing else is random"

    def rows(self) -> None:
        """A row does not depend on its batch."""
        worst = 0.0
        for row in range(BATCH):
            alone = self.policy.predict(
                {name: values[row : row + 1] for name, values in self.observation.items()}, self.noise[:, row : row + 1]
            )
            worst = max(worst, ((alone[0] - self.chunk[row]).abs() / self.range).max().item())
        _require(
            worst <= ROUNDING,
            f"a row must be predicted alike in any batch, but differs alone by {worst:.2g} of the range of the "
            "predictions: let nothing reach across the batch, as batch norms do",
        )
        self.lines["rows"] = f"alone and in a batch differ by at most {worst:.1g} of the range"

    def observations(self) -> None:
        """An observation that does not fit is refused."""
        name = self.policy.specification.observations[0].name
        values = self.observation[name]
        changes = {
            f"lacks {name!r}": {other: self.observation[other] for other in self.observation if other != name},
            "holds a stream that the policy does not know": {**self.observation, "unknown": values},
            f"has a step too many in {name!r}": {**self.observation, name: torch.cat([values, values[:, :1]], dim=1)},
        }
        for change, observation in changes.items():
            _refused(
                lambda observation=observation: self.policy.predict(observation, self.noise),
                f"predict must raise ValueError if the observation {change}: call policy.inputs.check_observation",
            )
        self.lines["observations"] = "are refused if they do not fit"

    def prefix(self) -> None:
        """Without guidance or weight nothing changes; held steps are the plan; what does not fit is refused."""
        _require(torch.equal(self.predict([]), self.chunk), "no guidance and an empty list of it must be the same")
        steps = self.horizons.prediction
        if tuple(self.policy.noise_shape[1:]) != tuple(self.chunk.shape[1:]):
            self.lines["prefix"] = "is not tried, because what is denoised is not a chunk"
            return
        for exact in (False, True):
            self._check_prefix(exact)
        _refused(
            lambda: self.predict([Prefix(self.other_chunk[:, 1:], torch.zeros(BATCH, steps - 1))]),
            "predict must raise ValueError if a prefix does not have the shape of the chunks: call "
            "denoising.guidance.check_guidance",
        )
        self.lines["prefix"] = "is held where its weight is 1, and changes nothing where all its weights are 0"

    def _check_prefix(self, exact: bool) -> None:
        steps = self.horizons.prediction
        nothing = torch.zeros(BATCH, steps)
        free = Prefix(self.other_chunk, nothing, exact=exact)
        _require(
            torch.equal(self.predict([free]), self.chunk),
            f"a prefix without weight must not change a bit, but does with exact={exact}: add only the "
            "weighted pull to the estimate",
        )
        weights = nothing.clone()
        weights[1, : max(1, steps // 2)] = 1
        chunk = self.predict([replace(free, weights=weights)])
        _require(
            torch.equal(chunk[[0, 2, 3]], self.chunk[[0, 2, 3]]),
            f"a prefix must not change rows without weight, but does with exact={exact}",
        )
        is_held = weights[1] == 1
        error = ((chunk[1] - self.other_chunk[1]).abs() / self.range)[is_held].max().item()
        _require(
            error <= ROUNDING,
            f"steps of weight 1 must be those of the prefix, in the units of the specification, but differ by "
            f"{error:.2g} of the range of the predictions with exact={exact}: call every guidance's `end`, and return "
            "units",
        )
        _require(
            is_held.all() or not torch.equal(chunk[1][~is_held], self.other_chunk[1][~is_held]),
            f"steps of weight 0 must be free, but are those of the prefix with exact={exact}",
        )
        _require(not chunk.requires_grad, f"a guided prediction must not need a gradient, but does with exact={exact}")

    def warm_start(self) -> None:
        """Sampling starts from the prefix, or says that it cannot."""
        if tuple(self.policy.noise_shape[1:]) != tuple(self.chunk.shape[1:]):
            return
        prefix = Prefix(self.other_chunk, torch.zeros(BATCH, self.horizons.prediction), start=0.5)
        try:
            chunk = self.predict([prefix])
        except ValueError as error:
            self.lines["warm start"] = f"is refused: {error}"
            return
        _require(
            chunk.shape == self.chunk.shape and _is_finite(chunk),
            f"a warm start must give finite chunks {tuple(self.chunk.shape)}, got {_few(chunk)}",
        )
        self.lines["warm start"] = "gives finite chunks"

    def weights(self, make: Callable[[], Any]) -> None:
        """A copy predicts alike, and so does another policy that loads the weights."""
        copy = deepcopy(self.policy)
        _require(torch.equal(self._with(copy), self.chunk), "a copy must predict the same chunk to the last bit")
        state = self.policy.state_dict()
        try:
            safetensors.torch.save(state)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"state_dict must be one that safetensors can save, but {reason}") from error
        other = deepcopy(make()).cpu().eval()
        other.load_state_dict(state)
        chunk = self._with(other)
        _require(
            torch.equal(chunk, self.chunk),
            f"another policy must predict the same chunk once it has loaded state_dict, but differs by "
            f"{(chunk - self.chunk).abs().max():.2g}: hold all that it needs in parameters and buffers, or derive it "
            "from the specification",
        )
        self.lines["weights"] = f"{len(state)} tensors are the whole policy"

    def _with(self, policy: Any) -> Tensor:
        return policy.predict(self.observation, self.noise)

    def dtype(self) -> None:
        """The dtype follows the weights and the noise."""
        _require(self.chunk.dtype == torch.float32, f"a prediction must be of float32, got {self.chunk.dtype}")
        chunk = deepcopy(self.policy).double().predict(self.observation, self.noise.double())
        _require(
            chunk.dtype == torch.float64,
            f"a prediction must have the dtype of the weights and the noise, float64, got {chunk.dtype}: create "
            "tensors like those that you have, as x.new_zeros does",
        )
        self.lines["dtype"] = "follows the weights and the noise"

    def device(self) -> None:
        """The device follows the weights and the inputs."""
        device = torch.accelerator.current_accelerator(check_available=True)
        if device is None:
            self.lines["device"] = "is not tried, because this machine has no accelerator"
            return
        moved = deepcopy(self.policy).to(device)
        chunk = moved.predict({name: x.to(device) for name, x in self.observation.items()}, self.noise.to(device))
        _require(
            chunk.device.type == device.type,
            f"a prediction must be on the device of the weights and the inputs, {device.type}, got {chunk.device}",
        )
        self.lines["device"] = f"follows the weights and the inputs, to {device.type}"


def _check_members(policy: Any) -> None:
    """Raise ValueError unless there is what a policy has, of the right kind."""
    _require(isinstance(policy, nn.Module), f"a policy must be a torch.nn.Module, got {type(policy).__name__}")
    missing = [name for name in MEMBERS if not hasattr(policy, name)]
    _require(not missing, f"a policy must have {', '.join(MEMBERS)}, but {', '.join(missing)} are missing")
    for name, kind in (("specification", Specification), ("horizons", Horizons)):
        _require(
            isinstance(getattr(policy, name), kind), f"{name} must be a {kind.__name__}, got {getattr(policy, name)!r}"
        )
    shape, uniforms = policy.noise_shape, policy.num_uniforms
    _require(
        isinstance(shape, tuple) and [type(size) for size in shape] == [int] * 3 and shape[0] >= 0 < min(shape[1:]),
        f"noise_shape must be three integers, (number of draws, L, Dz), got {shape!r}",
    )
    _require(type(uniforms) is int and uniforms >= 0, f"num_uniforms must be a count, got {uniforms!r}")
    _require(isinstance(policy.has_teacher, bool), f"has_teacher must be True or False, got {policy.has_teacher!r}")


def _move_weights(policy: nn.Module, seed: int) -> None:
    """Move every weight by a third of the deviation that keeps the variance of its inputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            scale = 0.3 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))


def _values(stream: Stream, steps: int, generator: torch.Generator) -> Tensor:
    """Random values (B, steps, ...) of a stream: pixels, within its limits, or from [-1, 1]."""
    shape = (BATCH, steps, *stream.shape)
    if stream.is_image:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    unit = torch.rand(shape, generator=generator, dtype=torch.float64)
    low, high = (torch.tensor(limits, dtype=torch.float64) for limits in (stream.low or -1.0, stream.high or 1.0))
    return torch.from_numpy(stream.cast((low + unit * (high - low)).numpy()))


def _require(is_kept: Any, message: str) -> None:
    if not is_kept:
        raise ValueError(message)


def _refused(call: Callable[[], Any], message: str) -> None:
    try:
        call()
    except ValueError:
        return
    raise ValueError(message)


def _is_finite(x: Tensor | None) -> bool:
    return x is not None and bool(x.isfinite().all())


def _few(x: Tensor) -> list[float]:
    """The first numbers of a tensor, for messages."""
    return [round(value, 6) for value in x.detach().flatten()[:3].tolist()]
