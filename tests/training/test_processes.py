"""Several processes, or several passes of one, learn what one process learns from the whole batch."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from recede.checkpoints.runs import checkpoint_of_step, checkpoint_steps, read_metrics
from recede.configs.augmentation import AugmentationConfig
from recede.configs.components.denoising import DDIMConfig, RectifiedFlowConfig
from recede.configs.components.encoders import ResNetEncoderConfig
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig
from recede.configs.training import TrainConfig
from recede.datasets.store import DemonstrationStore
from recede.specification import Specification, Stream
from recede.training.gradients import Gradients
from recede.training.loop import prepare
from recede.training.parts import draw_parts
from recede.training.processes import ALONE, Processes, _check_equal
from safetensors.torch import load_file

SMALL = ["policy.network.channels=[16,32]", "batch_size=32", "log_every=10", "warmup=10", "device=cpu"]


SEEING = DiffusionConfig(
    network=UNet1dConfig(channels=[8, 16], time_size=8), encoder=ResNetEncoderConfig(crop=[12, 12], stages=1, width=16)
)


def prepared(dataset, tmp_path, **options):
    network = UNet1dConfig(channels=[8, 16], time_size=8)
    policy = options.pop("policy", DiffusionConfig(network=network))
    options = {"batch_size": 12, "draws": 2, "device": "cpu"} | options
    return prepare(TrainConfig(dataset=str(dataset), out=str(tmp_path / "run"), policy=policy, **options))


def parts(ready, processes=ALONE, **options):
    for name, value in options.items():
        setattr(ready.config, name, value)
    return draw_parts(ready, ready.policy, torch.arange(12) % 10, 3, torch.Generator(), processes)


def test_the_shares_of_all_processes_are_the_batch(filmed, tmp_path):
    encoder = ResNetEncoderConfig(crop=[12, 12], stages=1, width=16)
    flow = {"schedule": RectifiedFlowConfig(), "sampler": DDIMConfig(num_steps=4), "prediction": "velocity"}
    network = UNet1dConfig(channels=[8, 16], time_size=8)
    policy = DiffusionConfig(network=network, encoder=encoder, coupling="optimal", **flow)
    augmentation = AugmentationConfig(rotation=5, brightness=0.2)
    ready = prepared(filmed, tmp_path, policy=policy, augmentation=augmentation)
    [whole] = parts(ready)
    shares = [part for rank in range(2) for part in parts(ready, Processes(rank, 2), accumulate=3)]
    assert [len(part.is_padding) for part in shares] == [2] * 6
    for name, values in whole.lesson.observation.items():
        assert torch.equal(torch.cat([part.lesson.observation[name] for part in shares]), values), name
    assert torch.equal(torch.cat([part.lesson.action for part in shares]), whole.lesson.action)
    assert torch.equal(torch.cat([part.lesson.noise for part in shares], 1), whole.lesson.noise)
    assert torch.equal(torch.cat([part.lesson.uniform for part in shares], 1), whole.lesson.uniform)
    assert torch.equal(torch.cat([part.is_padding for part in shares]), whole.is_padding)


@pytest.mark.parametrize("is_masked", [False, True])
def test_passes_add_up_to_the_gradient_of_the_batch(reaches, tmp_path, is_masked):
    ready = prepared(reaches, tmp_path, mask_padding=is_masked)
    update = Gradients(ready.policy, clip=1e9, is_masked=is_masked, is_bf16=False)
    indices = torch.cat([torch.arange(6), torch.arange(6) + 50])  # the first ones have padding
    results = []
    for passes in (1, 4):
        ready.config.accumulate = passes
        drawn = draw_parts(ready, ready.policy, indices, 3, torch.Generator())
        assert sum(float(part.weight) for part in drawn) == pytest.approx(1, abs=1e-6)
        loss, norm = update(drawn)
        results.append((loss, norm, [parameter.grad.clone() for parameter in ready.policy.parameters()]))
    (loss, norm, whole), (other_loss, other_norm, added) = results
    torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(other_norm, norm, rtol=1e-5, atol=0)
    for one, other in zip(whole, added, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6 * float(one.abs().max() + 1))


@pytest.mark.parametrize(
    ("size", "passes", "words"),
    [(33, 1, "batch_size=32 or 34"), (12, 4, "batch_size=8 or 16"), (1, 1, "batch_size=2")],
)
def test_a_batch_that_cannot_be_divided_is_refused(size, passes, words):
    with pytest.raises(ValueError, match=words):
        Processes(1, 2).shares(size, passes)


def test_a_batch_that_cannot_be_divided_is_refused_before_anything_is_written(recede, reaches, tmp_path):
    out = tmp_path / "run"
    line = recede("train", f"dataset={reaches}", f"out={out}", "steps=1", "accumulate=5", *SMALL).line
    assert "give batch_size=30 or 35" in line
    assert not out.exists()


def test_a_batch_that_cannot_be_divided_is_refused_before_images_are_decoded(recede, filmed, tmp_path, monkeypatch):
    monkeypatch.setenv("RECEDE_CACHE", str(tmp_path / "cache"))
    options = [f"dataset={filmed}", f"out={tmp_path / 'run'}", "steps=1", "batch_size=6", "device=cpu"]
    options += ["policy/encoder=resnet", "policy.encoder.width=16", "policy.encoder.stages=1", "horizons.action=2"]
    assert "give batch_size=4 or 8" in recede("train", *options, "image_cache=mapped", "accumulate=4").line
    assert not (tmp_path / "cache").exists()
    ready = prepare(
        TrainConfig(dataset=str(filmed), out=str(tmp_path), image_cache="mapped", device="cpu", policy=SEEING)
    )
    assert len(ready.windows)
    assert list((tmp_path / "cache").rglob("scene.npy"))


def test_a_run_goes_on_with_the_batch_that_it_began_with(recede, reaches, tmp_path):
    out = tmp_path / "run"
    assert recede("train", f"dataset={reaches}", f"out={out}", "steps=1", *SMALL).status == 0
    changed = [option for option in SMALL if not option.startswith("batch_size")]
    result = recede("train", f"dataset={reaches}", f"out={out}", "steps=2", "batch_size=64", *changed)
    assert "batch_size was 32 and is 64" in result.line
    assert "repeat its command to resume it" in result.line
    assert checkpoint_steps(out) == [1]


def test_processes_that_start_from_different_things_are_told_apart():
    facts = {"demonstrations: let every machine see the same ones at a.zarr": ["1"], "settings": {"steps": 1}}
    ALONE.check_same(facts)
    with pytest.raises(ValueError, match=r"same demonstrations: let every machine see the same ones at a\.zarr"):
        _check_equal(1, 2, next(iter(facts)))


def start(folder, dataset, *arguments, count=2):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", "-m", "recede", "train"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [*command, f"dataset={dataset}", "out=run", *SMALL, *arguments],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )


def lines(folder):
    return (folder / "log").read_text().replace("\r", "\n")


def weights(run, step):
    content = load_file(checkpoint_of_step(run, step) / "training.safetensors")
    return {name: x for name, x in content.items() if name.startswith("policy.") and x.is_floating_point()}


def assert_same_weights(run, other, step):
    expected = weights(other, step)
    for name, x in weights(run, step).items():
        torch.testing.assert_close(x, expected[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_and_resume_on_another_number(recede, reaches, tmp_path):
    for steps in (20, 50):
        process = start(tmp_path, reaches, f"steps={steps}", "save_every=20")
        assert process.wait(240) == 0, lines(tmp_path)
    assert "trained for 50 steps: run/checkpoints/00000050" in lines(tmp_path)
    other = tmp_path / "other"
    for steps in (20, 50):
        result = recede("train", f"dataset={reaches}", f"out={other}", f"steps={steps}", "save_every=20", *SMALL)
        assert result.status == 0, result.err
    assert_same_weights(tmp_path / "run", other, 50)
    losses = [[line["loss"] for line in read_metrics(run) if "loss" in line] for run in (tmp_path / "run", other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    process = start(tmp_path, reaches, "steps=60", "accumulate=2")
    assert process.wait(240) == 0, lines(tmp_path)
    assert recede("train", f"dataset={reaches}", f"out={other}", "steps=60", *SMALL).status == 0
    assert_same_weights(tmp_path / "run", other, 60)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_ends_ends_the_others_with_the_last_checkpoint_good(recede, reaches, tmp_path, kill):
    run = tmp_path / "run"
    process = start(tmp_path, reaches, "steps=4000", "save_every=5")
    end = time.monotonic() + 200
    while not checkpoint_steps(run):
        assert process.poll() is None, lines(tmp_path)
        assert time.monotonic() < end
        time.sleep(0.1)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[1]) if kill == signal.SIGKILL else process.pid, kill)
    assert process.wait(100) != 0
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    done = checkpoint_steps(run)[-1]
    if kill == signal.SIGTERM:
        assert f"recede train: stopped and saved after step {done} of 4000" in lines(tmp_path)
    result = recede("train", f"dataset={reaches}", f"out={run}", f"steps={done + 2}", *SMALL)
    assert result.status == 0, result.err


def write_random(path, seed):
    """A store of two episodes."""
    specification = Specification((Stream("state", (3,)),), Stream("action", (2,)), control_dt=0.1)
    store, rng = DemonstrationStore.create(path, specification), np.random.default_rng(seed)
    for episode in range(2):
        vectors = {stream.name: rng.random((30, *stream.shape), np.float32) for stream in specification.streams}
        store.append(vectors, seed=episode)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "words"),
    [(None, "process 1 on .*nowhere.zarr"), (1, "process 1 on .*the same demonstrations: let every machine see")],
)
def test_a_machine_that_does_not_see_the_same_demonstrations_ends_all(tmp_path, seed, words):
    places = [tmp_path / "here", tmp_path / "there"]
    for place, number in zip(places, (0, seed), strict=True):
        place.mkdir()
        if number is not None:
            write_random(place / "nowhere.zarr", number)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "recede", "train", "dataset=nowhere.zarr", f"out={tmp_path / 'run'}", "steps=1"]
    processes = [
        subprocess.Popen(
            [*command, *SMALL, "batch_size=4"],
            cwd=place,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": "0"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, place in enumerate(places)
    ]
    errors = [process.communicate(timeout=200)[1] for process in processes]
    assert all(process.returncode for process in processes)
    assert re.search(words, errors[1])
    assert "recede train:" not in errors[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_that_compute_images_again_learn_what_one_learns(recede, filmed, tmp_path):
    options = ["policy/encoder=resnet", "policy.encoder.width=16", "policy.encoder.stages=1", "horizons.action=2"]
    options += ["policy.encoder.crop=[14,12]", "batch_size=8", "steps=3"]
    process = start(tmp_path, filmed, *options, "gradient_checkpointing=true", "accumulate=2")
    assert process.wait(240) == 0, lines(tmp_path)
    small = [option for option in SMALL if not option.startswith("batch_size")]
    assert recede("train", f"dataset={filmed}", f"out={tmp_path / 'other'}", *small, *options).status == 0
    assert_same_weights(tmp_path / "run", tmp_path / "other", 3)


@pytest.mark.slow
def test_an_error_of_any_process_is_printed_once(reaches, tmp_path):
    process = start(tmp_path, reaches, "steps=1", "batch_size=33")
    assert process.wait(200) != 0
    printed = [line for line in lines(tmp_path).splitlines() if line.startswith("recede train: ")]
    assert len(printed) == 1
    assert "a batch of 33 windows cannot be divided evenly among 2 processes" in printed[0]
    assert not (tmp_path / "run").exists()
