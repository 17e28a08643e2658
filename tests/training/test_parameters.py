"""Parameter groups: every parameter is in one group, with its weight decay and learning rate, in a fixed order."""

import numpy as np
import pytest
import torch
from recede.checkpoints.folder import write_checkpoint
from recede.configs.choices import CHOICES
from recede.configs.training import TrainConfig
from recede.files import write_json_with_digest, write_tensors
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons, Specification, Stream
from recede.training.ema import EMA
from recede.training.measures import Meter
from recede.training.muon import optimizer_of
from recede.training.parameters import parameter_groups
from recede.training.state import restore_training, training_state
from torch import nn

SPECIFICATION = Specification((Stream("state", (3,)),), Stream("action", (2,)), control_dt=0.1)
RANGES = {stream.name: (-np.ones(stream.shape), np.ones(stream.shape)) for stream in SPECIFICATION.streams}
HORIZONS = Horizons(prediction=8, action=4)


def build(network, policy="diffusion"):
    torch.manual_seed(0)
    config = CHOICES["policy"][policy](network=CHOICES["policy/network"][network]())
    return config.build(SPECIFICATION, HORIZONS, Normalizer(SPECIFICATION, RANGES))


def named(policy, groups):
    """The names in each group, in order."""
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in groups]


@pytest.mark.parametrize("policy", CHOICES["policy"])
@pytest.mark.parametrize("network", CHOICES["policy/network"])
def test_every_parameter_is_in_one_group_and_matrices_are_decayed(policy, network):
    """Parameters of two or more dimensions are decayed, except tables of positions."""
    built = build(network, policy)
    groups = parameter_groups(built, weight_decay=0.1)
    assert [group["scale"] for group in groups] == [1.0, 1.0]
    assert sorted(name for names in named(built, groups) for name in names) == sorted(
        name for name, _ in built.named_parameters()
    )
    for group, names in zip(groups, named(built, groups), strict=True):
        for name, parameter in zip(names, group["params"], strict=True):
            is_matrix = parameter.ndim > 1 and not name.endswith("positions")
            assert group["weight_decay"] == (0.1 if is_matrix else 0.0), name


@pytest.mark.parametrize("network", CHOICES["policy/network"])
def test_the_order_is_that_of_the_construction(network):
    first, second = build(network), build(network)
    orders = [named(built, parameter_groups(built, weight_decay=0.1)) for built in (first, second)]
    assert orders[0] == orders[1]


def test_every_kind_of_layer_is_in_its_group():
    layers = nn.ModuleDict(
        {
            "linear": nn.Linear(2, 2),
            "convolution": nn.ConvTranspose1d(2, 2, 3),
            "picture": nn.Conv2d(2, 2, 3),
            "attention": nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
            "group_norm": nn.GroupNorm(1, 2),
            "layer_norm": nn.LayerNorm(2),
            "table": nn.Embedding(3, 2),
        }
    )
    decayed, undecayed = named(layers, parameter_groups(layers, weight_decay=0.1))
    assert decayed == [
        "linear.weight",
        "convolution.weight",
        "picture.weight",
        *(f"attention.{letter}_proj_weight" for letter in "qkv"),
        "attention.out_proj.weight",
    ]
    assert set(decayed + undecayed) == {name for name, _ in layers.named_parameters()}
    assert len(decayed + undecayed) == len(set(decayed + undecayed))


def test_a_module_may_learn_slower_than_the_rest():
    """A scale applies to all parameters below a module, and the nearest one counts."""
    layers = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))))
    layers[1].learning_rate_scale = 0.1
    layers[1][1].learning_rate_scale = 0.5
    groups = parameter_groups(layers, weight_decay=0.1)
    by_scale = {
        (group["scale"], group["weight_decay"]): names
        for group, names in zip(groups, named(layers, groups), strict=True)
    }
    assert by_scale == {
        (1.0, 0.1): ["0.weight"],
        (1.0, 0.0): ["0.bias"],
        (0.1, 0.1): ["1.0.weight"],
        (0.1, 0.0): ["1.0.bias"],
        (0.5, 0.1): ["1.1.0.weight"],
        (0.5, 0.0): ["1.1.0.bias"],
    }


def test_shared_parameters_are_in_one_group():
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    layers[1].weight = layers[0].weight
    assert named(layers, parameter_groups(layers, weight_decay=0.1)) == [["0.weight"], ["0.bias", "1.bias"]]


def test_without_decay_there_is_one_group():
    assert len(parameter_groups(build("transformer"), weight_decay=0.0)) == 1


# --- networks of others


class Foreign(nn.Module):
    """A network of another package, with parameters of its own."""

    def __init__(self):
        super().__init__()
        self.mixing = nn.Parameter(torch.zeros(3, 2))
        self.gain = nn.Parameter(torch.zeros(3))
        for name in (
            "pos_embed",
            "cls_token",
            "register_tokens",
            "position_embeddings",
            "positional_embedding",
            "probe",
        ):
            self.register_parameter(name, nn.Parameter(torch.zeros(1, 4, 3)))


