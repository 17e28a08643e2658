"""`recede serve`: serve a policy to robots over the network."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from ..configs.deployment import ServeConfig
from ..configs.notation import shown
from ..envs.catalogue import TASKS
from .next_lines import print_next

if TYPE_CHECKING:
    from ..serving.server import Server


def run(config: ServeConfig) -> None:
    """Serve the policy until the process is interrupted or terminated; then close every session."""
    from ..checkpoints.opening import open_chosen, read_description
    from ..serving.server import Server
    from ..serving.wire import TOKEN, read_token, require

    token = read_token()
    if config.is_open and token is None:
        raise ValueError(
            f"host={config.host} lets other machines use the policy, which needs a token: set {TOKEN}, for instance "
            f"with export {TOKEN}=$(openssl rand -hex 32), or serve at 127.0.0.1"
        )
    for module in ("msgpack", "websockets"):
        require(module)
    task = read_description(config.run, config.checkpoint)["task"]
    opened = open_chosen(config, is_for_robots=True)
    sizes = {"max_sessions": config.max_sessions, "max_batch": config.max_batch}
    asyncio.run(_run_server(Server(opened.engine, task=task, token=token, seed=config.seed, **sizes), config))
    print("every session is closed")


async def _run_server(server: Server, config: ServeConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def ready(address: str) -> None:
        print(f"{server.task or config.run} is served at {address} by {server.engine.name}", flush=True)
        if config.is_open:
            print(f"from other machines: ws://THIS-MACHINE:{address.rpartition(':')[2]}", flush=True)
        elif server.task in TASKS:
            print_next(shown("control", address, imports=config.imports))

    await server.run(config.host, config.port, ready=ready, stop=stop)
