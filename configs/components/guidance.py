"""How every chunk of a policy is guided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...policy.denoising.guidance import ClassifierFree
from ...specification import Specification
from ..checks import not_negative


@dataclass(kw_only=True)
class ClassifierFreeConfig:
    """Classifier-free guidance: act more, or less, as the context asks than in the demonstrations."""

    weight: float = 2.0
    """Weight of the context. 1 is the policy as it was trained, 0 ignores the context, more than 1 exaggerates it."""

    def __post_init__(self) -> None:
        not_negative(self, "weight", most=1000)

    def build(self, specification: Specification, policy: Mapping[str, Any]) -> ClassifierFree:
        """The guidance of a policy. policy: its parts, as its checkpoint notes them.

        Raises ValueError if the policy has no context, or never had to act without it.
        """
        if not specification.context:
            raise ValueError("guidance=classifier_free needs a policy with context, got none: leave guidance out")
        if self.weight != 1 and not policy.get("drop_context"):
            raise ValueError(
                f"guidance.weight={self.weight:g} needs a policy that was also trained without its context, got "
                f"policy.drop_context={policy.get('drop_context')}: train with policy.drop_context=0.1, or leave "
                "guidance out"
            )
        return ClassifierFree(self.weight)


GUIDANCE: dict[str, Any] = {"classifier_free": ClassifierFreeConfig}
"""Name -> configuration."""
