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


class Bridges:
    """Other clients' protocols over the sync engine."""

    def __init__(self, sync: Sync, clock: Clock, oldest: Mapping[str, int] | None = None):
        """``oldest``: the schemas that are still served, as ``read_oldest`` gives them."""
        self._database = sync.database
        walks, pushes = Walks(sync), Pushes(sync, clock)
        self.watermelon = Watermelon(sync, walks, pushes, oldest or {})
        self.rxdb = Rxdb(sync, walks, pushes, clock, oldest or {})
        sync.ownership.beside.append(self)

    async def trim(self) -> int:
        """Forget pushes of groups that the engine has forgotten: a cursor so old begins anew. How many.

        By the log itself, and not by a time: as long as it has a cursor's group, all pushes since are here.
        """
        first = (await self._database.read(lambda tx: tx.fetch(QUERIES["first_group"])))[0][0]
        return 0 if first is None else await purge(self._database, QUERIES["trim_pushes"], first)

    async def move(self, tx: Tx, old: str, new: str) -> None:
        """What devices of ``old`` pushed is known as ``new``'s, too. Their cursors begin anew."""
        await tx.execute(QUERIES["move_pushes"], old, new)
        await self.forget(tx, old)

    async def forget(self, tx: Tx, user: str) -> None:
        """Delete what is kept of the clients of ``user``."""
        await tx.execute(QUERIES["forget_pushes"], user)
        await tx.execute(QUERIES["forget_views"], user)
