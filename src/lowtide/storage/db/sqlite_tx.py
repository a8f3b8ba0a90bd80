"""What a store function sees of SQLite: its transaction, its deadline, and its errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import apsw

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import (
    Busy,
    LowtideError,
    Malformed,
    NotUnique,
    SetupError,
    StatementFailed,
    StorageFull,
    StorageLost,
    StorageTimeout,
    TooLarge,
)
from lowtide.storage.db import Query, Row

T = TypeVar("T")

STEPS = 5_000
"""Steps of SQLite's machine between two looks at the clock: about 0.1 ms."""
ROWS_A_SECOND = 1_000
"""What is added to the deadline of ``execute_many``: a slow machine's rate."""

_UNIQUE = {apsw.SQLITE_CONSTRAINT_UNIQUE, apsw.SQLITE_CONSTRAINT_PRIMARYKEY, apsw.SQLITE_CONSTRAINT_ROWID}
_CAUSES = 8
"""How far back an error's causes are looked at: a work may raise an error that causes itself."""
_SYNC = {apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC}


class Deadline:
    """A progress handler that stops a statement which runs too long.

    A statement says only that it is a new one (``statement += 1``); the clock is read by the
    handler alone, so a short statement pays nothing.
    """

    __slots__ = ("_clock", "_seconds", "_seen", "_until", "grace", "statement")

    def __init__(self, seconds: float, clock: Clock):
        self._seconds, self._clock = seconds, clock
        self._seen, self._until = -1, 0.0
        self.statement = 0
        self.grace = 0.0

    def __call__(self) -> bool:
        if self.statement == self._seen:
            return self._clock.monotonic() > self._until
        self._seen = self.statement
        self._until = self._clock.monotonic() + self._seconds + self.grace
        return False


class SqliteTx:
    """A transaction on one connection, used by one store function in one thread.

    Its methods finish without suspending. ``failed`` is the first error of a statement: the
    transaction must then not commit, whatever the store function made of the error.
    """

    __slots__ = ("_cursor", "_deadline", "failed")

    def __init__(self, cursor: apsw.Cursor, deadline: Deadline):
        self._cursor: Any = cursor
        self._deadline = deadline
        self.failed: LowtideError | None = None

    @property
    def dialect(self) -> Literal["sqlite"]:
        return "sqlite"

    async def fetch(self, query: Query, *params: Any) -> list[Row]:
        self._deadline.statement += 1
        try:
            return self._cursor.execute(query.sqlite, params).fetchall()  # type: ignore[no-any-return]
        except Exception as error:
            self._fail(error, query.name)

    async def execute(self, query: Query, *params: Any) -> None:
        self._deadline.statement += 1
        try:
            self._cursor.execute(query.sqlite, params).fetchall()
        except Exception as error:
            self._fail(error, query.name)

    async def execute_many(self, query: Query, rows: Sequence[Sequence[Any]]) -> None:
        self._deadline.statement += 1
        self._deadline.grace = len(rows) / ROWS_A_SECOND
        try:
            for _ in self._cursor.executemany(query.sqlite, rows):
                pass
        except Exception as error:
            self._fail(error, query.name)
        finally:
            self._deadline.grace = 0.0

    async def script(self, sql: str) -> None:
        cursor = self._cursor
        try:
            connection = cursor.connection
            connection.set_progress_handler(None)
            try:
                cursor.execute(sql).fetchall()
            finally:
                connection.set_progress_handler(self._deadline, STEPS)
            if not connection.in_transaction:
                raise StatementFailed("A script ended the transaction that it runs in.")
        except Exception as error:
            self._fail(error, "script")

    def end(self) -> None:
        """Make every later use an error: the transaction is over."""
        self._cursor = _OVER

    def _fail(self, error: Exception, name: str) -> NoReturn:
        failure = translate(error, name)
        if self.failed is None:
            self.failed = failure
        if failure is error:
            raise failure
        raise failure from error


