"""Adding rows beside the process that serves a SQLite database."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import apsw
import pytest

from lowtide.kernel.clock import SystemClock
from lowtide.kernel.errors import NotUnique, SetupError
from lowtide.storage.db import Database, Query, Tx
from lowtide.storage.db.sqlite_beside import SqliteBeside

pytestmark = pytest.mark.anyio

ADD = Query("add", *2 * ("INSERT INTO line (n) VALUES (?1)",))
COUNT = Query("count", *2 * ("SELECT count(*) FROM line",))


class Aside:
    """A command beside a server: on a thread of its own, as it is a process of its own."""

    def __init__(self, path: Path):
        self.beside = SqliteBeside(path, clock=SystemClock())

    async def add(self, *numbers: int) -> None:
        async def work(tx: Tx) -> None:
            for number in numbers:
                await tx.execute(ADD, number)

        def whole() -> None:
            # It never suspends: what a loop would do is one step.
            with contextlib.suppress(StopIteration):
                self.beside.append(work).send(None)

        await asyncio.to_thread(whole)


@pytest.fixture
async def aside(sqlite_database: Database, tmp_path: Path) -> Aside:
    await sqlite_database.write(lambda tx: tx.script("CREATE TABLE line (n BIGINT NOT NULL PRIMARY KEY)"))
    return Aside(tmp_path / "data.db")


async def count(database: Database) -> int:
    rows = await database.read(lambda tx: tx.fetch(COUNT))
    return int(rows[0][0])


async def test_rows_are_added_while_a_server_writes(aside: Aside, sqlite_database: Database) -> None:
    """Both write at once: every row of either is there, and the server sees the other's at once."""

    async def serve(number: int) -> None:
        await sqlite_database.write(lambda tx: tx.execute(ADD, number))

    added = [aside.add(1000 + number) for number in range(10)]
    await asyncio.gather(*added, *(serve(number) for number in range(100)))
    assert await count(sqlite_database) == 110


async def test_a_failure_leaves_nothing(aside: Aside, sqlite_database: Database) -> None:
    """A transaction that fails has added nothing, and holds no lock."""
    await sqlite_database.write(lambda tx: tx.execute(ADD, 1))
    with pytest.raises(NotUnique):
        await aside.add(2, 1)
    assert await count(sqlite_database) == 1
    await aside.add(2)
    assert await count(sqlite_database) == 2


async def test_without_a_database_none_is_made(tmp_path: Path) -> None:
    """Where there is none, that is told, and no file appears."""
    with pytest.raises(SetupError):
        await Aside(tmp_path / "none.db").add(1)
    assert list(tmp_path.iterdir()) == []


async def test_a_stopped_server_leaves_tidy_files(
    aside: Aside, sqlite_database: Database, tmp_path: Path
) -> None:
    """With nobody else there, no log file stays behind that another account could not open."""
    await sqlite_database.close()
    await aside.add(1)
    assert not (tmp_path / "data.db-wal").exists()
    rows = await asyncio.to_thread(
        lambda: list(apsw.Connection(str(tmp_path / "data.db")).execute("SELECT n FROM line"))
    )
    assert rows == [(1,)]
