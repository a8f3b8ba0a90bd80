"""Messages about changed records: written by the transaction that changes them, delivered in their order.

An endpoint has an outbox, and one job at a time that empties it. Messages about one record go out one after
the other; those about different records several at once. What fails holds up its own record and no other.
Where several records fail one after the other and nothing arrives, it is the endpoint that fails: it waits,
longer each time, while its outbox grows, and holds up nobody else.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Unavailable
from lowtide.kernel.ids import Ids
from lowtide.storage.db import Database, Row, Tx
from lowtide.storage.jobs import Job, Jobs
from lowtide.storage.jobs.model import backoff
from lowtide.webhooks.sending import Sender, Tried
from lowtide.webhooks.store import QUERIES

KIND = "webhooks.records"
QUEUE = "webhook-records"
AT_ONCE = 4
"""Messages on their way to one endpoint: each about another record. Half of what egress
lets go to one host."""
AGAIN = (1.0, 5.0)
"""Seconds, from and to: a pause after which is tried again what could not be tried."""
WINDOW = 256
"""Messages that are read together, the oldest."""
RETRIES = WINDOW // 4
"""Of them at most: what failed before. The rest is of records of which nothing has failed."""
AT_ONE_GO = 1000
"""Messages that a statement writes."""
RUN_SECONDS = 60.0
"""After which a job lets its successor go on."""
HOLD = 300_000
"""Milliseconds for which a job holds an endpoint at most: longer than it may run."""
MAX_ATTEMPTS = 40
"""Tries of one message: about a day. Then it is dead, and can be sent again by hand."""
MAX_WAITING = 50_000
"""Messages that wait for an endpoint where nothing arrives; beyond it it is switched off, and they are dead.
So many may wait for records that fail where others arrive; beyond it those are dead."""
MAX_BEHIND = 500_000
"""Messages that wait for an endpoint which works and is too slow; beyond it it is switched off, too."""
MAX_BODY = 256 * 1024
"""Bytes of a message; one that would be longer goes without the record's data."""
DEAD_DAYS = 30
"""For which dead messages are kept."""
EVENTS = ("record.created", "record.updated", "record.deleted")


class RecordChange(msgspec.Struct, frozen=True):
    """What a group did to one record."""

    space: str
    model: str
    id: str
    op: int
    """Its version: it only grows."""
    before: dict[str, Any] | None
    """None: it did not exist."""
    after: dict[str, Any] | None
    """None: it does not exist any more."""

    @property
    def event(self) -> str:
        if self.before is None:
            return "record.created"
        return "record.deleted" if self.after is None else "record.updated"


class Wish(msgspec.Struct, frozen=True):
    """Which changes an endpoint hears of."""

    endpoint: str
    events: list[str]
    models: list[str]
    spaces: list[str]
    data: bool

    def wants(self, change: RecordChange) -> bool:
        if change.model not in self.models and "*" not in self.models:
            return False
        if self.spaces and change.space not in self.spaces:
            return False
        return any(wanted in ("*", "record.*", change.event) for wanted in self.events)


class OutboxJob(msgspec.Struct, frozen=True):
    """The payload of a job: whose messages it delivers."""

    endpoint: str


class Waiting(msgspec.Struct, frozen=True):
    """A message that waits."""

    op: int
    id: str
    record: str
    event: str
    body: str
    attempt: int


Settle = Callable[[Tx, str, Sequence[Tried]], Awaitable[bool]]
"""(tx, endpoint, tries): what the tries say of the endpoint itself; whether it is still on."""


