"""A whole sync engine over a database, and devices that are nothing but requests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from lowtide.audit import COMPONENT as AUDIT
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.http import Outlet
from lowtide.kernel.ids import SeededIds
from lowtide.kernel.schema import Principal, Schema
from lowtide.storage.bus import MemoryBus
from lowtide.storage.db import Database
from lowtide.storage.db.migrate import Component, migrate
from lowtide.storage.jobs import Jobs, Worker
from lowtide.sync import COMPONENT, Sync
from lowtide.sync.pull import PullAnswer, PullRequest
from lowtide.sync.uploads import SentBatch, UploadAnswer
from lowtide.sync.view import StreamRequest


class Engine:
    """A sync engine under test, spoken to as devices and scripts do."""

    def __init__(self, sync: Sync, jobs: Jobs, worker: Worker, clock: ManualClock, numbers: dict[str, int]):
        self.sync = sync
        self.jobs = jobs
        self.worker = worker
        self.clock = clock
        self.numbers = numbers

    async def upload(
        self, user: str, *mutations: dict[str, Any], client: str = "", **batch: Any
    ) -> UploadAnswer:
        """Send mutations as one transaction, numbered on from the last upload of this client."""
        client = client or f"{user}-phone"
        first = self.numbers.get(client, 0) + 1
        numbered = [{"n": first + i, **mutation} for i, mutation in enumerate(mutations)]
        self.numbers[client] = first + len(mutations) - 1
        return await self.send(user, client, [numbered], **batch)

    async def send(
        self, user: str, client: str, transactions: list[list[dict[str, Any]]], **batch: Any
    ) -> UploadAnswer:
        """Send a batch exactly as given."""
        sent = {"client_id": client, "transactions": [{"mutations": m} for m in transactions], **batch}
        return await self.sync.upload(self.who(user), msgspec.convert(sent, SentBatch))

    async def pull(self, user: str, cursor: str | None = None, limit: int = 500) -> PullAnswer:
        return await self.sync.pull(self.who(user), PullRequest(cursor, limit))

    async def rows(self, user: str) -> dict[tuple[str, str], dict[str, Any]]:
        """Everything that the user receives, by (model, id)."""
        answer = await self.pull(user, limit=1_000)
        assert answer.complete
        return {
            (row.model, row.id): msgspec.json.decode(row.data) for row in answer.rows if row.data is not None
        }

    async def lines(
        self, user: str, client: str = "", until: str = "checkpoint_complete", **request: Any
    ) -> list[dict[str, Any]]:
        """The sync lines of a new stream up to the first ``until``; the device then leaves."""
        asked = msgspec.convert(
            {"client_id": client or f"{user}-phone", "raw_data": True, **request}, StreamRequest
        )
        download = await self.sync.download(self.who(user), asked, "json", "identity")
        lines: list[dict[str, Any]] = []

        class Left(Exception):
            pass

        async def send(message: Any) -> None:
            lines.extend(msgspec.json.decode(line) for line in message["body"].splitlines())
            if any(until in line for line in lines):
                raise Left

        with contextlib.suppress(Left):
            await download.run(Outlet(send))
        return lines

    def who(self, user: str) -> Principal:
        """``server`` is the app's own; ``user@space`` acts in another space."""
        name, _, space = user.partition("@")
        return Principal(user=name, space=space or "main", server=name == "server")


Open = Callable[[Schema], Awaitable[Engine]]


@pytest.fixture
async def open_engine(database: Database, clock: ManualClock, ids: SeededIds) -> AsyncIterator[Open]:
    """Starts an engine for an app; a second call restarts on the same database with another app."""
    engines: list[Engine] = []
    numbers: dict[str, int] = {}
    buses: list[MemoryBus] = []

    async def open(schema: Schema) -> Engine:
        await close()
        components = [Component("jobs", "lowtide.storage.jobs"), AUDIT, COMPONENT]
        await migrate(database, components, clock)
        bus = MemoryBus()
        await bus.start()
        jobs = Jobs(database, bus, clock, ids)
        sync = Sync(schema, database, bus, jobs, clock, ids)
        worker = Worker(database, bus, jobs, clock, ids, queues={"default": 4})
        await sync.start()
        await worker.start()
        buses.append(bus)
        engines.append(Engine(sync, jobs, worker, clock, numbers))
        return engines[-1]

    async def close() -> None:
        while engines:
            engine = engines.pop()
            await engine.worker.stop(1)
            await engine.sync.close()
            await buses.pop().close()

    yield open
    await close()
