"""`recede export`: a folder that predicts without PyTorch, whole or not at all."""

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import recede as package
import torch
import toys
from damage import alter, fate, spoil
from recede.checkpoints.opening import load_engine, load_policy
from recede.commands.next_lines import print_evaluate_known
from recede.envs.catalogue import TASKS
from recede.evaluation.reports.comparison import find_evaluations, table
from recede.files import write_json_with_digest
from recede.policy.denoising.guidance import Prefix
from recede.policy.engines import choice, export
from recede.policy.engines.eager import EagerEngine

pytestmark = pytest.mark.slow  # all of them wait for two exports

TASK = "task=toys:REACH"


@pytest.fixture(scope="module")
def folders(tmp_path_factory, recede, trained, reaches):
    """Engine -> its exported folder and the output of the command; read only."""
    root = tmp_path_factory.mktemp("exported")
    exported = {}
    for engine, options in {"onnx": [f"dataset={reaches}"], "openvino_fp32": ["sampler=heun"]}.items():
        result = recede("export", trained, f"out={root / engine}", f"engine={engine}", *options)
        assert result.status == 0, result.err
        exported[engine] = root / engine, result.out
    return exported


@pytest.fixture
def damaged(tmp_path, folders):
    """A copy to damage."""
    return Path(shutil.copytree(folders["onnx"][0], tmp_path / "damaged"))


def ask(rows, draws=1, seed=0):
    rng = np.random.default_rng(seed)
    observation = {name: rng.uniform(-0.7, 0.7, (rows, 2, 2)).astype(np.float32) for name in ("position", "target")}
    return observation, rng.standard_normal((draws, rows, 16, 2), dtype=np.float32)


def plan(rows, **options):
    weights = np.tile(np.linspace(1, 0, 16, dtype=np.float32), (rows, 1))
    return Prefix(np.full((rows, 16, 2), 0.3, dtype=np.float32), weights, **options)


# --- the content of the folder


def test_the_folder_describes_itself_and_the_command_reports_the_choice(folders, trained, reaches):
    folder, report = folders["onnx"]
    content = json.loads((folder / "engine.json").read_text())
    _, manifest = load_policy(trained)
    assert {path.name for path in folder.iterdir()} == {"engine.json", "times.npy", "encode.onnx", "denoise.onnx"}
    assert content["specification"]["action"]["units"] == ["m", "m"]
    assert content["specification"]["control_dt"] == 0.1
    assert content["horizons"] == {"observation": 2, "prediction": 16, "action": 8}
    assert content["policy"] == manifest["policy"]
    assert [t for t, *_ in content["levels"]] == [99, 89, 79, 69, 59, 49, 39, 29, 19, 9, -1]
    assert set(content["ranges"]) == {"position", "target", "action"}
    assert {"recede", "torch", "numpy", "onnx"} == set(content["versions"])
    assert set(content["sha256"]) == {"times.npy", "encode.onnx", "denoise.onnx"}
    assert (content["step"], content["seed"]) == (200, 0)
    assert content["training"] == manifest["training"]
    assert content["parity"]["difference"] < content["parity"]["tolerance"] == 1e-3
    assert content["parity"]["observations"] == f"of {reaches}"
    assert report.startswith(f"tried on 16 observations of {reaches}:\n  onnx (fp32): differs from eager by ")
    assert "(tolerance 0.001)" in report
    assert report.endswith(f"{folder}: exported from {trained}\n")  # its task is not one of the table
    assert "drawn from the ranges of the normalizer" in folders["openvino_fp32"][1]


