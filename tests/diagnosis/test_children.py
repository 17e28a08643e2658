"""A question is asked in another process: whatever happens there, there is an answer or a reason."""

import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess

import pytest
from child_questions import count_to, crash, fail, hang, leave, time_out
from recede.diagnosis import children
from recede.diagnosis.children import NoAnswer, answer, answers


def test_all_answers_come_in_order(capfd):
    assert list(answers(count_to, 3, seconds=60)) == [0, 1, 2]
    assert answer(count_to, 0, seconds=60) == NoAnswer("it returned nothing")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (crash, "it was ended by SIGSEGV (the driver says goodbye)"),
        (fail, "KeyError: 'no such thing'"),
    ],
)
def test_what_goes_wrong_there_is_a_reason_here(question, reason):
    assert list(answers(question, seconds=60)) == [1, NoAnswer(reason)]


def test_a_module_that_leaves_ends_nothing():
    assert answer(leave, seconds=60) == NoAnswer("SystemExit: I leave")


def test_nobody_waits_longer_than_the_limit():
    replies = answers(hang, seconds=30)
    assert next(replies) == 1
    replies.close()  # the process is killed, not waited for
    assert list(answers(time_out, seconds=0.2)) == [NoAnswer("it did not return within 0.2 s")]


def test_a_process_that_no_signal_ends_is_left_behind(monkeypatch):
    """Nothing here blocks as a driver does, so the signal is held back."""
    stuck = list[int]()
    monkeypatch.setattr(children, "END_S", 0.05)
    monkeypatch.setattr(BaseProcess, "kill", lambda self: stuck.append(self.pid))
    (reply,) = answers(time_out, seconds=0.1)
    assert reply.reason == "it did not return within 0.1 s, and no signal ends it, so a driver holds it"
    assert multiprocessing.active_children() == []  # for which Python would wait
    os.kill(stuck[0], signal.SIGKILL)
    os.waitpid(stuck[0], 0)
