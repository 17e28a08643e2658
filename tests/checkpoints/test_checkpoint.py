"""Checkpoints survive a round trip, and damage is an error that names the file."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.checkpoints.folder import FORMAT, read_manifest, write_checkpoint
from recede.checkpoints.opening import load_policy
from recede.checkpoints.runs import checkpoint_steps, read_metrics, resolve_checkpoint
from recede.configs.choices import CHOICES
from recede.configs.notation import policy_config
from recede.files import DIGEST, read_tensors, with_digest, write_json_with_digest, write_tensors
from recede.policy.normalizer import Normalizer
from recede.specification import Horizons, Specification, Stream

SPECIFICATION = Specification(
    (Stream("joints", (3,), units="rad", low=-3, high=3), Stream("cup", (2,), units="m")),
    Stream("action", (3,), units="rad"),
    control_dt=0.05,
)
HORIZONS = Horizons(observation=2, prediction=8, action=4)
SMALL = {"choice": "unet1d", "channels": [8, 16], "kernel_size": 3, "groups": 4, "time_size": 8}
REMOVED = object()


def build(choice="diffusion"):
    ranges = {s.name: (np.full(s.shape, -1.5), np.linspace(1, 2, s.size)) for s in SPECIFICATION.streams}
    torch.manual_seed(0)
    config = policy_config({"choice": choice, "network": SMALL})
    return config.build(SPECIFICATION, HORIZONS, Normalizer(SPECIFICATION, ranges)).eval()


def save(folder, choice="diffusion", **changes):
    manifest = {
        "specification": SPECIFICATION,
        "horizons": HORIZONS,
        "policy": {"choice": choice, "network": SMALL},
        "task": None,
        "step": 7,
        "seed": 0,
    } | changes
    folder.mkdir(parents=True)
    write_checkpoint(folder, build(choice).state_dict(), **manifest)
    return folder


def edit(folder, **changes):
    """Change entries of policy.json, or remove them."""
    path = folder / "policy.json"
    content = json.loads(path.read_text()) | changes
    write_json_with_digest(path, {key: value for key, value in content.items() if value is not REMOVED})


@pytest.mark.parametrize("choice", sorted(CHOICES["policy"]))
def test_a_policy_predicts_the_same_after_a_round_trip(tmp_path, choice):
    policy = build(choice)
    loaded, manifest = load_policy(save(tmp_path / "checkpoint", choice))
    generator = torch.Generator().manual_seed(1)
    observation = {
        stream.name: torch.randn(5, HORIZONS.observation, *stream.shape, generator=generator)
        for stream in SPECIFICATION.observations
    }
    draws, *shape = policy.noise_shape
    noise = torch.randn(draws, 5, *shape, generator=generator)
    assert torch.equal(loaded.predict(observation, noise), policy.predict(observation, noise))
    assert loaded.specification == SPECIFICATION
    assert loaded.horizons == HORIZONS
    assert (manifest["step"], manifest["task"], manifest["path"]) == (7, None, str(tmp_path / "checkpoint"))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


def test_the_manifest_describes_the_policy(tmp_path):
    content = json.loads((save(tmp_path / "checkpoint") / "policy.json").read_text())
    assert content["format"] == FORMAT
    assert content["specification"]["control_dt"] == 0.05
    assert content["specification"]["observations"][0]["units"] == ["rad"] * 3
    assert content["versions"]["torch"] == torch.__version__
    assert content["horizons"] == {"observation": 2, "prediction": 8, "action": 4}


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_flipped_bit_and_every_cut_of_the_weights_is_an_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("tensors") / "weights.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.ones(3, dtype=torch.int64)}
    digest = write_tensors(path, tensors)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, 8 * len(content) - 1))
        content[place // 8] ^= 1 << place % 8
    else:
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights.safetensors is damaged: its SHA-256 is not the one noted beside it"):
        read_tensors(path, digest)


def test_tensors_of_any_layout_survive_a_round_trip(tmp_path):
    tensors = {
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "scalar": torch.tensor(3.5, requires_grad=True),
        "empty": torch.zeros(0, 2),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    read = read_tensors(tmp_path / "t", write_tensors(tmp_path / "t", tensors))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor), name
        assert read[name].dtype == tensor.dtype


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": 1},
            r"policy.json: format must be 3, which this version of recede reads, got 1: load it with the v",
        ),
        ({"format": REMOVED}, "format must be 3, .* got None"),
        ({"horizons": REMOVED}, r"policy.json is damaged: it lacks \['horizons'\]; use another checkpoint"),
        ({"seed": REMOVED}, r"it lacks \['seed'\]; use another checkpoint"),
        ({"weights_sha256": REMOVED, "task": REMOVED}, r"it lacks \['task', 'weights_sha256'\]"),
        ({"horizons": {"observation": 2, "prediction": 4, "action": 8}}, "policy.json is damaged .*prediction horizon"),
        ({"horizons": {"observed": 2}}, "policy.json is damaged"),
        ({"horizons": 3}, "policy.json is damaged"),
        ({"specification": {}}, r"policy.json is damaged \(not a specification: 'observations'\)"),
        ({"specification": []}, "policy.json is damaged"),
        ({"weights_sha256": "0"}, "policy.safetensors is damaged: its SHA-256 is not the one"),
        ({"policy": {"choice": "difusion"}}, "policy.json: .*got 'difusion'"),
        ({"policy": {"choice": "diffusion", "prediction": "w"}}, "policy.json: cannot build .*'w'"),
        (
            {"policy": {"choice": "diffusion", "network": {"choice": "unet1d", "chanels": [8]}}},
            "cannot build .*chanels",
        ),
        ({"policy": {"choice": "diffusion", "network": 3}}, "policy.json: cannot build"),
        ({"policy": "diffusion"}, "policy.json: cannot build"),
        ({"policy": {"choice": "diffusion", "network": SMALL | {"channels": [8]}}}, "checkpoint: the weights must be"),
        ({"policy": {"choice": "regression", "network": SMALL | {"groups": 0}}}, "groups must be above 0"),
    ],
)
def test_an_unusable_manifest_is_an_error(tmp_path, changes, message):
    folder = save(tmp_path / "checkpoint")
    edit(folder, **changes)
    with pytest.raises(ValueError, match=message):
        load_policy(folder)


@pytest.mark.parametrize("content", ["", "{", "[1]", '"format"', "null", "\x00\xff"])
def test_a_manifest_that_is_no_json_object_is_an_error(tmp_path, content):
    folder = save(tmp_path / "checkpoint")
    (folder / "policy.json").write_text(content)
    with pytest.raises(ValueError, match=r"policy.json (is damaged|must hold a JSON object)"):
        load_policy(folder)


def test_a_manifest_that_is_no_text_is_an_error(tmp_path):
    folder = save(tmp_path / "checkpoint")
    (folder / "policy.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=r"policy.json is damaged"):
        load_policy(folder)


def test_missing_files_are_named(tmp_path):
    folder = save(tmp_path / "run/checkpoints/00000007")
    (folder / "policy.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"policy.safetensors is missing: restore it"):
        load_policy(tmp_path / "run")
    (folder / "policy.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"00000007 is neither a run folder nor a checkpoint"):
        load_policy(folder)
    with pytest.raises(FileNotFoundError, match="neither a run folder nor a checkpoint"):
        load_policy(tmp_path / "run")
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="neither a run folder nor a checkpoint"):
        load_policy(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="there is no run or checkpoint folder"):
        load_policy(tmp_path / "walk")


def test_the_last_and_the_best_checkpoint_of_a_run_are_resolved(tmp_path):
    run = tmp_path / "run"
    for step in (7, 20, 100_000_000):
        save(run / "checkpoints" / f"{step:08d}")
    assert checkpoint_steps(run) == [7, 20, 100_000_000]
    assert resolve_checkpoint(run).name == "100000000"
    with pytest.raises(FileNotFoundError, match="train with evaluate_every=N"):
        resolve_checkpoint(run, "best")
    lines = [{"step": 7, "mean_score": 0.5}, {"step": 9, "mean_score": 0.9}]
    lines = [{"episodes": 5} | line for line in lines] + [{"step": 20, "loss": 1.0}]
    (run / "metrics.jsonl").write_text("".join(map(signed, lines)) + '{"step": 20, "mean_sc')
    assert resolve_checkpoint(run, "best").name == "00000007"  # of those that are there
    assert resolve_checkpoint(run / "checkpoints/00000020", "best").name == "00000020"
    (run / "metrics.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl is damaged"):
        resolve_checkpoint(run, "best")


def signed(line):
    """A line of the metrics as a training writes it."""
    return json.dumps(with_digest(line)) + "\n"


def test_a_flipped_bit_of_the_metrics_changes_nothing_or_is_an_error(tmp_path):
    path, lines = tmp_path / "metrics.jsonl", [{"step": step, "loss": 0.5 / step} for step in (1, 2, 3)]
    content, rng = "".join(map(signed, lines)).encode(), np.random.default_rng(0)
    for place in [len(content) - 1, *rng.integers(0, len(content), 300)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert read_metrics(tmp_path) == lines
        except ValueError as error:
            assert "metrics.jsonl is damaged" in str(error)  # noqa: PT017


def test_a_line_of_the_metrics_that_a_killed_training_did_not_finish_is_left_out(tmp_path):
    path, content = tmp_path / "metrics.jsonl", signed({"step": 1}).encode()
    for length in range(len(content)):
        path.write_bytes(content + content[:length])
        assert read_metrics(tmp_path) == [{"step": 1}]


def test_a_flipped_bit_of_a_description_changes_nothing_or_is_an_error(tmp_path):
    folder = save(tmp_path / "checkpoint")
    path, whole = folder / "policy.json", read_manifest(folder)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(0, len(content), 300):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert read_manifest(folder) == whole
        except ValueError as error:
            assert "policy.json" in str(error)  # noqa: PT017


def test_an_altered_number_in_a_description_is_an_error(tmp_path):
    folder = save(tmp_path / "checkpoint")
    path = folder / "policy.json"
    path.write_text(path.read_text().replace('"control_dt": 0.05', '"control_dt": 0.5'))
    with pytest.raises(ValueError, match=r"policy.json is damaged: its SHA-256 .*use another checkpoint"):
        load_policy(folder)
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != DIGEST}))
    with pytest.raises(ValueError, match=r"policy.json is damaged: its SHA-256"):
        load_policy(folder)


def test_json_that_is_nested_too_deeply_is_an_error(tmp_path):
    folder = save(tmp_path / "checkpoint")
    (folder / "policy.json").write_text('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}")
    with pytest.raises(ValueError, match=r"policy.json is damaged"):
        load_policy(folder)


def test_stray_names_beside_checkpoints_do_not_count(tmp_path):
    run = tmp_path / "run"
    folder = save(run / "checkpoints/00000007")
    for name in ("00000060.bak", "0abc", "70", "000000080", "00000\u0669"):
        shutil.copytree(folder, folder.parent / name)
    (folder.parent / "00000070").mkdir()
    (folder.parent / "00000090").touch()
    assert checkpoint_steps(run) == [7]
    assert resolve_checkpoint(run) == folder


@pytest.mark.parametrize("name", ["policy.safetensors", "policy.json"])
def test_a_checkpoint_that_is_deleted_while_it_is_read_is_looked_for_again(tmp_path, monkeypatch, name):
    run = tmp_path / "run"
    older, newer = (run / "checkpoints" / step for step in ("00000007", "00000008"))
    save(older)
    is_file = Path.is_file

    def deleting(path):
        if path == older / name and not newer.exists():
            save(newer, step=8)
            shutil.rmtree(older)
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", deleting)
    assert load_policy(run)[1]["step"] == 8


@pytest.mark.parametrize("content", [b"", b"x" * 100, (2**60).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"[]"])
def test_weights_that_are_no_safetensors_are_an_error(tmp_path, content):
    path = tmp_path / "policy.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"policy.safetensors cannot be read .*use another checkpoint"):
        read_tensors(path, hashlib.sha256(content).hexdigest())


def test_a_policy_that_is_too_large_for_memory_is_an_error(tmp_path):
    folder = save(tmp_path / "checkpoint")
    edit(folder, policy={"choice": "diffusion", "network": SMALL | {"channels": [2**40, 2**40]}})
    with pytest.raises(ValueError, match=r"policy.json: cannot build"):
        load_policy(folder)


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        "3",
        '{"loss": 1.0}',
        '{"step": true}',
        '{"step": 1.5}',
        '{"step": "7"}',
        '{"step": -7}',
        '{"step": 7, "lors": 1.0}',
        '{"step": 7, "loss": NaN}',
        '{"step": 7, "mean_score": 1.5, "episodes": 5}',
        '{"step": 7, "mean_score": 0.5}',
        '{"step": 7, "update_s": 0.5}',
        '{"step": 7, "episodes": 5}',
        "\xff",
    ],
)
def test_a_damaged_line_of_the_metrics_is_named(tmp_path, line):
    if line.startswith("{") and "NaN" not in line:
        line = signed(json.loads(line)).strip()
    first, last = signed({"step": 1, "loss": 2.0}).encode(), signed({"step": 9}).encode()
    (tmp_path / "metrics.jsonl").write_bytes(first + line.encode("latin-1") + b"\n" + last)
    with pytest.raises(ValueError, match=r"line 2 of .*metrics.jsonl is damaged.*restore the file from a copy"):
        read_metrics(tmp_path)
