"""A policy with context on the command line: trained, evaluated, guided, instructed and refused."""

import json
import re
import subprocess
import sys

import pytest
from recede.datasets.facts import EpisodeFacts
from recede.datasets.store import DemonstrationStore
from text_encoders import save

NETWORK = ["policy.network.channels=[8]", "policy.network.groups=4", "batch_size=4", "steps=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, recede):
    folder = tmp_path_factory.mktemp("context")
    assert recede("collect", "task=sort", f"out={folder / 'demos'}", "episodes=4").status == 0
    save(folder / "text", "t5")
    save(folder / "other", "t5")
    (folder / "other" / "vocabulary.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def runs(folder, recede):
    words = ["observe=[gripper,orange,blue,teal,red,offset]", f"text_encoder={folder / 'text'}"]
    for name, more in {"goal": [], "words": words, "sure": ["policy.drop_context=0"]}.items():
        arguments = ["train", "task=sort", f"dataset={folder / 'demos'}", f"out={folder / name}", *NETWORK, *more]
        assert recede(*arguments).status == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "more"),
    [
        ("goal", []),
        ("goal", ["guidance=classifier_free", "guidance.weight=0"]),
        ("goal", ["guidance=classifier_free", "context.goal=[0,1,0,0]", "execution=rtc"]),
        ("words", []),
        ("words", ["words=put the blue cube onto the mark", "guidance=classifier_free"]),
    ],
)
def test_a_policy_acts_in_its_context(runs, recede, run, more):
    result = recede("evaluate", str(runs / run), "episodes=2", "videos=0", f"out={runs / 'result'}", *more)
    assert result.status == 0, result.err
    assert "over 2 episodes" in result.out


def test_the_checkpoint_says_what_is_context(runs):
    content = json.loads((runs / "words" / "checkpoints" / "00000002" / "policy.json").read_text())
    streams = {stream["name"]: stream["context"] for stream in content["specification"]["observations"]}
    names = ("gripper", "orange", "blue", "teal", "red", "offset", "words")
    assert streams == {name: name == "words" for name in names}
    assert content["text_encoder"]["folder"] == str(runs / "text")


@pytest.mark.parametrize(
    ("run", "more", "message"),
    [
        ("sure", ["guidance=classifier_free"], "train with policy.drop_context=0.1, or leave guidance out"),
        ("goal", ["context.gaol=[0,1,0,0]"], "context.gaol must be context of the policy: did you mean 'goal'?"),
        ("goal", ["context.goal=[0,1]"], "context.goal must have the shape (4,), got (2,)"),
        ("goal", ["words=put it down"], "words='put it down' needs a policy that observes sentences: leave it out"),
        ("words", ["text_encoder=OTHER"], "is another text encoder than that of the training"),
    ],
)
def test_context_that_does_not_fit_is_one_line(runs, recede, run, more, message):
    more = [argument.replace("OTHER", str(runs / "other")) for argument in more]
    result = recede("evaluate", str(runs / run), "episodes=2", *more)
    assert result.status == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1


def test_an_episode_without_a_sentence_is_named(folder, recede, tmp_path):
    store = DemonstrationStore.open(folder / "demos")
    mute = DemonstrationStore.create(tmp_path / "mute", store.specification)
    for index in range(2):
        mute.append(store.episode(index), facts=EpisodeFacts(sentence="put" if index == 0 else ""))
    arguments = ["train", "task=sort", f"dataset={tmp_path / 'mute'}", f"out={tmp_path / 'run'}", *NETWORK]
    result = recede(*arguments, f"text_encoder={folder / 'text'}")
    assert result.status == 2
    assert "episode 1 has no sentence" in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_robot_may_have_more_streams_than_the_policy_observes(runs, recede):
    control = ["control", str(runs / "words"), "episodes=1", "seconds=1", f"out={runs / 'control'}"]
    result = recede(*control, "words=put the blue cube onto the mark")
    assert result.status == 0, result.err
    assert "commands more than half a period late" in result.out
    refused = recede("control", str(runs / "words"), "episodes=1", f"out={runs / 'refused'}")
    assert refused.status == 2
    assert "words: only on one side: say what an episode asks for with words=" in refused.err
    assert not (runs / "refused").exists()


@pytest.mark.slow
def test_a_server_states_the_context_of_its_policy(runs, recede):
    serving = [sys.executable, "-P", "-m", "recede", "serve", str(runs / "goal"), "context.goal=[0,1,0,0]", "port=0"]
    with subprocess.Popen(serving, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            address = next(words[0] for line in server.stdout or () if (words := re.findall(r"ws://[\d.:]+", line)))
            result = recede("control", address, "robot.task=sort", "episodes=1", "seconds=1", f"out={runs / 'remote'}")
        finally:
            server.terminate()
    assert result.status == 0, result.err
    assert "commands more than half a period late" in result.out
