"""`recede train-classifier`: train a classifier that guides a policy."""

from __future__ import annotations

from ..configs.guiding import TrainClassifierConfig
from ..configs.notation import shown


def run(config: TrainClassifierConfig) -> None:
    """Train, and print the accuracy on held-out episodes and the next command."""
    from ..training.classifying import train_classifier

    for name, accuracy in train_classifier(config).items():
        print(f"accuracy in held-out episodes, {name}: {accuracy}")
    more = {"guidance": "classifier", "guidance.folder": config.out, "imports": config.imports}
    print(f"next: {shown('evaluate', config.run, **more)}")
