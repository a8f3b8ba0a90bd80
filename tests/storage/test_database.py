"""The contract of ``Database``: what both adapters promise."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from lowtide.kernel.errors import Busy, Malformed, NotUnique, StatementFailed, StorageLost, StorageTimeout
from lowtide.storage.db import Database, Dialect, Query, Select, Tx, parse_queries
from tests.conftest import MakeDatabase

pytestmark = pytest.mark.anyio

QUERIES = parse_queries(
    """
    -- name: create
    CREATE TABLE item (id BIGINT PRIMARY KEY, name TEXT, size DOUBLE PRECISION, body BLOB)
    -- postgres
    CREATE TABLE item (id BIGINT PRIMARY KEY, name TEXT, size DOUBLE PRECISION, body BYTEA)
    -- name: add
    INSERT INTO item (id, name) VALUES ($1, $2)
    -- name: add_all
    INSERT INTO item (id, name, size, body) VALUES ($1, $2, $3, $4)
    -- name: upsert
    INSERT INTO item (id, name) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET name = excluded.name
    RETURNING id, name
    -- name: get
    SELECT name, size, body FROM item WHERE id = $1
    -- name: ids
    SELECT id FROM item ORDER BY id
    -- name: count
    SELECT COUNT(*), MIN(id), MAX(id) FROM item
    -- name: named
    SELECT id FROM item WHERE name = $1
    -- name: among
    SELECT id FROM item WHERE name IN (SELECT value FROM json_each($1)) ORDER BY id
    -- postgres
    SELECT id FROM item WHERE name = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb))) ORDER BY id
    -- name: delete
    DELETE FROM item WHERE id = $1
    -- name: wrong
    SELECT nothing FROM nowhere
    -- name: endless
    WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT MAX(x) FROM n
    -- name: endless_write
    INSERT INTO item (id) WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n
    """
)


@pytest.fixture
async def database(dialect: Dialect, make_database: MakeDatabase) -> Database:
    """A database with the table ``item``."""
    database = await make_database(dialect, statement_deadline=0.5)
    await database.write(lambda tx: tx.execute(QUERIES["create"]))
    return database


async def add(database: Database, id: int, name: str | None = "") -> None:
    await database.write(lambda tx: tx.execute(QUERIES["add"], id, name))


async def ids(database: Database) -> list[int]:
    return [row[0] for row in await database.read(lambda tx: tx.fetch(QUERIES["ids"]))]


class TestWriting:
    async def test_a_write_returns_what_its_work_returns(self, database: Database) -> None:
        """The result of the work is the result of the write."""

        async def work(tx: Tx) -> Any:
            rows = await tx.fetch(QUERIES["upsert"], 1, "one")
            return tuple(rows[0])

        assert await database.write(work) == (1, "one")

    async def test_a_read_sees_every_write_that_returned(self, database: Database) -> None:
        """Read your writes, also when many others are writing."""

        async def client(id: int) -> None:
            await add(database, id)
            assert id in await ids(database)

        await asyncio.gather(*(client(id) for id in range(50)))

    async def test_a_work_sees_what_it_wrote(self, database: Database) -> None:
        """Within a transaction, later statements see earlier ones."""

        async def work(tx: Tx) -> int:
            await tx.execute(QUERIES["add"], 1, "x")
            return len(await tx.fetch(QUERIES["ids"]))

        assert await database.write(work) == 1

    async def test_a_work_that_raises_leaves_nothing(self, database: Database) -> None:
        """What it raised is raised to the caller, and what it wrote is gone."""

        async def work(tx: Tx) -> None:
            await tx.execute(QUERIES["add"], 1, "x")
            raise LookupError("my own")

        with pytest.raises(LookupError, match="my own"):
            await database.write(work)
        assert await ids(database) == []

    async def test_an_error_that_causes_itself_hangs_nobody(self, database: Database) -> None:
        """However odd the error that a work raises, its caller gets it and the next write works."""

        async def work(tx: Tx) -> None:
            error = LookupError("again")
            raise error from error

        with pytest.raises(LookupError, match="again"):
            await asyncio.wait_for(database.write(work), 5)
        await add(database, 1)
        assert await ids(database) == [1]

    async def test_a_failing_neighbour_hurts_nobody(self, database: Database) -> None:
        """Of many writes at once, those that fail leave nothing and the others stay, each once."""

        async def work(tx: Tx, id: int) -> int:
            await tx.execute(QUERIES["add"], id, "x")
            if id % 7 == 0:
                raise LookupError(id)
            if id % 11 == 0:
                await tx.execute(QUERIES["add"], id, "twice")
            return id

        def write(id: int) -> Any:
            return database.write(lambda tx: work(tx, id))

        results = await asyncio.gather(*(write(id) for id in range(200)), return_exceptions=True)
        for id, result in enumerate(results):
            if id % 7 == 0:
                assert isinstance(result, LookupError)
                assert result.args == (id,)
            elif id % 11 == 0:
                assert isinstance(result, NotUnique)
            else:
                assert result == id
        assert await ids(database) == [id for id in range(200) if id % 7 and id % 11]

    async def test_concurrent_changes_of_one_row_all_count(self, database: Database) -> None:
        """Increments by many writers add up: no update is lost."""
        increment = Query("increment", *["UPDATE item SET size = size + 1 WHERE id = 1"] * 2)
        await database.write(lambda tx: tx.execute(QUERIES["add_all"], 1, "", 0.0, b""))
        await asyncio.gather(*(database.write(lambda tx: tx.execute(increment)) for _ in range(100)))
        assert (await database.read(lambda tx: tx.fetch(QUERIES["get"], 1)))[0][1] == 100.0


class TestFailedStatements:
    async def test_a_taken_value_is_not_unique(self, database: Database) -> None:
        """A unique index answers ``NotUnique``."""
        await add(database, 1)
        with pytest.raises(NotUnique):
            await add(database, 1)

    async def test_a_defective_statement_is_told_by_name(self, database: Database) -> None:
        """A statement that the database cannot run is a defect; its text and values stay inside."""
        with pytest.raises(StatementFailed, match="'wrong'") as raised:
            await database.read(lambda tx: tx.fetch(QUERIES["wrong"]))
        assert "nowhere" not in raised.value.message
        assert raised.value.__cause__ is not None

    async def test_a_caught_failure_still_fails_the_transaction(self, database: Database) -> None:
        """A work that swallows a statement's error commits nothing."""

        async def work(tx: Tx) -> str:
            await tx.execute(QUERIES["add"], 2, "")
            with contextlib.suppress(NotUnique):
                await tx.execute(QUERIES["add"], 2, "")
            return "as if nothing happened"

        with pytest.raises(NotUnique):
            await database.write(work)
        assert await ids(database) == []

    async def test_reading_cannot_write(self, database: Database) -> None:
        """A statement that writes is refused in a read, and writes nothing."""
        with pytest.raises(StatementFailed):
            await database.read(lambda tx: tx.execute(QUERIES["add"], 1, ""))
        assert await ids(database) == []

    @pytest.mark.parametrize("params", [(), (1,), (1, "", 3)])
    async def test_the_number_of_parameters_is_checked(
        self, database: Database, params: tuple[Any, ...]
    ) -> None:
        """Too few or too many parameters are a defect, not a NULL."""
        with pytest.raises(StatementFailed):
            await database.write(lambda tx: tx.execute(QUERIES["add"], *params))
        assert await ids(database) == []

    async def test_a_transaction_cannot_be_used_after_its_end(self, database: Database) -> None:
        """A ``tx`` that was smuggled out of its work is dead."""
        kept: list[Tx] = []

        async def work(tx: Tx) -> None:
            kept.append(tx)

        await database.write(work)
        with pytest.raises(StatementFailed, match="after it ended"):
            await kept[0].fetch(QUERIES["ids"])

    async def test_a_script_cannot_end_its_transaction(self, database: Database) -> None:
        """A COMMIT inside a script is refused, and later works are not disturbed."""
        with pytest.raises(StatementFailed):
            await database.write(lambda tx: tx.script("INSERT INTO item (id) VALUES (1); COMMIT"))
        await add(database, 2)
        assert 2 in await ids(database)


