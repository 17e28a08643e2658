"""Recordings of ROS 2 in MCAP: every value of every type arrives at its time, and damage is named."""

import re
import struct
import tracemalloc
from types import SimpleNamespace as Message

import numpy as np
import pytest
from foreign_data import names_of
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as Container
from mcap_data import BEGIN, compressed, image, in_turn, joints, numbers, pose, twist, write, write_bag
from mcap_data import header as header_at
from recede.datasets.formats import mcap_recording
from recede.datasets.formats.mcap import Mcap
from recede.datasets.formats.mcap_recording import HEADER, LOG
from recede.datasets.formats.recognising import open_foreign
from recede.datasets.formats.resampled import evened
from recede.datasets.mapping import DatasetMapping, propose

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 24, 20, 3), dtype=np.uint8)
VALUES = RNG.normal(size=(4, 7))
TIMES = (0.0, 0.11, 0.19, 0.3)


def messages(topic, kind, made, *, late=0.0):
    """One message at each of TIMES."""
    return [(time + late, topic, kind, made(index, time)) for index, time in enumerate(TIMES)]


def stamped(key, made):
    return lambda index, time: Message(header=header_at(time), **{key: made(VALUES[index])})


COMMANDS = messages("/arm/command", "std_msgs/msg/Float64MultiArray", lambda i, _: numbers(VALUES[i, :2]))
STATES = messages("/joint_states", "sensor_msgs/msg/JointState", lambda i, t: joints(t, VALUES[i, :3]))


@pytest.mark.parametrize(
    ("kind", "made", "expected", "labels", "units"),
    [
        ("sensor_msgs/msg/Image", lambda i, t: image(t, PIXELS[i]), PIXELS, (), ()),
        ("sensor_msgs/msg/Image", lambda i, t: image(t, PIXELS[i], padding=5), PIXELS, (), ()),
        ("sensor_msgs/msg/Image", lambda i, t: image(t, PIXELS[i], "bgr8"), PIXELS[..., ::-1], (), ()),
        ("sensor_msgs/msg/Image", lambda i, t: image(t, PIXELS[i, :, :, :1], "mono8"), PIXELS[..., :1], (), ()),
        ("sensor_msgs/msg/CompressedImage", lambda i, t: compressed(t, PIXELS[i]), PIXELS, (), ()),
        (
            "sensor_msgs/msg/CompressedImage",
            lambda i, t: compressed(t, PIXELS[i, :, :, :1]),
            PIXELS[..., :1],
            (),
            (),
        ),
        (
            "trajectory_msgs/msg/JointTrajectory",
            lambda i, t: Message(
                header=header_at(t),
                joint_names=["a", "b"],
                points=[
                    Message(
                        positions=list(VALUES[i, :2]),
                        velocities=[],
                        accelerations=[],
                        effort=[],
                        time_from_start=Message(sec=0, nanosec=0),
                    )
                ],
            ),
            VALUES[:, :2],
            ("a", "b"),
            (),
        ),
        (
            "geometry_msgs/msg/PoseStamped",
            stamped("pose", pose),
            VALUES,
            ("x", "y", "z", "qx", "qy", "qz", "qw"),
            ("m",) * 3 + ("1",) * 4,
        ),
        (
            "geometry_msgs/msg/Pose",
            lambda i, _: pose(VALUES[i]),
            VALUES,
            ("x", "y", "z", "qx", "qy", "qz", "qw"),
            ("m",) * 3 + ("1",) * 4,
        ),
        (
            "geometry_msgs/msg/TwistStamped",
            stamped("twist", lambda values: twist(values[:6])),
            VALUES[:, :6],
            ("vx", "vy", "vz", "wx", "wy", "wz"),
            ("m/s",) * 3 + ("rad/s",) * 3,
        ),
        (
            "geometry_msgs/msg/Twist",
            lambda i, _: twist(VALUES[i, :6]),
            VALUES[:, :6],
            ("vx", "vy", "vz", "wx", "wy", "wz"),
            ("m/s",) * 3 + ("rad/s",) * 3,
        ),
        ("std_msgs/msg/Float64MultiArray", lambda i, _: numbers(VALUES[i]), VALUES, (), ()),
        (
            "std_msgs/msg/Float32MultiArray",
            lambda i, _: numbers(VALUES[i].astype("float32")),
            VALUES.astype("float32"),
            (),
            (),
        ),
        ("std_msgs/msg/Float64", lambda i, _: Message(data=VALUES[i, 0]), VALUES[:, :1], (), ()),
        (
            "std_msgs/msg/Float32",
            lambda i, _: Message(data=float(np.float32(VALUES[i, 0]))),
            VALUES[:, :1].astype("float32"),
            (),
            (),
        ),
        ("std_msgs/msg/Bool", lambda i, _: Message(data=bool(i % 2)), np.arange(4)[:, None] % 2 == 1, (), ()),
    ],
)
def test_every_value_of_a_type_arrives_at_its_time(tmp_path, kind, made, expected, labels, units):
    has_header = "Stamped" in kind or kind.startswith(("sensor", "trajectory"))
    dataset = Mcap(write(tmp_path / "run.mcap", messages("/topic", kind, made, late=0.02)))
    (column,) = dataset.columns
    assert column.key == ("/topic.positions" if "Trajectory" in kind else "/topic")
    assert (column.labels, column.units, column.dtype) == (labels, units, expected.dtype.name)
    rows = dataset.read(column.key, 0, 0, 4)
    assert rows.dtype == expected.dtype
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(dataset.times(column.key, 0), TIMES, atol=1e-9)
    facts = dataset.episode_facts[0]
    assert facts.notes["clocks"] == {"/topic": HEADER if has_header else LOG}
    assert facts.delays == pytest.approx({column.key: 0.02} if has_header else {})


