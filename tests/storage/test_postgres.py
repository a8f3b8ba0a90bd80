"""What only PostgreSQL does: concurrent writers, lost connections, commits whose answer is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from lowtide.kernel.clock import SystemClock
from lowtide.kernel.errors import Busy, SetupError, StorageLost, StorageTimeout
from lowtide.storage.db import Query, Select, Tx, parse_queries, postgres_pool
from lowtide.storage.db.postgres import PostgresDatabase
from tests.postgres_server import PostgresServer
from tests.storage.wire import Wire

pytestmark = pytest.mark.anyio

QUERIES = parse_queries(
    """
    -- name: create
    CREATE TABLE item (id BIGINT PRIMARY KEY, size BIGINT NOT NULL)
    -- name: add
    INSERT INTO item (id, size) VALUES ($1, 0)
    -- name: grow
    UPDATE item SET size = size + 1 WHERE id = $1
    -- name: items
    SELECT id, size FROM item ORDER BY id
    -- name: everything
    SELECT * FROM item ORDER BY id
    -- name: pid
    SELECT pg_backend_pid()
    -- name: sleep
    SELECT pg_sleep($1)
    -- name: setting
    SELECT current_setting($1)
    """
)
SLOW = 10
END = "SELECT pg_terminate_backend({}, 5000)"


def connect(dsn: str, **options: Any) -> PostgresDatabase:
    return PostgresDatabase(dsn, clock=SystemClock(), **options)


@pytest.fixture
async def database(anyio_backend: object, postgres_dsn: str) -> AsyncIterator[PostgresDatabase]:
    database = connect(postgres_dsn)
    await database.start()
    await database.write(lambda tx: tx.execute(QUERIES["create"]))
    yield database
    await database.close()


async def add(database: PostgresDatabase, id: int) -> None:
    await database.write(lambda tx: tx.execute(QUERIES["add"], id))


async def items(database: PostgresDatabase) -> dict[int, int]:
    rows = await database.read(lambda tx: tx.fetch(QUERIES["items"]))
    return {row[0]: row[1] for row in rows}


class TestLostConnections:
    async def test_a_lost_connection_before_the_commit_is_retried(
        self, database: PostgresDatabase, postgres_server: PostgresServer
    ) -> None:
        """A work whose backend is killed runs again, and what it wrote is there once."""
        runs = []

        async def work(tx: Tx) -> int:
            runs.append((await tx.fetch(QUERIES["pid"]))[0][0])
            await tx.execute(QUERIES["add"], 1)
            if len(runs) == 1:
                await asyncio.to_thread(
                    postgres_server.execute, f"SELECT pg_terminate_backend({runs[0]}, 5000)"
                )
            await tx.execute(QUERIES["grow"], 1)
            return len(runs)

        assert await database.write(work) == 2
        assert len(set(runs)) == 2
        assert await items(database) == {1: 1}

    async def test_retries_end(self, database: PostgresDatabase, postgres_server: PostgresServer) -> None:
        """A work that loses its connection each time fails after a few tries and leaves nothing."""
        runs = []

        async def work(tx: Tx) -> None:
            runs.append((await tx.fetch(QUERIES["pid"]))[0][0])
            await tx.execute(QUERIES["add"], 1)
            await asyncio.to_thread(postgres_server.execute, END.format(runs[-1]))
            await tx.execute(QUERIES["grow"], 1)

        with pytest.raises(StorageLost):
            await asyncio.wait_for(database.write(work), SLOW)
        assert len(runs) == 4
        assert await items(database) == {}

    async def test_idle_connections_that_died_are_replaced(
        self, database: PostgresDatabase, postgres_server: PostgresServer, postgres_dsn: str
    ) -> None:
        """When the server drops every idle connection, the next calls do not notice."""
        await asyncio.gather(*(add(database, id) for id in range(30)))
        name = postgres_dsn.rsplit("/", 1)[1]
        kill = f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
        ended = await asyncio.to_thread(postgres_server.execute, kill)
        assert len(ended) == 10
        await add(database, 1_000)
        await asyncio.gather(*(add(database, id) for id in range(30, 60)))
        assert len(await items(database)) == 61

    @pytest.mark.parametrize("how", ["cut", "hush"])
    async def test_a_commit_without_an_answer_is_not_retried(self, postgres_dsn: str, how: str) -> None:
        """When the answer to the commit is lost, the caller learns that it is not known; it happened once."""
        async with Wire(postgres_dsn) as wire:
            database = connect(wire.dsn, statement_deadline=0.2)
            await database.start()
            await database.write(lambda tx: tx.execute(QUERIES["create"]))
            await add(database, 1)
            runs = 0

            async def work(tx: Tx) -> None:
                nonlocal runs
                runs += 1
                await tx.execute(QUERIES["grow"], 1)

            (wire.cut_after if how == "cut" else wire.hush_after)(b"COMMIT\0")
            with pytest.raises(StorageLost, match="not known"):
                await asyncio.wait_for(database.write(work), SLOW)
            assert (runs, wire.cuts) == (1, 1)
            wire.silent = False
            assert await items(database) == {1: 1}
            await database.close()

    async def test_a_begin_without_an_answer_is_retried(self, postgres_dsn: str) -> None:
        """A connection that is lost before the work began costs nothing but time."""
        async with Wire(postgres_dsn) as wire:
            database = connect(wire.dsn)
            await database.start()
            await database.write(lambda tx: tx.execute(QUERIES["create"]))
            wire.cut_after(b"BEGIN")
            await asyncio.wait_for(add(database, 1), SLOW)
            assert wire.cuts == 1
            assert await items(database) == {1: 0}
            await database.close()

    async def test_a_statement_alone_needs_no_transaction(self, postgres_dsn: str) -> None:
        """A ``Select`` is one round trip, and is run again when its connection is lost."""
        async with Wire(postgres_dsn) as wire:
            database = connect(wire.dsn)
            await database.start()
            await database.write(lambda tx: tx.execute(QUERIES["create"]))
            await add(database, 1)
            wire.cut_after(b"BEGIN")
            rows = await database.read(Select(QUERIES["items"]))
            assert ([tuple(row) for row in rows], wire.cuts) == ([(1, 0)], 0)
            await asyncio.wait_for(items(database), SLOW)
            assert wire.cuts == 1
            wire.cut_after(b"pg_backend_pid")
            assert len(await asyncio.wait_for(database.read(Select(QUERIES["pid"])), SLOW)) == 1
            assert wire.cuts == 2
            await database.close()

    async def test_a_silent_network_ends_in_an_error(
        self, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that no longer answers blocks nobody for ever, and is used again when it does."""
        monkeypatch.setattr(postgres_pool, "CONNECT_SECONDS", 0.5)
        async with Wire(postgres_dsn) as wire:
            database = connect(wire.dsn, statement_deadline=0.2)
            await database.start()
            await database.write(lambda tx: tx.execute(QUERIES["create"]))

            async def work(tx: Tx) -> None:
                wire.silent = True
                await tx.execute(QUERIES["add"], 1)

            with pytest.raises((StorageLost, StorageTimeout)):
                await asyncio.wait_for(database.write(work), SLOW)
            wire.silent = False
            await add(database, 2)
            assert await items(database) == {2: 0}
            await database.close()


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    with PostgresServer() as server:
        yield server


