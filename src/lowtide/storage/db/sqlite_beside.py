"""Reading a SQLite database beside the process that serves it: for commands, such as ``lowtide token``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

import apsw

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import NoDatabase, SetupError
from lowtide.storage.db import Tx
from lowtide.storage.db.sqlite_thread import BUSY_MILLISECONDS
from lowtide.storage.db.sqlite_tx import (
    STEPS,
    Deadline,
    SqliteTx,
    cannot_open,
    check_writable,
    run,
    translate,
)

T = TypeVar("T")


DEADLINE = 5.0
"""Seconds of a statement."""


class SqliteBeside:
    """A ``Database`` that only reads, but for ``append``, takes no lock and starts no thread.

    A read runs in the event loop, which waits for it: this is for a process that does one thing.
    """

    def __init__(self, path: Path, *, clock: Clock):
        self._path = path
        self._deadline = Deadline(DEADLINE, clock)
        self._connection: apsw.Connection

    @property
    def dialect(self) -> Literal["sqlite"]:
        return "sqlite"

    async def start(self) -> None:
        """Open. Raises ``NoDatabase``, ``SetupError`` for one that may not be read, ``StorageLost``."""
        check_exists(self._path)
        try:
            self._connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
            self._connection.set_busy_timeout(BUSY_MILLISECONDS)
            self._connection.execute("PRAGMA query_only=ON; PRAGMA trusted_schema=OFF")
        except Exception as error:
            raise cannot_open(error, self._path) from error
        self._connection.set_progress_handler(self._deadline, STEPS)

    async def close(self) -> None:
        self._connection.close()

    async def read(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        try:
            self._connection.execute("BEGIN")  # one snapshot for every statement
            try:
                return run(work, SqliteTx(self._connection.cursor(), self._deadline))
            finally:
                self._connection.execute("ROLLBACK")
        except apsw.Error as error:
            raise translate(error, "read") from error

    async def append(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Run ``work`` in one short transaction beside the server, durably: for rows that only are added.

        What the server keeps in memory must not depend on them. Needs no ``start``. Raises ``SetupError``
        when there is no database yet, ``Busy`` when the server holds the lock for five seconds, and the
        errors of ``Tx``.
        """
        check_exists(self._path)
        try:
            connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
            check_writable(connection)
        except apsw.Error as error:
            raise cannot_open(error, self._path) from error
        try:
            connection.set_busy_timeout(BUSY_MILLISECONDS)
            # The server copies its log into the file by itself.
            connection.execute(
                "PRAGMA trusted_schema=OFF; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0"
            )
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = run(work, SqliteTx(connection.cursor(), self._deadline))
                connection.execute("COMMIT")
                return result
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except apsw.Error as error:
            raise translate(error, "append") from error
        finally:
            connection.close()

    async def write(self, work: Callable[[Tx], Awaitable[T]]) -> NoReturn:
        """Raises ``SetupError``, always."""
        raise SetupError("The database is only read here.", hint="Use a command that writes.")


def check_exists(path: Path) -> None:
    """Raise ``NoDatabase`` when there is no database at ``path``."""
    if not path.is_file():
        raise NoDatabase(f"There is no database at {path}.")
