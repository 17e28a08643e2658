"""Published implementations: their weight layouts, their forward passes in the names of the weights, their folders."""

import json
import math
import re

import safetensors.torch
import torch
from recede.checkpoints.opening import load_policy
from recede.commands.main import main
from torch.nn import functional as F

CHANNELS, KERNEL, TIME, OBSERVED, ACTIONS, STEPS = (16, 24, 16), 5, 8, 5, 2, 8
SIZE, HEADS, LAYERS = 16, 4, 2


def random(shapes, seed=0):
    """Random weights of these shapes. Those of the last layer are larger, so that some estimates are clipped."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
    return {name: x * 3 if re.search(r"\b(final_conv\.1|head)\.", name) else x for name, x in weights.items()}


def unet_layout(
    first="blocks.0.block", second="blocks.1.block", resampling=".conv", prefix="", global_size=2 * OBSERVED
):
    """Name -> shape of a U-Net's weights; LeRobot names its blocks and resampling differently."""
    shapes = {}

    def layer(name, out, *shape):
        shapes.update({f"{prefix}{name}.weight": (out, *shape), f"{prefix}{name}.bias": (out,)})

    def block(name, a, b):
        for convolution, width in ((first, a), (second, b)):
            layer(f"{name}.{convolution}.0", b, width, KERNEL)
            layer(f"{name}.{convolution}.1", b)
        layer(f"{name}.cond_encoder.1", 2 * b, TIME + global_size)
        if a != b:
            layer(f"{name}.residual_conv", b, a, 1)

    layer("diffusion_step_encoder.1", 4 * TIME, TIME)
    layer("diffusion_step_encoder.3", TIME, 4 * TIME)
    widths = [ACTIONS, *CHANNELS]
    for level, width in enumerate(CHANNELS):
        block(f"down_modules.{level}.0", widths[level], width)
        block(f"down_modules.{level}.1", width, width)
        if level < len(CHANNELS) - 1:
            layer(f"down_modules.{level}.2{resampling}", width, width, 3)
            below = CHANNELS[-1 - level - 1]
            block(f"up_modules.{level}.0", 2 * CHANNELS[-1 - level], below)
            block(f"up_modules.{level}.1", below, below)
            layer(f"up_modules.{level}.2{resampling}", below, below, 4)
    for index in range(2):
        block(f"mid_modules.{index}", CHANNELS[-1], CHANNELS[-1])
    layer("final_conv.0.block.0", CHANNELS[0], CHANNELS[0], KERNEL)
    layer("final_conv.0.block.1", CHANNELS[0])
    layer("final_conv.1", ACTIONS, CHANNELS[0], 1)
    return shapes


LEROBOT = {"first": "conv1.block", "second": "conv2.block", "resampling": "", "prefix": "diffusion.unet."}


