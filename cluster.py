"""Ground of work that is spread over a Ray cluster: this machine, or many. Loads Ray only when a cluster is joined.

A job is opened once in each process of the cluster, and then carries out shares of the work. Ray itself starts the
processes, chooses one for each share, and runs a share again if its process dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias

LOCAL = "local"
"""The address of a cluster of this machine alone, which begins and ends with this process."""

FROM_ENVIRONMENT = "auto"
"""The address that stands in the variable `RAY_ADDRESS`."""

ANSWER_S = 5.0
"""Seconds within which a cluster must answer."""

RETRIES = 1
"""How often Ray runs a share again whose process dies, before the share is lost."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""What a client of HTTP/2 says first, with empty settings. A server answers with its own: the fourth byte is a 4."""

_TLS_ALERT = b"\x15"
"""The first byte by which a server says that it expects TLS."""

_LOOPBACK = "127.0.0.1"


class Work(Protocol):
    """What a process of the cluster does for a job."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What must be alike wherever shares are carried out."""
        ...

    def run(self, share: Any) -> Iterator[Any]:
        """Carry out a share; yields its results, always in the same order."""
        ...


Job: TypeAlias = Callable[[], Work]
"""Opens a job in a process. It must be picklable."""


@dataclass(frozen=True)
class Lost:
    """Instead of further results: the process of a share has died, and so has the one that ran it again."""

    why: str
    """In the words of Ray."""


@cache
def joined(address: str, workers: int) -> Cluster:
    """Join the cluster at an address: `LOCAL`, `FROM_ENVIRONMENT` or HOST:PORT. It is left when this process ends.

    workers: shares that are carried out at once; 0 is one for each CPU of the cluster.

    Raises ValueError if Ray is not installed or there is no such cluster, ConnectionError if none answers.
    """
    if address == FROM_ENVIRONMENT and not (address := os.environ.get("RAY_ADDRESS", "")):
        raise ValueError("cluster=auto is the cluster of RAY_ADDRESS, which is not set: give cluster=HOST:PORT")
    options: dict[str, Any] = {"address": address, "logging_level": logging.ERROR}
    if address == LOCAL:
        _keep_to_this_machine()
        options |= {"_node_ip_address": _LOOPBACK, "include_dashboard": False, "num_cpus": workers or None}
    else:
        _check_answer(address)
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError:
        raise ValueError("cluster= needs Ray: pip install 'recede[ray]'") from None
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.chdir("/"):  # its processes search the folder that we are in before their own packages
            ray.init(**options)
    except (ValueError, RuntimeError, ConnectionError, RayError) as error:
        raise ValueError(f"cluster={address} cannot be joined: {_line(error)}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own in its place
    if address == LOCAL and ray.util.get_node_ip_address() != _LOOPBACK:
        ray.shutdown()
        raise ValueError(f"cluster=local must listen on {_LOOPBACK} alone, but this Ray does not: install recede[ray]")
    return Cluster(workers or int(ray.cluster_resources().get("CPU", 0)))


def _keep_to_this_machine() -> None:
    """Settings of a cluster that nobody else can reach: its own secret, the loopback interface, and no reports.

    Raises ValueError if Ray has been loaded, because it has read its settings then.
    """
    if sys.modules.get("ray") is not None:
        raise ValueError("cluster=local needs settings that Ray reads when it is loaded: do not import it before")
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray takes another interface than the loopback one
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _check_answer(address: str) -> None:
    """Raise ConnectionError unless something that speaks HTTP/2, as Ray does, answers: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_S) as connection:
            connection.sendall(_PREFACE)
            answer = connection.recv(4)
        if answer[3:] != _PREFACE[-6:-5] and answer[:1] != _TLS_ALERT:
            raise OSError(f"another service answers with {answer!r}")
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"cluster={address}: no Ray cluster answers there within {ANSWER_S:g} s ({error}): start one with "
            "ray start --head, or use this machine with cluster=local"
        ) from None


class Cluster:
    """The Ray cluster that this process has joined; see `joined`. workers: shares that are carried out at once."""

    def __init__(self, workers: int) -> None:
        import ray

        self.workers = max(workers, 1)
        self._run: Any = ray.remote(num_returns="streaming", max_retries=RETRIES)(_run)
        self._facts: Any = ray.remote(num_cpus=0, max_retries=0)(_facts)
        self._checked: set[bytes] = set()

    def check(self, job: Job, differences: Callable[[Mapping[str, Any]], list[str]]) -> bytes:
        """Open a job on every node; returns it as `run` takes it.

        differences: names those of the facts of a node from ours.

        Raises ValueError, naming the node, if the job cannot be opened there or if there are differences.
        """
        import ray
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        data = pickle.dumps((Path.cwd(), job))
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        for node in nodes if data not in self._checked else []:
            only_there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            try:
                facts, error = ray.get(self._facts.options(scheduling_strategy=only_there).remote(data))
            except RayError as died:
                facts, error = {}, _line(died)
            if wrong := error or "; ".join(differences(facts)):
                raise ValueError(
                    f"node {node['NodeManagerAddress']} of the cluster cannot take part: {wrong}: install the same "
                    "packages on every node, and let each see the same folders under the same paths"
                )
        self._checked.add(data)
        return data

    def run(self, job: bytes, shares: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Carry out shares; yields each with one result after the other, or with `Lost`.

        A share whose process dies is run again. Its results come once all the same, because they do in the same order.

        Raises whatever carrying out a share raises.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        waiting, running = iter(shares), dict[Any, Any]()
        while True:
            for share in islice(waiting, self.workers - len(running)):
                running[self._run.remote(job, share)] = share
            if not running:
                return
            ready: Any = ray.wait(list(running), num_returns=1)[0][0]
            share = running[ready]
            try:
                yield share, ray.get(next(ready))
            except StopIteration:
                del running[ready]
            except RayTaskError as error:
                raise (error.cause or error) from None
            except RayError as error:
                del running[ready]
                yield share, Lost(_line(error))


@lru_cache(maxsize=2)
def _opened(job: bytes) -> Work:
    """A job in this process of the cluster. What opening it prints, the process that began it has printed already."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        folder, make = pickle.loads(job)
        with contextlib.suppress(OSError):  # then a relative path is not found, which says more
            os.chdir(folder)
        return make()


def _facts(job: bytes) -> tuple[Mapping[str, Any], str]:
    """The facts of a job in this process, and why it cannot be opened."""
    try:
        return _opened(job).facts, ""
    except Exception as error:  # whatever it is, the node cannot take part
        return {}, _line(error)


def _run(job: bytes, share: Any) -> Iterator[Any]:
    yield from _opened(job).run(share)


def _line(error: BaseException) -> str:
    """An error in one line, with its kind unless it is one that states the rule and the remedy."""
    text = " ".join(str(getattr(error, "cause", None) or error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
