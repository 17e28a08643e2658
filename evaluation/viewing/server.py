"""Serves the page of `recede view`, and answers its questions while it is open.

The page asks in messages of JSON, as `{"images": [episode, step]}`, and each question has one answer, or a fault. It
asks a question of a kind only after the last one of that kind was answered, so a slow answer delays its own kind alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from ...web.access import Access
from ...web.look import with_look
from .showing import Answer, Showing, answered

PAGE = Path(__file__).with_name("page.html")

MESSAGE_BYTES = 4096
"""Largest message of a page."""

MOST_PAGES = 8
"""Most pages at once."""

MOST_WAITING = 8
"""Most questions of a page that wait for their answers."""

CLOSE_S = 1.0
"""Seconds within which a page must answer that its connection is closed."""

BAD, FULL = 4003, 4004
"""Codes of a closed connection: a message was wrong; other pages take all places."""

SLOW = ("scene", "fan")
"""Questions that need the simulation or the policy."""


class Viewer:
    """Answers pages. Reading has a thread, and so have simulation and policy, which only one thread may use."""

    def __init__(self, showing: Showing, access: Access) -> None:
        self._sockets: Any = import_module("websockets.asyncio.server")
        self._closed: Any = import_module("websockets.exceptions").ConnectionClosed
        self._showing, self._access = showing, access
        self._reading, self._thinking = ThreadPoolExecutor(1, "reading"), ThreadPoolExecutor(1, "thinking")
        self._num_pages = 0

    async def run(self, listening: socket.socket, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        server = await self._sockets.serve(
            self._run_page,
            sock=listening,
            process_request=lambda connection, request: self._access.admit(connection, request, with_look(PAGE)),
            compression=None,
            max_size=MESSAGE_BYTES,
            close_timeout=CLOSE_S,
        )
        try:
            await stop.wait()
        finally:
            server.close()
            await server.wait_closed()
            if self._showing.scene is not None:  # in its own thread, whose graphics it has
                await asyncio.wrap_future(self._thinking.submit(self._showing.scene.close))
            for executor in (self._reading, self._thinking):
                executor.shutdown(cancel_futures=True)

    async def _run_page(self, connection: Any) -> None:
        if self._num_pages >= MOST_PAGES:
            await connection.close(FULL, f"{MOST_PAGES} pages are open: close one")
            return
        self._num_pages += 1
        answers = set[asyncio.Task[None]]()
        try:
            hello = await self._in(self._reading, self._showing.hello)
            await connection.send(json.dumps(hello))
            async for data in connection:
                answers = {answer for answer in answers if not answer.done()}
                question = _read(data)
                if len(answers) >= MOST_WAITING:
                    raise ValueError("too many questions wait for their answers")
                answers.add(asyncio.create_task(self._answer(connection, question)))
        except self._closed:
            pass
        except ValueError as error:
            await connection.close(BAD, str(error)[:100])
        finally:
            self._num_pages -= 1
            for answer in answers:
                answer.cancel()

    async def _answer(self, connection: Any, question: dict[str, Any]) -> None:
        executor = self._thinking if question.keys() & {*SLOW} else self._reading
        try:
            answer = await self._in(executor, answered, self._showing, question)
        except Exception as error:  # a damaged file, or whatever a policy or a format of the user raises
            text = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
            answer = {"kind": "fault", "question": next(iter(question), ""), "text": text}
        with contextlib.suppress(self._closed):
            await connection.send(json.dumps(answer))

    async def _in(self, executor: ThreadPoolExecutor, function: Any, *arguments: Any) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


def _read(data: str | bytes) -> dict[str, Any]:
    """A message of a page. Raises ValueError if it is no object of JSON."""
    try:
        question = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("a message must be JSON") from None
    if not isinstance(question, dict):
        raise ValueError("a message must be an object")
    return question
