"""One RSocket stream: a request to the edge whose answer is written as it is asked for.

The request is an ordinary POST with the token of the connection's SETUP, so every check, limit and log of
HTTP holds. Each document of the answer is a payload; when the device has asked for no more (REQUEST_N), the
handler waits in its ``write``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

import msgspec

from lowtide.api.logs import ERRORS
from lowtide.api.rsocket import frames
from lowtide.api.rsocket.frames import Ask, Failure, Frame, Payload
from lowtide.kernel.errors import LowtideError, TokenExpired, TooLarge, Unavailable
from lowtide.kernel.http import KIB, MIB

Scope = MutableMapping[str, Any]
Asgi = Callable[[Scope, Callable[[], Awaitable[Scope]], Callable[[Scope], Awaitable[None]]], Awaitable[None]]

MAX_REQUEST = 4 * MIB + 64 * KIB
"""Bytes of one request, in one frame or in fragments."""
BATCH_BYTES = 64 * KIB
"""What is written before looking again whether the connection has room."""

NEW_TOKEN, SAME_TOKEN = "PSYNC_S21", "PSYNC_"
"""What the SDKs search an error's text for: where they need a new token, and where theirs is still good."""


class Line(Protocol):
    """The connection below: where frames go."""

    def send(self, parts: list[bytes]) -> None:
        """Write frames, one message each."""

    def share(self, stream: int, part: bytes, most: int) -> int:
        """Write all documents of ``part`` if they are at most ``most``: how many; 0: none was written."""

    async def room(self) -> None:
        """Return when the other side has taken most of what was written."""

    def close(self, code: int, reason: str) -> None:
        """Say goodbye; a repeat does nothing."""


class Download:
    """A stream from its first frame to its last."""

    __slots__ = (
        "_credits",
        "_ended",
        "_expired",
        "_leaving",
        "_line",
        "_over",
        "_rest",
        "_status",
        "_task",
        "_waiter",
        "data",
        "hungry",
        "id",
        "metadata",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        credits: int,
        line: Line,
        over: Callable[[Download, Frame], None],
        expired: Callable[[], bool],
    ):
        """``over``: told once that the stream has ended by itself, with what is to be said last."""
        self.id = id
        self.metadata = bytearray()
        self.data = bytearray()
        self.hungry: float | None = None
        """Since when it waits to be asked for more; None: it does not."""
        self._credits = credits
        self._line = line
        self._over = over
        self._expired = expired
        self._rest = b""
        self._status = 0
        self._ended = False
        self._leaving: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def held(self) -> int:
        """Bytes of the request while its end has not come."""
        return len(self.metadata) + len(self.data)

    @property
    def running(self) -> bool:
        """Has the request begun?"""
        return self._task is not None

    def gather(self, frame: Ask | Payload) -> bool:
        """Keep a fragment of the request; True: it was the last. Raises ``TooLarge``."""
        if self.held + len(frame.metadata or b"") + len(frame.data) > MAX_REQUEST:
            raise TooLarge(f"A request is at most {MAX_REQUEST} bytes.", limit=MAX_REQUEST)
        self.metadata += frame.metadata or b""
        self.data += frame.data
        return frame.complete or not frame.follows

    def start(self, app: Asgi, scope: Scope, body: bytes) -> None:
        """Begin to answer."""
        self.metadata, self.data = bytearray(), bytearray()
        self._task = asyncio.create_task(self._run(app, scope, body))

    def more(self, count: int) -> None:
        """The device asks for ``count`` more."""
        self._credits = min(self._credits + count, frames.MAX_CREDITS)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def leave(self) -> None:
        """The device wants nothing more: what runs for it is told, as if a client of HTTP had left."""
        self._ended = True
        if self._leaving is not None and not self._leaving.done():
            self._leaving.set_result(None)

    async def _run(self, app: Asgi, scope: Scope, body: bytes) -> None:
        told = False
        refusal = bytearray()

        async def receive() -> Scope:
            nonlocal told
            if not told:
                told = True
                return {"type": "http.request", "body": body, "more_body": False}
            if not self._ended:
                self._leaving = asyncio.get_running_loop().create_future()
                await self._leaving
            return {"type": "http.disconnect"}

        async def send(message: Scope) -> None:
            if message["type"] == "http.response.start":
                self._status = message["status"]
                return
            part = message.get("body", b"")
            if self._status != 200:
                refusal.extend(part)
            elif part:
                await self._write(part)
            if not message.get("more_body", False):
                self._end(self._last(bytes(refusal)))

        try:
            await app(scope, receive, send)
        except Exception as error:
            # Nobody awaits this task: what is not said here is never said.
            ERRORS.error("unexpected error", exc_info=error)
        finally:
            # The edge has cut it: what was sent is not whole, and the device is to come back.
            self._end(failure(self.id, frames.CANCELED, Unavailable("The stream was cut.")))

    def _end(self, last: Frame) -> None:
        if not self._ended:
            self.leave()
            self._over(self, last)

    def _last(self, refusal: bytes) -> Frame:
        if self._status != 200:
            return _refused(self.id, refusal, self._status)
        if self._expired():
            # Upon a completion the SDK forgets the lines that it has not read, which say the same.
            return failure(self.id, frames.CANCELED, TokenExpired())
        return Payload(stream=self.id, complete=True)

    async def _write(self, part: bytes) -> None:
        """Write the documents in ``part``, each when it is asked for."""
        if self._ended:
            await asyncio.sleep(0)  # whoever waits for the client to leave comes next
            return
        if self._credits and not self._rest:
            count = self._line.share(self.id, part, self._credits)
            if count:
                self._credits -= count
                await self._line.room()
                return
        data, at = self._rest + part, 0
        ready: list[bytes] = []
        size = 0
        while at + 4 <= len(data):
            end = at + int.from_bytes(data[at : at + 4], "little")
            if end > len(data):
                break
            if self._credits == 0 or size > BATCH_BYTES:
                self._line.send(ready)
                ready, size = [], 0
                await self._line.room()
                while self._credits == 0:
                    await self._asked()
            self._credits -= 1
            ready += frames.item(self.id, data[at:end])
            size += end - at
            at = end
        self._rest = data[at:]
        self._line.send(ready)
        await self._line.room()

    async def _asked(self) -> None:
        loop = asyncio.get_running_loop()
        self.hungry = loop.time()
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = self.hungry = None


def failure(stream: int, code: int, error: LowtideError) -> Failure:
    """``error`` as ERROR of a stream, or of the connection when it is 0."""
    return Failure(stream, code, _text(error.code, error.message, error.status))


def _refused(stream: int, body: bytes, status: int) -> Failure:
    """What the edge answered, as ERROR."""
    said = msgspec.json.decode(body) if body else {}
    text = _text(said.get("code", "internal"), said.get("detail") or said.get("title", ""), status)
    if status in (401, 403, 404, 421, 426, 429, 503):
        return Failure(stream, frames.REJECTED, text)
    return Failure(stream, frames.INVALID if status < 500 else frames.APPLICATION_ERROR, text)


def _text(code: str, message: str, status: int) -> str:
    return f"{code}: {message} [{NEW_TOKEN if status == 401 else SAME_TOKEN}]"
