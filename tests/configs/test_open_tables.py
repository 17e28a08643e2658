"""The package that the documents write adds its parts to the tables, and nothing but the command line imports it."""

import html
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recede as library
import torch
from hydra.core.config_store import ConfigStore
from recede.checkpoints.runs import resolve_checkpoint
from recede.configs.choices import CHOICES, add_choice
from recede.configs.commands import register
from recede.configs.components import networks
from recede.configs.components.denoising import DDIMConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.configs.notation import UnknownChoice, describe, policy_config
from recede.configs.packages import import_packages
from recede.envs.catalogue import TASKS, load_task
from recede.evaluation.reports import comparison
from recede.files import write_json_with_digest
from recede.specification import Horizons

DOCUMENT = (Path(library.__file__).parent / "docs" / "your_parts.md").read_text()
BLOCKS = re.findall(r"```python\n# (my_parts/\w+\.py)\n(.*?)```", DOCUMENT, re.DOTALL)
(SHELL,) = re.findall(r"```sh\nexport PYTHONPATH=\$PWD\n(.*?)```", DOCUMENT, re.DOTALL)
IMPORTS = "imports=[my_parts]"
REMEDY = "add imports=["
QUICK = ["device=cpu", "videos=0", "episodes=2"]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Where the package of the document lies, which every process finds but none has imported."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "my_parts").mkdir()
    for name, source in BLOCKS:
        (folder / name).write_text(source)
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))


def unregister(tree, names):
    """Remove the choices of these names from Hydra's store, which keeps them for the life of a process."""
    for key, node in list(tree.items()):
        if isinstance(node, dict):
            unregister(node, names)
        elif key.removesuffix(".yaml").removeprefix("default-of-") in names:
            del tree[key]


