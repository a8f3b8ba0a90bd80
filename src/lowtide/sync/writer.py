"""The writer: every change of synced data goes through here, in groups.

Callers put batches on a bounded queue. One task takes all that wait, opens one database
transaction, reads every record that they name in one query, runs the pure merge, writes the
outcome in a few bulk statements and commits; only then do the callers hear. On PostgreSQL every
node has a writer, and the head's row puts their groups into one order.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Busy, LowtideError, Unavailable
from lowtide.kernel.schema import Principal, Schema
from lowtide.storage.db import Database, Tx
from lowtide.sync import store
from lowtide.sync.grants import Grant, grants_of
from lowtide.sync.index import IndexKey
from lowtide.sync.ledger import Ledger, standing
from lowtide.sync.merge import Change, Merge
from lowtide.sync.model import (
    Applied,
    Batch,
    Bucket,
    Commit,
    Mutation,
    RecordKey,
    Rejection,
    Result,
    StoredRecord,
    Transaction,
    Written,
)
from lowtide.sync.receipts import Receipts, key_of, transactions_of
from lowtide.sync.state import State
from lowtide.sync.streams import Streams, lookup_topic
from lowtide.sync.system import COMMANDS, REJECTIONS, is_pending, rejection_data, rejection_id

log = logging.getLogger("lowtide.sync")

MAX_GROUP_MUTATIONS = 5_000
"""A group takes no further batch beyond this, so that nobody waits long."""

MAX_WAITING_MUTATIONS = 50_000
"""What may wait in memory; beyond it a caller hears ``Busy``."""

MERGES = 8
"""How often a group is merged at most, for unique values that turn out to be taken."""


class Event(msgspec.Struct, frozen=True):
    """A change on its way to an ``after_commit`` hook, as the payload of a job."""

    space: str
    model: str
    id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    group: int


class CommandCall(msgspec.Struct, frozen=True):
    """A command on its way to its function, as the payload of a job."""

    space: str
    id: str
    user: str
    claims: dict[str, Any]


Bar = Callable[[Tx, Sequence[Principal | None]], Awaitable[Sequence[LowtideError | None]]]
"""(tx, authors) -> why each may write no more since it was let in, as of this transaction; None: it may."""
Told = tuple[RecordKey, int, dict[str, Any] | None, dict[str, Any] | None]
"""A record, its op, what it was and what it is."""
Changed = Callable[[Tx, int, Sequence[Told]], Awaitable[bool]]
"""(tx, now, changes of watched models): hears of a group in its transaction; whether it has made jobs."""
Granted = Callable[[Tx, Sequence[Grant]], Awaitable[None]]
"""(tx, grants): hears of a group's grants in its transaction."""
Enqueue = Callable[[Tx, str, msgspec.Struct], Awaitable[None]]
"""(tx, kind, payload): a job that exists exactly if the transaction commits."""


