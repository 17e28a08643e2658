"""Films, fans and the report show the measured values, and the page needs no other file."""

import io
import json
import re
import subprocess
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import gymnasium
import numpy as np
import pytest
import torch
from recede.envs.task import Task
from recede.evaluation.episode import Outcome
from recede.evaluation.evaluate import Evaluation
from recede.evaluation.reports.charts import Series, curve
from recede.evaluation.reports.entry import Entry, Film
from recede.evaluation.reports.evaluation import installed_versions, verdict, write_report
from recede.evaluation.reports.pictures import draw_fan, fan, film, spread, stills
from recede.evaluation.rollout import rollout
from recede.execution.receding import RecedingHorizon
from recede.policy.engines.eager import as_engine
from recede.specification import Horizons, Specification, Stream

SPECIFICATION = Specification(
    (Stream("position", (2,), low=0, high=1),), Stream("action", (2,), low=0, high=1), control_dt=0.1
)
HORIZONS = Horizons(observation=2, prediction=8, action=4)
GOAL = 0.9


class Walk(gymnasium.Env):
    """A point walks to the right edge; the scene is grey with the point in red, and blue at the goal."""

    observation_space = gymnasium.spaces.Dict({"position": gymnasium.spaces.Box(0, 1, (2,), np.float32)})
    action_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)

    def __init__(self, render_mode=None, *, height=96, width=96):
        self.render_mode, self.height, self.width = render_mode, height, width

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = np.array([0.05, self.np_random.uniform(0.4, 0.6)])
        return self.observation(), {"success": False, "score": 0.0}

    def step(self, action):
        self.position = np.clip(action, 0, 1)
        success = bool(self.position[0] >= GOAL)
        score = float(self.position[0])
        return self.observation(), 0.0, success, False, {"success": success, "score": score}

    def observation(self):
        return {"position": self.position.astype(np.float32)}

    def render(self):
        image = np.full((self.height, self.width, 3), 128, np.uint8)
        if self.position[0] >= GOAL:
            image[:] = (20, 40, 200)
        column, row = self.pixels(self.position[None])[0].astype(int)
        image[row - 3 : row + 3, column - 3 : column + 3] = (180, 20, 20)
        return image

    def pixels(self, actions):
        return np.asarray(actions)[:, :2] * (self.width, self.height)


class Forked:
    """Walks right; in the middle of the scene, and only there, its noise decides between up and down."""

    specification, horizons, noise_shape = SPECIFICATION, HORIZONS, (1, HORIZONS.prediction, 2)

    def predict(self, observation, noise, guidance=()):
        now = observation["position"][:, -1]
        steps = torch.arange(-1, HORIZONS.prediction - 1) * 0.04
        chunk = now[:, None] + torch.stack([steps, 0 * steps], dim=1)
        doubt = torch.exp(-(((now[:, :1] - 0.5) / 0.1) ** 2))
        chunk[..., 1] += doubt * noise[0, :, :1, 0].sign() * torch.linspace(0, 0.3, HORIZONS.prediction)
        return chunk


class Straight(Forked):
    """Walks right, without noise."""

    noise_shape = (0, HORIZONS.prediction, 2)

    def predict(self, observation, noise, guidance=()):
        return super().predict(observation, torch.zeros(1, len(observation["position"]), HORIZONS.prediction, 2))


@pytest.fixture(scope="module")
def walked():
    """Three episodes, two of them filmed."""
    task = Task("walk", SPECIFICATION, 100, Walk)
    execution = partial(RecedingHorizon, HORIZONS)
    options = {"execution": execution, "filmed": {8: None, 9: None}, "progress": False}
    return rollout(as_engine(Straight()), task, [7, 8, 9], **options)


