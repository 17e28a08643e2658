"""Feetech's serial-bus servos of the STS series: packets, registers, and a bus for all servos.

A packet is FF FF, an id, the number of bytes that follow, an instruction (in a reply: the faults of the servo),
parameters and a checksum. Two instructions are enough. SYNC READ requests the same registers from many servos, which
reply in turn. SYNC WRITE sends each servo its own value without a reply, so important values are read back.

Both instructions are sent to the broadcast id, which no reply carries. The echo of an adapter therefore cannot be
taken for a reply, and needs no setting. (The echo of a PING equals the reply of a servo with low voltage.)

Source: Feetech's manual of the communication protocol, and the memory table of the STS series.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import IntFlag
from typing import Any, NamedTuple, Protocol

SYNC_READ, SYNC_WRITE = 0x82, 0x83

EVERYBODY = 0xFE
"""The broadcast id. The ids of servos are below it."""

STEPS = 4096
"""Encoder steps per turn."""

BAUD_RATE = 1_000_000
"""The baud rate of new servos."""

STS3215 = 777
"""The model number of the servos of an SO-100 or SO-101."""

SILENCE_S = 0.02
"""Time without a byte after which no reply will follow, s. Some adapters buffer bytes for 16 ms."""

ATTEMPTS = 5
"""Number of times that a request or a write is tried."""

MOST = 4096
"""Upper bound of the bytes after a request; more is noise."""


class Fault(IntFlag):
    """The faults that a servo reports in each reply."""

    VOLTAGE = 1
    SENSOR = 2
    TEMPERATURE = 4
    CURRENT = 8
    OVERLOAD = 32


class Register(NamedTuple):
    """A number in the memory of a servo, low byte first.

    address, size: in bytes. sign: the index of the sign bit of a sign-magnitude number; None if it is never negative.

    >>> Register(31, 2, sign=11).encode(-5).hex(), Register(31, 2, sign=11).decode(bytes.fromhex("0508"))
    ('0508', -5)
    """

    address: int
    size: int
    sign: int | None = None

    def encode(self, value: int) -> bytes:
        """The bytes of a number. Raises ValueError if the register cannot hold it."""
        most = 256**self.size - 1 if self.sign is None else (1 << self.sign) - 1
        least = 0 if self.sign is None else -most
        if not least <= value <= most:
            raise ValueError(f"register {self.address} must hold {least} to {most}, got {value}")
        sign = 1 << self.sign if self.sign is not None and value < 0 else 0
        return (abs(value) | sign).to_bytes(self.size, "little")

    def decode(self, data: bytes) -> int:
        """The number in `data`."""
        number = int.from_bytes(data, "little")
        if self.sign is None:
            return number
        magnitude = number & ((1 << self.sign) - 1)
        return -magnitude if number >> self.sign & 1 else magnitude


# Persistent, and writable only while LOCK is 0. A position is the reading of the encoder minus the offset.
MODEL, RANGE_MIN, RANGE_MAX = Register(3, 2), Register(9, 2), Register(11, 2)
HOMING_OFFSET, MODE = Register(31, 2, sign=11), Register(33, 1)
# Volatile. LOAD is in 0.1 %, VOLTAGE in 0.1 V, TEMPERATURE in °C. In MODE 0, a servo goes to positions.
TORQUE, GOAL, LOCK = Register(40, 1), Register(42, 2, sign=15), Register(55, 1)
POSITION, LOAD = Register(56, 2, sign=15), Register(60, 2, sign=10)
VOLTAGE, TEMPERATURE = Register(62, 1), Register(63, 1)


class Transport(Protocol):
    """Bytes in both directions, as in `serial.Serial`. Raises OSError if the port is lost."""

    @property
    def in_waiting(self) -> int:
        """The number of bytes that can be read without waiting."""
        ...

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes: those that arrive within `SILENCE_S`."""
        ...

    def write(self, data: bytes, /) -> Any:
        """Send all bytes."""
        ...

    def close(self) -> None:
        """Release the port."""
        ...


