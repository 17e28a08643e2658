"""What other implementations have trained: state dicts made here from their layouts, and their networks written out."""

import json
import os
import pickle
import re
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from published import (
    HORIZONS,
    NETWORKS,
    OBSERVED,
    PIXELS,
    PUSHT,
    STATISTICS,
    STEPS,
    image_folder,
    imported,
    inputs,
    lerobot_folder,
    random,
    state_dict,
    transformer_forward,
    unet_layout,
)
from recede.checkpoints.opening import load_policy
from recede.commands.main import main
from recede.envs.catalogue import load_task

# --- files of other implementations


def refused(capsys, *arguments):
    """The error of an import that is refused, in one line."""
    assert main(["import-checkpoint", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


# --- the reference implementation


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_of_the_reference_computes_the_same(tmp_path, kind):
    weights = state_dict(kind)
    policy, manifest = imported(tmp_path, weights)
    forward = NETWORKS[kind][1]
    expected = forward({name.removeprefix("model."): tensor for name, tensor in weights.items()}, *inputs())
    assert expected.std() > 0.1
    torch.testing.assert_close(policy.network(*inputs()), expected, rtol=1e-5, atol=1e-5)
    assert manifest["policy"]["network"]["choice"] == kind


def test_a_transformer_without_masks_is_not_causal(tmp_path):
    weights = {name: tensor for name, tensor in state_dict("transformer").items() if not name.endswith("mask")}
    policy, _ = imported(tmp_path, weights, "policy/network=transformer")
    network = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    expected = transformer_forward(network, *inputs())
    torch.testing.assert_close(policy.network(*inputs()), expected, rtol=0, atol=1e-5)


def test_the_heads_of_a_transformer_are_chosen(tmp_path):
    weights = state_dict("transformer")
    policy, _ = imported(tmp_path, weights, "policy/network=transformer", "policy.network.num_heads=2")
    network = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    expected = transformer_forward(network, *inputs(), heads=2)
    torch.testing.assert_close(policy.network(*inputs()), expected, rtol=1e-5, atol=1e-5)


def test_one_number_may_scale_all_dimensions(tmp_path):
    """As where observations are left as they are."""
    weights = state_dict("unet1d")
    for part, value in (("scale", 1.0), ("offset", 0.0), ("input_stats.min", -1.0), ("input_stats.max", 1.0)):
        weights[f"normalizer.params_dict.obs.{part}"] = torch.tensor([value])
    policy, _ = imported(tmp_path, weights)
    observation = torch.rand(3, 2, OBSERVED, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(policy.normalizer.observation({"obs": observation})["obs"], observation)


@pytest.mark.slow
def test_the_streams_of_a_task_take_the_place_of_the_observation(tmp_path):
    """In the order of `streams`: the policy sees the same numbers under other names."""
    shapes = unet_layout(global_size=8)
    weights = {f"model.{name}": tensor for name, tensor in random(shapes).items()}
    for name, width in (("obs", 4), ("action", 2)):
        ramp = torch.arange(1, width + 1).float()
        parameters = {"scale": 1 / ramp, "offset": ramp / 10, "input_stats.min": 0 * ramp, "input_stats.max": ramp}
        weights |= {f"normalizer.params_dict.{name}.{part}": value for part, value in parameters.items()}
    torch.save(weights, tmp_path / "weights.pt")
    common = ["import-checkpoint", str(tmp_path / "weights.pt"), *HORIZONS]
    assert main([*common, f"out={tmp_path / 'a'}", "control_dt=0.1"]) == 0
    assert main([*common, f"out={tmp_path / 'b'}", "task=toys:REACH", "streams=[target,position]"]) == 0
    plain, (named, manifest) = load_policy(tmp_path / "a")[0], load_policy(tmp_path / "b")
    generator = torch.Generator().manual_seed(0)
    num_draws = plain.noise_shape[0]
    observation = torch.rand(3, 2, 4, generator=generator)
    noise = torch.randn(num_draws, 3, STEPS, 2, generator=generator)
    target, position = observation.split(2, dim=2)
    conditioning = named.encode({"position": position, "target": target})
    assert torch.equal(conditioning, plain.encode({"obs": observation}))
    chunk = named.predict({"position": position, "target": target}, noise)
    assert torch.equal(chunk, plain.predict({"obs": observation}, noise))
    assert manifest["task"] == "toys:REACH"
    evaluation = ["task=toys:REACH", "episodes=1", "videos=0", f"out={tmp_path / 'results'}"]
    assert main(["evaluate", str(tmp_path / "b"), *evaluation]) == 0
    content = json.loads((tmp_path / "results" / "evaluation.json").read_text())
    assert (content["training_seed"], content["training"]) == (None, None)
    assert content["recipe"] == content["checkpoint"] == str(tmp_path / "b")


# --- LeRobot


def test_an_image_policy_takes_the_streams_of_push_t(tmp_path):
    """One vector and one image need no order; it then predicts the same from the task's streams."""
    folder, _ = image_folder(
        tmp_path / "lerobot", "observation.image", shape=(3, 96, 96), crop_shape=[84, 84], cells=(3, 3), **PUSHT
    )
    for out, argument in (("plain", "control_dt=0.1"), ("pusht", "task=pusht_image")):
        assert main(["import-checkpoint", str(folder), f"out={tmp_path / out}", argument]) == 0
    plain, (named, manifest) = load_policy(tmp_path / "plain")[0], load_policy(tmp_path / "pusht")
    assert manifest["specification"] == load_task("pusht_image").specification
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 2, 96, 96, 3), generator=generator, dtype=torch.uint8)
    place, x = torch.rand(2, 2, 2, generator=generator) * 512, torch.randn(1, 2, STEPS, 2, generator=generator)
    chunk = named.predict({"image": image, "agent_position": place}, x)
    assert torch.equal(chunk, plain.predict({"image": image, "state": place}, x))


def test_every_schedule_and_sampler_of_lerobot_is_known(tmp_path):
    settings = {"beta_schedule": "linear", "noise_scheduler_type": "DDPM", "num_train_timesteps": 20}
    settings |= {"clip_sample": False, "num_inference_steps": None}
    policy, manifest = imported(tmp_path, lerobot_folder(tmp_path / "lerobot", **settings))
    schedule = {"choice": "diffusers", "beta_schedule": "linear", "num_times": 20, "beta_start": 1e-4, "beta_end": 0.02}
    assert manifest["policy"]["schedule"] == schedule
    assert manifest["policy"]["sampler"] == {"choice": "ddpm", "num_steps": 20, "spacing": "leading"}
    assert manifest["policy"]["prediction"] == "epsilon"
    assert policy.clip > 1e3


def test_other_normalizations_of_lerobot_are_taken_over(tmp_path):
    """Left as it is, and by mean and deviation: the action as it is there, whatever its range."""
    mean_and_deviation = {"action.mean": torch.tensor([3.0, -4.0]), "action.std": torch.tensor([0.5, 2.0])}
    limits = {
        name: {"min": torch.full_like(statistics["min"], -1.0), "max": torch.full_like(statistics["min"], 1.2)}
        for name, statistics in STATISTICS.items()
    }
    mapping = {"STATE": "IDENTITY", "ENV": "MEAN_STD", "ACTION": "MEAN_STD"}
    limits["observation.environment_state"] = {
        "min": torch.tensor([5.0, -1.0]),
        "max": torch.tensor([5.0, 1.2]),
        "mean": torch.tensor([5.0, 0.2]),
        "std": torch.tensor([0.0, 1.0]),
    }
    folder = lerobot_folder(tmp_path / "lerobot", statistics=limits, normalization_mapping=mapping)
    file = next(folder.glob("policy_preprocessor_*"))
    safetensors.torch.save_file(safetensors.torch.load_file(file) | mean_and_deviation, file)
    assert main(["import-checkpoint", str(folder), f"out={tmp_path / 'imported'}", "control_dt=0.1"]) == 0
    normalizer = load_policy(tmp_path / "imported")[0].normalizer
    observation = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(normalizer.observation({"state": observation})["state"], observation)
    normalised = normalizer.observation({"environment_state": torch.tensor([5.0, 0.7])})["environment_state"]
    torch.testing.assert_close(normalised, torch.tensor([0.0, 0.5]))  # LeRobot's network sees 0 for a constant value
    action = normalizer.unnormalised_action(torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(action, torch.tensor([[3.5, -6.0]]))


# --- what is refused, with one clear line


class Code:
    """Something whose unpickling runs code: it leaves a file behind."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return (os.mkdir, (self.trace,))


def test_files_that_hold_more_than_tensors_are_refused_and_run_nothing(tmp_path, capsys):
    trace = tmp_path.with_name("trace")
    torch.save({"cfg": Code(trace), "state_dicts": {}}, tmp_path / "latest.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Code(trace)))
    (tmp_path / "text.pt").write_text("not weights at all")
    (tmp_path / "bytes.pt").write_bytes(bytes(range(40, 256)))
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("not weights at all")
    torch.save(OrderedDict(step=3), tmp_path / "number.pt")
    for path in sorted(tmp_path.iterdir()):
        message = refused(capsys, path, f"out={tmp_path / 'imported'}", "control_dt=0.1")
        assert str(path) in message, path
        assert "must hold tensors by name" in message, path
        assert "only if you trust" not in message, path
        assert not trace.exists(), path
        assert "torch.save(payload['state_dicts']['ema_model'], 'weights.pt')" in message, path
    assert not (tmp_path / "imported").exists()


def test_a_missing_source_and_a_config_without_a_key_are_refused(tmp_path, capsys):
    message = refused(capsys, tmp_path / "policy", f"out={tmp_path / 'imported'}", "control_dt=0.1")
    assert f"there is no file or folder {tmp_path / 'policy'}" in message
    folder = lerobot_folder(tmp_path / "lerobot")
    settings = json.loads((folder / "config.json").read_text())
    del settings["n_groups"]
    (folder / "config.json").write_text(json.dumps(settings))
    message = refused(capsys, folder, f"out={tmp_path / 'imported'}", "control_dt=0.1")
    assert "must hold ['n_groups']: save the policy again" in message


def edit(weights, drop=(), add=(), rename=("", "")):
    kept = {name.replace(*rename): tensor for name, tensor in weights.items() if not any(part in name for part in drop)}
    return kept | {name: torch.zeros(3) for name in add}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("unet1d", {"drop": ["mid_modules.1"]}, r"ConditionalUnet1D .* \d+ names differ: mid_modules.1.*is missing"),
        ("unet1d", {"drop": ["diffusion_step"]}, "diffusion_step_encoder.3.weight is missing"),
        ("unet1d", {"drop": ["model.down_modules.0"]}, "is missing"),
        ("unet1d", {"drop": ["down_modules.1.0.cond_encoder.1.bias"]}, "cond_encoder.1.bias is missing"),
        ("unet1d", {"add": ["model.local_cond_encoder.0.x"]}, "local_cond_encoder.0.x is not known"),
        ("unet1d", {"add": ["model.mid_modules.0.cond_encoder.1.bias"]}, r"is of shape \(3,\), not \(32,\)"),
        ("unet1d", {"add": ["obs_encoder.conv.weight"]}, "encoders of images cannot be imported"),
        ("unet1d", {"rename": ("model.", "")}, "model.* and normalizer.* for obs and action"),
        ("unet1d", {"drop": ["obs.offset"]}, "normalizer.params_dict.obs must hold scale and offset"),
        ("unet1d", {"add": ["normalizer.params_dict.action.scale"]}, r"action must be of 2 numbers a step, got \(3,\)"),
        ("transformer", {"drop": ["memory_mask"]}, "or neither"),
        ("transformer", {"drop": ["layers.1.linear1"]}, "decoder.layers.1.linear1.weight is missing"),
        ("transformer", {"add": ["model.encoder.layers.0.x"]}, "encoder.layers.0.x is not known"),
    ],
)
def test_weights_of_other_networks_are_an_error(tmp_path, capsys, kind, changes, message):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(edit(state_dict(kind), **changes), path)
    error = refused(capsys, path, f"out={tmp_path / 'imported'}", "control_dt=0.1", *HORIZONS)
    assert re.search(message, error), error
    assert not (tmp_path / "imported").exists()


def test_observations_that_would_be_clipped_are_refused(tmp_path, capsys):
    for low, message in ((torch.full((5,), -900.0), "reaches"), (None, "is of unknown range")):
        weights = state_dict("unet1d")
        name = "normalizer.params_dict.obs.input_stats.min"
        weights = edit(weights, drop=[name]) if low is None else weights | {name: low}
        torch.save(weights, tmp_path / "weights.pt")
        error = refused(capsys, tmp_path / "weights.pt", f"out={tmp_path / 'imported'}", "control_dt=0.1", *HORIZONS)
        assert f"must lie in [-1.5, 1.5], to which recede clips it, but {message}" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["horizons.observation=3"], "10 numbers of conditioning must be those of 3 steps"),
        (["horizons.observation=1"], "must be of 10 numbers a step, got (5,)"),
        (["horizons.prediction=12"], "horizons.prediction must be 8, got 12"),
        (["policy.encoder.mlp=[8]"], "leave policy/encoder out"),
        (["policy=regression"], "policy must be a diffusion policy, got regression"),
        (["task=toys:REACH"], "give either task= or control_dt="),
        (["control_dt=null"], "give either task= or control_dt="),
        (["task=toys:REACH", "control_dt=null"], "got []: give them, as in streams=[position,target]"),
        (["task=toys:REACH", "control_dt=null", "streams=[targt,position]"], "did you mean 'target'?"),
        (["task=toys:REACH", "control_dt=null", "streams=[target,position]"], "must take 4 numbers a step"),
    ],
)
def test_options_that_do_not_fit_the_weights_are_refused(tmp_path, capsys, arguments, message):
    torch.save(state_dict("transformer"), tmp_path / "weights.pt")
    options = {argument.partition("=")[0]: argument for argument in ("control_dt=0.1", *HORIZONS, *arguments)}
    assert message in refused(capsys, tmp_path / "weights.pt", f"out={tmp_path / 'imported'}", *options.values())
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "act"}, "of type 'diffusion', got type 'act': no other type can be imported"),
        ({"input_features": {"observation.effort": {"type": "STATE", "shape": [3]}}}, "got ['observation.effort'] too"),
        ({"n_groups": 4}, "n_groups must be 8"),
        ({"use_film_scale_modulation": False}, "use_film_scale_modulation true"),
        ({"normalization_mapping": {"STATE": "QUANTILES"}}, "must be one of ['IDENTITY', 'MEAN_STD', 'MIN_MAX']"),
        ({"normalization_mapping": {"STATE": "MEAN_STD"}}, "must be ('mean', 'std') of 3 numbers each"),
        ({"normalization_mapping": {}}, "must lie in [-1.5, 1.5], to which recede clips it, but reaches 500"),
        ({"n_obs_steps": 1}, "n_obs_steps must be 10 numbers of conditioning by 5"),
    ],
)
def test_other_policies_of_lerobot_are_refused(tmp_path, capsys, settings, message):
    folder = lerobot_folder(tmp_path / "lerobot", **settings)
    assert message in refused(capsys, folder, f"out={tmp_path / 'imported'}", "control_dt=0.1")


TOP, FRONT = "observation.images.top", "observation.images.front"
UNLIKE = {TOP: {"type": "VISUAL", "shape": [3, 40, 76]}, FRONT: {"type": "VISUAL", "shape": [3, 48, 64]}}
DARK = PIXELS | {"mean": torch.tensor([0.1, 0.1, 0.1]).view(3, 1, 1)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"vision_backbone": "resnet101"},
            "one of ['resnet18', 'resnet34', 'resnet50'] to be imported, got 'resnet101'",
        ),
        ({"input_features": UNLIKE}, "images must all have the same shape (C, H, W)"),
        ({"resize_shape": [48, 96]}, "resize_shape must be null, as recede crops images but does not resize them"),
        ({"crop_shape": [37, 72]}, "must not leave a margin of 3, 7, 11, ... pixels"),
        ({"crop_shape": [50, 72]}, "the crop must fit into stream 'images_top', whose images are 40 x 76 pixels"),
        ({"crop_shape": [32, 72]}, "images must be higher and wider than 32 pixels"),
        ({"crop_shape": [36, 64]}, "0.pool.pos_grid is of shape (6, 2), not (4, 2)"),
        ({"mode": "QUANTILES"}, "the normalization of observation.images.top must be one of"),
        ({"statistics": STATISTICS}, "the statistics of observation.images.top must be ('mean', 'std') of 3 numbers"),
        ({"statistics": STATISTICS | {TOP: PIXELS, FRONT: DARK}}, "all cameras must have the same mean and deviation"),
        ({"vision_backbone": "resnet34"}, "names differ: 0.backbone.4.2.conv1.weight is missing; 0.backbone.4.2.bn1"),
        ({"n_obs_steps": 1}, "n_obs_steps must be 34 numbers of conditioning by 17 a step, got 1"),
    ],
)
def test_other_policies_for_images_are_refused(tmp_path, capsys, settings, message):
    settings = {"use_separate_rgb_encoder_per_camera": True} | settings
    folder, _ = image_folder(tmp_path / "lerobot", TOP, FRONT, **settings)
    assert message in refused(capsys, folder, f"out={tmp_path / 'imported'}", "control_dt=0.1")
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"drop": ["backbone.5.0"]},
            "9 names differ: backbone.5.0.conv1.weight is missing; backbone.5.0.bn1.weight is",
        ),
        ({"drop": ["rgb_encoder"]}, "backbone.0.weight is missing"),
        ({"add": ["diffusion.rgb_encoder.1.out.bias"]}, "1 names differ: 1.out.bias is not known"),
        ({"add": ["diffusion.rgb_encoder.backbone.0.weight"]}, "backbone.0.weight is of shape (3,), not (16, 3, 7, 7)"),
        ({"add": ["diffusion.rgb_encoder.backbone.1.running_var"]}, "backbone.1.running_var is not known"),
        ({"rename": ("rgb_encoder.", "rgb_encoder.0.")}, "backbone.0.weight is missing: got ['0.backbone.0.weight'"),
    ],
)
def test_weights_of_other_encoders_are_refused(tmp_path, capsys, changes, message):
    folder, weights = image_folder(tmp_path / "lerobot", "observation.image")
    safetensors.torch.save_file(edit(weights, **changes), folder / "model.safetensors")
    assert message in refused(capsys, folder, f"out={tmp_path / 'imported'}", "control_dt=0.1")
    assert not (tmp_path / "imported").exists()


def test_images_that_are_not_those_of_the_task_are_refused(tmp_path, capsys):
    folder, _ = image_folder(tmp_path / "lerobot", "observation.image", **PUSHT, mode="IDENTITY")
    error = refused(capsys, folder, f"out={tmp_path / 'imported'}", "task=pusht_image")
    assert "images of the shapes [(96, 96, 3)], as the task has, got {'image': (40, 76, 3)}: leave task= out" in error


def test_a_folder_of_lerobot_allows_no_options_of_the_policy(tmp_path, capsys):
    folder, out = lerobot_folder(tmp_path / "lerobot"), tmp_path / "imported"
    for argument in ("policy.clip=2", "horizons.action=2"):
        assert "leave policy and horizons out" in refused(capsys, folder, f"out={out}", "control_dt=0.1", argument)
    (folder / "policy_preprocessor.json").unlink()
    assert "keep the files policy_preprocessor*" in refused(capsys, folder, f"out={out}", "control_dt=0.1")
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refused(capsys, folder, f"out={out}", "control_dt=0.1")


def test_an_existing_folder_is_kept(tmp_path, capsys):
    torch.save(state_dict("unet1d"), tmp_path / "weights.pt")
    assert "exists already" in refused(capsys, tmp_path / "weights.pt", f"out={tmp_path}", "control_dt=0.1")
