"""Films and film strips of episodes, and pictures of sampled chunks, drawn over the scene.

A task's `pixels` maps an action to a point of the image; a chunk is drawn as the line through its actions.

Shapes: H, W height and width of a frame; N sampled chunks; Tp prediction horizon; Da size of the action; pixels are
(column, row), from the top left corner.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...files import whole_file, writing
from ...progress import watched
from ..episode import FilmedChunk, Outcome

if TYPE_CHECKING:
    from ...policy.engines.interface import Engine

Pixels: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]
"""Actions (T, Da) -> (T, 2) pixels: `pixels` of a task's environment."""

COLOURS = ("#ff6ac1", "#4fd8ff", "#ffd166", "#9be564")
"""A colour for each policy, for a darkened scene."""

START_COLOUR = "#fff6e0"
"""The colour of a chunk's first action, which fades into the colour of its policy."""

NIGHT = np.array([0.5, 0.52, 0.6])
"""Factors of the red, green and blue of a scene, to darken it below the chunks."""

PANEL_INCHES = 4.8
"""The side of a panel of a fan, at 180 pixels an inch."""

PANEL_GAP = 0.012
"""The gap between two panels, in sides of a panel."""

SMALLEST_SIDE = 384
"""Smaller frames are enlarged to at least this many pixels, by repeating pixels."""

STILL_SIDE = 320
"""The longer side of a still, in pixels."""


def film(outcome: Outcome, path: Path, *, fps: float, pixels: Pixels | None, colour: str = COLOURS[0]) -> None:
    """Write a filmed episode as an mp4 that browsers play, with the current chunk drawn over every frame.

    fps: frames a second; 1 / control_dt for real time. pixels: None draws no chunks. The last frame, which shows the
    success, stays for a second. The file appears whole or not at all. Raises ValueError if the episode was not filmed.
    """
    if not outcome.frames:
        raise ValueError(f"episode {outcome.seed} has no frames to show: add its seed to `filmed`")
    import imageio.v2

    # Frames have even sides already, so imageio need not rescale; "faststart" lets a browser play while it loads.
    settings: dict[str, Any] = {"codec": "libx264", "pixelformat": "yuv420p", "macro_block_size": 1, "quality": None}
    settings["output_params"] = ["-crf", "21", "-movflags", "+faststart"]
    with writing(path), whole_file(path) as partial:
        writer: Any = imageio.v2.get_writer(partial, format="FFMPEG", mode="I", fps=fps, **settings)
        with writer:
            for frame in _annotated(outcome, pixels, colour, hold=round(fps)):
                writer.append_data(frame)


def stills(outcome: Outcome, *, pixels: Pixels | None, colour: str = COLOURS[0]) -> dict[int, bytes]:
    """The frames of a filmed episode as small JPEGs by their control steps, with the current chunk drawn over each."""
    from PIL import Image

    pictures = dict[int, bytes]()
    for step, frame in zip(outcome.frames, _annotated(outcome, pixels, colour, width=1.6), strict=True):
        file, image = io.BytesIO(), Image.fromarray(frame)
        image.thumbnail((STILL_SIDE, STILL_SIDE))
        image.save(file, "JPEG", quality=85)
        pictures[step] = file.getvalue()
    return pictures