class TestReading:
    async def test_a_read_sees_one_moment(self, database: Database) -> None:
        """All statements of a read see the same snapshot, whatever is written between them."""
        await add(database, 0)
        done = False

        async def write() -> None:
            id = 1
            while not done:
                # Two rows at once: a snapshot holds both or none.
                await database.write(
                    lambda tx, id=id: tx.execute_many(QUERIES["add"], [(id, ""), (-id, "")])  # type: ignore[misc]
                )
                id += 1

        async def look(tx: Tx) -> list[tuple[int, int, int]]:
            return [tuple((await tx.fetch(QUERIES["count"]))[0]) for _ in range(20)]

        writer = asyncio.create_task(write())
        for _ in range(20):
            seen = await database.read(look)
            assert len(set(seen)) == 1
            count, low, high = seen[0]
            assert count % 2 == 1
            assert low == -high
        done = True
        await writer

    async def test_a_statement_alone_reads_and_cannot_write(self, database: Database) -> None:
        """A ``Select`` returns its rows; one that would write is refused, and nothing is written."""
        await add(database, 1)
        assert [row[0] for row in await database.read(Select(QUERIES["ids"]))] == [1]
        with pytest.raises(StatementFailed):
            await database.read(Select(QUERIES["add"], 2, ""))
        with pytest.raises(StatementFailed):
            await database.read(Select(QUERIES["wrong"]))
        assert await ids(database) == [1]
        await add(database, 3)
        assert len(await database.read(Select(QUERIES["ids"]))) == 2

    async def test_a_failed_read_hurts_no_other(self, database: Database) -> None:
        """Of many reads at once, only the defective ones fail."""
        await add(database, 1)
        reads = [
            database.read(lambda tx, name=name: tx.fetch(QUERIES[name]))  # type: ignore[misc]
            for name in ["ids", "wrong"] * 20
        ]
        results = await asyncio.gather(*reads, return_exceptions=True)
        assert [len(rows) for rows in results[::2] if isinstance(rows, list)] == [1] * 20
        assert all(isinstance(error, StatementFailed) for error in results[1::2])


