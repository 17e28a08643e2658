"""The transformer of Diffusion Policy, against torch's own decoder with the same weights, and its masks."""

import pytest
import torch
from recede.policy.networks.transformer import Transformer
from torch import nn


def small(**options):
    torch.manual_seed(0)
    options = {
        "action_size": 3,
        "conditioning_shape": (2, 5),
        "num_steps": 8,
        "num_layers": 2,
        "num_heads": 2,
        "size": 16,
        "patch": 1,
        "causal": True,
        "dropout": 0.0,
        "embedding_dropout": 0.0,
    } | options
    return Transformer(**options)


def inputs(batch=4, steps=8, tokens=2):
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(batch, steps, 3, generator=generator)
    return noisy, torch.arange(batch) * 7, torch.randn(batch, tokens, 5, generator=generator)


def decoder_of_torch(network, size=16, heads=2):
    """Torch's decoder with the weights of `network`."""
    layer = nn.TransformerDecoderLayer(size, heads, 4 * size, 0.0, "gelu", batch_first=True, norm_first=True)
    decoder = nn.TransformerDecoder(layer, len(network.blocks)).to(network.head.weight.dtype).eval()
    kv_weight, kv_bias = (p.chunk(len(network.blocks)) for p in (network.keys_values.weight, network.keys_values.bias))
    for index, (target, source) in enumerate(zip(decoder.layers, network.blocks, strict=True)):
        pairs = {
            "self_attn.in_proj_weight": source.query_key_value.weight,
            "self_attn.in_proj_bias": source.query_key_value.bias,
            "multihead_attn.in_proj_weight": torch.cat([source.query.weight, kv_weight[index]]),
            "multihead_attn.in_proj_bias": torch.cat([source.query.bias, kv_bias[index]]),
        }
        modules = {"self_attn.out_proj": source.self_output, "multihead_attn.out_proj": source.cross_output}
        modules |= {"linear1": source.expand, "linear2": source.contract}
        modules |= {f"norm{number}": norm for number, norm in enumerate(source.norms, start=1)}
        for name, module in modules.items():
            pairs |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
        target.load_state_dict(pairs)
    return decoder


@pytest.mark.parametrize("steps", [1, 5, 8])
@pytest.mark.parametrize("tokens", [1, 2, 3])
@pytest.mark.parametrize("causal", [True, False])
def test_the_network_is_torchs_decoder_over_the_published_memory(causal, steps, tokens):
    network = small(conditioning_shape=(tokens, 5), causal=causal).double().eval()
    with torch.no_grad():  # every position and bias counts
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    noisy, t, conditioning = inputs(steps=steps, tokens=tokens)
    noisy, conditioning = noisy.double(), conditioning.double()
    tokens_seen = torch.cat([network.time(t)[:, None], network.observation(conditioning)], dim=1)
    memory = network.memory(tokens_seen + network.memory_positions)
    future = torch.ones(steps, steps, dtype=torch.bool).triu(1)
    hidden = torch.tensor([[token > 1 + step for token in range(1 + tokens)] for step in range(steps)])
    x = network.action(noisy) + network.action_positions[:steps]
    masks = {"tgt_mask": future, "memory_mask": hidden} if causal else {}
    x = decoder_of_torch(network)(x, memory, **masks)
    torch.testing.assert_close(network(noisy, t, conditioning), network.head(network.norm(x)), rtol=0, atol=1e-10)


def test_an_action_sees_neither_later_actions_nor_later_observations():
    network = small(conditioning_shape=(3, 5))
    noisy, t, conditioning = inputs(tokens=3)
    before = network(noisy, t, conditioning)
    for step in range(8):
        changed = noisy.clone()
        changed[:, step] += 1
        differs = (network(changed, t, conditioning) - before).abs().amax(dim=(0, 2)) > 0
        assert differs.tolist() == [other >= step for other in range(8)]
    for token in range(3):
        changed = conditioning.clone()
        changed[:, token] += 1
        differs = (network(noisy, t, changed) - before).abs().amax(dim=(0, 2)) > 0
        assert differs.tolist() == [other >= token for other in range(8)]


def test_an_action_sees_everything_if_the_network_is_not_causal():
    network = small(conditioning_shape=(9, 5), causal=False)
    noisy, t, conditioning = inputs(tokens=9)
    before = network(noisy, t, conditioning)
    for changed in (noisy, conditioning):
        changed[:, -1] += 1
        assert ((network(noisy, t, conditioning) - before).abs().amax(dim=(0, 2)) > 0).all()
        changed[:, -1] -= 1


@pytest.mark.parametrize("steps", [1, 5, 8])
def test_a_token_holds_as_many_steps_as_a_patch(steps):
    """It is the network whose actions are the patches of a chunk; what is missing at its end is zero."""
    network, long = small(patch=3, causal=False), small(action_size=9, num_steps=3, causal=False)
    long.load_state_dict(network.state_dict())
    noisy, t, conditioning = inputs(steps=steps)
    whole = torch.cat([noisy, torch.zeros(4, -steps % 3, 3)], dim=1)
    expected = long(whole.reshape(4, -1, 9), t, conditioning).reshape(4, -1, 3)[:, :steps]
    torch.testing.assert_close(network(noisy, t, conditioning), expected, rtol=0, atol=0)