def _annotated(
    outcome: Outcome, pixels: Pixels | None, colour: str, *, width: float = 1, hold: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """Every frame with the latest chunk of its time, in lines of this width; the last frame `hold` times more."""
    chunks, latest, overlay = list(reversed(outcome.chunks)), None, None
    drawn = np.empty(0, np.uint8)
    for step, original in outcome.frames.items():
        frame, scale = _enlarged(original)
        while chunks and chunks[-1].step <= step:
            latest, overlay = chunks.pop(), None
        if pixels is not None and latest is not None and overlay is None:
            overlay = _overlay(scale * pixels(latest.actions), colour, *frame.shape[:2], line=width)
        drawn = frame if overlay is None else _composed(frame, overlay)
        yield drawn
    for _ in range(hold):
        yield drawn


def _enlarged(frame: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """The frame enlarged to `SMALLEST_SIDE` and padded to even sides, and the factor."""
    scale = max(1, -(-SMALLEST_SIDE // min(frame.shape[:2])))
    large = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = large.shape[:2]
    return np.pad(large, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"), scale


def _composed(frame: NDArray[np.uint8], overlay: NDArray[Any]) -> NDArray[np.uint8]:
    colour, alpha = overlay[..., :3], overlay[..., 3:]
    return np.round(frame + alpha * (colour - frame)).astype(np.uint8)


def _overlay(points: NDArray[Any], colour: str, height: int, width: int, *, line: float) -> NDArray[np.float32]:
    """One chunk (T, 2) as an image (H, W, 4): colours in [0, 255] and an alpha in [0, 1]. line: its relative width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = FigureCanvasAgg(Figure(figsize=(width / 100, height / 100), dpi=100))
    canvas.figure.patch.set_alpha(0)
    axes = canvas.figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    # A dark outline, so that the line is visible on a bright scene too.
    thickness = 0.8 * line * height / 100
    axes.plot(*points.T, color="#101828", alpha=0.3, linewidth=thickness + 1.5, solid_capstyle="round")
    _add_chunks(axes, points[None], colour, linewidth=thickness, alpha=(1.0, 0.5))
    canvas.draw()
    rgba = np.array(canvas.buffer_rgba(), np.float32)
    rgba[..., 3] /= 255
    return rgba


@dataclass(frozen=True)
class Fan:
    """Chunks of several policies, sampled at one moment of an episode."""

    seed: int
    """The episode's seed."""

    step: int
    """The control step."""

    frame: NDArray[np.uint8]
    """The scene, (H, W, 3)."""

    points: Mapping[str, NDArray[np.float64]]
    """A policy's name -> its chunks in pixels, (N, Tp, 2)."""

    spread: float
    """The spread of the first policy's chunks, in pixels; see `spread`."""


def spread(points: NDArray[Any]) -> float:
    """The root mean square distance of chunks (N, T, 2) from the mean chunk.

    >>> spread(np.array([[[3.0, 4.0]], [[-3.0, -4.0]]]))
    5.0
    """
    return float(np.sqrt(np.square(points - points.mean(axis=0)).sum(axis=-1).mean()))


def fan(
    engines: Mapping[str, Engine],
    outcomes: Sequence[Outcome],
    pixels: Pixels,
    *,
    num_samples: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> Fan:
    """Sample chunks of every policy at the moment at which those of the first policy differ most.

    The moments are the predictions of the filmed episodes. The noise of the samples is the same at each moment; an
    engine without noise predicts one chunk. Cost: `num_samples` predictions for each moment. Raises ValueError if no
    episode was filmed.
    """
    from ..rollout import sample_chunks

    moments = [(outcome, chunk) for outcome in outcomes if outcome.frames for chunk in outcome.chunks]
    if not moments:
        raise ValueError("a fan needs a filmed episode, got none: add a seed to `filmed`")

    def sample(engine: Engine, moment: FilmedChunk) -> NDArray[np.float64]:
        chunks = sample_chunks(engine, moment.history, count=num_samples, seed=seed)
        return np.stack([pixels(chunk) for chunk in chunks])

    first, *_ = engines.values()
    sampled = watched(moments, "sample chunks", unit="moments", delay_s=1, is_shown=progress)
    spreads = [spread(sample(first, moment)) for _, moment in sampled]
    outcome, moment = moments[int(np.argmax(spreads))]
    points = {name: sample(engine, moment) for name, engine in engines.items()}
    return Fan(outcome.seed, moment.step, outcome.frames[moment.step], points, max(spreads))


def draw_fan(fan: Fan, names: Sequence[str] = ()) -> bytes:
    """A PNG with a square panel for each named policy, side by side; for all policies if no name is given."""
    from matplotlib.figure import Figure

    names = names or list(fan.points)
    total = len(names) + PANEL_GAP * (len(names) - 1)
    figure = Figure(figsize=(PANEL_INCHES * total, PANEL_INCHES), dpi=180)
    for index, name in enumerate(names):
        axes = figure.add_axes((index * (1 + PANEL_GAP) / total, 0, 1 / total, 1))
        _draw_panel(axes, fan, name)
    file = io.BytesIO()
    figure.savefig(file, format="png", transparent=True)
    return file.getvalue()


def _draw_panel(axes: Any, fan: Fan, name: str) -> None:
    from matplotlib.patheffects import withStroke

    points, colour = fan.points[name], COLOURS[list(fan.points).index(name) % len(COLOURS)]
    height, width = fan.frame.shape[:2]
    (left, right), (top, bottom) = _view(fan)
    grey = fan.frame.mean(axis=2, keepdims=True)
    scene = np.round((0.7 * fan.frame + 0.3 * grey) * NIGHT).astype(np.uint8)
    axes.imshow(scene, extent=(0, width, height, 0), interpolation="bicubic")
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.axis("off")
    if len(points) == 1:
        text, linewidth, alpha, dot = "one chunk", 3.4, 1.0, 6.0
    else:
        text, linewidth, alpha, dot = f"{len(points)} sampled chunks", 1.4, 0.6, 3.2
    _add_chunks(axes, points, colour, linewidth=linewidth, alpha=(alpha, alpha))
    axes.plot(*points[:, -1].T, "o", color=colour, markersize=dot, markeredgewidth=0)
    style: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "parse_math": False}
    style["path_effects"] = [withStroke(linewidth=3, foreground="#2b3245")]
    axes.text(0.04, 0.955, name, color="white", size=15, weight="bold", **style)
    axes.text(0.04, 0.887, text, color="#d9dee8", size=11.5, **style)


def _view(fan: Fan) -> tuple[tuple[float, float], tuple[float, float]]:
    """The square part of the frame around all chunks: (left, right) and (top, bottom)."""
    points = np.concatenate([chunks.reshape(-1, 2) for chunks in fan.points.values()])
    low, high = points.min(axis=0), points.max(axis=0)
    limits = np.array(fan.frame.shape[1::-1], dtype=np.float64)
    side = float(np.clip(1.5 * (high - low).max(), 0.5 * limits.min(), limits.min()))
    corner = np.clip((low + high) / 2 - side / 2, 0, limits - side)
    return (corner[0], corner[0] + side), (corner[1], corner[1] + side)


def _add_chunks(axes: Any, points: NDArray[Any], colour: str, *, linewidth: float, alpha: tuple[float, float]) -> None:
    """Draw chunks (N, T, 2) as lines whose colour and alpha change from start to end."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    along = np.linspace(0, 1, points.shape[1] - 1)[:, None]
    rgb = (1 - along) ** 1.5 * np.array(to_rgb(START_COLOUR)) + (1 - (1 - along) ** 1.5) * np.array(to_rgb(colour))
    rgba = np.concatenate([rgb, alpha[0] + along * (alpha[1] - alpha[0])], axis=1)
    segments = np.stack([points[:, :-1], points[:, 1:]], axis=2).reshape(-1, 2, 2)
    # Round ends close the gaps of a thick line, but look like beads on a translucent one.
    ends = "round" if alpha[0] == 1 else "butt"
    colours = np.tile(rgba, (len(points), 1))
    axes.add_collection(LineCollection(list(segments), colors=colours, linewidths=linewidth, capstyle=ends))
