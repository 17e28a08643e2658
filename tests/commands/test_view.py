"""`recede view`: what it opens, what it refuses, and how it ends."""

import json
import os
import re
import shutil
import signal
import socket
import time
from contextlib import closing
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from recede.checkpoints.runs import resolve_checkpoint
from recede.commands import view as view_module
from recede.files import DIGEST, read_json, write_json_with_digest


def content(path):
    (text,) = re.findall(r'<script id="content" type="application/json">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(text)


def test_a_store_becomes_a_page_of_its_first_episodes(recede, reaches, tmp_path):
    page = tmp_path / "page.html"
    result = recede("view", reaches, f"out={page}")
    assert result.status == 0, result.err
    assert result.out.startswith(f"{page}: the first 3 of 20 episodes, ")
    hello, *answers = content(page)
    assert (hello["name"], hello["scene"], hello["policy"]) == (
        "demos.zarr",
        None,
        None,
    )  # a file names no task to import
    assert {answer["kind"] for answer in answers} == {"episode"}
    result = recede("view", reaches, f"out={page}", "episodes=episode>17", "task=toys:REACH")
    assert result.out.startswith(f"{page}: 2 episodes, ")
    hello, *answers = content(page)
    assert [row["number"] for row in hello["episodes"]] == [18, 19]
    scenes = [answer for answer in answers if answer["kind"] == "scene"]
    assert len(scenes) == sum(row["steps"] for row in hello["episodes"])
    assert not [scene for scene in scenes if scene.get("fault") or scene["differs"]]


def test_a_run_shows_its_policy_on_the_demonstrations_of_its_training(recede, trained, reaches, tmp_path):
    page = tmp_path / "page.html"
    result = recede("view", trained, f"out={page}", "episodes=episode<1", "samples=4", "device=cpu")
    assert result.status == 0, result.err
    hello, *answers = content(page)
    assert hello["name"] == f"{trained.name} on {reaches.name}"
    assert hello["policy"]["samples"] == 4
    fans = [answer for answer in answers if answer["kind"] == "fan"]
    assert [fan["step"] for fan in fans] == list(range(0, hello["episodes"][0]["steps"], hello["policy"]["action"]))
    result = recede("view", trained, f"out={page}", f"dataset={reaches}", "episodes=episode=5", "device=cpu")
    assert content(page)[0]["episodes"][0]["number"] == 5


def no_websockets(name):
    return None if name == "websockets" else object()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nowhere"], "nowhere does not exist: check the path"),
        (["{folder}"], "not a zarr group"),
        (["{reaches}", "episodes=outcome=failure"], "no episode of 20 fulfils"),
        (["{reaches}", "episodes=steps"], "episodes='steps' needs"),
        (["{reaches}", "dataset={reaches}"], "is for a policy"),
        (["{reaches}", "task=pick_place"], "must have the specification of the task"),
        (["{trained}", "dataset={demonstrations}"], "must have the streams of the policy in"),
        (["{trained}", "dataset=gone.zarr"], "gone.zarr does not exist"),
        (["{trained}", "checkpoint=first"], "checkpoint must be 'last' or 'best'"),
        (["{reaches}", "port=70000"], "port must be between 0 and 65535, got 70000"),
        (["{reaches}", "out=page.png"], "must be the file of a page, which ends in .html"),
        (["{reaches}", "samples=0"], "samples"),
        (["{reaches}", "out={folder}/page.html", "most_mb=0.001"], "larger than most_mb=0.001 MB"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_input_is_one_line_and_leaves_nothing(recede, reaches, trained, demonstrations, tmp_path, arguments, error):
    places = {"reaches": reaches, "trained": trained, "demonstrations": demonstrations, "folder": tmp_path}
    result = recede("view", *(argument.format(**places) for argument in arguments))
    assert result.status == 2
    assert error in result.line
    assert list(tmp_path.iterdir()) == []


def noting(trained, folder, dataset):
    """A copy of a run that notes other demonstrations."""
    run = Path(shutil.copytree(trained, folder))
    policy = resolve_checkpoint(run) / "policy.json"
    noted = {name: value for name, value in read_json(policy).items() if name != DIGEST}
    write_json_with_digest(policy, noted | {"dataset": dataset})
    return run


def test_a_run_whose_demonstrations_are_gone_names_the_remedy(recede, trained, tmp_path):
    for dataset, words in (
        (str(tmp_path / "gone.zarr"), f"was trained on {tmp_path / 'gone.zarr'}, which does not exist here"),
        ([str(trained), str(tmp_path / "gone.zarr")], "gone.zarr, which does not exist here"),
        (None, "notes no demonstrations"),
    ):
        line = recede("view", noting(trained, tmp_path / str(len(words)), dataset)).line
        assert words in line
        assert "name the demonstrations with dataset=" in line


def test_a_run_of_several_datasets_shows_the_chosen_episodes_of_each(recede, trained, reaches, tmp_path):
    other = shutil.copytree(reaches, tmp_path / "other.zarr")
    run, page = noting(trained, tmp_path / "run", [str(reaches), str(other)]), tmp_path / "page.html"
    result = recede("view", run, f"out={page}", "episodes=episode=3", "samples=1", "device=cpu")
    assert result.status == 0, result.err
    assert [row["number"] for row in content(page)[0]["episodes"]] == [3, 3]


def test_a_run_whose_stores_lack_streams_of_each_other_shows_both(recede, tmp_path, reaches):
    other = tmp_path / "other.zarr"
    assert recede("edit", reaches, f"out={other}", "observe=[position]").status == 0
    run, page = tmp_path / "run", tmp_path / "page.html"
    small = ["policy.network.channels=[16,32]", "steps=1", "batch_size=4", "device=cpu"]
    stores = f"dataset=[{reaches},{other}]"
    result = recede("train", "task=toys:REACH", stores, "missing=mask", f"out={run}", *small)
    assert result.status == 0, result.err
    result = recede("view", run, f"out={page}", "episodes=episode=3", "samples=1", "device=cpu")
    assert result.status == 0, result.err
    assert [row["number"] for row in content(page)[0]["episodes"]] == [3, 3]


def test_without_websockets_only_a_page_to_send_can_be_made(recede, reaches, tmp_path, monkeypatch):
    monkeypatch.setattr(view_module, "find_spec", no_websockets)
    assert "pip install 'recede[record]'" in recede("view", reaches).line
    assert recede("view", reaches, f"out={tmp_path / 'page.html'}").status == 0


def test_a_port_that_is_taken_is_named(recede, reaches):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        line = recede("view", reaches, f"port={port}").line
    assert f"port {port}" in line
    assert "port=0 for a free one" in line


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_it_serves_until_it_is_interrupted(nursery, reaches, number):
    with closing(socket.create_server(("127.0.0.1", 0))) as reserved:
        port = reserved.getsockname()[1]
    process = nursery.start("view", reaches, f"port={port}")
    end = time.monotonic() + 60
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/") as response:
                assert response.status == 200
            break
        except URLError:
            assert time.monotonic() < end
            time.sleep(0.02)
    os.kill(process, number)
    status, output = nursery.wait()
    assert status == 0, output
    assert output.splitlines()[-1] == "the page is closed"
