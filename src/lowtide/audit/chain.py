"""The sequencer: gives entries their places, and links each to the one before it.

There is one chain for the whole server and not one for each space: writers take no part in it, so it
serialises nobody; whoever removes a space's entries leaves gaps among all others'; and one checkpoint
speaks for everything. Entries are chained in batches, a second or so after their commit.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from lowtide.audit.model import ChainedEntry, link
from lowtide.audit.service import Audit
from lowtide.kernel.errors import Unavailable
from lowtide.kernel.ids import Ids
from lowtide.storage.db import Database, Tx, load_queries

QUERIES = load_queries("lowtide.audit")
_LOG = logging.getLogger("lowtide.audit")

BATCH = 1_000
"""Entries that one transaction chains: about 20 ms."""
LOOK = 1.0
"""Seconds between two looks of a node that has written entries."""
IDLE = 30
"""Looks of a node that has written none: for those of a node that died, and of commands."""


class ChainHead(msgspec.Struct, frozen=True):
    """The end of the chain: the last place that is taken, and the hash that stands for all up to it."""

    seq: int
    hash: bytes


class Chain:
    """Chains what ``audit`` wrote here, and what other nodes left."""

    def __init__(self, audit: Audit, database: Database, ids: Ids):
        self._audit, self._database, self._ids = audit, database, ids

    async def sequence(self) -> int:
        """Chain every entry that is committed; how many. Raises as ``Database.write`` does.

        Any number of nodes may do so at once: each holds the chain's head while it adds a batch, so each
        place is given once.
        """
        total, added = 0, BATCH
        while added == BATCH:
            added = await self._database.write(_add)
            total += added
        return total

    async def head(self) -> ChainHead:
        """Where the chain ends now."""
        return await self._database.read(read_head)

    async def keep(self) -> None:
        """``sequence`` about once a second while there is something to chain, until cancelled.

        A database that is away is waited for.
        """
        looks = IDLE
        while True:
            looks += 1
            if self._audit.wrote or looks >= IDLE:
                # Before the look: what is committed during it is seen by the next.
                self._audit.wrote = False
                looks = 0
                try:
                    await self.sequence()
                except Unavailable as error:
                    self._audit.wrote = True
                    _LOG.warning("audit entries wait to be chained: %s", error)
            await asyncio.sleep(self._ids.jitter(0.8, 1.2) * LOOK)

    async def close(self) -> None:
        """Chain what this process wrote last; what a lost database keeps waits for the next start."""
        if self._audit.wrote:
            try:
                await self.sequence()
            except Unavailable as error:
                _LOG.warning("audit entries wait to be chained: %s", error)


async def read_head(tx: Tx) -> ChainHead:
    """Where the chain ends, in the caller's snapshot."""
    [(seq, hash)] = await tx.fetch(QUERIES["head"])
    return ChainHead(seq, bytes(hash))


async def _add(tx: Tx) -> int:
    [(seq, hash)] = await tx.fetch(QUERIES["lock_head"])
    placed = []
    for row in await tx.fetch(QUERIES["unchained"], BATCH):
        seq += 1
        hash = link(bytes(hash), ChainedEntry(seq, *row))
        placed.append((row[0], seq, hash))
    if placed:
        await tx.execute_many(QUERIES["chain"], placed)
        await tx.execute(QUERIES["move_head"], seq, hash)
    return len(placed)
