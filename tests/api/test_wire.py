"""Bytes on a real socket: what is not HTTP, too large, too slow, too many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from lowtide.api.edge import Edge
from lowtide.api.server import FILES, Serving, _affordable, serve
from lowtide.api.wire import RESERVE, WireLimits
from lowtide.kernel.http import MIB, Outlet, Request, Route, StreamAnswer
from tests.api.edges import Handlers, build
from tests.api.test_edge import until

pytestmark = pytest.mark.anyio

QUICK = WireLimits(head_time=0.3, stall_time=0.3, head=4096, headers=20, thrown_away=64 * 1024)


@contextlib.asynccontextmanager
async def served(edge: Edge, wire: WireLimits = QUICK, **options: Any) -> AsyncIterator[int]:
    """``edge`` on a free port of this machine, stopped at the end of the block."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    port: int = listener.getsockname()[1]
    started, stop = asyncio.Event(), asyncio.Event()
    serving = Serving(wire=wire, grace=options.pop("grace", 1.0), **options)
    task = asyncio.create_task(serve(edge, listener, started=started.set, stop=stop, serving=serving))
    await started.wait()
    try:
        yield port
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


class Connection:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self, seconds: float = 5) -> bytes:
        """Everything until the server closes the connection."""
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read(-1)
            except ConnectionResetError:
                return b""

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """One answer, of known length or in chunks."""
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            body = b""
            if headers.get("transfer-encoding") == "chunked":
                while size := int(await self.reader.readline(), 16):
                    body += await self.reader.readexactly(size)
                    await self.reader.readexactly(2)
                await self.reader.readexactly(2)
            else:
                body = await self.reader.readexactly(int(headers.get("content-length", "0")))
            return int(first.split()[1]), headers, body


@contextlib.asynccontextmanager
async def connect(port: int) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def edge(handlers: Handlers) -> Edge:
    return build(handlers)


def request(method: str = "GET", target: str = "/open", *headers: str, body: str = "") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1")


POST = ("POST", "/notes", "Authorization: Bearer ann", "Content-Type: application/json")


async def refused(port: int, data: bytes, status: int, code: str) -> None:
    """``data`` is answered with a problem, and the connection closed."""
    async with connect(port) as connection:
        connection.send(data)
        got, headers, body = await connection.answer()
        assert (got, json.loads(body)["code"]) == (status, code), data[:80]
        assert headers["content-type"] == "application/problem+json"
        assert await connection.rest() == b""


