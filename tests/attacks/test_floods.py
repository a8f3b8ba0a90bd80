"""Floods: who is not signed in is refused first, and devices go on with their sync."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from lowtide.api.limits import FIRST, LAST, MIDDLE, Deadlines, Limits, Load
from lowtide.kernel.errors import Busy
from lowtide.kernel.http import Request, Route
from tests.api.client import Answer, Call, Client
from tests.api.edges import Handlers, build

pytestmark = pytest.mark.anyio

ANN = {"authorization": "Bearer ann"}
MOST = 20


class Gate:
    """Handlers that wait until they are let go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.ran: list[str] = []

    async def wait(self, request: Request[Any, Any]) -> dict[str, str]:
        self.ran.append(request.path)
        await self.open.wait()
        return {"path": request.path}

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/v1/auth/sign-in", self.wait, auth="none", body=bytes, consumes=("*/*",)),
            Route("GET", "/v1/records", self.wait),
            Route("POST", "/v1/sync/batches", self.wait, body=bytes, consumes=("*/*",), rate="sync"),
        ]


async def fill(tasks: list[asyncio.Task[Answer]], gate: Gate, request: Any, count: int) -> None:
    """Start ``count`` requests, and wait until each is worked on or answered."""
    before, done = len(gate.ran), sum(task.done() for task in tasks)
    fresh = [asyncio.create_task(request()) for _ in range(count)]
    tasks += fresh
    while len(gate.ran) - before + sum(task.done() for task in tasks) - done < count:
        await asyncio.sleep(0)


async def test_a_flood_without_tokens_leaves_room_for_devices() -> None:
    """Sign-ins are refused at 60 % of the bound, other requests at 85 %, sync at the bound itself."""
    gate = Gate()
    client = Client(build(Handlers(), *gate.routes(), limits=Limits(requests=MOST)))
    flood: list[asyncio.Task[Answer]] = []
    await fill(flood, gate, lambda: client.post("/v1/auth/sign-in", body=b"x"), 200)
    assert len(gate.ran) == 12
    readers: list[asyncio.Task[Answer]] = []
    await fill(readers, gate, lambda: client.get("/v1/records", headers=ANN), 50)
    assert len(gate.ran) == 17
    devices: list[asyncio.Task[Answer]] = []
    await fill(devices, gate, lambda: client.post("/v1/sync/batches", body=b"x", headers=ANN), 3)
    assert len(gate.ran) == MOST
    assert not any(task.done() for task in devices)
    # Refused without a hint of the handler, with a time to come again; and health is answered.
    refused = [task.result() for task in flood if task.done()]
    assert {(answer.status, answer.code) for answer in refused} == {(503, "busy")}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert (await client.get("/health/live")).status == 200
    gate.open.set()
    assert [answer.status for answer in await asyncio.gather(*devices)] == [200] * 3
    await asyncio.gather(*flood, *readers)


async def test_bodies_without_tokens_do_not_fill_the_memory() -> None:
    """Slow bodies of strangers take 60 % of the room at most; a device's upload finds the rest."""
    gate = Gate()
    gate.open.set()
    edge = build(Handlers(), *gate.routes(), limits=Limits(buffered=100_000))
    client = Client(edge)
    async with contextlib.AsyncExitStack() as stack:
        calls: list[Call] = []
        for _ in range(10):
            call = await stack.enter_async_context(
                client.open("POST", "/v1/auth/sign-in", body=[b"x" * 20_000], ended=False)
            )
            calls.append(call)
        answers = [await call.answer() for call in calls[3:]]
        assert {answer.code for answer in answers} == {"busy"}
        assert edge.load.buffered == 60_000
        assert (await client.post("/v1/sync/batches", body=b"y" * 40_000, headers=ANN)).status == 200
        for call in calls[:3]:
            call.push(b"", last=True)
            assert (await call.answer()).status == 200
    assert edge.load.buffered == 0


def test_the_last_part_of_a_bound_is_kept() -> None:
    """Each rank ends at its share, also where shares are not whole numbers."""
    load = Load(Limits(requests=10))
    expected = {5: set(), 6: {FIRST}, 8: {FIRST}, 9: {FIRST, MIDDLE}, 10: {FIRST, MIDDLE, LAST}}
    for requests, refused in expected.items():
        load.requests = requests
        found = set()
        for rank in (FIRST, MIDDLE, LAST):
            try:
                load.check(rank)
            except Busy:
                found.add(rank)
        assert found == refused


async def test_a_loop_that_runs_late_refuses_strangers_first() -> None:
    """When the processor is the bound, requests without a token are refused, and devices go on."""
    gate = Gate()
    gate.open.set()
    edge = build(Handlers(), *gate.routes())
    client = Client(edge)
    edge.load.late = 2.5
    assert (await client.post("/v1/auth/sign-in", body=b"x")).code == "busy"
    assert (await client.post("/v1/sync/batches", body=b"x", headers=ANN)).status == 200
    assert (await client.get("/v1/records", headers=ANN)).status == 200
    assert (await client.get("/health/live")).status == 200


async def test_a_blocked_loop_is_noticed_and_forgotten() -> None:
    """Lateness is measured, halves with each look, and is nothing again once nothing is under way."""
    load = Load()
    deadlines = Deadlines(load)
    deadline = deadlines.begin(30)
    await asyncio.sleep(0)
    time.sleep(0.8)
    while not load.late:
        await asyncio.sleep(0.01)
    assert 0.2 < load.late < 5
    deadlines.end(deadline)
    while load.late:
        await asyncio.sleep(0.01)
