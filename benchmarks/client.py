"""The load: HTTP/1.1 on bare asyncio protocols, a few microseconds a message.

The client shares the machine with what it measures, so it does nothing that it need not: no header is
kept but the two that say where an answer ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

Sink = Callable[[bytes], None]


class Answer:
    """Status, headers in lower case, and the body when it is whole."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str]):
        self.status = status
        self.headers = headers
        self.body = b""


class Wire(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, token: str | None):
        self._head = "host: localhost\r\n" + (f"authorization: Bearer {token}\r\n" if token else "")
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: Answer | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._sink: Sink | None = None
        self._parts: list[bytes] = []
        self._rest = 0
        self._chunked = False
        self.ended = asyncio.get_running_loop().create_future()

    def send(self, method: str, path: str, body: bytes | None, headers: str) -> None:
        assert self._transport is not None
        length = "" if body is None else f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        head = f"{method} {path} HTTP/1.1\r\n{self._head}{headers}{length}\r\n"
        self._transport.write(head.encode() + (body or b""))

    async def ask(self, method: str, path: str, body: bytes | None = None, headers: str = "") -> Answer:
        """A whole answer. Raises ``ConnectionError`` when the server leaves."""
        self._waiting = asyncio.get_running_loop().create_future()
        self.send(method, path, body, headers)
        return await self._waiting

    async def listen(
        self, sink: Sink, method: str, path: str, body: bytes | None = None, headers: str = ""
    ) -> Answer:
        """The head of an answer; every piece of its body goes to ``sink``, an empty one at its end.

        An answer other than 200 is returned whole.
        """
        self._sink = sink
        return await self.ask(method, path, body, headers)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio's calls --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionResetError("the server closed the connection"))
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if self._answer is None and not self._read_head():
            return
        if self._chunked:
            self._read_chunks()
        else:
            self._read_plain()

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self._buffer = self._buffer[end + 4 :]
        self._answer = Answer(int(first.split(" ", 2)[1]), headers)
        self._chunked = "chunked" in headers.get("transfer-encoding", "")
        self._rest = int(headers.get("content-length", 0))
        if self._sink is not None and self._answer.status == 200:
            assert self._waiting is not None
            self._waiting.set_result(self._answer)
        return True

    def _read_chunks(self) -> None:
        buffer, at = self._buffer, 0
        while (line := buffer.find(b"\r\n", at)) >= 0:
            size = int(buffer[at:line], 16)
            end = line + 2 + size
            if len(buffer) < end + 2:
                break
            self._take(buffer[line + 2 : end])
            at = end + 2
            if size == 0:
                self._buffer = buffer[at:]
                self._done()
                return
        self._buffer = buffer[at:]

    def _read_plain(self) -> None:
        part, self._buffer = self._buffer[: self._rest], self._buffer[self._rest :]
        self._rest -= len(part)
        if part:
            self._take(part)
        if self._rest == 0:
            self._done()

    def _take(self, data: bytes) -> None:
        if self._sink is not None and self._answer is not None and self._answer.status == 200:
            if data:
                self._sink(data)
        else:
            self._parts.append(data)

    def _done(self) -> None:
        answer, self._answer = self._answer, None
        assert answer is not None
        if self._sink is not None and answer.status == 200:
            self._sink(b"")
            return
        answer.body = b"".join(self._parts)
        self._parts.clear()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)


async def connect(port: int, token: str | None = None) -> Wire:
    """A new connection to a server on this machine."""
    _, wire = await asyncio.get_running_loop().create_connection(lambda: Wire(token), "127.0.0.1", port)
    return wire


async def post(port: int, token: str | None, path: str, body: bytes) -> Answer:
    """One request on a connection of its own. Raises ``RuntimeError`` for an answer that is none."""
    wire = await connect(port, token)
    try:
        answer = await wire.ask("POST", path, body)
    finally:
        wire.close()
    if answer.status not in (200, 201, 204):
        raise RuntimeError(f"POST {path}: {answer.status} {answer.body[:500]!r}")
    return answer
