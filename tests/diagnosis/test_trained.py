"""A trained policy is held against demonstrations that changed, and its encoder shows what it gets."""

from types import SimpleNamespace

import cameras
import numpy as np
import pytest
import torch
import toys
from recede.configs.components.encoders import ResNetEncoderConfig
from recede.datasets.episode_writer import NewEpisode
from recede.datasets.store import DemonstrationStore
from recede.diagnosis.errors import Errors, of_dimensions
from recede.diagnosis.trained import (
    Trained,
    look_at_engines,
    look_at_errors,
    look_at_images,
    look_at_policy,
    look_at_ranges,
    open_trained,
)
from recede.specification import Horizons


def opened(trained, dataset):
    return open_trained(str(trained), dataset=str(dataset), task="toys:REACH", episodes=None)


def changed(path, store, change):
    """The episodes of a store with other values, with limits that allow them."""
    whole = DemonstrationStore.open(store)
    copy = DemonstrationStore.create(path, whole.specification)
    copy.append_many([NewEpisode(change(whole.episode(index))) for index in range(len(whole))])
    return copy


def test_demonstrations_of_the_training_are_within_the_ranges(trained, reaches):
    policy = opened(trained, reaches)
    findings = list(look_at_ranges(policy.policy.normalizer, policy.demonstrations, facts := {}))
    assert "problem" not in {finding.severity for finding in findings}
    assert max(facts["share beyond the range"].values(), default=0) < 0.1
    assert all(finding.severity == "ok" for finding in look_at_policy(policy, facts, run=str(trained)))
    assert facts["horizons"] == {"observation": 2, "prediction": 16, "action": 8}


def test_demonstrations_in_another_unit_are_a_problem(trained, reaches, tmp_path):
    def in_centimetres(episode):
        return episode | {"position": 100 * episode["position"]}

    policy = opened(trained, reaches)
    store = changed(tmp_path / "d.zarr", reaches, in_centimetres)
    problems = [f for f in look_at_ranges(policy.policy.normalizer, store, {}) if f.severity == "problem"]
    assert "position.x is in [-" in problems[0].what
    assert "units" in problems[0].remedy


def test_a_sensor_that_is_stuck_is_a_warning(trained, reaches, tmp_path):
    def stuck(episode):
        return episode | {"target": np.full_like(episode["target"], 0.3)}

    policy = opened(trained, reaches)
    findings = look_at_ranges(policy.policy.normalizer, changed(tmp_path / "d.zarr", reaches, stuck), {})
    (warning,) = [finding for finding in findings if "constant" in finding.what]
    assert warning.severity == "warning"
    assert "target.x, target.y moved in the training, and is constant" in warning.what


def test_errors_are_those_of_held_out_episodes_in_units(trained, reaches):
    policy, facts = opened(trained, reaches), {}
    overall, *dimensions = look_at_errors(policy, policy.demonstrations, facts)
    assert (facts["episodes"], facts["kind"]) == (1, "that it has not learned")
    assert "of 1 episode that it has not learned it errs by" in overall.what
    assert [finding.what.partition(":")[0] for finding in dimensions] == ["action.x", "action.y"]
    assert all(" m, " in finding.what for finding in dimensions)
    assert set(facts["policy"]) == {"action.x", "action.y"}


def test_a_dimension_without_motion_is_left_out_and_a_useless_one_noted():
    span = np.array([0.0, 2.0])
    errors = Errors(np.array([0.0, 1.0]), np.array([0.0, 0.5]), np.array([0.0, 0.1]), span, 3)
    (finding,) = of_dimensions(errors, toys.SPECIFICATION.action)
    assert finding.severity == "note"
    assert finding.what.startswith("action.y: 1 m, 50.0% of its range; holding the last action errs by 5.0%")
    assert errors.share(errors.policy) == 0.5


@pytest.mark.parametrize(("crop", "severity"), [([8, 8], "warning"), (None, "ok")])
def test_the_picture_shows_the_share_that_the_encoder_gets(filmed, tmp_path, crop, severity):
    from PIL import Image

    store = DemonstrationStore.open(filmed)
    horizons = Horizons(observation=1, prediction=4, action=2)
    encoder = ResNetEncoderConfig(width=16, stages=1, crop=crop).build(store.specification, horizons)
    policy = SimpleNamespace(encoder=encoder, specification=store.specification)
    facts = {}
    *shares, picture = look_at_images(Trained(policy, {}, store, None), facts, out=tmp_path / "seen.png")
    assert {finding.severity for finding in shares} == {severity}
    height, width = cameras.SCENE.shape[:2]
    assert facts["shares of the images"][cameras.SCENE.name] == (64 / (height * width) if crop else 1)
    assert picture.what == f"picture: {tmp_path / 'seen.png'}"
    with Image.open(tmp_path / "seen.png") as image:
        assert image.size[0] > 500


def test_what_is_visible_is_the_centre_of_the_image(filmed):
    specification = DemonstrationStore.open(filmed).specification
    horizons = Horizons(observation=1, prediction=4, action=2)
    encoder = ResNetEncoderConfig(width=16, stages=1, crop=[8, 8]).build(specification, horizons)
    image = torch.arange(cameras.SCENE.size).view(cameras.SCENE.shape).to(torch.uint8)
    top, left = ((size - 8) // 2 for size in cameras.SCENE.shape[:2])
    assert torch.equal(encoder.visible(cameras.SCENE.name, image), image[top : top + 8, left : left + 8].float())


def test_a_policy_without_demonstrations_says_so(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy = open_trained(str(trained), dataset=None, task=None, episodes=None)
    policy = policy._replace(demonstrations=None, absence="its demonstrations are not here")
    *_, note = look_at_policy(policy, {}, run=str(trained))
    assert "are not here" in note.what
    assert "dataset=" in note.remedy


def test_other_streams_are_refused(trained, demonstrations):
    with pytest.raises(ValueError, match=r"there is no observation 'position'"):
        open_trained(str(trained), dataset=str(demonstrations), task=None, episodes=None)


@pytest.mark.slow
def test_engines_agree_with_pytorch_in_another_process(trained, reaches):
    source = str(reaches), None
    findings = list(look_at_engines(str(trained), facts := {}, source=source, imports=[]))
    assert {finding.severity for finding in findings} == {"ok"}
    assert set(facts["engines"]) == {"eager", "onnx", "openvino", "openvino_fp32"}


def test_an_engine_that_differs_is_a_warning(monkeypatch):
    verdicts = [("eager", "usable", "eager"), ("onnx", "differs", "onnx: off"), ("openvino", "absent", "openvino: no")]
    monkeypatch.setattr("recede.diagnosis.trained.answer", lambda *_, **__: verdicts)
    warning, note = look_at_engines("run", {}, source=None, imports=[])
    assert (warning.severity, note.severity) == ("warning", "note")
    assert "engine=onnx" in warning.remedy
