"""Networks that others have published: the layout of their weights, and their forward pass written out by its names."""

import math

import torch
from torch.nn import functional as F

CHANNELS, KERNEL, TIME, OBSERVED, ACTIONS, STEPS = (16, 24, 16), 5, 8, 5, 2, 8
SIZE, HEADS, LAYERS = 16, 4, 2


def random(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def unet_layout(
    first="blocks.0.block", second="blocks.1.block", resampling=".conv", prefix="", global_size=2 * OBSERVED
):
    """Name -> shape of a U-Net's weights; LeRobot's blocks and resampling have names of their own."""
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
        scale, bias = F.linear(F.mish(seen), *get(f"{name}.cond_encoder.1")).unflatten(1, (2, -1, 1)).unbind(1)
        out = conv_block(scale * out + bias, f"{name}.{second}")
        return out + (convolve(x, f"{name}.residual_conv") if f"{name}.residual_conv.weight" in weights else x)

    time = F.mish(F.linear(sinusoids(t, TIME), *get("diffusion_step_encoder.1")))
    seen = torch.cat([F.linear(time, *get("diffusion_step_encoder.3")), conditioning.flatten(1)], dim=1)
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
    """A pre-norm decoder over actions, with a memory of time and observations, by the names of `transformer_layout`."""

    def linear(x, name):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (SIZE,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    def attend(x, memory, name, visible):
        parts = zip(*(weights[f"{name}.in_proj_{part}"].chunk(3) for part in ("weight", "bias")), strict=True)
        q, k, v = (F.linear(seen, *part) for seen, part in zip((x, memory, memory), parts, strict=True))
        q, k, v = (each.unflatten(2, (heads, -1)).transpose(1, 2) for each in (q, k, v))
        scores = q @ k.transpose(2, 3) / math.sqrt(SIZE // heads)
        attended = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1) @ v
        return linear(attended.transpose(1, 2).flatten(2), f"{name}.out_proj")

    memory = torch.cat([sinusoids(t, SIZE)[:, None], linear(conditioning, "cond_obs_emb")], dim=1)
    memory = linear(F.mish(linear(memory + weights["cond_pos_emb"], "encoder.0")), "encoder.2")
    steps = torch.arange(STEPS)[:, None]
    x = linear(noisy, "input_emb") + weights["pos_emb"]
    for layer in range(LAYERS):
        name = f"decoder.layers.{layer}"
        y = norm(x, f"{name}.norm1")
        x = x + attend(y, y, f"{name}.self_attn", steps >= torch.arange(STEPS))
        x = x + attend(norm(x, f"{name}.norm2"), memory, f"{name}.multihead_attn", steps >= torch.arange(3) - 1)
        x = x + linear(F.gelu(linear(norm(x, f"{name}.norm3"), f"{name}.linear1")), f"{name}.linear2")
    return linear(norm(x, "ln_f"), "head")


NETWORKS = {"unet1d": (unet_layout, unet_forward), "transformer": (transformer_layout, transformer_forward)}
