"""What a store function sees of PostgreSQL: its transaction and its errors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

import asyncpg

from lowtide.kernel.errors import (
    Busy,
    LowtideError,
    Malformed,
    NotUnique,
    StatementFailed,
    StorageFull,
    StorageLost,
    StorageTimeout,
    TooLarge,
)
from lowtide.storage.db import Query, Row

ROWS_A_SECOND = 1_000
"""What is added to the deadline of ``execute_many``: a slow machine's rate."""
SCRIPT_SECONDS = 24 * 3600.0

_LOST = {"57P01", "57P02", "57P03", "57P04", "57P05", "XX001", "XX002"}
_TIMEOUT = {"25P03", "25P04", "55P03", "57014"}
_TRY_AGAIN = {"40001", "40P01"}
_MALFORMED = {"22003", "22021", "22P05"}
"""Number out of range, text with NUL, a character that the encoding lacks."""


class PostgresTx:
    """A transaction on one connection, used by one store function.

    ``failed`` is the first error of a statement; the transaction cannot commit after it. ``retry``
    says whether the same work may succeed in another transaction.
    """

    __slots__ = ("_connection", "_deadline", "failed", "retry")

    def __init__(self, connection: Any, deadline: float):
        self._connection: Any = connection
        self._deadline = deadline
        self.failed: LowtideError | None = None
        self.retry = False

    @property
    def dialect(self) -> Literal["postgres"]:
        return "postgres"

    async def fetch(self, query: Query, *params: Any) -> list[Row]:
        try:
            return await self._connection.fetch(query.postgres, *params)  # type: ignore[no-any-return]
        except Exception as error:
            self._fail(error, query.name)

    async def execute(self, query: Query, *params: Any) -> None:
        try:
            await self._connection.fetch(query.postgres, *params)
        except Exception as error:
            self._fail(error, query.name)

    async def execute_many(self, query: Query, rows: Sequence[Sequence[Any]]) -> None:
        try:
            timeout = self._deadline + len(rows) / ROWS_A_SECOND
            await self._connection.executemany(query.postgres, rows, timeout=timeout)
        except Exception as error:
            self._fail(error, query.name)

    async def script(self, sql: str) -> None:
        connection = self._connection
        try:
            await connection.execute("SET LOCAL statement_timeout = 0")
            await connection.execute(sql, timeout=SCRIPT_SECONDS)
            if not connection.is_in_transaction():
                raise StatementFailed("A script ended the transaction that it runs in.")
            await connection.execute(f"SET LOCAL statement_timeout = {int(self._deadline * 1000)}")
        except Exception as error:
            self._fail(error, "script")

    def end(self) -> None:
        """Make every later use an error: the transaction is over."""
        self._connection = _OVER

    def _fail(self, error: Exception, name: str) -> NoReturn:
        failure = translate(error, name)
        if self.failed is None:
            self.failed = failure
            self.retry = is_transient(error)
        if failure is error:
            raise failure
        raise failure from error


class _Over:
    def __getattr__(self, name: str) -> Any:
        raise StatementFailed("A transaction was used after it ended.")


_OVER = _Over()


def translate(error: Exception, name: str) -> LowtideError:
    """The error of Lowtide's tree for one that came out of a statement called ``name``."""
    match error:
        case LowtideError():
            return error
        case asyncpg.DataError() if isinstance(error.__cause__, OverflowError | UnicodeError):
            return Malformed("A value does not fit the database: whole numbers have 64 bits, text is UTF-8.")
        case asyncpg.PostgresError():
            return _translate_state(error, name)
        case TimeoutError() | asyncio.TimeoutError():
            return StorageTimeout(f"The statement {name!r} ran past its deadline.")
        case OSError() | asyncpg.InternalClientError():
            return StorageLost("The connection to PostgreSQL was lost.")
        case asyncpg.InterfaceError() if "connection is closed" in str(error):
            return StorageLost("The connection to PostgreSQL was lost.")
        case _:
            return _defect(error, name)


def _translate_state(error: asyncpg.PostgresError, name: str) -> LowtideError:
    state = error.sqlstate or ""
    if state == "23505":
        return NotUnique()
    if state == "53100":
        return StorageFull()
    if state in _TIMEOUT:
        return StorageTimeout(f"The statement {name!r} ran past its deadline.")
    if state in _TRY_AGAIN:
        return Busy("Too many writes of the same rows at once.")
    if state in _MALFORMED:
        return Malformed("A value does not fit the database: numbers have 64 bits, text has no NUL.")
    if state.startswith("54"):
        return TooLarge("A value is larger than the database holds.")
    if state.startswith("53"):
        return Busy("PostgreSQL has too much to do.")
    if state in _LOST or state.startswith(("08", "58")):
        return StorageLost("PostgreSQL does not serve: it stops, starts, or its disk failed.")
    return _defect(error, name)


def _defect(error: Exception, name: str) -> LowtideError:
    return StatementFailed(f"The database refused the statement {name!r} ({type(error).__name__}).")


def is_transient(error: Exception) -> bool:
    """Whether the same work may succeed in another transaction, on another connection."""
    if isinstance(error, asyncpg.InvalidCachedStatementError | asyncpg.OutdatedSchemaCacheError):
        return True
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in _TRY_AGAIN:
        return True
    return isinstance(translate(error, ""), StorageLost)
