"""Serial-bus servos of Feetech's STS series: packets, registers, and a bus that asks and tells all of them at once.

A packet is FF FF, an id, how many bytes follow, an instruction (in an answer: what the servo has to report), parameters
and a checksum. Two instructions are enough. SYNC READ asks servos for the same registers, and each answers in its turn;
SYNC WRITE tells every servo its own value, and nobody answers, so what must not be lost is read back.

Both are addressed to everybody, and no answer is. So where an adapter echoes what was sent, the echo is no answer: it
needs no setting. (The echo of a PING is the answer of a servo without power enough, byte for byte.)

Source: Feetech's manual of the communication protocol, and the memory table of the STS series.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import IntFlag
from typing import Any, NamedTuple, Protocol

SYNC_READ, SYNC_WRITE = 0x82, 0x83

EVERYBODY = 0xFE
"""The id of all servos; their own ones are below it."""

STEPS = 4096
"""Positions in a turn."""

BAUD_RATE = 1_000_000
"""Of servos as they are delivered."""

STS3215 = 777
"""The model number of the servos of an SO-100 or SO-101."""

SILENCE_S = 0.02
"""Nobody will answer any more; some adapters collect bytes for 16 ms before they give them."""

ATTEMPTS = 5
"""How often a servo is asked or told before it is given up."""

MOST = 4096
"""Bytes that may come after a request; more is noise."""


class Fault(IntFlag):
    """What a servo reports with each answer."""

    VOLTAGE = 1
    SENSOR = 2
    TEMPERATURE = 4
    CURRENT = 8
    OVERLOAD = 32


class Register(NamedTuple):
    """Where a number lies in the memory of a servo, low byte first.

    address, size: in bytes. sign: the bit that says that the number is negative, beside its magnitude; None where it
    never is.

    >>> Register(31, 2, sign=11).encode(-5).hex(), Register(31, 2, sign=11).decode(bytes.fromhex("0508"))
    ('0508', -5)
    """

    address: int
    size: int
    sign: int | None = None

    def encode(self, value: int) -> bytes:
        """The bytes of a number. Raises ValueError where they cannot hold it."""
        most = 256**self.size - 1 if self.sign is None else (1 << self.sign) - 1
        least = 0 if self.sign is None else -most
        if not least <= value <= most:
            raise ValueError(f"register {self.address} must be told {least} to {most}, got {value}")
        sign = 1 << self.sign if self.sign is not None and value < 0 else 0
        return (abs(value) | sign).to_bytes(self.size, "little")

    def decode(self, data: bytes) -> int:
        """The number in its bytes."""
        found = int.from_bytes(data, "little")
        if self.sign is None:
            return found
        magnitude = found & ((1 << self.sign) - 1)
        return -magnitude if found >> self.sign & 1 else magnitude


# Kept without power, and written only while LOCK is 0. A position is what the encoder says less the offset.
MODEL, RANGE_MIN, RANGE_MAX = Register(3, 2), Register(9, 2), Register(11, 2)
HOMING_OFFSET, MODE = Register(31, 2, sign=11), Register(33, 1)
# Forgotten without power. MODE 0 goes to positions; LOAD is in 0.1 %, VOLTAGE in 0.1 V, TEMPERATURE in °C.
TORQUE, GOAL, LOCK = Register(40, 1), Register(42, 2, sign=15), Register(55, 1)
POSITION, LOAD = Register(56, 2, sign=15), Register(60, 2, sign=10)
VOLTAGE, TEMPERATURE = Register(62, 1), Register(63, 1)


class Transport(Protocol):
    """Bytes in both directions, as `serial.Serial` has them. Raises OSError where it is lost."""

    @property
    def in_waiting(self) -> int:
        """Bytes that can be read at once."""
        ...

    def read(self, size: int, /) -> bytes:
        """So many bytes, or those that come within `SILENCE_S`."""
        ...

    def write(self, data: bytes, /) -> Any:
        """Send all of it."""
        ...

    def close(self) -> None:
        """Release the port."""
        ...


def open_port(port: str, baud_rate: int) -> Transport:
    """A serial port for this program alone.

    Raises ValueError where pyserial is not installed, and ConnectionError where there is no such port for us.
    """
    try:
        import serial
    except ImportError:
        raise ValueError("a serial port needs pyserial: pip install 'recede[arm]'") from None
    try:
        return serial.Serial(port, baud_rate, timeout=SILENCE_S, write_timeout=1.0, exclusive=True)
    except OSError as error:
        raise ConnectionError(
            f"the serial port {port} cannot be opened ({error}): plug the adapter in, close other programs that use "
            "it, and see that you may read and write it (on Linux, be in the group that owns it)"
        ) from None


def packet(servo: int, instruction: int, parameters: bytes) -> bytes:
    """A packet as it is sent.

    >>> packet(EVERYBODY, SYNC_READ, bytes([56, 8, 1, 2])).hex(" ")  # of the manual
    'ff ff fe 06 82 38 08 01 02 36'
    """
    body = bytes([servo, len(parameters) + 2, instruction, *parameters])
    return b"\xff\xff" + body + bytes([~sum(body) & 0xFF])


def answers(received: bytes, servos: Collection[int], size: int) -> dict[int, tuple[Fault, bytes]]:
    """What servos report and answer, `size` bytes each, in whatever else was received. The last answer of each counts.

    >>> answers(bytes.fromhex("ff 00 ff ff 01 03 20 07 d4 ff"), [1, 2], 1)
    {1: (<Fault.OVERLOAD: 32>, b'\\x07')}
    """
    found: dict[int, tuple[Fault, bytes]] = {}
    start = received.find(b"\xff\xff")
    while start >= 0:
        whole = received[start : start + size + 6]
        if len(whole) == size + 6 and whole[2] in servos and whole == packet(whole[2], whole[4], whole[5:-1]):
            found[whole[2]] = Fault(whole[4]), whole[5:-1]
            start += len(whole) - 1
        start = received.find(b"\xff\xff", start + 1)
    return found


class Answer(NamedTuple):
    """What a servo reports, and the values of the registers that it was asked for, in their order."""

    fault: Fault
    values: tuple[int, ...]


class Bus:
    """Servos on one wire: their ids, and what they are called in messages. One thread may use it at a time.

    Bytes that are no answer are skipped, and who has not answered is asked again, `ATTEMPTS` times in all.
    """

    def __init__(self, transport: Transport, servos: Mapping[int, str]) -> None:
        self.servos = servos
        self._transport = transport

    def sync_read(self, *registers: Register) -> dict[int, Answer]:
        """The registers of every servo, in the order of the servos; registers that lie together are one request.

        Raises TimeoutError where a servo does not answer, and OSError where the port is lost.
        """
        start = min(register.address for register in registers)
        size = max(register.address + register.size for register in registers) - start
        found: dict[int, tuple[Fault, bytes]] = {}
        for attempt in range(ATTEMPTS):
            found |= self._ask([servo for servo in self.servos if servo not in found], start, size)
            if len(found) == len(self.servos):
                if attempt:  # an answer does not say to what: what is late must not answer the next request
                    self._transport.read(MOST)
                return {servo: _decoded(*found[servo], registers, start) for servo in self.servos}
        missing = ", ".join(f"{servo} ({name})" for servo, name in self.servos.items() if servo not in found)
        raise TimeoutError(
            f"of {len(self.servos)} servos these did not answer, asked {ATTEMPTS} times: {missing}; check their power, "
            "their ids, the cables before them and the baud rate"
        )

    def sync_write(self, register: Register, values: Sequence[int]) -> None:
        """Tell every servo its value, in the order of the servos; whether it came is not known.

        Raises OSError where the port is lost.
        """
        told = zip(self.servos, values, strict=True)
        data = b"".join(bytes([servo]) + register.encode(int(value)) for servo, value in told)
        self._transport.write(packet(EVERYBODY, SYNC_WRITE, bytes([register.address, register.size]) + data))

    def write(self, register: Register, values: Sequence[int]) -> None:
        """Tell every servo its value, until all of them have it.

        Raises ConnectionError where one does not take it, and the errors of `sync_read`.
        """
        wrong = ""
        for _ in range(ATTEMPTS):
            self.sync_write(register, values)
            held = [answer.values[0] for answer in self.sync_read(register).values()]
            each = zip(self.servos.items(), values, held, strict=True)
            wrong = ", ".join(f"{servo} ({name}) {is_} for {told}" for (servo, name), told, is_ in each if told != is_)
            if not wrong:
                return
        raise ConnectionError(
            f"register {register.address} must hold what it is told, but of servo {wrong}: switch the power of the "
            "servos off and on"
        )

    def close(self) -> None:
        """Release the port; the servos go on with what they were told."""
        self._transport.close()

    def _ask(self, servos: Collection[int], start: int, size: int) -> dict[int, tuple[Fault, bytes]]:
        self._transport.write(packet(EVERYBODY, SYNC_READ, bytes([start, size, *servos])))
        received, found = b"", dict[int, tuple[Fault, bytes]]()
        while len(found) < len(servos) and len(received) < MOST:
            heard = self._transport.read(max(1, self._transport.in_waiting))
            if not heard:
                break
            received += heard
            found = answers(received, servos, size)
        return found


def _decoded(fault: Fault, data: bytes, registers: Sequence[Register], start: int) -> Answer:
    parts = ((each, each.address - start) for each in registers)
    return Answer(fault, tuple(each.decode(data[place : place + each.size]) for each, place in parts))