class TestServer:
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
    async def test_a_stopped_server_is_lost_and_a_started_one_is_found(
        self, anyio_backend: object, own_server: PostgresServer, how: signal.Signals
    ) -> None:
        """Without a server calls fail soon with ``StorageLost``; with one they work again."""
        database = connect(own_server.create_database())
        await database.start()
        await database.write(lambda tx: tx.execute(QUERIES["create"]))
        await add(database, 1)
        await asyncio.to_thread(own_server.stop, how)
        results = await asyncio.wait_for(
            asyncio.gather(*(add(database, id) for id in range(2, 20)), return_exceptions=True), SLOW
        )
        assert {type(result) for result in results} == {StorageLost}
        with pytest.raises(StorageLost):
            await items(database)
        await asyncio.to_thread(own_server.start)
        await add(database, 20)
        assert await items(database) == {1: 0, 20: 0}
        await database.close()

    async def test_a_restart_under_load_loses_nothing_acknowledged(self, own_server: PostgresServer) -> None:
        """Writers that carry on over a restart: every acknowledged write is there, each once."""
        database = connect(own_server.create_database())
        await database.start()
        await database.write(lambda tx: tx.execute(QUERIES["create"]))
        acknowledged: set[int] = set()
        stop = False

        async def writer(first: int) -> None:
            id = first
            while not stop:
                try:
                    await add(database, id)
                    acknowledged.add(id)
                except StorageLost:
                    await asyncio.sleep(0.02)
                id += 100

        writers = [asyncio.create_task(writer(number)) for number in range(8)]
        await asyncio.sleep(0.3)
        before = len(acknowledged)
        await asyncio.to_thread(own_server.stop)
        await asyncio.to_thread(own_server.start)
        await asyncio.sleep(0.3)
        stop = True
        await asyncio.wait_for(asyncio.gather(*writers), SLOW)
        assert 0 < before < len(acknowledged)
        assert acknowledged <= set(await items(database))
        await database.close()

    async def test_no_server_at_the_start_is_lost(self, anyio_backend: object) -> None:
        """Starting without a server fails with what may heal by itself."""
        with pytest.raises(StorageLost):
            await connect("postgresql://postgres@127.0.0.1:1/none").start()

    @pytest.mark.parametrize(
        "dsn",
        ["postgresql://u:s3cret@[broken/x", "nonsense://u:s3cret@h/x", "postgresql://u:s3cret@h:port/x"],
    )
    async def test_an_address_that_cannot_be_read_is_a_setup_error(
        self, anyio_backend: object, dsn: str
    ) -> None:
        """A wrong address says how one looks, and does not repeat the password."""
        with pytest.raises(SetupError) as raised:
            await connect(dsn).start()
        assert "s3cret" not in raised.value.message + raised.value.hint
        assert "postgresql://user:password@host:5432/database" in raised.value.hint

    async def test_a_database_that_is_not_there_is_a_setup_error(
        self, postgres_server: PostgresServer
    ) -> None:
        """A wrong name is not worth waiting for."""
        with pytest.raises(SetupError, match="nowhere"):
            await connect(postgres_server.dsn("nowhere")).start()

    async def test_answered_means_synced(self, postgres_server: PostgresServer, postgres_dsn: str) -> None:
        """A server set to answer before its fsync is overruled, on every connection."""
        name = postgres_dsn.rsplit("/", 1)[1]
        await asyncio.to_thread(
            postgres_server.execute, f"ALTER DATABASE {name} SET synchronous_commit = off"
        )
        database = connect(postgres_dsn)
        await database.start()

        async def work(tx: Tx) -> str:
            await tx.execute(QUERIES["sleep"], 0.05)
            return str((await tx.fetch(QUERIES["setting"], "synchronous_commit"))[0][0])

        assert set(await asyncio.gather(*(database.write(work) for _ in range(5)))) == {"on"}
        await database.close()


