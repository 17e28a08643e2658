"""`python -m recede.commands.job PID COMMAND ...`: a job of a sweep, which ends with the process that started it.

A launcher may end its processes at once and without a word, as joblib does if the sweep is killed. The job then gets
SIGTERM, so a training saves a checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

POLL_S = 0.25
"""How often the job looks for its parent."""


def end_with(parent: int) -> None:
    """Send SIGTERM to this process once its parent is another one: that of a dead parent."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Run the command of the arguments; returns its exit status."""
    parent, *arguments = sys.argv[1:]
    threading.Thread(target=end_with, args=(int(parent),), name="end with parent", daemon=True).start()
    from .main import main

    return main(arguments)


if __name__ == "__main__":
    sys.exit(main())
