"""Imported policies predict what a plain loop with a scheduler of diffusers predicts, as their own libraries run it."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from published import (
    HIGH,
    LEROBOT,
    LOW,
    NETWORKS,
    PIXELS,
    camera_forward,
    image_folder,
    imported,
    inputs,
    lerobot_folder,
    observe,
    random,
    state_dict,
    unet_forward,
    unet_layout,
)
from recede.checkpoints.importing import UNBOUNDED
from recede.checkpoints.opening import load_engine
from recede.commands.main import main
from recede.policy.denoising.sampling import keeping_epsilon, step
from recede.policy.denoising.schedule import cosine

SCHEDULERS = {"DDIM": DDIMScheduler, "DDPM": DDPMScheduler}
DDIM_10 = ["policy/sampler=reference_ddim", "policy.sampler.num_steps=10"]


def rolled(network, x, conditioning, *, kind="DDIM", num_steps=10, seed=None, **options):
    """The normalised chunk that the reference implementation and LeRobot make of x.

    Some estimates of x_0 are clipped and some are not. seed: of the noise that DDPM adds.
    """
    scheduler = SCHEDULERS[kind](100, beta_schedule="squaredcos_cap_v2", **options)
    scheduler.set_timesteps(num_steps)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    is_inside = []
    for t in scheduler.timesteps:
        output = network(x, t.expand(len(x)), conditioning)
        result = scheduler.step(output, t, x, generator=generator)
        is_inside.append(result.pred_original_sample.abs() < scheduler.config.clip_sample_range)
        x = result.prev_sample
    if scheduler.config.clip_sample:
        share = torch.stack(is_inside).float().mean()
        assert 0.05 < share < 0.95
        assert is_inside[-1].any()
    return x


def draws(x, num_steps, seed):
    """Noise for a policy: x, and what `rolled` draws; diffusers adds none in the last step."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([x, *(torch.randn(x.shape, generator=generator) for _ in range(num_steps - 1)), x])


def normalised(x, name="obs"):
    """By minimum and maximum, as LeRobot does; the fourth number of an observation never changes."""
    low, high = LOW[name], HIGH[name]
    return 2 * (x - low) / (high - low).where(high > low, 1e-8) - 1


def assert_same(chunk, expected):
    """The chunk in units, and the expected one as it is normalised."""
    torch.testing.assert_close(normalised(chunk, "action"), expected, rtol=0, atol=1e-5)


# --- the reference implementation


def of_reference(kind, weights):
    """The network of a state dict, and the conditioning of `observe()`."""
    network = partial(NETWORKS[kind][1], {name.removeprefix("model."): tensor for name, tensor in weights.items()})
    scale, offset = (weights[f"normalizer.params_dict.obs.{part}"] for part in ("scale", "offset"))
    return network, observe() * scale + offset


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_ddim_policy_of_the_reference_predicts_the_same(tmp_path, kind, prediction):
    weights = state_dict(kind)
    policy, _ = imported(tmp_path, weights, *DDIM_10, f"policy.prediction={prediction}")
    network, conditioning = of_reference(kind, weights)
    x = inputs()[0]
    expected = rolled(network, x, conditioning, prediction_type=prediction)
    assert_same(policy.predict({"obs": observe()}, x[None]), expected)


@pytest.mark.parametrize("arguments", [[], ["policy.sampler.num_steps=10"]])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_policy_of_the_reference_is_sampled_by_ddpm_by_default(tmp_path, kind, arguments):
    weights, num_steps = state_dict(kind), 10 if arguments else 100
    policy, _ = imported(tmp_path, weights, *arguments)
    network, conditioning = of_reference(kind, weights)
    x = inputs()[0]
    expected = rolled(network, x, conditioning, kind="DDPM", num_steps=num_steps, seed=1)
    assert_same(policy.predict({"obs": observe()}, draws(x, num_steps, seed=1)), expected)


# --- LeRobot


