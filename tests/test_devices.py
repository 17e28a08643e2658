"""On a simulated GPU nothing mixes devices or waits for the device unawares, and every number is that of the CPU."""

import contextlib
import copy
import inspect
import threading
from collections import Counter
from dataclasses import replace
from functools import partial

import cameras
import diffusers
import numpy as np
import policies
import pytest
import torch
import toys
from recede.configs.augmentation import AugmentationConfig
from recede.configs.components import denoising, networks
from recede.configs.components.encoders import ResNetEncoderConfig
from recede.configs.components.policies import DiffusionConfig, HorizonsConfig, RegressionConfig
from recede.configs.training import TrainConfig
from recede.datasets import augmentation
from recede.evaluation.rollout import noise_generator, predict, rollout
from recede.execution.receding import RecedingHorizon
from recede.policy.denoising.guidance import Prefix
from recede.policy.denoising.prediction import SAMPLE
from recede.policy.denoising.schedule import DiscreteSchedule
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.engines import cuda_graph
from recede.policy.engines.choice import TOLERANCES, difference
from recede.policy.engines.cuda_graph import CudaGraphEngine
from recede.policy.engines.eager import EagerEngine
from recede.policy.engines.making import make_engine
from recede.policy.networks import cpu_training
from recede.policy.normalizer import Normalizer
from recede.policy.requests import Request
from recede.training import ema, loop, measures
from recede.training.run import Run
from simulated_gpu import CaptureError, DeviceMismatch, Generator, SimulatedGPU, place

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU would be hidden by the simulated one"),
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # schedulers mix tensors with arrays
]

mend = partial(pytest.mark.xfail, strict=True, raises=AssertionError)
"""Marks what the source does not do yet; it fails as soon as the source does it."""

UNET = networks.UNet1dConfig(channels=[8, 16], groups=2, time_size=8)
TRANSFORMER = networks.TransformerConfig(num_layers=1, num_heads=2, size=16)
DROPPING = replace(TRANSFORMER, dropout=0.1)
DIT = networks.DiTConfig(num_layers=1, num_heads=2, size=16)
SHORT = denoising.DDIMConfig(num_steps=2)
CAMERA = ResNetEncoderConfig(width=16, stages=1, keypoints=4, features=6, crop=[14, 12])


@pytest.fixture(autouse=True)
def layers_of_a_gpu(monkeypatch):
    """On the CPU, too, the U-Net trains by the layers that a GPU has; those for a CPU round otherwise."""
    monkeypatch.setattr(cpu_training, "serves", lambda x: False)


def attending(network):
    """An untrained policy with a network of attention."""
    torch.manual_seed(0)
    normalizer = Normalizer(policies.SPECIFICATION, policies.RANGES)
    config = DiffusionConfig(network=network, sampler=denoising.DDIMConfig(num_steps=3))
    return config.build(policies.SPECIFICATION, policies.HORIZONS, normalizer)


def sampled_by(sampler):
    return policies.diffusion(channels=(8, 16), sampler=sampler, prediction=SAMPLE)


POLICIES = {
    "unet1d": partial(sampled_by, denoising.DDIMConfig(num_steps=3)),
    "transformer": partial(attending, TRANSFORMER),
    "dit": partial(attending, DIT),
    "regression": partial(policies.regression, channels=(8,)),
    "images": partial(
        cameras.policy_of,
        *(cameras.SCENE, cameras.STATE),
        config=partial(DiffusionConfig, sampler=SHORT),
        crop=[14, 12],
    ),
}
SAMPLERS = {
    "ddim with noise": denoising.DDIMConfig(num_steps=3, eta=0.5),
    "ddim, keeping epsilon": denoising.DDIMConfig(num_steps=3, keeps_epsilon=True),
    "ddpm": denoising.DDPMConfig(num_steps=5),
    "dpm_solver_2m": denoising.DPMSolver2MConfig(num_steps=3),
    "heun": denoising.HeunConfig(num_steps=2),
}
PREFIXES = {"no prefix": None, "pull": {}, "gradient": {"exact": True}, "warm start": {"start": 0.5}}
"""Name -> the options of a prefix."""


def ready(make):
    return make().eval().requires_grad_(False)


def question(policy, options=None, seed=0):
    """A request, with a prefix if it has options."""
    rng, history = np.random.default_rng(seed), {}
    for stream in policy.specification.observations:
        values = rng.uniform(0, 255 if stream.is_image else 1, (policy.horizons.observation, *stream.shape))
        history[stream.name] = values.astype(stream.dtype)
    if options is None:
        return Request(history)
    steps, size = policy.noise_shape[1:]
    actions, weights = rng.uniform(-0.5, 0.5, (steps, size)), np.linspace(1, 0, steps)
    return Request(history, (Prefix(actions.astype(np.float32), weights.astype(np.float32), **options),))


