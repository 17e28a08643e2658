"""Import policies of other implementations as checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configs.checkpoints import ImportCheckpointConfig
from ..configs.components.denoising import CosineConfig, DDIMConfig, DDPMConfig, DiffusersScheduleConfig
from ..configs.components.encoders import LowdimEncoderConfig, ResNetEncoderConfig
from ..configs.components.networks import TransformerConfig, UNet1dConfig
from ..configs.components.policies import DiffusionConfig, HorizonsConfig
from ..configs.components.representations import AbsoluteConfig
from ..configs.notation import describe
from ..envs.catalogue import load_task
from ..specification import Horizons, Specification, Stream, nearest

if TYPE_CHECKING:
    from ..policy.normalizer import Normalizer
    from .foreign.interface import Foreign
    from .foreign.layouts import Layout

NETWORKS: dict[str, type[TransformerConfig] | type[UNet1dConfig]] = {
    "transformer": TransformerConfig,
    "unet1d": UNet1dConfig,
}
AS_IS = AbsoluteConfig(rotation="as_is")
"""Imported weights know rotations as their data had them."""
DEFAULT = DiffusionConfig(prediction="epsilon", sampler=DDPMConfig(spacing="leading"))
"""`policy=reference`, the default of the command line: the settings of the reference implementation."""
UNBOUNDED = 1e6
"""The clip of a policy without clipping, in normalised units."""


def import_checkpoint(config: ImportCheckpointConfig) -> Path:
    """Write a checkpoint of the policy in `config.source`, whole or not at all; returns its folder, `config.out`.

    Raises FileExistsError if that folder exists, and FileNotFoundError if the source does not. Raises ValueError if the
    policy cannot be imported, with the names that differ and the remedy.
    """
    from ..files import interpreting, whole_folder
    from ..policy.normalizer import Normalizer
    from ..policy.weights import read_state_dict
    from .folder import write_checkpoint
    from .foreign.interface import REMEDY
    from .foreign.lerobot import lerobot
    from .foreign.reference import reference

    source, out = Path(config.source), Path(config.out)
    if out.exists():
        raise FileExistsError(f"{out} exists already: give another out=, or remove it")
    if not source.exists():
        raise FileNotFoundError(
            f"there is no file or folder {source}: download the published files first; source is a path on this machine"
        )
    if not isinstance(config.policy, DiffusionConfig):
        raise ValueError(f"policy must be a diffusion policy, got {describe(config.policy)['choice']}")
    if config.policy.encoder != LowdimEncoderConfig():
        raise ValueError(f"leave policy/encoder out, the weights determine it, got {config.policy.encoder}")
    if config.policy.representation != AbsoluteConfig():
        raise ValueError(
            f"leave policy/representation out, the weights determine it, got {config.policy.representation}"
        )
    with interpreting(source / "config.json" if source.is_dir() else source, "copy it again from where it was trained"):
        if source.is_dir():
            foreign, settings = lerobot(source)
            policy_config, horizons = from_lerobot(config, settings)
        else:
            horizons, policy_config = config.horizons.build(), config.policy
            foreign = reference(read_state_dict(source, remedy=REMEDY), num_observed=horizons.observation)
        network = network_of(policy_config.network, foreign.network)
        policy_config = replace(policy_config, network=network, representation=AS_IS)
        if foreign.cameras.shapes:
            policy_config = replace(policy_config, encoder=ResNetEncoderConfig(**foreign.cameras.options))
        check_horizons(foreign, horizons)
        specification = specification_of(config, foreign)
        policy: Any = policy_config.build(specification, horizons, Normalizer.empty(specification))
        policy.network.load_state_dict(foreign.network.weights)
        policy.encoder.load_state_dict(foreign.cameras.weights)
        set_ranges(policy.normalizer, specification, foreign)
    manifest = {"policy": describe(policy_config), "task": config.task, "step": 0, "seed": None, "source": str(source)}
    with whole_folder(out, replace=False) as folder:
        write_checkpoint(folder, policy.state_dict(), specification=specification, horizons=horizons, **manifest)
    return out


def set_ranges(normalizer: Normalizer, specification: Specification, foreign: Foreign) -> None:
    """Set the range of every vector. The foreign policy concatenates the vectors of an observation."""
    import torch

    observed = [torch.cat(parts) for parts in zip(*foreign.observations.values(), strict=True)]
    streams = [stream for stream in specification.streams if not stream.is_image]
    sizes = [stream.size for stream in streams[:-1]]
    affines = [*zip(*(part.split(sizes) for part in observed), strict=True), foreign.action]
    for stream, (centre, half_range) in zip(streams, affines, strict=True):
        normalizer.streams[stream.name].load_state_dict({"centre": centre, "half_range": half_range})


def network_of(config: Any, layout: Layout) -> TransformerConfig | UNet1dConfig:
    """The configuration of the network of the weights. A transformer's number of heads comes from `config`."""
    option = NETWORKS[layout.kind]
    return replace(config if isinstance(config, option) else option(), **layout.sizes)


