"""On a simulated GPU nothing mixes devices or waits for the device unawares, and every number is that of the CPU."""

import contextlib
import copy
import inspect
from collections import Counter
from functools import partial, wraps

import diffusers
import numpy as np
import policies
import pytest
import torch
import torch.distributed as dist
import toys
from device_questions import (
    CAMERA,
    CHUNK,
    DIT,
    DROPPING,
    POLICIES,
    PREFIXES,
    SAMPLERS,
    SHORT,
    TIMES,
    UNET,
    answers,
    answers_on_gpu,
    question,
    ready,
    sampled_by,
)
from recede.configs.augmentation import AugmentationConfig
from recede.configs.components import denoising
from recede.configs.components.policies import DiffusionConfig, HorizonsConfig, RegressionConfig
from recede.configs.training import TrainConfig
from recede.datasets import augmentation
from recede.evaluation.rollout import GPU_ROWS, noise_generator, predict, rollout
from recede.execution.receding import RecedingHorizon
from recede.policy.denoising.schedule import DiscreteSchedule
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.engines import eager
from recede.policy.engines.eager import EagerEngine
from recede.policy.networks import cpu_training
from recede.training import ema, gradients, loop, measures
from recede.training.processes import ALONE, Processes
from recede.training.run import Run
from representatives import representatives
from simulated_gpu import DeviceMismatch, Generator, SimulatedGPU
from torch.nn.parallel import DistributedDataParallel

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU would be hidden by the simulated one"),
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # schedulers mix tensors with arrays
]


@pytest.fixture(autouse=True)
def layers_of_a_gpu(monkeypatch):
    """On the CPU, too, the U-Net trains by the layers that a GPU has; those for a CPU round otherwise."""
    monkeypatch.setattr(cpu_training, "serves", lambda x: False)


# --- training


LOW = {"policy": DiffusionConfig(network=UNET, sampler=SHORT), "task": "toys:REACH"}
IMAGES = {
    "policy": DiffusionConfig(encoder=CAMERA, network=UNET, sampler=SHORT),
    "horizons": HorizonsConfig(observation=2, prediction=4, action=2),
    "augmentation": AugmentationConfig(rotation=5),
}
TRAININGS = {
    "unet1d": (LOW, {}),
    "unet1d in bf16": (LOW | {"precision": "bf16", "draws": 2}, {}),
    "transformer": (LOW | {"policy": DiffusionConfig(network=DROPPING, sampler=SHORT)}, {}),
    "dit in bf16": (LOW | {"policy": DiffusionConfig(network=DIT, sampler=SHORT), "precision": "bf16"}, {}),
    "regression": (LOW | {"policy": RegressionConfig(network=UNET)}, {}),
    "images": (IMAGES, {}),
    "mapped images": (IMAGES | {"image_cache": "mapped"}, {"datasets/windows.py": 4}),  # both ways, for two cameras
    "padding masked": (LOW | {"mask_padding": True}, {}),
    "colours": (IMAGES | {"augmentation": AugmentationConfig(brightness=0.3)}, {}),
}
"""Name -> options of a training, and which files wait for the device in each of its steps."""


@pytest.fixture
def train(reaches, filmed, tmp_path, monkeypatch):
    """Trains for four steps, and returns the last checkpoint and what each step but the first waited for."""
    monkeypatch.setenv("RECEDE_CACHE", str(tmp_path / "cache"))

    def train(options, out, gpu=None, processes=ALONE):
        steps, add = [], measures.Meter.add
        changes = {"batch_size": 6, "steps": 4, "warmup": 1, "log_every": 3, "validate_every": 2, "save_every": 2}
        dataset = reaches if "task" in options else filmed
        config = TrainConfig(dataset=str(dataset), out=str(tmp_path / out), **(changes | {"held_out": 0.3} | options))

        def add_and_count(self, *args, **kwargs):
            add(self, *args, **kwargs)
            if gpu is not None:
                steps.append(gpu.waits())
                gpu.clear()

        with monkeypatch.context() as patch:
            patch.setattr(measures.Meter, "add", add_and_count)
            loop.train(config, processes)
        return tmp_path / out / "checkpoints/00000004", steps

    return train


def assert_waits(steps, expected):
    """The second step: the first one follows the preparation, and the third one follows a validation and a save."""
    assert steps[1] == Counter(expected)


