"""Two nodes over one PostgreSQL: one order of changes, and every listener hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from lowtide.kernel.clock import SystemClock
from lowtide.kernel.http import Outlet
from lowtide.kernel.ids import SystemIds
from lowtide.storage.bus.postgres import PostgresBus
from lowtide.storage.db.migrate import Component, migrate
from lowtide.storage.db.postgres import PostgresDatabase
from lowtide.storage.jobs import Jobs, Worker
from lowtide.sync import COMPONENT, Sync
from lowtide.sync.view import StreamRequest
from tests.sync.conftest import Engine
from tests.sync.test_engine import SCHEMA, crew, task

pytestmark = pytest.mark.anyio


@pytest.fixture
async def nodes(postgres_dsn: str) -> AsyncIterator[list[Engine]]:
    """Two whole engines with their own connections, as two processes have them."""
    clock = SystemClock()
    started: list[Any] = []
    engines: list[Engine] = []
    for _ in range(2):
        ids = SystemIds(clock)
        database = PostgresDatabase(postgres_dsn, clock=clock)
        await database.start()
        await migrate(database, [Component("jobs", "lowtide.storage.jobs"), COMPONENT], clock)
        bus = PostgresBus(postgres_dsn, clock, ids)
        await bus.start()
        jobs = Jobs(database, bus, clock, ids)
        sync = Sync(SCHEMA, database, bus, jobs, clock, ids)
        await sync.start()
        worker = Worker(database, bus, jobs, clock, ids, queues={"default": 1})
        engines.append(Engine(sync, jobs, worker, clock, {}))  # type: ignore[arg-type]
        started.append((sync, bus, database))
    yield engines
    for sync, bus, database in started:
        await sync.close()
        await bus.close()
        await database.close()


class Listener:
    """A stream that stays open, and what arrived on it."""

    def __init__(self, engine: Engine, user: str):
        self.lines: list[dict[str, Any]] = []
        self._engine = engine
        self._user = user
        self._news = asyncio.Event()

    async def open(self) -> None:
        request = StreamRequest(client_id=f"{self._user}-listener", raw_data=True)
        download = await self._engine.sync.download(self._engine.who(self._user), request, "json", "identity")
        self.task = asyncio.create_task(download.run(Outlet(self._send)))

    async def _send(self, message: Any) -> None:
        self.lines.extend(msgspec.json.decode(line) for line in message["body"].splitlines())
        self._news.set()

    def titles(self) -> dict[str, str]:
        """The tasks that a device would hold now."""
        held: dict[str, str] = {}
        for line in self.lines:
            for entry in line.get("data", {}).get("data", []):
                if entry.get("object_type") == "task":
                    held[entry["object_id"]] = msgspec.json.decode(entry["data"])["title"]
        return held

    async def until(self, wanted: dict[str, str]) -> None:
        """Wait until the device holds ``wanted`` in a complete checkpoint."""
        async with asyncio.timeout(10):
            while self.titles() != wanted or "checkpoint_complete" not in self.lines[-1]:
                self._news.clear()
                await self._news.wait()


async def test_a_listener_on_one_node_hears_what_the_other_committed(nodes: list[Engine]) -> None:
    """By the bus, in a complete checkpoint, and in both directions."""
    one, two = nodes
    await crew(one)
    listener = Listener(two, "bob")
    await listener.open()
    await one.upload("ann", task("1", "from one"))
    await listener.until({"1": "from one"})
    await two.upload("bob", task("2", "from two"))
    await one.upload("ann", task("3", "one again"))
    await listener.until({"1": "from one", "2": "from two", "3": "one again"})
    listener.task.cancel()
    await asyncio.gather(listener.task, return_exceptions=True)


async def test_two_nodes_writing_at_once_lose_nothing(nodes: list[Engine]) -> None:
    """Their groups come into one order; counters add up; the listener ends with everything."""
    await crew(nodes[0])
    await nodes[0].upload("ann", task("1", "shared"))
    listener = Listener(nodes[1], "bob")
    await listener.open()

    async def vote(engine: Engine, client: str) -> None:
        for n in range(1, 26):
            change = {
                "n": n,
                "op": "patch",
                "model": "task",
                "id": "1",
                "data": {"votes": 1},
                "base": {"votes": 0},
            }
            await engine.send("ann", client, [[change]])

    await asyncio.gather(*(vote(nodes[i % 2], f"c{i}") for i in range(6)))
    assert (await nodes[1].rows("bob"))[("task", "1")]["votes"] == 150
    async with asyncio.timeout(10):
        while not any(
            '"votes":150' in str(entry.get("data"))
            for line in listener.lines
            for entry in line.get("data", {}).get("data", [])
        ):
            await asyncio.sleep(0.02)
    assert await nodes[0].sync.head() == await nodes[1].sync.head()
    listener.task.cancel()
    await asyncio.gather(listener.task, return_exceptions=True)


async def test_the_same_batch_sent_to_both_nodes_at_once_is_applied_once(nodes: list[Engine]) -> None:
    """A phone that changed networks in the middle may do that."""
    await crew(nodes[0])
    await nodes[0].upload("ann", task("1", "shared"))
    for n in range(1, 20):
        change = {
            "n": n,
            "op": "patch",
            "model": "task",
            "id": "1",
            "data": {"votes": 1},
            "base": {"votes": 0},
        }
        answers = await asyncio.gather(*(node.send("bob", "b", [[change]]) for node in nodes))
        assert answers[0].results == answers[1].results
    assert (await nodes[0].rows("bob"))[("task", "1")]["votes"] == 19
