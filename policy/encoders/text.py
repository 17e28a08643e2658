"""Sentences as vectors, by the text encoders of Hugging Face's `transformers`: CLIP, SigLIP and T5.

An encoder is loaded from a folder on this machine. Nothing is downloaded, and no code in the folder is run: the model
type chooses a class of `transformers`, and its weights are read from safetensors.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files import interpreting, read_json
from ...specification import nearest

FAMILIES = {
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "siglip": "SiglipTextModel",
    "siglip_text_model": "SiglipTextModel",
    "t5": "T5EncoderModel",
}
"""Model type -> its class in `transformers`."""


class TextEncoder:
    """A frozen text encoder, which embeds each sentence once. It is loaded with the first sentence of a process.

    The embedding is the mean of the last hidden states over the tokens, scaled so that the largest of its numbers is 1
    or -1.

    Raises FileNotFoundError if the folder holds no encoder, and ValueError if its model type is unknown.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "config.json"
        with interpreting(path, "copy the folder again"):
            config = read_json(path)
            config = config | config.get("text_config", {}) | {"model_type": config["model_type"]}
            model_type = str(config["model_type"])
            if model_type not in FAMILIES:
                raise ValueError(f"{path}: {model_type!r} is no text encoder: {nearest(model_type, FAMILIES)}")
            self.size = int(config.get("hidden_size") or config["d_model"])
        self._class, self._loaded = FAMILIES[model_type], None
        self._embedded = dict[str, NDArray[np.float32]]()

    def __reduce__(self) -> Any:
        return type(self), (str(self.folder),)

    @property
    def digest(self) -> str:
        """SHA-256 of the files that decide what a sentence becomes."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.glob("*")):
            if path.suffix in (".json", ".model", ".txt", ".safetensors"):
                with path.open("rb") as file:
                    digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @property
    def noted(self) -> dict[str, str]:
        """What a run notes of it."""
        return {"folder": str(self.folder.absolute()), "sha256": self.digest}

    def __call__(self, sentence: str) -> NDArray[np.float32]:
        """(E,), for a sentence that is cut off at the length that the encoder takes.

        Raises ValueError if transformers is not installed, or if the folder is damaged.
        """
        if sentence not in self._embedded:
            self._embedded[sentence] = self._embed(sentence)
        return self._embedded[sentence]

    def _embed(self, sentence: str) -> NDArray[np.float32]:
        import torch

        tokenizer, model = self._load()
        inputs = tokenizer([sentence], return_tensors="pt", truncation=True)
        with torch.no_grad():
            states = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        mean = (states * inputs["attention_mask"][..., None]).sum(1)[0] / inputs["attention_mask"].sum()
        return (mean / mean.abs().max()).numpy().astype(np.float32)

    def _load(self) -> Any:
        if self._loaded is None:
            try:
                import transformers
            except ImportError:
                raise ValueError("sentences need transformers: pip install 'recede[text]'") from None
            transformers.utils.logging.disable_progress_bar()
            options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            with interpreting(self.folder, "copy the folder again", OSError):
                tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, **options)
                model = getattr(transformers, self._class).from_pretrained(
                    self.folder, local_files_only=True, use_safetensors=True
                )
            self._loaded = tokenizer, model.eval()
        return self._loaded
