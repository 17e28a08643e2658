"""Settings that `recede train` chooses from the demonstrations, by stated rules.

A setting is chosen if it is null. The measurements behind the rules are in docs/advice.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..configs.components.networks import CHANNELS, UNet1dConfig
from ..configs.notation import typed
from ..configs.training import TrainConfig
from ..datasets.demonstrations import Demonstrations


class Choice(NamedTuple):
    """A setting that was chosen, and why."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Facts:
    """What the rules know of the demonstrations."""

    num_steps: int
    """Control steps of the training episodes that are learnt, mirror images included."""

    control_dt: float
    """Control period in seconds."""

    shortest: int
    """Steps of the shortest training episode."""

    num_values: int
    """Numbers of all vectors of an observation."""

    num_images: int
    """Image streams of an observation."""

    @classmethod
    def of(
        cls, demonstrations: Demonstrations, episodes: Sequence[int], is_learnt: NDArray[np.bool_] | None = None
    ) -> Facts:
        """The facts of some episodes. is_learnt: for each step of all episodes; None if all are learnt."""
        specification = demonstrations.specification
        lengths = demonstrations.episode_lengths[[episode % len(demonstrations) for episode in episodes]]
        images = [stream for stream in specification.observations if stream.is_image]
        vectors = [stream for stream in specification.observations if not stream.is_image]
        if is_learnt is None:
            num_steps = int(lengths.sum())
        else:
            num_steps = sum(int(is_learnt[slice(*demonstrations.bounds(episode))].sum()) for episode in episodes)
        return cls(
            num_steps=max(num_steps, 1),
            shortest=int(lengths.min()),
            control_dt=specification.control_dt,
            num_values=sum(stream.size for stream in vectors),
            num_images=len(images),
        )


def choose(
    config: TrainConfig, facts: Facts, parent: Mapping[str, Any] | None = None
) -> tuple[TrainConfig, dict[str, Choice]]:
    """`config` with a value for every setting that is null and has a rule; and the choices, by their keys.

    A rule respects the values that are set. parent: the manifest of the checkpoint that training starts from, whose
    weights fit its own sizes alone.
    """
    choices: dict[str, Choice] = {}
    for key, rule in RULES.items():
        if setting(config, key) is None:
            inherited = parent and _described(parent, key)
            choices[key] = Choice(inherited, "as in init_from") if inherited else rule(config, facts)
            config = with_setting(config, key, choices[key].value)
    return config, choices


def as_stored(config: TrainConfig, stored: Mapping[str, Any] | None) -> tuple[TrainConfig, dict[str, str]]:
    """`config`, in which every null that has a rule is as in the run that it resumes.

    stored: the configuration of that run, as JSON, with "chosen": key -> reason. Returns the reasons of what still is
    as it was chosen, too.
    """
    if stored is None:
        return config, {}
    for key in RULES:
        if setting(config, key) is None:
            config = with_setting(config, key, _described(stored, key))
    reasons = stored.get("chosen", {}).items()
    return config, {key: reason for key, reason in reasons if setting(config, key) == _described(stored, key)}


def choice_lines(choices: Mapping[str, Choice]) -> list[str]:
    """The choices as lines for the user, or none.

    >>> print(*choice_lines({"batch_size": Choice(64, "few windows")}), sep=chr(10))
    chosen from the demonstrations; give a key to set it yourself:
      batch_size=64  few windows
    """
    settings = [f"{key}={typed(choice.value)}" for key, choice in choices.items()]
    width = max(map(len, settings), default=0)
    lines = [f"  {text:<{width}}  {choice.reason}" for text, choice in zip(settings, choices.values(), strict=True)]
    return ["chosen from the demonstrations; give a key to set it yourself:", *lines] if lines else []


def with_setting(config: Any, key: str, value: Any) -> Any:
    """A configuration with another value at `key`, whose parts dots separate."""
    name, _, rest = key.partition(".")
    return replace(config, **{name: with_setting(getattr(config, name), rest, value) if rest else value})