class _Over:
    def __getattr__(self, name: str) -> Any:
        raise StatementFailed("A transaction was used after it ended.")


_OVER = _Over()


def run(work: Callable[[SqliteTx], Awaitable[T]], tx: SqliteTx) -> T:
    """Run a store function to its end, here and now. Raises what it raises.

    A statement that failed fails the transaction, even if the function caught the error.
    """
    try:
        steps = work(tx).__await__()
        try:
            next(steps)
        except StopIteration as stop:
            if tx.failed is not None:
                raise tx.failed from tx.failed.__cause__
            return stop.value  # type: ignore[no-any-return]
        steps.close()
        raise StatementFailed("A store function awaited something other than its transaction.")
    except RuntimeError as error:
        if "no running event loop" in str(error):
            raise StatementFailed("A store function awaited something other than its transaction.") from error
        raise
    finally:
        tx.end()


_OWN = ("BEGIN", "COMMIT")
"""Statements that no store function says."""
_OWNED = (
    "The account that runs it must own the folder and everything in it, '-wal' and '-shm' too, on a disk "
    "that is not read-only."
)


def translate(error: Exception, name: str) -> LowtideError:
    """The error of Lowtide's tree for one that came out of a statement called ``name``."""
    match error:
        case LowtideError():
            return error
        case apsw.ConstraintError():
            return NotUnique() if _extended(error) in _UNIQUE else _defect(error, name)
        case apsw.FullError():
            return StorageFull()
        case apsw.InterruptError():
            return StorageTimeout(f"The statement {name!r} ran past its deadline.")
        case apsw.BusyError() | apsw.LockedError():
            return Busy("Another program holds the database's lock.")
        case apsw.ReadOnlyError() if name in _OWN or _extended(error) != apsw.SQLITE_READONLY:
            # What is left is a store function that writes while it reads.
            return StorageLost("The database can be read, but not written.", hint=_OWNED)
        case apsw.IOError() | apsw.CantOpenError() | apsw.ProtocolError() | apsw.NoMemError():
            return StorageLost(f"The database's disk failed: {error}.")
        case apsw.CorruptError() | apsw.NotADBError():
            return StorageLost(
                "The database file is damaged.", hint="Put a backup in its place: 'lowtide restore'."
            )
        case apsw.TooBigError():
            return TooLarge("A value is larger than the database holds.")
        case OverflowError() | UnicodeEncodeError():
            return Malformed("A value does not fit the database: whole numbers have 64 bits, text is UTF-8.")
        case _:
            return _defect(error, name)


def check_writable(connection: apsw.Connection) -> None:
    """Raise ``apsw.ReadOnlyError``: SQLite opens for reading, without a word, what it may not write."""
    if connection.readonly("main"):
        raise apsw.ReadOnlyError


def cannot_open(error: Exception, path: Path) -> LowtideError:
    """As ``translate``, for the database at ``path`` that does not open: mostly its permissions."""
    match error:
        case apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.AuthError():
            reason = "it is a folder" if path.is_dir() else "this account may not read and write it"
        case OSError():
            reason = error.strerror or type(error).__name__
        case _:
            return translate(error, "open")
    return SetupError(f"The database {path} cannot be opened: {reason}.", hint=_OWNED)


def _defect(error: Exception, name: str) -> LowtideError:
    return StatementFailed(f"The database refused the statement {name!r} ({type(error).__name__}).")


def _extended(error: apsw.Error) -> int:
    # Set on every error that SQLite itself reports; absent from those that apsw makes up.
    return int(getattr(error, "extendedresult", 0))


def is_poison(error: BaseException | None) -> bool:
    """Whether nothing may be written after ``error`` (or what it was raised from).

    After a failed fsync the kernel may have dropped the pages and call the next fsync a success
    (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).
    """
    for _ in range(_CAUSES):
        if error is None:
            break
        if isinstance(error, apsw.IOError) and _extended(error) in _SYNC:
            return True
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            return True
        error = error.__cause__
    return False
