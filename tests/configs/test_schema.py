"""Run configurations: every choice can be described, read back, composed and explained."""

import json
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import recede
import torch
import toys
from recede.commands.composition import compose
from recede.configs.choices import CHOICES
from recede.configs.commands import COMMANDS
from recede.configs.components.denoising import DDIMConfig, DDPMConfig, DiffusersSamplerConfig, RectifiedFlowConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig, HorizonsConfig
from recede.configs.components.robots import SafetyConfig, SimulatedRobotConfig
from recede.configs.datasets import CollectConfig
from recede.configs.deployment import ControlConfig
from recede.configs.evaluation import EvaluateConfig, ReplayConfig
from recede.configs.notation import default_of, describe, policy_config
from recede.configs.training import DemoConfig, TrainConfig
from recede.envs.catalogue import TASKS, load_task
from recede.envs.task import Task
from recede.policy.denoising.prediction import PREDICTIONS
from recede.policy.device import device
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons

FOLDER = Path(recede.__file__).parent / "configs"
REQUIRED = {
    "dataset": "d.zarr",
    "condition": "outcome=success",
    "input": "keyboard",
    "name": "pusht",
    "out": "runs/x",
    "recipe": "pick_place",
    "results": "runs",
    "robot": "simulated",
    "run": "runs/x",
    "source": "w.pt",
    "task": "pick_place",
}


def slots_of(option):
    names = {field.name for field in fields(option)}
    return [slot for slot in CHOICES if slot.count("/") and slot.split("/")[1] in names]


PARTS = [
    (policy, slot, name)
    for policy, option in CHOICES["policy"].items()
    for slot in slots_of(option)
    for name in CHOICES[slot]
]


@pytest.mark.parametrize(("policy", "slot", "name"), PARTS)
def test_every_choice_comes_back_from_json(policy, slot, name):
    option = CHOICES["policy"][policy]
    config = option(**{slot.split("/")[1]: CHOICES[slot][name]()})
    described = json.loads(json.dumps(describe(config), allow_nan=False))
    assert described["choice"] == policy
    assert described[slot.split("/")[1]]["choice"] == name
    again = policy_config(described)
    assert again == config
    assert type(getattr(again, slot.split("/")[1])) is CHOICES[slot][name]


def test_every_value_comes_back_not_only_the_defaults():
    config = DiffusionConfig(
        network=UNet1dConfig(channels=[8, 24], kernel_size=3, groups=4, time_size=6),
        sampler=DiffusersSamplerConfig(name="DDIMScheduler", num_steps=7, options={"clip_sample": True}),
        prediction="v",
        clip=1.25,
    )
    assert policy_config(json.loads(json.dumps(describe(config)))) == config


CHOSEN = [(slot, name) for policy, slot, name in PARTS if policy == "diffusion"]


@pytest.mark.parametrize(
    ("slot", "name", "prediction"),
    [
        pytest.param(slot, name, kind, marks=[] if kind == "v" or slot == "policy/schedule" else [pytest.mark.slow])
        for slot, name in CHOSEN
        for kind in PREDICTIONS
    ],
)
def test_every_choice_builds_a_policy_that_predicts(slot, name, prediction):
    small = {"network": UNet1dConfig(channels=[8, 16], time_size=8)}
    few = {"sampler": DDIMConfig(num_steps=1)} if name == "progressive" else {}
    own = {"reference": ["position"]} if name in ("relative", "difference") else {}
    chosen = {slot.split("/")[1]: CHOICES[slot][name](**own)}
    config = DiffusionConfig(prediction=prediction, **(small | few | chosen))
    ranges = {stream.name: (np.full(2, -1.0), np.full(2, 1.0)) for stream in toys.SPECIFICATION.streams}
    specification = replace(toys.SPECIFICATION, action=replace(toys.SPECIFICATION.action, kinds="position"))
    build = partial(config.build, specification, Horizons(prediction=8, action=4))
    if prediction == "epsilon" and name in ("rectified_flow", "edm"):  # see tests/test_weighting.py
        with pytest.raises(ValueError, match=r"choose .*policy.prediction"):
            build(Normalizer(specification, ranges))
        return
    policy = build(Normalizer(specification, ranges)).eval()
    observation = {name: torch.zeros(2, 2, 2) for name in ("position", "target")}
    draws, *shape = policy.noise_shape
    chunk = policy.predict(observation, torch.randn(draws, 2, *shape, generator=torch.Generator().manual_seed(0)))
    assert chunk.shape == (2, 8, 2)
    assert bool(chunk.isfinite().all())


