"""The world that a simulation runs in: time that stands still, and a database that answers at once.

Everything that could differ from one run to the next is here: no thread, no socket, no real clock.
The same seed therefore gives the same history, to the byte.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, Literal, TypeVar

import apsw

from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import StorageLost
from lowtide.storage.db import Tx
from lowtide.storage.db.sqlite_tx import Deadline, SqliteTx, run, translate

T = TypeVar("T")


class World(asyncio.SelectorEventLoop):
    """An event loop whose time moves only when told."""

    def __init__(self, start: int = 1_790_000_000_000):
        self.clock = ManualClock(start)
        """Server time; also the loop's."""
        super().__init__(_NoWaiting())

    def time(self) -> float:
        return self.clock.monotonic()

    async def settle(self) -> None:
        """Let everything run until all tasks wait: for time to pass, or for something from outside."""
        ready: deque[Any] = self._ready  # type: ignore[attr-defined]
        while True:
            await asyncio.sleep(0)
            if not ready:
                return

    async def pass_time(self, seconds: float) -> None:
        """Move time on; timers that are due run, the earlier before the later."""
        until = self.clock.monotonic() + seconds
        while True:
            timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
            due = min((t.when() for t in timers if not t.cancelled()), default=until)
            if due >= until:
                break
            self.clock.advance(max(0.0, due - self.clock.monotonic()) + 1e-6)
            await self.settle()
        self.clock.advance(max(0.0, until - self.clock.monotonic()))
        await self.settle()

    def play(self, scenario: Coroutine[Any, Any, T]) -> T:
        """Run ``scenario`` to its end, then end every task that is left, and close."""
        try:
            return self.run_until_complete(scenario)
        finally:
            for task in asyncio.all_tasks(self):
                task.cancel()
                with_errors = asyncio.gather(task, return_exceptions=True)
                self.run_until_complete(with_errors)
            self.close()


class _NoWaiting(selectors.SelectSelector):
    """Nothing comes from outside: a loop with nothing to do is a deadlock, and says so."""

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            raise RuntimeError("the scenario waits for something that never happens; use pass_time")
        return super().select(0)


Cut = Literal["before", "after"]


class InlineDatabase:
    """The SQLite of the product, in memory and in the loop's own thread.

    Before each function it may yield to other tasks a few times, as ``random`` says: that is where
    a real database would let them run.
    """

    def __init__(self, clock: ManualClock, random: Random, content: bytes | None = None):
        self._connection = apsw.Connection(":memory:")
        if content is not None:
            self._connection.deserialize("main", content)
        self._cursor = self._connection.cursor()
        self._deadline = Deadline(1e9, clock)
        self._random = random
        self.cut: Cut | None = None
        """The power fails right before, or right after, the next commit: nobody is answered any more."""
        self.busy = 0
        """How many of the next writes hear that the storage is lost for now."""
        self.off = False
        self.committed: Callable[[InlineDatabase], None] = lambda database: None
        """Told after each commit."""

    dialect: Literal["sqlite"] = "sqlite"

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to finish."""

    def end(self) -> None:
        """Give the memory back."""
        self._connection.close(True)

    def content(self) -> bytes:
        """The database as bytes: what the disk holds."""
        return self._connection.serialize("main")

    def ask(self, sql: str, *parameters: Any) -> list[Any]:
        """Look at the database from outside, between transactions."""
        return self._connection.execute(sql, parameters).fetchall()

    async def write(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        await self._yield()
        if self.busy:
            self.busy -= 1
            raise StorageLost
        cut, self.cut = self.cut, None
        changes = self._connection.total_changes()
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = run(work, SqliteTx(self._cursor, self._deadline))
            if cut != "before":
                self._connection.execute("COMMIT")
        except BaseException as error:
            self._connection.execute("ROLLBACK")
            if isinstance(error, apsw.Error):
                raise translate(error, "COMMIT") from error
            raise
        if cut == "before":
            self._connection.execute("ROLLBACK")
        elif self._connection.total_changes() != changes:
            self.committed(self)
        self.off = cut is not None
        await self._while_off()
        return result

    async def read(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        await self._yield()
        self._connection.execute("BEGIN")
        try:
            return run(work, SqliteTx(self._cursor, self._deadline))
        finally:
            self._connection.execute("ROLLBACK")

    async def _yield(self) -> None:
        for _ in range(self._random.choice((0, 0, 0, 1, 2, 5))):
            await asyncio.sleep(0)
        await self._while_off()

    async def _while_off(self) -> None:
        if self.off:
            await asyncio.Event().wait()  # a machine without power answers nobody
