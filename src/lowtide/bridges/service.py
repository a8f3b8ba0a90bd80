"""The bridges as the rest of Lowtide sees them."""

from __future__ import annotations

from collections.abc import Mapping

from lowtide.bridges.pushes import Pushes
from lowtide.bridges.rxdb import Rxdb
from lowtide.bridges.store import QUERIES
from lowtide.bridges.walk import Walks
from lowtide.bridges.watermelon import Watermelon
from lowtide.kernel.clock import Clock
from lowtide.storage.db import Tx
from lowtide.storage.purge import purge
from lowtide.sync import Sync
from lowtide.sync.retention import DAY
from lowtide.sync.store import group_before


class Bridges:
    """Other clients' protocols over the sync engine."""

    def __init__(
        self, sync: Sync, clock: Clock, removals_kept_days: int, oldest: Mapping[str, int] | None = None
    ):
        """``oldest``: the schemas that are still served, as ``read_oldest`` gives them."""
        self._database = sync.database
        self._clock = clock
        self._kept = removals_kept_days * DAY
        walks, pushes = Walks(sync), Pushes(sync, clock)
        self.watermelon = Watermelon(sync, walks, pushes, oldest or {})
        self.rxdb = Rxdb(sync, walks, pushes, clock, oldest or {})
        sync.ownership.beside.append(self)

    async def trim(self) -> int:
        """Forget pushes from before removals are kept: a cursor so old begins anew. How many."""
        now = self._clock.now()
        group = await self._database.read(lambda tx: group_before(tx, now - self._kept, now))
        if group is None:
            return 0
        return await purge(self._database, QUERIES["trim_pushes"], group)

    async def move(self, tx: Tx, old: str, new: str) -> None:
        """What devices of ``old`` pushed is known as ``new``'s, too. Their cursors begin anew."""
        await tx.execute(QUERIES["move_pushes"], old, new)
        await self.forget(tx, old)

    async def forget(self, tx: Tx, user: str) -> None:
        """Delete what is kept of the clients of ``user``."""
        await tx.execute(QUERIES["forget_pushes"], user)
        await tx.execute(QUERIES["forget_views"], user)
