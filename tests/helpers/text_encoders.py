"""Small text encoders with random weights, saved as `transformers` saves them."""

import pytest
import torch

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

VOCABULARY = ["<pad>", "<unk>", "<s>", "</s>", "put", "the", "orange", "blue", "cube", "onto", "mark"]
SIZE = 16


def save(folder, model_type):
    """A text encoder and its tokenizer of whole words."""
    torch.manual_seed(0)
    words = {word: index for index, word in enumerate(VOCABULARY)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=model, model_max_length=12, **special).save_pretrained(folder)
    sizes = {"vocab_size": len(words), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    if model_type == "t5":
        config = transformers.T5Config(d_model=SIZE, d_kv=8, d_ff=32, num_layers=2, num_heads=2, **sizes)
        encoder = transformers.T5EncoderModel(config)
    else:
        name = {"clip_text_model": "CLIPText", "siglip_text_model": "SiglipText"}[model_type]
        config = getattr(transformers, f"{name}Config")(
            hidden_size=SIZE,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=12,
            projection_size=SIZE,
            **sizes,
        )
        encoder = getattr(transformers, f"{name}Model")(config)
    encoder.eval().save_pretrained(folder)
    return encoder
