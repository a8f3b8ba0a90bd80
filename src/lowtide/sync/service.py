"""The sync engine as the rest of Lowtide sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import LowtideError, Malformed
from lowtide.kernel.ids import Ids
from lowtide.kernel.schema import Principal, Schema
from lowtide.storage.bus import Bus
from lowtide.storage.db import Database, Tx
from lowtide.storage.jobs import Jobs
from lowtide.sync import store
from lowtide.sync.devices import Devices
from lowtide.sync.download import Download, Downloads
from lowtide.sync.functions import Functions
from lowtide.sync.hub import Hub
from lowtide.sync.journal import Journal
from lowtide.sync.lines import Coding, Format
from lowtide.sync.model import Applied, Batch, CheckpointAsk, Commit
from lowtide.sync.ownership import Ownership
from lowtide.sync.pull import PullAnswer, PullRequest, pull
from lowtide.sync.segments import Segments
from lowtide.sync.store import QUERIES
from lowtide.sync.streams import Streams
from lowtide.sync.system import with_system
from lowtide.sync.uploads import SentBatch, UploadAnswer, batch_of
from lowtide.sync.view import StreamRequest
from lowtide.sync.writer import Bar, Writer

log = logging.getLogger("lowtide.sync")

HEADS = "heads"
"""The bus topic on which nodes tell each other of a new head."""

LOOK_EVERY = 15.0
"""Seconds after which a node looks at the head by itself: a hint may be lost."""

CATCH_UP_GROUPS = 1_000
"""Missed groups that are told one by one; beyond them everybody reads anew."""

MAX_REQUEST = 2**63 - 1


class Sync:
    """Takes uploads, serves downloads. ``start`` before use, ``close`` after."""

    def __init__(
        self,
        schema: Schema,
        database: Database,
        bus: Bus,
        jobs: Jobs,
        clock: Clock,
        ids: Ids,
        *,
        bar: Bar | None = None,
    ):
        """``bar``: whose sign-in has ended since, so that nothing is written with it."""
        self.schema = with_system(schema)
        self.streams = Streams(self.schema)
        self.database = database
        self.hub = Hub()
        self.segments = Segments(database)
        self._bus = bus
        self._jobs = jobs
        self._clock = clock
        self._ids = ids
        self.writer = Writer(database, self.schema, self.streams, clock, self._enqueue, self._committed, bar)
        self.downloads = Downloads(
            database, self.schema, self.streams, self.hub, self.segments, clock, self._note_seen
        )
        self.ownership = Ownership(self.schema, database, clock, self.writer.apply)
        self.functions = Functions(self.schema, database, jobs, clock, ids, self.writer.apply)
        self.journal = Journal(self.schema, self.streams, database, clock, self.writer.apply)
        self.devices = Devices(self.schema, self.streams, database, self.writer.apply)
        self._seen: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin. The database is migrated already."""
        epoch = self._ids.token()[:8]
        await self.database.write(lambda tx: tx.execute(QUERIES["insert_head"], epoch))
        head = await self.database.read(store.read_head)
        self.hub.group = head.group
        await self.writer.start()
        self._tasks = [
            asyncio.create_task(self._hear_heads(), name="lowtide-heads"),
            asyncio.create_task(self._look_at_heads(), name="lowtide-look"),
        ]

    async def close(self) -> None:
        """End the streams, apply what waits, stop."""
        self.hub.close()
        await self.writer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.segments.close()
        await self.flush_seen()

    async def upload(self, principal: Principal, sent: SentBatch, request: str = "") -> UploadAnswer:
        """Apply a device's batch exactly once; ``request`` is the id of the request that brings it. Raises as
        ``batch_of`` and ``Writer.apply`` do.
        """
        batch = batch_of(sent, principal, self.schema, self._clock.now(), request)
        if principal.aliases:
            batch = self.ownership.renamed(batch, principal)
        applied = await self.writer.apply(batch)
        return UploadAnswer(sent.client_id, applied.last_n, str(applied.group), applied.results)

    async def apply(self, batch: Batch) -> Applied:
        """Apply changes of the server's own. Raises as ``Writer.apply`` does."""
        return await self.writer.apply(batch)

    async def download(
        self, principal: Principal, request: StreamRequest, format: Format, coding: Coding
    ) -> Download:
        """Open a device's stream. Raises as ``Downloads.open`` does."""
        check_client_id(request.client_id)
        return await self.downloads.open(principal, request, format, coding)

    async def pull(self, principal: Principal, request: PullRequest) -> PullAnswer:
        """A page of rows for a script. Raises as ``pull`` does."""
        return await pull(self.database, self.schema, self.streams, principal, request)

    async def head(self) -> int:
        """The number of the latest group: proof that the database answers."""
        return (await self.database.read(store.read_head)).group

    async def write_checkpoint(self, principal: Principal, client_id: str) -> int:
        """A number that the device's stream reaches once it holds everything that the device uploaded.

        It is the group of the last upload and not the head: the stream is told of that group, while
        later ones may not concern it, and a device would wait for them.
        """
        check_client_id(client_id)
        device = await self.database.read(
            lambda tx: store.read_device(tx, principal.space, principal.user, client_id)
        )
        if device is None:
            return 0
        if device.request is None:
            return device.answered_group
        # This device counts its requests itself, or once did: go on with its numbers.
        return await self.request_checkpoint(
            principal, client_id, max(device.answered_group, device.request + 1)
        )

    async def request_checkpoint(self, principal: Principal, client_id: str, number: int) -> int:
        """Note that the device wants to hear ``number``; the greatest number that it ever asked for."""
        check_client_id(client_id)
        if not 0 < number <= MAX_REQUEST:
            raise Malformed("checkpoint_request_id is a number from 1 to 2^63 - 1")
        ask = CheckpointAsk(space=principal.space, user=principal.user, client_id=client_id, number=number)
        applied = await self.writer.apply(Batch(ask=ask))
        return applied.last_n

    async def flush_seen(self) -> None:
        """Keep which head each device reached last; losing some is harmless."""
        seen, self._seen = self._seen, {}
        if not seen:
            return

        # In the writer's order, so that neither waits for a row that the other holds.
        devices = sorted(seen.items())

        async def write(tx: Tx) -> None:
            await tx.execute_many(QUERIES["insert_device"], [(*key, at) for key, (at, _) in devices])
            await tx.execute_many(QUERIES["set_seen"], [(*key, *value) for key, value in devices])

        await self.database.write(write)

    # What happens by itself.

    def _note_seen(self, principal: Principal, client_id: str, group: int) -> None:
        self._seen[(principal.space, principal.user, client_id)] = (self._clock.now(), group)

    async def watch(self, tx: Tx, models: Collection[str]) -> None:
        """Tell ``Writer.changed`` of these models' changes, from the next group on; ``*`` is all."""
        await store.watch(tx, models)

    async def _enqueue(self, tx: Tx, kind: str, payload: msgspec.Struct) -> None:
        await self._jobs.enqueue(tx, kind, payload)

    def _committed(self, commit: Commit) -> None:
        if commit.group == self.hub.group + 1:
            for topic, page in commit.pages.items():
                if self.hub.hears(topic):
                    self.segments.remember(commit.buckets[topic], page)
            self.hub.deliver(commit)
        # Otherwise another node's groups came in between: they are told in order, this one among them.
        self._bus.publish(HEADS, str(commit.group).encode())
        if commit.jobs:
            self._jobs.wake()

    async def _hear_heads(self) -> None:
        async with self._bus.subscribe(HEADS) as hints:
            async for hint in hints:
                if hint.missed or int(hint.payload or b"0") > self.hub.group:
                    await self._catch_up()

    async def _look_at_heads(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY * self._ids.jitter(0.8, 1.2))
            await self._catch_up()
            try:
                await self.flush_seen()
            except LowtideError as error:
                log.warning("could not note where devices are: %s", error.message)

    async def _catch_up(self) -> None:
        """Tell the listeners what other nodes committed."""
        known = self.hub.group

        async def read(tx: Tx) -> tuple[list[tuple[int, list[str]]], int | None]:
            missed = await store.topics_since(tx, known, CATCH_UP_GROUPS)
            if len(missed) == CATCH_UP_GROUPS or (missed and missed[0][0] > known + 1):
                # Too much, or some of it is forgotten, or a new epoch has begun under us.
                return [], (await store.read_head(tx)).group
            return missed, None

        try:
            missed, head = await self.database.read(read)
        except LowtideError as error:
            log.warning("could not look at the head: %s", error.message)
            return
        if head is not None and head > self.hub.group:
            self.hub.deliver_unknown(head)
        for group, topics in missed:
            if group > self.hub.group:
                self.hub.deliver(Commit(group=group, topics=tuple(topics)))


def check_client_id(client_id: str) -> None:
    """Raises ``Malformed`` for what cannot be a device's name."""
    if not 0 < len(client_id) <= 64 or not client_id.isprintable() or "/" in client_id:
        raise Malformed("client_id is a text of 1 to 64 printable characters without '/'")
