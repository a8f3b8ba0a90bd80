"""A migrated database, an audit log on it, and hands to tamper with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lowtide.audit import COMPONENT, Audit, Chain, Entry
from lowtide.audit.keys import AuditKeys
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.ids import SeededIds
from lowtide.storage.db import Database, Query
from lowtide.storage.db.migrate import migrate
from lowtide.storage.vault import COMPONENT as STORAGE
from lowtide.storage.vault import Vault

TABLES = {
    "audit_entry_is_new": "audit_entry",
    "audit_entry_keeps": "audit_entry",
    "audit_entry_stays": "audit_entry",
    "audit_entry_whole": "audit_entry",
    "audit_detail_keeps": "audit_detail",
    "audit_detail_stays": "audit_detail",
    "audit_detail_whole": "audit_detail",
    "audit_segment_follows": "audit_segment",
    "audit_segment_keeps": "audit_segment",
    "audit_segment_stays": "audit_segment",
    "audit_segment_whole": "audit_segment",
}

Sql = Callable[..., Awaitable[list[Any]]]


@pytest.fixture
async def audit(database: Database, clock: ManualClock, ids: SeededIds) -> Audit:
    """An empty log."""
    await migrate(database, [COMPONENT], clock)
    return Audit(clock, ids, pepper=b"pepper")


@pytest.fixture
def chain(audit: Audit, database: Database, ids: SeededIds) -> Chain:
    """What chains its entries."""
    return Chain(audit, database, ids)


@pytest.fixture
def sql(database: Database) -> Sql:
    """Run one statement, as the database's owner could."""

    async def run(text: str) -> list[Any]:
        query = Query("by_hand", text, text)
        return [tuple(row) for row in await database.write(lambda tx: tx.fetch(query))]

    return run


@pytest.fixture
def filled(audit: Audit, chain: Chain, database: Database, clock: ManualClock) -> Callable[[int], Any]:
    """Write and chain so many entries, those with an even number with personal data."""

    async def fill(count: int) -> None:
        for number in range(1, count + 1):
            entry = Entry(
                action="thing.change",
                actor=f"user:{number}",
                target=f"thing:{number}",
                after={"number": number},
                personal={} if number % 2 else {"ip": "192.0.2.1"},
            )
            await database.write(lambda tx, entry=entry: audit.write(tx, entry))  # type: ignore[misc]
            clock.advance(0.01)
        await chain.sequence()

    return fill


@pytest.fixture
def disarm(database: Database, sql: Sql) -> Callable[[], Awaitable[list[str]]]:
    """Take the tripwires away, and give back the statements that put them there again."""

    async def drop() -> list[str]:
        made = []
        if database.dialect == "sqlite":
            rows = await sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        else:
            rows = await sql(
                "SELECT tgname::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"
            )
        for name, text in rows:
            if name in TABLES:
                made.append(text)
                await sql(
                    f"DROP TRIGGER {name}" + (f" ON {TABLES[name]}" if database.dialect == "postgres" else "")
                )
        return made

    return drop


@pytest.fixture
async def vault(chain: Chain, database: Database, clock: ManualClock, ids: SeededIds) -> Vault:
    """What seals the log's keys."""
    await migrate(database, [STORAGE], clock)
    vault = Vault(database, clock, ids, bytes(range(32)))
    await vault.load()
    return vault


@pytest.fixture
async def keys(vault: Vault, database: Database, clock: ManualClock, ids: SeededIds) -> AuditKeys:
    """The keys of the log."""
    keys = AuditKeys(database, vault, clock, ids, "lowtide/notes")
    await keys.load()
    return keys