def composed(command, overrides):
    """The configuration that the command line composes."""
    (config,), failures = compose(command, overrides)
    assert not failures
    return config


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_composes_to_its_configuration(command):
    config = COMMANDS[command].config
    required = {key: value for key, value in REQUIRED.items() if is_required(config, key)}
    required |= {"robot": "simulated"} if command == "check" else {}  # it checks a robot or a task
    result = composed(command, [f"{key}={value}" for key, value in required.items()])
    parts = {
        "import-checkpoint": "policy",
        "check": "robot",
        "record": "input",
    }  # commands without a default for a part
    chosen = {parts[command]: getattr(result, parts[command])} if command in parts else {}
    assert result == config(**required | chosen)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_preset_composes_to_real_objects(path):
    group, name = path.parent.relative_to(FOLDER), path.stem
    config = composed("train", [f"{group}={name}", "dataset=d.zarr", "out=runs/x"])
    assert type(config) is TrainConfig
    assert type(config.policy) is DiffusionConfig
    assert all(is_dataclass(getattr(config.policy, slot.split("/")[1])) for slot in slots_of(type(config.policy)))
    assert type(config.horizons) is HorizonsConfig


def test_a_foreign_policy_is_read_as_the_reference_unless_one_says_otherwise():
    config = composed("import-checkpoint", ["source=w.pt", "out=o"])
    assert config.policy == DiffusionConfig(prediction="epsilon", sampler=DDPMConfig(spacing="leading"))


def test_the_reference_is_as_published():
    """Chi et al. 2023, appendix: DDPM in 100 steps; AdamW at 1e-4 after 500 steps, without clipping."""
    policy = composed("train", ["policy=reference", "dataset=d", "out=o"]).policy
    recipe = composed("train", ["preset=reference", "dataset=d", "out=o"])
    published = DiffusionConfig(prediction="epsilon", sampler=DDPMConfig(spacing="leading"))
    assert policy == recipe.policy == published
    assert policy.sampler.num_steps == policy.schedule.num_times == 100
    assert (recipe.learning_rate, recipe.warmup, recipe.batch_size) == (1e-4, 500, 256)
    assert (recipe.betas, recipe.weight_decay) == ([0.95, 0.999], 1e-6)
    assert (recipe.ema_power, recipe.ema_maximum) == (0.75, 0.9999)
    assert recipe.gradient_clip >= 1e9


def test_a_flow_is_a_diffusion_policy_on_the_straight_path():
    config = composed("train", ["policy=flow", "dataset=d", "out=o"])
    assert config.policy == DiffusionConfig(
        schedule=RectifiedFlowConfig(), prediction="velocity", sampler=DDIMConfig(num_steps=4)
    )


@pytest.mark.parametrize(("policy", "slot", "name"), PARTS)
def test_every_choice_can_be_chosen(policy, slot, name):
    overrides = [f"policy={policy}", f"{slot}={name}", "dataset=d", "out=o"]
    config = composed("train", overrides)
    assert getattr(config.policy, slot.split("/")[1]) == CHOICES[slot][name]()


def test_every_command_has_a_module_and_a_key_for_its_bare_argument():
    folder = Path(recede.__file__).parent / "commands"
    modules = {path.stem for path in folder.glob("*.py") if "\ndef run(" in path.read_text()}
    assert {command.replace("-", "_") for command in COMMANDS} == modules
    for command in COMMANDS.values():
        assert command.positional is None or command.positional in command.config.__dataclass_fields__


def is_required(config, key):
    fields_of = config.__dataclass_fields__
    return key in fields_of and default_of(fields_of[key]) is MISSING


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_is_found(name):
    if name == "pusht":
        pytest.importorskip("gym_pusht")
    task = load_task(name)
    assert isinstance(task, Task)
    assert task.name == name


def test_a_task_of_ones_own_is_found_by_its_place():
    assert load_task("toys:REACH") is toys.REACH


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "pushd",
            ValueError,
            "task must be .*, gymnasium:ID or one that .* knows, got 'pushd': did you mean 'pusht'",
        ),
        (
            "toys:NO_TASK",
            ValueError,
            "task=toys:NO_TASK must be a Task of recede.envs.task, but toys has 3 as 'NO_TASK'",
        ),
        ("toys:NOTHING", ValueError, "toys has None as 'NOTHING'"),
        (
            "nowhere_at_all:REACH",
            ValueError,
            "no module named .*nowhere_at_all.*PYTHONPATH",
        ),
        (":REACH", ValueError, "task must be package.module:CONSTANT"),
        ("..toys:REACH", ValueError, "task must be package.module:CONSTANT"),
    ],
)
def test_what_is_no_task_is_refused(name, error, message):
    with pytest.raises(error, match=message):
        load_task(name)


