"""PostgreSQL as the database: for several nodes, and for data that outgrew one disk.

What it costs: three round trips and those of the work's own statements, a ``Select`` its own alone. A write
is at read committed, a read at repeatable read. PostgreSQL 15 and later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

import asyncpg

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import LowtideError, StatementFailed, StorageLost
from lowtide.kernel.ids import Ids, SystemIds
from lowtide.storage.db import Select, Tx
from lowtide.storage.db.postgres_pool import Pool
from lowtide.storage.db.postgres_tx import PostgresTx, is_transient, translate

T = TypeVar("T")

TRIES = 4
RETRY_SECONDS = 3.0
"""No further try after this, so that a caller waits for one connection's deadline and not for four."""
FIRST_PAUSE = 0.1
"""Seconds before the second try, doubled for each further one, times a random half to one and a half."""
ROLLBACK_SECONDS = 2.0

_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_ALONE = ""


class PostgresDatabase:
    """The ``Database`` on a server.

    A work that lost its connection, or a race with another, before its commit is run again, at most
    ``TRIES`` times. A failure *during* the commit is not retried: whether it happened is not known, and
    the caller gets ``StorageLost``. Once a transaction has begun, cancelling the caller does not stop it.

    ``statement_deadline`` is in seconds. At most ``queue_limit`` callers wait for one of ``pool_size``
    connections, each ``wait`` seconds at most; then ``Busy``.
    """

    def __init__(
        self,
        dsn: str,
        *,
        clock: Clock,
        pool_size: int = 10,
        statement_deadline: float = 5.0,
        queue_limit: int = 10_000,
        wait: float = 10.0,
        ids: Ids | None = None,
    ):
        self._pool = Pool(
            dsn, size=pool_size, waiting=queue_limit, wait=wait, statement_deadline=statement_deadline
        )
        self._statement_deadline = statement_deadline
        self._clock = clock
        self._ids = ids or SystemIds(clock)
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def dialect(self) -> Literal["postgres"]:
        return "postgres"

    async def start(self) -> None:
        try:
            await self._pool.start()
        except LowtideError:
            raise
        except Exception as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise StorageLost(
                f"PostgreSQL cannot be reached: {reason}.",
                hint="See that it runs, that 'database' names it, and that this machine may connect to it.",
            ) from error

    async def close(self) -> None:
        self._closed = True
        while self._running:
            await asyncio.wait(self._running)
        await self._pool.close()

    async def write(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._run(_WRITE, work)

    async def read(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._run(_ALONE if type(work) is Select else _READ, work)

    async def _run(self, begin: str, work: Callable[[Tx], Awaitable[T]]) -> T:
        if self._closed:
            raise StorageLost("The database is closed.")
        await self._pool.take_slot()
        # A task of its own: a cancelled caller must not cut a commit in two.
        task = asyncio.get_running_loop().create_task(self._persist(begin, work))
        self._running.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._pool.give_slot()
        if not task.cancelled():
            # The caller may be gone; its error was for nobody else.
            task.exception()

    async def _persist(self, begin: str, work: Callable[[Tx], Awaitable[T]]) -> T:
        until = self._clock.monotonic() + RETRY_SECONDS
        tried = 0
        while True:
            try:
                return await self._transact(begin, work)
            except _Retry as retry:
                tried += 1
                if tried == TRIES or self._closed or self._clock.monotonic() > until:
                    raise retry.failure from retry.failure.__cause__
            await asyncio.sleep(FIRST_PAUSE * 2 ** (tried - 1) * self._ids.jitter(0.5, 1.5))

    async def _transact(self, begin: str, work: Callable[[Tx], Awaitable[T]]) -> T:
        """One try. Raises ``_Retry`` when it certainly did not commit and may succeed next time."""
        try:
            connection = await self._pool.take()
        except LowtideError as error:
            raise _Retry(error) from error
        tx = PostgresTx(connection, self._statement_deadline)
        clean = False
        try:
            try:
                if begin:
                    await connection.execute(begin)
            except Exception as error:
                # Nothing has run: whatever this server's trouble is, another connection may not have it.
                lost = StorageLost("PostgreSQL does not open a transaction.")
                lost.__cause__ = error
                raise _Retry(lost) from error
            try:
                result = await work(tx)
                if tx.failed is not None:
                    raise tx.failed from tx.failed.__cause__
            except Exception as error:
                clean = await _roll_back(connection)
                if tx.failed is not None and tx.retry:
                    raise _Retry(tx.failed) from error
                raise
            clean = await _commit(connection) if begin else True
            return result
        finally:
            tx.end()
            if clean:
                self._pool.give(connection)
            else:
                connection.terminate()


class _Retry(Exception):
    def __init__(self, failure: LowtideError):
        self.failure = failure


async def _roll_back(connection: Any) -> bool:
    """Whether the connection can be used again."""
    if connection.is_closed():
        return False
    try:
        # After a deadline asyncpg first waits until its cancellation arrived, which may be never.
        async with asyncio.timeout(ROLLBACK_SECONDS):
            await connection.execute("ROLLBACK")
    except Exception:
        return False
    return True


async def _commit(connection: Any) -> bool:
    """True. When PostgreSQL says that it did not commit: ``_Retry`` or the refusal; else ``StorageLost``."""
    try:
        if await connection.execute("COMMIT") != "COMMIT":
            raise StatementFailed("The transaction had failed before its commit.")
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        if not state.startswith(("23", "40", "53")) or state == "40003":
            raise _unknown() from error
        failure = translate(error, "COMMIT")
        failure.__cause__ = error
        if is_transient(error):
            raise _Retry(failure) from error
        raise failure from error
    except LowtideError:
        raise
    except Exception as error:
        raise _unknown() from error
    return True


def _unknown() -> StorageLost:
    return StorageLost(
        "The connection was lost during the commit: whether the write happened is not known.",
        hint="An upload may be sent again as it is. For anything else, read the present state first.",
    )
