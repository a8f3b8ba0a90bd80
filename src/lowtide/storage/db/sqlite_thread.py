"""A thread that owns a connection to SQLite, and the kind of it that reads.

A store function is put on the thread's bounded queue and runs to its end there; the event loop is
woken once for many functions, not once for each statement.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import apsw

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Busy, StorageLost
from lowtide.storage.db import Tx
from lowtide.storage.db.sqlite_tx import STEPS, Deadline, SqliteTx, cannot_open, run

Work = Callable[[Tx], Awaitable[Any]]
Item = tuple[Work, "asyncio.Future[Any]"]
Outcome = tuple["asyncio.Future[Any]", BaseException | None, Any]

BUSY_MILLISECONDS = 5_000
READ_WORKS = 16
"""Most functions that a reader takes at once; the other readers take the rest."""
READ_SECONDS = 0.001
"""A reader hands over what it has after this, not only when it is through."""

log = logging.getLogger("lowtide.storage")


class SqliteThread(threading.Thread, ABC):
    """One connection, one thread, functions in the order of their arrival from a shared queue.

    A failure outside of a function ends the thread: ``ended`` then holds the error. ``None`` on
    the queue ends it in order.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        inbox: SimpleQueue[Item | None],
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        statement_deadline: float,
    ):
        super().__init__(name=name, daemon=True)
        self.opened: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._path = path
        self._inbox = inbox
        self._loop = loop
        self._clock = clock
        self._deadline = Deadline(statement_deadline, clock)
        self._stopping = False
        self._taken: list[Item] = []
        self._connection: apsw.Connection
        self._cursor: apsw.Cursor
        self._control: apsw.Cursor

    def run(self) -> None:
        try:
            self.open()
        except Exception as error:
            self.tell([(self.opened, cannot_open(error, self._path), None)])
            return
        self.tell([(self.opened, None, None)])
        failure: BaseException | None = None
        try:
            while not self._stopping:
                item = self._inbox.get()
                if item is None:
                    break
                self.serve(item)
                self._taken = []
        except BaseException as error:
            log.exception("the thread %s ended", self.name)
            failure = error
            self.tell(
                [(future, StorageLost("The database's thread has ended."), None) for _, future in self._taken]
            )
        try:
            self.shut()
        except Exception as error:
            log.exception("the thread %s could not close the database", self.name)
            failure = failure or error
        self.tell([(self.ended, failure, None)])

    def open(self) -> None:
        """Connect. The base sets what every connection needs."""
        connection = apsw.Connection(str(self._path), statementcachesize=512)
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        connection.execute("PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF; PRAGMA temp_store=MEMORY")
        connection.set_progress_handler(self._deadline, STEPS)
        self._connection = connection
        self._cursor = connection.cursor()
        self._control = connection.cursor()

    @abstractmethod
    def serve(self, first: Item) -> None:
        """Run ``first`` and others that are waiting, keep them in ``_taken``, tell their outcomes."""

    def shut(self) -> None:
        """Disconnect."""
        self._connection.close()

    def next_item(self) -> Item | None:
        """Another function if one is waiting."""
        try:
            item = self._inbox.get_nowait()
        except Empty:
            return None
        if item is None:
            self._stopping = True
        return item

    def run_one(self, item: Item) -> Outcome:
        """The outcome of one function, inside the transaction that is open."""
        work, future = item
        try:
            return future, None, run(work, SqliteTx(self._cursor, self._deadline))
        except BaseException as error:
            return future, error, None

    def control(self, sql: str) -> list[Any]:
        """Run a statement of the thread's own, with a deadline of its own."""
        self._deadline.statement += 1
        return self._control.execute(sql).fetchall()

    def tell(self, outcomes: list[Outcome]) -> None:
        """Hand outcomes to their callers: one wake-up of the loop for all of them."""
        try:
            self._loop.call_soon_threadsafe(_hand_over, outcomes)
        except RuntimeError:
            # The loop was closed before the database: nobody is left to answer.
            self._stopping = True


class Reader(SqliteThread):
    """Runs read functions, a slice of the queue in one snapshot.

    The snapshot is taken after the slice, so each function sees all that was durable when it was called.
    """

    def open(self) -> None:
        super().open()
        self._connection.execute("PRAGMA query_only=ON")

    def serve(self, first: Item) -> None:
        self._taken = items = [first]
        while len(items) < READ_WORKS and (item := self.next_item()) is not None:
            items.append(item)
        outcomes: list[Outcome] = []
        try:
            self.control("BEGIN")
            told = self._clock.monotonic()
            for item in items:
                if item[1].cancelled():
                    continue
                outcomes.append(self.run_one(item))
                if (now := self._clock.monotonic()) - told > READ_SECONDS:
                    self.tell(outcomes)
                    outcomes, told = [], now
        finally:
            if self._connection.in_transaction:
                self.control("COMMIT")
            self.tell(outcomes)


def _hand_over(outcomes: list[Outcome]) -> None:
    for future, error, result in outcomes:
        # A caller that was cancelled no longer listens.
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


class Queue:
    """What the loop's side holds of one or more threads: their queue and its bound."""

    def __init__(self, limit: int):
        self.inbox: SimpleQueue[Item | None] = SimpleQueue()
        self.threads: list[SqliteThread] = []
        self._limit = limit
        self._closed = False

    async def start(self, thread: SqliteThread) -> None:
        """Start ``thread``; raises what its opening raises."""
        thread.start()
        try:
            await thread.opened
        except asyncio.CancelledError:
            self.inbox.put(None)
            raise
        self.threads.append(thread)
        thread.ended.add_done_callback(self._ended)

    def put(self, work: Work, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
        """Queue ``work``; raises ``Busy`` when full, ``StorageLost`` when no thread is left."""
        if self._closed:
            raise StorageLost("The database is closed.")
        if self.inbox.qsize() >= self._limit:
            raise Busy("The database's queue is full.", limit=self._limit)
        future: asyncio.Future[Any] = loop.create_future()
        self.inbox.put((work, future))
        return future

    async def close(self) -> None:
        """Let the threads finish what is queued, and wait for them."""
        self._closed = True
        for thread in self.threads:
            if not thread.ended.done():
                self.inbox.put(None)
        for thread in self.threads:
            await asyncio.wait([thread.ended])

    def _ended(self, ended: asyncio.Future[None]) -> None:
        if self._closed or not all(thread.ended.done() for thread in self.threads):
            return
        self._closed = True
        while True:
            try:
                item = self.inbox.get_nowait()
            except Empty:
                return
            if item is not None:
                _hand_over([(item[1], StorageLost("The database's thread has ended."), None)])
