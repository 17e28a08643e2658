"""`python -m recede.commands.job COMMAND ...`: a job of a sweep, which ends with the process that started it.

The input of the job is a pipe that its launcher holds. When the pipe ends, because the sweep is stopped or because the
launcher is dead, the job gets one SIGTERM, so a training saves a checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def end_with_input() -> None:
    """Send SIGTERM to this process at the end of its input."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Run the command of the arguments; returns its exit status."""
    threading.Thread(target=end_with_input, name="end with input", daemon=True).start()
    from .main import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
