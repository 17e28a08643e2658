"""The client: a policy on another machine, called like a local one."""

import queue
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toys
from policy_server import SECONDS, TOKEN, Held, noise, port_of, predict_alone, serve, steps
from recede.policy.denoising.guidance import Prefix
from recede.policy.requests import Request
from recede.serving import client, server
from recede.serving.client import RemotePolicy
from recede.serving.server import Server
from recede.serving.wire import pack
from recede.specification import Horizons


def request(seed, prefix=None):
    return Request(steps(seed), () if prefix is None else (prefix,))


def test_a_remote_policy_answers_as_the_engine_does(engine):
    rng = np.random.default_rng(0)
    prefix = Prefix(rng.uniform(-1, 1, (16, 2)), rng.uniform(0, 1, 16), start=0.5)
    with serve(engine, seed=5, task="reach") as (address, _), closing(RemotePolicy(address)) as policy:
        assert (policy.task, policy.specification, policy.horizons) == ("reach", toys.SPECIFICATION, engine.horizons)
        drawn = noise(engine, 5, 0)
        for sent_prefix in (
            None,
            replace(prefix, actions=prefix.actions.astype("f4"), weights=prefix.weights.astype("f4")),
        ):
            expected = predict_alone(engine, steps(3), next(drawn), sent_prefix)
            np.testing.assert_array_equal(policy(request(3, sent_prefix and prefix)), expected)


def test_a_request_is_sent_again_when_the_server_comes_back(engine, capsys):
    with serve(engine) as (address, _):
        policy = RemotePolicy(address)
        policy(request(0))
    chunks = queue.Queue()
    asking = threading.Thread(target=lambda: chunks.put(policy(request(1))), daemon=True)  # it would retry for ever
    asking.start()
    time.sleep(0.3)
    assert asking.is_alive()
    with serve(engine, port=port_of(address), seed=3), closing(policy):
        expected = predict_alone(engine, steps(1), next(noise(engine, 3, 0)))
        np.testing.assert_array_equal(chunks.get(timeout=SECONDS), expected)
        policy(request(2))
    assert capsys.readouterr().err.count("is lost") == 1


def test_a_server_with_another_policy_than_before_is_an_error(engine):
    with serve(engine) as (address, _):
        policy = RemotePolicy(address)
    other = Held(engine)
    other.specification = replace(toys.SPECIFICATION, control_dt=0.2)
    with serve(other, port=port_of(address)), closing(policy):
        with pytest.raises(ValueError, match=r"same policy.*control_dt is 0\.1 s"):
            policy(request(1))
        with pytest.raises(ValueError, match=r"horizons are Horizons\(observation=2"):
            client.connect(address, other.specification, Horizons(2, 8, 4))


def test_a_refused_request_is_an_error(engine):
    wrong = Request(steps(0) | {"position": np.full((2, 2), np.nan, np.float32)})
    refused = pytest.raises(ValueError, match="'position' must be finite")
    with serve(engine) as (address, _), closing(RemotePolicy(address)) as policy, refused:
        policy(wrong)


def test_a_wrong_token_is_an_error(engine, monkeypatch):
    with serve(engine, token=TOKEN) as (address, _):
        with pytest.raises(ValueError, match="set RECEDE_TOKEN"):
            RemotePolicy(address)
        monkeypatch.setenv("RECEDE_TOKEN", TOKEN)
        with closing(RemotePolicy(address)) as policy:
            policy(request(0))
        with pytest.raises(ValueError, match="404"):
            RemotePolicy(f"{address}/elsewhere")


def test_another_version_of_the_protocol_is_an_error(engine, monkeypatch):
    with serve(engine) as (address, _):
        monkeypatch.setattr(client, "PROTOCOL", 2)
        with pytest.raises(ValueError, match=r"version 2.*speaks 1: install"):
            RemotePolicy(address)


@pytest.mark.parametrize("changes", [{"specification": {}}, {"horizons": {"observation": "x"}}, {"horizons": None}])
def test_a_server_without_a_valid_description_is_an_error(engine, changes):
    made = Server(engine)
    with pytest.raises(ValueError, match=r"ws://there.*description"):
        client.read_hello(pack(made.hello(0) | changes), "ws://there")


def test_an_address_without_a_server_is_an_error(monkeypatch):
    monkeypatch.setattr(client, "FIRST_S", 0.2)
    with closing(socket.create_server(("127.0.0.1", 0))) as reserved:
        port = reserved.getsockname()[1]
    with pytest.raises(ConnectionError, match=f"no policy is served at ws://127.0.0.1:{port} .*recede serve"):
        RemotePolicy(f"ws://127.0.0.1:{port}")
    with pytest.raises(ValueError, match="ws://host:port or wss://host, got http://"):
        RemotePolicy("http://127.0.0.1")


def test_the_client_of_the_documents_works(address):
    text = (Path(server.__file__).parents[1] / "docs/serving.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    variables = {}
    exec(program.replace("ws://127.0.0.1:8765", address), variables)
    assert variables["actions"].shape == (16, 2)


PARENT = """
import sys, time
from contextlib import closing
sys.path.append(sys.argv[1])
import numpy as np
import toys
from recede.serving import client
from recede.policy.requests import Request
from recede.control.planner import PolicyProcess

if __name__ == "__main__":
    with closing(client.RemotePolicy(sys.argv[2])) as policy:
        horizons = policy.horizons
    arguments = sys.argv[2], toys.SPECIFICATION, horizons
    planner = PolicyProcess(toys.SPECIFICATION, horizons, client.connect, *arguments)
    planner.wait()
    print("started", flush=True)
    while True:
        planner.ask(Request({name: np.zeros((2, 2), np.float32) for name in ("position", "target")}))
        time.sleep(0.05)
"""


def test_the_client_stops_retrying_when_its_robot_has_ended(engine, tmp_path):
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    with serve(engine) as (address, _):
        command = [sys.executable, "-P", program, Path(toys.__file__).parent, address]
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert parent.stdout.readline() == "started\n"
    with parent:
        assert "is lost" in parent.stdout.readline()
        parent.kill()
        parent.communicate(timeout=SECONDS)  # the process of the policy holds the same pipe, so it has ended too