class TestConcurrency:
    async def test_writers_work_at_the_same_time(self, database: PostgresDatabase) -> None:
        """A slow write does not hold up one of other rows."""
        slow = asyncio.create_task(database.write(lambda tx: tx.fetch(QUERIES["sleep"], 1.0)))
        await asyncio.sleep(0.05)
        await add(database, 1)
        assert not slow.done()
        await slow

    async def test_a_deadlock_is_solved_by_a_retry(self, database: PostgresDatabase) -> None:
        """Two works that wait for each other both succeed, each once."""
        await asyncio.gather(add(database, 1), add(database, 2))
        runs = 0

        async def work(tx: Tx, first: int, second: int) -> None:
            nonlocal runs
            runs += 1
            await tx.execute(QUERIES["grow"], first)
            await tx.execute(QUERIES["sleep"], 0.05)
            await tx.execute(QUERIES["grow"], second)

        await asyncio.gather(
            database.write(lambda tx: work(tx, 1, 2)), database.write(lambda tx: work(tx, 2, 1))
        )
        assert runs >= 3
        assert await items(database) == {1: 2, 2: 2}

    async def test_waiting_for_a_connection_has_an_end(self, postgres_dsn: str) -> None:
        """When all connections stay taken, a caller gets ``Busy`` and not an endless wait."""
        database = connect(postgres_dsn, pool_size=1, wait=0.1)
        await database.start()
        slow = asyncio.create_task(database.read(lambda tx: tx.fetch(QUERIES["sleep"], 0.6)))
        await asyncio.sleep(0.02)
        with pytest.raises(Busy):
            await database.read(lambda tx: tx.fetch(QUERIES["pid"]))
        await slow
        await database.read(lambda tx: tx.fetch(QUERIES["pid"]))
        await database.close()

    async def test_no_more_connections_than_said(self, postgres_dsn: str) -> None:
        """Two hundred reads at once use ``pool_size`` connections."""
        database = connect(postgres_dsn, pool_size=3)
        await database.start()
        calls = (database.read(lambda tx: tx.fetch(QUERIES["pid"])) for _ in range(200))
        rows = await asyncio.gather(*calls)
        assert len({row[0][0] for row in rows}) <= 3
        await database.close()

    async def test_a_cancelled_caller_gives_its_connection_back(self, postgres_dsn: str) -> None:
        """Cancelled callers, running or waiting, do not use up the connections."""
        database = connect(postgres_dsn, pool_size=2)
        await database.start()
        for _ in range(5):
            calls = [
                asyncio.create_task(database.read(lambda tx: tx.fetch(QUERIES["sleep"], 0.05)))
                for _ in range(6)
            ]
            await asyncio.sleep(0.01)
            for call in calls:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(result) for result in results} == {asyncio.CancelledError}
        rows = await asyncio.wait_for(database.read(lambda tx: tx.fetch(QUERIES["pid"])), SLOW)
        assert len(rows) == 1
        await database.close()


