"""A recipe runs its commands once, compares by its rule, and holds nothing but commands below its folder."""

import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import toys
import yaml
from recede.commands import collect, train
from recede.commands.reproduce import _check_figures, _composed
from recede.envs.catalogue import TASKS
from recede.evaluation.intervals import wilson
from recede.evaluation.recipes import FOLDER, Figure, Verdict, read_recipe, recipe_names
from recede.realtime import Interrupted

DOCUMENT = (FOLDER.parent / "docs/recipes.md").read_text()
STEPS = [
    "collect task=reach episodes=4 out=data/reach.zarr",
    "train task=reach dataset=data/reach.zarr out=runs/reach steps=2 warmup=1 device=cpu",
    "evaluate runs/reach episodes=2 videos=0 device=cpu",
]


@pytest.fixture
def write(tmp_path, monkeypatch, small):
    """Write a recipe of the toy task in the working directory, whose policy has not learned to reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TASKS, "reach", toys.REACH)
    settings = " ".join(setting for setting in small if not setting.startswith("device"))

    def write(steps=tuple(STEPS), successes=0, episodes=2, **changes):
        low, high = (round(100 * bound, 1) for bound in wilson(successes, episodes))
        figure = {"name": "it reaches", "evaluations": ["runs/reach"], "successes": successes, "episodes": episodes}
        content = {
            "summary": "a toy",
            "published": "nowhere",
            "processor": "a CPU",
            "time": "a minute",
            "steps": [step.replace("steps=2", f"steps=2 {settings}") for step in map(str, steps)],
            "figures": [figure | {"interval": [low, high]}],
        }
        Path("toy.yaml").write_text(yaml.safe_dump(content | changes))

    return write


@pytest.mark.slow
def test_a_recipe_runs_whole_and_only_once(recede, write, monkeypatch):
    write()
    with monkeypatch.context() as stopped:
        stopped.setattr(train, "run", _interrupt)
        assert recede("reproduce", "toy.yaml", "out=new").status == 130
    first = recede("reproduce", "toy.yaml", "out=new")
    assert first.status == 0, first.err
    assert first.out.count("done before") == 1
    assert "published  0.0 % (0.0 to 65.8 %) of 2 episodes" in first.out
    assert "agrees: the difference is -65.8 to +65.8 points" in first.out
    again = recede("reproduce", "toy.yaml", "out=new")
    assert again.out.count("done before") == 3
    content = json.loads(Path("new/reproduction.json").read_text())
    assert content["figures"][0]["verdict"] == "agrees"
    assert again.out.splitlines()[-2:] == ["verdicts: new/reproduction.json", "next: recede compare new"]
    assert first.out.count("next: ") == 1  # those of its steps would not run outside of its folder
    assert "| reach |" in recede("compare", "new").out
    assert sorted(path.name for path in Path().iterdir()) == ["new", "toy.yaml"]
    write(steps=[*STEPS[:2], STEPS[2] + " seed=1"])
    assert "out=FOLDER" in recede("reproduce", "toy.yaml", "out=new").last


def test_a_figure_that_is_not_reached_is_an_error(recede, write):
    write(steps=[*STEPS[:2], STEPS[2].replace("episodes=2", "episodes=20")], successes=20, episodes=20)
    result = recede("reproduce", "toy.yaml", "out=new")
    assert (result.status, "lower than published: it reaches" in result.last) == (2, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"episodes": 21}, "21 episodes were published, and the steps measure 2"),
        ({"steps": [*STEPS[:2], STEPS[2] + " out=runs/reached"]}, "runs/reach: did you mean 'runs/reached'?"),
        ({"steps": [*STEPS[:2], STEPS[2] + " delay_ms=[0,100]"]}, "did you mean 'runs/reach/receding-0ms'?"),
        ({"steps": [*STEPS[:2], STEPS[2] + " disturb.delay=[100]"]}, "no step evaluates runs/reach"),
        ({"steps": [*STEPS[:2], "evaluate runs/reach runs/other out=runs/both"]}, "no step evaluates runs/reach"),
        ({"steps": STEPS[:2]}, "there are none to choose from"),
    ],
)
def test_a_figure_that_no_step_evaluates_is_refused_before_anything_runs(recede, write, changes, words):
    write(**changes)
    result = recede("reproduce", "toy.yaml", "out=new")
    assert (result.status, words in result.line) == (2, True), result.err
    assert not Path("new").exists()


def test_an_evaluation_that_decides_when_it_stops_is_counted_afterwards(recede, write, monkeypatch):
    write(steps=[*STEPS[:2], "evaluate runs/reach runs/other until=decided"], successes=0, episodes=7)
    monkeypatch.setattr(collect, "run", _interrupt)
    assert recede("reproduce", "toy.yaml", "out=new").status == 130


def test_a_task_that_needs_what_is_not_installed_is_named_before_anything_runs(recede, write, monkeypatch):
    def make(**_):
        raise ImportError("the toy needs a package: pip install 'recede[toys]'")

    write()
    monkeypatch.setitem(TASKS, "reach", replace(toys.REACH, make=make))
    assert "pip install 'recede[toys]'" in recede("reproduce", "toy.yaml", "out=new").last
    assert not Path("new").exists()


def test_an_interruption_names_the_step_and_what_to_do(recede, write, monkeypatch):
    write()
    monkeypatch.setattr(collect, "run", _interrupt)
    result = recede("reproduce", "toy.yaml", "out=new")
    assert result.status == 130
    assert result.last == "recede reproduce: in step 1 of 3, interrupted: repeat the command to resume"

    def stop(config):
        raise Interrupted(signal.SIGTERM, "saved after step 1: repeat the command to resume")

    monkeypatch.setattr(collect, "run", stop)
    result = recede("reproduce", "toy.yaml", "out=new")
    assert result.status == 128 + signal.SIGTERM
    assert result.last == "recede reproduce: in step 1 of 3, saved after step 1: repeat the command to resume"


def _interrupt(config):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("step", "remedy"),
    [
        ("control runs/reach", "choose from"),
        ("rm -rf data", "choose from"),
        ("train -m task=reach dataset=a out=b seed=0,1", "a step for each job"),
        ("train task=reach dataset=a out=b imports=[os]", "on the command line"),
        ("evaluate runs/reach task=os:path", "a task that recede knows"),
        ("evaluate runs/reach task=gymnasium:Reacher-v5", "a task that recede knows"),
        ("evaluate runs/reach cluster=10.0.0.1:6379", "cannot name a cluster"),
        ("collect task=reach out=../a.zarr", "without .."),
        ("collect task=reach out=/tmp/a.zarr", "without .."),
        ("train task=reach dataset=[a,~/b] out=c", "without .."),
        ("train task=reach dataset=a out=b stepz=2", "did you mean"),
    ],
)
def test_a_recipe_holds_only_commands_below_its_folder(recede, write, step, remedy):
    write(steps=[STEPS[0], step])
    result = recede("reproduce", "toy.yaml", "out=new")
    assert (result.status, remedy in result.line) == (2, True), result.err
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": []}, "must have steps"),
        ({"minutes": 7}, "texts"),
        ({"shell": "rm"}, "'shell'"),
        ({"figures": [{"name": "it"}]}, "figure: the keys must be"),
        ({"figures": "none"}, "is damaged"),
    ],
)
def test_a_damaged_recipe_is_refused(recede, write, changes, words):
    write(**changes)
    assert words in recede("reproduce", "toy.yaml").line
    Path("toy.yaml").write_text("{")
    assert "toy.yaml is damaged" in recede("reproduce", "toy.yaml").line


def test_a_misspelt_recipe_names_the_nearest(recede):
    assert "did you mean 'pusht'?" in recede("reproduce", "pust").line


def test_the_interval_is_that_of_the_figure():
    with pytest.raises(ValueError, match=r"\[66.5, 78.7\]"):
        Figure("reach", ("runs/reach",), 146, 200, (60.0, 80.0))


@pytest.mark.parametrize(("successes", "word"), [(120, "lower"), (140, "agrees"), (160, "agrees"), (175, "higher")])
def test_a_figure_agrees_unless_chance_does_not_explain_the_difference(successes, word):
    assert Verdict(Figure("reach", ("runs/reach",), 146, 200, (66.5, 78.7)), successes, 200).word == word


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_of_ours_can_run_and_its_figures_are_those_of_its_page(name):
    recipe = read_recipe(name)
    _check_figures(recipe, [_composed(step) for step in recipe.steps])
    page = " ".join((FOLDER.parent / recipe.published).read_text().split())
    row, *_ = re.findall(rf"^\| `{name}` \|.*", DOCUMENT, re.MULTILINE)  # the repetitions come later
    assert f"{recipe.figures[0].successes} of {recipe.figures[0].episodes}" in row
    for figure in recipe.figures:
        low, high = map(round, (100 * bound for bound in wilson(figure.successes, figure.episodes)))
        rate, bounds = 100 * figure.successes / figure.episodes, f"[{figure.interval[0]}, {figure.interval[1]}]"
        rounded = {f"{rate:.0f}", f"{rate + 1e-9:.0f}"}  # pages round a half to the even or up
        forms = (
            f"{low} to {high} %)",
            f"{rate:.1f} {bounds}",
            *(f"{text} % [{low}, {high}]" for text in rounded),
        )
        assert any(form in page for form in forms), f"{recipe.published} does not show {figure}"
