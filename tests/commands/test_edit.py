"""`recede edit`: a new store, never in place, that says what it is made of."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from recede.datasets.copying import source_digest
from recede.datasets.facts import EpisodeFacts
from recede.datasets.store import DemonstrationStore
from recede.files import exclusive
from stores import FOREIGN, files


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(path, specification=FOREIGN, facts=None):
    store = DemonstrationStore.create(path, specification)
    for seed in range(2):
        rows = np.random.default_rng(seed).normal(size=(5, 2)).astype("float32")
        store.append({stream.name: rows for stream in specification.streams}, seed=seed, facts=facts or EpisodeFacts())
    return store


def wait_for_episodes(path):
    end = time.monotonic() + 60
    while not (path.exists() and len(DemonstrationStore.open(path))):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_one_command_chooses_renames_drops_resizes_compresses_and_relabels(recede, filmed):
    before = {path: path.read_bytes() for path in files(filmed)}
    streams = ["rename={scene: front}", "observe=[front,state]", "resize.front=[12,16]", "images=png"]
    labels = ["relabel.outcome=failure", "relabel.sentence=it's {1}, or 2", "relabel.episodes=seed=2"]
    result = recede("edit", filmed, "out=new/b.zarr", "episodes=not (episode=1)", "steps=left>=2", *streams, *labels)
    assert result.status == 0, result.err
    assert f"{filmed}: 2 of 3 episodes, and 20 of their 24 steps" in result.out
    assert "  relabelled: 1 episodes" in result.out
    assert "2 episodes, 20 steps in new/b.zarr: every stream was read back" in result.out
    old, new = DemonstrationStore.open(filmed), DemonstrationStore.open("new/b.zarr")
    assert {stream.name: stream.shape for stream in new.specification.streams} == {
        "front": (12, 16, 3),
        "state": (3,),
        "action": (2,),
    }
    assert new.images == "png"
    np.testing.assert_array_equal(new.read("action"), np.concatenate([old.read("action")[a : a + 10] for a in (0, 24)]))
    assert [(facts.outcome, facts.sentence) for facts in new.episode_facts] == [
        ("unknown", ""),
        ("failure", "it's {1}, or 2"),
    ]
    assert new.provenance["command"].startswith(f"recede edit source={filmed} out=new/b.zarr ")
    assert new.provenance["sources"] == [{"path": str(filmed), "sha256": source_digest(old), "episodes": 2}]
    assert {path: path.read_bytes() for path in files(filmed)} == before
    out = recede("inspect", "new/b.zarr").out
    assert f"from {filmed} (SHA-256 {source_digest(old)}, 2 episodes)" in out
    again = recede("edit", "new/b.zarr", "out=c.zarr")
    assert again.status == 0, again.err
    third = DemonstrationStore.open("c.zarr")
    assert third.images == "png"
    assert third.provenance["sources"][0]["provenance"] == new.provenance


def test_stores_follow_one_another_and_an_edited_one_grows_like_any_other(recede, reaches, tmp_path):
    assert recede("edit", reaches, "out=a.zarr", "episodes=episode<2").status == 0
    result = recede("edit", f"[{reaches},a.zarr]", "out=b.zarr", "episodes=episode<3", "trim_idle=true")
    assert result.status == 0, result.err
    new, old = DemonstrationStore.open("b.zarr"), DemonstrationStore.open(reaches)
    assert new.episode_seeds.tolist() == [*old.episode_seeds[:3], *old.episode_seeds[:2]]
    stop = int(old.episode_ends[2])
    np.testing.assert_array_equal(new.read("action", 0, stop), old.read("action", 0, stop))
    assert [source["episodes"] for source in new.provenance["sources"]] == [3, 2]
    new.append(old.episode(0))
    assert DemonstrationStore.open("b.zarr").provenance == new.provenance


def test_a_store_is_divided_by_shares_or_by_a_condition(recede, reaches, tmp_path):
    result = recede("edit", reaches, "out=[a.zarr,b.zarr,c.zarr]", "split=[0.6,0.25,0.15]", "seed=3")
    assert result.status == 0, result.err
    parts = [DemonstrationStore.open(f"{name}.zarr") for name in "abc"]
    assert [len(part) for part in parts] == [12, 5, 3]
    assert "5 episodes, " in result.out
    seeds = [part.episode_seeds.tolist() for part in parts]
    whole = DemonstrationStore.open(reaches)
    assert sorted(number for own in seeds for number in own) == sorted(whole.episode_seeds.tolist())
    assert all(own == sorted(own) for own in seeds)  # in their order in the source
    assert seeds[0] != list(range(12))
    command = f"recede edit source={reaches} 'out=[a.zarr,b.zarr,c.zarr]' 'split=[0.6,0.25,0.15]' seed=3"
    assert [part.provenance["command"] for part in parts] == [command] * 3
    assert [part.provenance["part"] for part in parts] == ["1 of 3", "2 of 3", "3 of 3"]
    assert "part 2 of 3)" in recede("inspect", "b.zarr").out
    before = {path: path.read_bytes() for path in files(tmp_path / "a.zarr")}
    (tmp_path / "b.zarr").rename("kept.zarr")  # as if it had been interrupted there
    again = [argument.strip("'") for argument in command.split()[2:]]
    assert recede("edit", *again).status == 0
    assert {path: path.read_bytes() for path in files(tmp_path / "a.zarr")} == before
    for one, other in zip(files(tmp_path / "kept.zarr"), files(tmp_path / "b.zarr"), strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert recede("edit", reaches, "out=[d.zarr,e.zarr]", "split=[0.6,0.4]").status == 0
    first = DemonstrationStore.open("d.zarr").episode_seeds.tolist()
    assert first != seeds[0]  # by another seed
    assert recede("edit", reaches, "out=[f.zarr,g.zarr]", "split=seed<5").status == 0
    assert DemonstrationStore.open("f.zarr").episode_seeds.tolist() == list(range(5))
    assert DemonstrationStore.open("g.zarr").episode_seeds.tolist() == list(range(5, 20))


def test_a_command_that_is_noted_has_only_what_was_set(recede, reaches):
    result = recede("edit", reaches, "out=a.zarr", "relabel.task=tidy up", "relabel.episodes=episode<2")
    assert result.status == 0, result.err
    command = DemonstrationStore.open("a.zarr").provenance["command"]
    assert command == f"recede edit source={reaches} out=a.zarr 'relabel.task=tidy up' 'relabel.episodes=episode<2'"


@pytest.mark.slow
def test_a_killed_edit_goes_on_where_it_was_and_ends_as_if_nothing_had_happened(recede, nursery, reaches, tmp_path):
    partial = tmp_path / "new.unfinished.zarr"
    command = ["edit", reaches, "out=new.zarr", "episodes=episode<6", "steps=step>=1"]
    process = nursery.start(*command, folder=tmp_path)
    wait_for_episodes(partial)
    os.kill(process, signal.SIGKILL)
    assert nursery.wait()[0] == -signal.SIGKILL
    assert not Path("new.zarr").exists()
    line = recede("edit", reaches, "out=new.zarr", "episodes=episode<5").line
    assert "new.unfinished.zarr holds what another command has begun" in line
    begun = f"(recede edit source={reaches} out=new.zarr 'episodes=episode<6' 'steps=step>=1')"
    assert f"{begun}: repeat that, delete the folder, or " in line
    result = recede(*command)
    assert result.status == 0, result.err
    assert f"{partial.name} holds " in result.out
    assert "of 6 episodes: the copy goes on behind them" in result.out
    (tmp_path / "other").mkdir()
    os.chdir("other")
    assert recede(*command).status == 0
    one, other = (
        {path.relative_to(folder): path.read_bytes() for path in files(folder)}
        for folder in (tmp_path / "new.zarr", tmp_path / "other/new.zarr")
    )
    assert one == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.zarr", "other"]


def test_an_interrupted_edit_says_what_it_keeps_and_a_full_disk_leaves_nothing_that_looks_whole(
    nursery, reaches, filmed, tmp_path
):
    process = nursery.start("edit", reaches, "out=new.zarr", folder=tmp_path)
    wait_for_episodes(tmp_path / "new.unfinished.zarr")
    os.kill(process, signal.SIGINT)
    status, output = nursery.wait()
    assert status == 130, output
    assert "of 20 episodes: the same command goes on" in output
    status, output = nursery.run("edit", filmed, "out=full.zarr", folder=tmp_path, limit=20_000)
    assert status == 2, output
    assert "full.unfinished.zarr" in output.splitlines()[-1]
    assert "(File too large)" in output.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"new.unfinished.zarr", "full.unfinished.zarr"}
    status, output = nursery.run("edit", filmed, "out=full.zarr", folder=tmp_path)
    assert status == 0, output


def test_an_unfinished_store_has_one_writer(recede, reaches, tmp_path):
    command = ["edit", reaches, "out=new.zarr", "episodes=episode<2"]
    assert recede(*command).status == 0
    Path("new.zarr").rename("new.unfinished.zarr")
    with exclusive(Path("new.unfinished.zarr"), "being tried"):
        assert "new.unfinished.zarr is being written by another process: wait for it" in recede(*command).line
    assert recede(*command).status == 0


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A folder of stores that do not fit together, read only."""
    folder = tmp_path_factory.mktemp("others")
    (folder / "there").mkdir()
    make(folder / "other.zarr")
    make(folder / "input.zarr", facts=EpisodeFacts(notes={"action": "input"}))
    DemonstrationStore.create(folder / "empty.zarr", FOREIGN)
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["split=[0.9,0.2]", "out=[a,b]"],
            "two or more shares that sum to 1, as [0.9,0.1], got [0.9,0.2]",
        ),
        (["split=[1]"], "split must be two or more shares that sum to 1"),
        (["split=[0.9,x]", "out=[a,b]"], "split must be two or more shares that sum to 1"),
        (["split=[0.9,0.1]"], "out must name 2 for split=[0.9,0.1], got new.zarr: write split=[0.9,0.1] out=[train"),
        (["out=[a,b]"], "out must name 1 for split=null, got "),
        (["split=[0.99,0.01]", "out=[a,b]"], "leaves part 2 of 20 episodes without any: give another split"),
        (["split=seed>=0", "out=[a,b]"], "leaves part 2 of 20 episodes without any"),
        (["split=seed<0", "out=[a,b]"], "no episode of 20 fulfils"),
        (["split=sed<3", "out=[a,b]"], "did you mean 'seed'?"),
        (["split=[0.5,0.5]", "out=[there,b]"], "out=there exists already, and is not of this command: give another"),
        (["split=seed<3", "out=[other.zarr,b]"], "out=other.zarr exists already, and is not of this command"),
        (["split=seed<3", "out=[{reaches},b]"], "is a source, and no store is edited in place"),
        (["seed=3"], "seed draws the shares of split=[0.9,0.1]: leave it out"),
        (["out={reaches}"], "is a source, and no store is edited in place: give another out="),
        (["out=there"], "out=there exists already: give another out="),
        (["out={reaches}/new.zarr"], "is a store: give another out="),
        (["episodes=steps<1"], "no episode of 20 fulfils episodes='steps<1'"),
        (["steps=step<0"], "no step of 20 episodes fulfils steps='step<0'"),
        (["steps=positon.x<1"], "steps have no 'positon.x': did you mean 'position.x'?"),
        (["steps=step<x"], "steps: step<x compares with a number: give one"),
        (["steps=5"], "steps must be a condition, got '5': step<5 selects the first 5"),
        (["steps=step"], "steps='step' needs one of = != < <= > >= behind step instead of its end: write conditions"),
        (["rename.positon=x"], "rename.positon: no source has such an observation: did you mean 'position'?"),
        (["rename.position=target"], "rename would call two streams 'target'"),
        (["rename.position=3"], "rename.position must be the new name of a stream, got 3"),
        (["observe=[positon]"], "no observation 'positon' to keep: did you mean 'position'?"),
        (["observe=[]"], "observe must name a stream or more, got []"),
        (["resize.position=[8,8]"], "resize.position needs images, got float32[2]"),
        (["resize.position=[8]"], "resize.position must be a height and a width in pixels, [h,w]"),
        (["resize.position=[0,8]"], "resize.position must be a height and a width in pixels, [h,w]"),
        (["images=webp"], "images must be one of zstd, png, jpeg, h264, got 'webp'"),
        (["relabel.outcome=succes"], "relabel.outcome must be one of success, failure, unknown, got 'succes': did you"),
        (["relabel.episodes=steps>1"], "relabel.episodes chooses who gets a fact, and there is none"),
        (["relabel.task=x", "relabel.episodes=steps<1"], "fulfils episodes='steps<1'"),
        (["source=[{reaches},other.zarr]"], "other.zarr must have the streams of "),
        (["source=[{reaches},other.zarr]"], "position: only on one side; state: only on one side"),
        (["source=[{reaches},other.zarr]"], ": use rename= or observe= so that they agree, or leave one out"),
        (["source=[{reaches},nowhere.zarr]"], "nowhere.zarr does not exist: check the path"),
        (["source=[{reaches},{reaches}]"], "source must name each folder once"),
        (["source=[other.zarr,input.zarr]"], "actions of one kind, got commanded and input: edit one kind at a time"),
        (["source=empty.zarr"], "empty.zarr has no episodes to edit"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(recede, reaches, others, monkeypatch, arguments, words):
    monkeypatch.chdir(others)
    before = sorted(others.rglob("*"))
    result = recede("edit", f"source={reaches}", "out=new.zarr", *(text.format(reaches=reaches) for text in arguments))
    assert words in result.line
    assert not result.out
    assert sorted(others.rglob("*")) == before