def of_lerobot(weights):
    """The network of LeRobot's weights."""
    network = {name.removeprefix(LEROBOT["prefix"]): tensor for name, tensor in weights.items()}
    return partial(unet_forward, network, **{name: LEROBOT[name] for name in ("first", "second", "resampling")})


def as_streams(observation):
    """Its numbers by the names of LeRobot's vectors."""
    return {"state": observation[..., :3], "environment_state": observation[..., 3:]}


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_a_ddim_policy_of_lerobot_predicts_the_same(tmp_path, is_old, prediction):
    weights = random(unet_layout(**LEROBOT))
    folder = lerobot_folder(tmp_path / "lerobot", is_old=is_old, weights=weights, prediction_type=prediction)
    policy, manifest = imported(tmp_path, folder)
    assert (manifest["horizons"].observation, manifest["horizons"].action) == (2, 4)
    assert policy.clip == 1.5
    x, options = inputs()[0], {"clip_sample_range": 1.5, "prediction_type": prediction}
    expected = rolled(of_lerobot(weights), x, normalised(observe()), **options)
    assert_same(policy.predict(as_streams(observe()), x[None]), expected)
    wrong = rolled(of_lerobot(weights), x, normalised(observe()), timestep_spacing="trailing", **options)
    assert (expected - wrong).abs().max() > 0.1  # so the spacing matters here


@pytest.mark.parametrize("num_steps", [10, None])
def test_a_ddpm_policy_of_lerobot_predicts_the_same(tmp_path, num_steps):
    weights = random(unet_layout(**LEROBOT))
    settings = {"noise_scheduler_type": "DDPM", "num_inference_steps": num_steps}
    policy, _ = imported(tmp_path, lerobot_folder(tmp_path / "lerobot", weights=weights, **settings))
    x, num_steps = inputs()[0], num_steps or 100
    options = {"kind": "DDPM", "num_steps": num_steps, "seed": 1, "clip_sample_range": 1.5}
    expected = rolled(of_lerobot(weights), x, normalised(observe()), **options)
    assert_same(policy.predict(as_streams(observe()), draws(x, num_steps, seed=1)), expected)


def test_a_policy_of_lerobot_that_does_not_clip_predicts_the_same(tmp_path):
    weights = random(unet_layout(**LEROBOT))
    policy, _ = imported(tmp_path, lerobot_folder(tmp_path / "lerobot", weights=weights, clip_sample=False))
    x = inputs()[0]
    expected = rolled(of_lerobot(weights), x, normalised(observe()), clip_sample=False)
    assert expected.abs().max() > 2
    assert_same(policy.predict(as_streams(observe()), x[None]), expected)


