"""The process that serves the page of `browser.py`. One page at a time holds the hands.

The page sends text messages of JSON: `{"way": [...]}`, the way (Da,) so far in ranges of the action, or null if nobody
holds it; `{"order": kind, "text": words}`; `{"shown": true}` after each picture; `{"ping": number}`. It gets messages
of JSON with a `kind`, and pictures as bytes: the length of a description in JSON (4 bytes, little-endian), the
description and a JPEG. Times are seconds on the clock of this machine, which the page learns from the answers to its
pings.

Shapes: Da size of the action.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np

from ..realtime import Channel, Layouts
from ..robots.filming import picture_layouts
from ..web.access import Access
from ..web.look import with_look
from .interface import ORDERS

POLL_S = 0.005
"""Longest time that a message of the recording waits in this process, s."""

PING_S = 2.0
"""Seconds between two pings to the page."""

GONE_S = 4.0
"""Seconds after which a page that answers no ping is gone."""

CLOSE_S = 1.0
"""Seconds within which a page must answer that its connection is closed."""

MOST_PICTURES = 2
"""Pictures on their way to the page; a slow network gets fewer pictures, not older ones."""

MESSAGE_BYTES, TEXT_BYTES, STATUS_BYTES = 4096, 1000, 8000
"""Largest message of the page, longest text in it, and largest status."""

TAKEN, LOST, BAD = 4001, 4002, 4003
"""Codes of a closed connection: another page holds the hands; another page took them; a message was wrong."""

PAGE = Path(__file__).with_name("page.html")

NO_MESSAGES: Layouts = {"none": np.dtype([])}
"""For the direction of a channel in which nothing is sent."""


def status_layouts() -> Layouts:
    """The messages to this process: the recording, and the values of the streams, as JSON."""
    text = np.dtype([("text", f"S{STATUS_BYTES}")])
    return {"status": text, "values": text}


def answer_layouts(size: int) -> Layouts:
    """The messages of this process. size: of the action."""
    return {
        "hands": np.dtype([("time", "f8"), ("is_held", "?"), ("way", "f8", (size,))]),
        "order": np.dtype([("kind", "S16"), ("text", f"S{TEXT_BYTES}")]),
    }


class Shown(NamedTuple):
    """A stream of vectors on the page, with a name and a unit for each of its dimensions."""

    name: str
    labels: tuple[str, ...]
    units: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Site:
    """What the page shows, and to whom."""

    axes: tuple[str, ...]
    """Names of the dimensions of the action."""
    streams: tuple[Shown, ...]
    """The streams whose values the page lists."""
    task: str
    """Name of a simulated task."""
    access: Access
    """Who may see it."""


def serve(channel: Channel, listening: socket.socket, pictures_end: socket.socket, site: Site) -> None:
    """The process. Runs until the other end of the channel is closed."""
    pictures = Channel(pictures_end, NO_MESSAGES, picture_layouts(len(site.axes)))
    with contextlib.closing(pictures):
        asyncio.run(Web(channel, pictures, site).run(listening))


class Web:
    """Serves the page to one pair of hands."""

    def __init__(self, channel: Channel, pictures: Channel, site: Site) -> None:
        self._sockets: Any = import_module("websockets.asyncio.server")
        self._closed: Any = import_module("websockets.exceptions").ConnectionClosed
        self._channel, self._pictures, self._site = channel, pictures, site
        self._holder: Any = None  # the connection of the page that holds the hands
        self._num_waiting = 0  # pictures that it was sent and has not shown
        self._texts: dict[str, str] = {}  # the newest status, and the newest values
        self._fault = ""
        self._picture: tuple[float, dict[str, Any], bytes] | None = None  # the newest one, and when it was captured
        self._is_new = False
        self._hands: tuple[Any, ...] | None = None  # what the recording must still get
        self._owed: list[tuple[bytes, bytes]] = []

    async def run(self, listening: socket.socket) -> None:
        """Serve until the recording ends."""
        server = await self._sockets.serve(
            self._run_page,
            sock=listening,
            process_request=self._admit,
            compression=None,
            max_size=MESSAGE_BYTES,
            max_queue=64,
            open_timeout=GONE_S,
            close_timeout=CLOSE_S,
            ping_interval=PING_S,
            ping_timeout=GONE_S,
        )
        try:
            while True:
                await self._pass_on()
                await asyncio.sleep(POLL_S)
        except ConnectionError:  # the recording has ended
            if self._holder is not None:
                with contextlib.suppress(self._closed):
                    await self._holder.send(json.dumps({"kind": "over"}))
        finally:
            server.close()
            await server.wait_closed()

    async def _pass_on(self) -> None:
        """Take what has come from the recording, and pass on what is owed. Raises ConnectionError if it is over."""
        for name, record in self._channel.receive():
            self._texts[name] = record["text"].decode()
            await self._send({"kind": name, **json.loads(self._texts[name])})
        with contextlib.suppress(ConnectionError):  # the simulation has ended, and the recording will
            for name, record in self._pictures.receive():
                if name == "no_pictures":
                    self._fault = record["why"].decode(errors="replace")
                    await self._send({"kind": "no_pictures", "why": self._fault})
                    continue
                places = [record["point"].tolist(), record["ways"].tolist()] if record["has_map"] else [None, None]
                data = record["jpeg"][: record["size"]].tobytes()
                self._picture = float(record["time"]), dict(zip(("point", "ways"), places, strict=True)), data
                self._is_new = True
        await self._show()
        self._answer()

    async def _show(self) -> None:
        """Send the newest picture, if the page has shown the earlier ones."""
        if self._holder is None or not self._is_new or self._picture is None or self._num_waiting >= MOST_PICTURES:
            return
        captured, places, data = self._picture
        head = json.dumps({"time": captured, **places}).encode()
        self._is_new, self._num_waiting = False, self._num_waiting + 1
        with contextlib.suppress(self._closed):
            await self._holder.send(len(head).to_bytes(4, "little") + head + data)

    async def _send(self, message: dict[str, Any]) -> None:
        if self._holder is not None:
            with contextlib.suppress(self._closed):
                await self._holder.send(json.dumps(message))

    def _answer(self) -> None:
        """Tell the recording what the page wants; the rest stays owed."""
        if self._hands is not None and self._channel.send("hands", *self._hands):
            self._hands = None
        while self._owed and self._channel.send("order", *self._owed[0]):
            del self._owed[0]

    async def _run_page(self, connection: Any) -> None:
        """A page, until its connection is closed."""
        if self._holder is not None:
            if parse_qs(urlsplit(connection.request.path).query).get("take") != ["1"]:
                await connection.close(TAKEN, "another page holds the hands")
                return
            before, self._holder = self._holder, None
            await before.close(LOST, "another page has taken the hands")
            if self._holder is not None:  # a third page was quicker
                await connection.close(TAKEN, "another page holds the hands")
                return
        self._holder, self._num_waiting, self._is_new = connection, 0, self._picture is not None
        try:
            streams = [shown._asdict() for shown in self._site.streams]
            await self._send({"kind": "hello", "axes": self._site.axes, "task": self._site.task, "streams": streams})
            for name, text in self._texts.items():
                await self._send({"kind": name, **json.loads(text)})
            if self._fault:
                await self._send({"kind": "no_pictures", "why": self._fault})
            async for data in connection:
                if self._holder is not connection:
                    return
                if answer := self._take(data):
                    await self._send(answer)
        except self._closed:
            pass
        except ValueError as error:
            await connection.close(BAD, str(error)[:100])
        finally:
            if self._holder is connection:
                self._holder = None
            if self._holder is None:
                self._release()

    def _take(self, data: str | bytes) -> dict[str, Any] | None:
        """Follow a message of the page; what to answer. Raises ValueError if it is none."""
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError("a message must be JSON") from None
        match message:
            case {"way": None}:
                self._release()
            case {"way": list(way)}:
                self._hands = time.monotonic(), True, self._checked(way)
            case {"order": str(kind), **rest} if kind in ORDERS:
                text = str(rest.get("text", "")).encode()[:TEXT_BYTES].decode(errors="ignore")
                self._owed.append((kind.encode(), text.encode()))
            case {"shown": _}:
                self._num_waiting = max(self._num_waiting - 1, 0)
            case {"ping": int(number) | float(number)}:
                return {"kind": "pong", "number": number, "time": time.monotonic()}
            case _:
                raise ValueError("a message must be a way, an order, shown or ping")
        with contextlib.suppress(ConnectionError):  # `run` notices
            self._answer()
        return None

    def _checked(self, way: list[Any]) -> list[float]:
        is_number = [type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e6 for value in way]
        if len(way) != len(self._site.axes) or not all(is_number):
            raise ValueError(f"a way must be {len(self._site.axes)} numbers below 1e6")
        return [float(value) for value in way]

    def _release(self) -> None:
        self._hands = time.monotonic(), False, [0.0] * len(self._site.axes)
        with contextlib.suppress(ConnectionError):  # `run` notices
            self._answer()

    def _admit(self, connection: Any, request: Any) -> Any:
        """Answer a request for the page, or refuse it; None lets a socket be opened."""
        return self._site.access.admit(connection, request, with_look(PAGE))
