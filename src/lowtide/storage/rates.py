"""Limits that all nodes share, kept in the database: for scarce things, such as logins, mails and SMS.

The same algorithm as ``kernel.rates``; one statement when allowed, two when refused. On SQLite it costs a
write, and on PostgreSQL a row lock: use ``kernel.rates.Gcra`` for what happens often, such as requests.
"""

from __future__ import annotations

import hashlib

from lowtide.kernel.clock import Clock
from lowtide.kernel.rates import Decision, Limit
from lowtide.storage.db import Database, Tx, load_queries
from lowtide.storage.purge import purge

QUERIES = load_queries("lowtide.storage")


class SharedRates:
    """Limits in the database. Keys are kept as digests: no address or phone number is in the table."""

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._clock = clock

    async def take(self, name: str, key: str, limit: Limit, cost: int = 1) -> Decision:
        """Take ``cost`` of ``limit`` for ``key``, in a transaction of its own: nothing gives it back.

        ``name`` tells limits apart that see the same keys. A ``cost`` beyond the burst counts as the whole
        burst. Raises as ``Database.write`` does.
        """
        return await self._database.write(lambda tx: self.in_tx(tx, name, key, limit, cost))

    async def in_tx(self, tx: Tx, name: str, key: str, limit: Limit, cost: int = 1) -> Decision:
        """As ``take``, in the caller's transaction: if that is rolled back, nothing was taken."""
        now = self._clock.now() * 1000
        digest = _digest(name, key)
        interval = limit.interval * 1e6
        most = round(limit.most * interval)
        step = min(round(cost * interval), most)
        taken = await tx.fetch(QUERIES["take_rate"], digest, now, step, most)
        if taken:
            return limit.judge((taken[0][0] - now) / 1e6, cost, True)
        rows = await tx.fetch(QUERIES["read_rate"], digest)
        ahead = (rows[0][0] - now) / 1e6 if rows else 0.0
        return limit.judge(ahead, cost, False)

    async def peek(self, tx: Tx, name: str, key: str, limit: Limit) -> Decision:
        """Would one more be allowed? Takes nothing: ``remaining`` is what is left now."""
        now = self._clock.now() * 1000
        rows = await tx.fetch(QUERIES["read_rate"], _digest(name, key))
        ahead = max(0.0, (rows[0][0] - now) / 1e6) if rows else 0.0
        return limit.judge(ahead, 1, limit.judge(ahead, 1, True).remaining > 0)

    async def purge(self) -> int:
        """Forget limits whose time has passed; returns how many. Short transactions."""
        return await purge(self._database, QUERIES["purge_rates"], self._clock.now() * 1000)


def _digest(name: str, key: str) -> str:
    return hashlib.sha256(f"{name}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