class Writer:
    """The queue before the database, and the task that empties it."""

    def __init__(
        self,
        database: Database,
        schema: Schema,
        streams: Streams,
        clock: Clock,
        enqueue: Enqueue,
        publish: Callable[[Commit], None],
        bar: Bar | None = None,
    ):
        self._database = database
        self._schema = schema
        self._streams = streams
        self._clock = clock
        self._enqueue = enqueue
        self._publish = publish
        self._bar = bar or _nobody
        self.changed: Changed | None = None
        self.granted: Granted | None = None
        self._waiting: deque[tuple[Batch, int, asyncio.Future[Applied]]] = deque()
        self._waiting_mutations = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._run(), name="lowtide-writer")

    async def close(self) -> None:
        """Apply what waits, then end. A batch offered afterwards hears ``Busy``."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def apply(self, batch: Batch) -> Applied:
        """Apply ``batch`` and return once it is durable.

        Refused mutations are results, not errors. Raises ``BatchGap`` and ``BatchRepeated`` for an
        upload out of order, ``Busy`` when too much waits, and what ``Database.write`` raises.
        """
        size = max(1, batch.size, sum(len(t.mutations) for t in batch.transactions))
        if self._closing or self._waiting_mutations + size > MAX_WAITING_MUTATIONS:
            raise Busy("too many writes are waiting")
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, size, future))
        self._waiting_mutations += size
        self._wake.set()
        return await future

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._commit(self._take())

    def _take(self) -> list[tuple[Batch, int, asyncio.Future[Applied]]]:
        """The next group. One upload of a device at most: a repeat is judged by what is stored."""
        group: list[tuple[Batch, int, asyncio.Future[Applied]]] = []
        size = 0
        devices: set[tuple[str, ...]] = set()
        while self._waiting and (not group or size + self._waiting[0][1] <= MAX_GROUP_MUTATIONS):
            batch = self._waiting[0][0]
            device = (batch.alone,) if batch.upload is None else key_of(batch.upload)
            if device != ("",):
                if device in devices:
                    break
                devices.add(device)
            group.append(self._waiting.popleft())
            size += group[-1][1]
        self._waiting_mutations -= size
        return group

    async def _commit(self, group: list[tuple[Batch, int, asyncio.Future[Applied]]]) -> None:
        batches = [batch for batch, _, _ in group]
        try:
            outcomes, commit = await self._database.write(lambda tx: self._apply(tx, batches))
        except Exception as error:
            if len(group) > 1 and not isinstance(error, Unavailable):
                # One batch has brought the others down: it alone shall hear of it.
                for one in group:
                    await self._commit([one])
                return
            for _, _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        # Who wrote hears before the many who listen: both only run once this is through.
        for (_, _, future), outcome in zip(group, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, LowtideError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        if commit is not None:
            self._publish(commit)

    async def _apply(
        self, tx: Tx, batches: Sequence[Batch]
    ) -> tuple[list[Applied | LowtideError], Commit | None]:
        """One group inside one transaction. May be run again from its beginning."""
        now = self._clock.now()
        head = await store.lock_head(tx)
        group = head.group + 1
        batches = [await _prepared(tx, batch) for batch in batches]
        barred = await self._barred(tx, batches)
        receipts = await Receipts.open(tx, batches)
        todo = [
            receipts.admit(batch) if why is None else why for batch, why in zip(batches, barred, strict=True)
        ]
        fresh = [(batch, skip) for item in todo if isinstance(item, tuple) for batch, skip in (item,)]
        if not fresh:
            return [item for item in todo if not isinstance(item, tuple)], None

        merge, merged = await self._merge(tx, fresh, now)
        results_of = iter(merged)
        outcomes: list[Applied | LowtideError] = []
        for item in todo:
            if not isinstance(item, tuple):
                outcomes.append(item)
                continue
            batch, skip = item
            results = receipts.results_before(batch, skip) + next(results_of)
            if batch.resync is not None:
                await receipts.resync(batch.resync, now)
                outcomes.append(Applied(group, results))
            elif batch.ask is not None:
                number = await receipts.ask(batch.ask, group, now)
                outcomes.append(Applied(group, results, number))
            elif batch.upload is not None:
                receipts.answer(batch.upload, results, group)
                outcomes.append(Applied(group, results, batch.upload.numbers[-1]))
            else:
                outcomes.append(Applied(group, results))
        for fault in merge.faults:
            log.error("the app's code failed: %s", fault)
        await receipts.write(now)
        ledger, buckets, topics, last, jobs = await self._write(tx, merge, group, head.last_bucket, now)
        if head.watched != "[]" and self.changed is not None:
            told = _told(merge, ledger, frozenset(msgspec.json.decode(head.watched)))
            jobs |= bool(told) and await self.changed(tx, now, told)
        for i, batch in enumerate(batches):
            outcome = outcomes[i]
            if batch.echo and isinstance(outcome, Applied):
                outcomes[i] = outcome = msgspec.structs.replace(outcome, written=_echo(batch, merge, ledger))
            if batch.keep is not None and isinstance(outcome, Applied):
                await batch.keep(tx, outcome)
        topics.extend(receipts.topics())
        await store.move_head(tx, group, last, now, topics)
        commit = Commit(group=group, topics=tuple(topics), buckets=buckets, pages=ledger.pages, jobs=jobs)
        return outcomes, commit

    async def _barred(self, tx: Tx, batches: Sequence[Batch]) -> Sequence[LowtideError | None]:
        """Whose sign-in has ended, or says what is no longer true, since the request was let in.

        One look a group, behind the head's lock: what a revocation has made durable, no later group
        overlooks.
        """
        authors = [_author(batch) for batch in batches]
        return await self._bar(tx, authors) if any(authors) else [None] * len(authors)

    async def _merge(
        self, tx: Tx, fresh: Sequence[tuple[Batch, int]], now: int
    ) -> tuple[Merge, list[list[Result]]]:
        """The group's merge, and the results of each batch in ``fresh``.

        Which unique values a group takes is known once it is merged. A value that nobody has read is
        taken to be free, then read; if it is held, the group is merged again. One query either way.
        """
        index: dict[IndexKey, str | None] = {}
        for left in reversed(range(MERGES)):
            merge = Merge(self._schema, self._streams, await self._read(tx, fresh, index), now, not left)
            results = [
                [
                    result
                    for transaction in batch.transactions[transactions_of(batch, skip) :]
                    for result in merge.apply(transaction)
                ]
                for batch, skip in fresh
            ]
            holders = await store.read_index(tx, merge.unread)
            if not holders:
                return merge, results
            index.update(dict.fromkeys(merge.unread))
            index.update(holders)
        raise AssertionError("the last merge takes no value that is not read")

    async def _read(
        self, tx: Tx, fresh: Sequence[tuple[Batch, int]], index: Mapping[IndexKey, str | None]
    ) -> State:
        keys: dict[RecordKey, None] = {}
        users: dict[tuple[str, str], None] = {}
        for batch, skip in fresh:
            for transaction in batch.transactions[transactions_of(batch, skip) :]:
                space = transaction.principal.space
                users[(space, transaction.principal.user)] = None
                keys.update(((space, wanted.model, wanted.id), None) for wanted in transaction.require)
                keys.update(((space, version.model, version.id), None) for version in transaction.versions)
                for mutation in transaction.mutations:
                    if isinstance(mutation, Mutation) and mutation.model in self._schema.models:
                        keys[(space, mutation.model, mutation.id)] = None
        records, holdings = await store.read_group(tx, self._schema, self._streams.lookups, keys, users)
        return State(records, dict(index), holdings)

    async def _write(
        self, tx: Tx, merge: Merge, group: int, last_bucket: int, now: int
    ) -> tuple[Ledger, dict[str, Bucket], list[str], int, bool]:
        """Write the merge's outcome: what was written, the changed buckets, what to tell, the last bucket's
        id, and whether jobs were made."""
        jobs = False
        ledger = Ledger(group, now)
        topics: dict[str, None] = {}
        grants: list[Grant] = []
        rejected = (self._rejected(rejection, now) for rejection in merge.rejections)
        for key, change in itertools.chain(merge.changes(), rejected):
            before = None if change.before is None or change.before.deleted else change.before.data
            after = None if change.after.deleted else change.after.data
            ledger.enter(
                key,
                change.after,
                change.json,
                standing(self._schema, self._streams, key, before),
                standing(self._schema, self._streams, key, after),
            )
            for lookup in self._streams.lookups_of(key[1]):
                for data in (before, after):
                    if data is not None and data[lookup.match] is not None:
                        topics[lookup_topic(key[0], lookup, str(data[lookup.match]))] = None
                grants += grants_of(key, lookup, before, after, merge.authors.get(key))
            jobs |= await self._tell(tx, key, before, after, group, merge.authors.get(key))
        if grants and self.granted is not None:
            await self.granted(tx, grants)
        changed, last_bucket = await ledger.write(tx, last_bucket)
        if merge.losses:
            await store.write_losses(tx, merge.losses, group * store.OPS_PER_GROUP, now)
        return ledger, changed, [*changed, *topics], last_bucket, jobs

    def _rejected(self, rejection: Rejection, now: int) -> tuple[RecordKey, Change]:
        model = self._schema.models[REJECTIONS]
        data = rejection_data(model, rejection, now)
        key = (rejection.space, REJECTIONS, rejection_id(rejection))
        record = StoredRecord(data, {"": (now, "server")}, False, 0, now)
        return key, Change(None, record, store.data_text(model, data))

    async def _tell(
        self,
        tx: Tx,
        key: RecordKey,
        before: dict[str, Any] | None,
        after: dict[str, Any] | None,
        group: int,
        author: Transaction | None,
    ) -> bool:
        """Enqueue what runs after the commit, if anything does."""
        space, name, id = key
        hooked = self._schema.models[name].after_commit is not None
        called = name == COMMANDS and is_pending(after) and not is_pending(before)
        if hooked:
            await self._enqueue(tx, "sync.event", Event(space, name, id, before, after, group))
        if called:
            user = str((after or {})["device"]).rpartition("/")[0]
            claims = {} if author is None else dict(author.principal.claims)
            await self._enqueue(tx, "sync.command", CommandCall(space, id, user, claims))
        return hooked or called


def _told(merge: Merge, ledger: Ledger, models: Collection[str]) -> list[Told]:
    """What the group did to records of ``models``, in the order of its ops."""
    told: list[Told] = []
    for key, change in merge.changes():
        model = key[1]
        if (model in models or "*" in models) and not model.startswith("lowtide_"):
            before = None if change.before is None or change.before.deleted else change.before.data
            after = None if change.after.deleted else change.after.data
            row = ledger.row(key)
            if row is not None and not (before is None and after is None):
                told.append((key, int(row[6]), before, after))
    return told


def _echo(batch: Batch, merge: Merge, ledger: Ledger) -> dict[RecordKey, Written]:
    written: dict[RecordKey, Written] = {}
    for transaction in batch.transactions:
        who = transaction.principal
        for mutation in transaction.mutations:
            key = (who.space, mutation.model, mutation.id)
            row = ledger.row(key)
            record = merge.state.records.get(key)
            if row is not None and record is not None:
                json, _, deleted, op, created, updated = row[3:]
                seen = not deleted and merge.sees(who, key, record)
                written[key] = Written(json, bool(deleted), op, created, updated, seen)
    return written


async def _prepared(tx: Tx, batch: Batch) -> Batch:
    if batch.prepare is None:
        return batch
    return msgspec.structs.replace(batch, transactions=await batch.prepare(tx))


async def _nobody(tx: Tx, authors: Sequence[Principal | None]) -> Sequence[LowtideError | None]:
    return [None] * len(authors)


def _author(batch: Batch) -> Principal | None:
    """Who wrote the batch, with which session; None where there is none that could have ended."""
    who = batch.transactions[0].principal if batch.transactions else None
    return who if who is not None and who.session else None
