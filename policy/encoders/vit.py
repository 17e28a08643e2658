"""Pretrained vision transformers of Hugging Face's `transformers`: DINOv2, CLIP and SigLIP.

A network is loaded from a folder on this machine. Nothing is downloaded, and no code in the folder is run: the model
type chooses a class of `transformers`, and its weights are read from safetensors.

Shapes: N images; C = 3 channels, H and W height and width; S side of the square that the network takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...files import interpreting
from ...specification import nearest
from .images import HALF, IMAGENET, PRETRAINED_SCALE, ImageEncoder, Pixels

CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of red, green and blue that CLIP expects."""

FAMILIES = {
    "clip_vision_model": ("CLIPVisionConfig", "CLIPVisionModel", CLIP),
    "dinov2": ("Dinov2Config", "Dinov2Model", IMAGENET),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", IMAGENET),
    "siglip_vision_model": ("SiglipVisionConfig", "SiglipVisionModel", tuple(value * 3 for value in HALF)),
}
"""Model type -> its configuration and model in `transformers`, and the mean and deviation of pixels that it expects."""

IGNORED = (
    *("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path"),
    *("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation", "quantization_config"),
)
"""Configuration entries that do not describe the network. Those of the second line may name code to run."""

LARGEST = 2**20
"""Largest whole number of a configuration."""


def read_architecture(folder: Path) -> dict[str, Any]:
    """What rebuilds the network in `folder`, as JSON: its "config", and the "mean" and "std" of its pixels.

    Raises FileNotFoundError if the folder holds no network, and ValueError if its model type is unknown.
    """
    with interpreting(folder / "config.json", "copy the folder again"):
        return _architecture(folder)


def _architecture(folder: Path) -> dict[str, Any]:
    config = _read_json(folder / "config.json")
    config = config.get("vision_config") or config  # the vision half of a model of text and images
    model_type = str(config.get("model_type"))
    if model_type not in FAMILIES:
        raise ValueError(
            f"{folder / 'config.json'}: model_type must be one that recede knows, got {model_type!r}: "
            f"{nearest(model_type, FAMILIES)}"
        )
    path = folder / "preprocessor_config.json"
    preprocessor = _read_json(path) if path.exists() else {}
    mean, std = FAMILIES[model_type][2]
    return {
        "config": network_settings(config),
        "mean": list(preprocessor.get("image_mean") or mean),
        "std": list(preprocessor.get("image_std") or std),
    }


def network_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of a model's folder or of a checkpoint, without the entries that may name code to run.

    Raises ValueError for numbers that no network has.
    """
    for name, value in config.items():
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"config.json: {name} must be at most {LARGEST}, got {value}: copy the folder again")
    return {
        name: network_settings(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in IGNORED
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: give the folder of a model as `save_pretrained` writes it or as its hub offers it"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON, got something else ({error}): copy the folder again") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got {config!r}: copy the folder again")
    return config


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ValueError("policy/encoder=vit needs transformers: pip install 'recede[vit]'") from None
    return transformers


class ViTEncoder(ImageEncoder):
    """Images of any size, stretched to a square of S pixels -> the network's own summary -> features.

    The summary is `pooler_output`: the normalised class token of DINOv2 and CLIP, the attention pool of SigLIP.

    architecture: the result of `read_architecture`. image_size: S, a multiple of the patch; if it differs from the size
    in pretraining, positions are interpolated. is_frozen: the network does not learn; otherwise it learns at a tenth of
    the rate.

    Raises ValueError if the images or `image_size` do not fit the network.
    """

    def __init__(
        self,
        channels: int,
        *,
        architecture: Mapping[str, Any],
        image_size: int,
        num_features: int,
        is_frozen: bool,
    ) -> None:
        super().__init__()
        if channels != 3:
            raise ValueError(f"images for a pretrained vision transformer must have 3 channels, got {channels}")
        self.num_features, self.image_size, self.is_frozen = num_features, image_size, is_frozen
        try:
            self._build(_transformers(), architecture)
        except ValueError:
            raise
        except Exception as error:  # the package checks its settings with errors of its own
            raise ValueError(
                f"config.json must describe a network that transformers can build, got {type(error).__name__}: {error}"
            ) from error

    def _build(self, transformers: Any, architecture: Mapping[str, Any]) -> None:
        """Build the network and the layer on its summary."""
        settings, image_size = network_settings(architecture["config"]), self.image_size
        self.config_name, self.model_name, _ = FAMILIES[settings.pop("model_type")]
        config = getattr(transformers, self.config_name)(**settings)
        if image_size % config.patch_size:
            raise ValueError(
                f"image_size must be a multiple of the {config.patch_size} pixels of a patch, got {image_size}"
            )
        if not getattr(config, "vision_use_head", True):
            raise ValueError("a SigLIP network must have its attention pool, got vision_use_head=false: use another")
        # DINOv2 always interpolates positions; the others do it on request.
        on_request = image_size != config.image_size and not self.model_name.startswith("Dinov2")
        self.options = {"interpolate_pos_encoding": True} if on_request else {}
        self.pixels = Pixels(architecture["mean"], architecture["std"])
        self.model: Any = getattr(transformers, self.model_name)(config).requires_grad_(not self.is_frozen)
        self.model.learning_rate_scale = PRETRAINED_SCALE
        self.project = nn.Linear(config.hidden_size, self.num_features)

    def forward(self, images: Tensor) -> Tensor:
        """Images, uint8 (N, C, H, W) -> (N, num_features)."""
        x = self.resized(self.pixels(images))
        return self.project(self.model(x, **self.options).pooler_output)

    def resized(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> (N, C, S, S), whatever their proportions."""
        size = (self.image_size, self.image_size)
        if images.shape[2:] == size:
            return images
        return F.interpolate(images, size, mode="bilinear", antialias=True)

    def train(self, mode: bool = True) -> ViTEncoder:
        """Set training mode. A frozen network stays in evaluation mode, without dropout."""
        super().train(mode)
        if self.is_frozen:
            self.model.eval()
        return self

    def recompute(self, *, is_on: bool) -> None:
        """Set whether the backward pass computes the layers of the transformer again; a frozen one has none."""
        verb, options = ("enable", [{"use_reentrant": False}]) if is_on else ("disable", [])
        names = f"activation_checkpointing_{verb}", f"gradient_checkpointing_{verb}"  # now, and in transformers 5.0
        next(getattr(self.model, name) for name in names if hasattr(self.model, name))(*options)

    def load_pretrained(self, path: Path) -> None:
        """Load the weights in a folder whose architecture equals the one that this encoder was built from."""
        transformers = _transformers()
        try:
            loaded, report = getattr(transformers, self.model_name).from_pretrained(
                path,
                config=self.model.config,  # the folder's own configuration could name code to run
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
            missing = sorted(report["missing_keys"])
            if missing:
                raise ValueError(f"it lacks {len(missing)} weights, such as {', '.join(missing[:3])}")
            self.model.load_state_dict(loaded.float().state_dict())
        except (RuntimeError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{path} must hold the weights of a {self.model_name} as safetensors, as its config.json says: {reason}"
            ) from None
