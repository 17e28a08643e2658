"""How single streams of a dataset are normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..datasets.normalisation import Normalisation
from ..specification import nearest
from .components.lazy import values


@dataclass(kw_only=True)
class NormalisationConfig:
    """How one stream is normalised; see `datasets.normalisation`."""

    kind: str = Normalisation.kind
    """range, quantiles, deviation or identity."""
    tail: float = Normalisation.tail
    """Share of the values beyond either quantile."""
    floor: Any = Normalisation.floor
    """Largest range that counts as still, in the unit of the stream: one number, or a list of one per dimension. null
    chooses it from the limits of the stream."""
    groups: Any = field(default_factory=dict)
    """Label or kind of some dimensions -> their own kind of normalisation."""

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> Normalisation:
        """The normalisation. Raises ValueError for impossible values."""
        return Normalisation(**values(self))


def normalisations(plain: Mapping[str, Any]) -> dict[str, NormalisationConfig]:
    """Stream -> its configuration, from the plain values of a command line.

    Raises ValueError for anything but STREAM.OPTION=value, for an unknown option, and for an impossible value.
    """
    result: dict[str, NormalisationConfig] = {}
    options = NormalisationConfig.__dataclass_fields__
    for stream, chosen in plain.items():
        path = f"normalisation.{stream}"
        if isinstance(chosen, NormalisationConfig):
            result[stream] = chosen
            continue
        if not isinstance(chosen, Mapping):
            raise ValueError(f"{path} must have options, got {chosen!r}: give {path}.kind, .tail, .floor or .groups")
        for option in chosen:
            if option not in options:
                raise ValueError(f"{path} has no option {option!r}: {nearest(str(option), options)}")
        try:
            result[stream] = NormalisationConfig(**chosen)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None
    return result
