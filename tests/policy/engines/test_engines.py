"""Every engine keeps the promises of `Engine`, and agrees with PyTorch."""

import numpy as np
import pytest
import torch
from engines import CLOSE, POLICIES, assert_close, policy_chunk, random_input, random_prefix
from policies import diffusion
from recede.policy.denoising.energies import Energies, HalfSpace, RateLimit
from recede.policy.denoising.guidance import Prefix
from recede.policy.engines.check import check_engine
from recede.policy.engines.eager import EagerEngine
from recede.policy.engines.interface import ENGINES
from recede.policy.engines.making import make_engine
from recede.policy.engines.pieces import action_affine
from recede.policy.engines.wrapping import GuidedEngine
from representatives import representatives


@pytest.fixture(params=representatives(POLICIES, "unet1d", "transformer", "images"))
def name(request):
    return request.param


@pytest.fixture(params=ENGINES)
def pair(request, name, workshop):
    """A policy and an engine of it."""
    return workshop.policy(name), workshop.engine(name, request.param)


def test_an_engine_keeps_every_promise_and_agrees_with_eager(pair):
    policy, engine = pair
    assert engine.name in ENGINES
    report = check_engine(
        engine,
        EagerEngine(policy),
        observation=random_input(policy, rows=16)[0],
        half_range=action_affine(policy.normalizer).half_range,
        tolerance=CLOSE[engine.precision],
    )
    assert f"engine              {engine.name}, {engine.precision}" in report
    assert "differs from eager by at most" in report
    assert ("exact guidance      works" in report) == (engine.name == "eager")


def test_an_engine_agrees_with_the_policy_itself(pair):
    policy, engine = pair
    observation, noise = random_input(policy)
    assert_close(engine, engine.predict(observation, noise), policy_chunk(policy, observation, noise), policy)


def test_a_prefix_and_a_warm_start_change_the_chunk(pair):
    policy, engine = pair
    observation, noise = random_input(policy)
    chunk = engine.predict(observation, noise)
    guided = engine.predict(observation, noise, [random_prefix(policy)])
    assert np.abs(guided - chunk).max() > 1e-2
    for start in (0.5, 0.01):
        warm = engine.predict(observation, noise, [random_prefix(policy, weights=(), start=start)])
        assert (np.abs(warm - chunk).max() > 1e-3) == bool(policy.noise_shape[0])


def test_energies_guide_every_engine(pair):
    policy, engine = pair
    observation, noise = random_input(policy)
    centre, half_range = action_affine(policy.normalizer)
    width = tuple((0.1 * half_range).tolist())
    beyond = HalfSpace(width, (-1.0, 0.0), float(-centre[0] - 0.9 * half_range[0]))  # few chunks are there
    energies = beyond, RateLimit(width, tuple(half_range.tolist()), 1.0)
    guidance = Energies(energies, exact=False), random_prefix(policy, weights=(1.0,))
    guided = engine.predict(observation, noise, guidance)
    assert_close(engine, guided, EagerEngine(policy).predict(observation, noise, guidance), policy)
    assert np.abs(guided - engine.predict(observation, noise, guidance[1:])).max() > 0.1 * half_range[0]
    if engine.name != "eager":
        with pytest.raises(ValueError, match="exact=false"):
            GuidedEngine(engine, [Energies(energies)])


def test_only_eager_has_gradients(pair):
    policy, engine = pair
    observation, noise = random_input(policy)
    prefix = random_prefix(policy, exact=True)
    if engine.name != "eager":
        with pytest.raises(ValueError, match=rf"engine={engine.name} .* use engine=eager"):
            engine.predict(observation, noise, [prefix])
        return
    tensors = Prefix(torch.from_numpy(prefix.actions), torch.from_numpy(prefix.weights), exact=True)
    expected = policy_chunk(policy, observation, noise, [tensors])
    assert np.array_equal(engine.predict(observation, noise, [prefix]), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o, n: (o.pop("state"), n, None), "'state'"),
        (lambda o, n: (o.update(stat=o["state"]), n, None), "'stat': did you mean 'state'"),
        (lambda o, n: (o.update(state=o["state"][:, :1]), n, None), r"'state' .*\(B, 2, 3\), got \(5, 1"),
        (lambda o, n: (o.update(state=o["state"][:3]), n, None), "rows, got {.*'state': 3"),
        (lambda o, n: (None, n[:, :3], None), r"noise .*\(1, 5, 6, 2\).*got \(1, 3, 6, 2\)"),
        (lambda o, n: (None, np.concatenate([n, n]), None), r"noise .*\(1, 5, 6, 2\).*got \(2, 5, 6, 2\)"),
        (lambda o, n: (None, n, random_prefix(diffusion(), rows=4)), r"got \(4, 6, 2\)"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_error_for_wrong_input_names_the_value(workshop, engine, change, message):
    observation, noise = random_input(workshop.policy("unet1d"))
    _, noise, prefix = change(observation, noise)
    with pytest.raises(ValueError, match=message):
        workshop.engine("unet1d", engine).predict(observation, noise, () if prefix is None else [prefix])


@pytest.mark.parametrize("engine", ENGINES)
def test_pixels_must_be_uint8(workshop, engine):
    observation, noise = random_input(workshop.policy("images"))
    observation["scene"] = observation["scene"].astype(np.float32) / 255
    with pytest.raises(ValueError, match=r"'scene' .*uint8.*got .*float32"):
        workshop.engine("images", engine).predict(observation, noise)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an NVIDIA GPU")
def test_a_cuda_graph_needs_a_gpu():
    with pytest.raises(ValueError, match=r"NVIDIA GPU.*use engine="):
        make_engine(diffusion(), "cuda_graph")


@pytest.mark.parametrize("engine", [name for name in (*ENGINES, "auto") if name != "eager"])
def test_only_eager_runs_a_policy_of_another_class(engine):
    with pytest.raises(ValueError, match="got Linear: use engine=eager"):
        make_engine(torch.nn.Linear(1, 1), engine)
