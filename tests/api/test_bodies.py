"""Bodies: bounded in size, in time and in what they decompress to."""

from __future__ import annotations

import asyncio
import gzip
import sys
import tracemalloc
import zlib
from typing import Any

import pytest

from lowtide.api.edge import Edge
from lowtide.api.limits import Limits
from lowtide.kernel.http import MIB
from tests.api.client import Client
from tests.api.edges import Handlers, build
from tests.api.test_edge import is_problem, until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.anyio

NOTE = b'{"title":"x","stars":1}'
JSON = {"content-type": "application/json"}
CODINGS: dict[str, Any] = {"gzip": gzip.compress, "zstd": zstd.compress}


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def edge(handlers: Handlers) -> Edge:
    return build(handlers)


@pytest.fixture
def client(edge: Edge) -> Client:
    return Client(edge)


class TestSize:
    async def test_the_limit_itself_is_allowed(self, client: Client) -> None:
        """A body of exactly ``max_body`` bytes is read, one more is not."""
        text = b'{"title":"%s"}' % (b"x" * (64 * 1024 - 12))
        assert len(text) == 64 * 1024
        assert (await client.post("/notes", body=text, headers=JSON, token="ann")).status == 201
        is_problem(await client.post("/notes", body=text + b" ", headers=JSON, token="ann"), 413, "too_large")

    async def test_what_says_that_it_is_too_large_is_not_read(self, client: Client) -> None:
        """The answer comes from Content-Length alone."""
        headers = JSON | {"content-length": str(64 * 1024 + 1)}
        async with client.open("POST", "/notes", ended=False, headers=headers, token="ann") as call:
            answer = await call.answer()
        is_problem(answer, 413, "too_large")
        assert answer.json()["limit"] == 64 * 1024

    async def test_chunks_are_counted(self, client: Client, edge: Edge) -> None:
        """Without a length, reading stops at the byte that is one too many."""
        async with client.open("POST", "/notes", ended=False, headers=JSON, token="ann") as call:
            for _ in range(64):
                call.push(b" " * 1024)
            await until(lambda: edge.load.buffered == 64 * 1024)
            call.push(b" ")
            is_problem(await call.answer(), 413, "too_large")
        assert edge.load.buffered == 0

    @pytest.mark.parametrize("length", ["-1", "+5", "5,5", " 5", "0x5", "five", "\xb2", ""])
    async def test_a_strange_length_is_refused(self, client: Client, length: str) -> None:
        """A Content-Length that is not digits is 400, whichever server runs the app."""
        headers = JSON | {"content-length": length}
        is_problem(await client.post("/notes", body=[NOTE], headers=headers, token="ann"), 400, "bad_request")

    async def test_a_gigantic_length_is_refused(self, client: Client) -> None:
        """However many digits."""
        for digits in (20, 5000):
            headers = JSON | {"content-length": "9" * digits}
            answer = await client.post("/notes", body=[NOTE], headers=headers, token="ann")
            is_problem(answer, 413, "too_large")

    async def test_two_lengths_are_refused(self, client: Client) -> None:
        """Two readers could see two requests."""
        headers = [*JSON.items(), ("content-length", "23"), ("content-length", "5")]
        is_problem(await client.post("/notes", body=[NOTE], headers=headers, token="ann"), 400, "bad_request")


class TestContent:
    @pytest.mark.parametrize(
        "media",
        ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;"],
    )
    async def test_json_is_read(self, client: Client, media: str) -> None:
        """In any case, with parameters."""
        answer = await client.post("/notes", body=NOTE, headers={"content-type": media}, token="ann")
        assert answer.status == 201

    @pytest.mark.parametrize(
        "media",
        [
            "",
            "text/plain",
            "application/jsonx",
            "application/x-www-form-urlencoded",
            "text/plain; application/json",
        ],
    )
    async def test_another_type_is_415(self, client: Client, handlers: Handlers, media: str) -> None:
        """A web page can send text/plain across origins without asking; it reaches no handler."""
        answer = await client.post("/notes", body=NOTE, headers={"content-type": media}, token="ann")
        is_problem(answer, 415, "unsupported_media")
        assert answer.json()["accepted"] == ["application/json"]
        assert handlers.requests == []

    async def test_no_type_is_415(self, client: Client) -> None:
        """Nothing is guessed."""
        is_problem(await client.post("/notes", body=NOTE, token="ann"), 415, "unsupported_media")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"title":1}',
            b'{"stars":1}',
            b'{"title":"x","stars":9223372036854775808}',
            b'{"title":"x","stars":1.5}',
            b'{"title":"\\u0000"}',
            b'{"title":"\\ud800"}',
            b'{"title":"\xff"}',
            b'{"title":"x"}{}',
            b"\xef\xbb\xbf{}",
            b"[" * 60_000,
        ],
    )
    async def test_what_does_not_fit_is_400(self, client: Client, handlers: Handlers, body: bytes) -> None:
        """Broken JSON, wrong types, what a database cannot hold: never a handler, never a fault."""
        answer = await client.post("/notes", body=body, headers=JSON, token="ann")
        is_problem(answer, 400, "malformed")
        assert handlers.requests == []

    @pytest.mark.parametrize(("depth", "status"), [(32, 201), (33, 400), (500, 400), (100_000, 400)])
    async def test_depth_is_bounded(self, handlers: Handlers, depth: int, status: int) -> None:
        """32 levels of JSON, and no stack to exhaust."""
        body = b"[" * depth + b"]" * depth
        answer = await Client(build(handlers)).post("/any", body=body, headers=JSON, token="ann")
        assert answer.status == (200 if status == 201 else status)

    async def test_raw_bytes_are_given_as_they_are(self, client: Client) -> None:
        """A route may take any type."""
        body = bytes(range(256))
        answer = await client.post("/raw", body=body, headers={"content-type": "x/y"}, token="ann")
        assert answer.body == body

    async def test_a_body_nobody_reads_is_ignored(self, client: Client) -> None:
        """A DELETE with a body is a DELETE."""
        answer = await client.request("DELETE", "/notes/1", body=b"{", headers=JSON, token="ann")
        assert answer.status == 204


