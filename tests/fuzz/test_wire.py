"""The bytes of a connection, given anything: whole answers with documented statuses, and nobody's fault."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from lowtide.api.wire import Wire, WireConfig, WireLimits
from tests.api.edges import Handlers, build
from tests.fuzz.bounds import thorough

LIMITS = WireLimits(head=2048, headers=20)
STATUSES = {100, 200, 201, 204, 400, 401, 403, 404, 405, 408, 413, 415, 421, 431, 503}
BARE = {100, 204, 304}

lines = st.sampled_from(
    [
        b"GET /notes HTTP/1.1\r\n",
        b"POST /notes HTTP/1.1\r\n",
        b"POST /raw HTTP/1.1\r\n",
        b"HEAD /open HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
        b"GET http://evil/ HTTP/1.1\r\n",
        b"GET /files/%00%ff/../x?limit=1&limit=2 HTTP/1.1\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /open HTTP/1.0\r\n",
        b"Host: localhost\r\n",
        b"Host: evil\r\n",
        b"Authorization: Bearer ann\r\n",
        b"Authorization: \xff\xfe\r\n",
        b"Content-Type: application/json\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Content-Length: 13\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
        b"Connection: close\r\n",
        b" folded\r\n",
        b"No colon\r\n",
        b"X: " + b"y" * 3000 + b"\r\n",
        b"X: y\r\n" * 30,
        b"\r\n",
        b"\n",
        b'{"title":"x"}',
        b"d\r\n" + b'{"title":"x"}' + b"\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"0\r\n\r\n",
    ]
)
good = st.just(b"GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n") | st.just(
    b"POST /notes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ann\r\n"
    b'Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{"title":"x"}'
)
streams = st.lists(lines | st.binary(max_size=12) | good, max_size=14).map(b"".join)


class Line(asyncio.Transport):
    """The server's end of a connection, in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False

    def write(self, data: Any) -> None:
        if not self.closed:  # as asyncio's own: nobody hears what is said after the end
            self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        raise AssertionError("nobody speaks another protocol here")


class Faults(logging.Handler):
    """What anybody calls an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.getMessage()} {record.exc_info}")


async def talk(parts: list[bytes]) -> tuple[bytes, list[str]]:
    """What the server writes when it is sent ``parts``, and what it complains of."""
    faults = Faults()
    logging.getLogger().addHandler(faults)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.said.append(str(context)))
    config = WireConfig(
        build(Handlers()), LIMITS, log_config=None, lifespan="off", ws="none", access_log=False
    )
    config.load()
    state = ServerState()
    line = Line()
    wire = Wire(config=config, server_state=state, app_state={}, _loop=loop)
    try:
        wire.connection_made(line)
        for part in parts:
            if line.closed:
                break
            wire.data_received(part)
            for _ in range(3):
                await asyncio.sleep(0)
        for _ in range(40):
            await asyncio.sleep(0)
    finally:
        line.closed = True
        wire.connection_lost(None)
        for _ in range(5):
            await asyncio.sleep(0)
        await asyncio.gather(*state.tasks, return_exceptions=True)
        logging.getLogger().removeHandler(faults)
    assert not state.connections
    return line.sent, faults.said


def read(sent: bytes) -> list[int]:
    """The statuses of whole answers; the last may be cut. Anything else is an error."""
    found = []
    while sent:
        head, end, rest = sent.partition(b"\r\n\r\n")
        first = re.match(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n", head + b"\r\n")
        assert first is not None, sent[:200]
        assert end
        found.append(int(first[1]))
        size = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        kind = re.search(rb"(?i)\r\ncontent-type: ([^\r]+)", head)
        length = int(size[1]) if size else 0
        body = rest[:length]
        if found[-1] >= 400 and body.startswith(b"{"):
            assert kind is not None
            assert kind[1] == b"application/problem+json"
            assert msgspec.json.decode(body)["status"] == found[-1]
        # An answer to HEAD has a length and no body.
        sent = rest if found[-1] in BARE or not body.startswith((b"{", b'"', b"[")) else rest[length:]
    return found


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return [part for part in [*parts, data] if part]


class TestConnection:
    @thorough
    @given(streams, st.lists(st.integers(1, 40), max_size=6))
    def test_any_bytes_are_answered_or_refused(self, data: bytes, sizes: list[int]) -> None:
        """However they are cut: whole answers of documented statuses, and nothing that is called an error."""
        sent, faults = asyncio.run(talk(cut(data, sizes)))
        assert faults == []
        assert set(read(sent)) <= STATUSES, sent

    @thorough
    @given(st.lists(st.integers(1, 60), max_size=8))
    def test_how_bytes_are_cut_means_nothing(self, sizes: list[int]) -> None:
        """Three requests in a row are answered the same in any parts."""
        one = b"GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n"
        two = (
            b"POST /notes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ann\r\n"
            b'Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{"title":"x"}'
        )
        sent, faults = asyncio.run(talk(cut(one + two + one, sizes)))
        assert faults == []
        assert read(sent) == [204, 201, 204]