def _described(configuration: Mapping[str, Any], key: str) -> Any:
    """The value at `key` of a configuration as JSON; None if it has none."""
    value: Any = configuration
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return value


def setting(config: Any, key: str) -> Any:
    """The value at `key` of a configuration; not None if it has no such setting, or one that is not ours to choose."""
    value = config
    for name in key.split("."):
        if name == "channels" and type(value) is not UNet1dConfig:
            return ()
        value = getattr(value, name, ())
    return value


# --- the rules, in the order in which they are applied

ACTION = 8
"""Ta of Chi et al. (2023), who tried 1 to 128."""

LEVELS = 4
"""Tp is a multiple of this, so that a U-Net of three levels needs no padding."""

FEW = 16_000
"""Windows below which half the channels do as well."""

PASSES, MANY = 60, 8_000
"""Passes over the windows. Above MANY windows their number falls with the root of the number of windows."""

LEAST_STEPS = 1_000


def _observation(config: Any, facts: Facts) -> Choice:
    if facts.num_values:
        return Choice(1, "a vector shows the state; of several steps, policies tend to repeat their last motion")
    room = (config.horizons.prediction or 2 * ACTION) - (config.horizons.action or 1) + 1
    return Choice(max(min(2, room), 1), "there are images alone, and a single image shows no motion")


def _action(config: Any, facts: Facts) -> Choice:
    room = (config.horizons.prediction or 2 * ACTION) - config.horizons.observation + 1
    steps = max(min(ACTION, room, facts.shortest), 1)
    return Choice(steps, f"a new chunk every {steps * facts.control_dt:.3g} s")


def _prediction(config: Any, facts: Facts) -> Choice:
    del facts
    horizons = config.horizons
    least = max(2 * horizons.action, horizons.observation - 1 + horizons.action)
    return Choice(LEVELS * math.ceil(least / LEVELS), "twice the action horizon")


def _channels(config: Any, facts: Facts) -> Choice:
    del config
    if facts.num_images:
        return Choice(CHANNELS, "images are observed")
    if facts.num_steps < FEW:
        return Choice([size // 2 for size in CHANNELS], f"half the usual, for fewer than {FEW:,} windows")
    return Choice(CHANNELS, f"as usual, for {FEW:,} windows or more")


def _batch_size(config: Any, facts: Facts) -> Choice:
    del config
    size = 64
    while not facts.num_images and size < 256 and facts.num_steps > 128 * size:
        size *= 2
    what = "as published for images" if facts.num_images else "64 up to 8,192 windows, 128 up to 16,384, then 256"
    return Choice(size, what)


def _steps(config: Any, facts: Facts) -> Choice:
    samples = PASSES * min(facts.num_steps, math.sqrt(MANY * facts.num_steps))
    steps = max(100 * math.ceil(samples / config.batch_size / 100), LEAST_STEPS)
    passes = steps * config.batch_size / facts.num_steps
    return Choice(steps, f"{passes:.0f} passes over {facts.num_steps:,} windows")


def _ema_maximum(config: Any, facts: Facts) -> Choice:
    del facts
    maximum = min(round(1 - 10 / max(config.steps, 20), 4), 0.9999)
    return Choice(maximum, f"the weights are averaged over {1 / (1 - maximum):.0f} updates, about a tenth of all")


def _precision(config: Any, facts: Facts) -> Choice:
    from ..policy.device import device, is_bf16_fast

    del facts
    if is_bf16_fast(device(config.device)):
        return Choice("bf16", "matrix products in 16 bits are fast here")
    return Choice("fp32", "this processor has no instructions for products in 16 bits")


RULES: dict[str, Callable[[Any, Facts], Choice]] = {
    "horizons.observation": _observation,
    "horizons.action": _action,
    "horizons.prediction": _prediction,
    "policy.network.channels": _channels,
    "batch_size": _batch_size,
    "steps": _steps,
    "ema_maximum": _ema_maximum,
    "precision": _precision,
}
"""Key -> the rule that chooses its value if it is null, in an order in which each needs only those before it."""
