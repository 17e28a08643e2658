"""What is due after a step is what the configuration asks for, and everything after the last one."""

import pytest
from recede.configs.training import TrainConfig
from recede.training.recorder import Due

CONFIG = TrainConfig(
    dataset="d.zarr", out="runs/a", task="reach", log_every=10, validate_every=20, evaluate_every=40, save_every=30
)


@pytest.mark.parametrize(
    ("step", "stopped_by", "due"),
    [
        (10, 0, "logged"),
        (11, 0, ""),
        (11, 15, "saved"),
        (20, 0, "logged validated"),
        (30, 0, "logged saved"),
        (40, 0, "logged validated evaluated saved"),  # the best is chosen among saved ones
        (95, 0, "logged validated evaluated saved last"),
    ],
)
def test_what_is_due(step, stopped_by, due):
    outcome = Due.after(step, CONFIG, 95, stopped_by=stopped_by)
    words = ("logged", "validated", "evaluated", "saved", "last")
    assert " ".join(word for word in words if getattr(outcome, f"is_{word}")) == due
    assert (outcome.step, outcome.stopped_by) == (step, stopped_by)


def test_nothing_is_evaluated_unless_that_is_chosen():
    assert not Due.after(95, TrainConfig(dataset="d.zarr", out="runs/a"), 95, stopped_by=0).is_evaluated