class TestParsing:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"hello\r\n\r\n",
            b"GET /open\r\n\r\n",
            b"GET /open HTTP/9.9\r\n\r\n",
            b"FOO /open HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET http://localhost/open HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET http://evil.example/open HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            request("GET", "/open", "Bad Header: 1"),
            request("GET", "/open", "Bad\x01: 1"),
            request("GET", "/open", " folded: 1"),
            request("GET", "/open", "X: a\x00b"),
            request(*POST, "Content-Length: 5", "Content-Length: 5", body="12345"),
            request(*POST, "Content-Length: 5", "Content-Length: 6", body="12345"),
            request(*POST, "Content-Length: -5"),
            request(*POST, "Content-Length: 5, 5", body="12345"),
            request(*POST, "Content-Length: 0x5", body="12345"),
            request(*POST, "Content-Length: 99999999999999999999999"),
            request(*POST, "Transfer-Encoding: chunked", "Content-Length: 5", body="0\r\n\r\n"),
            request(*POST, "Transfer-Encoding: chunked", body="zz\r\n"),
            request(*POST, "Transfer-Encoding: chunked", body="-1\r\n"),
            request(*POST, "Transfer-Encoding: chunked", body="fffffffffffffffff\r\n"),
            request(*POST, "Transfer-Encoding: chunked, identity", body="0\r\n\r\n"),
            request(*POST, "Transfer-Encoding: gzip", body="0\r\n\r\n"),
        ],
    )
    async def test_what_is_not_http_is_a_problem(
        self, edge: Edge, handlers: Handlers, data: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        """400 for each ambiguity, then the connection is closed; no handler runs, no fault is logged."""
        async with served(edge) as port:
            await refused(port, data, 400, "bad_request")
        assert handlers.requests == []
        assert not [made for made in caplog.records if made.exc_info]

    async def test_two_hosts_and_none_are_refused(self, edge: Edge) -> None:
        """httptools lets them through; the edge does not."""
        async with served(edge) as port, connect(port) as connection:
            for data in (
                request("GET", "/open", "Host: localhost"),
                request("GET", "/open", "host: evil.example"),
                b"GET /open HTTP/1.1\r\n\r\n",
            ):
                connection.send(data)
                status, _, body = await connection.answer()
                assert (status, json.loads(body)["code"]) == (400, "bad_request")

    async def test_a_trailer_is_no_header(self, edge: Edge, handlers: Handlers) -> None:
        """What stands behind a body is dropped (RFC 9110 section 6.5.1): a proxy looks at headers alone."""
        kind = ("Content-Type: application/json", "Transfer-Encoding: chunked")
        chunk = "2\r\n{}\r\n0\r\n"
        trailer = "Authorization: Bearer ann\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n"
        async with served(edge) as port, connect(port) as connection:
            connection.send(request("POST", "/any", *kind, body=chunk + trailer))
            assert (await connection.answer())[0] == 401
            connection.send(
                request("POST", "/any", "Authorization: Bearer ann", *kind, body=chunk + "X-A: 1\r\n\r\n")
            )
            assert (await connection.answer())[0] == 200
        assert b"x-a" not in {name for name, _ in handlers.requests[0].headers}

    async def test_requests_in_a_row_are_answered_in_order(self, edge: Edge) -> None:
        """Pipelined: as many as come, each answered, on one connection."""
        async with served(edge) as port, connect(port) as connection:
            count = 50
            connection.send(
                b"".join(request("GET", f"/files/{n}", "Authorization: Bearer ann") for n in range(count))
            )
            for n in range(count):
                status, _, body = await connection.answer()
                assert (status, json.loads(body)) == (200, {"path": str(n)})

    async def test_requests_before_a_body_are_not_counted_with_it(self, edge: Edge) -> None:
        """Many in one packet, the last of them with a body that comes later."""
        get = request("GET", "/open")
        post = request("POST", "/raw", "Authorization: Bearer ann", "Content-Length: 2")
        async with served(edge) as port, connect(port) as connection:
            connection.send(get * (QUICK.head // len(get) + 5) + post)
            for _ in range(QUICK.head // len(get) + 5):
                assert (await connection.answer())[0] == 204
            connection.send(b"ok")
            assert (await connection.answer())[2] == b"ok"

    async def test_garbage_behind_a_request_does_not_mix_with_its_answer(
        self, edge: Edge, handlers: Handlers
    ) -> None:
        """An answer that is on its way is cut, never interleaved with another."""
        async with served(edge) as port, connect(port) as connection:
            connection.send(request("GET", "/wait", "Authorization: Bearer ann"))
            await until(lambda: handlers.requests)
            connection.send(b"\x00\x00\x00")
            assert await connection.rest() == b""
            handlers.gate.set()

    async def test_an_upgrade_that_is_not_offered_is_ignored(self, edge: Edge) -> None:
        """The request is answered as if it had not asked (RFC 9110 section 7.8)."""
        async with served(edge) as port, connect(port) as connection:
            connection.send(request("GET", "/open", "Connection: Upgrade", "Upgrade: websocket"))
            assert (await connection.answer())[0] == 204

    async def test_expecting_clients_are_told_before_they_send(self, edge: Edge) -> None:
        """100-continue: a refusal comes before the body, an invitation when it is wanted."""
        async with served(edge) as port, connect(port) as connection:
            connection.send(request(*POST, "Expect: 100-continue", "Content-Length: 99999999"))
            assert (await connection.answer())[0] == 413
        async with served(edge) as port, connect(port) as connection:
            connection.send(request(*POST, "Expect: 100-continue", "Content-Length: 13"))
            assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.send(b'{"title":"x"}')
            assert (await connection.answer())[0] == 201


class TestHead:
    @pytest.mark.parametrize(
        "data",
        [
            request("GET", "/" + "a" * 5000),
            request("GET", "/open?" + "a" * 5000),
            request("GET", "/open", "X: " + "a" * 5000),
            request("GET", "/open", *[f"X-{n}: {'a' * 500}" for n in range(10)]),
            request("GET", "/open", *[f"X-{n}: a" for n in range(30)]),
            request("GET", "/open", "X" * 5000 + ": a"),
            b"GET /open HTTP/1.1\r\nX: " + b"a" * 500_000,
            b"GET /" + b"a" * 500_000,
            b"GET /open HTTP/1.1\r\n" + b"X" * 500_000,
        ],
    )
    async def test_a_head_is_bounded(self, edge: Edge, data: bytes) -> None:
        """In bytes and in number, complete or not: 431."""
        async with served(edge) as port, connect(port) as connection:
            connection.send(data)
            got = await connection.rest()
            # A client that is still sending may be reset before it reads.
            assert got == b"" or b"431" in got.split(b"\r\n")[0]
            assert b"204" not in got.split(b"\r\n")[0]
            if len(data) < 10_000:
                assert b'"head_too_large"' in got

    @pytest.mark.parametrize("start", [b"GET /", b"GET /open HTTP/1.1\r\nX: ", b"GET /open HTTP/1.1\r\nX"])
    async def test_a_head_that_does_not_end_is_bounded(self, edge: Edge, start: bytes) -> None:
        """What the parser still holds back counts as it comes, whatever the time."""
        async with served(edge, WireLimits(head=4096)) as port, connect(port) as connection:
            connection.send(start)
            for _ in range(5):
                await asyncio.sleep(0.02)
                connection.send(b"a" * 1000)
            status, _, body = await connection.answer()
            assert (status, json.loads(body)["code"]) == (431, "head_too_large")

    @pytest.mark.parametrize("token", ["ann", "nobody"])
    @pytest.mark.parametrize("start", [b"0\r\nX-A: ", b"2;x="])
    async def test_what_stands_around_a_body_is_bounded(self, edge: Edge, token: str, start: bytes) -> None:
        """A trailer or an extension of a chunk that does not end ends the connection, answered or not."""
        head = request("POST", "/any", f"Authorization: Bearer {token}", "Transfer-Encoding: chunked")
        patient = msgspec.structs.replace(QUICK, head_time=30.0)
        async with served(edge, patient) as port, connect(port) as connection:
            connection.send(head)
            if token == "nobody":
                assert (await connection.answer())[0] == 401
            connection.send(b"2\r\n{}\r\n" + start)
            with contextlib.suppress(OSError):
                for _ in range(20):
                    connection.send(b"a" * 1000)
                    await connection.writer.drain()
                    await asyncio.sleep(0)
            rest = await connection.rest()
            assert rest == b"" or rest.startswith(b"HTTP/1.1 431 ")

    async def test_a_body_in_many_small_chunks_is_whole(self, edge: Edge) -> None:
        """Chunks whose sizes come by themselves are no endless trailer, however many there are."""
        head = request("POST", "/raw", "Authorization: Bearer ann", "Transfer-Encoding: chunked")
        async with served(edge) as port, connect(port) as connection:
            connection.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.send(head)
            for _ in range(1_000):
                for part in (b"000001\r\n", b"a\r\n"):
                    connection.send(part)
                    await connection.writer.drain()
                    await asyncio.sleep(0)
            connection.send(b"0\r\n\r\n")
            status, _, body = await connection.answer()
        assert (status, len(body)) == (200, 1_000)

    async def test_a_large_body_is_no_head(self, edge: Edge) -> None:
        """What comes with the headers in one packet does not count, nor does the next request's."""
        async with served(edge) as port, connect(port) as connection:
            body = '{"title":"%s"}' % ("x" * 60_000)
            one = request(*POST, f"Content-Length: {len(body)}", body=body)
            connection.send(one + one + one[:50])
            for _ in range(2):
                assert (await connection.answer())[0] == 201
            connection.send(one[50:])
            assert (await connection.answer())[0] == 201


class TestTime:
    async def test_silence_ends_the_connection(self, edge: Edge) -> None:
        """Who connects and says nothing is let go."""
        async with served(edge) as port, connect(port) as connection:
            assert await connection.rest(3) == b""

    async def test_slow_headers_end_the_connection(self, edge: Edge) -> None:
        """A line now and then does not hold it."""
        async with served(edge) as port, connect(port) as connection:
            connection.send(b"GET /open HTTP/1.1\r\n")
            rest = asyncio.create_task(connection.rest(3))
            for n in range(100):
                if rest.done():
                    break
                connection.send(b"X-%d: a\r\n" % n)
                await asyncio.sleep(0.05)
            assert await rest == b""
            assert n < 19

    async def test_the_second_request_has_the_same_time(self, edge: Edge) -> None:
        """A connection in use is no licence to be slow."""
        async with served(edge) as port, connect(port) as connection:
            connection.send(request())
            assert (await connection.answer())[0] == 204
            connection.send(b"GET /open HT")
            assert await connection.rest(3) == b""

    async def test_a_quick_connection_outlives_its_timers(self, edge: Edge) -> None:
        """Idle between requests, and during a long handler, nothing is cut."""
        async with served(edge) as port, connect(port) as connection:
            for _ in range(3):
                connection.send(request())
                assert (await connection.answer())[0] == 204
                await asyncio.sleep(0.4)

    async def test_a_long_answer_is_waited_for(self, edge: Edge, handlers: Handlers) -> None:
        """The time for headers does not run while a handler works."""
        async with served(edge) as port, connect(port) as connection:
            connection.send(request("GET", "/wait", "Authorization: Bearer ann"))
            await asyncio.sleep(0.5)
            handlers.gate.set()
            assert (await connection.answer())[0] == 200


class TestRefusedBodies:
    async def test_a_little_is_thrown_away_and_the_connection_lives(self, edge: Edge) -> None:
        """The client that was refused reads why, and goes on."""
        async with served(edge) as port, connect(port) as connection:
            connection.send(request("POST", "/notes", "Content-Length: 50000", body="x" * 50_000))
            assert (await connection.answer())[0] == 401
            connection.send(request())
            assert (await connection.answer())[0] == 204

    async def test_a_lot_is_not(self, edge: Edge) -> None:
        """Nobody makes the server read gigabytes for nothing."""
        async with served(edge) as port, connect(port) as connection:
            connection.send(request("POST", "/notes", f"Content-Length: {64 * MIB}"))
            assert (await connection.answer())[0] == 401
            sent = 0
            with contextlib.suppress(OSError):
                while sent < 64 * MIB:
                    connection.send(bytes(MIB))
                    sent += MIB
                    await connection.writer.drain()
            assert sent < 64 * MIB

    async def test_a_body_that_stops_ends_the_connection(self, edge: Edge) -> None:
        """Nor does it wait for a body that nobody wants."""
        async with served(edge) as port, connect(port) as connection:
            connection.send(request("POST", "/notes", "Content-Length: 50000", body="x"))
            assert (await connection.answer())[0] == 401
            assert await connection.rest(3) == b""

    async def test_broken_chunks_end_the_request(self, edge: Edge, handlers: Handlers) -> None:
        """A body that stops being HTTP is answered 400, and its room is given back."""
        async with served(edge) as port, connect(port) as connection:
            connection.send(request(*POST, "Transfer-Encoding: chunked", body='5\r\n{"tit\r\n'))
            await until(lambda: edge.load.buffered == 5)
            connection.send(b"zzz\r\n")
            status, _, body = await connection.answer()
            assert (status, json.loads(body)["code"]) == (400, "bad_request")
            assert await connection.rest() == b""
            await until(lambda: edge.load.buffered == 0)
        assert handlers.requests == []


class TestStreams:
    async def test_who_leaves_is_noticed_at_once(self, edge: Edge, handlers: Handlers) -> None:
        """The stream's task ends with its connection."""
        async with served(edge) as port:
            async with connect(port) as connection:
                connection.send(request("GET", "/ticks", "Authorization: Bearer ann"))
                await connection.reader.readuntil(b'{"hello":true}\n')
                assert edge.load.streams == 1
            await until(lambda: edge.load.streams == 0)
            assert handlers.ended == ["left"]

    async def test_who_takes_nothing_is_cut_off(self) -> None:
        """A client that does not read costs its socket's buffer, and only for a while."""
        written = 0
        ended: list[str] = []

        async def run(outlet: Outlet) -> None:
            nonlocal written
            try:
                while True:
                    await outlet.write(bytes(64 * 1024))
                    written = outlet.sent
            finally:
                ended.append("cut")

        async def handler(_: Request[None, None]) -> StreamAnswer:
            return StreamAnswer(run=run)

        edge = build(Handlers(), Route("GET", "/s", handler, auth="none"))
        async with served(edge) as port:
            with socket.create_connection(("127.0.0.1", port)) as idle:
                idle.sendall(request("GET", "/s"))
                await until(lambda: ended)
            assert ended == ["cut"]
            assert edge.load.streams == 0
            assert written < 32 * MIB

    async def test_a_stream_after_a_stream(self, edge: Edge, handlers: Handlers) -> None:
        """A stream that ended cleanly leaves a connection that can be used again."""

        async def run(outlet: Outlet) -> None:
            await outlet.write(b"a\n")
            await outlet.write(b"b\n")

        async def handler(_: Request[None, None]) -> StreamAnswer:
            return StreamAnswer(run=run)

        edge = build(handlers, Route("GET", "/s", handler, auth="none"))
        async with served(edge) as port, connect(port) as connection:
            for _ in range(2):
                connection.send(request("GET", "/s"))
                status, _, body = await connection.answer()
                assert (status, body) == (200, b"a\nb\n")


class TestProxies:
    async def test_nobody_is_believed_by_default(self, edge: Edge, handlers: Handlers) -> None:
        """Who says that it is someone else is itself."""
        async with served(edge) as port, connect(port) as connection:
            connection.send(request("GET", "/open", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"))
            _, headers, _ = await connection.answer()
        assert handlers.requests[0].client == "127.0.0.1"
        assert "strict-transport-security" not in headers

    async def test_a_listed_proxy_is_believed(self, edge: Edge, handlers: Handlers) -> None:
        """The last address that a listed proxy did not write itself is the client's."""
        async with served(edge, proxies=("127.0.0.0/8", "10.0.0.1")) as port, connect(port) as connection:
            forwarded = "X-Forwarded-For: 9.9.9.9, 1.2.3.4, 10.0.0.1"
            connection.send(request("GET", "/open", forwarded, "X-Forwarded-Proto: https"))
            _, headers, _ = await connection.answer()
        assert handlers.requests[0].client == "1.2.3.4"
        assert "strict-transport-security" in headers


class TestConnections:
    def test_the_cap_fits_the_files_that_a_process_may_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The soft limit is raised as far as it goes; beyond that the cap is lowered, not to nothing."""
        asked: list[tuple[int, int]] = []
        monkeypatch.setattr(resource, "setrlimit", lambda _, pair: asked.append(pair))

        def cap(soft: int, hard: int) -> int:
            monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
            return _affordable(WireLimits(connections=10_000)).connections

        assert cap(1_000_000, 1_000_000) == 10_000
        assert asked == []
        assert cap(1024, resource.RLIM_INFINITY) == 10_000
        assert asked == [(10_000 + RESERVE + FILES, resource.RLIM_INFINITY)]
        assert cap(1024, 4096) == 4096 - RESERVE - FILES
        assert cap(256, 256) == 16

    async def test_beyond_the_cap_only_health_is_answered(self, edge: Edge) -> None:
        """The connections that are there go on; new ones are told that the server is full."""
        limits = WireLimits(connections=2)
        async with (
            served(edge, limits) as port,
            connect(port) as one,
            connect(port) as two,
        ):
            for connection in (one, two):
                connection.send(request())
                assert (await connection.answer())[0] == 204
            async with connect(port) as three:
                three.send(request())
                status, headers, _ = await three.answer()
                assert (status, "retry-after" in headers) == (503, True)
                three.send(request("GET", "/health/ready"))
                assert (await three.answer())[0] == 200
            one.send(request())
            assert (await one.answer())[0] == 204

    async def test_far_beyond_it_they_are_closed(self, edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
        """A reserve for health checks, and no more."""
        monkeypatch.setattr("lowtide.api.wire.RESERVE", 1)
        async with (
            served(edge, WireLimits(connections=1)) as port,
            connect(port) as one,
            connect(port) as two,
        ):
            one.send(request())
            assert (await one.answer())[0] == 204
            two.send(request("GET", "/health/live"))
            assert (await two.answer())[0] == 200
            async with connect(port) as three:
                assert await three.rest() == b""
