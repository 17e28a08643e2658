"""Sentences as vectors."""

import json
import pickle

import numpy as np
import pytest
import torch
from recede.policy.encoders.text import TextEncoder
from text_encoders import SIZE, VOCABULARY, save


@pytest.mark.parametrize("model_type", ["t5", "clip_text_model", "siglip_text_model"])
def test_a_sentence_is_the_mean_of_its_states_scaled_to_one(tmp_path, model_type):
    encoder, text = save(tmp_path, model_type), TextEncoder(tmp_path)
    vector = text("put the blue cube onto the mark")
    tokens = torch.tensor([[VOCABULARY.index(word) for word in ["put", "the", "blue", "cube", "onto", "the", "mark"]]])
    with torch.no_grad():
        mean = encoder(input_ids=tokens).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(vector, mean / mean.abs().max(), atol=1e-6)
    assert (text.size, vector.dtype, vector.shape) == (SIZE, np.float32, (SIZE,))
    assert text("put the blue cube onto the mark") is vector, "it is embedded once"
    assert np.abs(text("put the orange cube onto the mark") - vector).max() > 1e-3


def test_another_process_gets_the_same_vectors(tmp_path):
    save(tmp_path, "t5")
    text = TextEncoder(tmp_path)
    vector = text("put the blue cube")
    other = pickle.loads(pickle.dumps(text))
    assert len(pickle.dumps(text)) < 500
    assert np.array_equal(other("put the blue cube"), vector)
    assert other.digest == text.digest


def test_the_digest_is_that_of_the_content(tmp_path):
    save(tmp_path / "a", "t5")
    save(tmp_path / "b", "t5")
    assert TextEncoder(tmp_path / "a").digest == TextEncoder(tmp_path / "b").digest
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps(config | {"num_layers": 1}))
    assert TextEncoder(tmp_path / "a").digest != TextEncoder(tmp_path / "b").digest


def test_a_folder_that_is_no_text_encoder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        TextEncoder(tmp_path / "missing")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2", "hidden_size": 4}))
    with pytest.raises(ValueError, match="'dinov2' is no text encoder"):
        TextEncoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json"):
        TextEncoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 4}))
    with pytest.raises(ValueError, match="copy the folder again"):
        TextEncoder(tmp_path)("put")