class TestCompression:
    @pytest.mark.parametrize("coding", CODINGS)
    async def test_both_codings_are_read(self, client: Client, coding: str) -> None:
        """gzip and zstd, in any case, whole or in single bytes."""
        packed = CODINGS[coding](NOTE)
        parts = [packed[at : at + 1] for at in range(len(packed))]
        for body in (packed, parts):
            headers = JSON | {"content-encoding": coding.upper()}
            answer = await client.post("/notes", body=body, headers=headers, token="ann")
            assert (answer.status, answer.body) == (201, NOTE)

    @pytest.mark.parametrize("coding", CODINGS)
    @pytest.mark.parametrize("size", [0, 1, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 3 * MIB + 7, 4 * MIB])
    async def test_every_size_comes_out_whole(self, client: Client, coding: str, size: int) -> None:
        """Around the size of a step, and up to the limit."""
        content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
        packed = CODINGS[coding](content)
        headers = {"content-type": "x/y", "content-encoding": coding}
        answer = await client.post("/raw", body=packed, headers=headers, token="ann")
        assert answer.status == 200
        assert answer.body == content

    @pytest.mark.parametrize("coding", CODINGS)
    async def test_a_bomb_stops_at_the_limit(self, client: Client, edge: Edge, coding: str) -> None:
        """A quarter of a gigabyte in a megabyte costs no more memory than the limit."""
        bomb = bomb_of(coding, 256 * MIB)
        assert len(bomb) < 2 * MIB
        headers = {"content-type": "x/y", "content-encoding": coding}
        tracemalloc.start()
        answer = await client.post("/raw", body=bomb, headers=headers, token="ann")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        is_problem(answer, 413, "too_large")
        assert peak < 16 * MIB
        assert edge.load.buffered == 0

    @pytest.mark.parametrize("coding", CODINGS)
    async def test_others_run_while_a_body_is_unpacked(self, client: Client, coding: str) -> None:
        """Decompression gives way at every step."""
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(count())
        headers = {"content-type": "x/y", "content-encoding": coding}
        packed = CODINGS[coding](bytes(4 * MIB))
        answer = await client.post("/raw", body=packed, headers=headers, token="ann")
        other.cancel()
        assert len(answer.body) == 4 * MIB
        assert turns >= 15

    @pytest.mark.parametrize("coding", CODINGS)
    @pytest.mark.parametrize(
        "break_it",
        [
            lambda packed: b"",
            lambda packed: packed[:-1],
            lambda packed: packed[:10],
            lambda packed: packed + b"x",
            lambda packed: packed + packed,
            lambda packed: b"x" + packed,
            lambda packed: packed[:12] + bytes([packed[12] ^ 255]) + packed[13:],
            lambda packed: NOTE,
            lambda packed: [packed, b"x"],
            lambda packed: [packed, b"", packed],
        ],
    )
    async def test_broken_data_is_400(
        self, client: Client, handlers: Handlers, coding: str, break_it: Any
    ) -> None:
        """Too short, changed, not compressed, or with something behind it."""
        headers = JSON | {"content-encoding": coding}
        body = break_it(CODINGS[coding](NOTE))
        answer = await client.post("/notes", body=body, headers=headers, token="ann")
        is_problem(answer, 400, "malformed")
        assert handlers.requests == []

    async def test_a_window_is_bounded(self, client: Client) -> None:
        """A zstd header cannot make the server reserve more than 8 MiB."""
        packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
        packed = packer.compress(b"x" * MIB) + packer.compress(b"y") + packer.flush()
        headers = {"content-type": "x/y", "content-encoding": "zstd"}
        is_problem(await client.post("/raw", body=packed, headers=headers, token="ann"), 400, "malformed")

    async def test_what_unpacks_to_nothing_is_bounded_too(self, client: Client) -> None:
        """A gzip header may hold a file name of any length: the bytes on the wire count as well."""
        name = gzip.compress(b"")[:3] + b"\x08" + bytes(6) + b"n" * (4 * MIB)
        parts = [name[at : at + 65536] for at in range(0, len(name), 65536)]
        headers = {"content-type": "x/y", "content-encoding": "gzip"}
        is_problem(await client.post("/raw", body=parts, headers=headers, token="ann"), 413, "too_large")

    async def test_a_small_gzip_of_many_members_is_one(self, client: Client) -> None:
        """Fifty thousand empty members are refused at the second."""
        headers = {"content-type": "x/y", "content-encoding": "gzip"}
        answer = await client.post("/raw", body=gzip.compress(b"") * 50_000, headers=headers, token="ann")
        is_problem(answer, 400, "malformed")

    @pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "gzip,zstd", "compress", "x"])
    async def test_other_codings_are_415(self, client: Client, coding: str) -> None:
        """One of two codings, once."""
        headers = JSON | {"content-encoding": coding}
        answer = await client.post("/notes", body=NOTE, headers=headers, token="ann")
        is_problem(answer, 415, "unsupported_media")
        assert answer.json()["accepted"] == ["gzip", "zstd"]

    async def test_two_coding_headers_are_refused(self, client: Client) -> None:
        """As two of anything else."""
        headers = [*JSON.items(), ("content-encoding", "gzip"), ("content-encoding", "zstd")]
        is_problem(await client.post("/notes", body=NOTE, headers=headers, token="ann"), 400, "bad_request")

    async def test_identity_is_no_coding(self, client: Client) -> None:
        """As it is."""
        headers = JSON | {"content-encoding": "identity"}
        assert (await client.post("/notes", body=NOTE, headers=headers, token="ann")).status == 201


