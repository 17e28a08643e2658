"""What other implementations have trained: state dicts made here from their layouts, and their networks written out."""

import json
import os
import pickle
import re
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from diffusers import DDIMScheduler
from published import (
    ACTIONS,
    LEROBOT,
    NETWORKS,
    OBSERVED,
    STEPS,
    random,
    transformer_forward,
    unet_forward,
    unet_layout,
)
from recede.commands.main import main
from recede.configs.policies import load_policy

# --- the files of others

LOW = {"obs": torch.tensor([0.0, -2.0, 10.0, 5.0, -1.0]), "action": torch.tensor([100.0, -3.0])}
HIGH = {"obs": torch.tensor([4.0, 2.0, 500.0, 5.0, 1.0]), "action": torch.tensor([300.0, -1.0])}


def state_dict(kind, seed=0):
    """A policy of the reference implementation; the fourth observation never changes."""
    weights = {f"model.{name}": tensor for name, tensor in random(NETWORKS[kind][0](), seed).items()}
    weights["mask_generator._dummy_variable"] = torch.empty(0)
    for name, low in LOW.items():
        still = HIGH[name] == low
        scale = torch.where(still, 1.0, 2 / (HIGH[name] - low).where(~still, 1.0))
        offset = torch.where(still, -low, -1 - scale * low)
        parameters = {"scale": scale, "offset": offset, "input_stats.min": low, "input_stats.max": HIGH[name]}
        weights |= {f"normalizer.params_dict.{name}.{key}": value for key, value in parameters.items()}
    return weights


SETTINGS = {
    "type": "diffusion",
    "input_features": {
        "observation.environment_state": {"type": "ENV", "shape": [2]},
        "observation.state": {"type": "STATE", "shape": [3]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [ACTIONS]}},
    "normalization_mapping": {"STATE": "MIN_MAX", "ENV": "MIN_MAX", "ACTION": "MIN_MAX"},
    "n_obs_steps": 2,
    "horizon": STEPS,
    "n_action_steps": 4,
    "n_groups": 8,
    "use_film_scale_modulation": True,
    "noise_scheduler_type": "DDIM",
    "num_train_timesteps": 20,
    "num_inference_steps": None,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "sample",
    "clip_sample": True,
    "clip_sample_range": 1.5,
}
STATISTICS = {
    "observation.state": (LOW["obs"][:3], HIGH["obs"][:3]),
    "observation.environment_state": (LOW["obs"][3:], HIGH["obs"][3:]),
    "action": (LOW["action"], HIGH["action"]),
}