@pytest.mark.parametrize(
    ("names", "is_separate", "kind", "crop", "mode", "depth", "has_environment"),
    [
        (["image"], False, "group", [36, 72], "MEAN_STD", 18, False),  # as published for Push-T
        (["image"], True, "frozen", None, "MIN_MAX", 50, True),
        (["images.top", "images.front-left"], False, "frozen", [35, 71], "MEAN_STD", 18, True),
        (["images.top", "images.front-left"], True, "group", None, "IDENTITY", 18, True),
        (["images.top", "images.front-left"], True, "frozen", [34, 74], "MEAN_STD", 34, False),
    ],
)
def test_an_image_policy_of_lerobot_predicts_the_same(
    tmp_path, names, is_separate, kind, crop, mode, depth, has_environment
):
    keys, num_vectors = [f"observation.{name}" for name in names], 5 if has_environment else 3
    prediction = "epsilon" if kind == "group" else "sample"
    folder, weights = image_folder(
        tmp_path / "lerobot",
        *keys,
        kind=kind,
        depth=depth,
        mode=mode,
        crop_shape=crop,
        vectors=(3, num_vectors - 3),
        use_separate_rgb_encoder_per_camera=is_separate,
        is_old=not has_environment,
        prediction_type=prediction,
        clip_sample_range=0.75,
    )
    policy, _ = imported(tmp_path, folder)
    generator, observation, x = torch.Generator().manual_seed(0), observe()[..., :num_vectors], inputs()[0]
    images = [torch.randint(0, 256, (5, 2, 40, 76, 3), generator=generator, dtype=torch.uint8) for _ in names]
    low, high = {
        "MEAN_STD": (PIXELS["mean"], PIXELS["mean"] + PIXELS["std"]),
        "MIN_MAX": ((PIXELS["min"] + PIXELS["max"]) / 2, PIXELS["max"]),
        "IDENTITY": (0, 1),
    }[mode]
    features = []
    for index, image in enumerate(images):
        pixels = (image.flatten(0, 1).permute(0, 3, 1, 2) / 255 - low) / (high - low)
        if crop:
            top, left = (round((size - cropped) / 2) for size, cropped in zip((40, 76), crop, strict=True))
            pixels = pixels[:, :, top : top + crop[0], left : left + crop[1]]
        prefix = f"diffusion.rgb_encoder.{index}." if is_separate else "diffusion.rgb_encoder."
        camera = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        features.append(camera_forward(camera, pixels, kind=kind, depth=depth).unflatten(0, (5, 2)))
    vectors = normalised(observe())
    conditioning = torch.cat([vectors[..., :3], *features, vectors[..., 3:num_vectors]], dim=2)
    expected = rolled(of_lerobot(weights), x, conditioning, clip_sample_range=0.75, prediction_type=prediction)
    streams = {name.replace(".", "_").replace("-", "_"): image for name, image in zip(names, images, strict=True)}
    vectors = as_streams(observation) if has_environment else {"state": observation}
    chunk = policy.predict(streams | vectors, x[None])
    assert_same(chunk, expected)
    for name, image in streams.items():  # every camera matters
        assert (policy.predict(streams | vectors | {name: 255 - image}, x[None]) - chunk).abs().max() > 0.1, name


# --- exported


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "sampler"), [("transformer", "reference_ddim"), ("unet1d", "reference")])
def test_an_imported_policy_predicts_the_same_without_pytorch(tmp_path, kind, sampler):
    policy, _ = imported(tmp_path, state_dict(kind), f"policy/sampler={sampler}", "policy.sampler.num_steps=10")
    assert main(["export", str(tmp_path / "imported"), f"out={tmp_path / 'exported'}", "engine=onnx"]) == 0
    engine = load_engine(tmp_path / "exported")
    noise = draws(inputs()[0], 10, seed=1)[: policy.noise_shape[0]]
    chunk = engine.predict({"obs": observe().numpy()}, noise.numpy())
    assert_same(torch.from_numpy(chunk), normalised(policy.predict({"obs": observe()}, noise), "action"))


# --- numbers


@pytest.mark.parametrize("num_times", [100, 1000])
def test_keeping_the_epsilon_costs_no_accuracy(num_times):
    """Every smallest step in fp32 is the exact one to 2e-6, of numbers of up to 4.

    There the x_0 that keeps epsilon lies farthest out of range, and the parts of the next x would cancel.
    """
    levels = cosine(num_times).levels
    x, epsilon = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0))
    for then, now in pairwise(levels):
        raw = (x - now.sigma * epsilon) / now.alpha
        ahead = step(x, keeping_epsilon(raw, raw.clamp(-1, 1), now=now, then=then), now=now, then=then)
        exact = (x.double() - now.sigma * epsilon.double()) / now.alpha
        exact = then.alpha * exact.clamp(-1, 1) + then.sigma * epsilon.double()
        assert (ahead - exact).abs().max() < 2e-6, now.time


def test_without_a_clip_keeping_the_epsilon_changes_nothing():
    """Bit for bit, from the noisiest level on."""
    levels = cosine(100).levels
    raw = torch.randn(100, generator=torch.Generator().manual_seed(0)) / levels[-1].alpha
    for then, now in pairwise(levels):
        assert torch.equal(keeping_epsilon(raw, raw.clamp(-UNBOUNDED, UNBOUNDED), now=now, then=then), raw)
