"""The facts of episodes: they come back as they were noted, are there whole or not at all, and old stores have none."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.datasets import store as store_module
from recede.datasets.facts import OUTCOMES, UNKNOWN, EpisodeFacts, versions_here
from recede.datasets.mirror import Mirrored
from recede.datasets.store import DemonstrationStore
from stores import SPECIFICATION, make_episode

texts = st.text(max_size=8)
numbers = st.floats(0, 1e9)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | numbers | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
facts_of_episodes = st.builds(
    EpisodeFacts,
    outcome=st.sampled_from(OUTCOMES),
    task=texts,
    sentence=texts,
    operator=texts,
    input=texts,
    versions=st.dictionaries(texts, texts, max_size=2),
    rates=st.dictionaries(texts, numbers, max_size=2),
    delays=st.dictionaries(texts, numbers, max_size=2),
    notes=st.dictionaries(texts, json_values, max_size=2),
)
ADA = EpisodeFacts(operator="Ada")
HAND = EpisodeFacts(outcome="success", operator="Ada", input="browser", rates={"image": 29.7}, notes={"light": "dim"})


@settings(max_examples=25, deadline=None)
@given(facts=facts_of_episodes)
def test_facts_are_json_that_leaves_out_what_was_not_noted(facts):
    content = json.loads(json.dumps(facts.to_json()))
    assert EpisodeFacts.from_json(content) == facts
    assert UNKNOWN.to_json() == {}


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ({"outcome": "succes"}, r"success, failure, unknown, got 'succes'"),
        ({"operator": 3}, r"operator must be a text, got 3"),
        ({"rates": {"image": float("nan")}}, r"rates must be finite.*image"),
        ({"delays": {"image": -0.1}}, r"delays must be .*not negative, got -0.1"),
        ({"versions": {"mujoco": 3}}, r"versions must be texts, got 3 for mujoco"),
        ({"notes": {"a": np.zeros(2)}}, r"notes must be values of JSON.*convert"),
        ({"notes": [1]}, r"notes must have texts as keys"),
        ({"lighting": "dim"}, r"there is no fact 'lighting'.*notes"),
        ([1], r"JSON object, got \[1\]"),
    ],
)
def test_facts_of_another_kind_are_refused(content, pattern):
    with pytest.raises(ValueError, match=pattern):
        EpisodeFacts.from_json(content)


def appended(path, *facts):
    store = DemonstrationStore.open(path)
    for entry in facts:
        store.append(make_episode(len(store), 3), facts=entry)
    return DemonstrationStore.open(path)


def test_every_episode_has_the_facts_that_it_was_appended_with(tmp_path):
    assert DemonstrationStore.create(tmp_path / "demos", SPECIFICATION).episode_facts == []
    failure = EpisodeFacts(outcome="failure", sentence="Füll die Schale")
    store = appended(tmp_path / "demos", HAND, UNKNOWN, failure)
    assert store.episode_facts == [HAND, UNKNOWN, failure]
    mirror = {stream.name: np.copy for stream in SPECIFICATION.streams}
    assert Mirrored(store, mirror).episode_facts == 2 * [HAND, UNKNOWN, failure]


def test_a_store_without_facts_has_unknown_ones_and_takes_them_from_then_on(recorded):
    for name in ("facts", "fact_ends"):
        shutil.rmtree(recorded / "meta" / name)
    assert DemonstrationStore.open(recorded).episode_facts == [UNKNOWN] * 3
    assert appended(recorded, HAND).episode_facts == [*[UNKNOWN] * 3, HAND]
    shutil.rmtree(recorded / "meta" / "fact_ends")  # as if its writer had been killed between the two
    assert appended(recorded, HAND).episode_facts == [*[UNKNOWN] * 4, HAND]


def test_facts_of_an_append_that_was_not_committed_are_nobodys(recorded, monkeypatch):
    def fail(*_):
        raise OSError("no space")

    longer = EpisodeFacts(outcome="failure", sentence="x" * 300)
    for facts in (HAND, UNKNOWN):
        with monkeypatch.context() as patch:
            patch.setattr(store_module, "attributes", fail)
            with pytest.raises(OSError, match="no space"):
                appended(recorded, longer)
        assert DemonstrationStore.open(recorded).episode_facts[-1] != longer
        assert appended(recorded, facts).episode_facts[-1] == facts
    assert DemonstrationStore.open(recorded).episode_facts == [UNKNOWN, ADA, UNKNOWN, HAND, UNKNOWN]


def test_an_append_writes_only_the_last_facts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "FACTS_BYTES", 128)
    DemonstrationStore.create(tmp_path / "demos", SPECIFICATION)
    store = appended(tmp_path / "demos", *12 * [HAND])
    chunks = sorted((store.path / "meta/facts/c").iterdir(), key=lambda file: int(file.name))
    assert len(chunks) == -(-12 * len(json.dumps(HAND.to_json())) // 128) >= 8
    for chunk in chunks:
        os.utime(chunk, (0, 0))
    appended(store.path, HAND)
    assert all(chunk.stat().st_mtime == 0 for chunk in chunks[:-1])


def test_damaged_facts_are_named_and_the_streams_can_still_be_read(tmp_path):
    DemonstrationStore.create(tmp_path / "demos", SPECIFICATION)
    store = appended(tmp_path / "demos", HAND, HAND)
    chunk = store.path / "meta/facts/c/0"
    content = chunk.read_bytes()
    for damage in (content[:-3], content[:9] + bytes([content[9] ^ 1]) + content[10:]):
        chunk.write_bytes(damage)
        with pytest.raises(ValueError, match=r"meta/facts.*restore"):
            _ = DemonstrationStore.open(store.path).episode_facts
    chunk.unlink()
    with pytest.raises(ValueError, match=r"meta/facts/c/0 is missing"):
        _ = DemonstrationStore.open(store.path).episode_facts
    assert DemonstrationStore.open(store.path).read("action").shape == (6, 2)
    chunk.write_bytes(content)
    zarr.open_group(store.path, mode="r+")["meta/facts"][:9] = np.frombuffer(b"{outcome:", np.uint8)
    with pytest.raises(ValueError, match=r"meta/facts of episode 0 are damaged.*restore"):
        _ = DemonstrationStore.open(store.path).episode_facts
    zarr.open_group(store.path, mode="r+")["meta/fact_ends"][:] = [90, 10]
    with pytest.raises(ValueError, match=r"meta/facts does not hold the bytes.*restore"):
        _ = DemonstrationStore.open(store.path).episode_facts


def test_facts_are_read_without_torch():
    code = (
        "import sys, recede.datasets.facts, recede.datasets.mirror\n"
        "assert not {'torch', 'zarr', 'gymnasium'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_versions_name_the_packages_that_are_loaded():
    versions = versions_here(firmware="3.1")
    assert {"python", "recede", "numpy"} <= versions.keys()
    assert versions["firmware"] == "3.1"