HOSTILE = [
    "",
    " ",
    "'",
    "''; DROP TABLE item; --",
    '"',
    "\\",
    "$1",
    "?1",
    "%s",
    ":name",
    "a\nb\r\nc\td",
    "\u0001\u001f\u007f\ufeff\ufffe",
    "Ünïcödé 日本語 العربية",
    "👩‍👩‍👧‍👦",
    "e\u0301 against é",
    "NULL",
    "{}",
    "[1]",
    "x" * 100_000,
]


class TestValues:
    @pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
    async def test_text_comes_back_as_it_went_in(self, database: Database, text: str) -> None:
        """Text is a value and never SQL; it is found by the same text."""
        await add(database, 1, text)
        assert [row[0] for row in await database.read(lambda tx: tx.fetch(QUERIES["get"], 1))] == [text]
        assert len(await database.read(lambda tx: tx.fetch(QUERIES["named"], text))) == 1

    @pytest.mark.parametrize("number", [-(2**63), -(2**53) - 1, -1, 0, 1, 2**53 + 1, 2**63 - 1])
    async def test_whole_numbers_have_64_bits(self, database: Database, number: int) -> None:
        """Every whole number of 64 bits comes back exactly."""
        await add(database, number)
        (found,) = await ids(database)
        assert found == number
        assert type(found) is int

    @pytest.mark.parametrize("number", [-(2**63) - 1, 2**63, 10**30])
    async def test_larger_numbers_are_refused(self, database: Database, number: int) -> None:
        """A number beyond 64 bits is malformed; nothing is rounded or cut."""
        with pytest.raises(Malformed):
            await add(database, number)
        assert await ids(database) == []

    async def test_half_a_character_is_refused(self, database: Database) -> None:
        """A lone surrogate, which JSON can carry, is not text."""
        with pytest.raises(Malformed):
            await add(database, 1, "\ud800")
        assert await ids(database) == []

    @pytest.mark.parametrize("size", [0.0, -1.5, 0.1, 1e308, 5e-324, float("inf"), float("-inf")])
    async def test_floats_come_back_exactly(self, database: Database, size: float) -> None:
        """Every float that JSON or a device can send keeps each bit."""
        await database.write(lambda tx: tx.execute(QUERIES["add_all"], 1, None, size, None))
        row = (await database.read(lambda tx: tx.fetch(QUERIES["get"], 1)))[0]
        assert row[1] == size
        assert type(row[1]) is float

    @pytest.mark.parametrize("body", [b"", b"\x00", bytes(range(256)), b"\xff" * 100_000])
    async def test_bytes_come_back_as_they_went_in(self, database: Database, body: bytes) -> None:
        """Bytes are bytes, NUL and all."""
        await database.write(lambda tx: tx.execute(QUERIES["add_all"], 1, None, None, body))
        row = (await database.read(lambda tx: tx.fetch(QUERIES["get"], 1)))[0]
        assert row[2] == body
        assert type(row[2]) is bytes

    async def test_none_is_null(self, database: Database) -> None:
        """None comes back as None in every type of column, and is not the empty string."""
        await database.write(lambda tx: tx.execute(QUERIES["add_all"], 1, None, None, None))
        row = (await database.read(lambda tx: tx.fetch(QUERIES["get"], 1)))[0]
        assert tuple(row) == (None, None, None)
        assert await database.read(lambda tx: tx.fetch(QUERIES["named"], "")) == []

    async def test_rows_are_sequences(self, database: Database) -> None:
        """A row unpacks, has a length, an index and a slice."""
        await add(database, 1, "one")
        (row,) = await database.read(lambda tx: tx.fetch(QUERIES["get"], 1))
        name, size, body = row
        assert (name, size, body) == ("one", None, None)
        assert (row[0], len(row), tuple(row[1:])) == ("one", 3, (None, None))

    async def test_a_list_goes_in_as_json(self, database: Database) -> None:
        """The documented form for 'one of these' finds hostile text too."""
        await database.write(lambda tx: tx.execute_many(QUERIES["add"], [(1, "a"), (2, "'\""), (3, "c")]))
        rows = await database.read(lambda tx: tx.fetch(QUERIES["among"], '["a", "\'\\"", "none"]'))
        assert [row[0] for row in rows] == [1, 2]