def test_the_next_command_evaluates_a_policy_whose_task_is_of_the_table(folders, recede, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(TASKS, "toys:REACH", toys.REACH)
    print_evaluate_known(str(folders["onnx"][0]), [])
    _, _, *arguments = shlex.split(capsys.readouterr().out)  # next: recede
    result = recede(*arguments, "episodes=1", "videos=0", f"out={tmp_path / 'out'}")
    assert result.status == 0, result.err


@pytest.mark.parametrize("engine", ["onnx", "openvino_fp32"])
def test_an_exported_policy_agrees_with_its_run(folders, trained, engine):
    from recede.configs.components.denoising import HeunConfig

    exported = package.load_engine(folders[engine][0])
    policy, manifest = load_policy(trained, sampler=HeunConfig() if engine == "openvino_fp32" else None)
    assert exported.specification == manifest["specification"]
    assert exported.horizons == manifest["horizons"]
    assert exported.noise_shape == policy.noise_shape
    eager = EagerEngine(policy)
    for rows in (1, 3):
        for guidance in ((), [plan(rows)], [plan(rows, start=0.4, limit=2.0)]):
            arguments = *ask(rows), guidance
            np.testing.assert_allclose(exported.predict(*arguments), eager.predict(*arguments), rtol=0, atol=1e-4)


WITHOUT_TORCH = """
import sys
OTHERS = "torch safetensors onnx onnxscript hydra omegaconf scipy einops diffusers zarr mujoco gymnasium tqdm PIL"
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OTHERS.split():
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
import numpy as np
import recede
from recede.policy.denoising.guidance import Prefix
folder, data, out = sys.argv[1:]
engine = recede.load_engine(folder)
inputs = np.load(data)
prefix = Prefix(inputs["actions"], inputs["weights"])
observation = {name: inputs[name] for name in ("position", "target")}
free, held = (engine.predict(observation, inputs["noise"], guidance) for guidance in ((), [prefix]))
np.savez(out, free=free, held=held)
assert engine.specification.action.units == ("m", "m")
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("engine", ["onnx", "openvino_fp32"])
def test_an_exported_policy_predicts_without_torch(folders, tmp_path, engine):
    (observation, noise), prefix = ask(2), plan(2)
    np.savez(tmp_path / "in.npz", **observation, noise=noise, actions=prefix.actions, weights=prefix.weights)
    files = map(str, (folders[engine][0], tmp_path / "in.npz", tmp_path / "out.npz"))
    done = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_TORCH, *files], env=os.environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    chunks, loaded = np.load(tmp_path / "out.npz"), package.load_engine(folders[engine][0])
    assert np.array_equal(chunks["free"], loaded.predict(observation, noise))
    assert np.array_equal(chunks["held"], loaded.predict(observation, noise, [prefix]))


DISTILLED = ("policy/objective=progressive", "policy.sampler.num_steps=1")


@pytest.mark.parametrize(("draws", "way"), [(0, ["policy=regression"]), (1, DISTILLED)])
def test_policies_of_few_steps_are_exported_too(recede, tmp_path, reaches, small, trained, draws, way):
    options = ["steps=5", "save_every=5", *small, *way, *([f"teacher={trained}"] if draws else [])]
    assert recede("train", TASK, f"dataset={reaches}", f"out={tmp_path / 'run'}", *options).status == 0
    result = recede("export", tmp_path / "run", f"out={tmp_path / 'out'}", "engine=onnx")
    assert result.status == 0, result.err
    exported, eager = package.load_engine(tmp_path / "out"), EagerEngine(load_policy(tmp_path / "run")[0])
    assert exported.noise_shape == (draws, 16, 2)
    for guidance in ((), [plan(3)], [plan(3, start=0.5)]):
        arguments = *ask(3, draws=draws), guidance
        np.testing.assert_allclose(exported.predict(*arguments), eager.predict(*arguments), rtol=0, atol=1e-4)


# --- in an evaluation


def test_an_evaluation_names_its_engine(recede, folders, trained, tmp_path):
    options = [TASK, "episodes=3", "videos=0", "device=cpu"]
    for name, arguments in {
        "eager": [trained],
        "onnx": [trained, "engine=onnx"],
        "folder": [folders["openvino_fp32"][0]],
        "late": [folders["onnx"][0], "execution=rtc", "delay_ms=200"],
    }.items():
        result = recede("evaluate", *arguments, *options, f"out={tmp_path / name}")
        assert result.status == 0, result.err
        assert "engine: onnx" in result.out if name == "onnx" else "engine:" not in result.out
    evaluations = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/evaluation.json")}
    assert {name: evaluation["engine"] for name, evaluation in evaluations.items()} == {
        "eager": "eager",
        "onnx": "onnx",
        "folder": "openvino_fp32",
        "late": "onnx",
    }
    assert evaluations["onnx"]["success"] == evaluations["eager"]["success"]
    np.testing.assert_allclose(evaluations["onnx"]["score"], evaluations["eager"]["score"], atol=1e-2)
    assert evaluations["folder"]["policy"]["sampler"]["choice"] == "heun"
    assert len({evaluation["num_parameters"] for evaluation in evaluations.values()}) == 1
    cells = [
        [cell.strip() for cell in line.split("|")[3:5]] for line in table(find_evaluations(tmp_path)).splitlines()[2:]
    ]
    assert cells == [
        ["ddim-10", "receding"],
        ["ddim-10, onnx", "receding"],
        ["ddim-10, onnx", "rtc"],
        ["heun-5, openvino_fp32", "receding"],
    ]


@pytest.mark.parametrize("change", ["sampler=ddpm", "checkpoint=best", "engine=openvino"])
def test_an_exported_folder_is_evaluated_as_it_is(recede, folders, change, tmp_path):
    line = recede("evaluate", folders["onnx"][0], TASK, change, f"out={tmp_path / 'out'}").line
    assert "is exported with its sampler and for engine=onnx: leave out sampler, checkpoint and engine" in line
    assert not (tmp_path / "out").exists()


def test_exact_guidance_is_refused_in_an_evaluation(recede, trained, tmp_path):
    arguments = [TASK, "engine=onnx", "execution=rtc", "execution.rtc.exact=true", f"out={tmp_path / 'out'}"]
    result = recede("evaluate", trained, *arguments, "episodes=2", "delay_ms=100")
    assert result.status == 2
    assert "exact guidance needs the gradient of the network, which engine=onnx does not have" in result.last
    assert not (tmp_path / "out").exists()


# --- what is refused


def refused(recede, out, *arguments):
    """The line with which an export is refused that leaves nothing."""
    before = sorted(out.parent.rglob("*"))
    line = recede("export", *arguments, f"out={out}").line
    assert sorted(out.parent.rglob("*")) == before
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engine=onx"], "got 'onx': did you mean 'onnx'?"),
        (["engine=eager"], "got 'eager': choose from"),
        (["checkpoint=first"], "checkpoint must be 'last' or 'best', got 'first'"),
        (["sampler=diffusers"], "choose sampler=ddim, or engine=eager"),
        ([TASK], "dataset="),
        (["dataset=nowhere.zarr"], "nowhere.zarr"),
    ],
)
def test_an_impossible_export_is_an_error(recede, trained, tmp_path, arguments, message):
    assert message in refused(recede, tmp_path / "out", trained, *arguments)


def test_demonstrations_must_have_the_specification_of_the_policy(recede, trained, demonstrations, tmp_path):
    line = refused(recede, tmp_path / "out", trained, f"dataset={demonstrations}")
    assert "must be of the policy's specification: " in line


def test_an_existing_folder_is_kept(recede, trained, damaged):
    kept = {path: path.read_bytes() for path in damaged.iterdir()}
    assert "remove it, or export to another folder" in refused(recede, damaged, trained)
    assert {path: path.read_bytes() for path in damaged.iterdir()} == kept


def test_an_engine_that_disagrees_is_not_exported(recede, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(choice.TOLERANCES, "fp32", -1.0)
    line = refused(recede, tmp_path / "out", trained, "engine=onnx")
    assert "onnx (fp32): differs from eager by " in line
    assert "(tolerance -1); excluded, " in line


def test_a_folder_appears_whole_or_not_at_all(recede, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(export.np, "save", Mock(side_effect=OSError(28, "No space left on device")))
    assert "No space left" in refused(recede, tmp_path / "out", trained, "engine=onnx")


# --- damage


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["times.npy", "encode.onnx", "denoise.onnx"])
def test_a_damaged_file_is_named(damaged, name):
    flip(damaged / name)
    with pytest.raises(ValueError, match=rf"{name} is damaged: its SHA-256 is not the one noted in engine.json"):
        package.load_engine(damaged)
    (damaged / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing; export the policy again, or restore"):
        package.load_engine(damaged)


def altered(folder, **changes):
    content = json.loads((folder / "engine.json").read_text())
    content = {name: value for name, value in (content | changes).items() if value is not None}
    write_json_with_digest(folder / "engine.json", content)


def replace_levels(folder):
    content = json.loads((folder / "engine.json").read_text())
    content["levels"][0][0] += 1
    (folder / "engine.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: altered(f, format=0), "format must be 4, which this version of recede reads, got 0"),
        (lambda f: altered(f, levels=None), r"engine.json is damaged: it lacks \['levels'\]"),
        (lambda f: altered(f, engine="tensorrt"), "is damaged: engine must be one of onnx, openvino, openvino_fp32"),
        (lambda f: altered(f, horizons={"observation": 0}), "is damaged .the observation horizon must be at least 1"),
        (lambda f: altered(f, policy={"choice": "other"}), r"is damaged .policy lacks \['encoder', 'network'\]"),
        (lambda f: altered(f, ranges={}), "is damaged .KeyError"),
        (lambda f: altered(f, sha256={"../run/x": "0"}), "is missing; export the policy again"),
        (lambda f: (f / "engine.json").write_text("{"), "engine.json is damaged"),
        (replace_levels, "engine.json is damaged: its SHA-256 .*; export the policy again"),
    ],
)
def test_a_damaged_description_is_an_error(damaged, change, message):
    change(damaged)
    with pytest.raises(ValueError, match=message):
        package.load_engine(damaged)


def test_a_folder_without_an_exported_policy_is_an_error(trained, tmp_path):
    for folder in (trained, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"is no exported policy, it has no engine.json: make one"):
            package.load_engine(folder)


def test_arrays_with_objects_in_them_are_never_loaded(damaged):
    np.save(damaged / "times.npy", np.array([torch.zeros(1)], dtype=object), allow_pickle=True)
    digests = json.loads((damaged / "engine.json").read_text())["sha256"]
    altered(damaged, sha256=digests | {"times.npy": export.digest(damaged / "times.npy")})
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        package.load_engine(damaged)


@pytest.mark.parametrize(("damage", "pick"), [(alter, "engine.json"), (spoil, "*")])
def test_a_damaged_folder_is_read_or_refused_in_one_line(folders, tmp_path, damage, pick):
    path, refusals = tmp_path / "damaged", 0
    for number in range(8):
        rng = random.Random(number)
        shutil.copytree(folders["onnx"][0], path)
        damage(rng.choice(sorted(file for file in path.rglob(pick) if file.is_file())), rng)
        refusals += fate(lambda: load_engine(path), "control") != ""
        shutil.rmtree(path)
    assert refusals
