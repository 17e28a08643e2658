"""On a simulated GPU a CUDA graph answers every question as PyTorch does, and few graphs serve all of them."""

import asyncio
import copy
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from device_questions import POLICIES, PREFIXES, SAMPLERS, question, ready, sampled_by
from recede.configs.components import denoising
from recede.policy.denoising.energies import Energies, KeepOut, RateLimit
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.engines import choice, cuda_graph
from recede.policy.engines.choice import TOLERANCES, difference
from recede.policy.engines.cuda_graph import CudaGraphEngine
from recede.policy.engines.eager import EagerEngine
from recede.policy.engines.making import make_engine
from recede.policy.engines.wrapping import GuidedEngine
from recede.serving.inference import Inference
from representatives import representatives
from simulated_gpu import CaptureError, SimulatedGPU, place

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU would be hidden by the simulated one")

FOREIGN = denoising.DiffusersSamplerConfig(name="DDIMScheduler", num_steps=3)


def replies(engine, policy, seeds, options=None, rows=2):
    """What the engine answers to one question after another, each for so many robots."""
    chunks = []
    for seed in seeds:
        request, rng = question(policy, options, seed), np.random.default_rng(seed)
        observation = {name: np.stack([values] * rows) for name, values in request.history.items()}
        draws, *shape = policy.noise_shape
        noise = rng.standard_normal((draws, rows, *shape), dtype=np.float32)
        guidance = [
            replace(guide, **{name: np.stack([array] * rows) for name, array in guide.arrays.items()})
            for guide in request.guidance
        ]
        chunks.append(engine.predict(observation, noise, guidance))
    return np.stack(chunks)


def assert_replays(engine, policy, options=None, rows=2, *, eager=None):
    """A capture and two replays, close to PyTorch on the CPU; the third question is the first one again."""
    chunks = replies(engine, policy, [0, 1, 0], options, rows)
    expected = replies(eager or EagerEngine(policy), policy, [0, 1, 0], options, rows)
    half_range = policy.normalizer.streams["action"].half_range.numpy()
    off = [difference(one, other, half_range) for one, other in zip(chunks, expected, strict=True)]
    assert max(off) < TOLERANCES["bf16"], off
    assert np.array_equal(chunks[0], chunks[2])


@pytest.mark.parametrize("name", representatives(POLICIES, "unet1d", "regression", "images"))
def test_a_captured_policy_answers_every_question_it_is_asked(name):
    policy = ready(POLICIES[name])
    with SimulatedGPU() as gpu:
        engine = CudaGraphEngine(policy)
        for kind in ("no prefix", "pull", "warm start"):
            assert_replays(engine, policy, PREFIXES[kind])
        assert len(gpu.graphs) == min(2, len(policy.sampler.levels) - 1)  # no prefix is one without weight
        with pytest.raises(ValueError, match="exact=false"):
            replies(engine, policy, [0], PREFIXES["gradient"])


@pytest.mark.parametrize("name", representatives(SAMPLERS, "ddpm", "heun"))
def test_every_sampler_is_captured(name):
    policy = ready(partial(sampled_by, SAMPLERS[name]))
    with SimulatedGPU():
        assert_replays(CudaGraphEngine(policy), policy)


def test_energies_are_captured():
    """Their numbers are uploaded before the capture."""
    policy = ready(POLICIES["unet1d"])
    size = policy.specification.action.size
    energies = KeepOut((0.01,) * size, (-0.2,) * size, (0.2,) * size), RateLimit((0.01,) * size, (0.5,) * size, 0.1)
    guidance = [Energies(energies, exact=False)]
    with SimulatedGPU():
        assert_replays(
            GuidedEngine(CudaGraphEngine(policy), guidance), policy, eager=GuidedEngine(EagerEngine(policy), guidance)
        )


@pytest.mark.parametrize("engine", ["cuda_graph", "auto"])
def test_a_scheduler_of_diffusers_is_refused_before_it_is_captured(engine):
    policy = ready(partial(sampled_by, FOREIGN))
    with SimulatedGPU():
        if engine == "auto":
            assert make_engine(policy, engine)[0].name == "eager"
            return
        with pytest.raises(ValueError, match="engine=eager"):
            replies(make_engine(policy, engine)[0], policy, [0])