def answers(policy, options=None):
    """The chunks for three questions, as an evaluation asks them."""
    requests = [question(policy, options, seed) for seed in range(3)]
    return predict(EagerEngine(policy), requests, [noise_generator(0, seed) for seed in range(3)])


def answers_on_gpu(gpu, policy, options=None):
    on_gpu = copy.deepcopy(policy).to("cuda")
    gpu.clear()
    return answers(on_gpu, options)


# --- training


LOW = {"policy": DiffusionConfig(network=UNET, sampler=SHORT), "task": "toys:REACH"}
IMAGES = {
    "policy": DiffusionConfig(encoder=CAMERA, network=UNET, sampler=SHORT),
    "horizons": HorizonsConfig(observation=2, prediction=4, action=2),
    "augmentation": AugmentationConfig(rotation=5),
}
INDICES = {"datasets/windows.py": 1}
"""The indices of a batch are uploaded."""

TRAININGS = {
    "unet1d": (LOW, INDICES),
    "unet1d in bf16": (LOW | {"precision": "bf16", "draws": 2}, INDICES),
    "transformer": (LOW | {"policy": DiffusionConfig(network=DROPPING, sampler=SHORT)}, INDICES),
    "dit in bf16": (LOW | {"policy": DiffusionConfig(network=DIT, sampler=SHORT), "precision": "bf16"}, INDICES),
    "regression": (LOW | {"policy": RegressionConfig(network=UNET)}, INDICES),
    "images": (IMAGES, INDICES),
    "mapped images": (IMAGES | {"image_cache": "mapped"}, {"datasets/windows.py": 5}),  # both ways, for two cameras
    "padding masked": (LOW | {"mask_padding": True}, INDICES),
    "colours": (IMAGES | {"augmentation": AugmentationConfig(brightness=0.3)}, INDICES),
}
"""Name -> options of a training, and which files wait for the device in each of its steps."""


@pytest.fixture
def train(reaches, filmed, tmp_path, monkeypatch):
    """Trains for four steps, and returns the last checkpoint and what each step but the first waited for."""
    monkeypatch.setenv("RECEDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TQDM_DISABLE", "1")

    def train(options, out, gpu=None):
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
            loop.train(config)
        return tmp_path / out / "checkpoints/00000004", steps

    return train


def assert_waits(steps, expected):
    """The second step: the first one follows the preparation, and the third one follows a validation and a save."""
    assert steps[1] == Counter(expected)


