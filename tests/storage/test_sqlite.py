"""What only SQLite does: group commit, one process, a full disk, a failing disk, backups."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import apsw
import pytest

from lowtide.kernel.clock import ManualClock, SystemClock
from lowtide.kernel.errors import AlreadyRunning, Busy, SetupError, StatementFailed, StorageFull, StorageLost
from lowtide.storage.db import Tx, parse_queries, sqlite
from lowtide.storage.db import sqlite_thread as thread_module
from lowtide.storage.db import sqlite_writer as writer_module
from lowtide.storage.db.sqlite import SqliteDatabase
from lowtide.storage.db.sqlite_files import RESERVE_BYTES
from lowtide.storage.db.sqlite_tx import cannot_open, check_writable
from tests.conftest import MakeDatabase
from tests.storage.disks import can_mount, small_disk

pytestmark = pytest.mark.anyio

WRITER_PROCESS = Path(__file__).with_name("writer_process.py")
QUERIES = parse_queries(
    """
    -- name: create
    CREATE TABLE item (id BIGINT PRIMARY KEY, body BLOB)
    -- name: add
    INSERT INTO item (id, body) VALUES ($1, $2)
    -- name: delete
    DELETE FROM item WHERE id = $1
    -- name: ids
    SELECT id FROM item ORDER BY id
    -- name: sum
    SELECT COUNT(*), TOTAL(id) FROM item
    """
)


@pytest.fixture
async def database(make_database: MakeDatabase) -> SqliteDatabase:
    database = cast(SqliteDatabase, await make_database("sqlite"))
    await database.write(lambda tx: tx.execute(QUERIES["create"]))
    return database


async def add(database: SqliteDatabase, id: int, body: bytes = b"") -> int:
    await database.write(lambda tx: tx.execute(QUERIES["add"], id, body))
    return id


async def ids(database: SqliteDatabase) -> list[int]:
    return [row[0] for row in await database.read(lambda tx: tx.fetch(QUERIES["ids"]))]


class TestGroupCommit:
    async def test_concurrent_writes_share_commits(self, database: SqliteDatabase) -> None:
        """Two hundred writes at once cost a few commits, not two hundred."""
        before = database.commits
        await asyncio.gather(*(add(database, id) for id in range(200)))
        assert 1 <= database.commits - before <= 10
        assert len(await ids(database)) == 200

    async def test_failures_do_not_split_the_group(self, database: SqliteDatabase) -> None:
        """Writes that fail cost their neighbours a second try, not a commit each."""
        await add(database, 0)
        before = database.commits
        wanted = [number if number % 5 else 0 for number in range(500)]
        results = await asyncio.gather(*(add(database, id) for id in wanted), return_exceptions=True)
        assert [result for result in results if not isinstance(result, Exception)] == [
            id for id in wanted if id
        ]
        assert database.commits - before <= 20

    async def test_nothing_is_answered_before_the_commit(self, database: SqliteDatabase) -> None:
        """When a write returns, another connection sees it."""
        other = apsw.Connection(str(database.path), flags=apsw.SQLITE_OPEN_READONLY)

        async def write(id: int) -> bool:
            await add(database, id)
            return bool(other.execute("SELECT 1 FROM item WHERE id = ?", (id,)).fetchall())

        assert all(await asyncio.gather(*(write(id) for id in range(300))))
        other.close()

    async def test_a_failed_commit_is_nobodys_success(self, database: SqliteDatabase) -> None:
        """A constraint that is checked at the commit fails its own write and no other."""
        await database.write(
            lambda tx: tx.script(
                "CREATE TABLE child (item BIGINT REFERENCES item (id) DEFERRABLE INITIALLY DEFERRED)"
            )
        )

        async def orphan(tx: Tx) -> None:
            await tx.execute(parse_queries("-- name: x\nINSERT INTO child (item) VALUES (-1)")["x"])

        results = await asyncio.gather(
            add(database, 1), database.write(orphan), add(database, 2), return_exceptions=True
        )
        assert results[0] == 1
        assert isinstance(results[1], StatementFailed)
        assert results[2] == 2
        assert await ids(database) == [1, 2]

    @pytest.mark.parametrize("seconds", [0, 0.01])
    async def test_only_the_transaction_may_be_awaited(
        self, database: SqliteDatabase, seconds: float
    ) -> None:
        """A work that awaits anything else is told so and leaves nothing."""

        async def work(tx: Tx) -> None:
            await tx.execute(QUERIES["add"], 1, b"")
            await asyncio.sleep(seconds)

        with pytest.raises(StatementFailed, match="awaited something other"):
            await database.write(work)
        with pytest.raises(StatementFailed, match="awaited something other"):
            await database.read(lambda tx: asyncio.sleep(seconds))
        assert await ids(database) == []

    async def test_an_idle_hour_is_no_slow_statement(
        self, make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The deadline is a statement's own: time between transactions does not count."""
        # Look at the clock at every step of SQLite's machine.
        monkeypatch.setattr(thread_module, "STEPS", 1)
        clock = ManualClock()
        database = cast(SqliteDatabase, await make_database("sqlite", clock=clock))
        await database.write(lambda tx: tx.execute(QUERIES["create"]))
        for id in range(3):
            clock.advance(3600)
            await add(database, id)
            clock.advance(3600)
            assert await ids(database) == list(range(id + 1))


