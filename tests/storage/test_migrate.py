"""Migrations: forward only, once each, by one node at a time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from lowtide.kernel.clock import ManualClock, SystemClock
from lowtide.kernel.errors import DeclarationError, MigrationChanged, NewerDatabase, StatementFailed
from lowtide.storage.db import Database, Query
from lowtide.storage.db.migrate import Component, MigrationState, load, migrate, status
from lowtide.storage.db.postgres import PostgresDatabase

pytestmark = pytest.mark.anyio

CREATE = "CREATE TABLE a (id BIGINT PRIMARY KEY);\nCREATE INDEX a_id ON a (id);\n"
FILL = "INSERT INTO a (id) VALUES (1), (2);"
COUNT = Query("count", *["SELECT COUNT(*) FROM a"] * 2)

Write = Callable[..., Component]
_numbers = itertools.count()


@pytest.fixture
def component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """``component("a", **{"0001_x": sql})`` writes a package with these files, over the former ones."""
    monkeypatch.syspath_prepend(tmp_path)
    run = next(_numbers)

    def write(name: str, **files: str) -> Component:
        # A package of its own for each test: Python remembers those that it has seen.
        package = f"component_{run}_{name}"
        folder = tmp_path / package / "migrations"
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / package / "__init__.py").touch()
        for old in folder.iterdir():
            old.unlink()
        for file, sql in files.items():
            (folder / f"{file}.sql").write_text(sql, "utf-8")
        return Component(name, package)

    return write


async def count(database: Database) -> int:
    return int((await database.read(lambda tx: tx.fetch(COUNT)))[0][0])


class TestMigrate:
    async def test_what_is_missing_is_applied_in_order(
        self, database: Database, component: Write, clock: ManualClock
    ) -> None:
        """Each file runs once, in the order of its number, and is told with its time."""
        a = component("a", **{"0002_fill": FILL, "0001_create": CREATE})
        b = component("b", **{"0001_more": "INSERT INTO a (id) VALUES (3)"})
        done = await migrate(database, [a, b], clock)
        assert done == [
            MigrationState("a", 1, "create", clock.now()),
            MigrationState("a", 2, "fill", clock.now()),
            MigrationState("b", 1, "more", clock.now()),
        ]
        assert await count(database) == 3

    async def test_a_second_run_does_nothing(
        self, database: Database, component: Write, clock: ManualClock
    ) -> None:
        """Running again applies nothing; a new file is applied alone."""
        await migrate(database, [component("a", **{"0001_create": CREATE, "0002_fill": FILL})], clock)
        a = component(
            "a", **{"0001_create": CREATE, "0002_fill": FILL, "0003_more": "INSERT INTO a VALUES (9)"}
        )
        clock.advance(60)
        assert [state.number for state in await migrate(database, [a], clock)] == [3]
        assert await migrate(database, [a], clock) == []
        assert await count(database) == 3

    async def test_a_migration_that_fails_leaves_nothing(
        self, database: Database, component: Write, clock: ManualClock
    ) -> None:
        """The failing file leaves neither tables nor a row; those before it stay; a corrected one applies."""
        broken = "INSERT INTO a (id) VALUES (1); CREATE TABLE b (id BIGINT); SELECT nothing FROM nowhere;"
        a = component("a", **{"0001_create": CREATE, "0002_fill": broken})
        with pytest.raises(StatementFailed):
            await migrate(database, [a], clock)
        assert await count(database) == 0
        assert [state.applied_at for state in await status(database, [a])] == [clock.now(), None]
        a = component("a", **{"0001_create": CREATE, "0002_fill": FILL + "CREATE TABLE b (id BIGINT);"})
        assert [state.number for state in await migrate(database, [a], clock)] == [2]

    async def test_the_dialect_chooses_the_file(
        self, database: Database, component: Write, clock: ManualClock
    ) -> None:
        """``.postgres.sql`` replaces its file on PostgreSQL and is not read on SQLite."""
        a = component(
            "a",
            **{
                "0001_create": CREATE,
                "0002_fill": "INSERT INTO a (id) VALUES (1)",
                "0002_fill.postgres": "INSERT INTO a (id) SELECT x FROM generate_series(1, 5) AS s (x)",
            },
        )
        await migrate(database, [a], clock)
        assert await migrate(database, [a], clock) == []
        assert await count(database) == (1 if database.dialect == "sqlite" else 5)

    async def test_two_at_once_apply_each_file_once(
        self, database: Database, component: Write, postgres_dsn: str
    ) -> None:
        """Nodes that start together share the work: nothing is applied twice, and all succeed."""
        files = {"0001_create": CREATE}
        files |= {f"{n:04}_add": f"INSERT INTO a (id) VALUES ({n})" for n in range(2, 12)}
        a = component("a", **files)
        nodes = [database] * 3
        if database.dialect == "postgres":
            nodes = [PostgresDatabase(postgres_dsn, clock=SystemClock()) for _ in range(3)]
            for node in nodes:
                await node.start()
        done = await asyncio.gather(*(migrate(node, [a], SystemClock()) for node in nodes))
        assert sorted(state.number for states in done for state in states) == list(range(1, 12))
        assert await count(database) == 10
        for node in nodes:
            if node is not database:
                await node.close()


class TestRefusals:
    async def test_a_newer_database_is_refused(
        self, database: Database, component: Write, clock: ManualClock
    ) -> None:
        """A migration that this version does not know stops the start and applies nothing."""
        more = "INSERT INTO a (id) VALUES (7)"
        await migrate(database, [component("a", **{"0001_create": CREATE, "0002_fill": FILL})], clock)
        older = component("a", **{"0001_create": CREATE})
        b = component("b", **{"0001_more": more})
        with pytest.raises(NewerDatabase, match="migration 2 of 'a'") as raised:
            await migrate(database, [b, older], clock)
        assert "newer Lowtide" in raised.value.hint
        with pytest.raises(NewerDatabase):
            await status(database, [older])
        assert await count(database) == 2

    async def test_other_components_are_nobodys_business(
        self, database: Database, component: Write, clock: ManualClock
    ) -> None:
        """Rows of components that are not asked for do not matter: two databases may share a server."""
        await migrate(database, [component("a", **{"0001_create": CREATE})], clock)
        b = component("b", **{"0001_create": "CREATE TABLE b (id BIGINT)"})
        assert len(await migrate(database, [b], clock)) == 1

    @pytest.mark.parametrize("change", ["INSERT INTO a VALUES (8)", FILL + " ", FILL.lower()])
    async def test_an_edited_migration_is_refused(
        self, database: Database, component: Write, clock: ManualClock, change: str
    ) -> None:
        """A file that was changed after it ran stops the start, and nothing new is applied."""
        await migrate(database, [component("a", **{"0001_create": CREATE, "0002_fill": FILL})], clock)
        edited = component("a", **{"0001_create": CREATE, "0002_fill": change, "0003_more": FILL})
        with pytest.raises(MigrationChanged, match=r"Migration 2 \(fill\) of 'a'"):
            await migrate(database, [edited], clock)
        assert await count(database) == 2

    async def test_line_ends_are_no_change(
        self, database: Database, component: Write, clock: ManualClock
    ) -> None:
        """A checkout with other line ends is the same file."""
        await migrate(database, [component("a", **{"0001_create": CREATE})], clock)
        a = component("a", **{"0001_create": CREATE.replace("\n", "\r\n")})
        assert await migrate(database, [a], clock) == []

    @pytest.mark.parametrize(
        ("files", "complaint"),
        [
            ({"0002_x": ""}, "without gaps"),
            ({"0001_x": "", "0003_y": ""}, "without gaps"),
            ({"0000_x": ""}, "without gaps"),
            ({"0001_x": "", "0001_y": ""}, "two migrations"),
            ({"1_x": ""}, "is not called"),
            ({"0001-x": ""}, "is not called"),
            ({"0001_X": ""}, "is not called"),
            ({"0001_x.mysql": ""}, "is not called"),
            ({"0001_x": "", "0001_y.postgres": ""}, "replaces no file"),
            ({"0001_x": "", "0002_y.postgres": ""}, "replaces no file"),
        ],
    )
    def test_files_out_of_place_are_refused(
        self, component: Write, files: dict[str, str], complaint: str
    ) -> None:
        """A misnamed, missing or doubled file is a mistake of the developer, on both dialects."""
        a = component("a", **files)
        for dialect in ("sqlite", "postgres"):
            with pytest.raises(DeclarationError, match=complaint):
                load([a], "sqlite" if dialect == "sqlite" else "postgres")

    def test_a_component_without_migrations_is_fine(self, component: Write) -> None:
        """No files, no folder: nothing to do."""
        assert load([component("a"), Component("sys", "lowtide.kernel")], "sqlite") == []


class TestStatus:
    async def test_status_writes_nothing(
        self, database: Database, component: Write, clock: ManualClock
    ) -> None:
        """On an empty database all is to do, and asking leaves it empty."""
        a = component("a", **{"0001_create": CREATE, "0002_fill": FILL})
        expected = [MigrationState("a", 1, "create", None), MigrationState("a", 2, "fill", None)]
        assert await status(database, [a]) == expected
        tables = Query(
            "tables",
            "SELECT name FROM sqlite_schema",
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
        )
        assert await database.read(lambda tx: tx.fetch(tables)) == []

    async def test_status_tells_when(self, database: Database, component: Write, clock: ManualClock) -> None:
        """What was applied has the time of its own run."""
        await migrate(database, [component("a", **{"0001_create": CREATE})], clock)
        first = clock.now()
        clock.advance(5)
        a = component("a", **{"0001_create": CREATE, "0002_fill": FILL})
        assert [state.applied_at for state in await status(database, [a])] == [first, None]
        await migrate(database, [a], clock)
        assert [state.applied_at for state in await status(database, [a])] == [first, clock.now()]
