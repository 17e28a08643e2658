"""The command line: what can be typed, what is refused, and what is left behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import toys
from recede.checkpoints.runs import checkpoint_steps
from recede.commands.composition import compose
from recede.commands.grammar import read
from recede.commands.main import main
from recede.configs.commands import COMMANDS
from recede.datasets.store import DemonstrationStore
from recede.files import read_json
from recede.recording.scripted import collect


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Commands run in a folder of their own, in which nothing is but what they write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return tmp_path


# --- help


def test_the_overview_names_every_command(recede):
    for arguments in (["--help"], ["-h"], ["help"]):
        result = recede(*arguments)
        assert result.status == 0
        for name, command in COMMANDS.items():
            assert re.search(rf"^  {name} +{command.summary}$", result.out, re.MULTILINE)


def test_recede_alone_says_where_to_begin(recede):
    result = recede()
    assert (result.status, result.err) == (0, "")
    shown = [line.split() for line in result.out.splitlines() if line.startswith("  recede ")]
    assert [words[1] for words in shown] == ["collect", "train", "evaluate"]
    for _, command, *arguments in shown:
        compose(command, arguments)
    assert "`recede --help`" in result.out
    assert max(map(len, result.out.splitlines())) <= 100


@pytest.mark.parametrize("command", sorted(COMMANDS))
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_explains_itself(recede, command, option):
    result = recede(command, option)
    assert result.status == 0
    key = COMMANDS[command].positional
    positional = f" <{key}>" if key else ""
    assert result.out.startswith(f"usage: recede {command}{positional} key=value ...\n")
    assert recede(command, "anything", option).out == result.out  # whatever stands beside it


def test_the_version(recede):
    from importlib.metadata import version

    assert recede("--version").out == f"recede {version('recede')}\n"


def test_help_and_a_misspelt_command_load_nothing_heavy():
    program = "import sys; from recede.commands.main import main; main(sys.argv[1:]); print(*sys.modules)"
    for arguments in ([], ["--help"], ["train", "--help"], ["demo", "-h"]):
        process = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
        )
        loaded = {name.split(".")[0] for name in process.stdout.splitlines()[-1].split()}
        assert not loaded & {"torch", "hydra", "omegaconf", "zarr", "mujoco", "gymnasium", "scipy", "matplotlib"}


# --- misspellings

TRAIN = ["train", "out=run", "steps=2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command 'trian': did you mean 'train'?"),
        (["--hlep"], "there is no command '--hlep': "),
        (["train"], "dataset is required: give dataset=..."),
        (["evaluate"], "run is required: give run=..."),
        (["collect", "out=x"], "task is required: give task=..."),
        ([*TRAIN, "foo"], "'foo' is not of the form key=value: see `recede train --help`"),
        ([*TRAIN, "--mulitrun"], "there is no option '--mulitrun': did you mean '--multirun'?"),
        ([*TRAIN, "+steps=3"], "'+steps=3' is not of the form key=value"),
        ([*TRAIN, "~seed"], "'~seed' is not of the form key=value"),
        ([*TRAIN, "learing_rate=1"], "there is no key 'learing_rate': did you mean 'learning_rate'?"),
        ([*TRAIN, "polcy=diffusion"], "there is no key 'polcy': did you mean 'policy'"),
        ([*TRAIN, "policy=difusion"], "policy cannot be 'difusion': did you mean 'diffusion'?"),
        ([*TRAIN, "policy/sampler=dim"], "policy/sampler cannot be 'dim': did you mean 'ddim'?"),
        (
            [*TRAIN, "policy/network=resnet"],
            "policy/network cannot be 'resnet': choose from 'dit', 'transformer', 'unet1d'",
        ),
        ([*TRAIN, "policy.sampler=ddpm"], "got 'ddpm': write policy/sampler=ddpm"),
        (
            [*TRAIN, "policy.sampler.num_stepz=3"],
            "'policy.sampler.num_stepz': did you mean 'policy.sampler.num_steps'?",
        ),
        ([*TRAIN, "policy.netwrok.channels=[8]"], "'policy.netwrok.channels': did you mean 'policy.network.channels'?"),
        ([*TRAIN, "policy.encoder.mlp.x=1"], "got 'policy.encoder.mlp.x': give it whole as policy.encoder.mlp=[a,b]"),
        ([*TRAIN, "betas.0=1"], "got 'betas.0': give it whole as betas=[a,b] (see `recede train --help`)"),
        (
            [*TRAIN, "depth=3"],
            "'depth': did you mean 'policy.encoder.depth'? (see `recede train --help`)",
        ),
        ([*TRAIN, "preset.x=1"], "got 'preset.x': give it whole as preset=VALUE"),
        (
            [*TRAIN, "policy.encoder.weights=a"],
            "'policy.encoder.weights': add policy/encoder=resnet or policy/enc",
        ),
        (
            [*TRAIN, "policy=regression", "policy.sampler.eta=1"],
            "regression has no key 'policy.sampler': add policy=",
        ),
        (["inspect", "nowhere", "crop.0=1"], "got 'crop.0': give it whole as crop=[a,b] (see `recede inspect --help`)"),
        (["evaluate", "nowhere", "sampler/x=1"], "there is no slot 'sampler/x': did you mean 'sampler'?"),
        ([*TRAIN, "policy=regression", "policy/sampler=ddim"], "has a slot policy/sampler"),
        ([*TRAIN, "seed=null"], "seed=null: the value must not be null"),
        ([*TRAIN, "learning_rate=fast"], "learning_rate=fast: the value must be a number"),
        ([*TRAIN, "horizons=3"], "horizons=3: this key has keys of its own"),
        (["evaluate", "nowhere", "execution.rtc.limit=3"], "execution.rtc is not chosen: add execution=rtc"),
        (
            ["evaluate", "nowhere", "execution.rct.limit=3"],
            "'execution.rct.limit': did you mean 'execution.rtc.limit'",
        ),
        (
            ["evaluate", "nowhere", "sampler=ddpm", "sampler.eta=1"],
            "ddpm has no key 'sampler.eta': add sampler=ddim",
        ),
        (["control", "nowhere", "robot.port=x"], "robot=simulated has no key 'robot.port': add robot=serial_arm"),
        (["evaluate", "nowhere", "sampler=[1]"], "sampler cannot be '[1]'"),
        ([*TRAIN, "policy/sampler@x=ddim"], "there is no key 'policy/sampler@x'"),
        ([*TRAIN, "policy/samplr=ddim"], "there is no slot 'policy/samplr': did you mean 'policy/sampler'?"),
        ([*TRAIN, "hydra.run.dir=x"], "there is no key 'hydra.run.dir'"),
        ([*TRAIN, "policy.prediction=epsilom"], "got 'epsilom': did you mean 'epsilon'?"),
        ([*TRAIN, "policy/sampler=diffusers", "policy.sampler.name=DDIMSheduler"], "did you mean 'DDIMScheduler'?"),
        ([*TRAIN, "policy/schedule=diffusers", "policy.schedule.beta_schedule=lin"], "diffusers knows, got 'lin'"),
        ([*TRAIN, "horizons.observatoin=2"], "no key 'horizons.observatoin': did you mean 'horizons.observation'?"),
        (
            [*TRAIN, "horizons.observation=2", "horizons.prediction=16", "horizons.action=40"],
            "2 - 1 + 40 = 41 steps, got 16: predict at least 41 steps or execute at most 15",
        ),
        ([*TRAIN, "horizons.observation=0"], "the observation horizon must be at least 1 step, got 0"),
        ([*TRAIN, "policy.sampler.num_steps=0"], "num_steps must be above 0, got 0"),
        ([*TRAIN, "policy.sampler.num_steps="], "policy.sampler.num_steps is empty: give a value"),
        ([*TRAIN, "augmentation=${out}"], "augmentation=${out}: a value cannot refer to another one"),
        ([*TRAIN, "policy.sampler..num_steps=1"], "there is no key 'policy.sampler..num_steps'"),
        (["evaluate", "nowhere", "execution=rtc", "execution.rtc=1"], "execution.rtc must be set by its keys"),
        ([*TRAIN, "steps=many"], "steps=many: the value must be a whole number"),
        ([*TRAIN, "steps=0"], "steps must be above 0, got 0"),
        ([*TRAIN, "mask_padding=perhaps"], "mask_padding=perhaps: the value must be true or false"),
        (
            [*TRAIN, "policy.network.channels=16"],
            "policy.network.channels=16: the value must be a list",
        ),
        ([*TRAIN, "policy.network.channels=[16"], "policy.network.channels='[16': the value must be a list"),
        (
            [*TRAIN, "policy.network.channels=[12]"],
            "groups=8, got [12]",
        ),
        (
            [*TRAIN, "policy.sampler.num_steps=101"],
            "number of denoising steps must be between 1 and the 100 noise levels",
        ),
        ([*TRAIN, "seed=0,1"], "seed=0,1 has several values: add -m"),
        ([*TRAIN, "seed=-1"], "seed must be at least 0, got -1"),
        (
            [*TRAIN, "task=pushd"],
            "gymnasium:ID or one that recede or a package in imports= knows, got 'pushd'",
        ),
        ([*TRAIN, "task=pushd"], "did you mean 'pusht'?"),
        ([*TRAIN, "device=gpu"], "device must be auto or one that torch can use here, got 'gpu'"),
        ([*TRAIN, "init_from=nowhere"], "there is no run or checkpoint folder nowhere"),
        ([*TRAIN, "dataset=nowhere"], "nowhere does not exist: check the path"),
        (["train", "steps=2,3", "-m"], "a sweep needs out=FOLDER"),
        (["train", "out=run", "steps=0,-1", "-m"], "steps must be above 0"),
        (["evaluate", "nowhere"], "there is no run or checkpoint folder nowhere"),
        (["evaluate", "nowhere", "episods=5"], "there is no key 'episods': did you mean 'episodes'?"),
        (["evaluate", "nowhere", "and", "more"], "there is no run or checkpoint folder nowhere"),
        (["inspect", "nowhere", "and", "more"], "'and' is not of the form key=value"),
        (["evaluate", "nowhere", "workers=-1"], "workers must be at least 0, got -1"),
        (["evaluate", "nowhere", "checkpoint=beste"], "checkpoint must be 'last' or 'best', got 'beste'"),
        (["inspect", "nowhere"], "nowhere does not exist: check the path"),
        (["inspect", "a/b=c"], "a/b=c does not exist: check the path"),
        (["replay", "task=toys:REACH", "dataset=nowhere"], "nowhere does not exist: check the path"),
        (["collect", "task=pusht", "out=x.zarr"], "task 'pusht' has no scripted expert to record"),
        (["collect", "task=toys:REACH", "out=x.zarr", "episodes=0"], "episodes must be above 0, got 0"),
        (["download", "pushd"], "there are no published demonstrations 'pushd': did you mean 'pusht'?"),
        (["demo", "stepz=1"], "there is no key 'stepz': did you mean 'steps'?"),
        (["demo", "steps=-1"], "steps must be above 0, got -1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(recede, empty_folder, reaches, arguments, message):
    if "out=run" in arguments and not any(argument.startswith("dataset=") for argument in arguments):
        arguments = [*arguments, f"dataset={reaches}"]
    result = recede(*arguments)
    assert result.status == 2
    lines = result.err.splitlines()
    assert message in lines[0]
    assert all(line.startswith(f"recede {arguments[0]}: ") for line in lines)
    assert len(lines) == (2 if "steps=0,-1" in arguments else 1)
    assert list(empty_folder.iterdir()) == []


def test_a_path_that_looks_like_a_key_is_named_as_a_path(recede, empty_folder):
    (empty_folder / "a=b").mkdir()
    assert "type ./a=b" in recede("inspect", "a=b").line
    assert "a=b: not a zarr group" in recede("inspect", "./a=b").line
    assert "there is no key 'a'" in recede("inspect", "a=c").line


@pytest.mark.parametrize("out", ["pic", "pic.xyz", "data", "data.zarr", "data.zarr/zarr.json"])
def test_a_picture_that_cannot_be_drawn_is_refused_before_anything_is_read(recede, empty_folder, out):
    assert "as in out=inspect.png" in recede("inspect", "nowhere", f"out={out}").line
    (empty_folder / "file").touch()
    assert "file is no folder" in recede("inspect", "nowhere", "out=file/x.png").line


@pytest.mark.parametrize("command", [["train", "dataset=nowhere"], ["demo"], ["evaluate", "nowhere"]])
def test_results_go_neither_to_a_file_nor_among_demonstrations(recede, empty_folder, command):
    (empty_folder / "file").touch()
    (empty_folder / "store").mkdir()
    (empty_folder / "store/zarr.json").touch()
    for out, words in (("file", "file is no folder"), ("store", "store is a store")):
        assert f"{words}: give another out=" in recede(*command, f"out={out}").line
    assert {path.name for path in empty_folder.rglob("*")} == {"file", "store", "zarr.json"}


def test_the_line_of_a_real_process(reaches, empty_folder):
    """No warning of a library stands beside it, and nothing on the standard output."""
    program = "import sys; from recede.commands.main import main; sys.exit(main())"
    process = subprocess.run(
        [sys.executable, "-c", program, *TRAIN, f"dataset={reaches}", "learing_rate=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr == (
        "recede train: there is no key 'learing_rate': did you mean 'learning_rate'? (see `recede train --help`)\n"
    )
    assert list(empty_folder.iterdir()) == []


def test_where_an_error_came_from_is_shown_on_request(monkeypatch, recede):
    assert recede("evaluate", "nowhere").status == 2
    assert recede("evaluate", "nowhere").status == 2  # the first one has changed nothing
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(FileNotFoundError, match="there is no run or checkpoint folder nowhere"):
        main(["evaluate", "nowhere"])
    with pytest.raises(Exception, match="learing_rate"):
        main([*TRAIN, "learing_rate=1"])


def test_a_fault_of_ours_is_not_hidden(monkeypatch):
    from recede.recording import scripted

    monkeypatch.setattr(scripted, "collect", {}.__getitem__)
    with pytest.raises(TypeError, match="takes no keyword arguments"):
        main(["collect", "task=toys:REACH", "out=x.zarr"])


# --- words of all kinds

NAMES = [
    "it's",
    'say "so"',
    "två år, 日本",
    "a b",
    "a=b",
    "x$y{z}[1],(2)",
    "back\\slash",
    "end\\",
    "${out}",
    "null",
    "1e3",
    "#1",
]


def test_the_bare_argument_is_the_first_one():
    assert read("evaluate", ["run", "seed=1"]) == {"run": "run", "seed": "1"}
    assert read("evaluate", ["seed=1", "../a=b/run"]) == {"seed": "1", "run": "../a=b/run"}
    assert read("evaluate", ["policy=one", "seed=1", "seed=2"]) == {"run": "one", "seed": "2"}
    with pytest.raises(ValueError, match="'other' is not of the form key=value"):
        read("evaluate", ["run=one", "other"])


@pytest.mark.parametrize("name", NAMES)
def test_folders_of_any_name_are_found(recede, empty_folder, name):
    DemonstrationStore.create(empty_folder / name / "store", toys.SPECIFICATION)
    assert recede("inspect", f"./{name}/store").out == "no episodes yet\n"


@pytest.mark.slow
def test_the_picture_of_a_store_lies_beside_it_if_it_can(recede, empty_folder, reaches, monkeypatch):
    shutil.copytree(reaches, empty_folder / "data" / "reach.zarr")
    assert "picture: data/reach.png\nquality: data/reach.html\n" in recede("inspect", "data/reach.zarr").out
    with monkeypatch.context() as readonly:
        readonly.setattr("os.access", lambda folder, mode: str(folder) != "data")
        assert "picture: runs/inspect/reach.png\n" in recede("inspect", "data/reach.zarr").out
    monkeypatch.chdir("data/reach.zarr")
    assert f"picture: {empty_folder / 'data' / 'reach.png'}\n" in recede("inspect", "./").out
    drawn = {path.relative_to(empty_folder).as_posix() for path in empty_folder.rglob("*.png")}
    assert drawn == {"data/reach.png", "runs/inspect/reach.png"}


def test_a_run_and_a_store_of_any_name(recede, empty_folder, reaches, small):
    shutil.copytree(reaches, empty_folder / "it's données (1)")
    result = recede("train", "dataset=it's données (1)", "out=my run's, 日本", "steps=1", *small)
    assert result.status == 0, result.err
    assert "next:" not in result.out  # a simulated robot needs a task
    assert {path.name for path in empty_folder.iterdir()} == {"it's données (1)", "my run's, 日本"}
    line = recede("evaluate", "my run's, 日本").line
    assert "the policy was trained without a task: give task=" in line


# --- sweeps


@pytest.mark.slow
def test_a_sweep_writes_a_run_folder_for_each_job(recede, empty_folder, reaches, small):
    command = ["train", f"dataset={reaches}", "out=sweep", "steps=2", *small, "seed=0,1", "policy=diffusion,regression"]
    result = recede(*command, "-m")
    assert result.status == 0, result.err
    assert [path.name for path in empty_folder.iterdir()] == ["sweep"]
    assert sorted(path.name for path in (empty_folder / "sweep").iterdir()) == ["0", "1", "2", "3", "sweep.json"]
    configs = [read_json(empty_folder / "sweep" / str(job) / "config.json") for job in range(4)]
    jobs = [(config["seed"], config["policy"]["choice"]) for config in configs]
    assert jobs == [(0, "diffusion"), (0, "regression"), (1, "diffusion"), (1, "regression")]
    again = recede("train", "--multirun", *command[1:])
    assert again.status == 0
    assert again.out.count("nothing to do, trained already") == 4


def test_a_job_that_fails_does_not_stop_the_others(recede, empty_folder, reaches, small):
    command = ["train", f"dataset={reaches}", "out=sweep", *small, "horizons.action=40,8,50", "steps=2", "-m"]
    result = recede(*command)
    assert result.status == 2
    errors = [line for line in result.err.splitlines() if line.startswith("recede train: ")]
    assert len(errors) == 2
    assert errors[0].startswith("recede train: job 0 (horizons.action=40): ")
    assert "2 - 1 + 40 = 41" in errors[0]
    assert "2 - 1 + 50 = 51" in errors[1]
    assert sorted(path.name for path in (empty_folder / "sweep").iterdir()) == ["1", "sweep.json"]


@pytest.mark.slow
def test_an_interrupt_stops_the_whole_sweep(nursery, empty_folder, reaches, small):
    command = ["train", f"dataset={reaches}", "out=sweep", "steps=500", "save_every=1", *small, "seed=0,1", "-m"]
    process = nursery.start(*command, folder=empty_folder)
    end = time.monotonic() + 60
    while not checkpoint_steps(empty_folder / "sweep/0"):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(process, signal.SIGINT)
    status, output = nursery.wait()
    assert status == 130, output
    assert "stopped and saved after step" in output.splitlines()[-1]
    assert sorted(path.name for path in (empty_folder / "sweep").iterdir()) == ["0", "sweep.json"]


# --- recording


def episodes_of(path):
    store = DemonstrationStore.open(path)
    return [(int(seed), store.episode(index)) for index, seed in enumerate(store.episode_seeds)]


def assert_same_episodes(one, other):
    assert [seed for seed, _ in one] == [seed for seed, _ in other]
    for (_, first), (_, second) in zip(one, other, strict=True):
        assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_recording_goes_on_where_it_stopped(recede, empty_folder):
    for episodes in (3, 3, 8):
        result = recede("collect", "task=toys:REACH", "out=halves.zarr", f"episodes={episodes}", "first_seed=5")
        assert result.status == 0
        assert f"{episodes} demonstrations in halves.zarr" in result.out
        assert "next: recede train task=toys:REACH dataset=halves.zarr out=runs/" in result.out
    recede("collect", "task=toys:REACH", "out=whole.zarr", "episodes=8", "first_seed=5")
    assert_same_episodes(episodes_of("halves.zarr"), episodes_of("whole.zarr"))
    assert [seed for seed, _ in episodes_of("whole.zarr")] == list(range(5, 13))
    for _, episode in episodes_of("whole.zarr"):  # an action follows its observation, and reaches
        assert np.array_equal(episode["action"], episode["target"])
        distance = np.linalg.norm(episode["position"] - episode["target"], axis=1)
        assert (distance >= 0.1).all()
        assert distance[-1] < 0.2


def test_recording_goes_on_in_a_store_without_episodes(recede, empty_folder):
    """As a recording that was killed before its first episode leaves it, or before its first failure."""
    for name in ("demos.zarr", "demos-failures.zarr"):
        DemonstrationStore.create(empty_folder / name, toys.SPECIFICATION)
    result = recede("collect", "task=toys:LAZY", "out=demos.zarr", "episodes=2")
    assert result.status == 0, result.err
    assert [seed for seed, _ in episodes_of("demos.zarr")] == [1, 2]
    assert [seed for seed, _ in episodes_of("demos-failures.zarr")] == [0]


def test_failures_are_kept_apart(empty_folder):
    collected = collect(toys.LAZY, empty_folder / "demos.zarr", episodes=5, first_seed=0, images="zstd")
    assert collected == (5, 3, empty_folder / "demos-failures.zarr", [])
    assert [seed for seed, _ in episodes_of("demos.zarr")] == [1, 2, 4, 5, 7]
    assert [seed for seed, _ in episodes_of("demos-failures.zarr")] == [0, 3, 6]
    assert all(len(episode["action"]) == toys.MAX_STEPS for _, episode in episodes_of("demos-failures.zarr"))
    for name, outcome in (("demos.zarr", "success"), ("demos-failures.zarr", "failure")):
        facts = DemonstrationStore.open(empty_folder / name).episode_facts
        assert {(entry.outcome, entry.task, entry.operator) for entry in facts} == {(outcome, "reach", "script")}
        assert all({"recede", "numpy"} <= entry.versions.keys() for entry in facts)
    collect(toys.LAZY, empty_folder / "demos.zarr", episodes=7, first_seed=0, images="zstd")
    assert [seed for seed, _ in episodes_of("demos.zarr")] == [1, 2, 4, 5, 7, 8, 10]
    assert [seed for seed, _ in episodes_of("demos-failures.zarr")] == [0, 3, 6, 9]


def test_an_expert_that_never_succeeds_is_not_waited_for(empty_folder):
    with pytest.raises(ValueError, match=r"the expert of 'reach' fails more often than not, see .*demos-failures.zarr"):
        collect(toys.HOPELESS, empty_folder / "demos.zarr", episodes=5, first_seed=0, images="zstd")


def test_a_store_of_another_task_is_not_added_to(recede, empty_folder, demonstrations):
    shutil.copytree(demonstrations, empty_folder / "demos.zarr")
    line = recede("collect", "task=toys:REACH", "out=demos.zarr", "episodes=9").line
    assert "demos.zarr must hold demonstrations of 'reach'" in line
    assert len(episodes_of("demos.zarr")) == 6


# --- the whole path


def test_from_demonstrations_to_an_evaluation(recede, empty_folder, reaches, trained):
    shutil.copytree(trained, empty_folder / "my run")
    assert recede("inspect", str(reaches), "out=pictures/reach.png").status == 0
    assert (empty_folder / "pictures/reach.png").read_bytes().startswith(b"\x89PNG")
    judged = recede("inspect", str(reaches), "out=pictures/reach.png", "run=my run", "episodes=episode<6")
    assert "quality: pictures/reach.html" in judged.out, judged.err
    page = (empty_folder / "pictures/reach.html").read_text()
    assert "6 episodes" in page
    assert "Error of my run" in page
    assert "&#x27;run=my run&#x27;" in page
    replayed = recede("replay", "task=toys:REACH", f"dataset={reaches}", "episodes=episode<4")
    assert "4 episodes replayed, 4 of them succeed" in replayed.out
    assert "worst 0.00e+00 m" in replayed.out
    for command in (["replay", "task=toys:REACH", f"dataset={reaches}"], ["inspect", str(reaches)]):
        assert "'4': episode<4 selects the first 4" in recede(*command, "episodes=4").line
        assert "no episode of 20 fulfils" in recede(*command, "episodes=operator!='script'").line
    options = ["episodes=6", "videos=0", "parallel=4", "device=cpu", "out=results"]
    refused = recede("evaluate", "my run", *options)  # no checkpoint decides what is imported
    assert refused.status == 2
    assert "the task 'toys:REACH', which does not come with recede" in refused.err
    assert not (empty_folder / "results").exists()
    result = recede("evaluate", "my run", "task=toys:REACH", *options)
    assert result.status == 0, result.err
    content = json.loads((empty_folder / "results/evaluation.json").read_text())
    assert content["episodes"] == 6
    assert content["seeds"] == list(range(100_000, 100_006))
    assert content["step"] == 200
    assert content["checkpoint"] == "my run/checkpoints/00000200"
    assert content["success_rate"] == np.mean(content["success"])
    assert result.out.startswith(f"reach: success {100 * content['success_rate']:.0f} % [")
    assert (empty_folder / "results/report.html").exists()


@pytest.mark.slow
def test_from_nothing_to_films_of_pick_place(recede, empty_folder, demonstrations, small):
    sentences = {facts.sentence for facts in DemonstrationStore.open(demonstrations).episode_facts}
    assert sentences == {"carry the cube around the wall onto the mark"}
    command = ["train", "task=pick_place", f"dataset={demonstrations}", "out=run", "steps=40", *small]
    assert recede(*command, "evaluate_every=20", "evaluate_episodes=2").status == 0
    result = recede("evaluate", "run", "checkpoint=best", "episodes=3", "videos=1", "workers=1", "device=cpu")
    assert result.status == 0, result.err
    content = json.loads((empty_folder / "run/evaluation.json").read_text())
    assert content["task"] == "pick_place"
    assert len(content["success"]) == 3
    replayed = recede("replay", "task=pick_place", f"dataset={demonstrations}", "episodes=episode<2")
    assert "2 episodes replayed, 2 of them succeed" in replayed.out


def test_two_processes_do_not_record_the_same_seeds(recede, tmp_path):
    path = tmp_path / "demos.zarr"
    second = []

    def expert(seed):
        if seed == 1:
            second.append(recede("collect", "task=toys:REACH", f"out={path}", "episodes=3"))
        return toys.expert(seed)

    collect(replace(toys.REACH, expert=expert), path, episodes=3, first_seed=0, images="zstd")
    assert DemonstrationStore.open(path).episode_seeds.tolist() == [0, 1, 2]
    assert second[0].status == 2
    assert f"{path} is being recorded by another process: wait" in second[0].last
    assert recede("collect", "task=toys:REACH", f"out={path}", "episodes=4").status == 0
    assert DemonstrationStore.open(path).episode_seeds.tolist() == [0, 1, 2, 3]


def test_demonstrations_of_randomised_worlds_replay_in_the_same_worlds(recede, tmp_path):
    recorded = ["task=pick_place", "randomise=[mass,friction]"]
    assert recede("collect", *recorded, "episodes=2", f"out={tmp_path / 'demos'}").status == 0
    (facts, _) = DemonstrationStore.open(tmp_path / "demos").episode_facts
    assert facts.notes == {"randomise": ["mass", "friction"], "side": facts.notes["side"]}
    same = recede("replay", *recorded, f"dataset={tmp_path / 'demos'}").out
    assert "2 episodes replayed, 2 of them succeed" in same
    assert len(re.findall(r"worst 0.00e\+00", same)) == 4
    usual = recede("replay", recorded[0], f"dataset={tmp_path / 'demos'}").out
    assert len(re.findall(r"worst 0.00e\+00", usual)) < 4


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[mas]", "randomise=mas is not one of camera, light, mass, friction, colour: did you mean 'mass'?"),
        ("[mass,mass]", "randomise must name each kind once"),
        ("[push]", "randomise=push is not one of"),
    ],
)
def test_what_cannot_be_randomised_is_one_line(recede, tmp_path, names, message):
    result = recede("collect", "task=pick_place", f"randomise={names}", f"out={tmp_path / 'demos'}")
    assert result.status == 2
    assert message in result.err
    assert not (tmp_path / "demos").exists()
