"""SQLite as the database: everything in one process, nothing to install, nothing lost.

What it costs: one fsync for a group of writes, about 10 µs of CPU for a statement. One process only;
its name is in ``<database>.lock``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, TypeVar

import apsw

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import StorageLost
from lowtide.storage.db import Tx
from lowtide.storage.db.sqlite_files import sync_folder
from lowtide.storage.db.sqlite_thread import Queue, Reader
from lowtide.storage.db.sqlite_tx import translate
from lowtide.storage.db.sqlite_writer import Durability, SqliteWriter

T = TypeVar("T")

BACKUP_PAGES = 256
"""Pages that a backup copies between two looks at whether it should stop: 1 MiB."""


class SqliteDatabase:
    """The ``Database`` in one file.

    ``queue_limit`` bounds the functions that wait to write, and those that wait to read, each.
    ``statement_deadline`` is in seconds. ``durability="normal"`` may lose the last commits in a power cut:
    it is there to show that the crash tests notice.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        queue_limit: int = 10_000,
        readers: int = 2,
        statement_deadline: float = 5.0,
        durability: Durability = "full",
    ):
        self.path = path
        self._clock = clock
        self._readers = readers
        self._statement_deadline = statement_deadline
        self._durability: Durability = durability
        self._writes = Queue(queue_limit)
        self._reads = Queue(queue_limit)
        self._backups: set[asyncio.Future[None]] = set()
        self._stop_backups = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._writer: SqliteWriter

    @property
    def dialect(self) -> Literal["sqlite"]:
        return "sqlite"

    @property
    def commits(self) -> int:
        """Write transactions committed since the start: fewer than writes, where groups formed."""
        return self._writer.commits

    async def start(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._writer = SqliteWriter(
            self.path, self._writes.inbox, loop, self._clock, self._statement_deadline, self._durability
        )
        await self._writes.start(self._writer)
        try:
            for number in range(self._readers):
                reader = Reader(
                    f"lowtide-reader-{number}",
                    self.path,
                    self._reads.inbox,
                    loop,
                    self._clock,
                    self._statement_deadline,
                )
                await self._reads.start(reader)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        self._stop_backups.set()
        if self._backups:
            await asyncio.wait(self._backups)
        # The readers first: the last connection's checkpoint then empties the log.
        await self._reads.close()
        await self._writes.close()

    async def write(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._writes.put(work, self._loop)  # type: ignore[no-any-return]

    async def read(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._reads.put(work, self._loop)  # type: ignore[no-any-return]

    async def backup(self, target: Path) -> None:
        """Write a copy of the database, as it is now, to ``target``; writes go on meanwhile.

        ``target`` is replaced at once and durably, or not at all. Costs a read of the database and a
        write of the copy; the log grows by what is written meanwhile. Raises ``StorageFull`` when the
        copy does not fit, ``StorageLost``, ``OSError`` for a folder that cannot be written.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        stop = threading.Event()

        def copy() -> None:
            error: BaseException | None = None
            try:
                copy_database(self.path, target, lambda: stop.is_set() or self._stop_backups.is_set())
            except apsw.Error as failure:
                error = translate(failure, "backup")
                error.__cause__ = failure
            except BaseException as failure:
                error = failure
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_finish, done, error)

        threading.Thread(target=copy, name="lowtide-backup", daemon=True).start()
        self._backups.add(done)
        done.add_done_callback(self._backups.discard)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            stop.set()
            raise


def _finish(done: asyncio.Future[None], error: BaseException | None) -> None:
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
        done.exception()


def copy_database(path: Path, target: Path, stopped: Callable[[], bool]) -> None:
    """Copy the database at ``path`` while it is in use; ends early with ``StorageLost`` if ``stopped``."""
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        partial.touch(mode=0o600)
        source = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        copy = apsw.Connection(str(partial), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            source.set_busy_timeout(5_000)
            # The copy is worthless until it is whole; it is made durable once, below.
            copy.execute("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF").fetchall()
            # An open snapshot: without it, every commit would start the copy again.
            source.execute("BEGIN; SELECT count(*) FROM sqlite_schema").fetchall()
            with copy.backup("main", source, "main") as steps:
                while not steps.done:
                    if stopped():
                        raise StorageLost("The backup was stopped.")
                    steps.step(BACKUP_PAGES)
        finally:
            copy.close()
            source.close()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
        sync_folder(target.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
