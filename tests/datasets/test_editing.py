"""Edited demonstrations keep every promise, and a copy is what was to be written, or it is none."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.datasets import copying, edits
from recede.datasets.check import check_demonstrations
from recede.datasets.copying import copy, origin, source_digest, unfinished
from recede.datasets.cutting import Cut, cut
from recede.datasets.demonstrations import Demonstrations
from recede.datasets.episode_writer import EpisodeWriter
from recede.datasets.facts import EpisodeFacts
from recede.datasets.filters import Both, Comparison, Not, matches, parse
from recede.datasets.image_codec import IMAGE_COMPRESSIONS, as_stored
from recede.datasets.quality import idle_steps, measure
from recede.datasets.step_conditions import STEPS
from recede.datasets.store import DemonstrationStore
from recede.specification import Specification, Stream
from stores import SPECIFICATION, assert_episodes, make_episode

NOTES = {"led": [[0, 3], [6, 9]], "skews": {"gripper": 0.1, "contact": 0.0}, "begun": "today"}
FACTS = EpisodeFacts(outcome="success", operator="Ada", rates={"gripper": 9.0, "contact": 4.0}, notes=NOTES)


def make(path, lengths=(10, 4, 9), facts=FACTS):
    store = DemonstrationStore.create(path, SPECIFICATION)
    for seed, length in enumerate(lengths):
        episode = make_episode(seed, length)
        episode["gripper"] = episode["gripper"].clip(-0.5, 0.5)
        store.append(episode, seed=seed, facts=facts if seed == 0 else EpisodeFacts(operator=f"{seed}"))
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("edited") / "demos.zarr")


def no_idle(store):
    return np.zeros((len(store), 2), dtype=np.int64)


comparisons = st.builds(
    Comparison,
    st.sampled_from(["step", "left", "seconds", "gripper.x", "contact[0]", "action[1]"]),
    st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
    st.sampled_from(["0", "1", "4", "0.25", "-1e-1"]),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.builds(Not, inner) | st.builds(Both, st.sampled_from(["and", "or"]), inner, inner),
    max_leaves=4,
)


@given(conditions)
@settings(max_examples=20, deadline=None)
def test_the_runs_of_steps_that_fulfil_a_condition_become_episodes(store, condition):
    assert parse(str(condition), subject=STEPS) == condition
    expected = []
    for index in range(len(store)):
        whole, run = store.episode(index), []
        length = len(whole["action"])
        for step in range(length + 1):
            row = {"step": step, "left": length - 1 - step, "seconds": 0.1 * step}
            if step < length:
                row |= {"gripper.x": float(whole["gripper"][step, 0]), "action[1]": float(whole["action"][step, 1])}
                row |= {"contact[0]": float(whole["contact"][step, 0])}
            if step < length and matches(condition, row):
                run.append(step)
            elif run:
                expected.append({name: values[run] for name, values in whole.items()})
                run = []
    if expected:
        assert_episodes(cut(store, condition, no_idle(store)), expected)
    else:
        with pytest.raises(ValueError, match=r"no step of 3 episodes fulfils steps="):
            cut(store, condition, no_idle(store))


def test_a_piece_has_the_seed_of_its_start_the_outcome_of_its_end_and_who_led_it(store):
    pieces = cut(store, parse("step!=4", subject=STEPS), no_idle(store))
    check_demonstrations(pieces)
    assert pieces.episode_lengths.tolist() == [4, 5, 4, 4, 4]
    assert pieces.episode_seeds.tolist() == [0, -1, 1, 2, -1]
    assert [facts.outcome for facts in pieces.episode_facts][:2] == ["unknown", "success"]
    assert [facts.notes.get("led") for facts in pieces.episode_facts][:3] == [[[0, 3]], [[1, 4]], None]
    assert pieces.episode_facts[1].notes["begun"] == "today"
    assert pieces.content("image") != cut(store, parse("step!=5", subject=STEPS), no_idle(store)).content("image")
    trimmed = cut(store, None, np.array([[2, 3], [0, 0], [0, 1]]))
    assert trimmed.episode_lengths.tolist() == [5, 4, 8]
    assert [facts.outcome for facts in trimmed.episode_facts][:1] == ["success"]  # what was cut off was idle
    with pytest.raises(ValueError, match=r"demos.zarr: steps have no 'griper.x': did you mean 'gripper.x'\?"):
        cut(store, parse("griper.x<1", subject=STEPS), no_idle(store))


def test_idle_ends_are_those_of_the_quality_page_and_are_none_afterwards(tmp_path):
    idle = DemonstrationStore.create(tmp_path / "idle", SPECIFICATION)
    for seed, (start, end) in enumerate([(12, 0), (0, 15), (9, 9), (20, 10), (0, 0), (0, 0)]):
        episode = make_episode(seed, 30)
        moving = np.linspace(-0.4, 0.4, 30)[:, None] * [1, -1, 1]
        episode |= {"gripper": moving, "action": moving[:, :2], "contact": np.zeros((30, 1), bool)}
        padded = {name: np.concatenate([rows[:1].repeat(start, 0), rows]) for name, rows in episode.items()}
        padded = {name: np.concatenate([rows, rows[-1:].repeat(end, 0)]) for name, rows in padded.items()}
        idle.append({name: rows.astype(SPECIFICATION_DTYPES[name]) for name, rows in padded.items()}, seed=seed)
    still = {name: rows[:1].repeat(14, 0) for name, rows in idle.episode(0).items()}
    idle.append(still)
    steps, measures = idle_steps(idle), measure(idle)
    assert steps[:-1].tolist() == [[12, 0], [0, 15], [0, 0], [20, 10], [0, 0], [0, 0]]
    assert steps[-1].tolist() == [0, 0]  # nothing would be left of it
    seconds = np.stack([measures.idle_start, measures.idle_end], axis=1)
    np.testing.assert_allclose(0.1 * steps[:-1], np.where(seconds >= 1 - 1e-9, seconds, 0)[:-1], atol=1e-9)
    trimmed = cut(idle, None, steps)
    assert trimmed.episode_lengths.tolist() == [30, 30, 48, 30, 30, 30, 14]
    assert not idle_steps(trimmed).any()


SPECIFICATION_DTYPES = {stream.name: stream.dtype for stream in SPECIFICATION.streams}


def test_renamed_streams_take_their_measures_along(store):
    renamed = edits.Renamed(store, {"gripper": "hand", "nowhere": "else"}, ["image", "hand"])
    check_demonstrations(renamed)
    assert [stream.name for stream in renamed.specification.streams] == ["hand", "image", "action"]
    assert renamed.specification.observations[0].labels == ("x", "y", "z")
    assert renamed.episode_facts[0].rates == {"hand": 9.0}
    assert renamed.episode_facts[0].notes["skews"] == {"hand": 0.1}
    assert renamed.content("hand") == store.content("gripper")
    np.testing.assert_array_equal(renamed.read("hand"), store.read("gripper"))
    swapped = edits.Renamed(store, {"gripper": "contact", "contact": "gripper"})
    np.testing.assert_array_equal(swapped.read("contact"), store.read("gripper"))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda store: edits.Renamed(store, {"gripper": "image"}), "would call two streams 'image': give them"),
        (lambda store: edits.Renamed(store, {"gripper": "action"}), "would call two streams 'action'"),
        (lambda store: edits.Renamed(store, {"gripper": "The Hand"}), "lower-case identifier, got 'The Hand'"),
        (lambda store: edits.Renamed(store, {}, ["imge"]), "no observation 'imge' to keep: did you mean 'image'"),
        (lambda store: edits.Resized(store, {"gripper": (4, 4)}), r"resize.gripper needs images, got float32\[3\]"),
        (lambda store: edits.Resized(store, {"imag": (4, 4)}), "no stream 'imag': did you mean 'image'"),
    ],
)
def test_what_no_edit_can_be_is_refused(store, build, words):
    with pytest.raises(ValueError, match=words):
        build(store)


def test_images_of_another_size_show_the_same_scene(tmp_path, store):
    resized = edits.Resized(store, {"image": (4, 3)})
    check_demonstrations(resized)
    assert resized.read("image", 2, 5).shape == (3, 4, 3, 3)
    assert resized.content("image") != store.content("image")
    assert resized.content("gripper") == store.content("gripper")
    flat = DemonstrationStore.create(tmp_path / "flat", SPECIFICATION)
    half = np.zeros((1, 8, 6, 3), np.uint8)
    half[:, :, 3:] = [10, 100, 200]
    flat.append(make_episode(0, 1) | {"image": half})
    image = edits.Resized(flat, {"image": (16, 12)}).read("image")[0]
    assert image.shape == (16, 12, 3)
    assert (image[:, :5] == 0).all()
    assert (image[:, 7:] == [10, 100, 200]).all()


@given(st.integers(1, 4000), st.sampled_from(IMAGE_COMPRESSIONS), st.integers(0, 3), conditions)
@settings(max_examples=5, deadline=None)
def test_a_copy_has_every_bit_of_what_is_copied_in_pieces_of_any_size(
    store, tmp_path_factory, piece_bytes, images, begun, condition
):
    try:
        edited = cut(store, condition, no_idle(store))
    except ValueError:  # it holds for no step
        edited = store
    path = tmp_path_factory.mktemp("copy") / "new.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "PIECE_BYTES", piece_bytes)
        if begun:  # by an earlier process
            copying._begin(edited, unfinished(path), images=images, provenance={"command": "edit"})
            partial = DemonstrationStore.open(unfinished(path))
            for index in range(min(begun, len(edited))):
                facts = edited.episode_facts[index]
                partial.append(edited.episode(index), seed=int(edited.episode_seeds[index]), facts=facts)
        copy(edited, path, images=images, provenance={"command": "edit"})
    new, episodes = DemonstrationStore.open(path), [edited.episode(index) for index in range(len(edited))]
    camera = SPECIFICATION.observations[1]
    episodes = [episode | {"image": as_stored(episode["image"], camera, images)} for episode in episodes]
    assert_episodes(new, episodes)
    assert new.images == images
    assert new.provenance == {"command": "edit"}
    assert new.episode_seeds.tolist() == edited.episode_seeds.tolist()
    assert list(new.episode_facts) == list(edited.episode_facts)
    assert [entry.name for entry in path.parent.iterdir()] == ["new.zarr"]
    assert not (path / ".lock").exists()


class Long(Demonstrations):
    """Black images that nobody keeps."""

    specification = Specification((Stream("top", (512, 512, 3), "uint8"),), Stream("action", (2,)), control_dt=0.1)
    path = Path("long")

    @property
    def episode_facts(self):
        return (EpisodeFacts(), EpisodeFacts())

    def __init__(self, steps):
        self.episode_ends, self.episode_seeds = np.array([10, steps]), np.array([-1, -1])

    def content(self, name):
        return name

    def read(self, name, start=0, stop=None):
        stream = self.stream(name)
        return np.zeros(((stop or self.num_steps) - start, *stream.shape), stream.dtype)


def test_a_copy_takes_the_memory_of_a_few_pieces_however_long_an_episode_is(tmp_path):
    tracemalloc.start()
    copy(Long(85), tmp_path / "new.zarr", images="zstd", provenance={})  # 67 MB
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * copying.PIECE_BYTES


@pytest.mark.parametrize("fault", ["rows", "facts"])
def test_what_does_not_come_back_as_it_was_to_be_written_is_no_copy(store, tmp_path, monkeypatch, fault):
    add, keep = EpisodeWriter.add, EpisodeWriter.keep

    def add_another(self, streams):
        add(self, {**streams, "gripper": streams["gripper"] + np.float32(1e-6)})

    monkeypatch.setattr(EpisodeWriter, "add", add_another if fault == "rows" else add)
    if fault == "facts":
        monkeypatch.setattr(EpisodeWriter, "keep", lambda self, *, seed, facts: keep(self, seed=seed))
    words = "'gripper' of episode 0 does not come back" if fault == "rows" else "facts of the episodes do not come back"
    with pytest.raises(ValueError, match=rf"new.unfinished.zarr: .*{words} .*: .*delete the folder and repeat"):
        copy(store, tmp_path / "new.zarr", images="zstd", provenance={})
    assert not (tmp_path / "new.zarr").exists()


def test_the_digest_of_a_source_is_that_of_all_that_it_holds(tmp_path, store):
    digests = {source_digest(store)}
    assert source_digest(make(tmp_path / "same")) in digests
    digests.add(source_digest(make(tmp_path / "facts", facts=EpisodeFacts(outcome="failure"))))
    digests.add(source_digest(make(tmp_path / "rows", (10, 4, 8))))
    appended = make(tmp_path / "seed")
    appended.drop_last()
    appended.append(store.episode(2), seed=7, facts=EpisodeFacts(operator="2"))
    digests.add(source_digest(appended))
    assert len(digests) == 4
    unknown = Cut(store, [0, 1, 2], np.array([[0, 10], [0, 4], [0, 9]]), [10, 4, 9])
    unknown.content = lambda name: None
    assert source_digest(unknown) not in digests


def test_a_claimed_origin_cannot_write_to_the_terminal():
    lines = origin({"command": "\x1b[2J", "version": 1, "sources": ["\n", {"path": "a\nb"}]})
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert origin({}) == []
