"""A question is asked in another process: whatever happens there, there is an answer or a reason."""

import pytest
from child_questions import count_to, crash, fail, hang, leave, time_out
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