@pytest.fixture(autouse=True)
def forgotten():
    """Choices and packages that a test adds are gone after it."""
    tables = [TASKS, *CHOICES.values()]
    before = [dict(table) for table in tables]
    yield
    added = {name for table, content in zip(tables, before, strict=True) for name in table.keys() - content.keys()}
    unregister(ConfigStore.instance().repo, added)
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    for name in [name for name in sys.modules if name.split(".")[0] == "my_parts"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def trained(folder, nursery):
    """A run of a policy whose every part is of the package, read only."""
    store, out = folder / "slide.zarr", folder / "run"
    status, output = nursery.run("collect", "task=slide", IMPORTS, "episodes=6", f"out={store}")
    assert status == 0, output
    assert f"next: recede train task=slide dataset={store} out=runs/slide {shlex.quote(IMPORTS)}" in output
    status, output = nursery.run(*training(store, out))
    assert status == 0, output
    assert f"next: recede evaluate {out} {shlex.quote(IMPORTS)}" in output
    return out


def training(store, out):
    options = ["policy=small", "task=slide", "steps=4", "batch_size=16", "horizons.observation=2", "device=cpu"]
    return ["train", IMPORTS, *options, f"dataset={store}", f"out={out}"]


@pytest.fixture(scope="module")
def exported(folder, nursery, trained):
    """That policy with a sampler of recede's, as a folder of `recede export`, read only."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="exporting needs the extra 'onnx'")
    status, output = nursery.run(
        "export", trained, IMPORTS, "sampler=ddim", "engine=onnx", f"out={folder / 'exported'}"
    )
    assert status == 0, output
    return folder / "exported"


# --- with the package


def test_a_run_is_of_the_parts_of_the_package(trained):
    config = json.loads((trained / "config.json").read_text())
    parts = config["policy"]
    assert parts["choice"] == "small"
    assert parts["network"] == {"choice": "mlp", "size": 64}
    assert parts["encoder"] == {"choice": "last_step"}
    assert parts["sampler"] == {"choice": "euler", "num_steps": 4, "spacing": "trailing"}
    assert "my_parts" not in json.dumps(config)
    manifest = (resolve_checkpoint(trained) / "policy.json").read_text()
    assert "my_parts" not in manifest


@pytest.mark.slow
def test_a_run_resumes_whatever_is_imported(trained, nursery, folder):
    command = training(folder / "slide.zarr", trained)
    status, output = nursery.run(*command)
    assert status == 0, output
    assert "nothing to do, trained already" in output
    (folder / "more_parts.py").write_text("")
    command.remove(IMPORTS)
    status, output = nursery.run(*command, "imports=[more_parts,my_parts.tasks,my_parts]")
    assert status == 0, output
    assert "nothing to do, trained already" in output


@pytest.mark.parametrize("workers", [0, 1])
def test_a_policy_is_evaluated_in_the_task_of_the_package(trained, nursery, tmp_path, workers):
    options = [f"workers={workers}", "execution=[slow]", f"out={tmp_path}", *QUICK]
    status, output = nursery.run("evaluate", trained, IMPORTS, *options)
    assert status == 0, output
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert (result["task"], result["execution"]["choice"], result["execution"]["times"]) == ("slide", "slow", 2)
    shown = html.unescape((tmp_path / "report.html").read_text())
    assert f"recede evaluate {trained} {shlex.quote(IMPORTS)} episodes=200" in shown


def test_an_evaluation_of_parts_that_nobody_knows_is_compared(trained, nursery, recede, tmp_path):
    status, output = nursery.run("evaluate", trained, IMPORTS, "execution=[slow]", f"out={tmp_path / 'one'}", *QUICK)
    assert status == 0, output
    result = recede("compare", tmp_path)
    assert result.status == 0, result.err
    assert "| slide | mlp | euler-4" in result.out


@pytest.mark.slow
def test_a_robot_is_controlled_by_parts_of_the_package(trained, nursery, tmp_path):
    command = ["control", trained, IMPORTS, "robot=bench", "execution=[slow]", "sampler=euler", "sampler.num_steps=2"]
    status, output = nursery.run(*command, "episodes=1", "seconds=3", f"out={tmp_path / 'out'}")
    assert status == 0, output
    control = json.loads((tmp_path / "out" / "control.json").read_text())
    assert (control["robot"]["choice"], control["execution"]["choice"]) == ("bench", "slow")
    assert control["episodes"][0]["chunks"] > 0
    assert "imports=[my_parts]" in shlex.split(control["command"])


@pytest.mark.slow
def test_the_process_of_the_policy_imports_the_package(trained, nursery, tmp_path):
    """Nothing else that it gets is of the package."""
    command = ["control", trained, IMPORTS, "episodes=1", "seconds=3", f"out={tmp_path / 'out'}"]
    status, output = nursery.run(*command)
    assert status == 0, output
    assert json.loads((tmp_path / "out" / "control.json").read_text())["episodes"][0]["chunks"] > 0


def test_the_sampler_of_the_document_is_ddim(trained):
    import_packages(["my_parts"])
    policy, _ = library.load_policy(trained)
    ddim, _ = library.load_policy(trained, sampler=DDIMConfig(num_steps=4))
    noise = torch.randn((1, 3, 16, 2), generator=torch.Generator().manual_seed(0))
    observation = {name: torch.full((3, 2, 2), 0.2) for name in ("place", "goal")}
    torch.testing.assert_close(policy.predict(observation, noise), ddim.predict(observation, noise))


def test_help_lists_what_the_package_adds(recede):
    plain = recede("train", "--help").out
    assert "policy/network=mlp" not in plain
    result = recede("train", "--help", IMPORTS)
    assert result.status == 0
    for line in (
        r"  policy/network=mlp +A network with one hidden layer\.",
        r"    policy.network.size +64 +Size of the hidden layer\.",
        "  policy=small .*",
        r"    policy/sampler +euler num_steps=4",
        "  policy/sampler=euler .*",
    ):
        assert re.search(f"^{line}$", result.out, re.MULTILINE), line
    assert "my_parts.networks" not in sys.modules


@pytest.mark.slow
def test_the_command_lines_of_the_document_are_taken(trained, nursery, tmp_path):
    """Each of them, in fewer episodes and steps, on the folders that the ones before it have made."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="exporting needs the extra 'onnx'")
    fewer = {
        "collect": ["episodes=6"],
        "train": ["steps=2", "batch_size=16", "device=cpu"],
        "evaluate": QUICK,
        "control": ["episodes=1", "seconds=0.3"],
        "export": ["engine=onnx"],
    }
    commands = [shlex.split(line)[1:] for line in SHELL.splitlines()]
    assert [command[0] for command in commands] == ["collect", "train", "evaluate", "evaluate", "control", "export"]
    for command in commands:
        replaced = {argument.partition("=")[0] for argument in fewer[command[0]]}
        kept = [argument for argument in command if argument.partition("=")[0] not in replaced]
        status, output = nursery.run(*kept, *fewer[command[0]], folder=tmp_path)
        assert status == 0, output


# --- without the package


@pytest.mark.parametrize("command", ["evaluate", "serve", "export"])
def test_a_checkpoint_needs_its_package_and_says_so(trained, recede, tmp_path, command):
    more = {"evaluate": ["task=pick_place"], "export": [f"out={tmp_path / 'out'}", "engine=onnx"]}
    result = recede(command, trained, *more.get(command, []))
    assert result.status == 2
    assert f"got 'small': {REMEDY}" in result.line
    assert "my_parts" not in sys.modules


@pytest.mark.slow
def test_the_process_of_the_policy_needs_the_package_and_says_so(trained, nursery, tmp_path):
    """The task that is named imports the package in the process of the loop, but not in the other one."""
    status, output = nursery.run("control", trained, "robot.task=my_parts.tasks:SLIDE", folder=tmp_path)
    assert status == 2
    assert f"got 'small': {REMEDY}" in output


def test_the_error_of_the_document_is_the_error(trained, recede):
    (shown,) = re.findall(r"```\n(runs/slide.*?)\n```", DOCUMENT, re.DOTALL)
    line = recede("evaluate", trained, "task=pick_place").line
    assert " ".join(shown.split()).partition("policy.json: ")[2] == line.partition("policy.json: ")[2]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("policy=small", r"policy .*'small'.*'diffusion', 'flow', 'reference', 'regression'"),
        ("policy/network=mlp", r"policy/network .*'mlp'.*'dit', 'transformer', 'unet1d'"),
    ],
)
def test_a_choice_on_the_command_line_needs_its_package_and_says_so(recede, argument, message):
    assert re.search(f"{message}.*imports=", recede("train", argument, "dataset=d", "out=o").line)


