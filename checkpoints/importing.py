"""Checkpoints of what other implementations have trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configs.checkpoints import ImportCheckpointConfig
from ..configs.components.denoising import CosineConfig, DDIMConfig, DDPMConfig, DiffusersScheduleConfig
from ..configs.components.encoders import LowdimEncoderConfig, ResNetEncoderConfig
from ..configs.components.networks import TransformerConfig, UNet1dConfig
from ..configs.components.policies import DiffusionConfig, HorizonsConfig
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
DEFAULT = DiffusionConfig(prediction="epsilon", sampler=DDPMConfig(spacing="leading"))
"""`policy=reference`: what a policy is if the command line does not mention it, as in the reference implementation."""
UNBOUNDED = 1e6
"""The clip of a policy that was not clipped, in normalised units."""


def import_checkpoint(config: ImportCheckpointConfig) -> Path:
    """Write the checkpoint that `config` asks for, whole or not at all; returns its folder.

    Raises ValueError or OSError where it cannot be, with the names that differ and the remedy.
    """
    from ..files import whole_folder
    from ..policy.normalizer import Normalizer
    from ..policy.weights import read_state_dict
    from .folder import write_checkpoint
    from .foreign.interface import REMEDY
    from .foreign.lerobot import lerobot
    from .foreign.reference import reference

    source, out = Path(config.source), Path(config.out)
    if out.exists():
        raise FileExistsError(f"{out} is there already: give another out=, or remove it")
    if not isinstance(config.policy, DiffusionConfig):
        raise ValueError(f"policy must be a diffusion policy, got {describe(config.policy)['choice']}")
    if config.policy.encoder != LowdimEncoderConfig():
        raise ValueError(f"policy/encoder must be left out, the weights show it, got {config.policy.encoder}")
    if source.is_dir():
        foreign, settings = lerobot(source)
        policy_config, horizons = from_lerobot(config, settings)
    else:
        horizons, policy_config = config.horizons.build(), config.policy
        foreign = reference(read_state_dict(source, remedy=REMEDY), num_observed=horizons.observation)
    policy_config = replace(policy_config, network=network_of(policy_config.network, foreign.network))
    if foreign.cameras.shapes:
        policy_config = replace(policy_config, encoder=ResNetEncoderConfig(**foreign.cameras.options))
    check_horizons(foreign, horizons)
    specification = specification_of(config, foreign)
    policy: Any = policy_config.build(specification, horizons, Normalizer.empty(specification))
    policy.network.load_state_dict(foreign.network.weights)
    policy.encoder.load_state_dict(foreign.cameras.weights)
    fill(policy.normalizer, specification, foreign)
    manifest = {"policy": describe(policy_config), "task": config.task, "step": 0, "seed": None, "source": str(source)}
    with whole_folder(out) as folder:
        write_checkpoint(folder, policy.state_dict(), specification=specification, horizons=horizons, **manifest)
    return out


def fill(normalizer: Normalizer, specification: Specification, foreign: Foreign) -> None:
    """Set the ranges of every vector, of which those of the observations lie side by side in the foreign policy."""
    import torch

    observed = [torch.cat(each) for each in zip(*foreign.observations.values(), strict=True)]
    streams = [stream for stream in specification.streams if not stream.is_image]
    sizes = [stream.size for stream in streams[:-1]]
    affines = [*zip(*(each.split(sizes) for each in observed), strict=True), foreign.action]
    for stream, (centre, half_range) in zip(streams, affines, strict=True):
        normalizer.streams[stream.name].load_state_dict({"centre": centre, "half_range": half_range})


def network_of(chosen: Any, layout: Layout) -> TransformerConfig | UNet1dConfig:
    """The configuration of the network that the weights show; of a transformer's heads, what was chosen."""
    option = NETWORKS[layout.kind]
    return replace(chosen if isinstance(chosen, option) else option(), **layout.sizes)


def check_horizons(foreign: Foreign, horizons: Horizons) -> None:
    """Raises ValueError unless they are those that the weights show."""
    if foreign.network.num_steps not in (None, horizons.prediction):
        raise ValueError(f"horizons.prediction must be {foreign.network.num_steps}, got {horizons.prediction}")


def from_lerobot(config: ImportCheckpointConfig, settings: dict[str, Any]) -> tuple[DiffusionConfig, Horizons]:
    """The policy and the horizons of a config.json. Raises ValueError if `config` asks for others too.

    LeRobot samples with the DDPM and DDIM schedulers of diffusers: these start at the first level of the noisiest
    interval, and that of DDIM keeps the epsilon of the network if it clips the estimate of x_0.
    """
    if config.policy != DEFAULT or config.horizons != HorizonsConfig():
        raise ValueError(
            f"policy and horizons must be left out: {config.source}/config.json contains them; another sampler can be "
            "chosen whenever the policy runs, such as by recede evaluate ... sampler=ddim"
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
    """The task's, with its observations in the order of `streams`; or one of the names and sizes there alone."""
    if (config.task is None) == (config.control_dt is None):
        raise ValueError(f"give either task= or control_dt=, got task={config.task} and control_dt={config.control_dt}")
    if config.control_dt is not None:
        vectors = [Stream(name, affine.centre.shape) for name, affine in foreign.observations.items()]
        images = [Stream(name, shape, "uint8") for name, shape in foreign.cameras.shapes.items()]
        return Specification((*vectors, *images), Stream("action", foreign.action.centre.shape), config.control_dt)
    assert config.task is not None, "it is one of the two"
    task = load_task(config.task).specification
    known = {stream.name: stream for stream in task.observations}
    names = config.streams or list(known)
    num_images = sum(stream.is_image for stream in task.observations)
    is_ambiguous = max(num_images, len(known) - num_images) > 1
    if sorted(names) != sorted(known) or (is_ambiguous and not config.streams):
        wrong = next((name for name in names if name not in known), "")
        raise ValueError(
            f"streams must be the observations of {config.task}, in the order in which they lie side by side there, "
            f"got {config.streams}: {nearest(wrong, known)}"
        )
    specification = Specification(tuple(known[name] for name in names), task.action, task.control_dt)
    check_sizes(specification, foreign)
    return specification


def check_sizes(specification: Specification, foreign: Foreign) -> None:
    """Raises ValueError unless the streams are of as many numbers, and the images of the shapes, as those of `foreign`.

    Vectors and images each have an order of their own.
    """
    found = sum(len(affine.centre) for affine in foreign.observations.values()), len(foreign.action.centre)
    vectors = [stream.size for stream in specification.observations if not stream.is_image]
    wanted = sum(vectors), specification.action.size
    if found != wanted:
        raise ValueError(
            f"the policy must see {wanted[0]} numbers a step and answer with {wanted[1]}, as the task has, "
            f"got {found[0]} and {found[1]}: leave task= out and give control_dt="
        )
    shapes = [stream.shape for stream in specification.observations if stream.is_image]
    if shapes != list(foreign.cameras.shapes.values()):
        raise ValueError(
            f"the policy must see images of the shapes {shapes}, as the task has, "
            f"got {foreign.cameras.shapes}: leave task= out and give control_dt="
        )