def test_jpeg_arrives_as_pillow_decodes_it(tmp_path):
    smooth = np.broadcast_to(np.arange(0, 240, 12, dtype=np.uint8)[None, :, None], (24, 20, 3)).copy()
    made = messages("/camera", "sensor_msgs/msg/CompressedImage", lambda i, t: compressed(t, smooth, "jpeg"))
    dataset = Mcap(write(tmp_path / "run.mcap", made))
    assert "jpeg" in dataset.columns[0].note
    np.testing.assert_allclose(dataset.read("/camera", 0, 0, 4), np.stack([smooth] * 4), atol=6)


def test_joints_make_a_column_for_each_quantity_in_the_order_of_the_first_message(tmp_path):
    orders = [("a", "b", "c"), ("c", "a", "b"), ("b", "a", "c"), ("a", "b", "c", "d")]

    def made(index, time):
        values = dict(zip("abc", VALUES[index, :3], strict=True)) | {"d": 9.0}
        ordered = [values[name] for name in orders[index]]
        return joints(time, ordered, orders[index], velocity=[2 * value for value in ordered])

    dataset = Mcap(write(tmp_path / "run.mcap", messages("/joint_states", "sensor_msgs/msg/JointState", made)))
    assert [column.key for column in dataset.columns] == ["/joint_states.position", "/joint_states.velocity"]
    assert dataset.columns[0].labels == ("a", "b", "c")
    np.testing.assert_array_equal(dataset.read("/joint_states.position", 0, 0, 4), VALUES[:, :3])
    np.testing.assert_array_equal(dataset.read("/joint_states.velocity", 0, 1, 3), 2 * VALUES[1:3, :3])


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (lambda t: joints(t, [1, 2], ("a", "c")), "message 2 has no joint 'b', which the first message has, but a, c"),
        (lambda t: joints(t, [], ("a", "b", "c")), "message 2 has no position"),
        (lambda t: joints(t, [1, 2], ("a", "b", "c")), "message 2: it names 3 joints and has 2 values"),
        (lambda t: joints(t, [1, 2, 3], ("a", "b", "b")), "names a joint twice"),
    ],
)
def test_joints_that_differ_from_the_first_message_are_named(tmp_path, odd, message):
    made = list(STATES)
    made[2] = (*made[2][:3], odd(TIMES[2]))
    dataset = Mcap(write(tmp_path / "run.mcap", made))
    dataset.read("/joint_states.position", 0, 0, 2)
    with pytest.raises(ValueError, match=re.escape(message)):
        dataset.read("/joint_states.position", 0, 0, 4)