@pytest.mark.parametrize(
    ("layer", "decayed"),
    [
        (nn.Bilinear(2, 2, 2), ["weight"]),
        (nn.Conv3d(2, 2, 3), ["weight"]),
        (nn.ConvTranspose3d(2, 2, 3), ["weight"]),
        (nn.LSTM(2, 3, proj_size=2), ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]),
        (nn.GRU(2, 3, num_layers=2), ["weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"]),
        (nn.RMSNorm((4, 3)), []),
        (nn.LayerNorm((4, 3)), []),
        (nn.InstanceNorm2d(2, affine=True), []),
        (nn.BatchNorm3d(2), []),
        (nn.PReLU(4), []),
        (nn.EmbeddingBag(3, 2), []),
        (Foreign(), ["mixing"]),
        (nn.utils.parametrizations.orthogonal(nn.Linear(2, 2)), ["parametrizations.weight.original"]),
    ],
    ids=lambda module: type(module).__name__,
)
def test_the_matrices_of_any_layer_are_decayed(layer, decayed):
    groups = parameter_groups(nn.Sequential(layer), weight_decay=0.1)
    by_decay = {
        group["weight_decay"]: [name.removeprefix("0.") for name in names]
        for group, names in zip(groups, named(nn.Sequential(layer), groups), strict=True)
    }
    assert by_decay.get(0.1, []) == decayed
    assert sum(map(len, by_decay.values())) == len(list(layer.parameters()))


ENCODERS = [
    ("lowdim", {"mlp": [8]}),
    ("resnet", {"width": 16, "stages": 2, "mlp": [8]}),
    ("resnet", {"width": 16, "stages": 1, "depth": 50, "shared": True}),
    *(
        ("vit", {"family": family})
        for family in ("clip_vision_model", "dinov2", "dinov2_with_registers", "siglip_vision_model")
    ),
]


@pytest.mark.parametrize(("name", "options"), ENCODERS)
def test_only_linear_layers_and_convolutions_of_encoders_are_decayed(name, options):
    """All other parameters are tokens, tables of positions or scales."""
    options = dict(options)
    if name == "vit":
        pytest.importorskip("transformers")
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
        config = {"model_type": options.pop("family"), "intermediate_size": 24} | sizes
        options = {"architecture": {"config": config, "mean": [0.5] * 3, "std": [0.5] * 3}, "image_size": 8}
    camera = (Stream("camera", (16, 16, 3), "uint8"),) if name != "lowdim" else ()
    specification = Specification((Stream("state", (3,)), *camera), Stream("action", (2,)), control_dt=0.1)
    encoder = CHOICES["policy/encoder"][name](**options).build(specification, HORIZONS)
    multiplying = (nn.Linear, nn.Conv1d, nn.Conv2d)
    expected = {f"{path}.weight" for path, module in encoder.named_modules() if isinstance(module, multiplying)}
    expected |= {
        f"{path}.in_proj_weight"
        for path, module in encoder.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    }
    groups = parameter_groups(encoder, weight_decay=0.1)
    pairs = zip(groups, named(encoder, groups), strict=True)
    assert {name for group, names in pairs if group["weight_decay"] for name in names} == expected


@pytest.mark.parametrize("scale", [0, -1, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(scale):
    layers = nn.Sequential(nn.Linear(2, 2))
    layers[0].learning_rate_scale = scale
    with pytest.raises(ValueError, match=r"learning_rate_scale of 0\. must be positive, got .*: freeze it instead"):
        parameter_groups(layers, weight_decay=0.1)


def test_adamw_shrinks_only_decayed_parameters():
    policy = build("transformer")
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(policy, weight_decay=0.5), lr=0.1, fused=True)
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in policy.named_parameters():
        factor = 0.95 if parameter.ndim > 1 and not name.endswith("positions") else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_moments_of_several_groups_are_restored(optimizer, tmp_path):
    """Two updates in a row equal, bit for bit, one update, a save, a restore and another update."""
    policies = [build("transformer") for _ in range(3)]
    optimizers = []
    for policy in policies:
        policy.encoder.learning_rate_scale, policy.network.memory.learning_rate_scale = 0.1, 0.5
        config = TrainConfig(dataset="data", out="runs", weight_decay=0.1, optimizer=optimizer)
        optimizers.append(optimizer_of(config, policy))
        assert len(optimizers[-1].param_groups) == 4

    def update(index, seed):
        generator = torch.Generator().manual_seed(seed)
        for group in optimizers[index].param_groups:
            group["lr"] = 1e-2 * group["scale"]
        for parameter in policies[index].parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizers[index].step()

    for seed in (0, 1):
        update(0, seed)
    update(1, 0)
    manifest = {"specification": SPECIFICATION, "horizons": HORIZONS, "policy": {}, "task": None, "step": 1, "seed": 0}
    write_checkpoint(tmp_path, policies[1].state_dict(), **manifest)
    meter = Meter(torch.device("cpu"))
    digest = write_tensors(tmp_path / "training.safetensors", training_state(policies[1], optimizers[1], meter))
    note = {"threads": torch.get_num_threads(), "training_sha256": digest}
    write_json_with_digest(tmp_path / "training.json", note)
    restore_training(tmp_path, policies[2], EMA(policies[2], power=0.75, maximum=0.9999), optimizers[2], meter)
    update(2, 1)
    assert [group["scale"] for group in optimizers[2].param_groups] == [1.0, 1.0, 0.5, 0.5]
    for name, parameter in policies[0].named_parameters():
        restored = policies[2].get_parameter(name)
        assert torch.equal(parameter, restored), name
        expected, moments = optimizers[0].state[parameter], optimizers[2].state[restored]
        assert all(torch.equal(expected[key], moments[key]) for key in expected), name