def open_port(port: str, baud_rate: int) -> Transport:
    """Open a serial port for this program alone.

    Raises ValueError if pyserial is not installed, and ConnectionError if the port cannot be opened.
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
    """The bytes of a packet.

    >>> packet(EVERYBODY, SYNC_READ, bytes([56, 8, 1, 2])).hex(" ")  # from the manual
    'ff ff fe 06 82 38 08 01 02 36'
    """
    body = bytes([servo, len(parameters) + 2, instruction, *parameters])
    return b"\xff\xff" + body + bytes([~sum(body) & 0xFF])


def replies(received: bytes, servos: Collection[int], size: int) -> dict[int, tuple[Fault, bytes]]:
    """The faults and `size` data bytes of each servo that replied, among other bytes. The last reply counts.

    >>> replies(bytes.fromhex("ff 00 ff ff 01 03 20 07 d4 ff"), [1, 2], 1)
    {1: (<Fault.OVERLOAD: 32>, b'\\x07')}
    """
    matches: dict[int, tuple[Fault, bytes]] = {}
    start = received.find(b"\xff\xff")
    while start >= 0:
        whole = received[start : start + size + 6]
        if len(whole) == size + 6 and whole[2] in servos and whole == packet(whole[2], whole[4], whole[5:-1]):
            matches[whole[2]] = Fault(whole[4]), whole[5:-1]
            start += len(whole) - 1
        start = received.find(b"\xff\xff", start + 1)
    return matches


class Reply(NamedTuple):
    """The faults of a servo, and the values of the requested registers in order."""

    fault: Fault
    values: tuple[int, ...]


class Bus:
    """The servos on one wire. Only one thread may use it at a time.

    Skips bytes that are no reply, and repeats a request up to `ATTEMPTS` times for silent servos.

    servos: the id of each servo -> its name in messages.
    """

    def __init__(self, transport: Transport, servos: Mapping[int, str]) -> None:
        self.servos = servos
        self._transport = transport

    def sync_read(self, *registers: Register) -> dict[int, Reply]:
        """Read registers of every servo, in the order of the servos. One request covers all registers.

        Raises TimeoutError if a servo does not reply, and OSError if the port is lost.
        """
        start = min(register.address for register in registers)
        size = max(register.address + register.size for register in registers) - start
        received: dict[int, tuple[Fault, bytes]] = {}
        for attempt in range(ATTEMPTS):
            received |= self._ask([servo for servo in self.servos if servo not in received], start, size)
            if len(received) == len(self.servos):
                if attempt:  # a reply does not name its request: drain late replies before the next one
                    self._transport.read(MOST)
                return {servo: _decoded(*received[servo], registers, start) for servo in self.servos}
        missing = ", ".join(f"{servo} ({name})" for servo, name in self.servos.items() if servo not in received)
        raise TimeoutError(
            f"of {len(self.servos)} servos these did not reply, asked {ATTEMPTS} times: {missing}; check their power, "
            "their ids, the cables before them and the baud rate"
        )

    def sync_write(self, register: Register, values: Sequence[int]) -> None:
        """Send every servo its value, in the order of the servos, without confirmation.

        Raises OSError if the port is lost.
        """
        pairs = zip(self.servos, values, strict=True)
        data = b"".join(bytes([servo]) + register.encode(int(value)) for servo, value in pairs)
        self._transport.write(packet(EVERYBODY, SYNC_WRITE, bytes([register.address, register.size]) + data))

    def write(self, register: Register, values: Sequence[int]) -> None:
        """Send every servo its value, and repeat until all of them hold it.

        Raises ConnectionError if a servo does not take its value, and the errors of `sync_read`.
        """
        wrong = ""
        for _ in range(ATTEMPTS):
            self.sync_write(register, values)
            held = [reply.values[0] for reply in self.sync_read(register).values()]
            wrong = ", ".join(
                f"{servo} ({name}) holds {actual} instead of {value}"
                for (servo, name), value, actual in zip(self.servos.items(), values, held, strict=True)
                if actual != value
            )
            if not wrong:
                return
        raise ConnectionError(
            f"register {register.address} must hold the value that was written, but servo {wrong}: switch the power of "
            "the servos off and on"
        )

    def close(self) -> None:
        """Release the port. The servos continue with their last command."""
        self._transport.close()

    def _ask(self, servos: Collection[int], start: int, size: int) -> dict[int, tuple[Fault, bytes]]:
        self._transport.write(packet(EVERYBODY, SYNC_READ, bytes([start, size, *servos])))
        received, matches = b"", dict[int, tuple[Fault, bytes]]()
        while len(matches) < len(servos) and len(received) < MOST:
            data = self._transport.read(max(1, self._transport.in_waiting))
            if not data:
                break
            received += data
            matches = replies(received, servos, size)
        return matches


def _decoded(fault: Fault, data: bytes, registers: Sequence[Register], start: int) -> Reply:
    parts = ((register, register.address - start) for register in registers)
    return Reply(fault, tuple(register.decode(data[begin : begin + register.size]) for register, begin in parts))