class TestSchema:
    async def test_a_changed_table_does_not_break_prepared_statements(
        self, database: PostgresDatabase, postgres_server: PostgresServer, postgres_dsn: str
    ) -> None:
        """A migration by another node invalidates plans; the works that meet it are run again."""
        await add(database, 1)
        everything = QUERIES["everything"]
        await asyncio.gather(*(database.read(lambda tx: tx.fetch(everything)) for _ in range(20)))
        name = postgres_dsn.rsplit("/", 1)[1]
        change = "ALTER TABLE item ADD COLUMN more TEXT DEFAULT 'x'"
        await asyncio.to_thread(postgres_server.execute, change, name)
        calls = (database.read(lambda tx: tx.fetch(everything)) for _ in range(20))
        assert [tuple(rows[0]) for rows in await asyncio.gather(*calls)] == [(1, 0, "x")] * 20

    async def test_a_script_has_no_deadline_but_what_follows_has(self, postgres_dsn: str) -> None:
        """A long migration is not cut off; the statement after it, in the same transaction, may be."""
        database = connect(postgres_dsn, statement_deadline=0.2)
        await database.start()
        await database.write(lambda tx: tx.script("SELECT pg_sleep(0.4)"))

        async def work(tx: Tx) -> None:
            await tx.script("SELECT 1")
            await tx.fetch(Query("sleep", "", "SELECT pg_sleep(0.8)"))

        with pytest.raises(StorageTimeout):
            await database.write(work)
        await database.close()
