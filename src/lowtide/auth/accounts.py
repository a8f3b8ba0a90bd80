"""Accounts as the rest of Lowtide sees them: users, their sessions, and how they sign in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lowtide.audit import Audit
from lowtide.auth.hooks import Hook, Hooks
from lowtide.auth.identities import Identities
from lowtide.auth.refresh import judge
from lowtide.auth.revocations import Revocations
from lowtide.auth.session_store import PURPOSE
from lowtide.auth.sessions import Judge, Sessions
from lowtide.auth.signin import SignIn
from lowtide.auth.tokens import Tokens
from lowtide.auth.users import QUERIES, Users
from lowtide.kernel.clock import Clock
from lowtide.kernel.ids import Ids
from lowtide.storage.bus import Bus
from lowtide.storage.db import Database
from lowtide.storage.jobs import Jobs
from lowtide.storage.vault import SealedColumn, Vault

SEALED = (SealedColumn("session", "id", "secret", PURPOSE.format("{key}")),)
"""What the vault seals here."""


class Accounts:
    """Wires the parts. ``load`` before use, and let ``revocations.keep`` run."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        jobs: Jobs,
        vault: Vault,
        audit: Audit,
        clock: Clock,
        ids: Ids,
        tokens: Callable[[], Tokens],
        hooks: Mapping[str, Hook],
        *,
        judge: Judge = judge,
    ):
        """``tokens``: what signs, asked for at each use. ``hooks``: the app's, by moment."""
        self._database = database
        self._clock = clock
        self.audit = audit
        self.users = Users(clock, ids)
        self.revocations = Revocations(database, bus, clock, ids)
        self.sessions = Sessions(
            database, self.users, tokens, self.revocations, vault, audit, clock, ids, judge=judge
        )
        self.identities = Identities(database, self.users, self.sessions, audit, clock)
        self.hooks = Hooks(hooks, jobs)
        self.sign_in = SignIn(database, self.users, self.sessions, self.hooks, audit, clock, ids)

    async def load(self) -> None:
        """Read which sessions ended lately."""
        await self.revocations.load()

    async def trim(self) -> None:
        """Forget what has had its time: sessions that nobody can refresh, tickets."""
        now = self._clock.now()
        await self._database.write(lambda tx: tx.execute(QUERIES["trim_tickets"], now))
        await self.sessions.trim()
