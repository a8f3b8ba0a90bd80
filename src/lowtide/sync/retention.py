"""Forgetting: old removals, tombstones, histories and conflicts, so that nothing grows for ever.

A device that was away for longer than the removals are kept does not notice: its buckets get new
names, and the old ones are swapped for them in one checkpoint.
"""

from __future__ import annotations

from lowtide.kernel.clock import Clock
from lowtide.storage.db import Database, Tx
from lowtide.storage.jobs import Job, Jobs
from lowtide.sync import store
from lowtide.sync.store import queries

DAY = 86_400_000
BUCKETS_AT_ONCE = 100


class Retention:
    """Trims what is older than its time; a periodic job calls ``trim``."""

    def __init__(self, database: Database, clock: Clock, removals_days: int, journal_days: int):
        self._database = database
        self._clock = clock
        self._removals = removals_days * DAY
        self._journal = journal_days * DAY

    def schedule(self, jobs: Jobs) -> None:
        """Trim once an hour, on one node."""

        async def run(_job: Job, _payload: None) -> None:
            await self.trim()

        jobs.register("sync.trim", type(None), run, deadline=1800.0)
        jobs.every(3600.0, "sync.trim")

    async def trim(self) -> int:
        """Forget; the number of buckets whose floor rose. Many short transactions, safe to run twice."""
        now = self._clock.now()
        await self._database.write(lambda tx: tx.execute(queries["trim_journal"], now - self._journal))
        rows = await self._database.read(lambda tx: tx.fetch(queries["group_before"], now - self._removals))
        group = rows[0][0]
        if group is None:
            return 0
        floor = store.last_op_of(group)
        last, raised = -1, 0
        while True:
            ids = await self._database.write(lambda tx, after=last: self._raise(tx, floor, after))  # type: ignore[misc]
            raised += len(ids)
            if len(ids) < BUCKETS_AT_ONCE:
                break
            last = ids[-1]

        async def rest(tx: Tx) -> None:
            await tx.execute(queries["trim_tombstones"], floor)
            await tx.execute(queries["trim_head_log"], group)

        await self._database.write(rest)
        return raised

    async def _raise(self, tx: Tx, floor: int, after: int) -> list[int]:
        await store.lock_head(tx)
        rows = await tx.fetch(queries["buckets_to_trim"], floor, after, BUCKETS_AT_ONCE)
        ids = [row[0] for row in rows]
        await tx.execute_many(queries["raise_floor"], [(id, floor) for id in ids])
        await tx.execute_many(queries["trim_removals"], [(id, floor) for id in ids])
        await tx.execute_many(queries["trim_history"], [(id, floor) for id in ids])
        return ids