def bomb_of(coding: str, size: int) -> bytes:
    chunk = bytes(MIB)
    if coding == "gzip":
        packer = zlib.compressobj(1, wbits=31)
        return b"".join([packer.compress(chunk) for _ in range(size // MIB)]) + packer.flush()
    packed = zstd.ZstdCompressor()
    return b"".join([packed.compress(chunk) for _ in range(size // MIB)]) + packed.flush()


class TestTime:
    OPTIONS: dict[str, Any] = {"token": "ann", "headers": JSON, "ended": False}  # noqa: RUF012

    async def test_a_body_that_does_not_come_is_408(self, handlers: Handlers) -> None:
        """Headers, then silence."""
        edge = build(handlers, limits=Limits(body_start=0.2))
        async with Client(edge).open("POST", "/notes", **self.OPTIONS) as call:
            call.push(b'{"title"')
            answer = await call.answer()
        is_problem(answer, 408, "request_timeout")
        assert answer.json()["received"] == 8
        assert edge.load.buffered == 0
        assert handlers.requests == []

    async def test_a_body_that_dribbles_is_408(self, handlers: Handlers) -> None:
        """A byte now and then does not keep a request alive."""
        edge = build(handlers, limits=Limits(body_start=0.2, body_rate=1000))
        async with Client(edge).open("POST", "/notes", **self.OPTIONS) as call:
            answer = asyncio.create_task(call.answer())
            while not answer.done():
                call.push(b" ")
                await asyncio.sleep(0.02)
            is_problem(await answer, 408, "request_timeout")

    async def test_a_steady_body_has_its_time(self, handlers: Handlers) -> None:
        """A slow network is no attack: who keeps the rate is waited for."""
        edge = build(handlers, limits=Limits(body_start=0.2, body_rate=1000))
        async with Client(edge).open("POST", "/notes", **self.OPTIONS) as call:
            call.push(b'{"title":"x"')
            for _ in range(20):
                call.push(b" " * 100)
                await asyncio.sleep(0.05)
            call.push(b"}", last=True)
            assert (await call.answer()).status == 201

    async def test_a_steady_body_has_an_end(self, handlers: Handlers) -> None:
        """However steady, a body must be there in time."""
        edge = build(handlers, limits=Limits(body_start=0.2, body_rate=10, body_time=0.5))
        async with Client(edge).open("POST", "/notes", **self.OPTIONS) as call:
            answer = asyncio.create_task(call.answer())
            while not answer.done():
                call.push(b" " * 100)
                await asyncio.sleep(0.05)
            is_problem(await answer, 408, "request_timeout")

    async def test_who_leaves_is_not_answered(self, handlers: Handlers) -> None:
        """Half a body reaches no handler, and its room is given back."""
        edge = build(handlers)
        async with Client(edge).open("POST", "/notes", **self.OPTIONS) as call:
            call.push(b'{"title":"x"}')
            await until(lambda: edge.load.buffered > 0)
            call.leave()
            assert call.task is not None
            await call.task
            assert (await call.next())["type"] == "end"
        assert edge.load.buffered == 0
        assert handlers.requests == []