class TestManyRows:
    async def test_a_hundred_thousand_rows_go_in_at_once(
        self, dialect: Dialect, make_database: MakeDatabase
    ) -> None:
        """``execute_many`` takes 100,000 rows in one transaction, with a longer deadline."""
        database = await make_database(dialect, statement_deadline=0.2)
        await database.write(lambda tx: tx.execute(QUERIES["create"]))
        rows = [(id, f"name {id}") for id in range(100_000)]
        await database.write(lambda tx: tx.execute_many(QUERIES["add"], rows))
        (row,) = await database.read(lambda tx: tx.fetch(QUERIES["count"]))
        assert tuple(row) == (100_000, 0, 99_999)

    async def test_no_rows_are_no_work(self, database: Database) -> None:
        """``execute_many`` of nothing does nothing."""
        await database.write(lambda tx: tx.execute_many(QUERIES["add"], []))
        assert await ids(database) == []

    async def test_many_rows_go_in_together_or_not_at_all(self, database: Database) -> None:
        """A row that fails takes the others with it."""
        rows = [(1, ""), (2, ""), (1, "")]
        with pytest.raises(NotUnique):
            await database.write(lambda tx: tx.execute_many(QUERIES["add"], rows))
        assert await ids(database) == []

    async def test_rows_that_a_statement_returns_may_be_forgotten(self, database: Database) -> None:
        """``execute`` and ``execute_many`` run a RETURNING statement to its end."""

        async def work(tx: Tx) -> None:
            await tx.execute(QUERIES["upsert"], 1, "")
            await tx.execute_many(QUERIES["upsert"], [(2, ""), (3, "")])

        await database.write(work)
        assert await ids(database) == [1, 2, 3]


