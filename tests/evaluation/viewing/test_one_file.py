"""A page in one file is whole or absent, and nothing in it can end its script."""

import base64
import hashlib
import json
import re

import pytest
from recede.evaluation.viewing.one_file import FIRST, write_one_file
from recede.evaluation.viewing.showing import Showing
from viewed import ATTACK, streams


@pytest.fixture
def showing(seen_store):
    return Showing(demonstrations=seen_store, name=ATTACK)


def content(path):
    (text,) = re.findall(r'<script id="content" type="application/json">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(text)


def test_it_holds_every_answer_of_the_chosen_episodes(showing, tmp_path):
    path = tmp_path / "page.html"
    line = write_one_file(path, showing, is_chosen=True, most_mb=20)
    assert line.startswith(f"{path}: 4 episodes, ")
    hello, *answers = content(path)
    assert hello["name"] == ATTACK
    assert hello["episodes"][0]["sentence"] == ATTACK
    kinds = [(answer["kind"], answer["episode"], answer.get("step")) for answer in answers]
    steps = [30, 30, 45, 30]
    images = {("images", episode, step) for episode in range(4) for step in range(steps[episode])}
    assert images | {("episode", episode, None) for episode in range(4)} == set(kinds)
    assert answers[1]["pictures"]["camera"].startswith("data:image/jpeg;base64,")
    assert streams(0)["hand"].astype("<f4").tobytes() == base64.b64decode(answers[0]["vectors"]["hand"])


def test_the_first_episodes_are_written_if_none_are_chosen(showing, tmp_path):
    line = write_one_file(tmp_path / "page.html", showing, is_chosen=False, most_mb=20)
    assert f"the first {FIRST} of 4 episodes" in line
    assert "choose others with episodes=" in line
    assert len(content(tmp_path / "page.html")[0]["episodes"]) == FIRST


def test_its_script_alone_may_run(showing, tmp_path):
    write_one_file(tmp_path / "page.html", showing, is_chosen=False, most_mb=20)
    text = (tmp_path / "page.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text
    assert text.count("<script") == 2
    assert "<img src=x" not in text


def test_a_page_that_would_be_too_large_is_refused_and_nothing_is_left(showing, tmp_path):
    with pytest.raises(ValueError, match=r"larger than most_mb=0\.05 MB with 4 episodes: choose fewer"):
        write_one_file(tmp_path / "page.html", showing, is_chosen=True, most_mb=0.05)
    assert list(tmp_path.iterdir()) == []
