"""OpenVINO neither reports its use nor changes how this process handles signals."""

import ctypes
import os
import subprocess
import sys
import threading

import pytest
from recede.policy.engines.open_vino import OpenVinoSession, SignalStack

SILENT = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("something was sent")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from recede.policy.engines.open_vino import OpenVinoSession
from pathlib import Path
OpenVinoSession(Path(sys.argv[1]), is_fp32=True)
assert not [name for name in sys.modules if name.startswith(("openvino_telemetry", "openvino.tools", "absl"))]
assert "torch" not in sys.modules
"""


def test_openvino_sends_nothing_over_the_network(workshop, tmp_path):
    folder = workshop.graphs("unet1d", "openvino")
    command = [sys.executable, "-P", "-c", SILENT, str(folder)]
    environment = os.environ | {"HOME": str(tmp_path)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert not list(tmp_path.iterdir())  # openvino_telemetry would keep its files there


@pytest.mark.skipif(sys.platform != "linux", reason="the layout of a signal stack is that of Linux")
def test_openvino_restores_the_signal_stack_of_a_thread(workshop):
    """A new thread has no signal stack of its own."""
    folder, stacks = workshop.graphs("unet1d", "openvino"), []

    def compile_graphs():
        OpenVinoSession(folder, is_fp32=False)
        stack = SignalStack()
        ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
        stacks.append((stack.start, stack.size))

    thread = threading.Thread(target=compile_graphs)
    thread.start()
    thread.join()
    assert stacks == [(None, 0)]