def lerobot_folder(folder, *, is_old=False, weights=None, statistics=STATISTICS, **settings):
    """What LeRobot writes; old versions keep the statistics among the weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SETTINGS | settings))
    weights = weights or random(unet_layout(**LEROBOT))
    flat = {}
    for name, (low, high) in statistics.items():
        place = "unnormalize_outputs" if name == "action" else "normalize_inputs"
        prefix = f"{place}.buffer_{name.replace('.', '_')}" if is_old else name
        flat |= {f"{prefix}.min": low, f"{prefix}.max": high}
    if is_old:
        weights = weights | flat
    else:
        file = "policy_preprocessor_step_3_normalizer_processor.safetensors"
        steps = [{"registry_name": "to_batch_processor"}, {"state_file": file}]
        (folder / "policy_preprocessor.json").write_text(json.dumps({"steps": steps}))
        safetensors.torch.save_file(flat, folder / file)
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    return folder


HORIZONS = ["horizons.observation=2", f"horizons.prediction={STEPS}", "horizons.action=4"]


def imported(tmp_path, weights, *arguments):
    path = tmp_path / "weights.pt"
    torch.save(weights, path)
    out = tmp_path / "imported"
    assert main(["import-checkpoint", str(path), f"out={out}", "control_dt=0.1", *HORIZONS, *arguments]) == 0
    return load_policy(out)


def refused(capsys, *arguments):
    """The error of an import that is refused, in one line."""
    assert main(["import-checkpoint", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def inputs(batch=5):
    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(batch, STEPS, ACTIONS, generator=generator)
    return noisy, torch.arange(batch) * 7 % 20, torch.randn(batch, 2, OBSERVED, generator=generator)


def observe(batch=5):
    generator = torch.Generator().manual_seed(4)
    return LOW["obs"] + torch.rand(batch, 2, OBSERVED, generator=generator) * (HIGH["obs"] - LOW["obs"])


# --- the reference implementation


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_of_the_reference_gives_what_it_gave(tmp_path, kind):
    weights = state_dict(kind)
    policy, manifest = imported(tmp_path, weights)
    forward = NETWORKS[kind][1]
    expected = forward({name.removeprefix("model."): tensor for name, tensor in weights.items()}, *inputs())
    assert expected.std() > 0.1
    torch.testing.assert_close(policy.network(*inputs()), expected, rtol=1e-5, atol=1e-5)
    assert manifest["policy"]["network"]["choice"] == kind


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_policy_of_the_reference_predicts_what_it_predicted(tmp_path, kind):
    """Its normalizer, its network and the sampler of diffusers that it used, in all 100 steps.

    It estimates the sample: a network that learned nothing ends at the bounds where it estimates the noise.
    """
    weights = state_dict(kind)
    policy, _ = imported(tmp_path, weights, "policy.sampler.num_steps=100", "policy.prediction=sample")
    network = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    observation, x = observe(), inputs()[0]

    def normalizer(name):
        return (weights[f"normalizer.params_dict.{name}.{part}"] for part in ("scale", "offset"))

    scale, offset = normalizer("obs")
    scheduler = DDIMScheduler(100, beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    scheduler.set_timesteps(100)
    chunk = x
    for t in scheduler.timesteps:
        output = NETWORKS[kind][1](network, chunk, t.expand(len(x)), observation * scale + offset)
        chunk = scheduler.step(output, t, chunk, use_clipped_model_output=True).prev_sample
    assert (chunk.abs() < 1).float().mean() > 0.25
    scale, offset = normalizer("action")
    found = policy.predict({"obs": observation}, x[None])
    torch.testing.assert_close(found, (chunk - offset) / scale, rtol=1e-4, atol=1e-2)  # of values around 200


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


def test_the_streams_of_a_task_take_the_place_of_the_observation(tmp_path):
    """In the order that is given: the same policy then sees the same numbers by other names."""
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
    observation, noise = torch.rand(3, 2, 4, generator=generator), torch.randn(1, 3, STEPS, 2, generator=generator)
    target, position = observation.split(2, dim=2)
    seen = named.encode({"position": position, "target": target})
    assert torch.equal(seen, plain.encode({"obs": observation}))
    found = named.predict({"position": position, "target": target}, noise)
    assert torch.equal(found, plain.predict({"obs": observation}, noise))
    assert manifest["task"] == "toys:REACH"
    evaluation = ["task=toys:REACH", "episodes=1", "videos=0", f"out={tmp_path / 'results'}"]
    assert main(["evaluate", str(tmp_path / "b"), *evaluation]) == 0


# --- LeRobot


@pytest.mark.parametrize("is_old", [False, True])
def test_a_policy_of_lerobot_predicts_what_it_predicted(tmp_path, is_old):
    weights = random(unet_layout(**LEROBOT))
    folder = lerobot_folder(tmp_path / "lerobot", is_old=is_old, weights=weights)
    out = tmp_path / "imported"
    assert main(["import-checkpoint", str(folder), f"out={out}", "control_dt=0.1"]) == 0
    policy, manifest = load_policy(out)
    network = {name.removeprefix(LEROBOT["prefix"]): tensor for name, tensor in weights.items()}
    names = {name: LEROBOT[name] for name in ("first", "second", "resampling")}
    expected = unet_forward(network, *inputs(), **names)
    torch.testing.assert_close(policy.network(*inputs()), expected, rtol=1e-5, atol=1e-5)

    assert (manifest["horizons"].observation, manifest["horizons"].action) == (2, 4)
    assert policy.clip == 1.5
    observation, x = observe(), inputs()[0]
    low, high = LOW["obs"], HIGH["obs"]
    normalised = 2 * (observation - low) / (high - low).where(high > low, 1e-8) - 1
    scheduler = DDIMScheduler(20, beta_schedule="squaredcos_cap_v2", clip_sample_range=1.5, prediction_type="sample")
    scheduler.set_timesteps(20)
    chunk = x
    for t in scheduler.timesteps:
        output = unet_forward(network, chunk, t.expand(len(x)), normalised, **names)
        chunk = scheduler.step(output, t, chunk, use_clipped_model_output=True).prev_sample
    assert (chunk.abs() < 1.5).float().mean() > 0.25
    seen = {"state": observation[..., :3], "environment_state": observation[..., 3:]}
    low, high = LOW["action"], HIGH["action"]
    torch.testing.assert_close(
        policy.predict(seen, x[None]), (chunk + 1) / 2 * (high - low) + low, rtol=1e-4, atol=1e-2
    )


def test_every_schedule_and_sampler_of_lerobot_is_known(tmp_path):
    settings = {"beta_schedule": "linear", "noise_scheduler_type": "DDPM", "num_inference_steps": 5}
    settings |= {"clip_sample": False, "prediction_type": "epsilon"}
    folder = lerobot_folder(tmp_path / "lerobot", **settings)
    assert main(["import-checkpoint", str(folder), f"out={tmp_path / 'imported'}", "control_dt=0.1"]) == 0
    policy, manifest = load_policy(tmp_path / "imported")
    assert (
        manifest["policy"]["schedule"] | {"beta_schedule": "linear", "num_times": 20} == manifest["policy"]["schedule"]
    )
    assert manifest["policy"]["sampler"] == {"choice": "ddpm", "num_steps": 5}
    assert manifest["policy"]["prediction"] == "epsilon"
    assert policy.clip > 1e3


def test_other_normalizations_of_lerobot_are_taken_over(tmp_path):
    """Left as it is, and by mean and deviation: the action as it is there, whatever its range."""
    mean_and_deviation = {"action.mean": torch.tensor([3.0, -4.0]), "action.std": torch.tensor([0.5, 2.0])}
    limits = {name: (torch.full_like(low, -1.0), torch.full_like(low, 1.2)) for name, (low, _) in STATISTICS.items()}
    mapping = {"STATE": "IDENTITY", "ACTION": "MEAN_STD"}
    folder = lerobot_folder(tmp_path / "lerobot", statistics=limits, normalization_mapping=mapping)
    file = next(folder.glob("policy_preprocessor_*"))
    safetensors.torch.save_file(safetensors.torch.load_file(file) | mean_and_deviation, file)
    assert main(["import-checkpoint", str(folder), f"out={tmp_path / 'imported'}", "control_dt=0.1"]) == 0
    normalizer = load_policy(tmp_path / "imported")[0].normalizer
    observation = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(normalizer.observation({"state": observation})["state"], observation)
    found = normalizer.unnormalised_action(torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(found, torch.tensor([[3.5, -6.0]]))


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
        assert not trace.exists(), path
        assert "torch.save(payload['state_dicts']['ema_model'], 'weights.pt')" in message, path
    assert not (tmp_path / "imported").exists()


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
        ("transformer", {"drop": ["mask"]}, "no masks among them"),
        ("transformer", {"drop": ["layers.1.linear1"]}, "decoder.layers.1.linear1.weight is missing"),
        ("transformer", {"add": ["model.encoder.layers.0.x"]}, "encoder.layers.0.x is not known"),
    ],
)
def test_other_weights_are_refused(tmp_path, capsys, kind, changes, message):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(edit(state_dict(kind), **changes), path)
    found = refused(capsys, path, f"out={tmp_path / 'imported'}", "control_dt=0.1", *HORIZONS)
    assert re.search(message, found), found
    assert not (tmp_path / "imported").exists()


def test_observations_that_would_be_clipped_are_refused(tmp_path, capsys):
    for low, message in ((torch.full((5,), -900.0), "reaches"), (None, "is of unknown range")):
        weights = state_dict("unet1d")
        name = "normalizer.params_dict.obs.input_stats.min"
        weights = edit(weights, drop=[name]) if low is None else weights | {name: low}
        torch.save(weights, tmp_path / "weights.pt")
        found = refused(capsys, tmp_path / "weights.pt", f"out={tmp_path / 'imported'}", "control_dt=0.1", *HORIZONS)
        assert f"must lie in [-1.5, 1.5], to which recede clips it, but {message}" in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["horizons.observation=3"], "10 numbers of conditioning must be those of 3 steps"),
        (["horizons.observation=1"], "must be of 10 numbers a step, got (5,)"),
        (["horizons.prediction=12"], "horizons.prediction must be 8, got 12"),
        (["policy.encoder.mlp=[8]"], "policy/encoder must be left out"),
        (["policy=regression"], "policy must be a diffusion policy, got regression"),
        (["task=toys:REACH"], "give either task= or control_dt="),
        (["control_dt=null"], "give either task= or control_dt="),
        (["task=toys:REACH", "control_dt=null"], "streams must be the observations of toys:REACH"),
        (["task=toys:REACH", "control_dt=null", "streams=[targt,position]"], "did you mean 'target'?"),
        (["task=toys:REACH", "control_dt=null", "streams=[target,position]"], "must see 4 numbers a step"),
    ],
)
def test_options_that_do_not_fit_the_weights_are_refused(tmp_path, capsys, arguments, message):
    torch.save(state_dict("transformer"), tmp_path / "weights.pt")
    given = {argument.partition("=")[0]: argument for argument in ("control_dt=0.1", *HORIZONS, *arguments)}
    assert message in refused(capsys, tmp_path / "weights.pt", f"out={tmp_path / 'imported'}", *given.values())
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "act"}, "of type 'diffusion', got type 'act'"),
        (
            {"input_features": {"observation.image": {"type": "VISUAL", "shape": [3, 96, 96]}}},
            "got ['observation.image']",
        ),
        ({"n_groups": 4}, "n_groups must be 8"),
        ({"use_film_scale_modulation": False}, "use_film_scale_modulation true"),
        ({"normalization_mapping": {"STATE": "QUANTILES"}}, "must be one of ['IDENTITY', 'MEAN_STD', 'MIN_MAX']"),
        ({"normalization_mapping": {"STATE": "MEAN_STD"}}, "must be ('mean', 'std') of 3 numbers each"),
        ({"normalization_mapping": {}}, "must lie in [-1.5, 1.5], to which recede clips it, but reaches 500"),
        ({"n_obs_steps": 1}, "horizons.observation must be 10 numbers of conditioning by 5"),
    ],
)
def test_other_policies_of_lerobot_are_refused(tmp_path, capsys, settings, message):
    folder = lerobot_folder(tmp_path / "lerobot", **settings)
    assert message in refused(capsys, folder, f"out={tmp_path / 'imported'}", "control_dt=0.1")


def test_a_folder_of_lerobot_leaves_nothing_to_choose(tmp_path, capsys):
    folder, out = lerobot_folder(tmp_path / "lerobot"), tmp_path / "imported"
    for argument in ("policy.clip=2", "horizons.action=2"):
        assert "must be left out" in refused(capsys, folder, f"out={out}", "control_dt=0.1", argument)
    (folder / "policy_preprocessor.json").unlink()
    assert "keep the files policy_preprocessor*" in refused(capsys, folder, f"out={out}", "control_dt=0.1")
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refused(capsys, folder, f"out={out}", "control_dt=0.1")


def test_what_is_there_is_not_replaced(tmp_path, capsys):
    torch.save(state_dict("unet1d"), tmp_path / "weights.pt")
    assert "is there already" in refused(capsys, tmp_path / "weights.pt", f"out={tmp_path}", "control_dt=0.1")