def check_horizons(foreign: Foreign, horizons: Horizons) -> None:
    """Raises ValueError if the weights are for another prediction horizon."""
    if foreign.network.num_steps not in (None, horizons.prediction):
        raise ValueError(f"horizons.prediction must be {foreign.network.num_steps}, got {horizons.prediction}")


def from_lerobot(config: ImportCheckpointConfig, settings: dict[str, Any]) -> tuple[DiffusionConfig, Horizons]:
    """The policy and the horizons of LeRobot's config.json. Raises ValueError if `config` sets them too.

    LeRobot samples with the DDPM and DDIM schedulers of diffusers. Both start at the first level of the noisiest
    interval. DDIM keeps the network's epsilon if it clips the estimate of x_0.
    """
    if config.policy != DEFAULT or config.horizons != HorizonsConfig():
        raise ValueError(
            f"leave policy and horizons out: {config.source}/config.json contains them; choose another sampler when "
            "the policy runs, as in recede evaluate ... sampler=ddim"
        )
    num_times = settings["num_train_timesteps"]
    if settings["beta_schedule"] == "squaredcos_cap_v2":
        schedule: Any = CosineConfig(num_times=num_times)
    else:
        betas = {name: settings[name] for name in ("beta_schedule", "beta_start", "beta_end")}
        schedule = DiffusersScheduleConfig(num_times=num_times, **betas)
    steps: dict[str, Any] = {"num_steps": settings["num_inference_steps"] or num_times, "spacing": "leading"}
    samplers = {"DDPM": DDPMConfig(**steps), "DDIM": DDIMConfig(**steps, keeps_epsilon=True)}
    policy = DiffusionConfig(
        schedule=schedule,
        sampler=samplers[settings["noise_scheduler_type"]],
        prediction=settings["prediction_type"],
        clip=settings["clip_sample_range"] if settings["clip_sample"] else UNBOUNDED,
    )
    return policy, Horizons(settings["n_obs_steps"], settings["horizon"], settings["n_action_steps"])


def specification_of(config: ImportCheckpointConfig, foreign: Foreign) -> Specification:
    """The task's specification with the observations of `streams`, in their order, or that of the weights."""
    if (config.task is None) == (config.control_dt is None):
        raise ValueError(f"give either task= or control_dt=, got task={config.task} and control_dt={config.control_dt}")
    if config.control_dt is not None:
        vectors = [Stream(name, affine.centre.shape) for name, affine in foreign.observations.items()]
        images = [Stream(name, shape, "uint8") for name, shape in foreign.cameras.shapes.items()]
        return Specification((*vectors, *images), Stream("action", foreign.action.centre.shape), config.control_dt)
    assert config.task is not None, "checked above"
    task = load_task(config.task).specification
    streams = {stream.name: stream for stream in task.observations}
    names = config.streams or list(streams)
    num_images = sum(stream.is_image for stream in task.observations)
    is_ambiguous = max(num_images, len(streams) - num_images) > 1
    is_wrong = not streams.keys() >= set(names) or len(set(names)) < len(names)
    if is_wrong or (is_ambiguous and not config.streams):
        wrong = next((name for name in names if name not in streams), "")
        remedy = nearest(wrong, streams) if config.streams else f"give them, as in streams=[{','.join(streams)}]"
        raise ValueError(
            f"streams must be the observations of {config.task} that the policy takes, once each, in the order in "
            f"which it concatenates them, got {config.streams}: {remedy}"
        )
    specification = Specification(tuple(streams[name] for name in names), task.action, task.control_dt)
    check_sizes(specification, foreign)
    return specification


def check_sizes(specification: Specification, foreign: Foreign) -> None:
    """Raises ValueError if the number of values in vectors, or the shapes of images, differ from those of `foreign`."""
    sizes = sum(len(affine.centre) for affine in foreign.observations.values()), len(foreign.action.centre)
    vectors = [stream.size for stream in specification.observations if not stream.is_image]
    expected = sum(vectors), specification.action.size
    if sizes != expected:
        raise ValueError(
            f"the policy must take {expected[0]} numbers a step and return {expected[1]}, as the task has, "
            f"got {sizes[0]} and {sizes[1]}: leave task= out and give control_dt="
        )
    shapes = [stream.shape for stream in specification.observations if stream.is_image]
    if shapes != list(foreign.cameras.shapes.values()):
        raise ValueError(
            f"the policy must take images of the shapes {shapes}, as the task has, "
            f"got {foreign.cameras.shapes}: leave task= out and give control_dt="
        )