class TestDeadlines:
    @pytest.mark.parametrize("name", ["endless", "endless_write"])
    async def test_a_statement_has_a_deadline(self, database: Database, name: str) -> None:
        """A write that runs too long is stopped, leaves nothing, and the next one works."""

        async def work(tx: Tx) -> None:
            await tx.execute(QUERIES["add"], -1, "")
            await tx.execute(QUERIES[name])

        with pytest.raises(StorageTimeout):
            await asyncio.wait_for(database.write(work), 10)
        await add(database, 7)
        assert await ids(database) == [7]

    async def test_a_read_has_a_deadline(self, database: Database) -> None:
        """A read that runs too long is stopped, and the next one works."""
        with pytest.raises(StorageTimeout):
            await asyncio.wait_for(database.read(lambda tx: tx.fetch(QUERIES["endless"])), 10)
        assert await ids(database) == []

    async def test_neighbours_of_a_slow_statement_are_written(self, database: Database) -> None:
        """Writes beside one that is stopped succeed, and it holds them up once."""
        runs = 0

        async def work(tx: Tx) -> None:
            nonlocal runs
            runs += 1
            await tx.execute(QUERIES["endless_write"])

        slow = database.write(work)
        results = await asyncio.gather(
            *(add(database, -id) for id in range(1, 10)),
            slow,
            *(add(database, -id) for id in range(10, 20)),
            return_exceptions=True,
        )
        assert [type(error) for error in results if error is not None] == [StorageTimeout]
        assert runs == 1
        assert await ids(database) == list(range(-19, 0))


class TestWaiting:
    @pytest.mark.parametrize("kind", ["read", "write"])
    async def test_a_full_queue_says_busy(
        self, dialect: Dialect, make_database: MakeDatabase, kind: str
    ) -> None:
        """Beyond its limit the queue refuses at once; what it took is done."""
        options: dict[str, Any] = {"pool_size": 1} if dialect == "postgres" else {"readers": 1}
        database = await make_database(dialect, queue_limit=5, **options)
        call = getattr(database, kind)
        one = Query("one", "SELECT 1", "SELECT 1")
        calls = [asyncio.ensure_future(call(lambda tx: tx.fetch(one))) for _ in range(500)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [result for result in results if isinstance(result, Busy)]
        assert len(refused) > 100
        assert all(tuple(r[0]) == (1,) for r in results if not isinstance(r, BaseException))
        assert len(refused) < 500

    async def test_a_cancelled_caller_breaks_nothing(self, database: Database) -> None:
        """Callers that are cancelled at any point leave the database working and every answer right."""

        async def work(tx: Tx, id: int) -> int:
            await tx.execute(QUERIES["add"], id, "")
            return id

        tasks = [
            asyncio.create_task(database.write(lambda tx, id=id: work(tx, id)))  # type: ignore[misc]
            for id in range(100)
        ]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.sleep(0.001)
        for task in tasks[1::3]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        stored = set(await ids(database))
        for id, result in enumerate(results):
            assert result == id or isinstance(result, asyncio.CancelledError)
            if result == id:
                assert id in stored
        assert results[2::3] == list(range(2, 100, 3))
        await add(database, 1000)
        assert 1000 in await ids(database)

    async def test_a_cancelled_read_breaks_nothing(self, database: Database) -> None:
        """Reads that are cancelled while they run leave the database working."""
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(database.read(lambda tx: tx.fetch(QUERIES["endless"])), 0.05)
        assert await ids(database) == []


class TestClosing:
    async def test_close_finishes_what_is_queued(self, dialect: Dialect, make_database: MakeDatabase) -> None:
        """Writes that were accepted before the close are answered, and are there after a restart."""
        database = await make_database(dialect)
        await database.write(lambda tx: tx.execute(QUERIES["create"]))
        writes = [asyncio.create_task(add(database, id)) for id in range(100)]
        await asyncio.sleep(0)
        await database.close()
        results = await asyncio.gather(*writes, return_exceptions=True)
        again = await make_database(dialect)
        assert await ids(again) == [id for id, result in enumerate(results) if result is None]
        assert all(result is None or isinstance(result, StorageLost) for result in results)
        assert results[0] is None

    async def test_a_closed_database_says_so(self, dialect: Dialect, make_database: MakeDatabase) -> None:
        """After the close every call is refused, and a second close is harmless."""
        database = await make_database(dialect)
        await database.close()
        await database.close()
        with pytest.raises(StorageLost, match="closed"):
            await database.read(lambda tx: tx.fetch(QUERIES["ids"]))
        with pytest.raises(StorageLost, match="closed"):
            await database.write(lambda tx: tx.fetch(QUERIES["ids"]))