def read(path):
    """The frames of a film (T, H, W, 3), and its description by ffmpeg."""
    from imageio_ffmpeg import get_ffmpeg_exe

    command = [get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    process = subprocess.run(command, capture_output=True, check=True)
    stream = re.search(r"Stream #0:0.*Video: .*", process.stderr.decode())[0]
    width, height = map(int, re.search(r", (\d+)x(\d+)", stream).groups())
    return np.frombuffer(process.stdout, np.uint8).reshape(-1, height, width, 3), stream


def measured(rate=0.6, episodes=10, **more):
    outcomes = [
        Outcome(100 + i, i < rate * episodes, 1.0 if i < rate * episodes else 0.25, 40 + i) for i in range(episodes)
    ]
    evaluation = Evaluation("walk", 3, outcomes, 12.5, {"p50_ms": 4.5, "p95_ms": 5.0, "p99_ms": 6.25}, "a CPU")
    return json.loads(json.dumps(evaluation.to_json())) | more


METRICS = (
    [{"step": 50 * n, "loss": 1 / n, "data_s": 0.5, "update_s": 2.0} for n in range(1, 9)]
    + [{"step": 50 * n, "action_error": 0.2 / n} for n in range(1, 9)]
    + [{"step": 200, "success_rate": 0.5, "mean_score": 0.7, "episodes": 20}]
)


class Page(HTMLParser):
    """The content of a page; fails if elements are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.strings, self.ids, self._open = [], [], [], [], []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster", "action")]
        self.ids += [value for name, value in attrs if name == "id"]
        assert all(re.fullmatch("(?!on)[a-z0-9-]+", name) for name, _ in attrs), attrs
        if tag not in ("meta", "link", "img", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.strings.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.strings)).replace("\u2060", "").replace("\xa0", " ")


def written(folder, entries, **more):
    path = folder / "report.html"
    arguments = {"title": "A walk", "command": "recede evaluate runs/walk", "versions": {"python": "3"}} | more
    write_report(path, entries, **arguments)
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("height", "width", "shown"), [(96, 96, (384, 384)), (385, 401, (386, 402))])
def test_a_film_holds_every_frame_and_the_last_one_for_a_second(tmp_path, walked, height, width, shown):
    env = Walk(height=height, width=width)
    frames = {step: np.resize(frame[:1, :1], (height, width, 3)) for step, frame in walked[1].frames.items()}
    film(replace(walked[1], frames=frames), tmp_path / "walk.mp4", fps=10, pixels=env.pixels)
    frames, stream = read(tmp_path / "walk.mp4")
    assert frames.shape == (walked[1].num_steps + 1 + 10, *shown, 3)
    assert all(word in stream for word in ("h264", "yuv420p", "10 fps"))
    goal, before = frames[-11:, 10, 10].astype(int), frames[-12, 10, 10].astype(int)
    assert np.abs(goal - (20, 40, 200)).max() < 12  # the frame of success, and not the one before it
    assert np.abs(before - 128).max() < 12
    assert [path.name for path in tmp_path.iterdir()] == ["walk.mp4"]


def test_a_film_shows_the_current_chunk(tmp_path, walked):
    outcome, env = walked[1], Walk()
    film(outcome, tmp_path / "drawn.mp4", fps=10, pixels=env.pixels)
    film(outcome, tmp_path / "plain.mp4", fps=10, pixels=None)
    drawn, plain = (read(tmp_path / name)[0].astype(int) for name in ("drawn.mp4", "plain.mp4"))
    is_drawn = np.abs(drawn - plain).max(axis=-1) > 40
    for step in (0, 5, 9):
        chunk = [chunk for chunk in outcome.chunks if chunk.step <= step][-1]
        low, high = np.floor(4 * env.pixels(chunk.actions)[[0, -1], 0])
        columns = np.flatnonzero(is_drawn[step].any(axis=0))
        assert abs(columns.min() - max(low, 0)) < 8, step
        assert abs(columns.max() - high) < 8, step
        assert np.abs(np.flatnonzero(is_drawn[step].any(axis=1)) - 384 * chunk.actions[0, 1]).max() < 8, step


def test_stills_show_the_chunk_of_their_moment_and_are_small(walked):
    """Whatever frames there are: that of step 14 has the chunk of step 12, as in the film."""
    from PIL import Image

    outcome, env = walked[1], Walk(height=960, width=960)
    frames = {step: np.full((960, 960, 3), 128, np.uint8) for step in (1, 14)}
    for step, still in stills(replace(outcome, frames=frames), pixels=env.pixels).items():
        image = np.asarray(Image.open(io.BytesIO(still))).astype(int)
        assert image.shape == (320, 320, 3)
        chunk = [chunk for chunk in outcome.chunks if chunk.step <= step][-1]
        columns = np.flatnonzero((np.abs(image - 128).max(axis=-1) > 40).any(axis=0))
        low, high = 320 * chunk.actions[[0, -1], 0]
        assert (abs(columns.min() - max(low, 0)) < 8, abs(columns.max() - high) < 8) == (True, True), step


def test_an_episode_without_frames_is_an_error(tmp_path, walked):
    with pytest.raises(ValueError, match="episode 7 has no frames"):
        film(walked[0], tmp_path / "walk.mp4", fps=10, pixels=None)
    with pytest.raises(ValueError, match="needs a filmed episode"):
        fan({"forked": as_engine(Forked())}, walked[:1], Walk().pixels, progress=False)


def test_a_film_that_fails_leaves_nothing(tmp_path, walked):
    def pixels(actions):
        raise ValueError("no such pixels")

    with pytest.raises(ValueError, match="no such pixels"):
        film(walked[1], tmp_path / "walk.mp4", fps=10, pixels=pixels)
    assert not list(tmp_path.iterdir())


def test_a_fan_is_sampled_at_the_largest_spread_of_the_first_policy(walked):
    sampled = fan(
        {"forked": as_engine(Forked()), "straight": as_engine(Straight())},
        walked,
        Walk().pixels,
        num_samples=20,
        progress=False,
    )
    outcome = next(outcome for outcome in walked if outcome.seed == sampled.seed)
    away = {chunk.step: abs(chunk.history["position"][-1, 0] - 0.5) for chunk in outcome.chunks}
    assert away[sampled.step] == min(away.values())
    np.testing.assert_array_equal(sampled.frame, outcome.frames[sampled.step])
    assert sampled.points["forked"].shape == (20, 8, 2)
    assert sampled.points["straight"].shape == (1, 8, 2)
    ends = sampled.points["forked"][:, -1, 1]
    assert len(set(np.sign(ends - sampled.points["straight"][0, -1, 1]))) == 2  # both ways are among the samples
    assert sampled.spread == pytest.approx(spread(sampled.points["forked"]))


def test_a_fan_depends_on_its_seed_alone(walked):
    first, again, other = (
        fan({"forked": as_engine(Forked())}, outcomes, Walk().pixels, seed=seed, progress=False)
        for outcomes, seed in ((walked, 0), (walked[::-1], 0), (walked, 1))
    )
    np.testing.assert_array_equal(first.points["forked"], again.points["forked"])
    assert not np.array_equal(first.points["forked"], other.points["forked"])


def test_the_picture_of_a_fan_has_a_panel_for_each_policy_and_shows_every_chunk(walked):
    sampled = fan(
        {"forked": as_engine(Forked()), "straight": as_engine(Straight())}, walked, Walk().pixels, progress=False
    )
    both, one = (_pixels_of(draw_fan(sampled, names)) for names in ((), ["forked"]))
    assert both.shape[1] == pytest.approx(2 * one.shape[1], rel=0.02)
    assert both.shape[0] == one.shape[0] == one.shape[1]
    for panel, colour, parts in ((0, (255, 106, 193), 2), (1, (79, 216, 255), 1)):
        start = panel * (both.shape[1] - one.shape[1])
        is_coloured = np.abs(both[:, start : start + len(one)].astype(int) - colour).max(axis=-1) < 25
        rows = np.flatnonzero(is_coloured.any(axis=1))
        assert len(rows)
        assert (np.diff(rows) > len(one) / 10).sum() == parts - 1, colour  # the two ways end far apart


def _pixels_of(png):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize("num_policies", [1, 2])
def test_the_page_stands_on_its_own(tmp_path, walked, num_policies):
    film(walked[1], tmp_path / "walk.mp4", fps=10, pixels=Walk().pixels)
    names = ["diffusion", "regression"][:num_policies]
    entries = [Entry(name=name, evaluation=measured(), metrics=METRICS, num_parameters=4_612_345) for name in names]
    strip = stills(replace(walked[1], frames={0: walked[1].frames[0], 5: walked[1].frames[5]}), pixels=Walk().pixels)
    more = {"films": {103: Film(tmp_path / "walk.mp4", strip[5])}, "strips": {107: strip}}
    entries[0] = replace(entries[0], **more)
    sampled = fan(dict.fromkeys(names, as_engine(Forked())), walked, Walk().pixels, progress=False)
    text = written(
        tmp_path,
        entries,
        fan=sampled,
        next_steps=[("recede evaluate runs/walk episodes=200", "Narrow the interval.")],
        versions=installed_versions(),
    )
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[\w+/=]+", "", text))
    assert page.links
    assert len(set(page.ids)) == len(page.ids)
    assert all(link.startswith("data:") or link.removeprefix("#") in page.ids for link in page.links)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert page.tags.count("img") == num_policies + 2
    assert page.tags.count("video") == 1
    assert page.tags.count("article") == num_policies
    for text in ("6 of 10 episodes", "60 % (31–83 %)", "4.61 M", "4.5 ms", "6.25 ms", "20 s", "100–109", "noise 3"):
        assert text in page.text, text
    for text in ("recede evaluate runs/walk", "Narrow the interval.", "seed 107: no success, score 0.25, 47 steps"):
        assert text in page.text, text
    assert page.strings.count("Success during training") == 1


def rows(page, place=0):
    """The rows of a table: (seed, ranks by the column to sort by)."""
    lines = re.findall(rf'<tr id="episode-{place}-(\d+)"[^>]* style="([^"]*)"', page)
    return [
        (int(seed), {key[2:]: int(rank) for key, rank in re.findall(r"(--\w+): (\d+)", style)}) for seed, style in lines
    ]


def test_a_reader_sorts_the_episodes_without_a_script(tmp_path):
    evaluation = measured(steps=[40, 41, 39, 43, 44, 45, 46, 40, 48, 49])
    evaluation["score"][8] = 0.1
    evaluation["phase"] = [None] * 6 + ["lost", "at the wall", "lost", "at the wall"]
    page = written(tmp_path, [Entry(name="a", evaluation=evaluation)])
    columns = {
        "score": [108, 109, 106, 107, 105, 104, 103, 101, 100, 102],  # failures first, and the slower of two alike
        "seed": list(range(100, 110)),
        "steps": [102, 100, 107, 101, 103, 104, 105, 106, 108, 109],
        "phase": [107, 109, 106, 108, *range(100, 106)],
    }
    for key, expected in columns.items():
        assert [seed for seed, _ in sorted(rows(page), key=lambda row: row[1][key])] == expected, key
        assert f"#by-{key}:checked ~ .tables tbody tr {{ order: var(--{key}); }}" in page
        assert re.search(rf'<input type="radio" name="order" id="by-{key}"', page)
        assert f'<label for="by-{key}">{key}</label>' in page
    assert [seed for seed, _ in rows(page)] == columns["score"]  # also where nothing is styled
    assert page.count(' checked=""') == 1
    assert "by-phase" not in written(tmp_path, [Entry(name="a", evaluation=measured())]).split("<body>")[1]


def test_a_table_has_the_worst_of_very_many_episodes(tmp_path, monkeypatch):
    monkeypatch.setattr("recede.evaluation.reports.episodes.MOST_ROWS", 3)
    page = written(tmp_path, [Entry(name="a", evaluation=measured())])
    assert [seed for seed, _ in rows(page)] == [109, 108, 107]
    assert "the 3 worst of 10 episodes" in page


def test_an_episode_leads_to_its_film_or_its_strip(tmp_path, walked):
    film(walked[1], tmp_path / "walk.mp4", fps=10, pixels=None)
    entry = Entry(
        name="a", evaluation=measured(), films={103: Film(tmp_path / "walk.mp4", b"")}, strips={107: {3: b""}}
    )
    page = written(tmp_path, [Entry(name="b", evaluation=measured()), entry])
    assert re.findall(r'<td><a href="#([^"]*)">(\w+)</a>', page) == [
        ("strip-episode-1-107", "strip"),
        ("film-episode-1-103", "film"),
    ]
    for kind in ("film-episode-1-103", "strip-episode-1-107"):
        assert f'id="{kind}"' in page
        assert f'<a href="#{kind.split("-", 1)[1]}">seed' in page  # and back to the row


def test_what_is_missing_is_said(tmp_path):
    text = "there are no film strips, because the task has no pictures here (no <window>)"
    page = Page(written(tmp_path, [Entry(name="a", evaluation=measured(), missing=[text])]))
    assert f"a: {text}." in page.text
    assert page.strings.count("The worst episodes") == 1
    assert "The worst episodes" not in Page(written(tmp_path, [Entry(name="a", evaluation=measured())])).strings


def test_a_long_command_does_not_widen_the_page(tmp_path):
    """A grid column is as wide as its longest line unless its minimum is 0."""
    rules = re.findall(r"{([^}]*grid[^}]*)}", written(tmp_path, [Entry(name="a", evaluation=measured())]))
    assert len(rules) >= 4
    for rule in rules:
        columns = re.search(r"grid-template-columns: ([^;]*)", rule)[1]
        assert "1fr" not in columns.replace("minmax(0, 1fr)", "").replace("minmax(min(100%, 17rem), 1fr)", "")


def test_every_rate_is_shown_with_its_interval_and_episodes():
    few, many = (Entry(name="a", evaluation=measured(rate, episodes)) for rate, episodes in ((0.2, 10), (0.9, 100)))
    assert verdict([few]) == "A succeeded in 2 of 10 episodes of walk, 20 % (95 % interval 6–51 %)."
    assert verdict([few, many]).endswith("a succeeded in 90 of 100 episodes of walk, 90 % (95 % interval 83–94 %). "
                                         "The intervals do not overlap. Each policy is one training of its recipe; "
                                         "with another seed it may be better or worse.")  # fmt: skip
    assert "The intervals overlap: more episodes may separate them. " in verdict([few, few])


def test_a_rate_of_unknown_episodes_is_not_shown(tmp_path):
    metrics = [line for line in METRICS if "success_rate" not in line] + [{"step": 200, "success_rate": 0.5}]
    text = written(tmp_path, [Entry(name="a", evaluation=measured(), metrics=metrics)])
    assert "Success during training" not in text
    assert "Held-out action error" in text


def test_without_metrics_and_pictures_there_is_still_a_report(tmp_path):
    evaluation = measured()
    page = Page(written(tmp_path, [Entry(name="a", evaluation=evaluation)]))
    assert "Learning" not in page.strings
    assert "Sampled action chunks" not in page.strings
    assert "Films" not in page.strings
    assert "Next" not in page.strings
    assert "Every episode" in page.strings
    assert not re.search(r"\b(nan|inf|None)\b", page.text)


HOSTILE = "<script>alert('x')</script> & \"$title\" ${x}"


def test_every_string_is_escaped(tmp_path, walked):
    pages = []
    for text, name in ((HOSTILE, HOSTILE.replace("/", "")), ("harmless", "harmless")):
        path = tmp_path / f"{name}.mp4"
        film(walked[1], path, fps=10, pixels=None)
        pictures = {"films": {101: Film(path, b"")}, "strips": {108: {3: b""}}, "missing": [text]}
        entry = Entry(
            name=text,
            evaluation=measured(task=text, checkpoint=text, phase=[None] * 6 + [text] * 4),
            metrics=METRICS,
            **pictures,
        )
        arguments = {"title": text, "command": text, "versions": {text: text}, "next_steps": [(text, text)]}
        sampled = fan({text: as_engine(Forked())}, walked, Walk().pixels, progress=False)
        pages.append(Page(written(tmp_path, [entry], **arguments, fan=sampled)))
    hostile, harmless = pages
    assert hostile.tags == harmless.tags
    assert hostile.text == harmless.text.replace("harmless", HOSTILE).replace("Harmless", HOSTILE)


def test_films_beyond_the_limit_are_linked(tmp_path, walked, monkeypatch):
    (tmp_path / "my films").mkdir()
    paths = tmp_path / "first.mp4", tmp_path / "my films" / "second#1.mp4"
    for path in paths:
        film(walked[1], path, fps=10, pixels=None)
    monkeypatch.setattr("recede.evaluation.reports.episodes.EMBEDDED_BYTES", paths[0].stat().st_size)
    films = {101: Film(paths[0], b""), 102: Film(paths[1], b"")}
    page = Page(written(tmp_path, [Entry(name="a", evaluation=measured(), films=films)]))
    assert page.tags.count("video") == 1
    assert [link for link in page.links if link[0] not in "#d"] == ["my%20films/second%231.mp4"]


def test_a_report_appears_whole_or_not_at_all(tmp_path):
    before = written(tmp_path, [Entry(name="a", evaluation=measured())])
    gone = Entry(name="b", evaluation=measured(), films={101: Film(tmp_path / "gone.mp4", b"")})
    with pytest.raises(FileNotFoundError):
        written(tmp_path, [gone])
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_an_incomplete_evaluation_is_an_error(tmp_path):
    with pytest.raises(
        ValueError, match=r"'a' must be the content of an evaluation.json, it lacks \['wall_s', 'seeds'\]"
    ):
        Entry(name="a", evaluation={key: value for key, value in measured().items() if key not in ("wall_s", "seeds")})
    with pytest.raises(ValueError, match="got none"):
        written(tmp_path, [])


def test_a_curve_puts_values_where_its_axes_say():
    drawn = curve([Series(1, [(0, 0.0), (50, 5.0), (100, 10.0)])], label="x")
    assert 'd="M40.0 164.0L176.0 88.0L312.0 12.0"' in drawn
    assert re.findall(r">([\d.]+)</text>", drawn)[:6] == ["0", "2", "4", "6", "8", "10"]
    logarithmic = curve([Series(0, [(0, 100.0), (100, 0.01)])], label="x", is_log=True)
    heights = [float(y) for y in re.findall(r'class="grid" d="M40 ([\d.]+)H', logarithmic)]
    assert re.findall(r'text-anchor="end">([\d.]+)<', logarithmic) == ["0.01", "0.1", "1", "10", "100"]
    np.testing.assert_allclose(heights, np.linspace(164, 12, 5))


def test_curves_of_one_or_equal_points_are_drawn():
    for points in ([(10, 0.5)], [(10, 0.0)], [(10, 0.3), (20, 0.3)]):
        assert "nan" not in curve([Series(0, points)], label="x")
    assert "nan" not in curve([Series(0, [(10, 0.3), (20, 0.3)])], label="x", is_log=True)


def test_spread_is_that_of_the_closed_form():
    rng = np.random.default_rng(0)
    points = rng.normal(scale=3, size=(20_000, 4, 2)) + rng.normal(size=(4, 2)) * 100
    assert spread(points) == pytest.approx(3 * 2**0.5, rel=0.02)
    assert spread(points[:1]) == 0