def train_config(**changes):
    return TrainConfig(**({"dataset": "d", "out": "o", "policy": DiffusionConfig()} | changes))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: train_config(steps=0), "steps must be above 0, got 0"),
        (lambda: train_config(learning_rate=float("nan")), "learning_rate must be above 0, got nan"),
        (lambda: train_config(save_every=-1), "save_every must be above 0"),
        (lambda: train_config(evaluate_every=-1), "evaluate_every must be at least 0"),
        (lambda: train_config(evaluate_every=5), "evaluate_every=5 needs a task to evaluate in: give task="),
        (lambda: train_config(betas=[0.9]), r"betas must be two numbers.*got \[0.9\]"),
        (lambda: train_config(seed=-1), "seed must be at least 0, got -1"),
        (
            lambda: train_config(horizons=HorizonsConfig(observation=2, prediction=16, action=40)),
            "2 - 1 \\+ 40 = 41 steps, got 16",
        ),
        (
            lambda: train_config(policy="diffusion"),
            "got 'diffusion': write policy=diffusion",
        ),
        (lambda: EvaluateConfig(run="r", episodes=0), "episodes must be above 0"),
        (lambda: EvaluateConfig(run="r", workers=-1), "workers must be at least 0"),
        (lambda: EvaluateConfig(run="r", checkpoint="beste"), "checkpoint must be 'last' or 'best', got 'beste'"),
        (lambda: CollectConfig(task="t", out="o", episodes=10**9), "episodes must be at most 1000000, got 1000000000"),
        (lambda: CollectConfig(task="t", out="o", first_seed=10**20), "first_seed must be at most 4294967295"),
        (lambda: EvaluateConfig(run="r", episodes=10**9), "episodes must be at most 1000000"),
        (lambda: EvaluateConfig(run="r", first_seed=10**20), "first_seed must be at most"),
        (lambda: ControlConfig(run="r", rate=1e9), "rate must be at most 10000, got 1000000000"),
        (lambda: ControlConfig(run="r", rate=float("inf")), "rate must be at most 10000, got inf"),
        (lambda: ControlConfig(run="r", episodes=10**9), "episodes must be at most 1000000"),
        (lambda: ControlConfig(run="r", first_seed=10**20), "first_seed must be at most"),
        (lambda: SafetyConfig(speed=float("inf")), "speed must be at most 1000, got inf"),
        (lambda: SafetyConfig(acceleration=1e300), "acceleration must be at most 1000000, got"),
        (lambda: SafetyConfig(jump=float("inf")), "jump must be at most 1000, got inf"),
        (lambda: SafetyConfig(stale_ms=float("inf")), "stale_ms must be at most 3600000, got inf"),
        (lambda: SimulatedRobotConfig(jitter_ms=float("inf")), "jitter_ms must be at most 60000, got inf"),
        (lambda: CollectConfig(task="t", out="o", first_seed=-1), "first_seed must be at least 0"),
        (lambda: ReplayConfig(task="t", dataset="d", episodes="outcome"), "needs one of = != "),
        (lambda: DemoConfig(steps=0), "steps must be above 0"),
        (lambda: UNet1dConfig(groups=0), "groups must be above 0"),
        (lambda: DDIMConfig(eta=2), "eta must be between 0 .* and 1"),
        (lambda: DiffusionConfig(clip=0), "clip must be above 0"),
        (lambda: policy_config({"choice": "difusion"}), "policy must be one of .*got 'difusion'"),
        (
            lambda: policy_config({"choice": "diffusion", "prediction": "w"}),
            "policy.prediction must be one of epsilon, .* got 'w'",
        ),
        (lambda: policy_config({"choice": "diffusion", "clop": 1}), "policy=diffusion cannot have .*clop"),
        (lambda: device("gpu"), "device must be auto or one that torch can use here, got 'gpu'"),
    ],
)
def test_impossible_values_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("slot", ["network", "schedule", "sampler"])
@pytest.mark.parametrize("value", ["ddpm", 3, None])
def test_a_slot_must_be_filled_with_a_choice(slot, value):
    with pytest.raises(ValueError, match=f"policy/{slot}=NAME, got {value!r}: "):
        TrainConfig(dataset="d", out="o", policy=DiffusionConfig(**{slot: value}))


def test_the_device_is_a_real_one():
    assert device("cpu") == torch.device("cpu")
    assert device("auto").type in {"cpu", "cuda", "mps", "xpu"}
