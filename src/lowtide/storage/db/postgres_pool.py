"""Connections to PostgreSQL: few, kept open, with a bounded line of those who wait for one."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg

from lowtide.kernel.errors import Busy, SetupError, StorageLost
from lowtide.storage.db.postgres_tx import translate

CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 2.0
OLDEST_VERSION = 15

log = logging.getLogger("lowtide.storage")


class Pool:
    """At most ``size`` connections. They are opened when needed; broken ones are replaced.

    ``waiting`` callers at most wait for one, each ``wait`` seconds at most; then ``Busy``.
    """

    def __init__(self, dsn: str, *, size: int, waiting: int, wait: float, statement_deadline: float):
        self._dsn = dsn
        self._slots = asyncio.Semaphore(size)
        self._room = waiting
        self._wait = wait
        self._statement_deadline = statement_deadline
        self._idle: list[Any] = []
        self._settings = {
            "application_name": "lowtide",
            "client_encoding": "UTF8",
            # For a statement without a transaction around it; a write's begins with READ WRITE.
            "default_transaction_read_only": "on",
            # A young database grows faster than its statistics: a plan that was kept from when a table had
            # ten rows, or a bitmap and a sort for ten expected ones, takes seconds where an index takes 8 ms.
            # Costs 15 us of planning a row written, 40 us a row read alone.
            "enable_bitmapscan": "off",
            "plan_cache_mode": "force_custom_plan",
            "idle_in_transaction_session_timeout": str(int(statement_deadline * 4 * 1000)),
            "jit": "off",
            "statement_timeout": str(int(statement_deadline * 1000)),
            "timezone": "UTC",
        }

    async def start(self) -> None:
        """Open the first connection. Raises ``SetupError`` for what waiting does not heal."""
        try:
            connection = await self.connect()
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise SetupError(
                f"PostgreSQL refuses the connection: {error}.",
                hint="Compare the database's address, name, user and password in the settings.",
            ) from error
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            # Not the error's own text: it may hold the password.
            raise SetupError(
                "The address of the PostgreSQL database cannot be read.",
                hint="It looks like postgresql://user:password@host:5432/database.",
            ) from error
        version = connection.get_server_version()
        if version.major < OLDEST_VERSION:
            connection.terminate()
            raise SetupError(f"PostgreSQL {version.major} is too old: {OLDEST_VERSION} or later is needed.")
        if await connection.fetchval("SHOW server_encoding") != "UTF8":
            connection.terminate()
            raise SetupError("The PostgreSQL database must have the encoding UTF8.")
        if await connection.fetchval("SHOW synchronous_commit") == "off":
            # An answered write must survive a power cut.
            log.warning("synchronous_commit is off in PostgreSQL; Lowtide turns it on for itself")
            self._settings["synchronous_commit"] = "on"
            await connection.execute("SET synchronous_commit = on")
        self._idle.append(connection)

    async def take_slot(self) -> None:
        """The right to one connection. Raises ``Busy``."""
        if not self._slots.locked():
            await self._slots.acquire()
            return
        if self._room <= 0:
            raise Busy("The line for a database connection is full.")
        self._room -= 1
        try:
            async with asyncio.timeout(self._wait):
                await self._slots.acquire()
        except TimeoutError:
            raise Busy("No database connection became free in time.") from None
        finally:
            self._room += 1

    def give_slot(self) -> None:
        self._slots.release()

    async def take(self) -> Any:
        """A connection that works, as far as is known. Raises ``StorageLost``, ``Busy``."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        try:
            return await self.connect()
        except Exception as error:
            failure = translate(error, "connect")
            if not isinstance(failure, Busy):
                failure = StorageLost("PostgreSQL cannot be reached.")
            raise failure from error

    def give(self, connection: Any) -> None:
        """Hand a connection back, in no transaction."""
        self._idle.append(connection)

    async def connect(self) -> Any:
        return await asyncpg.connect(
            self._dsn,
            timeout=CONNECT_SECONDS,
            # The server's own deadline comes first; this one is for a network that went silent.
            command_timeout=self._statement_deadline + 1.0,
            server_settings=self._settings,
        )

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            try:
                await connection.close(timeout=CLOSE_SECONDS)
            except Exception as error:
                log.info("a connection to PostgreSQL was cut at the end: %s", error)
                connection.terminate()
