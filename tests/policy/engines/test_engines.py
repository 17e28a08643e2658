"""Engines: one checker that all of them must pass, and that each answers as PyTorch does."""

import ctypes
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import cameras
import numpy as np
import pytest
import recede
import torch
from policies import HORIZONS, RANGES, SPECIFICATION, USUAL, diffusion, regression
from recede.configs.components import denoising, networks
from recede.configs.components.encoders import LowdimEncoderConfig
from recede.policy.denoising import prediction
from recede.policy.denoising.guidance import Prefix
from recede.policy.denoising.schedule import cosine, rectified_flow
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.engines import choice, onnx_runtime
from recede.policy.engines.choice import TOLERANCES, difference
from recede.policy.engines.cuda_graph import CudaGraphEngine
from recede.policy.engines.eager import EagerEngine
from recede.policy.engines.export import to_openvino, write_onnx
from recede.policy.engines.folder import open_session
from recede.policy.engines.interface import ENGINES, FORMATS, num_threads
from recede.policy.engines.making import choose_engine, make_engine
from recede.policy.engines.open_vino import OpenVinoSession, _SignalStack
from recede.policy.engines.torch_modules import action_range, check_exportable, engine_of
from recede.policy.normalizer import Normalizer

SAMPLERS = {
    "ddim": denoising.DDIMConfig(num_steps=4),
    "ddim with noise": denoising.DDIMConfig(num_steps=4, eta=0.5),
    "ddim, keeping epsilon": denoising.DDIMConfig(num_steps=4, spacing="leading", keeps_epsilon=True),
    "ddpm": denoising.DDPMConfig(num_steps=10),
    "dpm_solver_2m": denoising.DPMSolver2MConfig(num_steps=4),
    "heun": denoising.HeunConfig(num_steps=4),
}
PREDICTIONS = {
    "epsilon": prediction.EPSILON,
    "sample": prediction.SAMPLE,
    "v": prediction.V,
    "velocity": prediction.VELOCITY,
}
CLOSE = {"fp32": 2e-4, "bf16": TOLERANCES["bf16"]}
"""Root mean square over a chunk, in half ranges."""


def attending(config):
    """A policy of SPECIFICATION with a transformer whose weights are all other than 0."""
    torch.manual_seed(0)
    encoder = LowdimEncoderConfig().build(SPECIFICATION, HORIZONS)
    network = config.build(action_size=2, num_steps=6, conditioning_shape=encoder.conditioning_shape)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return DiffusionPolicy(
        SPECIFICATION,
        HORIZONS,
        normalizer=Normalizer(SPECIFICATION, RANGES),
        encoder=encoder,
        network=network,
        schedule=cosine(20),
        prediction=prediction.SAMPLE,
        sampler=denoising.DDIMConfig(num_steps=4).build(cosine(20)),
        **USUAL,
    )


POLICIES = {
    "unet1d": partial(diffusion, prediction=prediction.SAMPLE),
    "transformer": partial(attending, networks.TransformerConfig(num_layers=2, num_heads=2, size=16)),
    "dit": partial(attending, networks.DiTConfig(num_layers=2, num_heads=2, size=16)),
    "images": partial(cameras.policy_of, cameras.SCENE, cameras.WRIST, cameras.STATE, crop=[14, 12]),
    "regression": partial(regression, channels=(8,)),
}


def variant(policy, sampler, kind, schedule):
    """The same encoder and network, denoising in another way."""
    return DiffusionPolicy(
        policy.specification,
        policy.horizons,
        normalizer=policy.normalizer,
        encoder=policy.encoder,
        network=policy.network,
        schedule=schedule,
        prediction=PREDICTIONS[kind],
        sampler=SAMPLERS[sampler].build(schedule),
        **USUAL,
    ).eval()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """Policies by name, and sessions of their graphs; each is made when it is first asked for."""

    class Workshop:
        def __init__(self):
            self.root, self.policies, self.sessions = tmp_path_factory.mktemp("graphs"), {}, {}

        def policy(self, name):
            if name not in self.policies:
                self.policies[name] = POLICIES[name]().eval().requires_grad_(False)
            return self.policies[name]

        def graphs(self, name, kind):
            folder = self.root / name
            if not folder.exists():
                write_onnx(self.policy(name), folder / "onnx")
                to_openvino(folder / "onnx", folder / "openvino")
            return folder / kind

        def session(self, name, engine):
            if (name, engine) not in self.sessions:
                self.sessions[name, engine] = open_session(engine, self.graphs(name, FORMATS[engine]))
            return self.sessions[name, engine]

        def engine(self, name, engine, policy=None):
            policy = policy or self.policy(name)
            if engine == "eager":
                return EagerEngine(policy)
            if engine == "cuda_graph":
                if not torch.cuda.is_available():
                    pytest.skip("there is no NVIDIA GPU")
                return CudaGraphEngine(policy)
            return engine_of(policy, self.session(name, engine))

    return Workshop()


