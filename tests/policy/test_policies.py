"""The policies of recede keep every promise and learn what demonstrators do."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from policies import HORIZONS, RANGES, SPECIFICATION, diffusion, regression
from recede.configs.components.denoising import (
    DDIMConfig,
    DDPMConfig,
    DiffusersSamplerConfig,
    DPMSolver2MConfig,
    EulerMaruyamaConfig,
    HeunConfig,
    KarrasSamplerConfig,
    LangevinConfig,
)
from recede.configs.components.encoders import LowdimEncoderConfig
from recede.configs.components.networks import DiTConfig, TransformerConfig
from recede.configs.components.policies import DiffusionConfig
from recede.policy.check import check_policy
from recede.policy.denoising import prediction
from recede.policy.denoising.guidance import Prefix
from recede.policy.denoising.sampling import karras
from recede.policy.denoising.schedule import rectified_flow
from recede.policy.interface import Lesson
from recede.policy.normalizer import Normalizer
from recede.specification import Specification, Stream

POLICIES = {
    "ddim": diffusion,
    "ddim with noise": partial(diffusion, sampler=DDIMConfig(num_steps=4, eta=0.5)),
    "ddim, keeping epsilon": partial(diffusion, sampler=DDIMConfig(num_steps=4, spacing="leading", keeps_epsilon=True)),
    "dpm_solver_2m": partial(diffusion, sampler=DPMSolver2MConfig(num_steps=4)),
    "heun": partial(diffusion, sampler=HeunConfig(num_steps=4)),
    "karras": partial(diffusion, sampler=KarrasSamplerConfig(num_steps=4, churn=9.0)),
    "langevin": partial(diffusion, sampler=LangevinConfig(num_steps=4, corrections=2)),
    "euler_maruyama": partial(diffusion, sampler=EulerMaruyamaConfig(num_steps=4)),
    "flow": partial(diffusion, schedule=rectified_flow(20), prediction=prediction.VELOCITY),
    "ddpm": partial(diffusion, sampler=DDPMConfig(num_steps=20)),
    "diffusers, deterministic": partial(diffusion, sampler=DiffusersSamplerConfig(num_steps=4)),
    "diffusers, stochastic": partial(diffusion, sampler=DiffusersSamplerConfig(name="DDPMScheduler", num_steps=4)),
    "sample prediction": partial(diffusion, prediction=prediction.SAMPLE),
    "v prediction": partial(diffusion, prediction=prediction.V),
    "regression": regression,
}


@pytest.fixture(params=POLICIES.values(), ids=POLICIES.keys())
def policy(request):
    return request.param()


def observe(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "state": torch.rand(batch, 2, 3, generator=generator) * 2 - 1,
        "target": torch.rand(batch, 2, 2, generator=generator, dtype=torch.float64) * 10,
    }


def draw(policy, batch, seed=1):
    draws, *shape = policy.noise_shape
    return torch.randn(draws, batch, *shape, generator=torch.Generator().manual_seed(seed))


def lesson(num_draws, batch, seed=2):
    """A lesson with actions in units."""
    generator = torch.Generator().manual_seed(seed)
    action = torch.tensor([150.0, -2.0]) + torch.randn(batch, 6, 2, generator=generator) * torch.tensor([25.0, 0.5])
    noise = torch.randn(num_draws, batch, 6, 2, generator=generator)
    return Lesson(observe(batch), action, noise, torch.rand(num_draws, batch, 1, generator=generator))


# --- every policy


@pytest.mark.slow
@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
def test_a_policy_keeps_every_promise(make):
    check_policy(make)


@pytest.mark.parametrize("network", [TransformerConfig(num_layers=2, size=16), DiTConfig(num_layers=2, size=16)])
def test_a_policy_of_another_network_keeps_every_promise(network):
    config = DiffusionConfig(network=network, sampler=HeunConfig(num_steps=3))
    check_policy(lambda: config.build(SPECIFICATION, HORIZONS, Normalizer(SPECIFICATION, RANGES)))


def test_a_prediction_is_clipped_to_the_range_of_the_data(policy):
    chunk = policy.predict(observe(5), draw(policy, 5))
    normalised = policy.normalizer.action(chunk)
    torch.testing.assert_close(policy.normalizer.unnormalised_action(normalised), chunk)
    if policy.has_noise:
        assert normalised.abs().max() <= 1.001
        low, high = (torch.tensor(limit) for limit in RANGES["action"])
        assert ((chunk >= low - 0.1) & (chunk <= high + 0.1)).all()


@pytest.mark.slow
def test_every_draw_of_noise_counts_but_the_last(policy):
    """The last draw is multiplied by 0. Of the draws of karras, only those of steps to noisier levels are used."""
    observation, noise = observe(3), draw(policy, 3)
    chunk, rises = policy.predict(observation, noise), {0}
    rises |= {i for i, (now, then) in enumerate(pairwise(policy.sampler.levels), 1) if then.log_snr < now.log_snr}
    for index in range(policy.noise_shape[0] - 1):
        changed = noise.clone()
        changed[index] += 1
        counts = policy.sampler.solve is not karras or index in rises
        assert torch.equal(policy.predict(observation, changed), chunk) != counts, index


def held(policy, batch, seed=3):
    """Planned actions in the units of the data."""
    generator = torch.Generator().manual_seed(seed)
    return policy.normalizer.unnormalised_action(torch.rand(batch, 6, 2, generator=generator) * 1.8 - 0.9)


def test_a_step_of_half_weight_is_pulled_towards_the_prefix(policy):
    observation, noise, planned = observe(4), draw(policy, 4), held(policy, 4)
    weights = torch.tensor([1.0, 1, 1, 0.5, 0.1, 0]).expand(4, 6)
    chunk, free = (policy.predict(observation, noise, [Prefix(planned, w)]) for w in (weights, 0 * weights))
    assert (chunk[:, 3] - planned[:, 3]).abs().mean() < (free[:, 3] - planned[:, 3]).abs().mean()
    assert (chunk[:, 5] - planned[:, 5]).abs().mean() > 0.1  # the end is free


def test_a_warm_start_runs_the_last_denoising_steps(policy, monkeypatch):
    if not policy.has_noise:
        pytest.skip("it does not denoise")
    observation, noise, planned = observe(4), draw(policy, 4), held(policy, 4)
    if not policy.sampler.runs_on_arrays:
        with pytest.raises(ValueError, match="use a sampler of recede for a warm start"):
            policy.predict(observation, noise, [Prefix(planned, torch.zeros(4, 6), start=0.5)])
        return
    calls = []
    sampler = policy.sampler

    def solve(denoise, noise, levels):
        calls.append((noise, levels))
        return sampler.solve(denoise, noise, levels)

    policy.sampler = replace(sampler, solve=solve)
    num_steps = len(sampler.levels) - 1
    per_step = sampler.num_draws // num_steps
    for start, left in ((1.0, num_steps), (0.5, round(num_steps / 2)), (0.01, 1)):
        chunk = policy.predict(observation, noise, [Prefix(planned, torch.zeros(4, 6), start=start)])
        begin, levels = calls.pop()
        assert levels == sampler.levels[-left - 1 :]
        _, alpha, sigma = levels[0]
        expected = noise[0] if start == 1.0 else alpha * policy.normalizer.action(planned) + sigma * noise[0]
        assert torch.equal(begin[0], expected)
        assert torch.equal(begin[1:], noise[len(noise) - left * per_step :])
        assert chunk.isfinite().all()


def test_the_encoder_runs_once_per_window(policy):
    sizes = []
    policy.encoder.register_forward_hook(lambda module, arguments, output: sizes.append(len(output)))
    policy.loss(lesson(3, 4))
    policy.predict(observe(5), draw(policy, 5))
    assert sizes == [4, 5]


def test_every_weight_learns(policy):
    policy.loss(lesson(2, 8)).mean().backward()
    without = {
        name for name, parameter in policy.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }
    # Regression starts from an empty chunk at time 0: weights that multiply either of them have nothing to learn.
    empty = {"network.down.0.0.first.0.weight", "network.down.0.0.skip.weight"}
    assert without == (empty if not policy.has_noise else set())


def test_the_ranges_of_the_normalizer_are_saved_with_the_weights(policy):
    expected = policy.predict(observe(3), draw(policy, 3))
    weights = {name: value.clone() for name, value in policy.state_dict().items()}
    policy.normalizer.load_state_dict(Normalizer.empty(SPECIFICATION).state_dict())
    assert not torch.equal(policy.predict(observe(3), draw(policy, 3)), expected)
    policy.load_state_dict(weights)
    assert torch.equal(policy.predict(observe(3), draw(policy, 3)), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.pop("target"), r"needs the observation 'target', got \['state'\]"),
        (lambda o: o.update(stat=o["state"]), "does not know the observation 'stat': did you mean 'state'"),
        (lambda o: o.update(state=o["state"][:, :1]), r"'state' must have shape \(B, 2, 3\), got \(4, 1, 3\)"),
        (lambda o: o.update(state=o["state"][0]), r"'state' must have shape \(B, 2, 3\), got \(2, 3\)"),
        (lambda o: o.update(target=o["state"]), r"'target' must have shape \(B, 2, 2\), got \(4, 2, 3\)"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused(policy, change, message):
    observation = observe(4)
    change(observation)
    with pytest.raises(ValueError, match=message):
        policy.predict(observation, draw(policy, 4))
    with pytest.raises(ValueError, match=message):
        policy.loss(replace(lesson(1, 4), observation=observation))


# --- the diffusion loss, by its definition


@pytest.mark.parametrize("kind", [prediction.EPSILON, prediction.SAMPLE, prediction.V])
def test_the_diffusion_loss_is_the_error_of_the_network(kind):
    policy = diffusion(prediction=kind)
    data = lesson(1, 4)
    x_0, noise, t = policy.normalizer.action(data.action), data.noise, (data.uniform[0, :, 0] * 20).long()
    alpha, sigma = (value[:, None, None] for value in policy.schedule(t))
    output = policy.network(alpha * x_0 + sigma * noise[0], t, policy.encode(data.observation))
    target = kind.target(x_0, noise[0], alpha, sigma)
    expected = torch.nn.functional.mse_loss(output, target, reduction="none").mean(dim=-1)
    torch.testing.assert_close(policy.loss(data)[0], expected)


def test_the_denoiser_removes_the_noise_if_the_network_predicts_it_exactly():
    policy = diffusion(sampler=DDIMConfig(num_steps=20))
    data = lesson(1, 4)
    x_0, noise = policy.normalizer.action(data.action).clamp(-1, 1), data.noise
    policy.network.denoise = lambda noisy, time, condition: noise[0]
    denoise = policy.denoiser(policy.encode(observe(4)))
    for t in (0, 3, 12, 18):
        level = policy.schedule.levels[t + 1]
        x_t = level.alpha * x_0 + level.sigma * noise[0]
        torch.testing.assert_close(denoise(x_t, level, level), x_0, rtol=0, atol=1e-4)
    estimate = denoise(torch.full((4, 6, 2), 50.0), level, level)
    assert estimate.max() == 1.0  # clipped


@pytest.mark.parametrize("t", [19, 4])
def test_the_denoiser_equals_the_whole_network(t):
    policy = diffusion(prediction=prediction.SAMPLE, clip=100.0)
    conditioning, x_t = policy.encode(observe(4)), torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(0))
    level = policy.schedule.levels[t + 1]
    estimate = policy.denoiser(conditioning)(x_t, level, level)
    torch.testing.assert_close(estimate, policy.network(x_t, torch.full((4,), t), conditioning))


@pytest.mark.parametrize(("sampler", "embedded"), [(DDIMConfig, [10]), (HeunConfig, [10, 10])])
def test_times_and_conditioning_are_embedded_once_per_chunk(sampler, embedded):
    """Heun's method also asks for steps of no length."""
    policy, calls = diffusion(sampler=sampler(num_steps=10)), []
    for piece in ("embed", "condition"):
        plain = getattr(policy.network, piece)
        setattr(
            policy.network, piece, lambda *x, plain=plain, piece=piece: calls.append((piece, len(x[0]))) or plain(*x)
        )
    expected = policy.predict(observe(4), draw(policy, 4))
    assert calls == [("condition", 4), *(("embed", count) for count in embedded)]
    policy.hold_times()
    calls.clear()
    assert torch.equal(policy.predict(observe(4), draw(policy, 4)), expected)
    assert calls == [("condition", 4)]


