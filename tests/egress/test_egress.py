"""Requests to other servers: pinned, verified and bounded, against servers that misbehave."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lowtide.egress import Egress
from lowtide.egress.client import MAX_HEAD, MAX_HEADERS
from lowtide.kernel.errors import AddressRefused, Busy, OutsideFailed
from tests.egress.outside import OK, Authority, Outside

pytestmark = pytest.mark.anyio


def local(outside: Outside, **options: Any) -> Egress:
    return Egress(allowed=(f"127.0.0.1:{outside.port}",), **options)


async def ask(answer: Any, **options: Any) -> Any:
    """One GET to a server that gives ``answer``."""
    async with Outside(answer).serving() as outside:
        egress = local(outside)
        return await egress.request("GET", f"http://127.0.0.1:{outside.port}/", **options)


async def test_a_request_is_sent_whole() -> None:
    """Method, path, headers and body arrive; status, headers and body come back."""
    answer = b"HTTP/1.1 202 Accepted\r\nX-A: 1\r\nx-a: 2\r\ntransfer-encoding: chunked\r\n\r\n"
    answer += b"3\r\nabc\r\n0\r\n\r\n"
    async with Outside(answer).serving() as outside:
        got = await local(outside).request(
            "POST", f"http://127.0.0.1:{outside.port}/hook?a=%20", headers={"X-Test": "yes"}, body=b"{}"
        )
        ((head, body),) = outside.requests
    assert (got.status, got.headers["x-a"], got.body) == (202, "1, 2", b"abc")
    assert head.startswith(b"POST /hook?a=%20 HTTP/1.1\r\n")
    assert f"host: 127.0.0.1:{outside.port}\r\n".encode() in head
    assert b"X-Test: yes\r\n" in head
    assert b"content-length: 2\r\n" in head
    assert body == b"{}"


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK,
    ],
)
async def test_every_framing_of_a_body_is_read(answer: bytes) -> None:
    """By length, by the connection's end, after interim answers."""
    assert (await ask(answer)).body == b"ok"


async def test_a_redirect_is_an_answer() -> None:
    """It is not followed, wherever it leads."""
    got = await ask(b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n")
    assert got.status == 302


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "before its answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok", "before its answer"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "before its answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-len", "before its answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not answer with HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "HTTP|before"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n" + b"a" * 2_000_000, "more than 1048576 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (MAX_HEADERS + 1) + b"\r\n", "too many headers"),
        (b"HTTP/1.1 200 OK\r\na: " + b"b" * (MAX_HEAD + 100_000) + b"\r\n\r\n", "too many headers|HTTP"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: " + b"b" * (MAX_HEAD * 4),
            "too many headers",
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"b" * (MAX_HEAD * 4),
            "too many headers|HTTP",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n" + gzip.compress(b"0" * 10_000_000),
            "compressed",
        ),
    ],
)  # fmt: skip
async def test_what_is_no_whole_answer_is_told(answer: bytes, reason: str) -> None:
    """Cut, malformed, too large, and bombs: one error, and never half an answer."""
    with pytest.raises(OutsideFailed, match=reason):
        await ask(answer)


@pytest.mark.parametrize(
    "first", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\na"]
)
async def test_a_slow_server_meets_the_deadline(first: bytes) -> None:
    """Wherever it stops, the whole request ends in time, and the connection with it."""
    gone = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        await reader.read()
        gone.set()

    with pytest.raises(OutsideFailed, match="in time"):
        await ask(stall, deadline=0.2)
    async with asyncio.timeout(5):
        await gone.wait()


async def test_a_drip_of_bytes_does_not_extend_the_deadline() -> None:
    """A byte now and then is not progress."""

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.02)

    with pytest.raises(OutsideFailed, match="in time"):
        await ask(drip, deadline=0.3)


async def test_nobody_listens() -> None:
    """A refused connection is an answer of the one error."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(OutsideFailed, match="could not be reached"):
            await Egress(allowed=("127.0.0.1",)).request("GET", f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("name", ["bad name", "a:b", "", "host", "Content-Length", "transfer-encoding", "é"])
async def test_a_header_cannot_break_out(name: str) -> None:
    """Names and values that would add lines, or change the framing, are refused before a connection."""
    async with Outside().serving() as outside:
        url = f"http://127.0.0.1:{outside.port}/"
        with pytest.raises(ValueError, match="cannot be sent"):
            await local(outside).request("GET", url, headers={name: "x"})
        for value in ("a\r\nb: c", "a\nb", "a\0", "é"):
            with pytest.raises(ValueError, match="cannot be sent"):
                await local(outside).request("GET", url, headers={"x-a": value})
        assert outside.connections == 0


class Names:
    """A name server of the test's own: each look-up takes the next answer."""

    def __init__(self, *answers: Sequence[str]):
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0)


