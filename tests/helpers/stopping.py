"""Trainings that are interrupted in the process of the test."""

from recede.training.run import Run


def stop_after(monkeypatch, step):
    """Interrupt a training in the process of the test once a checkpoint of `step` exists."""
    save = Run.save

    def stopping(run, done, **content):
        save(run, done, **content)
        if done == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", stopping)