def sinusoids(t, size):
    angles = t[:, None] * torch.exp(torch.arange(size // 2) * -(math.log(10_000) / (size // 2 - 1)))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def unet_forward(
    weights, noisy, t, conditioning, *, first="blocks.0.block", second="blocks.1.block", resampling=".conv"
):
    """A U-Net with FiLM from concatenated time and conditioning, by the names of `unet_layout`."""

    def get(name):
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    def convolve(x, name, function=F.conv1d, **options):
        return function(x, *get(name), **options)

    def conv_block(x, name):
        return F.mish(F.group_norm(convolve(x, f"{name}.0", padding=KERNEL // 2), 8, *get(f"{name}.1")))

    def block(x, name):
        out = conv_block(x, f"{name}.{first}")
        scale, bias = F.linear(F.mish(condition), *get(f"{name}.cond_encoder.1")).unflatten(1, (2, -1, 1)).unbind(1)
        out = conv_block(scale * out + bias, f"{name}.{second}")
        return out + (convolve(x, f"{name}.residual_conv") if f"{name}.residual_conv.weight" in weights else x)

    time = F.mish(F.linear(sinusoids(t, TIME), *get("diffusion_step_encoder.1")))
    condition = torch.cat([F.linear(time, *get("diffusion_step_encoder.3")), conditioning.flatten(1)], dim=1)
    x, passed = noisy.transpose(1, 2), []
    for level in range(len(CHANNELS)):
        x = block(block(x, f"down_modules.{level}.0"), f"down_modules.{level}.1")
        passed.append(x)
        if level < len(CHANNELS) - 1:
            x = convolve(x, f"down_modules.{level}.2{resampling}", stride=2, padding=1)
    x = block(block(x, "mid_modules.0"), "mid_modules.1")
    for level in range(len(CHANNELS) - 1):
        x = torch.cat([x, passed.pop()], dim=1)
        x = block(block(x, f"up_modules.{level}.0"), f"up_modules.{level}.1")
        x = convolve(x, f"up_modules.{level}.2{resampling}", F.conv_transpose1d, stride=2, padding=1)
    return convolve(conv_block(x, "final_conv.0.block"), "final_conv.1").transpose(1, 2)


def transformer_layout():
    shapes = {"pos_emb": (1, STEPS, SIZE), "cond_pos_emb": (1, 3, SIZE)}
    shapes |= {"mask": (STEPS, STEPS), "memory_mask": (STEPS, 3), "_dummy_variable": (0,)}
    layers = {"input_emb": (SIZE, ACTIONS), "cond_obs_emb": (SIZE, OBSERVED), "head": (ACTIONS, SIZE), "ln_f": (SIZE,)}
    layers |= {"encoder.0": (4 * SIZE, SIZE), "encoder.2": (SIZE, 4 * SIZE)}
    for layer in range(LAYERS):
        name = f"decoder.layers.{layer}"
        layers |= {f"{name}.linear1": (4 * SIZE, SIZE), f"{name}.linear2": (SIZE, 4 * SIZE)}
        layers |= {f"{name}.norm{number}": (SIZE,) for number in (1, 2, 3)}
        for attention in ("self_attn", "multihead_attn"):
            layers |= {f"{name}.{attention}.out_proj": (SIZE, SIZE)}
            shapes |= {f"{name}.{attention}.in_proj_weight": (3 * SIZE, SIZE)}
            shapes |= {f"{name}.{attention}.in_proj_bias": (3 * SIZE,)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def transformer_forward(weights, noisy, t, conditioning, *, heads=HEADS):
    """A pre-norm decoder over actions, with a memory of time and observations, by the names of `transformer_layout`.

    It is causal if there are masks among the weights.
    """

    def linear(x, name):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (SIZE,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    def attend(x, memory, name, visible):
        parts = zip(*(weights[f"{name}.in_proj_{part}"].chunk(3) for part in ("weight", "bias")), strict=True)
        q, k, v = (F.linear(x_in, *part) for x_in, part in zip((x, memory, memory), parts, strict=True))
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        scores = q @ k.transpose(2, 3) / math.sqrt(SIZE // heads)
        attended = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1) @ v
        return linear(attended.transpose(1, 2).flatten(2), f"{name}.out_proj")

    memory = torch.cat([sinusoids(t, SIZE)[:, None], linear(conditioning, "cond_obs_emb")], dim=1)
    memory = linear(F.mish(linear(memory + weights["cond_pos_emb"], "encoder.0")), "encoder.2")
    steps = torch.arange(STEPS)[:, None] if "mask" in weights else torch.tensor(STEPS)
    x = linear(noisy, "input_emb") + weights["pos_emb"]
    for layer in range(LAYERS):
        name = f"decoder.layers.{layer}"
        y = norm(x, f"{name}.norm1")
        x = x + attend(y, y, f"{name}.self_attn", steps >= torch.arange(STEPS))
        x = x + attend(norm(x, f"{name}.norm2"), memory, f"{name}.multihead_attn", steps >= torch.arange(3) - 1)
        x = x + linear(F.gelu(linear(norm(x, f"{name}.norm3"), f"{name}.linear1")), f"{name}.linear2")
    return linear(norm(x, "ln_f"), "head")


NETWORKS = {"unet1d": (unet_layout, unet_forward), "transformer": (transformer_layout, transformer_forward)}


BLOCKS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3]}


def resnet_forward(weights, x, *, kind, depth, stages=4):
    """A residual network up to its last map, by torchvision's names. kind: of its norms, "group" or "frozen"."""

    def norm(name, x):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if kind == "group":
            return F.group_norm(x, len(weight) // 16, weight, bias)
        mean, variance = (weights[f"{name}.running_{part}"][:, None, None] for part in ("mean", "var"))
        return (x - mean) / (variance + 1e-5).sqrt() * weight[:, None, None] + bias[:, None, None]

    def conv(name, x, stride=1):
        weight = weights[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = F.max_pool2d(norm("bn1", conv("conv1", x, 2)).relu(), 3, 2, 1)
    for stage in range(1, stages + 1):
        for index in range(BLOCKS[depth][stage - 1]):
            name, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            if f"{name}.conv3.weight" in weights:
                y = norm(f"{name}.bn1", conv(f"{name}.conv1", x)).relu()
                y = norm(f"{name}.bn2", conv(f"{name}.conv2", y, stride)).relu()
                y = norm(f"{name}.bn3", conv(f"{name}.conv3", y))
            else:
                y = norm(f"{name}.bn1", conv(f"{name}.conv1", x, stride)).relu()
                y = norm(f"{name}.bn2", conv(f"{name}.conv2", y))
            if f"{name}.downsample.0.weight" in weights:
                x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
            x = (x + y).relu()
    return x


def camera_layout(prefix="", *, kind="group", depth=18, width=16, keypoints=3, cells=(2, 3)):
    """Name -> shape of LeRobot's image encoder. cells: height and width of its last map."""
    shapes = {f"{prefix}pool.pos_grid": (cells[0] * cells[1], 2)}

    def layer(name, out, *shape):
        shapes.update({f"{prefix}{name}.weight": (out, *shape), f"{prefix}{name}.bias": (out,)})

    def conv(name, norm, out, inputs, kernel):
        shapes[f"{prefix}backbone.{name}.weight"] = out, inputs, kernel, kernel
        layer(f"backbone.{norm}", out)
        if kind == "frozen":
            statistics = {"running_mean": (out,), "running_var": (out,), "num_batches_tracked": ()}
            shapes.update({f"{prefix}backbone.{norm}.{part}": shape for part, shape in statistics.items()})

    conv("0", "1", width, 3, 7)
    inputs = width
    for stage, blocks in enumerate(BLOCKS[depth]):
        inner = width * 2**stage
        sizes = [(inner, 3), (inner, 3)] if depth < 50 else [(inner, 1), (inner, 3), (4 * inner, 1)]
        for block in range(blocks):
            name, channels = f"{4 + stage}.{block}", inputs
            for number, (out, kernel) in enumerate(sizes, start=1):
                conv(f"{name}.conv{number}", f"{name}.bn{number}", out, channels, kernel)
                channels = out
            if channels != inputs:
                conv(f"{name}.downsample.0", f"{name}.downsample.1", channels, inputs, 1)
            inputs = channels
    layer("pool.nets", keypoints, inputs, 1, 1)
    layer("out", 2 * keypoints, 2 * keypoints)
    return shapes


def camera_weights(prefix="", *, seed=0, cells=(2, 3), **options):
    """Weights for `camera_layout`, as after some training, and the positions of the cells."""
    weights = random(camera_layout(prefix, cells=cells, **options), seed)
    for name, tensor in weights.items():
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            weights[name] = 0.5 + tensor.abs()
        elif tensor.ndim == 4:  # as they begin: of larger ones scores reach 1e11, and rounding decides their softmax
            weights[name] = tensor / tensor.std() * tensor[0].numel() ** -0.5
    y, x = (torch.linspace(-1, 1, count) for count in cells)
    weights[f"{prefix}pool.pos_grid"] = torch.cartesian_prod(y, x).flip(1)
    return weights


def camera_forward(weights, images, *, kind, depth=18):
    """LeRobot's image encoder, normalised (N, C, H, W) -> (N, F), by the names of `camera_layout`."""
    names, trunk = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}, {}
    for name in weights:
        if name.startswith("backbone."):
            _, number, rest = name.split(".", 2)
            trunk[f"{names[number]}.{rest}"] = weights[name]
    x = resnet_forward(trunk, images, kind=kind, depth=depth)
    maps = F.conv2d(x, weights["pool.nets.weight"], weights["pool.nets.bias"])
    points = maps.flatten(2).softmax(dim=2) @ weights["pool.pos_grid"]
    return F.linear(points.flatten(1), weights["out.weight"], weights["out.bias"]).relu()


# --- the files of other implementations

LOW = {"obs": torch.tensor([0.0, -2.0, 10.0, 5.0, -1.0]), "action": torch.tensor([100.0, -3.0])}
HIGH = {"obs": torch.tensor([4.0, 2.0, 500.0, 5.0, 1.0]), "action": torch.tensor([300.0, -1.0])}


def state_dict(kind, seed=0):
    """A policy of the reference implementation. Its fourth observation never changes."""
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
    "num_train_timesteps": 100,
    "num_inference_steps": 10,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "clip_sample": True,
    "clip_sample_range": 1.5,
    "vision_backbone": "resnet18",
    "crop_shape": None,
    "use_group_norm": True,
    "use_separate_rgb_encoder_per_camera": False,
}
STATISTICS = {
    "observation.state": {"min": LOW["obs"][:3], "max": HIGH["obs"][:3]},
    "observation.environment_state": {"min": LOW["obs"][3:], "max": HIGH["obs"][3:]},
    "action": {"min": LOW["action"], "max": HIGH["action"]},
}


def lerobot_folder(folder, *, is_old=False, weights=None, statistics=STATISTICS, **settings):
    """A folder as LeRobot writes it. Old versions keep the statistics among the weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SETTINGS | settings))
    weights = weights or random(unet_layout(**LEROBOT))
    flat = {}
    for name, values in statistics.items():
        place = "unnormalize_outputs" if name == "action" else "normalize_inputs"
        prefix = f"{place}.buffer_{name.replace('.', '_')}" if is_old else name
        flat |= {f"{prefix}.{statistic}": tensor.clone() for statistic, tensor in values.items()}
    if is_old:
        weights = weights | flat
    else:
        file = "policy_preprocessor_step_3_normalizer_processor.safetensors"
        steps = [{"registry_name": "to_batch_processor"}, {"state_file": file}]
        (folder / "policy_preprocessor.json").write_text(json.dumps({"steps": steps}))
        safetensors.torch.save_file(flat, folder / file)
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    return folder


PIXELS = {
    "mean": torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1),
    "std": torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1),
    "min": torch.tensor([0.0, 0.1, 0.0]).view(3, 1, 1),
    "max": torch.tensor([1.0, 0.9, 0.7]).view(3, 1, 1),
}
BOARD = {"min": torch.zeros(2), "max": torch.full((2,), 512.0)}
PUSHT = {
    "vectors": (2, 0),
    "statistics": {"observation.state": BOARD, "action": BOARD, "observation.image": PIXELS},
}


def image_folder(folder, *names, shape=(3, 40, 76), vectors=(3, 2), kind="group", depth=18, cells=(2, 3), **settings):
    """A LeRobot policy of images, then vectors of these sizes in the order of its configuration, and its weights."""
    features = {name: {"type": "VISUAL", "shape": list(shape)} for name in names}
    kinds = zip(("environment_state", "state"), ("ENV", "STATE"), reversed(vectors), strict=True)
    features |= {f"observation.{name}": {"type": type_, "shape": [size]} for name, type_, size in kinds if size}
    is_separate = settings.setdefault("use_separate_rgb_encoder_per_camera", False)
    prefix = "diffusion.rgb_encoder."
    weights = random(unet_layout(**LEROBOT, global_size=2 * (sum(vectors) + 6 * len(names))))
    prefixes = [f"{prefix}{index}." for index in range(len(names))] if is_separate else [prefix]
    for index, camera_prefix in enumerate(prefixes):
        weights |= camera_weights(camera_prefix, seed=index, kind=kind, depth=depth, cells=cells)
    settings = {"statistics": STATISTICS | dict.fromkeys(names, PIXELS), "weights": weights} | settings
    mapping = SETTINGS["normalization_mapping"] | {"VISUAL": settings.pop("mode", "MEAN_STD")}
    settings = {"input_features": features, "normalization_mapping": mapping} | settings
    settings |= {"use_group_norm": kind == "group"}
    return lerobot_folder(folder, **({"vision_backbone": f"resnet{depth}"} | settings)), weights


# --- policies that are imported, and what they see

HORIZONS = ["horizons.observation=2", f"horizons.prediction={STEPS}", "horizons.action=4"]


def imported(tmp_path, source, *arguments):
    """Import a policy to `tmp_path / "imported"`. source: a state dict, or a LeRobot folder."""
    path, options = source, [f"out={tmp_path / 'imported'}", "control_dt=0.1", *arguments]
    if isinstance(source, dict):
        path = tmp_path / "weights.pt"
        torch.save(source, path)
        options += HORIZONS
    assert main(["import-checkpoint", str(path), *options]) == 0
    return load_policy(tmp_path / "imported")


def inputs(batch=5):
    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(batch, STEPS, ACTIONS, generator=generator)
    return noisy, torch.arange(batch) * 7 % 20, torch.randn(batch, 2, OBSERVED, generator=generator)


def observe(batch=5):
    generator = torch.Generator().manual_seed(4)
    return LOW["obs"] + torch.rand(batch, 2, OBSERVED, generator=generator) * (HIGH["obs"] - LOW["obs"])
