"""`recede train-classifier`: train a classifier that guides a policy."""

from __future__ import annotations

from ..configs.guiding import TrainClassifierConfig
from .next_lines import print_evaluate_known


def run(config: TrainClassifierConfig) -> None:
    """Train, and print the accuracy on held-out episodes and the next command."""
    from ..training.classifying import train_classifier

    for name, accuracy in train_classifier(config).items():
        print(f"accuracy in held-out episodes, {name}: {accuracy}")
    print(f"classifier: {config.out}")
    more = {"guidance": "classifier", "guidance.folder": config.out}
    print_evaluate_known(config.run, config.imports, **more)
