"""What is wrong in demonstrations, by stores that are wrong in that way."""

import re

import numpy as np
import pytest
from recede.datasets.episode_writer import NewEpisode
from recede.datasets.facts import EpisodeFacts
from recede.datasets.store import DemonstrationStore
from recede.diagnosis.data import look_at_data
from recede.specification import Specification, Stream

SPECIFICATION = Specification(
    (Stream("joint", (2,), units="rad"), Stream("front", (8, 8, 3), "uint8")), Stream("action", (2,), units="rad"), 0.1
)


def store_of(path, *, frozen=False, still=False, rate=None, episodes=6):
    store, rng = DemonstrationStore.create(path, SPECIFICATION), np.random.default_rng(0)
    new = []
    for seed in range(episodes):
        joint = np.cumsum(rng.uniform(0.01, 0.03, (40, 2)), axis=0).astype("float32") + seed
        front = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
        if frozen and seed == 2:
            front[:] = front[0]
        rows = {"joint": joint, "front": front, "action": np.zeros_like(joint) if still else joint}
        facts = EpisodeFacts() if rate is None else EpisodeFacts(rates={"front": rate})
        new.append(NewEpisode(rows, seed, facts))
    if new:
        store.append_many(new)
    return store


def look(store):
    facts = {}
    return list(look_at_data(store, facts)), facts


def test_a_sound_store_has_no_warning(tmp_path):
    findings, facts = look(store_of(tmp_path / "d.zarr"))
    assert {finding.severity for finding in findings} <= {"ok", "note"}
    assert "6 episodes, 240 steps of 0.1 s" in findings[0].what
    assert (facts["episodes"], facts["control rate, Hz"]) == (6, 10)
    assert Specification.from_json(facts["specification"]) == SPECIFICATION


@pytest.mark.parametrize(
    ("fault", "severity", "what", "remedy"),
    [
        ({"frozen": True}, "warning", "Frozen images: front stands still .* in episode 2", "see to the camera"),
        ({"still": True}, "problem", "a training refuses it: the action must move", "do what it says"),
        ({"rate": 4.0}, "warning", "control rate 10 Hz; measured, .*: front 4 Hz", "the slowest stream"),
        ({"episodes": 0}, "problem", "no episodes", "recede collect"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(tmp_path, fault, severity, what, remedy):
    findings, _ = look(store_of(tmp_path / "d.zarr", **fault))
    (finding,) = [finding for finding in findings if re.search(what, finding.what)]
    assert finding.severity == severity
    assert remedy in finding.remedy
