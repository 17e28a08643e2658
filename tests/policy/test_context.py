"""Context reaches a policy as tokens of its own, may be unknown, and classifier-free guidance weighs it."""

from functools import cached_property, partial

import cameras
import numpy as np
import pytest
import torch
from gaussians import along, cosine_path, gaussian
from policies import HORIZONS, USUAL
from recede.configs.components import denoising, networks
from recede.configs.components.encoders import LowdimEncoderConfig, ResNetEncoderConfig
from recede.configs.components.guidance import ClassifierFreeConfig
from recede.policy.denoising import prediction
from recede.policy.denoising.guidance import ClassifierFree, Prefix, Sampling, sample
from recede.policy.denoising.sampling import Sampler, ddim, heun
from recede.policy.denoising.schedule import cosine
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.engines.eager import EagerEngine
from recede.policy.engines.export import write_onnx
from recede.policy.engines.folder import open_session
from recede.policy.engines.pieces import exported_engine
from recede.policy.engines.wrapping import GuidedEngine, InstructedEngine
from recede.policy.interface import Lesson
from recede.policy.normalizer import Normalizer
from recede.specification import Specification, Stream

STATE, ACTION = Stream("state", (3,)), Stream("action", (2,))
GOAL = Stream("goal", (4,), low=0, high=1, context=True)
PICTURE = Stream("picture", (16, 14, 3), "uint8", context=True)
VECTORS = Specification((GOAL, STATE), ACTION, control_dt=0.1)
IMAGES = Specification((STATE, PICTURE, cameras.SCENE, GOAL), ACTION, control_dt=0.1)
NETWORKS = {
    "unet1d": networks.UNet1dConfig(channels=[8, 16], kernel_size=3, groups=4, time_size=16),
    "transformer": networks.TransformerConfig(num_layers=2, num_heads=2, size=16),
    "dit": networks.DiTConfig(num_layers=2, num_heads=2, size=16),
}


def policy_of(specification=VECTORS, network="unet1d", **options):
    torch.manual_seed(0)
    config = (
        ResNetEncoderConfig(width=16, stages=1, keypoints=4, features=6)
        if specification is IMAGES
        else LowdimEncoderConfig()
    )
    encoder = config.build(specification, HORIZONS)
    streams = [stream for stream in specification.streams if not stream.is_image]
    made = NETWORKS[network].build(
        action_size=2,
        num_steps=HORIZONS.prediction,
        conditioning_shape=encoder.conditioning_shape,
        num_context=encoder.num_context,
    )
    policy = DiffusionPolicy(
        specification,
        HORIZONS,
        normalizer=Normalizer(specification, {s.name: (np.full(s.shape, -1.0), np.ones(s.shape)) for s in streams}),
        encoder=encoder,
        network=made,
        schedule=cosine(20),
        prediction=prediction.SAMPLE,
        **USUAL | {"clip": 10.0, "sampler": denoising.DDIMConfig(num_steps=3).build(cosine(20))} | options,
    )
    with torch.no_grad():  # no weight is 0, so nothing hides
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return policy.eval()


def observation_of(specification=VECTORS, rows=5, seed=0):
    random = np.random.default_rng(seed)

    def draw(stream):
        value = (
            random.integers(0, 256, (rows, 1, *stream.shape))
            if stream.is_image
            else random.normal(size=(rows, 1 if stream.context else HORIZONS.observation, *stream.shape))
        )
        shape = (rows, HORIZONS.observation, *stream.shape)
        if stream.is_image and not stream.context:
            value = random.integers(0, 256, shape)
        return np.broadcast_to(value, shape).astype(stream.dtype)

    return {stream.name: draw(stream) for stream in specification.observations}


def noise_of(policy, rows=5):
    draws, *chunk = policy.noise_shape
    return np.random.default_rng(1).standard_normal((draws, rows, *chunk), dtype=np.float32)


@pytest.mark.parametrize("specification", [VECTORS, IMAGES], ids=["vectors", "images"])
def test_each_stream_of_context_is_one_token_before_the_steps(specification):
    policy, observation = policy_of(specification), observation_of(specification)
    tensors = {name: torch.as_tensor(values) for name, values in observation.items()}
    tokens, count = policy.encode(tensors), len(specification.context)
    assert tokens.shape == (5, count + HORIZONS.observation, 64)
    for index, stream in enumerate(specification.context):
        changed = tensors | {stream.name: tensors[stream.name].flip(0)}
        is_changed = (policy.encode(changed) != tokens).any(-1)[[0, 1, 3, 4]]
        assert is_changed[:, index].all()
        assert is_changed.sum() == 4, "only its own token changes"


