"""`recede view`: see demonstrations in a browser, and what a policy would do in them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configs.datasets import ViewConfig
from ..envs.catalogue import TASKS, load_task
from ..files import check_writable

if TYPE_CHECKING:
    from ..datasets.demonstrations import Demonstrations
    from ..envs.task import Task
    from ..evaluation.viewing.foresight import Foresight
    from ..evaluation.viewing.projection import Projection
    from ..evaluation.viewing.scene import Scene
    from ..evaluation.viewing.showing import Showing
    from ..specification import Stream

HOST = "127.0.0.1"
"""Where the page is served: to this machine alone."""


def run(config: ViewConfig) -> None:
    """Serve the page until the process is interrupted or terminated, or write it to `out`.

    Raises ConnectionError if nothing can listen at the port.
    """
    if config.out is not None:
        check_writable(Path(config.out).parent)
    elif find_spec("websockets") is None:
        raise ValueError(
            "recede view needs websockets: pip install 'recede[record]', or write a page with out=page.html"
        )
    showing = _open(config)
    if config.out is None:
        _serve(config, showing)
        return
    from ..evaluation.viewing.one_file import write_one_file

    print(write_one_file(Path(config.out), showing, is_chosen=config.episodes is not None, most_mb=config.most_mb))


def _serve(config: ViewConfig, showing: Showing) -> None:
    from ..evaluation.viewing.server import Viewer
    from ..web.access import Access, listen

    access = Access(host=HOST, token=None, printer="recede view", purpose="ask for demonstrations")
    with closing(listen(HOST, config.port, key="port")) as listening:

        async def view() -> None:
            stop = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    asyncio.get_running_loop().add_signal_handler(number, stop.set)
            address = access.address(listening.getsockname()[1])
            print(f"{showing.name} is shown at {address} until Ctrl-C", flush=True)
            await Viewer(showing, access).run(listening, stop)

        asyncio.run(view())
    print("the page is closed")


def _open(config: ViewConfig) -> Showing:
    """Everything that the page shows. Raises ValueError or FileNotFoundError for what cannot be opened."""
    from ..checkpoints.opening import read_description
    from ..checkpoints.runs import holds_policy
    from ..evaluation.viewing.showing import Showing

    source = Path(config.source)
    task = load_task(config.task) if config.task is not None else None
    if not holds_policy(source):
        if config.dataset is not None:
            raise ValueError(
                f"dataset={config.dataset} is for a policy, and {source} holds none: leave it out, or name a run"
            )
        demonstrations = _demonstrations([config.source], task, config)
        usual = task or _usual(demonstrations.episode_facts[0].task)
        scene, remarks = _scene(config, usual, demonstrations)
        projection, _ = _projection(usual, demonstrations)
        return Showing(
            demonstrations=demonstrations, name=source.name, scene=scene, projection=projection, remarks=remarks
        )
    manifest = read_description(source, config.checkpoint)
    usual = task or _usual(manifest["task"])
    may_be_absent = manifest["specification"].may_be_absent
    demonstrations = _demonstrations(_datasets(config, manifest), usual, config, may_be_absent)
    scene, remarks = _scene(config, usual, demonstrations)
    projection, unknown = _projection(usual, demonstrations)
    return Showing(
        demonstrations=demonstrations,
        name=f"{source.name} on {demonstrations.path.name}",
        scene=scene,
        foresight=_foresight(config, demonstrations, manifest),
        projection=projection,
        remarks=[*remarks, *unknown],
    )


def _datasets(config: ViewConfig, manifest: Mapping[str, Any]) -> list[str]:
    """The demonstrations to show with a policy. Raises FileNotFoundError if those of its training are gone."""
    if config.dataset is not None:
        return [config.dataset]
    noted: Any = manifest.get("dataset")
    folders = noted if isinstance(noted, list) else [noted]
    if gone := [folder for folder in folders if not isinstance(folder, str) or not Path(folder).exists()]:
        what = "notes no demonstrations" if gone[0] is None else f"was trained on {gone[0]}, which does not exist here"
        raise FileNotFoundError(f"{config.source} {what}: name the demonstrations with dataset=")
    return folders


def _demonstrations(
    folders: Sequence[str], task: Task | None, config: ViewConfig, may_be_absent: Sequence[Stream] = ()
) -> Demonstrations:
    """The episodes of the folders in turn, which the condition chooses in each. Raises ValueError if there are none.

    may_be_absent: streams that some of the folders may lack; several folders are then masked.
    """
    from ..datasets.joined import Joined
    from ..datasets.observing import Masked
    from ..datasets.opening import open_demonstrations

    shown = task if task is not None and (config.task is not None or task.sources) else None
    can_lack = bool(may_be_absent)
    parts = [open_demonstrations(folder, shown, episodes=config.episodes, can_lack=can_lack) for folder in folders]
    if may_be_absent and len(parts) > 1:
        parts = [Masked(part, may_be_absent) for part in parts]
    demonstrations = parts[0] if len(parts) == 1 else Joined(parts, remedy="name one of them with dataset=")
    if not len(demonstrations):
        raise ValueError(f"{folders[0]} has no episodes to see: record some first")
    return demonstrations


def _usual(name: Any) -> Task | None:
    """A task that comes with recede; None for any other, because no file decides what is imported."""
    return load_task(name) if isinstance(name, str) and name in TASKS else None


def _scene(config: ViewConfig, task: Task | None, demonstrations: Demonstrations) -> tuple[Scene | None, list[str]]:
    """The scene of a task, and what to say if there is none."""
    from ..evaluation.viewing.scene import Scene

    if not config.scene or task is None:
        return None, []
    try:
        return Scene(task, demonstrations), []
    except ValueError as error:
        return None, [f"no scene: {error}"]


def _projection(task: Task | None, demonstrations: Demonstrations) -> tuple[Projection | None, list[str]]:
    """Where actions are in the images of the cameras, and what to say of those in which nobody knows it."""
    from ..evaluation.viewing.projection import Projection

    images = [stream.name for stream in demonstrations.specification.observations if stream.is_image]
    if task is None:
        why = "no task says where actions are in them; name one with task="
        return None, [f"no fan over {', '.join(images)}: {why}"] if images else []
    try:
        projection = Projection(task, demonstrations)
    except (ValueError, ImportError) as error:
        return None, [f"no fan over {', '.join(images)}: {error}"] if images else []
    unknown = [name for name in images if name not in projection.cameras]
    why = f"the camera moves, or the task {task.name!r} does not say where actions are in them"
    return projection, [f"no fan over {', '.join(unknown)}: {why}"] if unknown else []


def _foresight(config: ViewConfig, demonstrations: Demonstrations, manifest: Mapping[str, Any]) -> Foresight:
    """The policy beside the demonstrations as it observes them."""
    from ..checkpoints.opening import open_policy, text_encoder_of
    from ..datasets.observing import Worded, as_observed
    from ..evaluation.viewing.foresight import Foresight

    opened = open_policy(config.source, which=config.checkpoint, device=config.device)
    observed = as_observed(demonstrations, opened.engine.specification)
    if (text := text_encoder_of(manifest, config.text_encoder)) is not None:
        observed = Worded(observed, text, digest=text.digest)
    return Foresight(config.source, opened.engine, observed, samples=config.samples, seed=config.seed)
