"""Questions that a child process answers badly, in their own module so that it can import them."""

import os
import signal
import time


def count_to(number):
    print("noise that nobody reads")
    yield from range(number)


def crash():
    yield 1
    os.write(2, b"the driver says goodbye\n")
    os.kill(os.getpid(), signal.SIGSEGV)


def hang():
    yield 1
    time.sleep(600)


def fail():
    yield 1
    raise KeyError("no such thing")


def leave():
    raise SystemExit("I leave")
    yield


def time_out():
    time.sleep(600)
    yield
