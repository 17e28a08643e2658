"""Every benchmark runs from end to end, at sizes that say nothing about speed."""

import importlib
import json
import math
import re
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import imageio.v2 as imageio
import pytest
import torch
from recede.benchmarks import advice, gpu, hands, modes, proving, tasks, training, words
from recede.benchmarks.few_steps import POLICIES, Setting
from recede.benchmarks.gpu import PROOFS
from recede.datasets.store import DemonstrationStore
from recede.envs.tasks.pick_place import PICK_PLACE
from recede.envs.tasks.reach import REACH
from recede.evaluation.replay import replay
from recede.policy.encoders.text import TextEncoder
from recede.training.processes import ALONE
from safetensors.torch import save_file
from simulated_gpu import SimulatedGPU

FOLDER = Path(__file__).parents[1] / "benchmarks"

TINY = {
    "advice": {
        "TASKS": {"pick_place": 2},
        "EPISODES": 1,
        "EVALUATION": ("videos=0", "workers=0", "sampler.num_steps=1"),
        "OPTIONS": ("steps=2", "device=cpu", "policy.network.time_size=8"),
    },
    "collecting": {"EPISODES": 4, "TURNS": 2, "ONE_BY_ONE": 2},
    "corrections": {
        "DEMONSTRATIONS": 2,
        "EPISODES": 1,
        "SEEDS": 1,
        "STEPS": 2,
        "TRAINING": (
            *("device=cpu", "batch_size=4", "horizons.action=2", "policy.network.time_size=8"),
            "policy.network.channels=[8,16]",
        ),
        "CONTROL": ("takeover.after=0.2", "takeover.seconds=1", "seconds=3", "safety.stale_ms=5000"),
        "EVALUATION": ("videos=0", "workers=0", "sampler.num_steps=1"),
    },
    "coupling": {"SIZES": (8,), "SECONDS": 0},
    "denoising": {"SIZES": {"tiny": (16, 32)}, "SECONDS": 0},
    "evaluation": {
        "EPISODES": 2,
        "TURNS": 1,
        "ONE_BY_ONE": 1,
        "IMAGE_EPISODES": 1,
        "CHANNELS": (8, 16),
        "ENCODER": {"width": 16, "stages": 1, "keypoints": 4},
        "SECONDS": 0,
    },
    "few_steps": {
        "SEEDS": 2,
        "ENGINES": ("eager",),
        "SETTINGS": {
            "pick_place": Setting(("collect", "task=pick_place", "episodes=4"), dict.fromkeys(POLICIES, 2)),
        },
        "TRAINING": ("device=cpu", "batch_size=4", "policy.network.channels=[8,16]", "policy.network.time_size=8"),
        "EVALUATION": ("videos=0", "workers=0"),
        "SECONDS": 0,
    },
    "gpu": {},
    "guidance": {"SIDE_WIDTHS": (0.02,)},
    "hands": {},
    "inference": {"CHANNELS": (16, 32), "STEPS": 2, "ENGINES": ("eager",), "SECONDS": 0},
    "large": {
        "EPISODES": 6,
        "LENGTH": 12,
        "IMAGE": (96, 96, 3),
        "VECTOR": 8,
        "TRAINING": (
            *("device=cpu", "steps=1", "batch_size=2", "warmup=0", "log_every=1", "policy.network.channels=[8,16]"),
            *("policy.network.time_size=8", "policy/encoder=resnet", "policy.encoder.crop=[48,48]"),
            "validate_every=1",
        ),
    },
    "modes": {"NUM_DEMONSTRATIONS": 12, "NUM_SAMPLES": 2},
    "recording": {"EPISODES": 2, "STEPS": 4},
    "serving": {"ROUNDS": 3},
    "simulation": {"WORLDS": (1, 3), "SECONDS": 0, "PROCESSES": 1},
    "tasks": {"EPISODES": 1},
    "training": {"BATCH_SIZE": 2, "CHANNELS": (8, 16), "TIME_SIZE": 8, "SECONDS": 0, "COUNTS": ()},
    "words": {
        "DEMONSTRATIONS": 4,
        "EPISODES": 1,
        "TRAINING": (
            *("device=cpu", "batch_size=4", "steps=2", "horizons.action=8", "policy.network.time_size=8"),
            "policy.network.channels=[8,16]",
        ),
        "EVALUATION": ("videos=0", "workers=0", "sampler.num_steps=1"),
    },
    "ways": {"SECONDS": 0},
    "windows": {
        "SIZES": {"low-dimensional": (3, 100), "image": (2, 60)},
        "SECONDS": 0,
        "GROWING_SECONDS": 0,
        "FILMED": (1, 20),
        "READS": 2,
    },
}
"""Benchmark -> its constants that a test makes small."""


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a benchmark and returns the rows that it writes: name -> value."""

    def run(name, *arguments):
        module = importlib.import_module(f"recede.benchmarks.{name}")
        assert Path(module.__file__) == FOLDER / f"{name}.py"
        for constant, value in TINY[name].items():
            assert hasattr(module, constant)
            monkeypatch.setattr(module, constant, value)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments), f"json={tmp_path / 'rows.json'}"])
        module.main()
        rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
        values = {row["name"]: row["value"] for row in rows}
        assert len(values) == len(rows)
        assert all(math.isfinite(value) for value in values.values())
        return values

    return run


def test_every_benchmark_is_run_here():
    assert {path.stem for path in FOLDER.glob("*.py")} - {"measure", "proving", "third_party"} == set(TINY)


@pytest.mark.slow
def test_advice(run, monkeypatch, tmp_path):
    monkeypatch.setitem(advice.FIXED, "policy.network.channels", [16, 32])
    monkeypatch.setitem(advice.FIXED, "batch_size", 64)
    rows = run("advice", tmp_path / "folder", "pick_place")
    assert [name.split(", ", 1)[1] for name in rows] == [
        *("expert", "arithmetic of a training", "chosen, updates", "fixed, updates", "chosen", "fixed"),
    ]
    assert rows["pick_place, chosen, updates"] == 2
    assert rows["pick_place, fixed, updates"] > 2


@pytest.mark.slow
def test_corrections(run, tmp_path):
    rows = run("corrections", tmp_path / "folder")
    expected = [
        f"{policy}, {name}"
        for policy in ("first", "round-1", "round-2", "longer-2", "more-2")
        for name in ("success", "score")
    ]
    assert [name for name in rows if "led" not in name] == expected
    assert 0 < rows["round-1, led by the hands"] < 100


def test_coupling(run):
    rows = run("coupling")
    assert len(rows) == 4
    assert 0 < rows["8 chunks of 16 x 2, squared distance"] < 1


def test_denoising(run):
    names = ("whole network at each step", "time and conditioning once", "whole / once")
    assert list(run("denoising")) == [f"tiny, {name}" for name in names]


@pytest.mark.parametrize("is_fast", [True, False])
def test_training(run, monkeypatch, is_fast):
    monkeypatch.setattr(training, "is_bf16_fast", lambda device: is_fast)
    others = "plain loop", "layers of torch", *(["ours in bf16"] if is_fast else [])
    rows = run("training")
    assert [name for name in rows if name.endswith("/ ours")] == [
        f"kernels of {size}, {who} / ours" for size in (5, 3) for who in others
    ]


TINY_RECIPE = {"batch_size": 4, "updates": 2, "episodes": 3, "steps": 100, "channels": (8, 16), "warm_ups": 1}


def test_updates_of_vectors_are_timed(tmp_path):
    recipe = training.Recipe("vectors", **TINY_RECIPE)
    training.write_demonstrations(recipe, tmp_path / "data.zarr")
    for way in ("plain loop", "ours"):
        task, clock = (
            training.Task(way, recipe, str(tmp_path / "data.zarr"), str(tmp_path / "result")),
            training.Clock(),
        )
        (training.train_plain if way == "plain loop" else training.train_ours)(task, clock, ALONE)
        assert len(clock.times) == 3
        assert all(value > 0 for value in clock.outcome(recipe.warm_ups).values())


@pytest.mark.slow
def test_training_in_one_and_two_processes(run, monkeypatch):
    recipes = (training.Recipe("images", width=16, **TINY_RECIPE),)
    for name, value in {"COUNTS": (1, 2), "TURNS": 1, "RECIPES": recipes}.items():
        monkeypatch.setitem(TINY["training"], name, value)
    rows = run("training")
    ratios = [name for name in rows if name.endswith("/ ours") and not name.startswith("kernels")]
    assert ratios == [
        *("images, 1 process, plain loop / ours", "images, 1 process, ours, gradient checkpointing / ours"),
        "images, 2 processes, plain loop / ours",
    ]
    for name in ratios:
        way = name.removesuffix(" / ours")
        assert rows[name] == pytest.approx(rows[way] / rows[re.sub(", (plain|ours).*", ", ours", way)])
        assert rows[f"{way}, memory"] > 0.1


def test_windows(run):
    rows = run("windows")
    assert len([name for name in rows if name.startswith("low-dimensional")]) == 15
    assert len([name for name in rows if name.startswith("image")]) == 20
    assert rows["png, mean change of a pixel"] == 0 < rows["h264, mean change of a pixel"] < 4
    assert rows["h264, an image of 96 x 96"] < rows["jpeg, an image of 96 x 96"] < rows["png, an image of 96 x 96"]


@pytest.mark.slow
def test_large(run, tmp_path):
    rows = run("large", tmp_path)
    assert 0 < rows["memory without a file"] < rows["limit"]
    assert rows["store on disk"] < rows["decoded demonstrations"]


def test_recording(run):
    assert len(run("recording")) == 12


@pytest.mark.slow
@pytest.mark.skipif(hands.browser_path() is None, reason="needs a browser to drive: apt-get install chromium")
@pytest.mark.parametrize("task", [PICK_PLACE, REACH], ids=lambda task: task.name)
def test_hands(task, run, tmp_path):
    pytest.importorskip("playwright", reason="needs the package playwright: pip install playwright")
    store = tmp_path / "hands.zarr"
    rows = run("hands", store, 1, f"task={task.name}")
    assert rows["success"] == 100 / rows["attempts"]
    assert rows["pictures on the page, median"] > 0
    (replayed,) = replay(task, DemonstrationStore.open(store))
    assert replayed.success


@pytest.fixture
def word_table(tmp_path):
    """A package with the files of wordllama: a vector for each token and a tokenizer."""
    tokens = pytest.importorskip("tokenizers", reason="needs the extra 'text'")
    package = tmp_path / "package"
    for name in ("weights", "tokenizers"):
        (package / name).mkdir(parents=True)
    vocabulary = ["<unk>", "put", "the", "orange", "blue", "cube", "onto", "teal", "red", "mark"]
    tokenizer = tokens.Tokenizer(tokens.models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokens.pre_tokenizers.Whitespace()
    tokenizer.save(str(package / "tokenizers" / "tokens.json"))
    table = torch.randn(len(vocabulary), 16, generator=torch.Generator().manual_seed(0))
    save_file({"embedding.weight": table}, package / "weights" / "table.safetensors")
    return package, table, vocabulary


def test_an_encoder_of_single_words_is_the_mean_of_their_vectors(word_table, tmp_path):
    package, table, vocabulary = word_table
    folder = words.make_encoder(tmp_path / "encoder", package)
    rows = table[[vocabulary.index(word) for word in ("put", "the", "cube")]]
    mean = (rows / rows.square().mean(-1, keepdim=True).sqrt()).mean(0)
    torch.testing.assert_close(torch.from_numpy(TextEncoder(folder)("put the cube")), mean / mean.abs().max())


@pytest.mark.slow
def test_words(run, word_table, tmp_path):
    encoder = words.make_encoder(tmp_path / "encoder", word_table[0])
    rows = run("words", tmp_path / "folder", f"text_encoder={encoder}")
    ways = [f"{way}, {what}" for way in words.WAYS for what in ("success", "met another goal")]
    assert [name for name in rows if "cosine" not in name] == ways
    assert rows["cosine, two goals in the same words"] < 1


@pytest.mark.slow
def test_simulation(run):
    rows = run("simulation")
    assert len(rows) == (5 + 1 + 6) + (3 + 1 + 4)
    assert rows["1, environment"] > 0
    assert not any(name.startswith("3, AsyncVectorEnv") for name in rows)
    assert sum(name.endswith("memory") for name in rows) == 5


@pytest.mark.slow
def test_collecting(run):
    rows = run("collecting")
    assert len(rows) == 2 * 5 + 1
    assert all(value > 0 for value in rows.values())


@pytest.mark.slow
def test_evaluation(run):
    rows = run("evaluation")
    assert len(rows) == 3 * 5 + 2 * 3 + 5 + 2 * 5 + 3 + 4 + 5 + 1
    ways = ("the older way", "today", "today, parallel=250", "one by one", "the command")
    assert {name for name, value in rows.items() if value <= 0} == {f"pick_place, {way}, rendering" for way in ways}
    assert rows["pick_place, today / its physics, rendering and prediction"] > 1


def test_serving(run):
    assert len(run("serving")) == 6


@pytest.fixture
def trained(recede, demonstrations, small, tmp_path):
    """The run of a short training in `pick_place`."""
    out = tmp_path / "run"
    assert recede("train", "task=pick_place", f"dataset={demonstrations}", f"out={out}", "steps=2", *small).status == 0
    return out


@pytest.mark.slow
def test_guidance(run, trained):
    rows = run("guidance", trained, "episodes=1")
    assert len(rows) == 3 * 7
    assert rows["clipped to the right: on the left"] == 0
    assert rows["clipped out of the box: steps in the box, of 1,000"] <= rows["as it is: steps in the box, of 1,000"]


@pytest.mark.slow
def test_ways(run, trained, tmp_path):
    rows = run("ways", trained, f"picture={tmp_path / 'ways.png'}", f"distilled={trained}")
    assert rows["ddim, 10 steps, of the first"] == 1
    assert len(rows) == 2 * 6
    assert imageio.imread(tmp_path / "ways.png").ndim == 3


@pytest.mark.slow
def test_modes(run, trained):
    rows = run("modes", trained)
    assert len(rows) == 6
    assert all(0 <= value <= 1 for name, value in rows.items() if "share" in name)


@pytest.mark.slow
def test_few_steps(run, monkeypatch, tmp_path):
    for constant, value in TINY["modes"].items():
        monkeypatch.setattr(modes, constant, value)
    rows = run("few_steps", tmp_path / "folder")
    assert rows["diffusion, 10 steps, beyond the teacher"] == 0
    assert len([name for name in rows if name.endswith("time of a chunk")]) == 9


def test_tasks(run, monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "TASKS", ["reach", "reach_image"])
    try:
        rows = run("tasks", tmp_path)
    except OSError as error:
        pytest.skip(str(error))
    assert rows["reach, success"] == 100
    assert len(rows) == 2
    picture = imageio.imread(tmp_path / "task-reach.png")
    assert picture.shape == (308, 5 * 320 + 4 * 4, 3)
    frames = [picture[:, 324 * index :][:, :320] for index in range(5)]
    assert all((one != other).any() for one, other in pairwise(frames))


@pytest.mark.slow
def test_inference(run):
    rows = run("inference")
    assert rows["U-Net, plain loop / eager (fp32)"] > 0
    assert any(name.startswith("ResNet-18 and U-Net, eager") for name in rows)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU would be hidden by the simulated one")
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # schedulers mix tensors with arrays
def test_the_plain_loop_runs_where_the_engines_do(run):
    with SimulatedGPU() as gpu:
        rows = run("inference")
    assert rows["U-Net, plain loop / eager (fp32)"] > 0
    assert gpu.waits()["benchmarks/inference.py"] > 3 * 20  # streams and noise go up, and the chunk comes down


@pytest.fixture
def run_gpu(monkeypatch, tmp_path, capsys):
    """Runs the proofs of a GPU at tiny sizes; returns the content of their file and what was printed."""

    def run_gpu(*arguments):
        path = tmp_path / "gpu.json"
        monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments, "tiny=true", f"json={path}"])
        gpu.main()
        return json.loads(path.read_text()), capsys.readouterr().out

    return run_gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU would be hidden by the simulated one")
@pytest.mark.slow
def test_the_proofs_of_a_gpu(run_gpu):
    with SimulatedGPU():
        results, _ = run_gpu()
    values = {row["name"]: row["value"] for row in results["rows"]}
    assert len(values) == len(results["rows"])
    assert all(math.isfinite(value) for value in values.values())
    assert {name.split(": ")[0] for name in values} == results["seconds"].keys() == set(PROOFS)
    assert not results["skipped"] | results["failed"]
    assert results["card"] == "a simulated GPU"
    assert results["versions"]["torch"] == torch.__version__
    assert results["command"].startswith("gpu.py tiny=true")
    for name in ("parity, U-Net: fp32, off the CPU", "resume: resumed training, weights off the uninterrupted one"):
        assert values[name] == 0
    assert values["chunks, ResNet-18 and U-Net: eager / captured"] > 0


def test_a_proof_stands_alone(run_gpu, monkeypatch, tmp_path):
    def differing(bench):
        yield {"name": "chunk", "value": 1.0, "unit": "x"}
        raise AssertionError("off by 3")

    def importing(bench):
        raise ModuleNotFoundError("No module named 'zarr'", name="zarr")
        yield

    monkeypatch.setattr(
        "recede.benchmarks.gpu.PROOFS", {"one": differing, "two": importing, "three": lambda _: iter(())}
    )
    with pytest.raises(SystemExit) as ended:
        run_gpu("device=cpu")
    assert ended.value.code == 1
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["failed"] == {"one": "AssertionError: off by 3"}
    assert results["skipped"] == {"two": "needs the package zarr, which is not installed"}
    assert results["seconds"].keys() == {"one", "two", "three"}
    assert [row["name"] for row in results["rows"]] == ["one: chunk"]


def test_proofs_go_on_in_a_new_process_if_the_gpu_is_unusable(monkeypatch):
    def failing():
        yield {"name": "chunk", "value": 1.0, "unit": "x"}
        raise RuntimeError("CUDA error")

    def rest(names):
        return proving.nothing() | {"seconds": dict.fromkeys(names, 1.0), "rows": ["more"]}

    written, run = [], partial(proving.prove, until=math.inf, go_on=rest)
    proofs = {"one": failing, "two": failing, "three": failing}
    results = run(proofs, write=lambda results: written.append(list(results["seconds"])), is_usable=lambda: False)
    assert written == [["one"], ["one", "two", "three"]]
    assert results["failed"].keys() == {"one"}
    assert [row if row == "more" else row["name"] for row in results["rows"]] == ["one: chunk", "more"]
    results = run(proofs, write=lambda _: None, is_usable=lambda: True)
    assert results["failed"].keys() == proofs.keys()


def test_proofs_begin_in_their_time_and_the_file_has_those_before():
    written = []
    results = proving.prove(
        {"one": lambda: iter(())}, until=-math.inf, write=written.append, is_usable=bool, go_on=proving.nothing
    )
    assert results["skipped"] == {"one": "the time was over"}
    assert written == [results]


@pytest.mark.slow
def test_a_new_process_does_the_rest_of_the_proofs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    tmp_path.joinpath("recede").symlink_to(Path(gpu.__file__).parents[1])
    values = {"device": "cpu", "tiny": "true", "json": str(tmp_path / "gpu.json")}
    names = ["gradients, U-Net of the paper", "resume"]
    results = gpu.in_new_process(values, names, until=0.0)
    assert results["skipped"] == dict.fromkeys(names, "the time was over")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_proofs_of_a_gpu_need_one(run_gpu, capsys):
    for arguments, line in (
        ([], "there is no GPU"),
        (["speed=1"], "usage: .*speed=1"),
        (["only=speed"], "usage: .*only=speed"),
    ):
        with pytest.raises(SystemExit) as ended:
            run_gpu(*arguments)
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert re.match(line, error)
        assert error.count("\n") == 1
