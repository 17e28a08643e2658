"""Progress on a terminal, where a line renews itself, and elsewhere, where lines are plain."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios

import pytest
from recede import progress
from recede.progress import Progress, say, watched

PROGRAM = """
import sys
from recede import progress
progress.LIVE_S = 0.0
with progress.Progress(4, "train {x}", unit="steps", done=1) as outer:
    for loss in (0.5, 0.25):
        outer.advance(text=f"loss {loss}")
        for _ in progress.watched(range(2), "evaluate", unit="episodes"):
            pass
    progress.say("warning: warm")
"""


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Every state is shown."""
    monkeypatch.setattr(progress, "PLAIN_S", 0.0)


def lines_of(capsys):
    """What stderr holds, with question marks for times."""
    shown = capsys.readouterr()
    assert shown.out == ""
    return re.sub(r"\d\d:\d\d", "?", shown.err).splitlines()


def test_a_line_holds_what_is_done_its_share_what_matters_and_the_time_left(capsys):
    with Progress(200, "train", unit="steps", done=50) as shown:
        shown.advance(50, text="loss 0.1, 90 windows/s")
        shown.advance(20)
    assert lines_of(capsys) == [
        "train: 100 of 200 steps, 50 %, loss 0.1, 90 windows/s, ? left",
        "train: 120 of 200 steps, 60 %, loss 0.1, 90 windows/s, ? left",
        "train: 120 of 200 steps, 60 %, loss 0.1, 90 windows/s, in ?",
    ]


def test_the_time_left_is_that_of_the_steps_that_are_left(monkeypatch, capsys):
    now = iter([0.0, 60.0, 90.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with Progress(10, "copy", unit="episodes", done=4) as shown:
        shown.advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "copy: 6 of 10 episodes, 60 %, 02:00 left",
        "copy: 6 of 10 episodes, 60 %, in 01:30",
    ]


def test_bytes_are_shown_in_their_unit_and_a_total_may_be_unknown(capsys):
    for total in (3_000_000, None):
        with Progress(total, "download", unit="MB", scale=1e6) as shown:
            shown.advance(1_500_000)
    with_total, _, without, end = lines_of(capsys)
    assert with_total == "download: 1.5 of 3.0 MB, 50 %, ? left"
    assert (without, end) == ("download: 1.5 MB", "download: 1.5 MB, in ?")


def test_nothing_appears_for_what_is_short_hidden_or_not_begun(capsys):
    assert list(watched(range(3), "check", unit="files", delay_s=60)) == [0, 1, 2]
    assert list(watched(range(3), "check", unit="files", is_shown=False)) == [0, 1, 2]
    with Progress(3, "check", unit="files", done=3):
        pass
    assert lines_of(capsys) == []


def test_what_breaks_off_leaves_how_far_it_was(capsys):
    with contextlib.suppress(OSError):
        for item in watched(iter(range(3)), "copy", unit="episodes", total=3):
            if item == 1:
                raise OSError("damaged")
    assert lines_of(capsys)[-1] == "copy: 1 of 3 episodes, 33 %, in ?"
    say("on stdout", sys.stdout)
    assert capsys.readouterr().out == "on stdout\n"


def on_a_terminal(**environment):
    """What the program writes to a terminal of 90 columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 90))
    usual = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"}
    subprocess.run([sys.executable, "-P", "-c", PROGRAM], stderr=theirs, env=usual | environment, check=True)
    os.close(theirs)
    written = b""
    while piece := _read(ours):
        written += piece
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


def _read(end):
    try:
        return os.read(end, 1 << 16)
    except OSError:  # Linux says so at the end of a terminal
        return b""


ENDS = [
    "evaluate: 2 of 2 episodes, in ?",
    "evaluate: 2 of 2 episodes, in ?",
    "warning: warm",
    "train {x}: 3 of 4 steps",
]


def test_on_a_terminal_the_line_renews_itself_and_the_last_states_stay():
    written = re.sub(r"\d\d:\d\d", "?", on_a_terminal())
    assert re.search(r"\rtrain \{x\} █+ +2 of 4 steps, 50 %, loss 0.5, \? left", written)
    lines = [line.split("\r")[-1] for line in written.splitlines()]
    stay = [line for line in lines if line.endswith("in ?") or line.startswith("warning")]
    assert [line.startswith(end) for line, end in zip(stay, ENDS, strict=True)] == 4 * [True]


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["no colour", "dumb"])
def test_a_terminal_that_must_not_renew_lines_gets_plain_ones(environment):
    written = re.sub(r"\d\d:\d\d", "?", on_a_terminal(**environment))
    assert "\r" not in written
    assert "\x1b" not in written
    assert [line.startswith(end) for line, end in zip(written.splitlines(), ENDS, strict=True)] == 4 * [True]
