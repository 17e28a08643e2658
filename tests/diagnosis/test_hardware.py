"""GPU, renderer, cores: what the machine has and what torch sees of it."""

import pytest
from recede.diagnosis import hardware
from recede.diagnosis.hardware import _gpus as of_gpus
from recede.diagnosis.hardware import gpus_of_driver, look_at_rendering, look_at_torch
from recede.diagnosis.machine import look_at_machine

GPU = {"name": "Large", "free": 70.0, "memory": 80.0, "fault": ""}


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A driver that lists a GPU."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho Large, 555.1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_a_gpu_that_torch_does_not_see_is_a_warning(driver):
    assert gpus_of_driver() == ["Large, 555.1"]
    (finding,) = of_gpus([], gpus_of_driver(), None)
    assert finding.severity == "warning"
    assert "the build for CPUs" in finding.what
    (finding,) = of_gpus([], gpus_of_driver(), "12.8")
    assert "built for CUDA 12.8" in finding.what
    assert "CUDA_VISIBLE_DEVICES" in finding.remedy


def test_a_driver_that_does_not_answer_is_a_problem(driver, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "DRIVER_S", 0.1)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 600\n")
    facts = {}
    finding = next(look_at_torch(facts))
    assert (finding.severity, facts) == ("problem", {"gpus of the driver": None})
    assert "nvidia-smi did not return within 0.1 s" in finding.what


def test_a_gpu_that_cannot_compute_is_a_problem():
    (fine, wrong) = of_gpus([GPU, GPU | {"fault": "no kernel image"}], [], "12.8")
    assert (fine.severity, wrong.severity) == ("ok", "problem")
    assert "no kernel image" in wrong.what


def test_a_renderer_that_fails_is_a_warning_with_what_to_install(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    facts = {}
    (finding,) = look_at_rendering(facts)
    assert finding.severity == "warning"
    assert "MUJOCO_GL=nonsense was asked for, and fails here" in finding.what
    assert "unset MUJOCO_GL" in finding.remedy
    assert facts["renderer"] is None


def test_more_threads_than_cores_are_a_warning(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1000")
    monkeypatch.setenv("RECEDE_TOKEN", "secret-of-a-server")
    facts = {}
    warnings = [finding for finding in look_at_machine(facts) if finding.severity == "warning"]
    assert any("1000 threads" in finding.what and "OMP_NUM_THREADS=" in finding.remedy for finding in warnings)
    assert facts["variables"]["OMP_NUM_THREADS"] == "1000"
    assert "secret-of-a-server" not in str(facts)