@pytest.mark.parametrize("network", NETWORKS)
def test_every_action_depends_on_the_context(network):
    policy = policy_of(network=network)
    tensors = {name: torch.as_tensor(values) for name, values in observation_of().items()}
    noise = torch.as_tensor(noise_of(policy))
    changed = tensors | {"goal": tensors["goal"] + 1}
    difference = (policy.predict(tensors, noise) - policy.predict(changed, noise)).abs()
    assert (difference.amax(-1) > 1e-5).all()


def test_training_forgets_the_context_of_the_stated_share_of_the_rows():
    policy = policy_of(drop_context=0.25)
    assert policy.num_uniforms == 2
    rows, draws = 6, 2
    tensors = {name: torch.as_tensor(values) for name, values in observation_of(rows=rows).items()}
    uniform = torch.rand(draws, rows, 2, generator=torch.Generator().manual_seed(0))
    uniform[..., 1] = torch.linspace(0, 0.99, draws * rows).reshape(draws, rows)
    noise, action = torch.randn(draws, rows, 6, 2), torch.randn(rows, 6, 2)
    loss = policy.loss(Lesson(tensors, action, noise, uniform))
    other = policy.loss(Lesson(tensors | {"goal": tensors["goal"] + 1}, action, noise, uniform))
    assert torch.equal((loss == other).all(-1), uniform[..., 1] < 0.25)
    loss.sum().backward()
    assert policy.encoder.unknown.grad.abs().sum() > 0


def test_a_policy_without_context_draws_no_number_for_it():
    specification = Specification((STATE,), ACTION, control_dt=0.1)
    policy = policy_of(specification, drop_context=0.25)
    assert (policy.num_uniforms, policy.drop_context, policy.encoder.num_context) == (1, 0.0, 0)
    assert policy.encoder.conditioning_shape == (HORIZONS.observation, 3)


class Engines:
    """The eager and the exported engine of a policy."""

    def __init__(self, folder, specification):
        self.policy, self.folder = policy_of(specification), folder
        self.eager = EagerEngine(self.policy)
        self.observation, self.noise = observation_of(specification), noise_of(self.policy)

    @cached_property
    def onnx(self):
        write_onnx(self.policy, self.folder)
        return exported_engine(self.policy, open_session("onnx", self.folder))

    def predict(self, name, *guidance):
        return getattr(self, name).predict(self.observation, self.noise, guidance)


@pytest.fixture(
    scope="module", params=[VECTORS, pytest.param(IMAGES, marks=pytest.mark.slow)], ids=["vectors", "images"]
)
def engines(request, tmp_path_factory):
    return Engines(tmp_path_factory.mktemp("engine"), request.param)


@pytest.mark.parametrize("name", ["eager", pytest.param("onnx", marks=pytest.mark.slow)])
def test_weight_one_is_the_policy_and_weight_zero_never_sees_the_context(engines, name):
    usual = engines.predict(name)
    assert np.array_equal(engines.predict(name, ClassifierFree(1.0)), usual)
    blind = engines.predict(name, ClassifierFree(0.0))
    assert np.abs(blind - usual).max() > 1e-4
    changed = engines.observation | {"goal": engines.observation["goal"] + 1}
    engine = getattr(engines, name)
    assert np.array_equal(engine.predict(changed, engines.noise, [ClassifierFree(0.0)]), blind)


@pytest.mark.slow  # of the export
@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_exported_graphs_guide_as_pytorch_does_also_with_a_prefix(engines, weight):
    actions = np.zeros((5, 6, 2), np.float32)
    prefix = Prefix(actions, np.tile(np.array([1, 1, 0.5, 0, 0, 0], np.float32), (5, 1)))
    for guidance in ([], [prefix]):
        chunks = [engines.predict(name, ClassifierFree(weight), *guidance) for name in ("eager", "onnx")]
        np.testing.assert_allclose(*chunks, atol=2e-5)


