"""Six servos of an arm on a pseudo-terminal, written from the manual alone, without `recede.robots.feetech.bus`.

Each servo has its memory, and goes to its goal at a limited speed while it has torque. Tests set what goes wrong.
"""

import contextlib
import os
import select
import threading
import time
import tty


class Servo:
    """The memory of a servo, and its joint. speed: highest speed, in steps per second."""

    def __init__(self, number, *, offset=0, low=1000, high=3000, at=2048, speed=3000.0):
        self.memory, self.speed = bytearray(128), speed
        self.encoder = float(at + offset)  # somebody may push the joint out of its range
        for address, size, value in (
            (3, 2, 777),
            (5, 1, number),
            (9, 2, low),
            (11, 2, high),
            (31, 2, offset if offset >= 0 else 0x800 | -offset),
            (55, 1, 1),
            (42, 2, 1),  # a distant goal, to which it must not go
            (62, 1, 74),
            (63, 1, 31),
        ):
            self.set(address, size, value)
        self.fault = 0
        self.updated_at = time.monotonic()

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
        """Move for the time since the last call."""
        now = time.monotonic()
        passed, self.updated_at = now - self.updated_at, now
        if self.has_torque and not self.fault:
            distance = min(max(self.goal, self.get(9, 2)), self.get(11, 2)) - self.position
            self.encoder += min(max(distance, -self.speed * passed), self.speed * passed)
        self.set(56, 2, self.position)

    def write(self, address, data):
        is_kept = address < 40
        if not is_kept or self.get(55, 1) == 0:
            self.memory[address : address + len(data)] = data


class EmulatedBus:
    """The servos of an arm on a serial port.

    servos: by id.
    writes: every write to a register, in order: (id, address, value).
    mangle: called with the id and the bytes of each reply; its result is sent instead.
    echo: whether everything is sent back first.
    port: name of the port.
    """

    def __init__(self, servos=None):
        self.servos = servos or {number: Servo(number) for number in range(1, 7)}
        self.writes, self.requests = [], []
        self.mangle, self.echo = (lambda servo, reply: reply), False
        self.lock = threading.Lock()
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)  # unread bytes are lost
        self.port = os.ttyname(self._slave)
        self._is_over = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def goals(self, servo):
        """Every goal of the servo."""
        return [value for number, address, value in self.writes if (number, address) == (servo, 42)]

    def unplug(self):
        """Close the port while others have it open."""
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
            sent = os.read(self._master, 4096)
            if self.echo:
                self._send(sent)
            received += sent
            while (begin := received.find(b"\xff\xff")) >= 0 and len(received) >= begin + 4:
                size = received[begin + 3] + 4
                if len(received) < begin + size:
                    break
                self._obey(received[begin : begin + size])
                received = received[begin + size :]

    def _obey(self, request):
        assert request[-1] == 255 - sum(request[2:-1]) % 256, request.hex(" ")
        assert request[2] == 254, "not sent to the broadcast id"
        instruction, (address, size), rest = request[4], request[5:7], request[7:-1]
        self.requests.append(request)
        if instruction == 0x82:
            for number in rest:
                if number in self.servos:
                    self._reply(number, address, size)
        elif instruction == 0x83:
            for start in range(0, len(rest), size + 1):
                number, data = rest[start], rest[start + 1 : start + 1 + size]
                self.writes.append((number, address, int.from_bytes(data, "little")))
                if number in self.servos:
                    self.servos[number].live()
                    self.servos[number].write(address, data)
        else:
            raise AssertionError(f"an unknown instruction {instruction}")

    def _reply(self, number, address, size):
        servo = self.servos[number]
        servo.live()
        body = bytes([number, size + 2, servo.fault]) + servo.memory[address : address + size]
        reply = self.mangle(number, b"\xff\xff" + body + bytes([255 - sum(body) % 256]))
        self._send(reply)

    def _send(self, data):
        with contextlib.suppress(BlockingIOError):
            os.write(self._master, data)