def test_an_image_of_another_size_is_named(tmp_path):
    kind = "sensor_msgs/msg/Image"
    made = messages("/camera", kind, lambda i, t: image(t, PIXELS[i, : 24 - i // 3]))
    dataset = Mcap(write(tmp_path / "run.mcap", made))
    with pytest.raises(ValueError, match=r"/camera, message 3 must have the shape of the first one, \(24, 20, 3\)"):
        dataset.read("/camera", 0, 0, 4)


def test_the_proposal_takes_commands_for_the_action_and_says_what_is_left_out(tmp_path):
    depth = messages("/depth", "sensor_msgs/msg/Image", lambda i, t: image(t, PIXELS[i], "16UC1"))
    others = messages("/note", "std_msgs/msg/String", lambda i, _: Message(data="x"))
    leading = messages("/leader/image", "sensor_msgs/msg/Image", lambda i, t: image(t, PIXELS[i]))
    path = write(
        tmp_path / "run.mcap",
        in_turn(STATES, COMMANDS, depth, others, leading),
        silent=[("/quiet", "std_msgs/msg/Bool")],
    )
    content = propose(open_foreign(path), rate=20)
    assert content["action"]["key"] == "/arm/command"
    assert set(content["observations"]) == {"joint_states_position", "leader_image"}
    assert content["left_out"]["/note"] == "std_msgs/msg/String is not read"
    assert content["left_out"]["/quiet"] == "run.mcap has no message of it"
    assert "16UC1" in content["left_out"]["/depth"]


def test_a_mapping_that_names_a_topic_of_another_type_is_refused(tmp_path):
    others = messages("/note", "std_msgs/msg/String", lambda i, _: Message(data="x"))
    dataset = open_foreign(write(tmp_path / "run.mcap", in_turn(STATES, COMMANDS, others)))
    content = propose(dataset, rate=20)
    content["observations"]["note"] = {"key": "/note"}
    mapping = DatasetMapping.from_json(content, "m.yaml")
    words = r"note\.key: /note cannot be a stream, because std_msgs/msg/String is not read"
    with pytest.raises(ValueError, match=words):
        evened(dataset, mapping)


def test_commands_of_velocity_are_proposed_as_such(tmp_path):
    made = messages("/cmd_vel", "geometry_msgs/msg/Twist", lambda i, _: twist(VALUES[i, :6]))
    dataset = open_foreign(write(tmp_path / "run.mcap", in_turn(STATES, made)))
    assert propose(dataset, rate=20)["action"]["meaning"] == "velocity"


def test_a_header_of_time_0_leaves_the_log_times(tmp_path):
    made = [
        (time + 0.05, *rest, joints(None if index == 1 else time, VALUES[index, :3]))
        for index, (time, *rest, _) in enumerate(STATES)
    ]
    dataset = Mcap(write(tmp_path / "run.mcap", made))
    np.testing.assert_allclose(dataset.times("/joint_states.position", 0), TIMES, atol=1e-9)
    assert dataset._recordings[0].begin == BEGIN + 50_000_000
    assert dataset.episode_facts[0].delays == {}
    assert "log times" in dataset.columns[0].note


def test_late_and_repeated_messages_are_dropped_and_counted(tmp_path):
    taken = [0.0, 0.1, 0.1, 0.05, 0.2, 0.3]
    made = [
        (0.1 * index, "/joint_states", "sensor_msgs/msg/JointState", joints(time, [float(index)] * 3))
        for index, time in enumerate(taken)
    ]
    dataset = Mcap(write(tmp_path / "run.mcap", [made[1], made[0], *made[2:]]))  # the file is out of order
    np.testing.assert_allclose(dataset.times("/joint_states.position", 0), [0, 0.1, 0.2, 0.3], atol=1e-9)
    assert dataset.read("/joint_states.position", 0, 0, 4)[:, 0].tolist() == [0, 1, 4, 5]
    assert dataset.episode_facts[0].notes["dropped"] == {"/joint_states": 2}


def test_the_time_of_a_header_is_read_in_either_byte_order():
    for order, sign in ((0, ">"), (1, "<")):
        payload = bytes([0, order, 0, 0]) + struct.pack(f"{sign}iI", 1_700_000_000, 5)
        assert mcap_recording._stamp(payload) == 1_700_000_000_000_000_005
    assert mcap_recording._stamp(payload[:11]) == 0


def test_a_clock_that_was_set_back_is_refused(tmp_path):
    made = [(t, *rest, joints(t - 5 * (t > 0.2), [0.0] * 3)) for t, *rest, _ in STATES]
    with pytest.raises(ValueError, match=r"header stamps of /joint_states go back by 4\.89 s"):
        Mcap(write(tmp_path / "run.mcap", made))


def test_files_bags_and_folders_of_them_are_episodes(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    for number in (10, 9):
        write(files / f"run_{number}.mcap", STATES if number == 9 else STATES[:3])
    dataset = open_foreign(files)
    assert names_of(dataset) == ["run_9.mcap", "run_10.mcap"]
    assert dataset.episode_lengths.tolist() == [4, 3]
    assert [file.name for file in dataset.files()] == ["run_9.mcap", "run_10.mcap"]
    bag = write_bag(tmp_path / "bags" / "run", [STATES[:1], STATES[1:3], STATES[3:]])
    for path in (bag, bag.parent):
        dataset = open_foreign(path)
        assert names_of(dataset) == ["run"]
        np.testing.assert_array_equal(dataset.read("/joint_states.position", 0, 0, 4), VALUES[:, :3])
        assert [file.name for file in dataset.files()] == ["run_0.mcap", "run_1.mcap", "run_2.mcap", "metadata.yaml"]
    bag.rename(files / "run")
    with pytest.raises(ValueError, match=r"holds both \(run_9\.mcap, run\)"):
        open_foreign(files)


def rename(bag, suffix):
    text = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(text.replace("run_0.mcap", f"run_0{suffix}"))
    (bag / "run_0.mcap").rename(bag / f"run_0{suffix}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda bag: rename(bag, ".db3"),
            "run_0.db3 is a recording of rosbag2 in SQLite: make one in MCAP with ros2 bag",
        ),
        (lambda bag: rename(bag, ".mcap.zstd"), "decompress it with zstd -d"),
        (lambda bag: (bag / "metadata.yaml").write_text("a: [1"), "ros2 bag reindex"),
        (lambda bag: (bag / "metadata.yaml").write_text("a: 1"), "does not say which files"),
        (lambda bag: (bag / "run_0.mcap").rename(bag / "other.mcap"), "run_0.mcap does not exist"),
    ],
)
def test_a_bag_that_cannot_be_read_is_refused_with_the_remedy(tmp_path, change, message):
    bag = write_bag(tmp_path / "run", [STATES])
    change(bag)
    with pytest.raises(ValueError, match=re.escape(message)):
        open_foreign(bag)


def test_a_topic_that_is_silent_in_one_recording_is_left_out(tmp_path):
    write(tmp_path / "run_1.mcap", in_turn(STATES, COMMANDS))
    write(tmp_path / "run_2.mcap", STATES)
    roles = {column.key: column.role for column in open_foreign(tmp_path).columns}
    assert roles["/arm/command"] == "run_2.mcap has no message of it"


def test_a_topic_of_two_types_is_left_out_and_in_one_file_refused(tmp_path):
    other = messages("/joint_states", "std_msgs/msg/Bool", lambda i, _: Message(data=True))
    write(tmp_path / "run_1.mcap", in_turn(STATES, COMMANDS))
    write(tmp_path / "run_2.mcap", in_turn(other, COMMANDS))
    roles = {column.key: column.role for column in open_foreign(tmp_path).columns}
    assert roles["/joint_states"] == "it has the types sensor_msgs/msg/JointState and std_msgs/msg/Bool"
    bag = write_bag(tmp_path / "bag", [STATES, other])
    with pytest.raises(ValueError, match="has messages of 'sensor_msgs/msg/JointState' and of 'std_msgs/msg/Bool'"):
        open_foreign(bag)


def test_messages_of_other_encodings_are_left_out_and_a_file_of_nothing_else_is_refused(tmp_path):
    with (tmp_path / "run.mcap").open("wb") as file:
        container = Container(file)
        container.start()
        schema = container.register_schema("std_msgs/msg/Bool", "jsonschema", b"{}")
        for topic, identity in (("/json", schema), ("/none", 0)):
            channel = container.register_channel(topic, "json", identity)
            container.add_message(channel, 1, b"{}", 1)
        container.finish()
    with pytest.raises(ValueError, match=r"no topic that can be read: /json \(.*'json' by 'jsonschema'.*/none"):
        open_foreign(tmp_path / "run.mcap")


@pytest.mark.parametrize(
    "options",
    [
        {"compression": CompressionType.NONE},
        {"compression": CompressionType.LZ4},
        {"compression": CompressionType.ZSTD},
        {"use_chunking": False},
        {"use_summary_offsets": False, "use_statistics": False, "repeat_schemas": False, "repeat_channels": False},
        {"index_types": IndexType.NONE},
    ],
)
def test_every_kind_of_container_is_read_in_any_range(tmp_path, options):
    count, rng = 300, np.random.default_rng(1)
    values = rng.normal(size=(count, 3))
    made = [
        (index / 100, "/joint_states", "sensor_msgs/msg/JointState", joints(index / 100, values[index]))
        for index in range(count)
    ]
    dataset = Mcap(write(tmp_path / "run.mcap", made, chunk_size=3000, **options))
    for _ in range(20):
        start, stop = sorted(rng.integers(0, count + 1, 2))
        np.testing.assert_array_equal(dataset.read("/joint_states.position", 0, start, stop), values[start:stop])


@pytest.mark.parametrize("options", [{}, {"use_chunking": False}])
def test_a_truncated_file_is_refused_with_the_remedy_wherever_it_ends(tmp_path, options):
    path = write(tmp_path / "run.mcap", STATES, chunk_size=400, **options)
    content = path.read_bytes()
    for length in [*range(8, len(content) - 40, 97), len(content) - 40]:
        path.write_bytes(content[:length])
        with pytest.raises(
            ValueError, match=r"run\.mcap ends in the middle of a recording: .*mcap recover FILE -o NEW"
        ):
            Mcap(path)
    path.write_bytes(b"MCAP" + content)
    with pytest.raises(ValueError, match="no MCAP file"):
        Mcap(path)


@pytest.mark.parametrize("compression", list(CompressionType))
def test_a_flipped_byte_in_a_chunk_is_named_with_its_place(tmp_path, compression):
    path = write(tmp_path / "run.mcap", STATES, chunk_size=10**6, compression=compression)
    content = bytearray(path.read_bytes())
    with path.open("rb") as file:
        records = list(mcap_recording._records(file, path))
    (offset, length), *_ = [(at, len(body)) for opcode, at, body in records if opcode == 6]
    for place in range(offset + 9 + 60, offset + 9 + length, max(length // 30, 1)):
        damaged = content.copy()
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"run\.mcap: the chunk at byte {offset} is damaged.*mcap recover"):
            Mcap(path)


def test_a_chunk_that_expands_beyond_what_it_declares_takes_no_memory(tmp_path):
    import lz4.frame
    import zstandard

    zeros = bytes(2**28)
    for name, data in (("zstd", zstandard.compress(zeros)), ("lz4", lz4.frame.compress(zeros))):
        tracemalloc.start()
        assert len(mcap_recording._expanded(name, data, 1000)) == 1001
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()


def test_a_damaged_definition_is_named_and_nothing_is_printed(tmp_path, capfd):
    path = write(tmp_path / "run.mcap", STATES, use_chunking=False)
    path.write_bytes(path.read_bytes().replace(b"float64[] effort", b"flRat64[] effort"))
    with pytest.raises(ValueError, match=r"/joint_states \(.*message 0: .*flRat64"):
        Mcap(path)
    assert capfd.readouterr() == ("", "")


def test_messages_that_are_no_ros_messages_are_named(tmp_path):
    path = write(tmp_path / "run.mcap", STATES, use_chunking=False)
    content = path.read_bytes()
    at = content.index(struct.pack("<II", 3, 2) + b"a\x00")  # the number of joints, and the first name
    path.write_bytes(content[:at] + struct.pack("<I", 2**31) + content[at + 4 :])
    with pytest.raises(ValueError, match=r"no topic that can be read: /joint_states \(.*message 0"):
        Mcap(path)


def test_a_chunk_is_decompressed_once_if_its_messages_are_read_in_turn(tmp_path, monkeypatch):
    made = messages("/camera", "sensor_msgs/msg/Image", lambda i, t: image(t, PIXELS[i]))
    dataset, numbers_of_calls = Mcap(write(tmp_path / "run.mcap", made, chunk_size=1)), []
    dataset._chunks._kept.clear()
    expanded = mcap_recording._expanded
    monkeypatch.setattr(mcap_recording, "_expanded", lambda *args: numbers_of_calls.append(args) or expanded(*args))
    for index in (0, 0, 1, 1, 2, 3, 3):
        dataset.read("/camera", 0, index, index + 1)
    assert len(numbers_of_calls) == 4


def test_memory_grows_with_the_rows_that_are_read_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(mcap_recording, "CACHE_BYTES", 2**20)
    pixels = np.zeros((200, 160, 3), np.uint8)
    made = [
        (index / 100, "/camera", "sensor_msgs/msg/Image", image(index / 100, pixels + np.uint8(index % 250)))
        for index in range(500)
    ]
    path = write(tmp_path / "run.mcap", made, chunk_size=2**19)
    del made
    tracemalloc.start()
    dataset = Mcap(path)
    for start in range(0, 500, 5):
        rows = dataset.read("/camera", 0, start, start + 5)
        assert rows[0, 0, 0, 0] == start % 250
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20  # of 48 MB of images
    tracemalloc.stop()
