"""What a search costs: each way to look has an index, and the database uses it."""

from __future__ import annotations

import msgspec
import pytest

from lowtide.audit import COMPONENT
from lowtide.audit.store import LISTS, Found, Search, search
from lowtide.kernel.clock import SystemClock
from lowtide.storage.db import Database, Query, Row, Tx
from lowtide.storage.db.migrate import migrate

pytestmark = pytest.mark.anyio

ENTRIES = 20_000
NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < $1 - 1)"
FILL = Query(
    "fill",
    *2
    * (
        "INSERT INTO audit_entry (id, at, space, action, actor, via, target, request) "
        + NUMBERS.replace("$1", str(ENTRIES))
        + """ SELECT '0000' || (10000000 + i), i, 's' || (i % 500), 'kind' || (i % 400) || '.done',
        'user:' || (i % 900), 'token', 'thing:' || (i % 1100), 'r' || i FROM n""",
    ),
)
DETAILS = Query("details", *2 * ("INSERT INTO audit_detail (entry, salt) SELECT id, '00' FROM audit_entry",))
WAYS = {
    "": ("sqlite_autoindex_audit_entry_1", "audit_entry_pkey"),
    "space": ("audit_entry_space", "audit_entry_space"),
    "action": ("audit_entry_action", "audit_entry_action"),
    "actor": ("audit_entry_actor", "audit_entry_actor"),
    "target": ("audit_entry_target", "audit_entry_target"),
    "request": ("audit_entry_request", "audit_entry_request"),
}
VALUES = {"space": "s7", "action": "kind7.done", "actor": "user:7", "target": "thing:7", "request": "r7"}


@pytest.fixture
async def full(database: Database) -> Database:
    """A log with many entries, and what the database knows of them."""
    await migrate(database, [COMPONENT], SystemClock())

    async def work(tx: Tx) -> None:
        await tx.execute(FILL)
        await tx.execute(DETAILS)
        await tx.script("ANALYZE")

    await database.write(work)
    return database


@pytest.mark.parametrize("way", WAYS)
async def test_each_way_to_look_has_an_index(full: Database, way: str) -> None:
    """The plan reads an index: it does not walk the table, nor sort all that it holds."""
    query = LISTS[way]
    explain = Query("explain", "EXPLAIN QUERY PLAN " + query.sqlite, "EXPLAIN " + query.postgres)
    chosen = {name: VALUES[name] if name == way else "" for name in ("action", "actor", "target", "request")}
    values = ("g", "0", *chosen.values(), VALUES["space"] if way == "space" else "", 101)

    async def read(tx: Tx) -> list[Row]:
        return await tx.fetch(explain, *values)

    plan = "\n".join(str(row[-1]) for row in await full.read(read))
    assert WAYS[way][full.dialect == "postgres"] in plan, plan
    for costly in ("Seq Scan", "SCAN e", "TEMP B-TREE", *(() if way else ("Sort",))):
        assert costly not in plan, plan


@pytest.mark.parametrize("way", WAYS)
async def test_pages_follow_each_other(full: Database, way: str) -> None:
    """By whatever is looked for, the pages hold every entry once, the newest first."""
    named = {way: VALUES[way]} if way else {}
    found: list[Found] = []
    cursor = ""
    while not found or cursor:
        wanted = msgspec.structs.replace(Search(limit=300, cursor=cursor), **named)
        page = await full.read(lambda tx, wanted=wanted: search(tx, wanted))  # type: ignore[misc]
        found += page.entries
        cursor = page.next
    counts = {"": 20_000, "space": 40, "action": 50, "actor": 23, "target": 19, "request": 1}
    assert len(found) == counts[way]
    assert [one.id for one in found] == sorted({one.id for one in found}, reverse=True)


async def test_a_beginning_of_actions_finds_all_of_them(full: Database) -> None:
    """Several actions come as one list in order, other filters hold, and an unknown one finds nothing."""
    page = await full.read(lambda tx: search(tx, Search(action="kind39", limit=1_000)))
    assert [one.id for one in page.entries] == sorted((one.id for one in page.entries), reverse=True)
    assert {one.action for one in page.entries} == {f"kind{n}.done" for n in (39, *range(390, 400))}
    assert len(page.entries) == 11 * 50
    found = await full.read(lambda tx: search(tx, Search(action="kind39", space="s395", limit=1_000)))
    assert ({one.action for one in found.entries}, len(found.entries)) == ({"kind395.done"}, 10)
    assert (await full.read(lambda tx: search(tx, Search(action="nothing.")))).entries == []
    many = await full.read(lambda tx: search(tx, Search(action="kind", limit=1_000)))
    assert [one.at for one in many.entries] == list(range(ENTRIES - 1, ENTRIES - 1_001, -1))