class TestNames:
    @pytest.mark.parametrize(
        "addresses",
        [
            ["127.0.0.1"],
            ["169.254.169.254"],
            ["8.8.8.8", "10.0.0.1"],
            ["::1"],
            ["::ffff:10.0.0.1"],
            ["fe80::1%eth0"],
        ],
    )
    async def test_a_name_that_leads_inside_is_refused(self, addresses: list[str]) -> None:
        """One private address among public ones is enough, and nothing is connected."""
        connected = []

        async def connect(*where: Any, **_: Any) -> Any:
            connected.append(where)
            raise OSError

        egress = Egress(resolve=Names(addresses), connect=connect)
        with pytest.raises(AddressRefused):
            await egress.request("GET", "https://rebind.example.com/")
        assert connected == []

    async def test_a_name_that_changes_its_mind_gains_nothing(self) -> None:
        """DNS rebinding: it is resolved once, and the address that was checked is the one connected."""
        names = Names(["8.8.8.8"], ["127.0.0.1"])
        connected = []

        async def connect(address: str, port: int, **options: Any) -> Any:
            connected.append((address, port, options["server_hostname"]))
            raise ConnectionRefusedError

        egress = Egress(resolve=names, connect=connect)
        with pytest.raises(OutsideFailed):
            await egress.request("GET", "https://rebind.example.com/")
        assert connected == [("8.8.8.8", 443, "rebind.example.com")]
        assert names.asked == ["rebind.example.com"]

    async def test_the_next_address_is_tried(self) -> None:
        """Of several addresses, those that do not answer are passed over."""
        async with Outside().serving() as outside:
            egress = Egress(allowed=("two.example.com",), resolve=Names(["127.0.0.9", "127.0.0.1"]))
            got = await egress.request("GET", f"http://two.example.com:{outside.port}/")
            assert got.status == 200
            assert b"host: two.example.com:" in outside.requests[0][0]

    async def test_a_name_server_that_stalls_meets_the_deadline(self) -> None:
        """The look-up counts into the request's time."""

        async def never(_: str) -> Sequence[str]:
            await asyncio.Event().wait()
            return []

        with pytest.raises(OutsideFailed, match="in time"):
            await Egress(resolve=never).request("GET", "https://slow.example.com/", deadline=0.1)

    async def test_the_system_resolves_names(self) -> None:
        """Without a resolver of its own it asks the system, in threads that are ended."""
        async with Outside().serving() as outside:
            egress = Egress(allowed=("localhost",))
            assert (await egress.request("GET", f"http://localhost:{outside.port}/")).body == b"ok"
            with pytest.raises(OutsideFailed, match="cannot be resolved"):
                await Egress(allowed=("nowhere.invalid",)).request("GET", "http://nowhere.invalid/")
            egress.close()


class TestTls:
    async def test_the_certificate_is_verified_for_the_name(self, tmp_path: Path) -> None:
        """The connection goes to the address, the certificate must name the host."""
        authority = await asyncio.to_thread(Authority, tmp_path, "hooks.example.com")
        async with Outside().serving(authority.context()) as outside:
            places = ("hooks.example.com", "other.example.com", "127.0.0.1")
            egress = Egress(
                allowed=places,
                ca_file=str(authority.ca_file),
                resolve=Names(["127.0.0.1"], ["127.0.0.1"]),
            )
            got = await egress.request("GET", f"https://hooks.example.com:{outside.port}/")
            assert got.status == 200
            for host in ("other.example.com", "127.0.0.1"):
                with pytest.raises(OutsideFailed, match="certificate"):
                    await egress.request("GET", f"https://{host}:{outside.port}/")
            assert len(outside.requests) == 1

    async def test_an_unknown_authority_is_refused(self, tmp_path: Path) -> None:
        """Without the operator's file, a certificate of one's own making is not believed."""
        authority = await asyncio.to_thread(Authority, tmp_path, "127.0.0.1")
        async with Outside().serving(authority.context()) as outside:
            with pytest.raises(OutsideFailed, match="certificate"):
                await local(outside).request("GET", f"https://127.0.0.1:{outside.port}/")
            assert outside.requests == []


async def test_requests_at_a_time_are_bounded() -> None:
    """Beyond a host's share, and beyond all hosts', a request is refused at once, until there is room."""
    release = asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(OK)

    async with Outside(hold).serving() as outside:
        egress = Egress(
            allowed=("a.example.com", "b.example.com", "c.example.com"),
            resolve=lambda _: asyncio.sleep(0, ["127.0.0.1"]),
            total=3,
            per_host=2,
        )

        def ask(host: str) -> asyncio.Task[Any]:
            return asyncio.create_task(egress.request("GET", f"http://{host}.example.com:{outside.port}/"))

        running = [ask("a"), ask("a")]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await ask("a")
        running.append(ask("b"))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await ask("c")
        release.set()
        assert [answer.status for answer in await asyncio.gather(*running)] == [200, 200, 200]
        assert (await ask("c")).status == 200


async def test_a_cancelled_request_frees_its_place() -> None:
    """Who stops waiting leaves neither a connection nor a count behind."""

    async def hold(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with Outside(hold).serving() as outside:
        egress = local(outside, per_host=1)
        url = f"http://127.0.0.1:{outside.port}/"
        task = asyncio.create_task(egress.request("GET", url))
        while not outside.requests:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        outside.answer = OK
        assert (await egress.request("GET", url)).status == 200
