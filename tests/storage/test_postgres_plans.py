"""PostgreSQL's plans follow the data, also in a database that grows faster than its statistics."""

from __future__ import annotations

import pytest

from lowtide.kernel.clock import SystemClock
from lowtide.storage.db import Query, Tx
from lowtide.storage.db.migrate import migrate
from lowtide.sync import COMPONENT
from lowtide.sync.store import QUERIES
from tests.conftest import MakeDatabase

ENTRIES = Query(
    "entries", "", "INSERT INTO bucket_entry SELECT $1, g, 'm', $2 || g, 0 FROM generate_series(1, 8000) g"
)
RECORDS = Query(
    "records",
    "",
    "INSERT INTO record SELECT $1, 'm', $2 || g, repeat('x', 200), '', 0, 1, 1, 1"
    " FROM generate_series(1, 8000) g",
)

LOOKED_AT = Query(
    "looked_at",
    "",
    "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint"
    " FROM pg_stat_xact_user_tables",
)


@pytest.mark.anyio
async def test_a_page_costs_its_rows_in_a_database_that_has_just_grown(make_database: MakeDatabase) -> None:
    """A statement that was used while its tables were empty reads no more than it must once they are full."""
    database = await make_database("postgres", pool_size=1)
    await migrate(database, [COMPONENT], SystemClock())

    async def page(space: str, bucket: int) -> tuple[int, int]:
        """How many rows it has, and how many PostgreSQL looked at for it."""

        async def work(tx: Tx) -> tuple[int, int]:
            before = (await tx.fetch(LOOKED_AT))[0][0]
            rows = await tx.fetch(QUERIES["page"], space, bucket, 0, 1000)
            assert all(row[4] is not None for row in rows)
            return len(rows), (await tx.fetch(LOOKED_AT))[0][0] - before

        return await database.read(work)

    async def grow(space: str, bucket: int) -> None:
        async def work(tx: Tx) -> None:
            await tx.execute(ENTRIES, bucket, "a")
            await tx.execute(RECORDS, space, "a")

        await database.write(work)

    for _ in range(10):  # from the sixth time on PostgreSQL may keep a plan for good
        assert (await page("s", 1))[0] == 0
    await grow("s", 1)
    grown = [await page("s", 1) for _ in range(3)]
    # Now there are statistics, and then a space that they do not know.
    await database.write(lambda tx: tx.script("ANALYZE"))
    await grow("t", 2)
    unknown = [await page("t", 2) for _ in range(3)]
    for read in (grown, unknown):
        assert {count for count, _ in read} == {1000}
        assert max(looked for _, looked in read) < 3_000
