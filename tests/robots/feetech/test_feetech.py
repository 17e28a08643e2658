"""The protocol of the servos: bytes as in the manual, and a bus with every kind of fault."""

import contextlib
import sys
import time

import pytest
from emulated_bus import EmulatedBus
from hypothesis import example, given
from hypothesis import strategies as st
from recede.robots.feetech.bus import (
    ATTEMPTS,
    BAUD_RATE,
    EVERYBODY,
    GOAL,
    HOMING_OFFSET,
    LOAD,
    MODEL,
    POSITION,
    SYNC_READ,
    SYNC_WRITE,
    TEMPERATURE,
    TORQUE,
    VOLTAGE,
    Bus,
    Fault,
    Register,
    Reply,
    open_port,
    packet,
    replies,
)

NAMES = {1: "base", 2: "shoulder", 3: "elbow", 4: "wrist", 5: "roll", 6: "gripper"}


@pytest.fixture
def emulated():
    bus = EmulatedBus()
    yield bus
    bus.unplug()


@pytest.fixture
def bus(emulated):
    with contextlib.closing(Bus(open_port(emulated.port, BAUD_RATE), NAMES)) as opened:
        yield opened


# Bytes


@pytest.mark.parametrize(
    ("servo", "instruction", "parameters", "message"),
    [
        (1, 0x01, "", "ff ff 01 02 01 fb"),  # PING
        (1, 0x02, "38 02", "ff ff 01 04 02 38 02 be"),  # READ of the position
        (EVERYBODY, SYNC_READ, "38 08 01 02", "ff ff fe 06 82 38 08 01 02 36"),
        (
            EVERYBODY,
            SYNC_WRITE,
            "2a 06 01 00 08 00 00 e8 03 02 00 08 00 00 e8 03 03 00 08 00 00 e8 03 04 00 08 00 00 e8 03",
            "ff ff fe 20 83 2a 06 "
            "01 00 08 00 00 e8 03 02 00 08 00 00 e8 03 03 00 08 00 00 e8 03 04 00 08 00 00 e8 03 58",
        ),
    ],
)
def test_packets_are_those_of_the_manual(servo, instruction, parameters, message):
    assert packet(servo, instruction, bytes.fromhex(parameters)).hex(" ") == message


def test_replies_are_those_of_the_manual():
    received = bytes.fromhex("ff ff 01 0a 00 00 08 00 00 00 00 79 1e 55 ff ff 02 0a 00 ff 07 00 00 00 00 77 23 53")
    matches = replies(received, [1, 2], 8)
    assert {servo: fault for servo, (fault, _) in matches.items()} == {1: Fault(0), 2: Fault(0)}
    assert [POSITION.decode(data[:2]) for _, data in matches.values()] == [2048, 2047]
    assert [VOLTAGE.decode(data[6:7]) for _, data in matches.values()] == [121, 119]
    assert [TEMPERATURE.decode(data[7:8]) for _, data in matches.values()] == [30, 35]


@pytest.mark.parametrize(
    ("register", "value", "data"),
    [
        (POSITION, 1000, "e8 03"),
        (POSITION, -1000, "e8 83"),
        (HOMING_OFFSET, -100, "64 08"),
        (HOMING_OFFSET, 2047, "ff 07"),
        (LOAD, -500, "f4 05"),
        (TORQUE, 1, "01"),
    ],
)
def test_numbers_are_stored_as_sign_and_magnitude(register, value, data):
    assert register.encode(value).hex(" ") == data
    assert register.decode(bytes.fromhex(data)) == value


registers = st.builds(Register, st.just(0), st.just(2), st.one_of(st.none(), st.integers(1, 15)))


@given(registers, st.integers(-70_000, 70_000))
def test_a_written_number_is_read(register, value):
    most = 65_535 if register.sign is None else 2**register.sign - 1
    if (0 if register.sign is None else -most) <= value <= most:
        assert register.decode(register.encode(value)) == value
    else:
        with pytest.raises(ValueError, match=rf"register 0 .* to {most}, got {value}"):
            register.encode(value)


@given(st.binary(max_size=200), st.integers(0, 4))
@example(b"\xff\xff\x01\x03\x00\x07\xf4", 1)
def test_noise_is_a_reply_only_if_it_is_a_valid_packet(noise, size):
    for servo, (fault, data) in replies(noise, range(254), size).items():
        body = bytes([servo, size + 2, fault, *data])
        assert b"\xff\xff" + body + bytes([255 - sum(body) % 256]) in noise


@given(st.lists(st.integers(0, 254), max_size=50), st.binary(max_size=50), st.integers(0, 253), st.binary(max_size=20))
def test_a_reply_is_recognized_after_noise(noise, after, servo, data):
    received = bytes(noise) + b"\xff" + packet(servo, 32, data) + after
    assert replies(received, [servo], len(data))[servo][0] is Fault.OVERLOAD


def test_an_echo_is_no_reply():
    request = packet(EVERYBODY, SYNC_READ, bytes([56, 2, *range(1, 7)]))
    command = packet(EVERYBODY, SYNC_WRITE, bytes([42, 2, 1, 0xFF, 0x0F, 2, 0xFF, 0x8F]))
    for size in range(16):
        assert replies(request + command, range(254), size) == {}