@pytest.mark.parametrize("fastest", ["eager", "cuda_graph"])
def test_a_robot_on_a_gpu_gets_the_faster_engine_of_those_that_serve(monkeypatch, fastest):
    monkeypatch.setattr(choice, "median_seconds", lambda engines, *_, **__: [e.name != fastest for e in engines])
    policy, foreign = ready(POLICIES["unet1d"]), ready(partial(sampled_by, FOREIGN))
    for one in (policy, foreign):
        assert make_engine(one, None)[0].name == "eager"  # no GPU
    with SimulatedGPU():
        assert make_engine(copy.deepcopy(policy).to("cuda"), None)[0].name == fastest
        engine, _ = make_engine(copy.deepcopy(foreign).to("cuda"), None)
        assert (engine.name, engine.device.type) == ("eager", "cuda")


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


def test_another_limit_needs_no_other_capture():
    policy = ready(POLICIES["unet1d"])
    with SimulatedGPU() as gpu:
        engine = CudaGraphEngine(policy)
        for limit in (5.0, 0.01, 3, 1e300, 1e-300):
            assert_replays(engine, policy, {"limit": limit})
        assert len(gpu.graphs) == 1
        near, far = (replies(engine, policy, [0], {"limit": limit}) for limit in (5.0, 0.01))
        assert not np.array_equal(near, far)


def test_batches_of_similar_size_share_a_graph():
    policy = ready(POLICIES["regression"])
    with SimulatedGPU() as gpu:
        engine = CudaGraphEngine(policy)
        for rows, num_graphs in ((4, 1), (3, 1), (1, 2), (2, 3)):
            assert_replays(engine, policy, {}, rows=rows)
            assert len(gpu.graphs) == num_graphs
        gpu.clear()
        replies(engine, policy, [0], {})
        assert gpu.waits() == {"policy/engines/cuda_graph.py": 2}  # the inputs and the chunk


def test_a_server_captures_before_it_listens_whatever_the_limits():
    policy = ready(POLICIES["regression"])
    requests = [question(policy, {"limit": 1.0 + seed}, seed) for seed in range(3)] + [question(policy)] * 3

    async def answered(engine):
        inference = Inference(engine, max_batch=4)
        await inference.warm_up()
        num_graphs = len(gpu.graphs)
        running = asyncio.create_task(inference.run())
        noise = np.zeros(engine.noise_shape, np.float32)
        answers = await asyncio.gather(*(inference.ask(request, noise) for request in requests))
        running.cancel()
        inference.close()
        return num_graphs, len(answers)

    with SimulatedGPU() as gpu:
        assert asyncio.run(answered(CudaGraphEngine(policy))) == (3, len(requests))  # 1, 2 and 4 rows
        assert len(gpu.graphs) == 3


def test_captured_policies_stay_on_their_gpus():
    with SimulatedGPU():
        policy = ready(POLICIES["unet1d"])
        for index in (0, 1):
            engine = CudaGraphEngine(copy.deepcopy(policy).to(f"cuda:{index}"))
            assert_replays(engine, policy)
            assert {place(parameter).index for parameter in engine.policy.parameters()} == {index}


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


def captured_with(change):
    """A `_capture` whose result is changed."""

    def capture(self, *args, plain=CudaGraphEngine._capture):
        return change(self, plain(self, *args))

    return capture


def freed(engine, captured):
    return replace(captured, inputs=copy.deepcopy(captured.inputs))


def kept_aside(engine, captured):
    engine.kept = captured.inputs
    return freed(engine, captured)


def hold_nothing(policy):
    policy._on_device = lambda times: torch.tensor(times, device="cuda")


GRAPH_FAULTS = {
    "times uploaded in a capture": (DiffusionPolicy, "hold_times", hold_nothing, CaptureError, "test_cuda_graph"),
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