def test_the_guided_chunk_is_the_weighted_difference_in_one_step(engines):
    """One step to clean data returns the estimate itself."""
    policy = policy_of(sampler=denoising.DDIMConfig(num_steps=1).build(cosine(20)), clip=1e9)
    tensors = {name: torch.as_tensor(values) for name, values in observation_of().items()}
    noise = torch.as_tensor(noise_of(policy))
    blind, usual, guided = (policy.predict(tensors, noise, [ClassifierFree(weight)]) for weight in (0.0, 1.0, 2.5))
    torch.testing.assert_close(guided, blind + 2.5 * (usual - blind), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("solve", [partial(ddim, eta=0.0), heun], ids=["ddim", "heun"])
def test_guided_samples_of_gaussians_of_one_spread_have_the_mean_of_the_closed_form(weight, solve):
    """With p(x | c) = N(m, s^2) and p(x) = N(0, s^2), p(x) (p(x | c) / p(x))^w is N(w m, s^2) at every noise level."""
    spread, mean = 0.4, 0.7
    sampler = Sampler(solve, along(cosine_path, 400), num_draws=0)
    noise = torch.randn(1, 2000, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def denoiser(condition):
        conditional, blind = gaussian(spread, mean), gaussian(spread, 0.0)
        return lambda x, now, then: torch.where(condition, conditional(x, now, then), blind(x, now, then))

    is_known = torch.ones(2000, 1, 1, dtype=torch.bool)
    sampling = Sampling(is_known, denoiser, None, 1e9, partial(torch.zeros_like, is_known), {})
    x_0 = sample(sampling, noise, sampler=sampler, guidance=[ClassifierFree(weight)])
    expected = weight * mean + spread * noise[0]  # the probability flow carries each noise there
    assert (x_0 - expected).abs().max() < 0.02


def test_an_engine_with_guidance_of_its_own_guides_every_chunk(engines):
    guided = GuidedEngine(engines.eager, [ClassifierFree(2.0)])
    chunk = guided.predict(engines.observation, engines.noise)
    assert np.array_equal(chunk, engines.predict("eager", ClassifierFree(2.0)))
    assert guided.noise_shape == engines.eager.noise_shape
    assert (guided.name, guided.device) == ("eager", torch.device("cpu"))


def test_guidance_that_a_policy_cannot_follow_is_refused():
    config = ClassifierFreeConfig(weight=2.0)
    with pytest.raises(ValueError, match=r"needs a policy with context, got none"):
        config.build(EagerEngine(policy_of(Specification((STATE,), ACTION, control_dt=0.1))), {"drop_context": 0.1})
    with pytest.raises(ValueError, match=r"weight=2 needs a policy that was also trained without its context"):
        config.build(EagerEngine(policy_of()), {"drop_context": 0.0})
    assert ClassifierFreeConfig(weight=1.0).build(EagerEngine(policy_of()), {}) == ClassifierFree(1.0)
    with pytest.raises(ValueError, match=r"weight must be at least 0, got -1"):
        ClassifierFreeConfig(weight=-1.0)


def test_an_engine_with_context_of_its_own_needs_no_other(engines):
    goal = np.array([0.0, 1.0, 0.5, -1.0])
    instructed = InstructedEngine(engines.eager, {"goal": goal})
    assert "goal" not in [stream.name for stream in instructed.specification.observations]
    own = {name: values for name, values in engines.observation.items() if name != "goal"}
    goals = np.tile(goal.astype(np.float32), (5, HORIZONS.observation, 1))
    expected = engines.eager.predict({**own, "goal": goals}, engines.noise)
    assert np.array_equal(instructed.predict(own, engines.noise), expected)
    assert np.array_equal(instructed.predict(engines.observation, engines.noise), expected)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"gaol": [0, 0, 0, 0]}, "context.gaol must be context of the policy: did you mean 'goal'"),
        ({"state": [0, 0, 0]}, "context.state must be context of the policy"),
        ({"goal": [0, 0, 0]}, r"context.goal must have the shape \(4,\), got \(3,\)"),
    ],
)
def test_context_that_a_policy_does_not_have_is_refused(context, message):
    with pytest.raises(ValueError, match=message):
        InstructedEngine(EagerEngine(policy_of()), context)