def assert_same_files(one, other):
    for name in ("policy.safetensors", "training.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_on_the_gpu_is_that_of_the_cpu_and_waits_only_for_its_data(train, name):
    options, waits = TRAININGS[name]
    expected, _ = train(options | {"device": "cpu"}, "cpu")
    with SimulatedGPU() as gpu:
        trained, steps = train(options, "gpu", gpu)
    assert_same_files(trained, expected)
    assert_waits(steps, waits)
    assert len(gpu.graphs) == 1  # of the last two steps
    with SimulatedGPU() as gpu:
        plain, steps = train(options | {"capture": False}, "plain", gpu)
    assert_same_files(plain, expected)
    assert_waits(steps, waits)
    assert not gpu.graphs


PARTS = {
    "accumulated": LOW | {"accumulate": 3},
    "images computed again": IMAGES | {"gradient_checkpointing": True, "accumulate": 2},
}
"""Name -> options of a training that computes a batch in several passes, or activations again."""


class OnGPU(DistributedDataParallel):
    """It makes its buckets on the device of the parameters, without asking Python."""

    @wraps(DistributedDataParallel.__init__)
    def __init__(self, module, **options):
        with self.labelling(module):
            super().__init__(module, **options)

    def _pre_forward(self, *inputs, **kwargs):
        with self.labelling(self.module):
            return super()._pre_forward(*inputs, **kwargs)

    def labelling(self, module):
        device = next(module.parameters()).device
        return contextlib.nullcontext() if device.type == "cpu" else OnGPU.gpu.labelling(device)


@pytest.fixture
def half(tmp_path, monkeypatch):
    """The first of two processes, whose exchange nobody else has joined: its sums are its own."""
    monkeypatch.setattr(gradients, "DistributedDataParallel", OnGPU)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/join", rank=0, world_size=1)
    yield Processes(rank=0, count=2)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_training_in_parts_on_the_gpu_is_that_of_the_cpu_and_waits_for_nothing(train, name):
    expected, _ = train(PARTS[name] | {"device": "cpu"}, "cpu")
    with SimulatedGPU() as gpu:
        trained, steps = train(PARTS[name], "gpu", gpu)
    assert_same_files(trained, expected)
    assert_waits(steps, {})
    assert not gpu.graphs


@pytest.mark.slow
@pytest.mark.parametrize("options", [LOW, PARTS["images computed again"] | {"batch_size": 8}], ids=["low", "images"])
def test_one_of_several_processes_on_a_gpu_is_that_of_the_cpu_and_waits_for_nothing(train, half, options, monkeypatch):
    expected, _ = train(options | {"device": "cpu"}, "cpu", processes=half)
    with SimulatedGPU() as gpu, monkeypatch.context() as patch:
        patch.setattr(OnGPU, "gpu", gpu, raising=False)
        trained, steps = train(options, "gpu", gpu, processes=half)
    assert_same_files(trained, expected)
    assert_waits(steps, {})
    assert not gpu.graphs


def read_in_the_exchange(self, x, plain=Processes.total):
    x.sum().item()
    return plain(self, x)


def sent_by_the_cpu(self, x, plain=Processes.total):
    return plain(self, x.cpu()).to(x.device)


@pytest.mark.slow
@pytest.mark.parametrize("replacement", [read_in_the_exchange, sent_by_the_cpu])
def test_a_fault_in_the_exchange_is_caught(train, half, monkeypatch, replacement):
    monkeypatch.setattr(Processes, "total", replacement)
    with SimulatedGPU() as gpu:
        monkeypatch.setattr(OnGPU, "gpu", gpu, raising=False)
        _, steps = train(LOW, "gpu", gpu, processes=half)
    with pytest.raises(AssertionError, match="test_devices"):
        assert_waits(steps, {})


def test_a_check_of_the_weights_waits_once():
    with SimulatedGPU() as gpu:
        policy = POLICIES["unet1d"]().to("cuda")
        meter = measures.Meter(torch.device("cuda"))
        gpu.clear()
        assert measures.is_finite(meter, policy)
        assert sum(gpu.waits().values()) == 1


def test_the_times_of_a_step_are_those_of_the_gpu_and_nothing_waits_for_them(monkeypatch):
    monkeypatch.setattr(measures, "MOST_SPANS", 4)
    with SimulatedGPU() as gpu:
        meter, x = measures.Meter(torch.device("cuda:1")), torch.ones((), device="cuda:1")
        gpu.clear()
        for _ in range(5):
            began = meter.moment()
            x + x
            gathered = meter.moment()
            x * x - x
            meter.add(x, x, data_s=(began, gathered), update_s=(gathered, meter.moment()))
        assert not gpu.waits()
        assert meter.drain() == pytest.approx({"loss": 1, "gradient_norm": 1, "data_s": 0.005, "update_s": 0.01})


def test_an_epoch_uploads_its_order_once():
    on_cpu = loop.Order(7, 2, seed=3)
    with SimulatedGPU() as gpu:
        order = loop.Order(7, 2, seed=3, device="cuda")
        for step in range(9):
            indices = order.indices(step)
            assert (step % 3 == 0) == bool(gpu.waits())
            assert indices.tolist() == on_cpu.indices(step).tolist()
            gpu.clear()


@pytest.mark.slow
@pytest.mark.parametrize("begin", [SimulatedGPU, contextlib.nullcontext], ids=["gpu", "cpu"])
def test_a_training_resumes_on_the_gpu(train, monkeypatch, begin):
    save = Run.save

    def save_and_stop(self, step, **state):
        save(self, step, **state)
        raise KeyboardInterrupt

    with begin(), monkeypatch.context() as patch:
        patch.setattr(Run, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(LOW, "resumed")
    with SimulatedGPU():
        assert_same_files(train(LOW, "resumed")[0], train(LOW, "whole")[0])


# --- chunks


@pytest.mark.parametrize("kind", PREFIXES)
@pytest.mark.parametrize("name", POLICIES)
def test_a_chunk_on_the_gpu_is_that_of_the_cpu(name, kind):
    policy, options = ready(POLICIES[name]), PREFIXES[kind]
    expected = answers(policy, options)
    with SimulatedGPU() as gpu:
        chunks = answers_on_gpu(gpu, policy, options)
        assert gpu.waits() == CHUNK | TIMES
    assert np.array_equal(chunks, expected)


@pytest.mark.parametrize("kind", PREFIXES)
def test_the_next_chunk_uploads_its_inputs_and_nothing_else(kind):
    policy = ready(POLICIES["unet1d"]).to("cpu")
    with SimulatedGPU() as gpu:
        on_gpu = copy.deepcopy(policy).to("cuda")
        for expected in (CHUNK | TIMES, CHUNK):
            gpu.clear()
            answers(on_gpu, PREFIXES[kind])
            assert gpu.waits() == expected


@pytest.mark.parametrize("name", representatives(SAMPLERS, "ddpm", "heun"))
def test_every_sampler_answers_as_on_the_cpu_without_waiting(name):
    policy = ready(partial(sampled_by, SAMPLERS[name]))
    for options in (None, {}):
        expected = answers(policy, options)
        with SimulatedGPU() as gpu:
            assert np.array_equal(answers_on_gpu(gpu, policy, options), expected)
            assert not gpu.waits().keys() - CHUNK.keys() - TIMES.keys()


@pytest.mark.slow
def test_every_accepted_scheduler_of_diffusers_answers_as_on_the_cpu():
    accepted = []
    for name in (name for name in dir(diffusers) if name.endswith("Scheduler")):
        if "trained_betas" not in inspect.signature(getattr(diffusers, name)).parameters:
            continue
        try:
            policy = ready(partial(sampled_by, denoising.DiffusersSamplerConfig(name=name, num_steps=5)))
        except ValueError:
            continue
        expected = answers(policy)
        with SimulatedGPU() as gpu:
            assert np.array_equal(answers_on_gpu(gpu, policy), expected), name
        accepted.append(name)
    assert len(accepted) > 9, accepted


@pytest.mark.parametrize("count", [1, 17, 3 * GPU_ROWS + 1])
def test_every_batch_of_an_evaluation_on_a_gpu_has_as_many_rows(monkeypatch, count):
    policy, sizes = ready(POLICIES["regression"]), set()
    plain = EagerEngine.predict

    def note(self, observation, noise, guidance=()):
        sizes.add(noise.shape[1])
        return plain(self, observation, noise, guidance)

    monkeypatch.setattr(EagerEngine, "predict", note)
    requests = [question(policy, seed=seed) for seed in range(count)]
    generators = [noise_generator(0, seed) for seed in range(count)]
    expected = [one.chunk for one in predict(EagerEngine(policy), requests, generators)]
    sizes.clear()
    with SimulatedGPU():
        chunks = [one.chunk for one in predict(EagerEngine(copy.deepcopy(policy).to("cuda")), requests, generators)]
    assert sizes == {GPU_ROWS}
    assert np.array_equal(chunks, expected)  # in the order of the requests


def test_episodes_on_the_gpu_are_those_of_the_cpu():
    ranges = dict.fromkeys(("position", "target", "action"), (-np.ones(2), np.ones(2)))
    policy = ready(partial(policies.diffusion, toys.SPECIFICATION, ranges, channels=(8, 16)))
    execution = partial(RecedingHorizon, policy.horizons, hold=policy.specification.action.hold)
    play = partial(rollout, task=toys.REACH, seeds=range(3), execution=execution, progress=False)
    expected = play(policy)
    with SimulatedGPU():
        assert play(policy.to("cuda")) == expected


# --- each kind of fault is caught


def levels_on_the_cpu(self, t):
    table = torch.tensor(self.levels)[:, 1:]
    return tuple(table[t + 1].unbind(-1))


def drawn_on_the_cpu(images, generator, rows, size):
    return torch.rand(size)[rows]


def read_in_the_meter(self, loss, *args, plain=measures.Meter.add, **kwargs):
    loss.item()
    plain(self, loss, *args, **kwargs)


def selected_by_a_mask(self, *args, plain=DiffusionPolicy.loss):
    error = plain(self, *args)
    return error[error > -1][None]


def found_by_nonzero(self, *args, plain=DiffusionPolicy.loss):
    error = plain(self, *args)
    return error.flatten()[(error > -1).flatten().nonzero()[:, 0]][None]


def scaled_from_the_host(self, *args, plain=DiffusionPolicy.loss):
    error = plain(self, *args)
    return error * torch.ones(error.shape[-1]).to(error.device)


def averaged_on_the_cpu(self, module, update):
    next(iter(module.parameters())).detach().cpu()


TRAINING_FAULTS = {
    "a table stays on the CPU": (DiscreteSchedule, "forward", levels_on_the_cpu, DeviceMismatch, "indices should be"),
    "a generator of the CPU": (torch, "Generator", lambda device=None: Generator("cpu"), RuntimeError, "'cuda.*'cpu'"),
    "a place drawn on the CPU": (augmentation, "_uniform", drawn_on_the_cpu, DeviceMismatch, "datasets/augmentation"),
    "a loss read in each step": (measures.Meter, "add", read_in_the_meter, AssertionError, "test_devices"),
    "a boolean mask": (DiffusionPolicy, "loss", selected_by_a_mask, ValueError, "capture=false"),
    "nonzero": (DiffusionPolicy, "loss", found_by_nonzero, ValueError, "capture=false"),
    "an upload": (DiffusionPolicy, "loss", scaled_from_the_host, ValueError, "capture=false"),
    "a download in each step": (ema.EMA, "update", averaged_on_the_cpu, AssertionError, "test_devices"),
}
"""Name -> owner, attribute and replacement; and the error, with a word of its message."""


QUICK = set(TRAINING_FAULTS) - {"a download in each step"}  # a loss read in each step is one, too


@pytest.mark.parametrize("name", representatives(TRAINING_FAULTS, *QUICK))
def test_a_fault_in_training_is_caught(train, monkeypatch, name):
    owner, attribute, replacement, error, message = TRAINING_FAULTS[name]
    with SimulatedGPU() as gpu, monkeypatch.context() as patch:
        patch.setattr(owner, attribute, replacement)
        with pytest.raises(error, match=message):
            assert_waits(train(IMAGES, "gpu", gpu)[1], {})


def unregistered(policy):
    """The same policy, with a buffer that is a plain attribute and so stays where it is."""
    affine = policy.normalizer.streams["state"]
    affine.__dict__["centre"] = affine._buffers.pop("centre")
    return policy


def test_a_fault_in_a_chunk_is_caught(monkeypatch):
    policy = ready(POLICIES["unet1d"])
    with SimulatedGPU() as gpu, monkeypatch.context() as patch:
        patch.setattr(eager, "upload", lambda tensors, device: tensors)
        with pytest.raises(DeviceMismatch, match=r"cuda:0 and cpu.*policy/"):
            answers_on_gpu(gpu, policy)
    with SimulatedGPU() as gpu, pytest.raises(DeviceMismatch, match="policy/"):
        answers_on_gpu(gpu, unregistered(copy.deepcopy(policy)))
    with SimulatedGPU() as gpu, monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "cpu", lambda self: self)
        with pytest.raises(TypeError, match=r"Tensor\.cpu"):
            answers_on_gpu(gpu, policy)
    with SimulatedGPU(), pytest.raises(DeviceMismatch, match="cuda:0 and cuda:1"):
        torch.ones(3, device="cuda") + torch.ones(3, device="cuda:1")