class TestOneProcess:
    async def test_a_second_process_is_refused(self, database: SqliteDatabase) -> None:
        """Another process learns who holds the database, and changes nothing."""
        ran = await asyncio.to_thread(_second_process, database.path)
        assert ran.returncode == 3
        assert f"already_running: Process {os.getpid()} has {database.path} open." in ran.stdout
        assert await ids(database) == []

    async def test_a_second_database_of_this_process_is_refused(self, database: SqliteDatabase) -> None:
        """The same holds within one process."""
        with pytest.raises(AlreadyRunning, match=str(os.getpid())):
            await SqliteDatabase(database.path, clock=SystemClock()).start()
        await add(database, 1)

    async def test_a_killed_process_leaves_no_lock(self, tmp_path: Path) -> None:
        """After kill -9 the next process starts at once."""
        path = tmp_path / "data.db"
        with subprocess.Popen(
            [sys.executable, WRITER_PROCESS, path, "full", "1"], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
            second = SqliteDatabase(path, clock=SystemClock())
            with pytest.raises(AlreadyRunning, match=f"Process {process.pid} "):
                await second.start()
            process.kill()
        await second.start()
        await second.close()

    async def test_another_program_that_writes_makes_it_busy(
        self, make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While another program holds the write lock, writes are refused and reads work; then all is well."""
        monkeypatch.setattr(thread_module, "BUSY_MILLISECONDS", 500)
        database = cast(SqliteDatabase, await make_database("sqlite"))
        await database.write(lambda tx: tx.execute(QUERIES["create"]))
        other = apsw.Connection(str(database.path))
        other.execute("BEGIN IMMEDIATE")
        calls = asyncio.gather(*(add(database, id) for id in range(50)), return_exceptions=True)
        # One wait for the lock, or two: not one each.
        results = await asyncio.wait_for(calls, 10)
        assert {type(result) for result in results} == {Busy}
        assert await ids(database) == []
        other.execute("ROLLBACK")
        other.close()
        await add(database, 1)
        assert await ids(database) == [1]


def _second_process(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(WRITER_PROCESS), str(path), "full", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


class TestFiles:
    async def test_only_the_owner_reads_the_files(self, database: SqliteDatabase) -> None:
        """The database, its log, its lock and its reserve are closed to other users."""
        await add(database, 1)
        files = sorted(database.path.parent.iterdir())
        assert len(files) >= 4
        assert {file.stat().st_mode & 0o077 for file in files} == {0}

    async def test_close_empties_the_log(self, database: SqliteDatabase) -> None:
        """After a close, the one file is the whole database."""
        await asyncio.gather(*(add(database, id, b"x" * 1000) for id in range(100)))
        await database.close()
        names = {file.name for file in database.path.parent.iterdir()}
        assert names == {"data.db", "data.db.lock", "data.db.reserve"}
        with contextlib.closing(apsw.Connection(str(database.path))) as other:
            assert other.execute("SELECT COUNT(*) FROM item").fetchall() == [(100,)]

    async def test_folders_are_made(self, tmp_path: Path) -> None:
        """A database in a folder that is not there yet starts."""
        database = SqliteDatabase(tmp_path / "a" / "b" / "data.db", clock=SystemClock())
        await database.start()
        await database.close()
        assert (tmp_path / "a" / "b" / "data.db").stat().st_size > 0

    async def test_a_file_that_is_no_database_is_not_touched(self, tmp_path: Path) -> None:
        """Starting on somebody else's file fails, leaves it as it was, and leaves no lock."""
        path = tmp_path / "data.db"
        path.write_bytes(b"my diary, not a database\n" * 100)
        for _ in range(2):
            with pytest.raises(StorageLost):
                await SqliteDatabase(path, clock=SystemClock()).start()
        assert path.read_bytes() == b"my diary, not a database\n" * 100

    async def test_the_log_is_reused(self, database: SqliteDatabase) -> None:
        """Writing 40 MiB in small commits, with readers at work, leaves a log of a few."""
        reading = True

        async def read() -> None:
            while reading:
                await database.read(lambda tx: tx.fetch(QUERIES["sum"]))

        readers = [asyncio.create_task(read()) for _ in range(3)]
        largest = 0
        for id in range(640):
            await add(database, id, b"x" * 65536)
            largest = max(largest, _log_size(database))
        reading = False
        await asyncio.gather(*readers)
        assert largest < 24 * 1024 * 1024

    async def test_a_reader_that_held_the_log_up_is_outlived(
        self, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A foreign reader lets the log grow but stops no write; after it the log grows no more."""
        monkeypatch.setattr(writer_module, "CHECKPOINT_PAGES", 50)
        monkeypatch.setattr(writer_module, "TRUNCATE_PAGES", 100)
        monkeypatch.setattr(writer_module, "TRUNCATE_MILLISECONDS", 5)
        database._writer._truncate_at = 100
        await add(database, 0)
        other = apsw.Connection(str(database.path), flags=apsw.SQLITE_OPEN_READONLY)
        other.execute("BEGIN; SELECT * FROM item").fetchall()
        for id in range(1, 300):
            await add(database, id, b"x" * 4096)
        held = _log_size(database)
        assert held > 299 * 4096
        assert other.execute("SELECT COUNT(*) FROM item").fetchall() == [(1,)]
        other.close()
        for id in range(300, 900):
            await add(database, id, b"x" * 4096)
        assert _log_size(database) < held + 100 * 4096
        assert await ids(database) == list(range(900))


def _log_size(database: SqliteDatabase) -> int:
    return database.path.with_name("data.db-wal").stat().st_size


Change = Callable[[SqliteDatabase], object]


class Disk:
    """A database on a disk that is full after some megabytes, until ``make_room``."""

    def __init__(self, path: Path, fill: Change, make_room: Change):
        self.path, self.fill, self.make_room = path, fill, make_room


@pytest.fixture(params=["pages", "disk"] if can_mount("tmpfs") else ["pages"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A full disk, where one can be mounted; and SQLite's own limit, which answers the same."""

    def limit(pages: int) -> Change:
        return lambda database: database._writer._connection.pragma("max_page_count", pages)

    if request.param == "pages":
        yield Disk(tmp_path / "data.db", limit(1_000), limit(100_000))
        return
    with small_disk(24) as folder:
        filler = folder / "somebody else's"
        filler.write_bytes(b"x" * 12 * 1024 * 1024)
        yield Disk(folder / "data.db", lambda database: None, lambda database: filler.unlink())


class TestFullDisk:
    async def test_a_full_disk_refuses_what_grows_and_lets_deletions_pass(self, disk: Disk) -> None:
        """On a full disk reads and deletions work, insertions leave nothing, and it ends by itself."""
        database = SqliteDatabase(disk.path, clock=SystemClock())
        await database.start()
        try:
            await database.write(lambda tx: tx.execute(QUERIES["create"]))
            disk.fill(database)
            written = await self._until_full(database)
            assert len(written) > 50
            for again in range(20):
                with pytest.raises(StorageFull):
                    await add(database, 10_000 + again, b"x" * 32768)
            assert await ids(database) == written
            for id in written[:20]:
                await database.write(lambda tx, id=id: tx.execute(QUERIES["delete"], id))  # type: ignore[misc]
            assert await ids(database) == written[20:]
            # What was deleted makes room for about as much.
            assert await add(database, 20_000, b"x" * 32768) == 20_000
            disk.make_room(database)
            for id in range(30_000, 30_030):
                await add(database, id, b"x" * 32768)
            assert disk.path.with_name("data.db.reserve").stat().st_size == RESERVE_BYTES
            assert await ids(database) == [*written[20:], 20_000, *range(30_000, 30_030)]
        finally:
            await database.close()
        with contextlib.closing(apsw.Connection(str(disk.path))) as other:
            assert other.pragma("integrity_check") == "ok"

    async def _until_full(self, database: SqliteDatabase) -> list[int]:
        written = []
        for id in range(2_000):
            try:
                written.append(await add(database, id, b"x" * 32768))
            except StorageFull:
                return written
        raise AssertionError("the disk did not fill up")

    async def test_a_group_on_a_full_disk_is_judged_one_by_one(self, disk: Disk) -> None:
        """Deletions pass although they came together with insertions that do not fit."""
        database = SqliteDatabase(disk.path, clock=SystemClock())
        await database.start()
        try:
            await database.write(lambda tx: tx.execute(QUERIES["create"]))
            disk.fill(database)
            written = await self._until_full(database)

            def delete(id: int) -> Any:
                return database.write(lambda tx: tx.execute(QUERIES["delete"], id))

            big = b"x" * 8 * 1024 * 1024
            results = await asyncio.gather(
                *(call for id in written[:5] for call in (add(database, -id - 1, big), delete(id))),
                return_exceptions=True,
            )
            assert [type(result) for result in results[::2]] == [StorageFull] * 5
            assert results[1::2] == [None] * 5
            assert await ids(database) == written[5:]
        finally:
            await database.close()


@pytest.fixture
def fault(database: SqliteDatabase) -> Iterator[Callable[[str, int], None]]:
    """``fault("COMMIT", code)``: from now on that statement of the writer fails as SQLite would."""
    connection = database._writer._connection

    def inject(statement: str, code: int) -> None:
        def trace(cursor: apsw.Cursor, sql: str, bindings: object) -> bool:
            if sql.startswith(statement):
                raise apsw.exception_for(code)
            return True

        connection.exec_trace = trace

    yield inject
    with contextlib.suppress(apsw.ConnectionClosedError):
        connection.exec_trace = None


class TestFailingDisk:
    async def test_a_failed_fsync_ends_writing(
        self, database: SqliteDatabase, fault: Callable[[str, int], None]
    ) -> None:
        """After a failed fsync nothing more is acknowledged, although the next fsync would succeed."""
        await add(database, 1)
        fault("COMMIT", apsw.SQLITE_IOERR_FSYNC)
        results = await asyncio.gather(*(add(database, id) for id in (2, 3)), return_exceptions=True)
        assert {type(result) for result in results} == {StorageLost}
        database._writer._connection.exec_trace = None
        with pytest.raises(StorageLost) as raised:
            await add(database, 4)
        assert "start Lowtide again" in raised.value.hint
        assert await ids(database) == [1]
        await database.close()
        again = SqliteDatabase(database.path, clock=SystemClock())
        await again.start()
        await add(again, 5)
        assert await ids(again) == [1, 5]
        await again.close()

    @pytest.mark.parametrize(
        ("statement", "code"),
        [
            ("COMMIT", apsw.SQLITE_IOERR_WRITE),
            ("INSERT", apsw.SQLITE_IOERR_WRITE),
            ("BEGIN", apsw.SQLITE_IOERR_WRITE),
            ("BEGIN", apsw.SQLITE_READONLY),
            ("COMMIT", apsw.SQLITE_READONLY),
            ("INSERT", apsw.SQLITE_READONLY_DIRECTORY),
        ],
    )
    async def test_a_failed_write_of_the_disk_is_told_to_all(
        self, database: SqliteDatabase, fault: Callable[[str, int], None], statement: str, code: int
    ) -> None:
        """While the disk fails, or may only be read, writes fail and leave nothing; later ones work."""
        fault(statement, code)
        results = await asyncio.gather(*(add(database, id) for id in range(5)), return_exceptions=True)
        assert {type(result) for result in results} == {StorageLost}
        assert await ids(database) == []
        database._writer._connection.exec_trace = None
        await add(database, 1)
        assert await ids(database) == [1]

    async def test_what_does_not_open_is_told_with_whose_fault_it_is(self, tmp_path: Path) -> None:
        """A folder is no database; to try again would not help."""
        folder = SqliteDatabase(tmp_path, clock=SystemClock())
        with pytest.raises(SetupError, match="it is a folder"):
            await folder.start()

    def test_what_may_only_be_read_is_told_with_its_path(self, tmp_path: Path) -> None:
        """SQLite opens it without a word; the error says which file, and who must own it."""
        path = tmp_path / "data.db"
        apsw.Connection(str(path)).execute("CREATE TABLE t (x)")
        read = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        with pytest.raises(apsw.ReadOnlyError) as caught:
            check_writable(read)
        error = cannot_open(caught.value, path)
        assert isinstance(error, SetupError)
        assert str(path) in error.message
        assert "own the folder" in error.hint

    async def test_a_damaged_file_is_not_written_to(
        self, database: SqliteDatabase, fault: Callable[[str, int], None]
    ) -> None:
        """Once the file is known to be damaged, nothing makes it worse."""
        fault("INSERT", apsw.SQLITE_CORRUPT)
        with pytest.raises(StorageLost, match="damaged"):
            await add(database, 1)
        database._writer._connection.exec_trace = None
        with pytest.raises(StorageLost, match="damaged"):
            await add(database, 2)
        assert await ids(database) == []

    async def test_a_dead_thread_answers_everybody(
        self, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the writer dies of a defect, no caller waits for ever, and reads go on."""
        monkeypatch.setattr(database._writer, "_commit", lambda: 1 / 0)
        calls = [asyncio.ensure_future(add(database, id)) for id in range(2_000)]
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
        assert {type(result) for result in results} == {StorageLost}
        with pytest.raises(StorageLost):
            await add(database, 1)
        assert await ids(database) == []


class TestBackup:
    async def test_a_backup_is_one_moment_while_writes_go_on(
        self, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The copy is the database as it was at its start: whole, and not chasing the writes meanwhile."""
        copy = sqlite.copy_database

        def slowly(path: Path, target: Path, stopped: Callable[[], bool]) -> None:
            def pause() -> bool:
                time.sleep(0.01)
                return stopped()

            copy(path, target, pause)

        monkeypatch.setattr(sqlite, "copy_database", slowly)

        async def write_pair(id: int) -> None:
            pair = [(id, b"x" * 60_000), (-id, b"")]
            await database.write(lambda tx: tx.execute_many(QUERIES["add"], pair))

        await asyncio.gather(*(write_pair(id) for id in range(1, 500)))
        target = database.path.with_name("copy.db")
        backup = asyncio.create_task(database.backup(target))
        during = 0
        while not backup.done():
            await write_pair(1_000 + during)
            during += 1
        await backup
        assert during > 10
        assert not list(target.parent.glob("*.partial*"))
        assert target.stat().st_mode & 0o077 == 0
        restored = SqliteDatabase(target, clock=SystemClock())
        await restored.start()
        found = set(await ids(restored))
        await restored.close()
        assert found >= {sign * id for id in range(1, 500) for sign in (1, -1)}
        assert all(-id in found for id in found)
        # Those that came first may have come before the copy's snapshot.
        assert 1_000 + during // 2 not in found
        with contextlib.closing(apsw.Connection(str(target))) as other:
            assert other.pragma("integrity_check") == "ok"

    async def test_closing_stops_a_backup(
        self, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A close does not wait for a long backup, whose caller learns it; the former copy stays."""
        copy = sqlite.copy_database

        def slowly(path: Path, target: Path, stopped: Callable[[], bool]) -> None:
            def pause() -> bool:
                time.sleep(0.5)
                return stopped()

            copy(path, target, pause)

        monkeypatch.setattr(sqlite, "copy_database", slowly)
        target = database.path.with_name("copy.db")
        target.write_bytes(b"the former copy")
        await asyncio.gather(*(add(database, id, b"x" * 60_000) for id in range(20)))
        backup = asyncio.create_task(database.backup(target))
        while not list(target.parent.glob("*.partial")):
            await asyncio.sleep(0.001)
        await database.close()
        assert not list(target.parent.glob("*.partial*"))
        with pytest.raises(StorageLost, match="stopped"):
            await backup
        assert target.read_bytes() == b"the former copy"

    async def test_a_backup_replaces_the_last_one(self, database: SqliteDatabase) -> None:
        """The target is the old copy or the new one; a broken rest of an earlier try does not matter."""
        target = database.path.with_name("copy.db")
        target.with_name("copy.db.partial").write_bytes(b"rest of a crash")
        for id in (1, 2):
            await add(database, id)
            await database.backup(target)
        with contextlib.closing(apsw.Connection(str(target))) as other:
            assert other.execute("SELECT id FROM item ORDER BY id").fetchall() == [(1,), (2,)]

    async def test_a_backup_that_fails_leaves_the_last_one(self, database: SqliteDatabase) -> None:
        """A folder that is not there is an error, and a stopped backup leaves the former copy alone."""
        with pytest.raises(OSError, match="nowhere"):
            await database.backup(database.path.parent / "nowhere" / "copy.db")
        target = database.path.with_name("copy.db")
        target.write_bytes(b"the former copy")
        await asyncio.gather(*(add(database, id, b"x" * 60_000) for id in range(500)))
        backup = asyncio.create_task(database.backup(target))
        await asyncio.sleep(0)
        backup.cancel()
        with pytest.raises(asyncio.CancelledError):
            await backup
        await database.close()
        assert target.read_bytes() == b"the former copy"
        assert not list(target.parent.glob("*.partial*"))
