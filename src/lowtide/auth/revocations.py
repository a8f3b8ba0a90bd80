"""Which sessions ended or changed while tokens of them may be around: in memory, so that asking is free.

The database is the truth. A node reads what changed when the bus says so, and every ``LOOK_EVERY`` seconds
anyway; a token lives ten minutes, so older changes matter to nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

import msgspec

from lowtide.auth.tokens import SessionChange
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import LowtideError, SessionRevoked, TokenExpired
from lowtide.kernel.ids import Ids
from lowtide.kernel.schema import Principal
from lowtide.storage.bus import Bus
from lowtide.storage.db import Database, Tx, load_queries

QUERIES = load_queries("lowtide.auth", "sessions.sql")
_encode = msgspec.json.Encoder().encode
_LOG = logging.getLogger("lowtide.auth")

TOPIC = "lowtide.sessions"
"""Of the hint that sessions ended or changed."""
LOOK_EVERY = 15.0
"""Seconds after which a node looks by itself: a hint may be lost."""
KEPT = 15 * 60
"""Seconds for which a change is heeded: the life of an access token, its leeway, and clocks that differ."""
OVERLAP = 60
"""Seconds of changes that are read again: a transaction may take, and clocks may differ, that long."""


class Revocations:
    """The changes of the last quarter of an hour. ``load`` before use, and let ``keep`` run."""

    def __init__(self, database: Database, bus: Bus, clock: Clock, ids: Ids):
        self._database = database
        self._bus = bus
        self._clock = clock
        self._ids = ids
        self.changes: dict[str, SessionChange] = {}
        """By session; what ``Tokens`` looks at. About 300 bytes each."""
        self.on_change: Callable[[Collection[str]], None] = lambda _: None
        """Told of the sessions whose tokens are refused from now on, so that their streams end."""
        self._at: dict[str, int] = {}
        self._read_at = 0

    async def load(self) -> None:
        """Read what changed since the last time, here and on other nodes. Raises as ``Database.read``."""
        now = self._clock.now()
        since = max(now - KEPT * 1000, self._read_at - OVERLAP * 1000)
        rows = await self._database.read(lambda tx: tx.fetch(QUERIES["changed_sessions"], since))
        self._read_at = now
        changed = []
        for id, epoch, ended_by, wipe, at in rows:
            change = SessionChange(epoch, ended_by, bool(wipe))
            if self.changes.get(id) != change:
                self.changes[id] = change
                changed.append(id)
            self._at[id] = at
        for id in [id for id, at in self._at.items() if at < now - KEPT * 1000]:
            del self.changes[id], self._at[id]
        if changed:
            self.on_change(changed)

    async def bar(self, tx: Tx, authors: Sequence[Principal | None]) -> list[LowtideError | None]:
        """Why each of ``authors`` may do no more with the session it was let in with; None: it may.

        As the transaction sees it: whatever a revocation has made durable is heeded, on every node, without
        waiting for a hint. ``SessionRevoked``, or ``TokenExpired`` for one of an earlier epoch or of no
        session that is known. One look-up by key for them all.
        """
        ids = {who.session for who in authors if who is not None and who.session}
        if len(ids) == 1:
            rows = await tx.fetch(QUERIES["standing_session"], *ids)
        else:
            rows = await tx.fetch(QUERIES["standing_sessions"], _encode(sorted(ids)).decode())
        standing = {id: SessionChange(epoch, ended_by, bool(wipe)) for id, epoch, ended_by, wipe in rows}
        return [
            None if who is None or not who.session else _why(who, standing.get(who.session))
            for who in authors
        ]

    async def committed(self) -> None:
        """Call after a transaction that ended or changed sessions: heeded here on return, elsewhere soon."""
        self._bus.publish(TOPIC)
        await self.load()

    async def keep(self) -> None:
        """Follow the other nodes, until cancelled. A database that is away is waited for."""
        looking = asyncio.create_task(self._look(), name="lowtide-sessions-look")
        try:
            async with self._bus.subscribe(TOPIC) as hints:
                async for _ in hints:
                    await self._try()
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY * self._ids.jitter(0.8, 1.2))
            await self._try()

    async def _try(self) -> None:
        try:
            await self.load()
        except LowtideError as error:
            _LOG.warning("could not look for ended sessions: %s", error.message)


def _why(who: Principal, now: SessionChange | None) -> LowtideError | None:
    if now is not None and now.ended_by is not None:
        return SessionRevoked(reason=now.ended_by, wipe=now.wipe)
    if now is None or who.epoch < now.epoch:
        return TokenExpired("What the token says has changed since.")
    return None
