"""Small data sets in the published layouts of LeRobot, written here file by file from their descriptions."""

import functools
import io
import json
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HEIGHT, WIDTH, FPS = 48, 64, 10
LENGTHS = (7, 5, 9, 4)
TASKS = ("lift the cube", "open the drawer")
CODECS = {
    "av1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12"}),
    "h264": ("libx264", {"g": "6", "crf": "20"}),  # with frames that are not stored in the order of their times
    "hevc": ("libx265", {"g": "8", "crf": "20", "x265-params": "log-level=none"}),
}
COUNTED = ("timestamp", "frame_index", "episode_index", "index", "task_index")


def picture(number):
    """A smooth image (H, W, 3) whose brightness says its number, 0 .. 36; then they repeat."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    base = np.stack([x, y, x + y], -1) * 0.3
    return (base + 6 * (number % 37)).astype(np.uint8)


def number_of(image):
    """The number of a picture, whatever a codec made of it."""
    return int(np.rint((image.astype(float).mean() - picture(0).mean()) / 6))


def vectors(index, length):
    """The columns of an episode, without its images."""
    rng = np.random.default_rng(index)
    return {
        "observation.state": rng.normal(size=(length, 3)).astype(np.float32),
        "observation.matrix": rng.normal(size=(length, 2, 2)).astype(np.float64),
        "action": rng.normal(size=(length, 2)).astype(np.float32),
        "gripper": rng.integers(0, 9, length),
        "next.reward": rng.random(length).astype(np.float32),
        "next.success": np.arange(length) == length - 1 - 100 * (index % 2),
    }


@functools.cache
def encoded(number, size):
    """A picture in PNG; some tests need very many. size: of the pictures now."""
    assert size == (HEIGHT, WIDTH)
    return png(picture(number))


def png(image):
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def write_video(file, numbers, codec="h264", fps=FPS, pixels="yuv420p"):
    """A video of the pictures of these numbers."""
    file.parent.mkdir(parents=True, exist_ok=True)
    name, options = CODECS[codec]
    with av.open(str(file), "w") as container:
        stream = container.add_stream(name, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.time_base = Fraction(1, fps)
        for pts, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def features(*, video):
    """The features of info.json."""
    numbers = {
        "observation.state": ("float32", [3], {"motors": ["waist", "shoulder", "elbow"]}),
        "observation.matrix": ("float64", [2, 2], None),
        "action": ("float32", [2], ["x", "y"]),
        "gripper": ("int64", [1], None),
        "next.reward": ("float32", [1], None),
        "next.success": ("bool", [1], None),
        "timestamp": ("float32", [1], None),
    } | {name: ("int64", [1], None) for name in COUNTED[1:]}
    content = {name: {"dtype": dtype, "shape": shape, "names": n} for name, (dtype, shape, n) in numbers.items()}
    camera = {"dtype": "image", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]}
    if video:
        info = {"video.fps": FPS, "video.codec": video, "video.pix_fmt": "yuv420p", "is_depth_map": False}
        camera |= {"dtype": "video", "info": info}
    return {"observation.images.top": camera} | content


def table(index, length, start, *, video):
    """The rows of an episode. Its pictures have the numbers of its steps, counted over all episodes."""
    columns = dict[str, object]()
    if not video:
        rows = [
            {"bytes": encoded((start + step) % 37, (HEIGHT, WIDTH)), "path": f"frame-{step}.png"}
            for step in range(length)
        ]
        columns["observation.images.top"] = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    for name, values in vectors(index, length).items():
        kind = pa.from_numpy_dtype(values.dtype)
        if name == "observation.matrix":
            columns[name] = pa.array(values.tolist(), pa.list_(pa.list_(kind)))
        elif values.ndim == 2:
            columns[name] = pa.array(values.tolist(), pa.list_(kind, values.shape[1]))
        else:
            columns[name] = pa.array(values)
    steps = np.arange(length)
    columns["timestamp"] = pa.array((steps / FPS).astype(np.float32))
    columns["frame_index"] = pa.array(steps)
    columns["episode_index"] = pa.array(np.full(length, index))
    columns["index"] = pa.array(start + steps)
    columns["task_index"] = pa.array(np.full(length, index % len(TASKS)))
    return pa.table(columns)


def _info(version, lengths, *, video, **more):
    return {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": len(TASKS),
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{len(lengths)}"},
        "features": features(video=video),
    } | more


def write_v2(root, version="v2.1", video="", lengths=LENGTHS, chunk=3):
    """Files of each episode. video: its codec, or nothing for images in the tables. chunk: episodes in a folder."""
    starts = np.cumsum([0, *lengths])
    for index, (length, start) in enumerate(zip(lengths, starts, strict=False)):
        name = f"chunk-{index // chunk:03d}", f"episode_{index:06d}"
        data = root / "data" / name[0] / f"{name[1]}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(index, length, start, video=video), data)
        if video:
            file = root / "videos" / name[0] / "observation.images.top" / f"{name[1]}.mp4"
            write_video(file, range(start, start + length), video)
    meta = root / "meta"
    meta.mkdir()
    path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    videos = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    info = _info(version, lengths, video=video, chunks_size=chunk, data_path=path, video_path=videos if video else None)
    (meta / "info.json").write_text(json.dumps(info))
    tasks = [json.dumps({"task_index": index, "task": task}) for index, task in enumerate(TASKS)]
    (meta / "tasks.jsonl").write_text("\n".join(tasks) + "\n")
    rows = [{"episode_index": i, "tasks": [TASKS[i % 2]], "length": length} for i, length in enumerate(lengths)]
    (meta / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    return root


def write_v3(root, video="", lengths=LENGTHS, files=((0, 1, 2), (3,)), row_group=4, tasks="task"):
    """Files of several episodes each. row_group: rows in one, so that groups and episodes end at different rows.

    tasks: the name of the column of tasks, which some versions leave to pandas.
    """
    starts, rows = np.cumsum([0, *lengths]), []
    for number, episodes in enumerate(files):
        data = root / f"data/chunk-000/file-{number:03d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        tables = [table(index, lengths[index], starts[index], video=video) for index in episodes]
        pq.write_table(pa.concat_tables(tables), data, row_group_size=row_group)
        first = starts[episodes[0]]
        if video:
            file = root / f"videos/observation.images.top/chunk-000/file-{number:03d}.mp4"
            write_video(file, range(first, starts[episodes[-1] + 1]), video)
        rows += [_episode(index, lengths[index], starts[index], number, first, video=video) for index in episodes]
    meta = root / "meta"
    (meta / "episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), meta / "episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": list(range(len(TASKS))), tasks: list(TASKS)}), meta / "tasks.parquet")
    path = "{chunk}chunk-{{chunk_index:03d}}/file-{{file_index:03d}}.{kind}"
    videos = path.format(chunk="videos/{video_key}/", kind="mp4") if video else None
    info = _info("v3.0", lengths, video=video, data_path=path.format(chunk="data/", kind="parquet"), video_path=videos)
    (meta / "info.json").write_text(json.dumps(info))
    return root


def _episode(index, length, start, number, first, *, video):
    row = {
        "episode_index": index,
        "tasks": [TASKS[index % 2]],
        "length": length,
        "data/chunk_index": 0,
        "data/file_index": number,
        "dataset_from_index": int(start),
        "dataset_to_index": int(start + length),
    }
    if video:
        begin = float(start - first) / FPS
        names = {"chunk_index": 0, "file_index": number, "from_timestamp": begin, "to_timestamp": begin + length / FPS}
        row |= {f"videos/observation.images.top/{name}": value for name, value in names.items()}
    return row


def change_info(root, **changes):
    """Change entries of info.json."""
    file = root / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_episodes(root, episode, **changes):
    """Change the row of an episode in the table of v3.0."""
    file = root / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[episode] |= changes
    pq.write_table(pa.Table.from_pylist(rows), file)