def test_an_execution_on_the_command_line_needs_its_package_and_says_so(recede):
    line = recede("evaluate", "run", "execution=[slow]").line
    assert re.search("execution .*'slow'.*'async_replace'.*imports=", line)


def test_what_stands_for_a_default_is_not_offered(recede):
    line = recede("train", IMPORTS, "policy=small", "policy/sampler=xyz", "dataset=d", "out=o").line
    assert "'euler'" in line
    assert "default-of" not in line


def test_a_task_needs_its_package_and_says_so(trained, recede):
    line = recede("evaluate", trained).line
    assert re.search(r"'slide'.*add imports=\[.*task=", line)


@pytest.mark.parametrize("name", ["policy.json", "config.json"])
def test_what_a_folder_says_of_imports_imports_nothing(trained, recede, tmp_path, name):
    run = shutil.copytree(trained, tmp_path / "run")
    path = run / name if name == "config.json" else resolve_checkpoint(run) / name
    write_json_with_digest(path, json.loads(path.read_text()) | {"imports": ["my_parts"]})
    for arguments in (["evaluate", run], ["evaluate", run, "task=pick_place"], ["serve", run]):
        assert recede(*arguments).status == 2
    assert "my_parts" not in sys.modules


@pytest.mark.slow
def test_an_exported_folder_needs_its_package_for_its_sampler_alone(exported, tmp_path):
    """Its network and its encoder are in the graphs."""
    engine = library.load_engine(exported)
    assert "my_parts" not in sys.modules
    noise = np.random.default_rng(0).standard_normal((1, 3, 16, 2), dtype=np.float32)
    observation = {name: np.full((3, 2, 2), 0.2, np.float32) for name in ("place", "goal")}
    chunk = engine.predict(observation, noise)
    import_packages(["my_parts"])
    policy, _ = library.load_policy(exported.parent / "run", sampler=DDIMConfig())
    expected = policy.predict(
        {name: torch.from_numpy(value) for name, value in observation.items()}, torch.from_numpy(noise)
    )
    np.testing.assert_allclose(chunk, expected.numpy(), atol=1e-4)


