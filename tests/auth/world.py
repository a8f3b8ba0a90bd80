"""Accounts on a real database, with keys in memory and an app's hooks at will."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from lowtide.audit import Audit
from lowtide.auth import Accounts, Tokens
from lowtide.auth.hooks import Hook
from lowtide.auth.model import Ask, DeviceFacts, Evidence, Proof, Signed
from lowtide.auth.refresh import judge
from lowtide.auth.sessions import Judge
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.ids import SeededIds
from lowtide.kernel.schema import Principal
from lowtide.storage.bus import MemoryBus
from lowtide.storage.db import Database, Query
from lowtide.storage.db.migrate import migrate
from lowtide.storage.jobs import Jobs
from lowtide.storage.vault import Vault
from lowtide.tables import COMPONENTS
from tests.auth.ring import Ring


class World:
    """One backend's accounts."""

    def __init__(
        self,
        database: Database,
        clock: ManualClock,
        ids: SeededIds,
        *,
        hooks: Mapping[str, Hook] | None = None,
        judge: Judge = judge,
    ):
        self.database = database
        self.clock = clock
        self.ids = ids
        self.bus = MemoryBus()
        self.jobs = Jobs(database, self.bus, clock, ids)
        self.vault = Vault(database, clock, ids, b"k" * 32)
        self.accounts = Accounts(
            database,
            self.bus,
            self.jobs,
            self.vault,
            Audit(clock, ids),
            clock,
            ids,
            lambda: self.tokens,
            hooks or {},
            judge=judge,
        )
        self.tokens = Tokens(
            Ring(), clock, audience="app", issuer="lowtide", changes=self.accounts.revocations.changes
        )
        self.sign_in = self.accounts.sign_in
        self.sessions = self.accounts.sessions
        self.users = self.accounts.users

    async def start(self) -> None:
        """Make the tables and read the keys."""
        await migrate(self.database, COMPONENTS, self.clock)
        await self.bus.start()
        await self.vault.load()
        await self.accounts.load()

    async def enter(self, found: Proof | Evidence, **ask: Any) -> Signed:
        """Sign in, with no second factor in the way."""
        evidence = found if isinstance(found, Evidence) else Evidence(found)
        signed = await self.sign_in.complete(evidence.proof, ask_for(**ask), spend=evidence.spend)
        assert isinstance(signed, Signed)
        return signed

    def who(self, signed: Signed) -> Principal:
        """Whom an access token stands for."""
        return self.tokens.verify(signed.access_token)

    async def spent(self, evidence: Evidence) -> Proof:
        """What was proved, used up without a sign-in."""
        await self.database.write(evidence.spend)
        return evidence.proof

    async def write(self, work: Callable[..., Any]) -> Any:
        """Run ``work`` in a transaction."""
        return await self.database.write(work)

    async def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """What a statement finds; ``?`` stands for each parameter."""
        parts = sql.split("?")
        numbered = "".join(f"{part}${i}" for i, part in enumerate(parts[:-1], 1)) + parts[-1]
        query = Query("rows", numbered.replace("$", "?"), numbered)
        found = await self.database.read(lambda tx: tx.fetch(query, *params))
        return [tuple(row) for row in found]

    async def actions(self) -> list[str]:
        """What the audit log says was done, in order."""
        return [action for (action,) in await self.rows("SELECT action FROM audit_entry ORDER BY id")]


@asynccontextmanager
async def opened(
    database: Database, clock: ManualClock, ids: SeededIds, **options: Any
) -> AsyncIterator[World]:
    """A world at work."""
    world = World(database, clock, ids, **options)
    await world.start()
    try:
        yield world
    finally:
        await world.bus.close()


def ask_for(**options: Any) -> Ask:
    """Who asks, from one phone."""
    device = DeviceFacts(
        name=options.pop("name", "Ann's phone"),
        platform="android",
        app_version="1.2.0",
        installation=options.pop("installation", ""),
    )
    return Ask(device=device, ip="192.0.2.7", request_id="r1", user_agent="app/1.2", **options)


def google(subject: str, email: str | None = None, verified: bool = True, **more: Any) -> Proof:
    """What Google proves."""
    return Proof(
        provider="google", subject=subject, email=email, email_verified=verified, amr=("fed",), **more
    )


def password(email: str, **more: Any) -> Proof:
    """What a password proves: that it is known. Nobody has looked at the address."""
    return Proof(provider="password", subject=email, email=email, amr=("pwd",), **more)


def code(email: str) -> Proof:
    """What a code that was mailed proves: the address."""
    return Proof(provider="email", subject=email, email=email, email_verified=True, amr=("otp",))