def test_images_are_refused_by_the_low_dimensional_encoder():
    specification = Specification((Stream("camera", (8, 8, 3), "uint8"),), Stream("action", (2,)), 0.1)
    with pytest.raises(ValueError, match=r"takes vector streams only, got \['camera'\]"):
        LowdimEncoderConfig().build(specification, HORIZONS)


# --- learning

TOY = Specification((Stream("wall", (1,)),), Stream("action", (1,)), control_dt=0.1)
TOY_RANGES = {"wall": (np.zeros(1), np.ones(1)), "action": (np.full(1, -4.0), np.full(1, 4.0))}


def demonstrated(batch, generator):
    """Without a wall, everybody goes left (+3). With a wall (1), half of the demonstrators go right (-3)."""
    wall = torch.randint(2, (batch, 1, 1), generator=generator).float().expand(batch, 2, 1)
    side = 1 - 2 * wall[:, :1] * torch.randint(2, (batch, 1, 1), generator=generator)
    return {"wall": wall}, 3 * side.expand(batch, 6, 1)


def learn(policy, num_steps, data, num_draws=1):
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=2e-3)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        observation, action = data(generator)
        noise = torch.randn(num_draws, *action.shape, generator=generator)
        uniform = torch.rand(num_draws, len(action), 1, generator=generator)
        loss = policy.loss(Lesson(observation, action, noise, uniform)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()


@pytest.mark.slow
def test_diffusion_learns_both_ways_round_the_wall_and_regression_hits_it():
    at_the_wall, elsewhere = {"wall": torch.ones(200, 2, 1)}, {"wall": torch.zeros(200, 2, 1)}
    chunks = []
    many_steps = partial(diffusion, prediction=prediction.SAMPLE, sampler=DDIMConfig(num_steps=10))
    for make, num_steps in ((many_steps, 250), (regression, 100)):
        policy = make(TOY, TOY_RANGES, channels=(24,))
        learn(policy, num_steps, lambda generator: demonstrated(64, generator))
        noise = draw(policy, 200)
        chunks.append((policy.predict(at_the_wall, noise), policy.predict(elsewhere, noise)))
    (both, left), (mean, also_left) = chunks

    went_left, went_right = ((both - side).abs().amax(dim=(1, 2)) < 0.5 for side in (3, -3))
    assert (went_left | went_right).float().mean() > 0.9  # a whole chunk on one side
    assert 0.35 < went_left.float().mean() < 0.65
    assert ((left - 3).abs().amax(dim=(1, 2)) < 0.5).float().mean() > 0.95
    assert mean.abs().max() < 0.75  # into the wall, where nobody went
    assert (also_left - 3).abs().max() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("make", [partial(diffusion, prediction=prediction.SAMPLE), regression])
def test_a_policy_memorises_one_batch(make):
    policy = make()
    observation, action = observe(4), lesson(1, 4).action
    action = torch.clamp(action, *(torch.tensor(limit).float() for limit in RANGES["action"]))
    learn(policy, 150, lambda generator: (observation, action), num_draws=8)
    chunk = policy.predict(observation, draw(policy, 4))
    error = (policy.normalizer.action(chunk) - policy.normalizer.action(action)).abs().mean()
    assert error < 0.05
