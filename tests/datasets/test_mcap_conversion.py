"""Recordings of ROS 2 whose values are closed forms of time become stores whose steps are what these forms say."""

import numpy as np
import pytest
from mcap_data import image, in_turn, joints, numbers, write
from recede.datasets.converted import Converted
from recede.datasets.copying import copy, verify
from recede.datasets.formats.mcap import Mcap
from recede.datasets.formats.recognising import open_foreign
from recede.datasets.formats.resampled import evened
from recede.datasets.store import DemonstrationStore
from timed_data import mapping_of


def sines(times):
    return np.stack([np.sin(times), np.cos(2 * times), times], 1)


def shown(times):
    """Images whose pixels say when they were taken: milliseconds in two bytes."""
    milliseconds = np.round(1000 * np.asarray(times)).astype(int)
    pixels = np.zeros((len(milliseconds), 24, 20, 3), np.uint8)
    pixels[:, :, :, 0], pixels[:, :, :, 1] = (milliseconds // 256)[:, None, None], (milliseconds % 256)[:, None, None]
    return pixels


def recorded(seed, seconds=3.0):
    """Joints at 97 Hz with jitter, images at 29 Hz that begin late, commands at 50 Hz, in the order of arrival."""
    rng = np.random.default_rng(seed)
    of_joints = np.arange(0, seconds, 1 / 97) + rng.uniform(0, 0.004, int(np.ceil(seconds * 97)))
    of_images = np.round(np.arange(0.3, seconds, 1 / 29), 3)
    of_commands = np.arange(0.1, seconds, 1 / 50)
    states = [
        (time + rng.uniform(0.001, 0.002), "/joint_states", "sensor_msgs/msg/JointState", joints(time, position))
        for time, position in zip(of_joints, sines(of_joints), strict=True)
    ]
    images = [
        (time + 0.04, "/camera/image", "sensor_msgs/msg/Image", image(time, pixels))
        for time, pixels in zip(of_images, shown(of_images), strict=True)
    ]
    commands = [
        (time, "/arm/command", "std_msgs/msg/Float64MultiArray", numbers(values[:2]))
        for time, values in zip(of_commands, sines(of_commands), strict=True)
    ]
    return in_turn(states, images, commands), (of_joints, of_images, of_commands)


def check_closed_form(episode, times):
    """Every step of an episode at 20 Hz is what the rule says of the closed forms."""
    of_joints, of_images, of_commands = times
    begin = max(of_joints[0], of_images[0], of_commands[0])
    moments = begin + np.arange(len(episode["action"])) / 20
    end = min(of_joints[-1], of_images[-1], of_commands[-1])
    assert end - 1 / 20 < moments[-1] <= end + 1e-6
    np.testing.assert_allclose(episode["joint_states_position"], sines(moments), atol=2e-4)  # a chord of a sine
    commands = of_commands[np.searchsorted(of_commands, moments + 1e-9, side="right") - 1]
    np.testing.assert_allclose(episode["action"], sines(commands)[:, :2], atol=1e-6)
    pixels = episode["camera_image"][:, 0, 0].astype(int)
    seconds = (256 * pixels[:, 0] + pixels[:, 1]) / 1000
    nearest = np.abs(of_images[:, None] - moments).min(0)
    np.testing.assert_allclose(np.abs(seconds - moments), nearest, atol=1e-8)


def converted_at_20_hz(folder):
    source = open_foreign(folder)
    mapping = mapping_of(source, rate=20)
    return Converted(evened(source, mapping), mapping)


def test_a_recording_becomes_a_store_whose_steps_are_the_closed_form(tmp_path):
    runs = [recorded(seed) for seed in (0, 1)]
    (tmp_path / "runs").mkdir()
    for index, (made, _) in enumerate(runs):
        write(tmp_path / "runs" / f"run_{index}.mcap", made)
    converted = converted_at_20_hz(tmp_path / "runs")
    copy(converted, tmp_path / "runs.zarr", images="png", provenance={})
    store = DemonstrationStore.open(tmp_path / "runs.zarr")
    verify(converted, store)
    for index, (_, times) in enumerate(runs):
        check_closed_form(store.episode(index), times)
        facts = store.episode_facts[index]
        assert facts.rates == pytest.approx({"joint_states_position": 97, "camera_image": 29, "action": 50}, rel=0.02)
        assert facts.delays["camera_image"] == pytest.approx(0.04)
        assert facts.notes["resampled"]["/camera/image"]["farthest"] <= 0.5 / 29 + 1e-3


def test_a_conversion_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    for index in range(3):
        write(tmp_path / "runs" / f"run_{index}.mcap", recorded(index, 1.0)[0])

    read = Mcap.read

    def stopping(dataset, key, episode, start, stop):
        if episode == 2:
            raise KeyboardInterrupt
        return read(dataset, key, episode, start, stop)

    conversion = converted_at_20_hz(tmp_path / "runs")
    with monkeypatch.context() as patch:
        patch.setattr(Mcap, "read", stopping)
        with pytest.raises(KeyboardInterrupt):
            copy(conversion, tmp_path / "a.zarr", images="png", provenance={})
    assert len(DemonstrationStore.open(tmp_path / "a.unfinished.zarr")) == 2
    conversion = converted_at_20_hz(tmp_path / "runs")
    digests = copy(conversion, tmp_path / "a.zarr", images="png", provenance={})
    assert digests == verify(conversion, DemonstrationStore.open(tmp_path / "a.zarr"))