def test_a_causal_network_has_no_patches():
    with pytest.raises(ValueError, match=r"patch must be 1.*got 2.*causal=false"):
        small(patch=2)


def test_a_shorter_chunk_is_the_beginning_of_a_longer_one():
    network = small()
    noisy, t, conditioning = inputs()
    output = network(noisy[:, :5], t, conditioning)
    torch.testing.assert_close(output, network(noisy, t, conditioning)[:, :5], rtol=1e-5, atol=1e-6)


def test_more_steps_than_positions_are_refused():
    with pytest.raises(ValueError, match=r"at most the 8 steps.*got 9"):
        small()(*inputs(steps=9))


def test_the_published_network_has_its_number_of_parameters():
    with torch.device("meta"):
        network = small(action_size=2, conditioning_shape=(2, 20), num_steps=16, num_layers=8, num_heads=4, size=256)
    size, layers = 256, 8
    block = 4 * size * size + 4 * size + 4 * size * size + 4 * size + 8 * size * size + 5 * size + 6 * size
    mlp = 8 * size * size + 5 * size
    embeddings = (2 + 1) * size + (20 + 1) * size + (16 + 3) * size
    expected = layers * block + mlp + embeddings + 2 * size + (size + 1) * 2
    assert sum(parameter.numel() for parameter in network.parameters()) == expected == 8_965_122


def test_biases_start_at_zero_and_weights_keep_the_variance_of_their_inputs():
    network = small(size=64, num_layers=4)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif name.endswith("positions"):
            torch.testing.assert_close(parameter.std().item(), 0.3, rtol=0.25, atol=0)
        elif "norm" not in name:
            is_added = "blocks" in name and ("output" in name or "contract" in name)
            expected = (parameter.shape[1] * (12 if is_added else 1)) ** -0.5
            torch.testing.assert_close(parameter.std().item(), expected, rtol=0.25, atol=0)


@pytest.mark.parametrize(("size", "num_layers"), [(128, 4), (256, 8)])
def test_the_output_depends_on_the_observation_from_the_start(size, num_layers):
    """Its change over observations is at least a tenth of its change over noisy chunks, of the same deviation."""
    network = small(action_size=2, conditioning_shape=(1, 20), num_steps=16, num_layers=num_layers, size=size).eval()
    generator = torch.Generator().manual_seed(1)
    noisy, t = torch.randn(64, 16, 2, generator=generator), torch.full((64,), 50)
    conditioning = torch.rand(64, 1, 20, generator=generator) * 2 - 1
    with torch.no_grad():
        over_observations = network(noisy[:1].expand(64, -1, -1), t, conditioning).std(dim=0).mean()
        over_chunks = network(noisy, t, conditioning[:1].expand(64, -1, -1)).std(dim=0).mean()
    assert over_observations > 0.1 * over_chunks


@pytest.mark.parametrize("kind", ["dropout", "embedding_dropout"])
def test_dropout_acts_in_training_mode_only(kind):
    network = small(**{kind: 0.5})
    arguments = inputs()
    torch.manual_seed(3)
    first, second = network(*arguments), network(*arguments)
    assert (first - second).abs().max() > 1e-3
    torch.manual_seed(3)
    assert torch.equal(network(*arguments), first)
    network.eval()
    expected = small()
    expected.load_state_dict(network.state_dict())
    assert torch.equal(network(*arguments), network(*arguments))
    torch.testing.assert_close(network(*arguments), expected.eval()(*arguments))


def test_every_dropout_of_a_layer_acts(monkeypatch):
    """Of the attention weights twice, of what attention and the MLP add, and of the hidden units."""
    dropped = []
    attention, dropout = nn.functional.scaled_dot_product_attention, nn.functional.dropout

    def watched_attention(*arguments, dropout_p, **options):
        dropped.append(("attention", dropout_p))
        return attention(*arguments, dropout_p=dropout_p, **options)

    def watched_dropout(x, p, training, *rest):
        dropped.append((x.shape[-1], p))
        return dropout(x, p, training, *rest)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watched_attention)
    monkeypatch.setattr(nn.functional, "dropout", watched_dropout)
    small(num_layers=1, dropout=0.25, embedding_dropout=0.125)(*inputs())
    own = [("attention", 0.25), (16, 0.25)]
    assert dropped == [(16, 0.125)] * 3 + own + own + [(64, 0.25), (16, 0.25)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 15}, "size must be a multiple of num_heads=2, got 15"),
        ({"size": 2, "num_heads": 1}, "even number of at least 4, got 2"),
        ({"size": 0}, "multiple of num_heads"),
        ({"num_layers": 0}, "at least 1, got 0 and 2"),
        ({"num_heads": 0}, "at least 1, got 2 and 0"),
        ({"dropout": 1.0}, "below 1, got 1.0"),
        ({"embedding_dropout": -0.1}, "at least 0"),
        ({"conditioning_shape": (9, 5)}, "9 tokens .* 8 steps"),
    ],
)
def test_an_impossible_network_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
