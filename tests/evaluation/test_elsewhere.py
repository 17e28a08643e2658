"""Episodes on a Ray cluster: as they would be here, also if a process dies; and every reason why a node cannot help."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from recede import cluster
from recede.configs.evaluation import EvaluateConfig
from recede.datasets.store import DemonstrationStore
from recede.envs.catalogue import load_task
from recede.evaluation.results import subject_of
from recede.evaluation.rollout import rollout
from recede.files import read_json_with_digest
from recede.recording import scripted

SEEDS = range(100_000, 100_024)
SLOW = "toys:SLOW"

PLANTED = "from toys import REACH\n"
"""A module in the folder in which the cluster was begun; nobody asked for code from there."""


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """A local cluster of two workers for all tests of a process, whose processes find what this one finds."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra: pip install 'recede[ray]'")
    folder, before = tmp_path_factory.mktemp("began"), Path.cwd()
    (folder / "planted.py").write_text(PLANTED)
    with pytest.MonkeyPatch.context() as patch:  # they are as they were once the cluster runs
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        for name in ("AUTH_MODE", "AUTH_TOKEN", "ENABLE_WINDOWS_OR_OSX_CLUSTER", "USAGE_STATS_ENABLED"):
            patch.setenv(f"RAY_{name}", "")
        os.chdir(folder)
        try:
            joined = cluster.joined("local", 2)
        finally:
            os.chdir(before)
    yield joined
    __import__("ray").shutdown()
    cluster.joined.cache_clear()


def descendants(pid):
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for file in threads for child in file.read_text().split()]
    return children + [below for child in children for below in descendants(child)]


def busy():
    """The processes of the cluster that carry out a share."""
    titles = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(os.getpid())}
    return [pid for pid, title in titles.items() if title.startswith(b"ray::") and b"_run" in title]


def subject(run, task="toys:REACH", **options):
    return subject_of(EvaluateConfig(run=str(run), task=task, device="cpu", parallel=4, **options))


def roll(one, seeds=SEEDS, **options):
    outcomes = rollout(one.policy.engine, one.task, seeds, num_parallel=4, progress=False, **one.how, **options)
    return [replace(outcome, frames={}, chunks=()) for outcome in outcomes]


@pytest.mark.slow
def test_outcomes_are_those_of_this_machine_although_a_worker_is_killed(local, trained):
    one, noted, killed = subject(trained, SLOW, cluster="local", workers=2), [], []

    def note(outcome):
        noted.append(outcome)
        if not killed:
            killed.append(busy()[-1])
            os.kill(killed[0], signal.SIGKILL)

    outcomes = roll(one, elsewhere=one.elsewhere, filmed={SEEDS[1]: frozenset([0])}, note=note)
    assert outcomes == roll(subject(trained))
    assert 0 < sum(outcome.success for outcome in outcomes) < len(SEEDS)  # otherwise the episodes are too similar
    assert sorted(outcome.seed for outcome in noted) == list(SEEDS)  # each once
    assert killed[0] not in descendants(os.getpid())


@pytest.mark.slow
def test_an_episode_that_ends_every_process_is_broken_and_the_others_are_kept(local, trained):
    one = subject(trained, "toys:DIE", cluster="local", workers=2)
    first, dead, third = roll(one, SEEDS[:3], elsewhere=one.elsewhere)
    assert [first, third] == [roll(subject(trained), SEEDS[:3])[index] for index in (0, 2)]
    assert (dead.fault.seed, dead.fault.step, dead.fault.during) == (SEEDS[1], None, "its process")
    assert dead.fault.message.endswith("and again when the episode ran alone")


@pytest.mark.slow
def test_commands_write_the_same_on_a_cluster(local, trained, recede, tmp_path):
    where = {"here": (), "there": ("cluster=local", "workers=2")}
    for name, options in where.items():
        out = tmp_path / name
        shutil.copytree(trained, tmp_path / f"{name}-other")
        pair = [trained, tmp_path / f"{name}-other", f"out={out / 'results'}", "until=decided", "most=8", "videos=0"]
        result = recede("evaluate", *pair, "task=toys:REACH", "device=cpu", "parallel=4", *options)
        assert result.status == 0, result.err
        result = recede("collect", "task=toys:LAZY", "episodes=9", f"out={out / 'store.zarr'}", *options)
        assert result.status == 0, result.err
    for path in ("results/run", "results/{}-other"):
        here, there = (
            read_json_with_digest(tmp_path / name / path.format(name) / "evaluation.json", "") for name in where
        )
        for key in ("seeds", "success", "score", "steps", "start"):
            assert here[key] == there[key]
    for path in ("store.zarr", "store-failures.zarr"):
        here, there = (DemonstrationStore.open(tmp_path / name / path) for name in where)
        assert here.episode_seeds.tolist() == there.episode_seeds.tolist()
        for stream in here.specification.streams:
            assert (here.read(stream.name) == there.read(stream.name)).all()