def assert_same_files(one, other):
    for name in ("policy.safetensors", "training.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_on_the_gpu_is_that_of_the_cpu_and_waits_only_for_its_data(train, name):
    options, waits = TRAININGS[name]
    expected, _ = train(options | {"device": "cpu"}, "cpu")
    with SimulatedGPU() as gpu:
        trained, steps = train(options, "gpu", gpu)
    assert_same_files(trained, expected)
    assert_waits(steps, waits)


def test_a_check_of_the_weights_waits_once():
    with SimulatedGPU() as gpu:
        policy = POLICIES["unet1d"]().to("cuda")
        meter = measures.Meter(torch.device("cuda"))
        gpu.clear()
        assert measures.is_finite(meter, policy)
        assert sum(gpu.waits().values()) == 1


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
        num_inputs = len(policy.specification.observations) + 1 + (0 if options is None else 2)
        assert gpu.waits()["policy/engines/eager.py"] == num_inputs + 1  # the last is the answer
        assert not gpu.waits().keys() - {"policy/engines/eager.py", "policy/diffusion.py"}
    assert np.array_equal(chunks, expected)


@mend(reason="the times of the sampler are uploaded in each chunk (policy/diffusion.py)")
def test_a_chunk_does_not_upload_the_times_again():
    policy = ready(POLICIES["unet1d"])
    with SimulatedGPU() as gpu:
        answers_on_gpu(gpu, policy)
        assert gpu.waits().keys() == {"policy/engines/eager.py"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_answers_as_on_the_cpu_without_waiting(name):
    policy = ready(partial(sampled_by, SAMPLERS[name]))
    for options in (None, {}):
        expected = answers(policy, options)
        with SimulatedGPU() as gpu:
            assert np.array_equal(answers_on_gpu(gpu, policy, options), expected)
            assert not gpu.waits().keys() - {"policy/engines/eager.py", "policy/diffusion.py"}


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


def test_episodes_on_the_gpu_are_those_of_the_cpu():
    ranges = dict.fromkeys(("position", "target", "action"), (-np.ones(2), np.ones(2)))
    policy = ready(partial(policies.diffusion, toys.SPECIFICATION, ranges, channels=(8, 16)))
    execution = partial(RecedingHorizon, policy.horizons, hold=policy.specification.action.hold)
    play = partial(rollout, task=toys.REACH, seeds=range(3), execution=execution, progress=False)
    expected = play(policy)
    with SimulatedGPU():
        assert play(policy.to("cuda")) == expected


# --- the CUDA graph


def replies(engine, policy, seeds, options=None):
    """What the engine answers to one question after another, each for two robots."""
    chunks = []
    for seed in seeds:
        request, rng = question(policy, options, seed), np.random.default_rng(seed)
        observation = {name: np.stack([values] * 2) for name, values in request.history.items()}
        draws, *shape = policy.noise_shape
        noise = rng.standard_normal((draws, 2, *shape), dtype=np.float32)
        guidance = [
            replace(guide, **{name: np.stack([array] * 2) for name, array in guide.arrays.items()})
            for guide in request.guidance
        ]
        chunks.append(engine.predict(observation, noise, guidance))
    return np.stack(chunks)


def assert_replays(engine, policy, options=None):
    """A capture and two replays, close to PyTorch on the CPU; the third question is the first one again."""
    chunks = replies(engine, policy, [0, 1, 0], options)
    expected = replies(EagerEngine(policy), policy, [0, 1, 0], options)
    half_range = policy.normalizer.streams["action"].half_range.numpy()
    off = [difference(one, other, half_range) for one, other in zip(chunks, expected, strict=True)]
    assert max(off) < TOLERANCES["bf16"], off
    assert np.array_equal(chunks[0], chunks[2])


@pytest.mark.parametrize("name", POLICIES)
def test_a_captured_policy_answers_every_question_it_is_asked(name):
    policy = ready(POLICIES[name])
    with SimulatedGPU() as gpu:
        engine = CudaGraphEngine(policy)
        for kind in ("no prefix", "pull", "warm start"):
            assert_replays(engine, policy, PREFIXES[kind])
        assert len(gpu.graphs) == min(2, len(policy.sampler.levels) - 1)  # no prefix is one without weight
        with pytest.raises(ValueError, match="exact=false"):
            replies(engine, policy, [0], PREFIXES["gradient"])


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_captured(name):
    policy = ready(partial(sampled_by, SAMPLERS[name]))
    with SimulatedGPU():
        assert_replays(CudaGraphEngine(policy), policy)


@pytest.mark.parametrize("engine", ["cuda_graph", "auto"])
def test_a_scheduler_of_diffusers_is_refused_before_it_is_captured(engine):
    policy = ready(partial(sampled_by, denoising.DiffusersSamplerConfig(name="DDIMScheduler", num_steps=3)))
    with SimulatedGPU():
        if engine == "auto":
            assert make_engine(policy, engine)[0].name == "eager"
            return
        with pytest.raises(ValueError, match="engine=eager"):
            replies(make_engine(policy, engine)[0], policy, [0])


def test_starts_that_run_the_same_steps_share_a_graph():
    policy = ready(POLICIES["unet1d"])  # of three steps
    with SimulatedGPU() as gpu:
        engine = CudaGraphEngine(policy)
        for start, num_graphs in ((0.1, 1), (0.3, 1), (1 / 3, 1), (0.6, 2)):
            assert_replays(engine, policy, {"start": start})
            assert len(gpu.graphs) == num_graphs


def test_the_least_recently_used_graph_goes_first(monkeypatch):
    monkeypatch.setattr(cuda_graph, "MAX_GRAPHS", 2)
    policy = ready(POLICIES["unet1d"])
    with SimulatedGPU() as gpu:
        engine = CudaGraphEngine(policy)
        for kind in ("pull", "warm start", "pull", "another", "pull"):
            replies(engine, policy, [0], PREFIXES.get(kind, {"start": 0.1}))
        assert len(gpu.graphs) == 3


@mend(reason="limit is a constant of a graph (policy/engines/cuda_graph.py)")
def test_another_limit_needs_no_other_capture():
    policy = ready(POLICIES["unet1d"])
    with SimulatedGPU() as gpu:
        engine = CudaGraphEngine(policy)
        for limit in (5.0, 4.0, 3.5):
            replies(engine, policy, [0], {"limit": limit})
        assert len(gpu.graphs) == 1


def test_a_captured_policy_stays_on_its_gpu():
    with SimulatedGPU():
        policy = ready(POLICIES["unet1d"])
        engine = CudaGraphEngine(copy.deepcopy(policy).to("cuda:1"))
        assert_replays(engine, policy)
        assert {place(parameter).index for parameter in engine.policy.parameters()} == {1}


def test_a_capture_leaves_other_threads_alone(monkeypatch):
    policy, failures = ready(POLICIES["unet1d"]), []
    solve = policy.sampler.solve

    def upload():
        try:
            torch.ones(3).to("cuda")
        except CaptureError as error:
            failures.append(error)

    def solve_beside_an_upload(*args):
        thread = threading.Thread(target=upload)
        thread.start()
        thread.join()
        return solve(*args)

    policy.sampler = replace(policy.sampler, solve=solve_beside_an_upload)
    with SimulatedGPU():
        assert_replays(CudaGraphEngine(policy), policy)
    assert not failures


# --- each kind of fault is caught


def levels_on_the_cpu(self, t):
    table = torch.tensor(self.levels)[:, 1:]
    return tuple(table[t + 1].unbind(-1))


def drawn_on_the_cpu(images, generator):
    return torch.rand(len(images))


def read_in_the_meter(self, loss, *args, plain=measures.Meter.add, **kwargs):
    loss.item()
    plain(self, loss, *args, **kwargs)


def selected_by_a_mask(self, *args, plain=DiffusionPolicy.loss):
    error = plain(self, *args)
    return error[error > -1][None]


def found_by_nonzero(self, *args, plain=DiffusionPolicy.loss):
    error = plain(self, *args)
    return error.flatten()[(error > -1).flatten().nonzero()[:, 0]][None]


def averaged_on_the_cpu(self, module, update):
    next(iter(module.parameters())).detach().cpu()


TRAINING_FAULTS = {
    "a table stays on the CPU": (DiscreteSchedule, "forward", levels_on_the_cpu, DeviceMismatch, "indices should be"),
    "a generator of the CPU": (torch, "Generator", lambda device=None: Generator("cpu"), RuntimeError, "'cuda.*'cpu'"),
    "a place drawn on the CPU": (augmentation, "_uniform", drawn_on_the_cpu, DeviceMismatch, "datasets/augmentation"),
    "a loss read in each step": (measures.Meter, "add", read_in_the_meter, AssertionError, "test_devices"),
    "a boolean mask": (DiffusionPolicy, "loss", selected_by_a_mask, AssertionError, "test_devices"),
    "nonzero": (DiffusionPolicy, "loss", found_by_nonzero, AssertionError, "test_devices"),
    "a download in each step": (ema.EMA, "update", averaged_on_the_cpu, AssertionError, "test_devices"),
}
"""Name -> owner, attribute and replacement; and the error, with a word of its message."""


@pytest.mark.parametrize("name", TRAINING_FAULTS)
def test_a_fault_in_training_is_caught(train, monkeypatch, name):
    owner, attribute, replacement, error, message = TRAINING_FAULTS[name]
    with SimulatedGPU() as gpu, monkeypatch.context() as patch:
        patch.setattr(owner, attribute, replacement)
        with pytest.raises(error, match=message):
            assert_waits(train(IMAGES, "gpu", gpu)[1], INDICES)


def unregistered(policy):
    """The same policy, with a buffer that is a plain attribute and so stays where it is."""
    affine = policy.normalizer.streams["state"]
    affine.__dict__["centre"] = affine._buffers.pop("centre")
    return policy


def test_a_fault_in_a_chunk_is_caught(monkeypatch):
    policy = ready(POLICIES["unet1d"])
    with SimulatedGPU() as gpu, monkeypatch.context() as patch:
        patch.setattr(EagerEngine, "_tensor", lambda self, values: torch.as_tensor(values))
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


def captured_with(change):
    """A `_capture` whose result is changed."""

    def capture(self, *args, plain=CudaGraphEngine._capture):
        return change(self, plain(self, *args))

    return capture


def freed(engine, captured):
    return replace(captured, noise=captured.noise.clone())


def kept_aside(engine, captured):
    engine.kept = captured.noise
    return replace(captured, noise=captured.noise.clone())


GRAPH_FAULTS = {
    "times embedded in a capture": (DiffusionPolicy, "hold_times", lambda self: None, CaptureError, "policy/diffusion"),
    "an input that is freed": (CudaGraphEngine, "_capture", captured_with(freed), CaptureError, "freed"),
    "an input that nobody writes": (CudaGraphEngine, "_capture", captured_with(kept_aside), AssertionError, r"\["),
}


@pytest.mark.parametrize("name", GRAPH_FAULTS)
def test_a_fault_in_a_captured_policy_is_caught(monkeypatch, name):
    owner, attribute, replacement, error, message = GRAPH_FAULTS[name]
    policy = ready(POLICIES["unet1d"])
    with SimulatedGPU(), monkeypatch.context() as patch:
        patch.setattr(owner, attribute, replacement)
        with pytest.raises(error, match=message):
            assert_replays(CudaGraphEngine(policy), policy)