def ask(policy, rows=5, seed=0):
    """An observation and noise for so many rows."""
    rng = np.random.default_rng(seed)
    observation = {}
    for stream in policy.specification.observations:
        shape = (rows, policy.horizons.observation, *stream.shape)
        if stream.is_image:
            observation[stream.name] = rng.integers(0, 256, shape, dtype=np.uint8)
        else:
            observation[stream.name] = rng.uniform(-1, 1, shape).astype(stream.dtype)
    draws, *chunk = policy.noise_shape
    return observation, rng.standard_normal((draws, rows, *chunk), dtype=np.float32)


def plan(policy, rows=5, weights=(1.0, 1.0, 0.5, 0.2), seed=3, **options):
    """A prefix within the range of the actions."""
    reach = action_range(policy)
    steps, size = policy.noise_shape[1:]
    unit = np.random.default_rng(seed).uniform(-0.9, 0.9, (rows, steps, size)).astype(np.float32)
    padded = np.tile(np.array([*weights, *[0.0] * steps][:steps], dtype=np.float32), (rows, 1))
    return Prefix(reach.decode(unit), padded, **options)


def assert_close(engine, found, expected, policy):
    off = difference(found, expected, action_range(policy).half_range)
    assert off <= CLOSE[engine.precision], off


@pytest.fixture(params=POLICIES)
def name(request):
    return request.param


@pytest.fixture(params=ENGINES)
def made(request, name, workshop):
    """A policy and an engine of it."""
    return workshop.policy(name), workshop.engine(name, request.param)


# --- the conformance of every engine


def test_an_engine_is_one(made):
    policy, engine = made
    assert engine.name in ENGINES
    assert engine.precision in TOLERANCES
    assert engine.specification == policy.specification
    assert engine.horizons == policy.horizons
    assert engine.noise_shape == policy.noise_shape
    observation, noise = ask(policy)
    kept = {key: values.copy() for key, values in observation.items()}, noise.copy()
    found = engine.predict(observation, noise)
    assert found.shape == (5, *policy.noise_shape[1:])
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    again = found.copy()
    assert np.array_equal(engine.predict(observation, noise), again)
    assert np.array_equal(found, again)  # what was answered is not written over
    assert all(np.array_equal(observation[key], values) for key, values in kept[0].items())
    assert np.array_equal(noise, kept[1])


def test_it_answers_as_the_policy_does_for_any_number_of_rows(made):
    policy, engine = made
    for rows in (1, 2, 5, 16):
        observation, noise = ask(policy, rows)
        given = {key: torch.from_numpy(values) for key, values in observation.items()}
        expected = policy.predict(given, torch.from_numpy(noise)).numpy()
        assert_close(engine, engine.predict(observation, noise), expected, policy)
    one = {key: values[3:4] for key, values in observation.items()}, noise[:, 3:4]
    assert_close(engine, engine.predict(*one), expected[3:4], policy)


def test_a_prefix_without_weight_changes_not_a_bit(made):
    policy, engine = made
    observation, noise = ask(policy)
    free = engine.predict(observation, noise)
    assert np.array_equal(engine.predict(observation, noise, [plan(policy, weights=())]), free)


def test_a_prefix_is_followed_as_the_policy_follows_it(made):
    policy, engine = made
    eager, (observation, noise) = EagerEngine(policy), ask(policy)
    for options in ({}, {"limit": 0.3}):
        prefix = plan(policy, **options)
        found = engine.predict(observation, noise, [prefix])
        assert_close(engine, found, eager.predict(observation, noise, [prefix]), policy)
        np.testing.assert_allclose(found[:, :2], prefix.actions[:, :2], rtol=1e-6, atol=1e-4)  # of full weight
    assert np.abs(found - engine.predict(observation, noise)).max() > 1e-2