class RecordMessages:
    """Keeps and delivers messages about records."""

    def __init__(
        self,
        database: Database,
        jobs: Jobs,
        sender: Sender,
        settle: Settle,
        switch_off: Callable[[Tx, str, str], Awaitable[None]],
        clock: Clock,
        ids: Ids,
    ):
        self._database, self._jobs, self._sender = database, jobs, sender
        self._settle, self._switch_off = settle, switch_off
        self._clock, self._ids = clock, ids
        jobs.register(KIND, OutboxJob, self._deliver, deadline=HOLD / 1000 - 60)

    async def heard(self, tx: Tx, now: int, changes: Sequence[RecordChange]) -> bool:
        """Write what endpoints are to hear of ``changes``; whether there is anything.

        In the group's transaction: a statement for the endpoints, one for a thousand messages, two for each
        endpoint's job.
        """
        rows: list[tuple[Any, ...]] = []
        for row in await tx.fetch(QUERIES["wishes"]):
            wish = _wish(row)
            wanted = [change for change in changes if wish.wants(change)]
            rows.extend(self._row(wish, change, now) for change in wanted)
            if wanted:
                await self.wake(tx, wish.endpoint)
        for start in range(0, len(rows), AT_ONE_GO):
            some = rows[start : start + AT_ONE_GO]
            await tx.execute(QUERIES["add_records"], msgspec.json.encode(some).decode())
        return bool(rows)

    async def wake(self, tx: Tx, endpoint: str, at: int | None = None) -> None:
        """Let an endpoint's outbox be emptied, now or later. Two statements."""
        await self._jobs.enqueue(tx, KIND, OutboxJob(endpoint), key=endpoint, queue=QUEUE, run_at=at)

    async def bury(self, tx: Tx, endpoint: str, why: str) -> None:
        """All that waits for an endpoint is dead."""
        await tx.execute(QUERIES["bury_records"], endpoint, self._clock.now(), why)

    async def revive(self, tx: Tx, endpoint: str) -> int:
        """Let the endpoint's dead messages wait again, before all that came later; how many."""
        await tx.execute(QUERIES["hurry"], endpoint)
        found = await tx.fetch(QUERIES["revive_records"], endpoint)
        await self.wake(tx, endpoint)
        return len(found)

    async def sweep(self, tx: Tx) -> None:
        """Forget what has been dead for long, and what is for nobody; what waits has a job.

        It has one anyway, unless that failed so often that it is dead.
        """
        await tx.execute(QUERIES["sweep_dead"], self._clock.now() - DEAD_DAYS * 86_400_000)
        await tx.execute(QUERIES["sweep_records"])
        for endpoint, retry_at in await tx.fetch(QUERIES["owed"]):
            await self.wake(tx, endpoint, max(int(retry_at), self._clock.now()))

    def _row(self, wish: Wish, change: RecordChange, now: int) -> tuple[Any, ...]:
        data: dict[str, Any] = {
            "space": change.space,
            "model": change.model,
            "id": change.id,
            "version": str(change.op),
        }
        whole = data | {"data": change.after, "previous": change.before} if wish.data else data
        told = {"type": change.event, "timestamp": now, "data": whole}
        body = msgspec.json.encode(told)
        if len(body) > MAX_BODY:
            body = msgspec.json.encode(told | {"data": data | {"too_large": True}})
        record = f"{change.space}/{change.model}/{change.id}"
        return wish.endpoint, change.op, f"msg_{self._ids.token()}", record, change.event, body.decode()

    # -- delivering --------------------------------------------------------------------------------

    async def _deliver(self, job: Job, outbox: OutboxJob) -> None:
        began, id = self._clock.monotonic(), outbox.endpoint
        while True:
            over = self._clock.monotonic() - began > RUN_SECONDS
            messages = await self._database.write(lambda tx, over=over: self._take(tx, job.id, id, over))  # type: ignore[misc]
            if not messages:
                self._jobs.wake()
                return
            tries = await self._send(id, messages)
            if not tries:
                await self._database.write(lambda tx: self._later(tx, job.id, id))
                return
            await self._database.write(lambda tx, tries=tries: self._note(tx, id, tries))  # type: ignore[misc]

    async def _take(self, tx: Tx, job: str, endpoint: str, over: bool) -> list[Waiting]:
        """Hold the endpoint, and say what is due. Nothing: it is let go, and what is left has a job.

        All of it under the lock of the endpoint's row. Who finds it held knows that the holder looks
        again, and sees all that this job was to send; in case the holder has died, this job comes back when
        the hold ends.
        """
        now = self._clock.now()
        found = await tx.fetch(QUERIES["hold"], endpoint, job, now, now + HOLD)
        if not found:
            # It is off or gone. Who switches it on wakes it.
            await tx.execute(QUERIES["let_go"], endpoint, job)
            return []
        holder, until, retry_at = found[0]
        if holder != job:
            await self.wake(tx, endpoint, int(until) + 1)
            return []
        again = await tx.fetch(QUERIES["again"], endpoint, now, RETRIES)
        rows = [*await tx.fetch(QUERIES["fresh"], endpoint, WINDOW - len(again)), *again]
        if rows and int(retry_at) <= now and not over:
            return [Waiting(*row) for row in rows]
        await tx.execute(QUERIES["let_go"], endpoint, job)
        ((later,),) = await tx.fetch(QUERIES["next_due"], endpoint, now)
        if rows or later is not None:
            await self.wake(tx, endpoint, max(int(retry_at), now if rows else int(later)))
        return []

    async def _later(self, tx: Tx, job: str, endpoint: str) -> None:
        """Let the endpoint go for a few seconds: nothing could be tried now."""
        await tx.execute(QUERIES["let_go"], endpoint, job)
        pause = self._ids.jitter(*AGAIN)
        await self.wake(tx, endpoint, self._clock.now() + int(pause * 1000))

    async def _send(self, endpoint: str, messages: Sequence[Waiting]) -> list[Tried]:
        """Send what is due, the messages of a record in their order, until one fails.

        Until as many have failed as are sent at once: then the rest is better looked at again. What was not
        tried is in no answer: it waits as it did. One of those at work begins with what failed before, the
        others with what never did: neither waits for all of the other.
        """
        chains: dict[str, list[Waiting]] = {}
        for message in messages:
            chains.setdefault(message.record, []).append(message)
        again = iter([chain for chain in chains.values() if chain[0].attempt > 0])
        fresh = iter([chain for chain in chains.values() if chain[0].attempt == 0])
        tries: list[Tried] = []
        ends = self._clock.monotonic() + RUN_SECONDS

        async def carry(waiting: Iterable[list[Waiting]]) -> None:
            for chain in waiting:
                for message in chain:
                    if self._clock.monotonic() > ends:
                        return
                    try:
                        tried = await self._sender.send(
                            endpoint, message.id, message.event, message.body, message.attempt + 1
                        )
                    except Unavailable:
                        return  # Too much is under way, or the database is away. The others' tries count.
                    if tried is None:
                        return  # It was switched off or deleted meanwhile: the others see it, too.
                    tries.append(msgspec.structs.replace(tried, op=message.op))
                    if tried.failure:
                        return

        async with asyncio.TaskGroup() as group:
            group.create_task(carry(itertools.chain(again, fresh)))
            for _ in range(AT_ONCE - 1):
                group.create_task(carry(itertools.chain(fresh, again)))
        return tries

    async def _note(self, tx: Tx, endpoint: str, tries: Sequence[Tried]) -> None:
        now = self._clock.now()
        arrived = [one.op for one in tries if not one.failure]
        # The endpoint's row first, as everywhere: who switches it off then waits, and nobody deadlocks.
        failing = False
        if arrived:
            await tx.execute(QUERIES["hurry"], endpoint)
        else:
            # A record fails for the first time once: so many records failed since something arrived.
            new = sum(one.attempt == 1 for one in tries)
            for (count,) in await tx.fetch(QUERIES["failing_again"], endpoint, new):
                failing = int(count) >= AT_ONCE
                if failing:
                    pause = backoff(int(count) // AT_ONCE, self._ids)
                    await tx.execute(QUERIES["pause"], endpoint, now + int(pause * 1000))
        if arrived:
            await tx.execute(QUERIES["arrived"], endpoint, msgspec.json.encode(arrived).decode())
        for one in tries:
            if one.failure:
                due = now + int(backoff(one.attempt, self._ids) * 1000)
                dead = now if one.attempt >= MAX_ATTEMPTS else None
                await tx.execute(QUERIES["failed"], endpoint, one.op, due, one.failure[:500], dead)
        if await self._settle(tx, endpoint, tries):
            await self._bound(tx, endpoint, failing)

    async def _bound(self, tx: Tx, endpoint: str, failing: bool) -> None:
        """Keep the outbox within its bounds. One statement while few wait."""
        count = int((await tx.fetch(QUERIES["count_waiting"], endpoint, MAX_BEHIND + 1))[0][0])
        limit = MAX_WAITING if failing else MAX_BEHIND
        if count > limit:
            await self._switch_off(tx, endpoint, f"more than {limit} messages waited")
        elif count > MAX_WAITING:
            stuck = await tx.fetch(QUERIES["count_stuck"], endpoint)
            if int(stuck[0][0]) > MAX_WAITING:
                why = f"More than {MAX_WAITING} messages waited for records that fail."
                await tx.execute(QUERIES["bury_stuck"], endpoint, self._clock.now(), why)


def watched(wishes: Sequence[Row]) -> list[str]:
    """The models of which anybody wants to hear."""
    return sorted({model for row in wishes for model in _wish(row).models})


def _wish(row: Row) -> Wish:
    endpoint, events, models, spaces, data = row
    decode = msgspec.json.decode
    return Wish(endpoint, decode(events), decode(models), decode(spaces), bool(data))