@pytest.mark.slow
def test_a_foreign_sampler_of_an_exported_folder_is_named(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "folder")
    path = folder / "engine.json"
    content = json.loads(path.read_text())
    content["policy"]["sampler"] = {"choice": "euler", "num_steps": 10, "spacing": "trailing"}
    content["imports"] = ["my_parts"]
    write_json_with_digest(path, content)
    with pytest.raises(ValueError, match=r"engine.json: policy/sampler .*'euler': add imports="):
        library.load_engine(folder)
    assert "my_parts" not in sys.modules
    import_packages(["my_parts"])
    assert library.load_engine(folder).noise_shape == (1, 16, 2)


# --- what cannot be imported


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("imports=[nowhere_at_all]", r"=\[nowhere_at_all\]: .*'nowhere_at_all': install it"),
        ("imports=[my_parts.nothing]", r"=\[my_parts.nothing\]: .*'my_parts.nothing': install it"),
        ("imports=[needs_more]", r"=\[needs_more\]: .*'what_is_missing': install it"),
        ("imports=[takes_names]", r"=\[takes_names\]: task=reach is taken by .*tasks.reach:REACH: choose .*toys:Reach"),
        ("imports=my_parts", r"imports must be a list .*\[my_package,.*got my_parts"),
        ("imports=[my_parts", "imports must be a list"),
        ("imports=[my_parts],[more_parts]", "imports must be a list"),
        ("imports=[my-parts]", "imports must be names .*such as .*'my-parts'"),
        ("imports=[my_parts.py/x]", "imports must be names .*such as "),
        ("imports=[3]", "imports must be names .*such as .*'3'"),
        ("imports=[..my_parts]", r"imports must be names .*such as .*'\.\.my_parts'"),
    ],
)
@pytest.mark.parametrize("command", [["inspect", "nowhere"], ["train", "--help"]], ids=lambda command: command[0])
def test_what_cannot_be_imported_gets_one_line(recede, folder, argument, message, command):
    (folder / "needs_more.py").write_text("import what_is_missing\n")
    (folder / "takes_names.py").write_text("import recede, toys\nrecede.add_choice('task', 'reach', toys.REACH)\n")
    result = recede(*command, argument)
    assert result.status == 2
    assert re.search(message, result.line)


# --- the tables


@dataclass(kw_only=True)
class PlainConfig:
    """A choice for any slot."""

    size: int = 3

    def build(self) -> None:
        """Nothing."""


@dataclass(kw_only=True)
class OtherConfig(PlainConfig):
    """Another one."""


@dataclass(kw_only=True)
class OrphanConfig(DiffusionConfig):
    """A policy whose network is in no table."""

    network: Any = field(default_factory=OtherConfig)


@dataclass(kw_only=True)
class RequiringConfig(DiffusionConfig):
    """A policy whose network must be chosen."""

    network: Any  # pyright: ignore[reportGeneralTypeIssues]


@pytest.mark.parametrize(
    ("slot", "name", "config", "message"),
    [
        ("policy/netwrok", "mine", PlainConfig, "'policy/netwrok': did you mean 'policy/network'?"),
        (
            "policy/network",
            "Mine",
            PlainConfig,
            "got 'Mine'",
        ),
        ("policy/network", "my-net", PlainConfig, "got 'my-net'"),
        ("policy/network", "", PlainConfig, "got ''"),
        (
            "policy/network",
            "unet1d",
            PlainConfig,
            "unet1d is taken by recede.configs.components.networks:UNet1d",
        ),
        ("policy", "flow", PlainConfig, "policy=flow is taken by a preset of recede"),
        ("sampler", "reference_ddim", PlainConfig, "sampler=reference_ddim is taken by a preset of recede"),
        ("policy/network", "mine", PlainConfig(), "must be a dataclass with a method `build`"),
        ("policy/network", "mine", dict, "got <class 'dict'>"),
        ("policy/network", "mine", Horizons, "must be a dataclass with a method `build`"),
        ("policy/network", "mine", UNet1dConfig, "is policy/network=unet1d already"),
        ("policy/encoder", "unet1d", UNet1dConfig, "is policy/network=unet1d already"),
        ("task", "pusht", "toys:REACH", "task=pusht is taken by recede.envs.tasks.pusht:PUSHT"),
        ("task", "mine", "toys", "package.module:CONSTANT, got 'toys'"),
        ("task", "mine", PlainConfig, "task=mine must be a Task"),
    ],
)
def test_what_cannot_be_added_is_refused(slot, name, config, message):
    before = {slot: dict(options) for slot, options in CHOICES.items()}, dict(TASKS)
    with pytest.raises(ValueError, match=re.escape(message)):
        add_choice(slot, name, config)
    assert ({slot: dict(options) for slot, options in CHOICES.items()}, dict(TASKS)) == before


