"""Six servos of an arm on a pseudo-terminal, written from the manual alone, without `recede.robots.feetech.bus`.

Each has its memory, and goes to its goal at a limited speed while it has torque. What goes wrong is set by the tests.
"""

import contextlib
import os
import select
import threading
import time
import tty


class Servo:
    """The memory of a servo, and the joint that it turns. speed: steps a second that it goes at most."""

    def __init__(self, number, *, offset=0, low=1000, high=3000, at=2048, speed=3000.0):
        self.memory, self.speed = bytearray(128), speed
        self.encoder = float(at + offset)  # the joint may be pushed past what the servo would go to
        for address, size, value in (
            (3, 2, 777),
            (5, 1, number),
            (9, 2, low),
            (11, 2, high),
            (31, 2, offset if offset >= 0 else 0x800 | -offset),
            (55, 1, 1),
            (42, 2, 1),  # a goal far away, which it must not go to
            (62, 1, 74),
            (63, 1, 31),
        ):
            self.set(address, size, value)
        self.fault = 0
        self.has_seen = time.monotonic()

    def get(self, address, size):
        return int.from_bytes(self.memory[address : address + size], "little")

    def set(self, address, size, value):
        self.memory[address : address + size] = value.to_bytes(size, "little")

    @property
    def offset(self):
        raw = self.get(31, 2)
        return -(raw & 0x7FF) if raw & 0x800 else raw

    @property
    def position(self):
        return (round(self.encoder) - self.offset) % 4096

    @property
    def goal(self):
        return self.get(42, 2)

    @property
    def has_torque(self):
        return self.get(40, 1) == 1

    def live(self):
        """What happened since the last look."""
        now = time.monotonic()
        passed, self.has_seen = now - self.has_seen, now
        if self.has_torque and not self.fault:
            way = min(max(self.goal, self.get(9, 2)), self.get(11, 2)) - self.position
            self.encoder += min(max(way, -self.speed * passed), self.speed * passed)
        self.set(56, 2, self.position)

    def write(self, address, data):
        is_kept = address < 40
        if not is_kept or self.get(55, 1) == 0:
            self.memory[address : address + len(data)] = data


class EmulatedBus:
    """servos: by their ids. told: every register that was written, in its order: (id, address, value).

    mangle: called with the id and the bytes of each answer; what it gives is sent instead. echo: whether everything is
    sent back first. port: to open.
    """

    def __init__(self, servos=None):
        self.servos = servos or {number: Servo(number) for number in range(1, 7)}
        self.told, self.requests = [], []
        self.mangle, self.echo = (lambda servo, answer: answer), False
        self.lock = threading.Lock()
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)  # what nobody reads is lost
        self.port = os.ttyname(self._slave)
        self._is_over = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def goals(self, servo):
        """Every goal that the servo was given."""
        return [value for each, address, value in self.told if (each, address) == (servo, 42)]

    def unplug(self):
        """Close the port under whoever has opened it."""
        self._is_over = True
        self._thread.join()
        for end in (self._master, self._slave):
            with contextlib.suppress(OSError):
                os.close(end)

    def _serve(self):
        received = b""
        while not self._is_over:
            for servo in list(self.servos.values()):
                servo.live()
            if not select.select([self._master], [], [], 0.002)[0]:
                continue
            heard = os.read(self._master, 4096)
            if self.echo:
                self._send(heard)
            received += heard
            while (begin := received.find(b"\xff\xff")) >= 0 and len(received) >= begin + 4:
                size = received[begin + 3] + 4
                if len(received) < begin + size:
                    break
                self._obey(received[begin : begin + size])
                received = received[begin + size :]

    def _obey(self, request):
        assert request[-1] == 255 - sum(request[2:-1]) % 256, request.hex(" ")
        assert request[2] == 254, "everybody is addressed"
        instruction, (address, size), rest = request[4], request[5:7], request[7:-1]
        self.requests.append(request)
        if instruction == 0x82:
            for number in rest:
                if number in self.servos:
                    self._answer(number, address, size)
        elif instruction == 0x83:
            for start in range(0, len(rest), size + 1):
                number, data = rest[start], rest[start + 1 : start + 1 + size]
                self.told.append((number, address, int.from_bytes(data, "little")))
                if number in self.servos:
                    self.servos[number].live()
                    self.servos[number].write(address, data)
        else:
            raise AssertionError(f"an unknown instruction {instruction}")

    def _answer(self, number, address, size):
        servo = self.servos[number]
        servo.live()
        body = bytes([number, size + 2, servo.fault]) + servo.memory[address : address + size]
        answer = self.mangle(number, b"\xff\xff" + body + bytes([255 - sum(body) % 256]))
        self._send(answer)

    def _send(self, data):
        with contextlib.suppress(BlockingIOError):
            os.write(self._master, data)
