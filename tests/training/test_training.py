"""The training loop: its data, its measurements, and its errors."""

import json
import math
import re
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import toys
import zarr
from recede.checkpoints.folder import read_checkpoint, read_manifest
from recede.checkpoints.opening import load_policy
from recede.checkpoints.runs import checkpoint_of_step, checkpoint_steps, read_metrics, resolve_checkpoint
from recede.configs.choices import CHOICES
from recede.configs.components.networks import UNet1dConfig
from recede.configs.components.policies import DiffusionConfig, RegressionConfig
from recede.configs.training import TrainConfig
from recede.datasets.episode_writer import NewEpisode
from recede.datasets.store import DemonstrationStore
from recede.datasets.windows import Windows
from recede.evaluation.evaluate import CHOICE_SEED, evaluate
from recede.files import read_json, read_tensors, write_json_with_digest
from recede.policy.denoising.weighting import uniform
from recede.policy.interface import Lesson
from recede.policy.normalizer import Normalizer
from recede.policy.objective import Denoising
from recede.specification import Horizons
from recede.training.ema import EMA
from recede.training.loop import Order, mix_seeds, prepare, train
from recede.training.measures import Meter, action_error, is_finite
from recede.training.schedule import Stage, learning_rate
from recede.training.state import restore_training, training_state


def configuration(dataset, out, **changes):
    network = UNet1dConfig(channels=[16, 32], time_size=16)
    arguments = {
        "policy": RegressionConfig(network=network),
        "device": "cpu",
        "batch_size": 32,
        "steps": 20,
        "warmup": 2,
    }
    return TrainConfig(dataset=str(dataset), out=str(out), **(arguments | changes))


# --- what a step learns from


@pytest.mark.slow
def test_bf16_keeps_the_weights_in_fp32(reaches, tmp_path):
    weights = {}
    for precision in ("fp32", "bf16"):
        train(configuration(reaches, tmp_path / precision, precision=precision))
        weights[precision] = load_policy(tmp_path / precision)[0].state_dict()
    for name, value in weights["bf16"].items():
        assert value.dtype == weights["fp32"][name].dtype
        torch.testing.assert_close(value, weights["fp32"][name], rtol=0.1, atol=0.02)
    assert any(not torch.equal(value, weights["fp32"][name]) for name, value in weights["bf16"].items())
    with pytest.raises(ValueError, match="precision must be fp32 or bf16, got 'fp16'"):
        configuration(reaches, tmp_path, precision="fp16")


def test_a_mirror_doubles_the_training_windows_and_no_held_out_ones(demonstrations, tmp_path):
    options = {"task": "pick_place", "held_out": 0.4}
    plain, mirrored = (
        prepare(configuration(demonstrations, tmp_path / "run", mirror=mirror, **options)) for mirror in (False, True)
    )
    count = len(plain.windows)
    assert len(mirrored.windows) == 2 * count
    assert len(mirrored.validation) == len(plain.validation) > 0
    first, second = mirrored.windows.batch(torch.arange(count)), mirrored.windows.batch(torch.arange(count, 2 * count))
    assert torch.equal(first.action, plain.windows.batch(torch.arange(count)).action)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])  # x, y, z, yaw, opening
    torch.testing.assert_close(second.action, signs * first.action)
    torch.testing.assert_close(second.observation["gripper"], signs * first.observation["gripper"])
    ranges = mirrored.policy.normalizer.streams["action"]
    torch.testing.assert_close(ranges.centre[[1, 3]], torch.zeros(2))  # the ranges cover the mirror images too


def test_mirror_is_refused_for_a_task_without_one(demonstrations, reaches, tmp_path):
    for dataset, task in ((reaches, "toys:REACH"), (demonstrations, None)):
        with pytest.raises(ValueError, match=f"mirror=true needs a task .* got task={task}"):
            prepare(configuration(dataset, tmp_path / "run", mirror=True, task=task))


