"""The input `browser` without processes, and a page that is a client of its socket."""

import contextlib
import json
import math
import socket
import threading
import time

from control_loop import SPECIFICATION
from hands import ThreadChild
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

TIMEOUT_S = 20.0


class Threads(ThreadChild):
    """A process that is a thread, with copies of its sockets."""

    def __init__(self, serve, outgoing, incoming, *arguments):
        copies = [value.dup() if isinstance(value, socket.socket) else value for value in arguments]
        super().__init__(serve, outgoing, incoming, *copies)


class Watched:
    """A robot that is only looked at."""

    def __init__(self, specification=SPECIFICATION):
        self.specification = specification
        self.readings = {}

    def read(self):
        return self.readings


class Page:
    """What the page does, without a browser."""

    def __init__(self, address, path="socket", origin=None):
        self.statuses, self.pictures, self.others = [], [], []
        base = address.partition("?")[0]
        query = address.partition("?")[2]
        url = base.replace("http", "ws") + path + (f"?{query}" if query else "")
        self._stack = contextlib.ExitStack()
        self.socket = self._stack.enter_context(connect(url, origin=origin or base.rstrip("/")))

    def close(self):
        self._stack.close()

    def send(self, **message):
        self.socket.send(json.dumps(message))

    def hear(self):
        """One message, if there is one."""
        with contextlib.suppress(TimeoutError):
            data = self.socket.recv(timeout=0.02)
            if isinstance(data, bytes):
                size = int.from_bytes(data[:4], "little")
                self.pictures.append((json.loads(data[4 : 4 + size]), data[4 + size :]))
            else:
                message = json.loads(data)
                (self.statuses if message["kind"] == "status" else self.others).append(message)

    def closed(self):
        """The code with which the connection is closed."""
        try:
            while True:
                self.socket.recv(timeout=TIMEOUT_S)
        except ConnectionClosed as error:
            return error.rcvd.code


class Line:
    """A network between a page and the recording.

    rate: bytes a second to the page. While it is asleep, nothing passes, as if the computer with the page slept.
    """

    def __init__(self, address, *, rate=math.inf):
        self.rate, self.is_asleep, self._ends = rate, False, []
        self._target = ("127.0.0.1", int(address.split(":")[2].partition("/")[0]))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listening.close()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                page, _ = self._listening.accept()
                server = socket.create_connection(self._target)
                self._ends += [page, server]
                threading.Thread(target=self._pump, args=(page, server, math.inf), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, page, self.rate), daemon=True).start()

    def _pump(self, source, sink, rate):
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                while self.is_asleep:
                    time.sleep(0.01)
                time.sleep(len(data) / rate)
                sink.sendall(data)


def until(true, step=lambda: time.sleep(0.005)):
    """Repeat a step until something is true."""
    end = time.monotonic() + TIMEOUT_S
    while not (value := true()):
        assert time.monotonic() < end
        step()
    return value
