"""The bus between nodes that share a PostgreSQL: LISTEN and NOTIFY on one dedicated connection.

Costs: a notification takes a lock that all notifying transactions of the server share, so a hint is
sent once a group of changes and never inside the transaction that it tells of. Hints that wait
together are sent in one round trip.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections import deque
from itertools import islice
from typing import Any

import asyncpg

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import StorageLost
from lowtide.kernel.ids import Ids
from lowtide.storage.bus.model import Buffer, Latest, check
from lowtide.storage.bus.subscribers import Subscribers, Subscription

CHANNEL = "lowtide_bus"
APPLICATION = "lowtide-bus"
"""The connection's name in ``pg_stat_activity``."""

SEND = "SELECT pg_notify($1, text) FROM unnest($2::text[]) AS text"
BATCH = 200
OUTGOING = 1_000
"""Hints that wait to be sent, at most; one more and the oldest is lost."""

DEADLINE = 5.0
"""Seconds for a connection attempt, and for a round trip."""
HEARTBEAT = 15.0
"""Seconds of silence after which the connection is asked whether it lives."""
BACKOFF_FIRST, BACKOFF_MOST = 0.2, 15.0
"""Seconds: bounds of the random pause before another attempt to connect."""

TROUBLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a lost, slow or refusing server looks like; anything else is a defect, and logged with its stack."""

log = logging.getLogger("lowtide.bus")


class PostgresBus:
    """Hints between nodes. Reconnects for ever until closed; see ``Bus`` for what it promises.

    ``dsn`` must lead to a PostgreSQL primary itself: through a pooler that hands out connections by
    transaction, LISTEN hears nothing.
    """

    def __init__(self, dsn: str, clock: Clock, ids: Ids):
        self._dsn, self._clock, self._ids = dsn, clock, ids
        self._subscribers = Subscribers()
        self._outgoing: deque[str] = deque(maxlen=OUTGOING)
        self._stirred = asyncio.Event()
        self._closing = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        try:
            connection = await self._connect()
        except TROUBLE as error:
            raise StorageLost(f"The bus cannot reach PostgreSQL: {_named(error)}.") from error
        self._owner = asyncio.create_task(self._live(connection), name="bus")

    async def close(self) -> None:
        self._closing.set()
        self._stirred.set()
        if self._owner is not None:
            owner, self._owner = self._owner, None
            await asyncio.wait([owner], timeout=DEADLINE)
            owner.cancel()
            await asyncio.wait([owner])
        self._subscribers.close()

    def publish(self, topic: str, payload: bytes = b"") -> None:
        check(topic, payload)
        self._outgoing.append(f"{topic} {base64.b64encode(payload).decode()}")
        self._stirred.set()

    def subscribe(self, topic: str, buffer: Buffer = Latest()) -> Subscription:  # noqa: B008 - a frozen value
        return self._subscribers.subscribe(topic, buffer)

    async def _connect(self) -> asyncpg.Connection[Any]:
        async with asyncio.timeout(DEADLINE):
            connection = await asyncpg.connect(
                self._dsn, command_timeout=DEADLINE, server_settings={"application_name": APPLICATION}
            )
            try:
                await connection.add_listener(CHANNEL, self._received)
            except BaseException:
                connection.terminate()
                raise
        connection.add_termination_listener(lambda _: self._stirred.set())
        return connection

    async def _live(self, connection: asyncpg.Connection[Any] | None) -> None:
        failures = 0
        while True:
            if connection is not None:
                since = self._clock.monotonic()
                try:
                    await self._serve(connection)
                except Exception as error:
                    _report("the bus lost its connection", error)
                finally:
                    connection.terminate()
                    connection = None
                if self._clock.monotonic() - since > HEARTBEAT:
                    failures = 0
            # A server that accepts and hangs up at once is as absent as one that refuses: pause for both.
            failures += 1
            if await self._closing_within(min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(failures, 10))):
                return
            try:
                connection = await self._connect()
            except Exception as error:
                _report("the bus cannot reach PostgreSQL", error)
            else:
                self._subscribers.missed()

    async def _closing_within(self, most: float) -> bool:
        """Wait at random between nothing and ``most`` seconds, and say whether the bus closes."""
        try:
            async with asyncio.timeout(self._ids.jitter(0, most)):
                await self._closing.wait()
        except TimeoutError:
            return False
        return True

    async def _serve(self, connection: asyncpg.Connection[Any]) -> None:
        """Send what waits, and make sure of the connection in silence, until it ends or the bus closes."""
        while True:
            self._stirred.clear()
            if connection.is_closed():
                raise ConnectionResetError("the server ended it")
            if self._outgoing:
                await self._send(connection)
            elif self._closing.is_set():
                await connection.close(timeout=DEADLINE)
                return
            else:
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await self._stirred.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1")

    async def _send(self, connection: asyncpg.Connection[Any]) -> None:
        batch = list(islice(self._outgoing, BATCH))
        for _ in batch:
            self._outgoing.popleft()
        try:
            await connection.execute(SEND, CHANNEL, batch)
        except Exception:
            # Whether they left is unknown, and a repeated hint does no harm. The newest stay if it is full.
            self._outgoing = deque([*batch, *self._outgoing], maxlen=OUTGOING)
            raise

    def _received(self, connection: Any, pid: int, channel: str, text: Any) -> None:
        try:
            topic, encoded = str(text).split(" ")
            payload = base64.b64decode(encoded, validate=True)
        except ValueError:
            log.warning("a notification on %s is not of this bus: %.80r", channel, text)
            return
        self._subscribers.deliver(topic, payload)


def _report(what: str, error: Exception) -> None:
    defect = None if isinstance(error, TROUBLE) else error
    log.warning("%s: %s", what, _named(error), exc_info=defect)


def _named(error: Exception) -> str:
    return str(error) or type(error).__name__