@pytest.mark.parametrize(("num_windows", "batch_size"), [(10, 10), (10, 3), (7, 1), (5, 64)])
def test_an_epoch_visits_every_window_once(num_windows, batch_size):
    order = Order(num_windows, batch_size, seed=3)
    epochs = []
    for epoch in range(3):
        steps = range(epoch * order.num_batches, (epoch + 1) * order.num_batches)
        epochs.append(torch.cat([order.indices(step) for step in steps]).tolist())
        assert len(epochs[-1]) == num_windows - num_windows % min(batch_size, num_windows)
        assert len(set(epochs[-1])) == len(epochs[-1])
        assert set(epochs[-1]) <= set(range(num_windows))
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_is_a_function_of_the_step():
    order = Order(50, 8, seed=1)
    expected = [order.indices(step).tolist() for step in range(20)]
    for step in (19, 3, 11, 0):
        assert Order(50, 8, seed=1).indices(step).tolist() == order.indices(step).tolist() == expected[step]
    assert Order(50, 8, seed=2).indices(0).tolist() != expected[0]


def test_seeds_are_well_mixed():
    seeds = {mix_seeds(seed, purpose, step) for seed in range(5) for purpose in range(2) for step in range(20)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_on_a_cpu_use_half_of_a_seed():
    """`mix_seeds` and `noise_generator` rely on this."""

    def first(seed):
        return torch.randn(4, generator=torch.Generator().manual_seed(seed)).tolist()

    assert first(5) == first(5 + 2**32) == first(5 + 2**62)
    assert first(5) != first(5 + 2**31)


def rates(config, *stages):
    """The learning rates of all steps of a training of these stages: the step that each begins at, and all steps."""
    listed = [Stage(start, steps, 1) for start, steps in stages]
    return [learning_rate(step, config, listed) for step in range(stages[-1][0], stages[-1][1])]


def test_the_learning_rate_rises_then_falls_along_a_cosine(tmp_path):
    config = configuration("data", tmp_path, steps=110, warmup=10, learning_rate=2.0)
    rate = rates(config, (0, 110))
    assert [rate[step] for step in (0, 4, 9, 10)] == [0.2, 1.0, 2.0, 2.0]
    assert rate[60] == pytest.approx(1.0)
    assert rate[35] == pytest.approx(1 + math.cos(math.pi / 4))
    assert 0 < rate[109] < 1e-3
    assert rate[10:] == sorted(rate[10:], reverse=True)
    assert rates(configuration("data", tmp_path, warmup=0, learning_rate=2.0), (0, 20))[0] == 2.0


def test_the_learning_rate_of_a_continued_training_rises_from_where_it_was(tmp_path):
    config = configuration("data", tmp_path, warmup=10, learning_rate=2.0)
    assert rates(config, (0, 110), (110, 220)) == rates(config, (0, 110))  # it was 0, and the cosine is as long
    rate = rates(config, (0, 110), (60, 270))  # it was 1
    assert rate[:10] == pytest.approx([1 + (done + 1) / 10 for done in range(10)])
    assert rate[10:] == pytest.approx([1 + math.cos(math.pi * done / 200) for done in range(200)])
    again = rates(config, (0, 110), (60, 270), (170, 300))  # it was 1 again
    assert again[:2] == pytest.approx([1.1, 1.2])
    short = rates(configuration("data", tmp_path, warmup=20, learning_rate=2.0), (0, 10), (10, 40))
    assert short[0] == pytest.approx(1.1 + 0.9 / 20)  # the first warm-up had come half way


def test_added_episodes_alone_do_not_change_the_learning_rate(tmp_path):
    config = configuration("data", tmp_path, warmup=10)
    stages = [Stage(0, 110, 4), Stage(30, 110, 5)]
    assert [learning_rate(step, config, stages) for step in range(110)] == rates(config, (0, 110))


def test_ranges_come_from_the_training_episodes_only(tmp_path, reaches):
    config = configuration(reaches, tmp_path / "run", held_out=0.5)
    prepared = prepare(config)
    held_out = prepared.manifest["held_out_episodes"]
    assert len(held_out) == 10
    store = DemonstrationStore.open(reaches)
    positions = np.concatenate([store.episode(index)["position"] for index in range(20) if index not in held_out])
    affine = prepared.policy.normalizer.streams["position"]
    np.testing.assert_allclose(affine.centre, (positions.min(0) + positions.max(0)) / 2, atol=1e-6)
    np.testing.assert_allclose(affine.half_range, np.ptp(positions, axis=0) / 2, atol=1e-6)
    assert len(prepared.windows) + len(prepared.validation) == len(Windows(store, Horizons()))
    assert not (tmp_path / "run").exists()


def test_seeds_differ_in_everything_but_the_episodes(tmp_path, reaches):
    first, second, other = (
        prepare(configuration(reaches, tmp_path / "run", held_out=0.2, **seeds))
        for seeds in ({"seed": 0}, {"seed": 1}, {"seed": 0, "split_seed": 1})
    )
    assert first.manifest["held_out_episodes"] == second.manifest["held_out_episodes"]
    assert first.manifest["held_out_episodes"] != other.manifest["held_out_episodes"]
    ranges = [prepared.policy.normalizer.state_dict() for prepared in (first, second)]
    assert all(torch.equal(ranges[0][name], ranges[1][name]) for name in ranges[0])
    weight = "network.head.1.weight"
    assert not torch.equal(first.policy.state_dict()[weight], second.policy.state_dict()[weight])


def test_the_configured_normalizer_is_saved_in_the_checkpoint(tmp_path, reaches, recede, small):
    """It needs no dataset, and holds the standard deviation of the normalised actions."""
    out = tmp_path / "run"
    options = [
        "normalisation.position.kind=quantiles",
        "normalisation.position.tail=0.1",
        "normalisation.target.floor=9",
    ]
    result = recede("train", f"dataset={reaches}", f"out={out}", "steps=2", *small, *options)
    assert result.status == 0, result.err
    assert [line.split(" moves")[0] for line in result.out.splitlines() if line.startswith("still: ")] == [
        "still: target.x",
        "still: target.y",
    ]
    normalizer, manifest = (
        load_policy(out)[0].normalizer,
        json.loads((resolve_checkpoint(out) / "policy.json").read_text()),
    )
    store = DemonstrationStore.open(reaches)
    chosen = [store.episode(index) for index in range(20) if index not in manifest["held_out_episodes"]]
    position, action = (np.concatenate([episode[name] for episode in chosen]) for name in ("position", "action"))
    low, high = np.quantile(position.astype(float), [0.1, 0.9], axis=0)
    np.testing.assert_allclose(normalizer.streams["position"].centre, (low + high) / 2, atol=1e-6)
    np.testing.assert_allclose(normalizer.streams["position"].half_range, (high - low) / 2, atol=1e-6)
    assert normalizer.streams["target"].half_range.tolist() == [0, 0]
    np.testing.assert_allclose(normalizer.action_std, 2 * action.std(0) / np.ptp(action, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("normalisation.postion.floor=0", "normalisation must name a stream of numbers, got 'postion': did you mean"),
        ("normalisation.position.flor=0", "normalisation.position has no option 'flor': did you mean 'floor'?"),
        ("normalisation.position.kind=rang", "normalisation.position: kind must be one of .*: did you mean 'range'"),
        ("normalisation.position=range", "normalisation.position must have options, got 'range': give"),
        ("normalisation.action.floor=1e9", "the action must move in at least one dimension, but action.x moves by"),
        ("split_seed=-1", "split_seed must be at least 0, got -1"),
    ],
)
def test_an_impossible_normalisation_is_refused_before_anything_is_written(
    tmp_path, reaches, recede, small, option, message
):
    line = recede("train", f"dataset={reaches}", f"out={tmp_path / 'run'}", *small, option).line
    assert re.search(message, line), line
    assert list(tmp_path.iterdir()) == []


def test_padding_counts_unless_it_is_masked(tmp_path, reaches):
    losses = {}
    for mask_padding in (False, True):
        config = configuration(reaches, tmp_path / str(mask_padding), mask_padding=mask_padding, steps=1)
        train(config)
        windows, policy = prepare(config).windows, prepare(config).policy
        batch = windows.batch(Order(len(windows), config.batch_size, config.seed).indices(0))
        error = policy.loss(
            Lesson(
                batch.observation,
                batch.action,
                torch.zeros(1, *batch.action.shape),
                torch.zeros(1, len(batch.action), 1),
            )
        )[0]
        counted = [e for row, is_padding in zip(error, batch.is_padding, strict=True) for e in row[~is_padding]]
        expected = torch.stack(counted).mean() if mask_padding else error.mean()
        losses[mask_padding] = read_metrics(tmp_path / str(mask_padding))[0]["loss"]
        assert losses[mask_padding] == pytest.approx(expected.item(), rel=1e-5)
    assert abs(losses[True] - losses[False]) > 1e-3


# --- a teacher


@dataclass(frozen=True)
class Taught(Denoising):
    """Learns the chunks that its teacher predicts, and records every lesson."""

    has_teacher: bool = True
    lessons: list[Lesson] = field(default_factory=list)

    def loss(self, policy, x_0, conditioning, lesson):
        self.lessons.append(lesson)
        chunk = lesson.teacher.predict(lesson.observation, lesson.noise[:0])  # regression draws nothing
        return super().loss(policy, policy.space.encode(chunk), conditioning, lesson)


OBJECTIVE = Taught(uniform)


@dataclass(kw_only=True)
class TaughtConfig:
    """The configuration of `OBJECTIVE`."""

    def build(self, weighting):
        return OBJECTIVE


def test_an_objective_learns_from_a_teacher_and_an_average(reaches, tmp_path, monkeypatch):
    monkeypatch.setitem(CHOICES["policy/objective"], "taught", TaughtConfig)
    network = UNet1dConfig(channels=[16, 32], time_size=16)
    train(configuration(reaches, tmp_path / "teacher", steps=2))
    before = DiffusionConfig(network=network, objective=TaughtConfig())
    student = configuration(reaches, tmp_path / "student", policy=before, teacher=str(tmp_path / "teacher"), steps=3)
    checkpoint_folder = train(student)
    teacher, manifest = load_policy(tmp_path / "teacher")
    for name, value in OBJECTIVE.lessons[0].teacher.state_dict().items():
        assert torch.equal(value, teacher.state_dict()[name])
    *lessons, _ = OBJECTIVE.lessons  # the operations of the last one were counted
    assert [lesson.progress.item() for lesson in lessons] == pytest.approx([0, 1 / 3, 2 / 3])
    assert all(lesson.average is OBJECTIVE.lessons[0].average for lesson in OBJECTIVE.lessons)
    assert not any(name.startswith("teacher") for name in load_policy(checkpoint_folder)[0].state_dict())
    recipe = read_manifest(checkpoint_folder)["training"]
    assert recipe["teacher"] == manifest["weights_sha256"][:12]


@pytest.mark.parametrize(("needs", "message"), [(True, "needs a teacher: give teacher=RUN"), (False, "has no use for")])
def test_a_teacher_must_be_given_exactly_if_the_objective_needs_one(reaches, tmp_path, monkeypatch, needs, message):
    monkeypatch.setitem(CHOICES["policy/objective"], "taught", TaughtConfig)
    network = UNet1dConfig(channels=[16, 32], time_size=16)
    policy = DiffusionConfig(network=network, **({"objective": TaughtConfig()} if needs else {}))
    config = configuration(reaches, tmp_path / "run", policy=policy, teacher=None if needs else "runs/x")
    with pytest.raises(ValueError, match=message):
        train(config)
    assert not (tmp_path / "run").exists()


# --- what comes out of it


def test_a_policy_learns(trained, reaches):
    entries = read_metrics(trained)
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    errors = [entry["action_error"] for entry in entries if "action_error" in entry]
    assert losses[-1] < 0.4 * losses[0]
    assert 0 < errors[-1] < 0.5
    assert [entry["step"] for entry in entries if "loss" in entry] == list(range(25, 201, 25))
    assert all(entry["data_s"] > 0 and entry["update_s"] > 0 for entry in entries if "loss" in entry)
    assert all(entry["gradient_norm"] > 0 for entry in entries if "loss" in entry)
    assert checkpoint_steps(trained) == [200]
    manifest = json.loads((resolve_checkpoint(trained) / "policy.json").read_text())
    assert manifest["task"] == "toys:REACH"
    assert manifest["dataset"] == str(reaches)


def test_a_checkpoint_holds_the_averaged_policy(tmp_path, reaches):
    """With a decay of almost 1 after the first update, the average keeps the weights that this update copied."""
    config = configuration(reaches, tmp_path / "run", ema_power=10.0, ema_maximum=1 - 1e-7, steps=6)
    train(config)
    train(configuration(reaches, tmp_path / "one", steps=6, save_every=1))
    averaged, _ = load_policy(tmp_path / "run")
    last, _ = load_policy(tmp_path / "one")
    state = read_tensors(
        checkpoint_of_step(tmp_path / "run", 6) / "training.safetensors",
        json.loads((checkpoint_of_step(tmp_path / "run", 6) / "training.json").read_text())["training_sha256"],
    )
    weight = "network.head.1.weight"
    moved = (state[f"policy.{weight}"] - averaged.state_dict()[weight]).abs().max()
    assert moved > 1e-4  # the weights have gone on, the average has not
    assert not torch.equal(averaged.state_dict()[weight], last.state_dict()[weight])


def test_draws_share_one_encoding(tmp_path, reaches, recede, small):
    every = [f"dataset={reaches}", "steps=4", "log_every=1", *small]
    for draws in (1, 3):
        assert recede("train", *every, f"out={tmp_path / str(draws)}", f"draws={draws}").status == 0
    one, three = (read_metrics(tmp_path / str(draws))[0] for draws in (1, 3))
    assert one["loss"] != three["loss"]
    assert one["loss"] == pytest.approx(three["loss"], rel=0.3)


def test_a_network_and_an_average_are_restored_exactly(tmp_path, reaches):
    config = configuration(reaches, tmp_path / "run")
    train(config)
    folder = resolve_checkpoint(tmp_path / "run")
    policy = prepare(config).policy
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    ema, meter = EMA(policy, power=0.75, maximum=0.9999), Meter(torch.device("cpu"))
    restore_training(folder, policy, ema, optimizer, meter)
    digest = json.loads((folder / "training.json").read_text())["training_sha256"]
    saved = read_tensors(folder / "training.safetensors", digest)
    again = training_state(policy, optimizer, meter)
    assert saved.keys() == again.keys()
    assert all(torch.equal(saved[name], again[name]) for name in saved)
    weights = read_checkpoint(folder)[1]
    assert all(torch.equal(weights[name], tensor) for name, tensor in ema.module.state_dict().items())


def test_another_number_of_threads_warns(tmp_path, reaches):
    config = configuration(reaches, tmp_path / "run")
    train(config)
    policy = prepare(config).policy
    path = resolve_checkpoint(tmp_path / "run") / "training.json"
    write_json_with_digest(path, json.loads(path.read_text()) | {"threads": 7})
    rest = (
        EMA(policy, power=0.75, maximum=0.9999),
        torch.optim.AdamW(policy.parameters(), fused=True),
        Meter(torch.device("cpu")),
    )
    with pytest.warns(UserWarning, match=r"7 threads .*OMP_NUM_THREADS=7"):
        restore_training(path.parent, policy, *rest)


@pytest.mark.slow
def test_the_best_policy_is_kept_beside_the_last(tmp_path, reaches, recede, small):
    out = tmp_path / "run"
    every = ["evaluate_every=10", "evaluate_episodes=4", "learning_rate=2e-3", "warmup=5", "save_every=5", "steps=40"]
    result = recede("train", "task=toys:REACH", f"dataset={reaches}", f"out={out}", *small, *every)
    assert result.status == 0, result.err
    scores = {entry["step"]: entry["mean_score"] for entry in read_metrics(out) if "mean_score" in entry}
    assert sorted(scores) == [10, 20, 30, 40]
    best = max(scores, key=scores.__getitem__)
    assert set(checkpoint_steps(out)) == {best, 40}
    assert resolve_checkpoint(out, "best") == checkpoint_of_step(out, best)
    policy, _ = load_policy(out, which="best")
    result = evaluate(policy, toys.REACH, episodes=4, first_seed=CHOICE_SEED, progress=False)
    assert result.mean_score == scores[best]

    command = ["evaluate", out, "checkpoint=best", "task=toys:REACH", "videos=0", f"out={tmp_path / 'best'}"]
    for seeds in (["first_seed=50000", "episodes=1"], ["first_seed=50003"], ["first_seed=49998", "episodes=3"]):
        refused = recede(*command, *seeds)
        assert refused.status == 2
        assert "50000 to 50003" in refused.line
        assert "leave first_seed out" in refused.line
    for seeds in (["first_seed=50004", "episodes=1"], ["first_seed=49998", "episodes=2"], ["episodes=1"]):
        measured = recede(*command, *seeds)
        assert "50000 to 50003" in measured.out
    written = read_json(tmp_path / "best" / "evaluation.json")
    chosen_on = {"first_seed": 50_000, "episodes": 4, "checkpoints": len(scores), "mean_score": scores[best]}
    assert written["chosen_on"].items() >= chosen_on.items()
    assert f"best of {len(scores)} checkpoints" in measured.out
    assert f"score {scores[best]:.3f} there, too high by the choice" in measured.out
    assert "other episodes (50000–50003)" in ((tmp_path / "best" / "report.html").read_text())
    command[2] = "checkpoint=last"
    assert recede(*command, "first_seed=50000", "episodes=1").status == 0
    assert read_json(tmp_path / "best" / "evaluation.json")["chosen_on"] is None


def test_init_from_starts_with_the_weights_of_another_run(tmp_path, trained, reaches, recede, small):
    """The first loss is about the last loss of the other run, although the normalizer is new."""
    options = [f"dataset={reaches}", "steps=1", "log_every=1", "draws=64", *small]
    for name, more in (("fresh", []), ("from run", [f"init_from={trained}"])):
        result = recede("train", *options, f"out={tmp_path / name}", *more)
        assert result.status == 0, result.err
    fresh, started = (read_metrics(tmp_path / name)[0]["loss"] for name in ("fresh", "from run"))
    assert started < 0.5 * fresh


def test_init_from_keeps_its_own_normalizer(tmp_path, trained, reaches):
    store = DemonstrationStore.open(reaches)
    copied = DemonstrationStore.create(tmp_path / "half.zarr", store.specification)
    halves = [{name: values / 2 for name, values in store.episode(index).items()} for index in range(len(store))]
    copied.append_many([NewEpisode(episode) for episode in halves])
    from recede.configs.components.policies import DiffusionConfig

    network = UNet1dConfig(channels=[16, 32], time_size=16)
    config = configuration(
        tmp_path / "half.zarr", tmp_path / "run", policy=DiffusionConfig(network=network), init_from=str(trained)
    )
    policy, initial = prepare(config).policy, load_policy(trained)[0]
    assert torch.equal(policy.network.head[1].weight, initial.network.head[1].weight)
    own_range, initial_range = (loaded.normalizer.streams["action"].half_range for loaded in (policy, initial))
    torch.testing.assert_close(2 * own_range, initial_range)


@pytest.mark.parametrize("more", [["policy.network.channels=[16]"], ["policy.network.channels=[8,16]"]])
def test_init_from_another_network_is_refused(tmp_path, trained, reaches, recede, small, more):
    line = recede("train", f"dataset={reaches}", f"out={tmp_path / 'r'}", *small, *more, f"init_from={trained}").line
    assert f"init_from={trained} must hold the weights of the same policy" in line
    assert "use the configuration it was trained with" in line
    assert "[16, 32]" in line
    assert list(tmp_path.iterdir()) == []


# --- what goes wrong


def with_rows(source, path, **rows):
    """A copy of a store with some rows changed by a writer that checks nothing: name=(step, value)."""
    store = DemonstrationStore.open(source)
    copied = DemonstrationStore.create(path, store.specification)
    copied.append_many([NewEpisode(store.episode(index)) for index in range(len(store))])
    for name, (step, value) in rows.items():
        zarr.open_group(path, mode="r+")[f"data/{name}"][step] = value
    return path


def test_training_that_diverges_keeps_the_last_good_checkpoint(tmp_path, reaches, recede, small):
    """The learning rate rises without bound, so training diverges after some steps."""
    out = tmp_path / "run"
    more = ["learning_rate=1e30", "warmup=1000000000", "steps=2000", "save_every=1", "log_every=1", "gradient_clip=1e9"]
    result = recede("train", f"dataset={reaches}", f"out={out}", *small, *more)
    assert result.status == 2
    last = result.err.splitlines()[-1]
    assert "the loss, a gradient or a weight was not finite at step" in last
    assert "lower learning_rate=1e+30" in last
    assert f"the last good checkpoint is {resolve_checkpoint(out)}" in last
    policy, _ = load_policy(out)
    assert all(bool(weight.isfinite().all()) for weight in policy.parameters())
    text = (out / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert [entry["step"] for entry in read_metrics(out) if "loss" in entry][-1] == checkpoint_steps(out)[-1]


def test_training_that_diverges_at_once_saves_nothing(tmp_path, reaches, recede, small):
    out = tmp_path / "run"
    result = recede("train", f"dataset={reaches}", f"out={out}", *small, "learning_rate=1e38", "steps=9", "log_every=9")
    assert result.status == 2
    assert "nothing was saved" in result.err.splitlines()[-1]
    assert checkpoint_steps(out) == []


def test_infinite_and_nan_values_are_detected():
    policy, meter = torch.nn.Linear(2, 2), Meter(torch.device("cpu"))
    meter.add(torch.tensor(1.0), torch.tensor(2.0), data_s=(0.0, 0.5))
    meter.add(torch.tensor(3.0), torch.tensor(2.0), data_s=(0.5, 0.75))
    assert is_finite(meter, policy)
    assert meter.drain() == {"loss": 2.0, "gradient_norm": 2.0, "data_s": 0.75}
    meter.add(torch.tensor(1.0), torch.tensor(math.inf))
    assert not is_finite(meter, policy)
    with torch.no_grad():
        policy.bias[1] = math.nan
    assert not is_finite(Meter(torch.device("cpu")), policy)


def test_the_error_of_a_perfect_policy_is_zero(tmp_path, reaches):
    store = DemonstrationStore.open(reaches)
    windows = Windows(store, Horizons())
    ranges = {s.name: (np.full(2, -1.0), np.full(2, 3.0)) for s in store.specification.streams}
    batch = windows.batch(torch.linspace(0, len(windows) - 1, 100).long())

    class Known:
        """Predicts the demonstrated actions, shifted."""

        horizons, noise_shape, shift = Horizons(), (1, 16, 2), 0.0
        normalizer = Normalizer(store.specification, ranges)

        def predict(self, observation, noise):
            assert noise.shape == (1, 100, 16, 2)
            return batch.action + self.shift

    policy = Known()
    assert action_error(policy, windows, seed=0, most=100) == 0
    policy.shift = 0.4  # of a range of 4
    assert action_error(policy, windows, seed=0, most=100) == pytest.approx(0.1, abs=1e-6)


def test_tensorboard_gets_the_same_losses(tmp_path, reaches):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(configuration(reaches, tmp_path / "run", tensorboard=True, log_every=5))
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    entries = [entry for entry in read_metrics(tmp_path / "run") if "loss" in entry]
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    assert logged == [(entry["step"], pytest.approx(entry["loss"])) for entry in entries]


def test_a_missing_tensorboard_leaves_no_folder(tmp_path, reaches, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"tensorboard=true needs TensorBoard: pip install 'recede\[tensorboard\]'"):
        train(configuration(reaches, tmp_path / "run", tensorboard=True))
    assert list(tmp_path.iterdir()) == []


def test_nan_in_the_data_is_named_before_anything_is_written(tmp_path, reaches, recede, small):
    path = with_rows(reaches, tmp_path / "broken.zarr", action=(5, [np.nan, 0]))
    line = recede("train", f"dataset={path}", f"out={tmp_path / 'run'}", *small).line
    assert f"{path}: stream 'action', step 5, dimension action.x: values must be finite, got nan" in line
    assert list(tmp_path.iterdir()) == [path]
