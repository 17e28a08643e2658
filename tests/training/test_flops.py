"""The FLOPs of an update are those of its matrix products, and the metrics say how many there were a second."""

import pytest
import torch
from recede.checkpoints.runs import read_metrics
from recede.configs.components.networks import DiTConfig, UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.configs.training import TrainConfig
from recede.policy.networks import cpu_training
from recede.training import flops
from recede.training.flops import PEAKS, peak
from recede.training.loop import prepare
from recede.training.parts import window_flops
from torch import nn


def prepared(dataset, tmp_path, network, **options):
    options = {"batch_size": 12, "device": "cpu"} | options
    config = TrainConfig(
        dataset=str(dataset), out=str(tmp_path / "run"), policy=DiffusionConfig(network=network), **options
    )
    return prepare(config)


class TwoLayers(nn.Module):
    """The parts of a policy that its loss needs, with two matrices."""

    noise_shape, num_uniforms = (1, 1, 1), 0

    def __init__(self, inputs, size):
        super().__init__()
        self.first, self.second = nn.Linear(inputs, size), nn.Linear(size, 1)

    def loss(self, lesson):
        assert not cpu_training.serves(lesson.action)
        return self.second(self.first(lesson.action))[None, ..., 0]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_flops_are_those_of_the_matrix_products(reaches, tmp_path, accumulate):
    ready = prepared(reaches, tmp_path, DiTConfig(num_layers=1, num_heads=2, size=16), accumulate=accumulate)
    steps, inputs = ready.windows.horizons.prediction, ready.demonstrations.specification.action.size
    policy = TwoLayers(inputs, 5)
    forward = 2 * steps * (inputs * 5 + 5)
    # Backward: both matrices, and the inputs of the second one; those of the first are data.
    assert window_flops(ready._replace(policy=policy), None) == forward + forward + 2 * steps * 5
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_the_flops_do_not_depend_on_the_layers_that_serve(reaches, tmp_path, monkeypatch):
    ready = prepared(reaches, tmp_path, UNet1dConfig(channels=[8, 16], groups=2, time_size=8))
    count = window_flops(ready, None)
    assert cpu_training.serves(torch.zeros(1))
    monkeypatch.setattr(cpu_training, "serves", lambda x: False)
    assert window_flops(ready, None) == count


def test_the_metrics_tell_the_rate_and_the_wait(recede, reaches, tmp_path, monkeypatch):
    network = UNet1dConfig(channels=[8, 16], groups=2, time_size=8)
    count = window_flops(prepared(reaches, tmp_path, network), None)
    options = ["policy.network.channels=[8,16]", "policy.network.groups=2", "policy.network.time_size=8", "device=cpu"]
    monkeypatch.setattr(flops, "peak", lambda device, precision: {"fp32": 0.5}[precision])
    monkeypatch.setattr("recede.training.recorder.peak", flops.peak)
    result = recede("train", f"dataset={reaches}", f"out={tmp_path / 'run'}", "steps=4", "log_every=2", *options)
    assert result.status == 0, result.err
    lines = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert len(lines) == 2
    for line in lines:
        assert line["tflops"] == pytest.approx(1e-12 * count * line["windows_per_s"])
        assert line["peak_share"] == pytest.approx(line["tflops"] / 0.5)
        assert line["data_share"] == pytest.approx(line["data_s"] / (line["data_s"] + line["update_s"]))


def test_peaks_are_those_of_the_precision(monkeypatch):
    gpu = torch.device("cuda")
    assert peak(torch.device("cpu"), "fp32") is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert peak(gpu, "bf16") == 989.5
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert peak(gpu, "fp32") == 494.5
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert peak(gpu, "fp32") == 67
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another GPU")
    assert peak(gpu, "bf16") is None
    assert all(0 < one.fp32 <= one.tf32 < one.bf16 for one in PEAKS.values())
