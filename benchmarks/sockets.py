"""The load over a WebSocket: a device that speaks RSocket as the SDK does, on a bare asyncio protocol."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Callable
from typing import cast

import msgspec

from lowtide.api.rsocket import frames

CREDITS = 10
"""Lines that the SDK asks for at first, and one more for each that came."""

_UPGRADE = (
    "GET /sync/stream HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
_DEFLATE = "sec-websocket-extensions: permessage-deflate\r\n"
_MORE = frames.encode(frames.RequestN(1, 1))


class SocketWire(asyncio.Protocol):
    """One connection with one stream. ``sink`` gets each line, whole; an empty one at the end."""

    def __init__(self, token: str, body: bytes, sink: Callable[[bytes], None], deflate: bool):
        self._deflate = deflate
        self._token = token
        self._body = body
        self._sink = sink
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._parts: list[bytes] = []
        self._open = False
        self.size = 0
        """Bytes of messages, without the handshake."""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write((_UPGRADE + (_DEFLATE if self._deflate else "") + "\r\n").encode())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionResetError("the server closed the connection"))
        self._sink(b"")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self._open and not self._accepted():
            return
        buffer, at, more = self._buffer, 0, 0
        while (found := _message(buffer, at)) is not None:
            first, start, end = found
            self.size += end - at
            at = end
            if first & 15 == 2:
                frame = buffer[start:end]
                if first & 0x40:
                    frame = zlib.decompress(frame + b"\x00\x00\xff\xff\x03\x00", -15)
                more += self._take(frames.decode(frame))
            elif first & 15 == 8:
                self._sink(b"")
        self._buffer = buffer[at:]
        if more:
            self._send(*[_MORE] * more)

    def _accepted(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        if b" 101 " not in head:
            raise RuntimeError(head.decode("latin-1"))
        self._open, self._buffer = True, rest
        kind = "application/json"
        hello = msgspec.json.encode({"token": f"Token {self._token}", "user_agent": "benchmark"})
        self._send(
            frames.encode(
                frames.Setup(
                    keepalive=20_000, lifetime=90_000, metadata_type=kind, data_type=kind, metadata=hello
                )
            ),
            frames.encode(
                frames.Ask(
                    kind=frames.REQUEST_STREAM,
                    stream=1,
                    initial=CREDITS,
                    metadata=b'{"path":"/sync/stream"}',
                    data=self._body,
                )
            ),
        )
        self.opened.set_result(None)
        return True

    def _take(self, frame: frames.Frame) -> int:
        if isinstance(frame, frames.Failure):
            raise RuntimeError(frame.message)
        if not isinstance(frame, frames.Payload) or not frame.next:
            return 0
        self._parts.append(frame.data)
        if frame.follows:
            return 0
        line = b"".join(self._parts)
        self._parts.clear()
        self._sink(line)
        return 1

    def _send(self, *messages: bytes) -> None:
        assert self._transport is not None
        # A mask of zeros changes nothing, which is all that a benchmark has to hide.
        self._transport.write(b"".join(_head(len(message)) + message for message in messages))


def _head(size: int) -> bytes:
    if size < 126:
        return struct.pack(">BB", 0x82, 0x80 | size) + b"\0\0\0\0"
    if size < 65_536:
        return struct.pack(">BBH", 0x82, 0x80 | 126, size) + b"\0\0\0\0"
    return struct.pack(">BBQ", 0x82, 0x80 | 127, size) + b"\0\0\0\0"


def _message(buffer: bytes, at: int) -> tuple[int, int, int] | None:
    """(first byte, start, end) of the message at ``at``; None: it is not whole."""
    if len(buffer) < at + 2:
        return None
    first, size, start = buffer[at], buffer[at + 1] & 127, at + 2
    if size > 125:
        start = at + (4 if size == 126 else 10)
        size = int.from_bytes(buffer[at + 2 : start])
    end = start + size
    return None if len(buffer) < end or start > len(buffer) else (first, start, end)


async def connect_socket(
    port: int, token: str, body: bytes, sink: Callable[[bytes], None], *, deflate: bool = True
) -> SocketWire:
    """A connection whose stream was asked for with ``body``. ``deflate``: as most clients offer."""
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(lambda: SocketWire(token, body, sink, deflate), "127.0.0.1", port)
    await wire.opened
    return wire
