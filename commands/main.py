"""The `recede` command line: `recede <command> [folder] key=value ...`.

Every error that a user can correct is one line on stderr, with exit status 2. `HYDRA_FULL_ERROR=1` shows its traceback.
The exit status 1 is that of a command that looked and saw a problem.
Signal n ends a command with exit status 128 + n, after it has deleted its scratch files and said what it keeps.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from ..configs.commands import COMMANDS
from ..configs.packages import import_packages
from ..realtime import Interrupted, ReportedElsewhere, on_signals
from ..specification import nearest
from ..version import __version__
from .composition import compose_and_run, explain
from .grammar import is_sweep, requested_imports
from .help import START, overview, usage
from .streams import lasting_streams
from .sweeping import sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    with lasting_streams(), on_signals(_interrupt):
        return _status(typed[0] if typed else None, typed[1:])


def _interrupt(number: int, _: object) -> None:
    raise Interrupted(number)


def _status(command: str | None, arguments: Sequence[str]) -> int:
    """Run a command and print its error, if it has one; returns its exit status."""
    is_verbose = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        status = _run(command, arguments)
        sys.stdout.flush()
    except ReportedElsewhere:
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"recede {command}: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 128 + getattr(interrupt, "number", signal.SIGINT)
    except (Exception, SystemExit) as error:  # a module of the user may call `sys.exit`
        messages = [explain(cause, command or "") for cause in getattr(error, "exceptions", [error])]
        if is_verbose or None in messages:
            raise
        for message in messages:
            print(f"recede {command}: {message}", file=sys.stderr)
        return 2
    return status


def _run(command: str | None, arguments: Sequence[str]) -> int:
    """Carry out a command or print its help; returns its exit status. Raises ValueError if there is no such command."""
    if command is None:
        print(START)
        return 0
    if command in ("-h", "--help", "help"):
        print(overview())
        return 0
    if command == "--version":
        print(f"recede {__version__}")
        return 0
    if command not in COMMANDS:
        raise ValueError(f"there is no command {command!r}: {nearest(command, COMMANDS)}")
    if "-h" in arguments or "--help" in arguments:
        import_packages(requested_imports(arguments))
        print(usage(command))
        return 0
    return sweep(command, arguments) if is_sweep(arguments) else compose_and_run(command, arguments)
