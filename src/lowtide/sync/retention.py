"""Forgetting: old removals, tombstones, histories and conflicts, so that nothing grows for ever.

A device that was away for longer than the removals are kept does not notice: its buckets get new
names, and the old ones are swapped for them in one checkpoint.
"""

from __future__ import annotations

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.storage.db import Database, Tx
from lowtide.storage.purge import purge
from lowtide.sync import store
from lowtide.sync.store import QUERIES

DAY = 86_400_000
BUCKETS_AT_ONCE = 100


class Retention:
    """Trims what is older than its time; a periodic job calls ``trim``."""

    def __init__(self, database: Database, clock: Clock, removals_days: int, journal_days: int):
        self._database = database
        self._clock = clock
        self._removals = removals_days * DAY
        self._journal = journal_days * DAY

    async def trim(self) -> int:
        """Forget; the number of buckets whose floor rose. Many short transactions, safe to run twice."""
        now = self._clock.now()
        await purge(self._database, QUERIES["trim_journal"], now - self._journal)
        group = await self._database.read(lambda tx: store.group_before(tx, now - self._removals, now))
        if group is None:
            return 0
        floor = store.last_op_of(group)
        last, raised = -1, 0
        while True:
            rows = await self._database.read(
                lambda tx, after=last: tx.fetch(QUERIES["buckets_to_trim"], floor, after, BUCKETS_AT_ONCE)  # type: ignore[misc]
            )
            ids = [row[0] for row in rows]
            if ids:
                # Only then are the removals gone: who reads a page without them sees that the floor rose.
                await self._database.write(lambda tx, ids=ids: self._raise(tx, ids, floor))  # type: ignore[misc]
                named = msgspec.json.encode(ids).decode()
                await purge(self._database, QUERIES["trim_removals"], named, floor)
                await purge(self._database, QUERIES["trim_history"], named, floor)
            raised += len(ids)
            if len(ids) < BUCKETS_AT_ONCE:
                break
            last = ids[-1]
        await purge(self._database, QUERIES["trim_tombstones"], floor)
        await purge(self._database, QUERIES["trim_head_log"], group)
        return raised

    async def _raise(self, tx: Tx, ids: list[int], floor: int) -> None:
        await store.lock_head(tx)
        await tx.execute_many(QUERIES["raise_floor"], [(id, floor) for id in ids])