# On a bus


def test_registers_are_read_from_all_servos_at_once(bus, emulated):
    emulated.servos[2].encoder = 1234
    emulated.servos[3].fault = 4 | 32
    replied = bus.sync_read(VOLTAGE, POSITION)
    assert list(replied) == list(NAMES)
    assert replied[2] == Reply(Fault(0), (74, 1234))
    assert replied[3] == Reply(Fault.TEMPERATURE | Fault.OVERLOAD, (74, 2048))
    assert [request.hex(" ") for request in emulated.requests] == ["ff ff fe 0a 82 38 07 01 02 03 04 05 06 21"]


def test_registers_are_written_to_all_servos_and_read_back(bus, emulated):
    bus.write(GOAL, [2001, 2002, 2003, 2004, 2005, 2006])
    assert emulated.writes == [(servo, 42, 2000 + servo) for servo in NAMES]
    assert [request[4] for request in emulated.requests] == [SYNC_WRITE, SYNC_READ]


def dropped(servo, answer):
    return b""


def corrupted(servo, answer):
    return answer[:5] + bytes([answer[5] ^ 1]) + answer[6:]


def cut(servo, answer):
    return answer[:-2]


def noisy(servo, answer):
    return b"\xff\xff\x01\xfa\x00\xff" + answer + b"\xff\xff"


def late():
    """The third servo is sometimes late, so it gets a second request and replies twice; later servos wait."""
    heard = iter(range(10**9))

    def sometimes(servo, answer):
        if servo == 3:
            time.sleep((0.03, 0.01, 0, 0, 0)[next(heard) % 5])
        return answer

    return sometimes


def once_in(times, mangle):
    """A fault in one of every few replies of each servo."""
    heard = dict.fromkeys(NAMES, 0)

    def sometimes(servo, answer):
        heard[servo] += 1
        return mangle(servo, answer) if heard[servo] % times == 0 else answer

    return sometimes


FAULTS = {
    "dropped": once_in(3, dropped),
    "corrupted": once_in(3, corrupted),
    "cut": once_in(3, cut),
    "noise": noisy,
    "late": late(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_bus_survives_a_passing_fault(bus, emulated, fault):
    emulated.mangle = FAULTS[fault]
    for step in range(20):
        emulated.servos[4].encoder = 1500 + step
        assert [answer.values for answer in bus.sync_read(MODEL).values()] == [(777,)] * 6
        assert bus.sync_read(POSITION)[4].values == (1500 + step,)


def test_an_adapter_may_echo(bus, emulated):
    emulated.echo = True
    bus.write(GOAL, [2000] * 6)
    assert bus.sync_read(GOAL) == dict.fromkeys(NAMES, Reply(Fault(0), (2000,)))


def test_a_silent_servo_is_named(bus, emulated):
    del emulated.servos[3], emulated.servos[5]
    with pytest.raises(TimeoutError, match=r"asked 5 times: 3 \(elbow\), 5 \(roll\)"):
        bus.sync_read(POSITION)
    assert len(emulated.requests) == ATTEMPTS
    assert emulated.requests[1][7:-1] == bytes([3, 5])  # no other servo gets a second request


@pytest.mark.parametrize("mangle", [dropped, corrupted, cut, lambda servo, answer: b"\xff" * 3000])
def test_a_lasting_fault_is_an_error(bus, emulated, mangle):
    emulated.mangle = mangle
    with pytest.raises(TimeoutError, match="power"):
        bus.sync_read(POSITION)


class Noise:
    """A line that is never quiet."""

    in_waiting = 100

    def write(self, data):
        pass

    def read(self, size):
        return b"\xff" * size


def test_endless_noise_is_an_error():
    with pytest.raises(TimeoutError, match="not reply"):
        Bus(Noise(), NAMES).sync_read(POSITION)


def test_a_servo_that_does_not_take_a_value_is_named(bus, emulated):
    emulated.servos[2].write = lambda address, data: None
    with pytest.raises(ConnectionError, match=r"register 42 .* servo 2 .* 1 instead of 2000: switch"):
        bus.write(GOAL, [2000] * 6)
    assert emulated.goals(2) == [2000] * ATTEMPTS


def test_a_lost_port_is_an_error(bus, emulated):
    emulated.unplug()
    with pytest.raises(OSError):
        bus.sync_read(POSITION)


def test_the_error_of_a_missing_port_names_the_remedy(tmp_path):
    with pytest.raises(ConnectionError, match=r"/nothing cannot be opened .*: plug"):
        open_port(str(tmp_path / "nothing"), BAUD_RATE)


def test_a_port_is_for_one_program(bus, emulated):
    with pytest.raises(ConnectionError, match="close other programs that use it"):
        open_port(emulated.port, BAUD_RATE)


def test_without_pyserial_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(ValueError, match=r"a serial port needs pyserial: pip install 'recede\[arm\]'"):
        open_port("anything", BAUD_RATE)