def test_a_reloaded_module_adds_the_same_again():
    module = importlib.import_module("my_parts")
    first = CHOICES["policy/network"]["mlp"]
    importlib.reload(module)
    assert CHOICES["policy/network"]["mlp"] is module.MLPConfig is not first


def test_a_task_is_added_itself_or_by_its_place():
    import toys

    again = importlib.util.module_from_spec(toys.__spec__)  # as a reloaded module, which would change `toys` for others
    toys.__spec__.loader.exec_module(again)
    with pytest.raises(ValueError, match="task=mine must be a task of that name, got 'reach'"):
        add_choice("task", "mine", toys.REACH)
    first, second = (replace(module.REACH, name="mine") for module in (toys, again))
    add_choice("task", "mine", first)
    assert load_task("mine") is first
    add_choice("task", "mine", second)
    assert load_task("mine") is second is not first
    with pytest.raises(ValueError, match=r"task=mine .*toys:Reach: choose .*toys:Dying"):
        add_choice("task", "mine", replace(toys.DYING, name="mine"))


def test_a_sampler_is_added_for_every_command():
    add_choice("policy/sampler", "mine", PlainConfig)
    assert CHOICES["sampler"]["mine"] is PlainConfig
    add_choice("sampler", "mine", PlainConfig)


def test_a_sampler_without_steps_or_defaults_is_named_in_a_table():
    @dataclass(kw_only=True)
    class NeedyConfig(PlainConfig):
        path: str

    add_choice("sampler", "needy", NeedyConfig)
    chosen = {"choice": "needy", "size": 4, "path": "x"}
    assert comparison.sampler({"schedule": {"choice": "cosine"}, "sampler": chosen}) == "needy, size 4, path x"


def composed(*overrides):
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    register()
    with initialize_config_module("recede.configs", version_base="1.3"):
        return OmegaConf.to_object(compose("train", [*overrides, "dataset=d", "out=o"]))


def test_the_defaults_of_a_policy_are_those_of_its_class():
    module = importlib.import_module("my_parts")
    policy = composed("policy=small").policy
    assert policy == module.SmallConfig()
    assert type(policy) is module.SmallConfig
    assert type(policy.network) is module.MLPConfig
    assert policy.sampler == module.EulerConfig(num_steps=4)
    assert composed("policy=small", "policy/sampler=ddim").policy.sampler == DDIMConfig()
    assert composed("policy=small", "policy/sampler=euler").policy.sampler == module.EulerConfig()
    assert composed("policy=small", "policy.sampler.num_steps=7").policy.sampler == module.EulerConfig(num_steps=7)
    assert composed("policy=diffusion", "policy/network=mlp").policy.network == module.MLPConfig()
    assert policy_config(json.loads(json.dumps(describe(policy)))) == policy


def test_a_slot_without_a_default_must_be_chosen(recede):
    add_choice("policy", "requiring", RequiringConfig)
    assert type(composed("policy=requiring", "policy/network=dit").policy.network) is networks.DiTConfig
    result = recede("train", "policy=requiring", "dataset=d", "out=o")
    assert result.status == 2
    assert "policy/network" in result.line


def test_a_default_that_is_in_no_table_is_refused(recede):
    add_choice("policy", "orphan", OrphanConfig)
    line = recede("train", "policy=orphan", "dataset=d", "out=o").line
    assert re.search(r"orphan.* policy/network .*OtherConfig\(size=3\).*add_choice", line)


def test_an_unknown_choice_is_an_error_of_its_own():
    with pytest.raises(UnknownChoice, match=r"policy/network .*'unet1d'.*'mlp': add imports="):
        policy_config({"choice": "diffusion", "network": {"choice": "mlp", "size": 64}})
