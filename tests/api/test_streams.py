"""Streams: written directly, ended promptly, bounded in number."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lowtide.api.edge import Edge
from lowtide.api.limits import Limits
from lowtide.kernel.errors import Forbidden
from lowtide.kernel.http import Outlet, Request, Route, StreamAnswer
from tests.api.client import Client
from tests.api.edges import Handlers, build
from tests.api.test_edge import is_problem, until

pytestmark = pytest.mark.anyio

Run = Callable[[Outlet], Awaitable[None]]


def edge_of(run: Run, *, limits: Limits | None = None) -> Edge:
    """An edge whose ``GET /s`` is a stream of ``run``, open to all."""

    async def handler(_: Request[None, None]) -> StreamAnswer:
        return StreamAnswer(run=run)

    return build(Handlers(), Route("GET", "/s", handler, auth="none"), limits=limits)


async def forever(outlet: Outlet) -> None:
    await outlet.write(b"a\n")
    await asyncio.sleep(600)


class TestStream:
    async def test_what_is_written_is_sent_at_once(self) -> None:
        """Each write is a message of its own, with the headers of a stream before them."""
        more = asyncio.Event()

        async def run(outlet: Outlet) -> None:
            await outlet.write(b"a\n")
            await more.wait()
            await outlet.write(b"b\n")
            assert outlet.sent == 4

        others = asyncio.all_tasks()
        async with Client(edge_of(run)).open("GET", "/s") as call:
            start = await call.next()
            headers = dict(start["headers"])
            assert start["status"] == 200
            assert headers[b"content-type"] == b"application/x-ndjson"
            assert headers[b"x-accel-buffering"] == b"no"
            assert headers[b"cache-control"] == b"no-store"
            assert headers[b"x-content-type-options"] == b"nosniff"
            assert b"content-length" not in headers
            assert await call.line() == b"a\n"
            more.set()
            assert await call.line() == b"b\n"
            assert await call.answer_end()
            assert call.task is not None
            await call.task
            await asyncio.sleep(0)
            # Nobody waits any more for the client to leave.
            assert asyncio.all_tasks() == others

    async def test_a_handler_may_still_refuse(self) -> None:
        """Before the stream is returned, an error is a problem like any other."""

        async def handler(_: Request[None, None]) -> StreamAnswer:
            raise Forbidden

        client = Client(build(Handlers(), Route("GET", "/s", handler, auth="none")))
        is_problem(await client.get("/s"), 403, "forbidden")

    async def test_head_starts_no_stream(self) -> None:
        """Only the headers."""

        async def run(outlet: Outlet) -> None:
            raise AssertionError("started")

        answer = await Client(edge_of(run)).request("HEAD", "/s")
        assert (answer.status, answer.body, answer.complete) == (200, b"", True)

    async def test_who_leaves_ends_the_stream_at_once(self) -> None:
        """Whatever it waits for is cancelled, its clean-up runs, and nothing is logged as a fault."""
        seen: list[str] = []

        async def run(outlet: Outlet) -> None:
            try:
                await forever(outlet)
            finally:
                seen.append("clean")

        edge = edge_of(run)
        async with Client(edge).open("GET", "/s") as call:
            await call.next()
            await call.line()
            assert edge.load.streams == 1
            call.leave()
            assert call.task is not None
            await asyncio.wait_for(call.task, 1)
            assert call.task.cancelling() == 0
        assert seen == ["clean"]
        assert edge.load.streams == 0

    async def test_a_stream_is_not_under_the_handlers_deadline(self) -> None:
        """It lasts; only what comes before it has a deadline."""

        async def run(outlet: Outlet) -> None:
            await asyncio.sleep(0.6)
            await outlet.write(b"late\n")

        async def handler(_: Request[None, None]) -> StreamAnswer:
            return StreamAnswer(run=run)

        client = Client(build(Handlers(), Route("GET", "/s", handler, auth="none", deadline=0.1)))
        answer = await client.get("/s")
        assert (answer.body, answer.complete) == (b"late\n", True)

    async def test_a_fault_cuts_the_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        """The client sees a broken stream and never a clean end; the log has the traceback."""

        async def run(outlet: Outlet) -> None:
            await outlet.write(b"a\n")
            raise RuntimeError("boom")

        edge = edge_of(run)
        answer = await Client(edge).get("/s")
        assert (answer.body, answer.complete) == (b"a\n", False)
        assert [made for made in caplog.records if made.exc_info]
        assert edge.load.streams == 0

    async def test_an_error_of_the_tree_cuts_it_too(self, caplog: pytest.LogCaptureFixture) -> None:
        """After the first byte no problem can be said; it is no fault of ours either."""

        async def run(outlet: Outlet) -> None:
            raise Forbidden

        answer = await Client(edge_of(run)).get("/s")
        assert (answer.status, answer.body, answer.complete) == (200, b"", False)
        assert not [made for made in caplog.records if made.exc_info]

    async def test_somebody_elses_cancellation_goes_through(self) -> None:
        """A task that is cancelled from outside ends cancelled."""
        edge = edge_of(forever)
        async with Client(edge).open("GET", "/s") as call:
            await call.next()
            await call.line()
            assert call.task is not None
            call.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call.task
        assert edge.load.streams == 0


class TestDrop:
    """What a handler has opened is closed, whether its stream runs or not."""

    @pytest.fixture
    def dropped(self) -> list[str]:
        return []

    @pytest.fixture
    def edge(self, dropped: list[str]) -> Edge:
        async def handler(_: Request[None, None]) -> StreamAnswer:
            return StreamAnswer(
                run=forever, drop=lambda: dropped.append("x"), headers={"x-accel-buffering": "yes"}
            )

        return build(Handlers(), Route("GET", "/s", handler, auth="none"), limits=Limits(streams=1))

    async def test_a_stream_that_runs_is_not_dropped(self, edge: Edge, dropped: list[str]) -> None:
        """``run`` cleans up after itself; and a handler's header replaces the edge's."""
        async with Client(edge).open("GET", "/s") as call:
            headers = [pair for pair in (await call.next())["headers"] if pair[0] == b"x-accel-buffering"]
            assert headers == [(b"x-accel-buffering", b"yes")]
            await call.line()
        assert dropped == []

    async def test_a_refused_stream_is_dropped(self, edge: Edge, dropped: list[str]) -> None:
        """One too many."""
        async with Client(edge).open("GET", "/s") as call:
            await call.next()
            is_problem(await Client(edge).get("/s"), 503, "busy")
            assert dropped == ["x"]
        assert dropped == ["x"]

    async def test_a_head_is_dropped(self, edge: Edge, dropped: list[str]) -> None:
        """It has no body to stream."""
        assert (await Client(edge).request("HEAD", "/s")).status == 200
        assert dropped == ["x"]

    async def test_a_stream_whose_headers_cannot_be_sent_is_dropped(
        self, edge: Edge, dropped: list[str]
    ) -> None:
        """The connection failed between the handler and the stream."""

        async def send(_: object) -> None:
            raise OSError("gone")

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/s",
            "raw_path": b"/s",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
        }
        await edge(scope, receive, send)
        assert dropped == ["x"]


class TestLoad:
    async def test_one_user_cannot_have_them_all(self) -> None:
        """Beyond a user's share: 429, but not for the app's servers; a stream that ends makes room."""

        async def handler(_: Request[None, None]) -> StreamAnswer:
            return StreamAnswer(run=forever)

        edge = build(Handlers(), Route("GET", "/s", handler), limits=Limits(user_streams=1))
        client = Client(edge)
        async with client.open("GET", "/s", token="ann") as call:
            assert (await call.next())["status"] == 200
            refused = await client.get("/s", token="ann")
            is_problem(refused, 429, "too_many_requests")
            assert int(refused.headers["retry-after"]) >= 10
            for _ in range(2):
                async with client.open("GET", "/s", token="app") as other:
                    assert (await other.next())["status"] == 200
        async with client.open("GET", "/s", token="ann") as call:
            assert (await call.next())["status"] == 200

    async def test_streams_are_bounded_by_themselves(self) -> None:
        """One too many is 503; requests do not notice."""
        edge = edge_of(forever, limits=Limits(streams=2))
        client = Client(edge)
        async with client.open("GET", "/s") as one, client.open("GET", "/s") as two:
            await one.next()
            await two.next()
            answer = await client.get("/s")
            is_problem(answer, 503, "busy")
            assert "retry-after" in answer.headers
            assert (await client.get("/open")).status == 204
        assert edge.load.streams == 0
        async with client.open("GET", "/s") as call:
            assert (await call.next())["status"] == 200

    async def test_streams_take_no_place_of_requests(self) -> None:
        """A thousand listeners leave room for every request."""
        edge = edge_of(forever, limits=Limits(requests=1))
        client = Client(edge)
        async with client.open("GET", "/s") as one, client.open("GET", "/s") as two:
            await one.next()
            await two.next()
            assert edge.load.requests == 0
            assert (await client.get("/open")).status == 204


class TestDrain:
    async def test_a_stopping_server_tells_every_stream(self) -> None:
        """Each ends by itself, with a time to return of its own."""
        times: list[float] = []

        async def run(outlet: Outlet) -> None:
            wake = asyncio.Event()
            outlet.on_drain(wake.set)
            assert not outlet.draining
            await outlet.write(b"a\n")
            await wake.wait()
            assert outlet.draining
            times.append(outlet.retry_after or 0)
            await outlet.write(b"bye\n")

        edge = edge_of(run)
        client = Client(edge)
        async with client.open("GET", "/s") as one, client.open("GET", "/s") as two:
            for call in (one, two):
                await call.next()
                await call.line()
            edge.drain()
            edge.drain()
            for call in (one, two):
                assert await call.line() == b"bye\n"
                assert (await call.answer_end()) is True
        assert len(times) == 2
        assert times[0] != times[1]
        assert all(1 <= seconds < 10 for seconds in times)

    async def test_more_streams_spread_wider(self) -> None:
        """A thousand devices do not return in the same seconds."""
        times: list[float] = []

        async def run(outlet: Outlet) -> None:
            await outlet.write(b"a\n")
            wake = asyncio.Event()
            outlet.on_drain(wake.set)
            await wake.wait()
            times.append(outlet.retry_after or 0)

        edge = edge_of(run)
        tasks = [asyncio.create_task(Client(edge).get("/s")) for _ in range(1000)]
        await until(lambda: edge.load.streams == 1000)
        edge.drain()
        await asyncio.gather(*tasks)
        assert max(times) > 8
        assert len({round(seconds, 3) for seconds in times}) > 900

    async def test_telling_is_spread(self) -> None:
        """A protocol without a field for the time still sends its devices away one after the other."""
        ends: list[float] = []
        loop = asyncio.get_running_loop()

        async def run(outlet: Outlet) -> None:
            await outlet.write(b"a\n")
            wake = asyncio.Event()
            outlet.on_drain(wake.set)
            await wake.wait()
            ends.append(loop.time())

        edge = edge_of(run)
        tasks = [asyncio.create_task(Client(edge).get("/s")) for _ in range(300)]
        await until(lambda: edge.load.streams == 300)
        began = loop.time()
        edge.drain(within=0.5)
        await asyncio.gather(*tasks)
        assert max(ends) - began < 1.0
        assert max(ends) - min(ends) > 0.2

    async def test_a_stream_that_opens_now_is_told_at_once(self) -> None:
        """Nobody waits for an end that was announced before it came."""

        async def run(outlet: Outlet) -> None:
            wake = asyncio.Event()
            outlet.on_drain(wake.set)
            await wake.wait()

        edge = edge_of(run)
        edge.drain()
        answer = await Client(edge).get("/s")
        assert (answer.status, answer.complete) == (200, True)

    async def test_a_stream_that_does_not_end_is_cut(self) -> None:
        """After the grace it is cancelled, and its clean-up runs."""
        seen: list[str] = []

        async def run(outlet: Outlet) -> None:
            try:
                await forever(outlet)
            finally:
                seen.append("clean")

        edge = edge_of(run)
        async with Client(edge).open("GET", "/s") as call:
            await call.next()
            await call.line()
            edge.drain()
            await asyncio.sleep(0.01)
            assert seen == []
            edge.cut()
            assert call.task is not None
            await asyncio.wait_for(call.task, 1)
        assert seen == ["clean"]
