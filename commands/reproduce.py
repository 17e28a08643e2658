"""`recede reproduce`: run the commands of a recipe, and compare the measured figures with the published ones."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Sequence
from contextlib import chdir, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configs.commands import COMMANDS
from ..configs.notation import shown
from ..configs.reproducing import ReproduceConfig
from ..configs.texts import text_of
from ..envs.catalogue import TASKS, load_task
from ..realtime import Interrupted
from ..specification import nearest
from .composition import compose, run_of
from .evaluate import folders
from .grammar import is_sweep, read
from .next_lines import no_next_lines, print_next

if TYPE_CHECKING:
    from ..evaluation.recipes import Recipe, Verdict

ALLOWED = ("demo", "collect", "download", "edit", "train", "train-classifier", "export", "evaluate", "compare")
"""What a recipe may run: nothing that moves a robot, listens on a port or waits for hands."""


def run(config: ReproduceConfig) -> None:
    """Run the steps that are not done yet in `out`, print each verdict, and write all to `reproduction.json`.

    Raises ValueError, before anything runs, if a step is not a possible command or reaches out of the folder, if no
    step evaluates a figure in its number of episodes, or if the folder holds another recipe; and in the end, if a
    figure is lower than the published one. Raises ImportError or OSError, before anything runs, if a task needs what is
    not installed.
    """
    from ..evaluation.recipes import read_recipe
    from ..files import check_writable, exclusive

    recipe = read_recipe(config.recipe)
    commands = [_composed(step) for step in recipe.steps]
    _check_figures(recipe, commands)
    folder = Path(config.out or f"runs/reproduce/{recipe.name}")
    check_writable(folder)
    print(f"{recipe.name}, in {folder}: {recipe.summary}\npublished: {recipe.published}")
    print(f"processor: {recipe.processor}; time: {recipe.time}")
    with exclusive(folder, "being reproduced"), chdir(folder), no_next_lines():
        done = _done(recipe)
        _check_tasks(commands[len(done) :])
        _run_steps(recipe, commands, done)
        verdicts = _judged(recipe)
    print(*verdicts, sep="\n")
    print(f"verdicts: {folder / 'reproduction.json'}")
    if lower := [verdict.figure.name for verdict in verdicts if verdict.word == "lower"]:
        raise ValueError(f"lower than published: {', '.join(lower)}: another training may differ, see docs/recipes.md")
    print_next(shown("compare", str(folder)))


def _composed(step: str) -> tuple[str, Any]:
    """The command of a step and its configuration. Raises ValueError if a recipe must not hold it."""
    command, *arguments = shlex.split(step)
    if command not in ALLOWED:
        raise ValueError(f"a recipe cannot run {command!r}: {nearest(command, ALLOWED)}")
    if is_sweep(arguments):
        raise ValueError(f"{step}: a recipe cannot sweep: write a step for each job")
    for key, value in read(command, arguments).items():
        _check_value(command, key, value)
    (config,), failures = compose(command, arguments)
    if failures:
        raise failures[0]
    return command, config


def _check_value(command: str, key: str, value: str) -> None:
    """Raises ValueError if a value imports code, names a cluster, or a file outside of the folder of the recipe."""
    text = text_of(COMMANDS[command].config, key)
    if key == "imports":
        raise ValueError("a recipe cannot import a package: name it on the command line, imports=[...]")
    if key == "cluster":
        raise ValueError("a recipe cannot name a cluster: its steps run in this process")
    if key == "task" and value not in TASKS:
        raise ValueError(f"a recipe may only name a task that recede knows, got task={value}: {nearest(value, TASKS)}")
    if text is not None and text.is_path and any(_leaves(path) for path in re.split(r"[\[\],'\"]", value)):
        raise ValueError(f"the paths of a recipe must stay below its folder, got {key}={value}: write them without ..")


def _leaves(path: str) -> bool:
    """Whether a path may lead out of the current folder."""
    return path.startswith(("/", "~")) or ".." in Path(path).parts


def _check_figures(recipe: Recipe, commands: Sequence[tuple[str, Any]]) -> None:
    """Raises ValueError if no step evaluates what a figure names, or if it measures another number of episodes."""
    evaluated = dict[Path, int | None]()
    """Folder of an evaluation -> its number of episodes; None if only the evaluation will say."""
    for command, config in commands:
        if command == "evaluate":
            evaluated |= dict.fromkeys(folders(config), config.episodes if config.until is None else None)
        elif command == "demo":
            evaluated[Path(config.out)] = config.evaluate_episodes
    for figure in recipe.figures:
        missing = [folder for folder in figure.evaluations if Path(folder) not in evaluated]
        if missing:
            raise ValueError(
                f"{figure.name}: no step evaluates {missing[0]}: {nearest(missing[0], map(str, evaluated))}"
            )
        counts = [evaluated[Path(folder)] for folder in figure.evaluations]
        planned = sum(count or 0 for count in counts)
        if None not in counts and planned != figure.episodes:
            raise ValueError(
                f"{figure.name}: {figure.episodes} episodes were published, and the steps measure {planned}"
            )


def _check_tasks(commands: Sequence[tuple[str, Any]]) -> None:
    """Begin an episode of each task of the steps. Raises ImportError or OSError if it needs what is not installed."""
    for name in sorted({task for _, config in commands if (task := getattr(config, "task", None))}):
        with closing(load_task(name).make()) as env:
            env.reset(seed=0)


def _run_steps(recipe: Recipe, commands: Sequence[tuple[str, Any]], done: list[str]) -> None:
    """Run the steps that are not noted as done in the current folder. Raises Interrupted after a signal."""
    from ..files import write_json_with_digest

    for number, (step, (command, config)) in enumerate(zip(recipe.steps, commands, strict=True), start=1):
        heading = f"[{number}/{len(commands)}] recede {step}"
        if number <= len(done):
            print(f"{heading}: done before")
            continue
        print(heading, flush=True)
        try:
            run_of(command)(config)
        except KeyboardInterrupt as interrupt:
            text = str(interrupt) or "interrupted"  # a training says what it saved, and to repeat the command
            remedy = "" if "repeat the command" in text else ": repeat the command to resume"
            where = f"in step {number} of {len(commands)}, {text}{remedy}"
            raise Interrupted(getattr(interrupt, "number", signal.SIGINT), where) from None
        done.append(step)
        write_json_with_digest(Path("reproduction.json"), {"recipe": recipe.name, "done": done})


def _done(recipe: Recipe) -> list[str]:
    """The steps that are done in the current folder. Raises ValueError if they are not the first of this recipe."""
    from ..files import read_json_with_digest

    path = Path("reproduction.json")
    if not path.exists():
        return []
    done: list[str] = read_json_with_digest(path, "delete it to begin again")["done"]
    if done != list(recipe.steps[: len(done)]):
        raise ValueError(f"{Path.cwd()} holds other steps than those of {recipe.name}: give another folder, out=FOLDER")
    return done


def _judged(recipe: Recipe) -> list[Verdict]:
    """Compare every figure of the recipe with the evaluations below the current folder, and write the verdicts."""
    from ..evaluation.recipes import judge
    from ..evaluation.reports.paired import find_one
    from ..files import write_json_with_digest

    verdicts = [judge(figure, [find_one(Path(folder)) for folder in figure.evaluations]) for figure in recipe.figures]
    content = {"recipe": recipe.name, "done": list(recipe.steps), "figures": [one.to_json() for one in verdicts]}
    write_json_with_digest(Path("reproduction.json"), content)
    return verdicts