def test_a_warm_start_is_that_of_the_policy(made):
    policy, engine = made
    eager, (observation, noise) = EagerEngine(policy), ask(policy)
    cold = engine.predict(observation, noise)
    for start in (0.5, 0.01):
        warm = plan(policy, weights=(), start=start)
        found = engine.predict(observation, noise, [warm])
        assert_close(engine, found, eager.predict(observation, noise, [warm]), policy)
        assert (np.abs(found - cold).max() > 1e-3) == bool(policy.noise_shape[0])


def test_only_eager_has_gradients(made):
    policy, engine = made
    observation, noise = ask(policy)
    prefix = plan(policy, exact=True)
    if engine.name != "eager":
        with pytest.raises(ValueError, match=f"which engine={engine.name} does not have: use engine=eager, or exact=f"):
            engine.predict(observation, noise, [prefix])
        return
    given = {key: torch.from_numpy(values) for key, values in observation.items()}
    tensors = Prefix(torch.from_numpy(prefix.actions), torch.from_numpy(prefix.weights), exact=True)
    expected = policy.predict(given, torch.from_numpy(noise), [tensors]).numpy()
    assert np.array_equal(engine.predict(observation, noise, [prefix]), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o, n, p: (o.pop("state"), n, p), "needs the observation 'state'"),
        (lambda o, n, p: (o.update(stat=o["state"]), n, p), "does not know the observation 'stat': did you mean 'st"),
        (lambda o, n, p: (o.update(state=o["state"][:, :1]), n, p), r"'state' must have shape \(B, 2, 3\), got \(5, 1"),
        (lambda o, n, p: (o.update(state=o["state"][:3]), n, p), "same number of rows, got {.*'state': 3"),
        (lambda o, n, p: (None, n[:, :3], p), r"the noise must have shape \(1, 5, 6, 2\).*got \(1, 3, 6, 2\)"),
        (lambda o, n, p: (None, np.concatenate([n, n]), p), r"must have shape \(1, 5, 6, 2\).*got \(2, 5, 6, 2\)"),
        (lambda o, n, p: (None, n, plan(diffusion(), rows=4)), r"planned actions must have the shape.*got \(4, 6, 2\)"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_does_not_fit_is_refused(workshop, engine, change, message):
    policy = workshop.policy("unet1d")
    observation, noise = ask(policy)
    _, noise, prefix = change(observation, noise, None)
    with pytest.raises(ValueError, match=message):
        workshop.engine("unet1d", engine).predict(observation, noise, () if prefix is None else [prefix])


@pytest.mark.parametrize("engine", ENGINES)
def test_pixels_are_bytes(workshop, engine):
    policy = workshop.policy("images")
    observation, noise = ask(policy)
    observation["scene"] = observation["scene"].astype(np.float32) / 255
    with pytest.raises(ValueError, match=r"'scene' must hold images of uint8.*got .*float32: do not scale"):
        workshop.engine("images", engine).predict(observation, noise)


# --- every way of denoising


@pytest.mark.parametrize("engine", FORMATS)
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("network", ["unet1d", "transformer", "dit"])
def test_every_sampler_and_prediction_answers_as_the_policy_does(workshop, network, sampler, kind, engine):
    for schedule in (cosine(20), rectified_flow(20)):
        if kind == "epsilon" and schedule.levels[-1].alpha == 0:
            continue  # at pure noise, the noise says nothing of the sample
        policy = variant(workshop.policy(network), sampler, kind, schedule)
        observation, noise = ask(policy)
        given = {key: torch.from_numpy(values) for key, values in observation.items()}
        expected = policy.predict(given, torch.from_numpy(noise)).numpy()
        tested = workshop.engine(network, engine, policy)
        assert_close(tested, tested.predict(observation, noise), expected, policy)
        if policy.sampler.num_draws:  # the noise on the way counts
            changed = noise.copy()
            changed[1] += 1
            assert np.abs(tested.predict(observation, changed) - expected).max() > 1e-3


def test_the_conditioning_is_met_once_a_chunk_and_times_are_a_table(workshop, monkeypatch):
    policy, session = workshop.policy("unet1d"), workshop.session("unet1d", "onnx")
    calls, plain = [], session.run
    monkeypatch.setattr(session, "run", lambda graph, inputs: calls.append(graph) or plain(graph, inputs))
    engine = engine_of(policy, session)
    monkeypatch.setattr(policy.network, "embed", None)  # not needed any more
    engine.predict(*ask(policy))
    assert calls == ["encode", *["denoise"] * 4]


# --- what cannot be done


def test_schedulers_of_diffusers_stay_in_pytorch():
    policy = diffusion(sampler=denoising.DiffusersSamplerConfig(name="DDIMScheduler", num_steps=4))
    with pytest.raises(ValueError, match="schedulers of diffusers need PyTorch: choose"):
        make_engine(policy, "onnx")
    assert make_engine(policy, "eager")[0].name == "eager"
    with pytest.raises(ValueError, match="only a DiffusionPolicy leaves PyTorch, got Linear"):
        check_exportable(torch.nn.Linear(1, 1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an NVIDIA GPU")
def test_a_cuda_graph_needs_a_gpu():
    with pytest.raises(ValueError, match="needs an NVIDIA GPU that torch can use, and there is none here: use engine="):
        make_engine(diffusion(), "cuda_graph")


@pytest.mark.parametrize(("engine", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_package_that_is_missing_is_named(workshop, monkeypatch, engine, package):
    folder = workshop.graphs("unet1d", FORMATS[engine])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"engine={engine} needs .*: pip install 'recede\[{engine}\]'"):
        open_session(engine, folder)
    if engine == "onnx":
        assert onnx_runtime.num_threads() == 1


def test_threads_are_as_many_as_openmp_may_use(monkeypatch):
    for value, expected in (("3", 3), ("", 0), ("2,1", 0)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert num_threads() == expected
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert num_threads() == 0


def test_many_weights_go_to_a_second_file(workshop, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1000)
    policy = workshop.policy("regression")
    write_onnx(policy, tmp_path / "onnx")
    assert (tmp_path / "onnx/denoise.onnx.data").stat().st_size > 1000
    to_openvino(tmp_path / "onnx", tmp_path / "openvino")
    for name in FORMATS:
        engine = engine_of(policy, open_session(name, tmp_path / FORMATS[name]))
        observation, noise = ask(policy)
        assert_close(
            engine, engine.predict(observation, noise), EagerEngine(policy).predict(observation, noise), policy
        )


def test_graphs_say_nothing_of_this_machine(workshop):
    files = [*workshop.graphs("unet1d", "onnx").iterdir(), *workshop.graphs("unet1d", "openvino").iterdir()]
    here = [str(Path(recede.__file__).parent), str(workshop.root)]
    assert not [path.name for path in files for place in here if place.encode() in path.read_bytes()]


SILENT = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("something is sent")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from recede.policy.engines.open_vino import OpenVinoSession
from pathlib import Path
OpenVinoSession(Path(sys.argv[1]), is_fp32=True)
assert not [name for name in sys.modules if name.startswith(("openvino_telemetry", "openvino.tools", "absl"))]
assert "torch" not in sys.modules
"""


def test_openvino_reports_to_nobody(workshop, tmp_path):
    folder = workshop.graphs("unet1d", "openvino")
    command = [sys.executable, "-P", "-c", SILENT, str(folder)]
    done = subprocess.run(command, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())  # where openvino_telemetry keeps what it knows of a user


@pytest.mark.skipif(sys.platform != "linux", reason="the layout of a signal stack is that of Linux")
def test_openvino_leaves_signals_their_stack(workshop):
    """Every thread has a stack of its own for signals; a new one has none, so they are handled where they come."""
    folder, found = workshop.graphs("unet1d", "openvino"), []

    def compile_and_look():
        OpenVinoSession(folder, is_fp32=False)
        stack = _SignalStack()
        ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
        found.append((stack.start, stack.size))

    thread = threading.Thread(target=compile_and_look)
    thread.start()
    thread.join()
    assert found == [(None, 0)]


# --- the choice


class Answering:
    """An engine that adds something to what eager answers."""

    def __init__(self, eager, name, added, precision="fp32"):
        self.eager, self.name, self.added, self.precision = eager, name, added, precision

    def predict(self, observation, noise, guidance=()):
        return self.eager.predict(observation, noise, guidance) + self.added


def unavailable():
    raise ValueError("engine=cuda_graph needs an NVIDIA GPU")


def test_the_fastest_engine_that_agrees_is_chosen(monkeypatch, workshop):
    policy = workshop.policy("unet1d")
    eager, (observation, noise) = EagerEngine(policy), ask(policy)
    half = np.array([50.0, 1.0], dtype=np.float32)
    candidates = {
        "slow": Answering(eager, "slow", 0.0),
        "fast": Answering(eager, "fast", 0.5e-3 * half),
        "wrong": Answering(eager, "wrong", 2e-3 * half),
        "rough": Answering(eager, "rough", 0.02 * half, "bf16"),
        "no number": Answering(eager, "no number", np.nan),
    }
    seconds = {"slow": 3e-3, "fast": 1e-3, "wrong": 1e-9, "rough": 2e-3}
    monkeypatch.setattr(choice, "medians", lambda engines, *_, **__: [seconds[each.name] for each in engines])
    make = {name: (lambda engine=engine: engine) for name, engine in candidates.items()} | {"cuda_graph": unavailable}
    found, verdicts = choice.choose(make, observation, noise, reference=eager, half_range=half)
    assert [engine.name for engine in found] == ["fast", "rough", "slow"]
    assert [str(verdict) for verdict in verdicts] == [
        "slow (fp32): differs from eager by 0.0e+00 (tolerance 0.001), 3.00 ms a chunk",
        "fast (fp32): differs from eager by 5.0e-04 (tolerance 0.001), 1.00 ms a chunk",
        "wrong (fp32): differs from eager by 2.0e-03 (tolerance 0.001); excluded, it does not answer as eager does",
        "rough (bf16): differs from eager by 2.0e-02 (tolerance 0.05), 2.00 ms a chunk",
        "no number (fp32): differs from eager by inf (tolerance 0.001); excluded, it does not answer as eager does",
        "cuda_graph: excluded, engine=cuda_graph needs an NVIDIA GPU",
    ]


def test_the_difference_is_that_of_the_worst_row_in_half_ranges():
    expected, found = np.zeros((3, 4, 2)), np.zeros((3, 4, 2))
    found[1, :, 0] = 0.2
    found[2, :, 1] = 1e9  # it hardly moves
    assert difference(found, expected, np.array([2.0, 0.0])) == pytest.approx(0.1)
    assert difference(found, expected, np.zeros(2)) == 0


def test_engines_take_turns(monkeypatch, workshop):
    policy, turns = workshop.policy("unet1d"), []
    eager = EagerEngine(policy)
    engines = [Answering(eager, "a", 0), Answering(eager, "b", 0)]
    for engine in engines:
        monkeypatch.setattr(engine, "predict", lambda o, n, name=engine.name: turns.append((name, n.shape[1])))
    found = choice.medians(engines, *ask(policy), repeats=3)
    assert turns == [("a", 1), ("b", 1)] * 4
    assert all(seconds > 0 for seconds in found)


def test_an_engine_is_chosen_by_measuring(workshop, tmp_path):
    policy = workshop.policy("regression")
    chosen = choose_engine(policy, ["eager", "onnx"], tmp_path)
    assert {engine.name for engine in chosen.engines} == {"eager", "onnx"}
    said = str(chosen)
    assert said.startswith("tried on 16 observations drawn from the ranges of the normalizer:\n  eager (fp32): differs")
    assert "(tolerance 0.001)" in said
    assert said.endswith(f"engine: {chosen.engine.name}")


def test_where_no_engine_agrees_each_reason_is_said(workshop, monkeypatch, tmp_path):
    monkeypatch.setitem(TOLERANCES, "fp32", -1.0)
    with pytest.raises(ValueError, match=r"onnx \(fp32\): differs .*excluded, it does not answer as eager does"):
        choose_engine(workshop.policy("regression"), ["onnx"], tmp_path)