@pytest.mark.slow
def test_a_node_that_cannot_take_part_is_named_before_anything_begins(local, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    one = subject(run)
    run.rename(tmp_path / "hidden")  # as on a node that does not share the folder
    there = replace(one, config=replace(one.config, cluster="local", workers=2))
    with pytest.raises(ValueError, match=rf"node 127\.0\.0\.1 .* cannot take part: .*{run}.*the same paths"):
        there.elsewhere  # noqa: B018 - it raises
    with pytest.raises(ValueError, match=r"no module named 'planted'.* install the same packages on every node"):
        scripted.Elsewhere(local, partial(load_task, "planted:REACH"))
    with pytest.raises(ValueError, match="cannot take part: the engine is onnx there and eager here: install"):
        local.check(
            partial(scripted.Demonstrating, partial(load_task, "toys:REACH")),
            lambda _: ["the engine is onnx there and eager here"],
        )


@pytest.mark.slow
def test_a_local_cluster_listens_on_the_loopback_interface_alone(local):
    processes = [os.getpid(), *descendants(os.getpid())]
    links = [link for pid in processes for link in Path(f"/proc/{pid}/fd").glob("*")]
    ours = {str(link.readlink()) for link in links if link.is_symlink()}
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    listening = [row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in ours]
    assert len(listening) > 3
    assert {address[-8:] for address in listening} == {"0100007F"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["cluster=head"], "cluster must be local, auto or HOST:PORT, got 'head'"),
        (["cluster=ray://head:10001"], "got 'ray://head:10001': run recede on a node of the cluster"),
        (["cluster=head:99999"], "cluster must be local, auto or HOST:PORT"),
        (["cluster=auto"], "cluster=auto is the cluster of RAY_ADDRESS, which is not set"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "collect"])
def test_an_impossible_address_is_refused(trained, recede, tmp_path, monkeypatch, command, options, message):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    arguments = [trained, "device=cpu"] if command == "evaluate" else []
    result = recede(command, *arguments, "task=toys:REACH", f"out={tmp_path / 'out'}", *options)
    assert result.status == 2
    assert message in result.line
    assert not list(tmp_path.iterdir())


def test_keys_that_do_not_go_with_a_cluster_are_refused(recede):
    result = recede("evaluate", "run", "cluster=local", "device=cuda:0")
    assert "device=cuda:0 is not for cluster=, whose CPUs run the policy" in result.line
    assert "workers=2 is for cluster=" in recede("collect", "task=toys:REACH", "out=out", "workers=2").line


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["closed", "mute", "page"])
def test_an_address_where_no_cluster_answers_is_named_within_seconds(recede, tmp_path, monkeypatch, answer):
    monkeypatch.setattr(cluster, "ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if answer is None:
            server.close()
        else:
            speaker = threading.Thread(target=say, args=(server, answer))
            speaker.start()
        result = recede("collect", "task=toys:REACH", f"out={tmp_path / 'out'}", f"cluster={address}")
        if answer is not None:
            speaker.join()
    assert result.status == 2
    assert f"cluster={address}: no Ray cluster answers there within 0.5 s" in result.line
    assert "cluster=local" in result.line
    assert not list(tmp_path.iterdir())


def say(server, answer):
    """Say this to whoever connects, and wait until they hang up."""
    with server.accept()[0] as connection, contextlib.suppress(ConnectionError):
        connection.sendall(answer)
        while connection.recv(100):
            pass


def test_without_ray_the_extra_is_named(recede, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("AUTH_MODE", "AUTH_TOKEN", "ENABLE_WINDOWS_OR_OSX_CLUSTER", "USAGE_STATS_ENABLED"):
        monkeypatch.setenv(f"RAY_{name}", "")
    result = recede("collect", "task=toys:REACH", f"out={tmp_path / 'out'}", "cluster=local")
    assert result.line.endswith("cluster= needs Ray: pip install 'recede[ray]'\n".strip())
    assert not list(tmp_path.iterdir())
