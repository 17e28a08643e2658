"""Open a trained policy from a run, a checkpoint or an exported folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..configs.changes import replaced
from ..configs.components.policies import DiffusionConfig, RegressionConfig
from ..configs.components.representations import AbsoluteConfig
from ..configs.notation import UnknownChoice, describe, policy_config
from ..specification import WORDS

if TYPE_CHECKING:
    import torch

    from ..policy.encoders.text import TextEncoder
    from ..policy.engines.exported import ExportedEngine
    from ..policy.engines.interface import Engine
    from ..policy.interface import Policy

MARGIN = 10_000_000
"""Numbers beyond twice those of its weights that a policy may take while it is built."""


@dataclass(frozen=True)
class OpenedPolicy:
    """A trained policy, ready to predict."""

    engine: Engine
    """Runs the policy."""

    manifest: dict[str, Any]
    """The content of `policy.json` or `engine.json`; `manifest["path"]` is the folder of that file."""

    num_parameters: int
    """Parameters of the whole policy, including the encoder."""

    report: str
    """Why this engine runs the policy, to print."""


def open_policy(
    folder: str | Path,
    *,
    engine: str | None = None,
    which: str = "last",
    sampler: Any = None,
    device: str = "cpu",
    is_for_robots: bool = False,
) -> OpenedPolicy:
    """Open the policy of a run, a checkpoint or an exported folder.

    engine: a name of `ENGINES`, or "auto" for the fastest on this machine. None stands for the engine of an exported
    folder, and for "eager" otherwise. which: "last" or "best" checkpoint of a run. sampler: the configuration of a
    sampler that replaces the policy's own, or changes of that one: field -> value. device: of torch, or "auto"; ignored
    if the engine runs without torch.

    Raises FileNotFoundError if the folder holds no policy. Raises ValueError if it is damaged or of another format, if
    the engine is not available, or if an exported folder is opened with a sampler, a checkpoint or another engine.
    """
    from ..policy.device import device as device_of
    from ..policy.engines.folder import is_exported
    from ..policy.engines.interface import FORMATS
    from ..policy.engines.making import make_engine

    path = Path(folder)
    if is_exported(path):
        exported, manifest = _open_exported(path)
        _check_exported(path, exported.name, engine, which=which, sampler=sampler)
        return OpenedPolicy(exported, manifest, manifest["num_parameters"], f"engine: {exported.name}")
    place = device_of("cpu" if engine in FORMATS else device)
    policy, manifest = load_policy(path, which=which, device=place, sampler=sampler)
    running, report = make_engine(policy, engine or (None if is_for_robots else "eager"))
    num_parameters = sum(parameter.numel() for parameter in policy.parameters())  # type: ignore[attr-defined]
    return OpenedPolicy(running, manifest, num_parameters, report)


class PolicyChoice(Protocol):
    """The fields by which a command chooses a policy; see `open_policy`."""

    run: str
    checkpoint: str
    sampler: Any
    guidance: Any
    context: dict[str, Any]
    words: str | None
    text_encoder: str | None
    engine: str | None
    device: str


def open_chosen(config: PolicyChoice, *, is_for_robots: bool = False) -> OpenedPolicy:
    """Open the policy that a command was given. Raises what `open_policy` raises."""
    opened = open_policy(
        config.run,
        engine=config.engine,
        which=config.checkpoint,
        sampler=config.sampler,
        device=config.device,
        is_for_robots=is_for_robots,
    )
    from ..policy.engines.wrapping import GuidedEngine, InstructedEngine

    engine, notes = opened.engine, dict[str, Any]()
    if config.guidance is not None:
        engine = GuidedEngine(engine, [config.guidance.build(engine, opened.manifest["policy"])])
        notes["guidance"] = describe(config.guidance)
    if config.context or config.words is not None:
        engine = InstructedEngine(engine, config.context | _embedded(opened.manifest, config))
        notes |= {"context": config.context, "words": config.words}
    return replace(opened, engine=engine, manifest=opened.manifest | notes)


def _embedded(manifest: Mapping[str, Any], config: PolicyChoice) -> dict[str, Any]:
    """The sentence of a command as context."""
    if config.words is None:
        return {}
    if (text := text_encoder_of(manifest, config.text_encoder)) is None:
        raise ValueError(f"words={config.words!r} needs a policy that observes sentences: leave it out")
    return {WORDS: text(config.words)}


def text_encoder_of(manifest: Mapping[str, Any], folder: str | None) -> TextEncoder | None:
    """The text encoder of a policy; None if it observes no sentences. folder: where it lies; None as in the training.

    Raises ValueError if it is another encoder than that of the training, and the errors of `TextEncoder`.
    """
    from ..policy.encoders.text import TextEncoder

    if (noted := manifest.get("text_encoder")) is None:
        return None
    text = TextEncoder(folder or noted["folder"])
    if text.digest != noted["sha256"]:
        raise ValueError(f"{text.folder} is another text encoder than that of the training: name it with text_encoder=")
    return text


def load_engine(folder: str | Path) -> Engine:
    """The engine of a folder that `recede export` wrote, ready to predict, without torch and without pickle.

    It uses `OMP_NUM_THREADS` threads, or all cores. Raises FileNotFoundError if the folder is not an exported policy.
    Raises ValueError if it is damaged or of another format, or if the package that runs it is not installed.
    """
    return _open_exported(Path(folder))[0]


def load_policy(
    folder: str | Path, *, which: str = "last", device: str | torch.device = "cpu", sampler: Any = None
) -> tuple[Policy, dict[str, Any]]:
    """The trained policy of a run or checkpoint folder, ready to predict, and its manifest.

    which: "last" or "best" checkpoint of a run. sampler: the configuration of a sampler that replaces the policy's
    own, or changes of that one: field -> value.

    The manifest is the content of `policy.json`; `manifest["path"]` is the checkpoint's folder. Nothing in the folder
    is executed. Raises FileNotFoundError if there is no policy. Raises ValueError if it is damaged, of another format,
    or configured with a choice that this version does not have. Add the choices of your own packages first.
    """
    from ..policy.normalizer import Normalizer
    from .folder import read_checkpoint
    from .runs import read_resolved

    path, (manifest, weights) = read_resolved(Path(folder), which, read_checkpoint)
    specification = manifest["specification"]
    config, policy = _build(path, manifest, sum(tensor.numel() for tensor in weights.values()))
    if sampler is not None:
        if "sampler" not in {field.name for field in fields(config)}:
            raise ValueError(f"{path}: leave sampler out, this policy does not sample")
        config.sampler = replaced(config.sampler, sampler, "sampler")
        policy = config.build(specification, manifest["horizons"], Normalizer.empty(specification))
        manifest["policy"] = describe(config)
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights must be those of the configured policy: {error}") from None
    return policy.to(device).eval().requires_grad_(False), manifest | {"path": str(path)}


def read_description(folder: str | Path, which: str = "last") -> dict[str, Any]:
    """The content of `policy.json` or `engine.json` of a run, a checkpoint or an exported folder. Does not load torch.

    Raises FileNotFoundError if the folder holds no policy, and ValueError if it is damaged.
    """
    from ..policy.engines.folder import is_exported, read_content
    from .folder import read_manifest
    from .runs import read_resolved

    path = Path(folder)
    return read_content(path) if is_exported(path) else read_resolved(path, which, read_manifest)[1]


def _build(path: Path, manifest: Mapping[str, Any], num_weights: int) -> tuple[Any, Any]:
    """The configuration of a checkpoint's policy, and the policy, whose weights and ranges are not loaded yet.

    num_weights: the numbers in its weights. Raises ValueError before memory is taken for far more.
    """
    from ..files import interpreting
    from ..policy.normalizer import Normalizer
    from ..policy.weights import at_most_parameters

    specification = manifest["specification"]
    with interpreting(path / "policy.json", "train again"), at_most_parameters(MARGIN + 2 * num_weights):
        try:
            config = policy_config(manifest["policy"])
            return config, config.build(specification, manifest["horizons"], Normalizer.empty(specification))
        except UnknownChoice as error:
            raise ValueError(f"{path / 'policy.json'}: {error}") from None
        except (ValueError, TypeError, RuntimeError, MemoryError) as error:  # torch: too little memory
            raise ValueError(f"{path / 'policy.json'}: cannot build the policy ({error}): train again") from error


def _open_exported(path: Path) -> tuple[ExportedEngine, dict[str, Any]]:
    """The engine of an exported folder, and the content of its `engine.json` with the folder as "path"."""
    from ..files import interpreting
    from ..policy.engines.folder import REMEDY, open_engine, read_content

    content = read_content(path)
    with interpreting(path / "engine.json", REMEDY):
        try:
            config = _exported_config(content["policy"])
        except UnknownChoice as error:
            raise ValueError(f"{path / 'engine.json'}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{path / 'engine.json'} is damaged ({error}); {REMEDY}") from None
    return open_engine(path, content, config=config), content | {"path": str(path)}


def _exported_config(policy: Mapping[str, Any]) -> DiffusionConfig | RegressionConfig:
    """The configuration of an exported policy's sampler, prediction, clip and representation.

    The graphs contain the encoder and the network, so the packages that added these need not be installed.
    """
    if missing := {"encoder", "network"} - policy.keys():
        raise ValueError(f"policy lacks {sorted(missing)}")
    noted = policy.get("representation")  # folders were once written without it
    representation = AbsoluteConfig() if noted is None else policy_config(noted, "policy/representation")
    if "sampler" not in policy:
        return RegressionConfig(representation=representation)
    sampler = policy_config(policy["sampler"], "policy/sampler")
    return DiffusionConfig(
        sampler=sampler, prediction=policy["prediction"], clip=policy["clip"], representation=representation
    )


def _check_exported(path: Path, name: str, engine: str | None, *, which: str, sampler: Any) -> None:
    """Raises ValueError if an exported folder is opened with anything but its own engine and sampler."""
    if sampler is not None or which != "last" or engine not in (None, name):
        raise ValueError(
            f"{path} is exported with its sampler and for engine={name}: leave out sampler, checkpoint and engine, or "
            "give the run that it was exported from"
        )
