"""The one thread that writes SQLite: group commit.

Every function that waits joins one transaction and shares its fsync, which makes durable writes as
cheap as careless ones (Gawlick and Kinkade, "Varieties of Concurrency Control in IMS/VS Fast Path",
1985). Nobody is answered before the commit.

A group is tried three ways, the cheap one first:

1. *together*: no protection between its functions. When one raises, all is rolled back;
2. *guarded*: a savepoint each, so that one that raises leaves its neighbours alone;
3. *alone*: a transaction each, when the transaction itself broke (its commit failed).

A full disk has its own way: the reserve is released, and only functions that do not make the
database larger pass, so that deletions work and insertions cannot eat the room they need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import apsw

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Busy, LowtideError, StorageFull, StorageLost, StorageTimeout
from lowtide.storage.db import sqlite_thread
from lowtide.storage.db.sqlite_files import ProcessLock, Reserve, sync_folder
from lowtide.storage.db.sqlite_thread import Item, Outcome, SqliteThread, log
from lowtide.storage.db.sqlite_tx import check_writable, is_poison, translate

Durability = Literal["full", "normal"]

GROUP_WORKS = 512
"""Most functions that share one commit."""
GROUP_SECONDS = 0.02
"""A group takes no further function after this: its first should not wait for its last."""
CHECKPOINT_PAGES = 1_000
"""The log is copied into the database when it has this many pages (4 MiB)."""
TRUNCATE_PAGES = 16_000
"""From this size on (64 MiB) the writer waits, shortly, for readers that keep the log from being reused."""
TRUNCATE_MILLISECONDS = 100


class SqliteWriter(SqliteThread):
    """See the module."""

    def __init__(
        self,
        path: Path,
        inbox: SimpleQueue[Item | None],
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        statement_deadline: float,
        durability: Durability,
    ):
        super().__init__("lowtide-writer", path, inbox, loop, clock, statement_deadline)
        self.commits = 0
        self._durability = durability
        self._lock = ProcessLock(path.with_name(path.name + ".lock"))
        self._reserve = Reserve(path.with_name(path.name + ".reserve"))
        self._full = False
        self._lost: str | None = None
        self._wal_pages = 0
        self._checkpointed = 0
        self._truncate_at = TRUNCATE_PAGES

    # ---------------------------------------------------------------- life

    def open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock.take()
        try:
            # SQLite gives its own files the mode of this one; it holds secrets.
            self._path.touch(mode=0o600)
            super().open()
            check_writable(self._connection)
            mode = self._connection.pragma("journal_mode", "wal")
            if mode != "wal":
                raise StorageLost(f"The database's disk does not support its log (journal mode {mode}).")
            self._connection.pragma("synchronous", self._durability)
            # A log that readers made long is cut again when it starts anew.
            self._connection.pragma("journal_size_limit", TRUNCATE_PAGES * 4096)
            # A process that died after a failed fsync may have left a log that only looks written.
            self._checkpoint(truncate=True)
            self._connection.set_wal_hook(self._on_commit)
            sync_folder(self._path.parent)
            self._full = not self._reserve.make()
        except BaseException:
            self._lock.drop()
            raise

    def shut(self) -> None:
        try:
            if self._lost is None:
                # Another program may be reading: then the log stays, for the next start.
                self._checkpoint(truncate=True)
            self._connection.close()
        finally:
            self._lock.drop()

    # ---------------------------------------------------------------- groups

    def serve(self, first: Item) -> None:
        self._taken = group = [first]
        if self._full and self._reserve.make():
            log.warning("the database's disk has room again")
            self._full = False
        outcomes: list[Outcome] | None
        try:
            if self._full:
                outcomes = self._frugal(group)
            else:
                outcomes = self._together(group)
                if outcomes is None:
                    outcomes = self._guarded(group)
                if outcomes is None:
                    outcomes = [self._alone(item) for item in group]
        except StorageFull:
            self._fill()
            outcomes = self._frugal(group)
        except (Busy, StorageLost) as error:
            # Those that wait would fare no better, one lock's deadline after the other.
            while (item := self.next_item()) is not None:
                group.append(item)
            outcomes = [(future, _copy(error), None) for _, future in group]
        self.tell(outcomes)
        if self._wal_pages < self._checkpointed:
            self._checkpointed = 0
        if self._wal_pages - self._checkpointed >= CHECKPOINT_PAGES:
            self._checkpoint(truncate=self._wal_pages >= self._truncate_at)

    def _together(self, group: list[Item]) -> list[Outcome] | None:
        """Run ``group`` and what waits behind it; None when it must be redone."""
        outcomes: list[Outcome] = []
        self._begin()
        for item in self._each(group):
            outcome = self.run_one(item)
            if outcome[1] is not None:
                return self._give_up(group, outcome)
            outcomes.append(outcome)
        return outcomes if self._commit() is None else None

    def _give_up(self, group: list[Item], outcome: Outcome) -> list[Outcome] | None:
        self._rollback()
        self._check_disk(outcome[1])
        if len(group) == 1:
            return [outcome]
        if isinstance(outcome[1], StorageTimeout):
            # A second try would hold everybody up for another deadline.
            self._settle(group, outcome)
        return None

    def _guarded(self, group: list[Item]) -> list[Outcome] | None:
        """The same with a savepoint each; None when the transaction itself broke."""
        outcomes: list[Outcome] = []
        self._begin()
        for item in self._each(group):
            self.control("SAVEPOINT work")
            outcome = self.run_one(item)
            if outcome[1] is not None:
                self._check_disk(outcome[1])
                if not self._connection.in_transaction:
                    # SQLite ends the transaction when it interrupts a statement that writes.
                    self._settle(group, outcome)
                    return self._guarded(group)
                self.control("ROLLBACK TO work")
            self.control("RELEASE work")
            outcomes.append(outcome)
        return outcomes if self._commit() is None else None

    def _alone(self, item: Item) -> Outcome:
        """Run one function in a transaction of its own. On a full disk, it must not grow the database."""
        future = item[1]
        try:
            self._begin()
            pages = self._pages()
            outcome = self.run_one(item)
            error = outcome[1]
            if error is None and self._full and self._pages() > pages:
                error = StorageFull()
            if error is None:
                error = self._commit()
            self._rollback()
            return outcome if error is None else (future, error, None)
        except (Busy, StorageFull, StorageLost) as error:
            self._rollback()
            return future, error, None

    def _frugal(self, group: list[Item]) -> list[Outcome]:
        outcomes = []
        for item in group:
            outcomes.append(self._alone(item))
            self._checkpoint(truncate=True)
        return outcomes

    def _each(self, group: list[Item]) -> Iterator[Item]:
        """The items of ``group``, then those that wait, which join it, until it is large or old enough."""
        until = self._clock.monotonic() + GROUP_SECONDS
        at = 0
        while True:
            if at == len(group):
                if at >= GROUP_WORKS or self._clock.monotonic() >= until:
                    return
                item = self.next_item()
                if item is None:
                    return
                group.append(item)
            # A caller that was cancelled gave its write up.
            if not group[at][1].cancelled():
                yield group[at]
            at += 1

    def _settle(self, group: list[Item], outcome: Outcome) -> None:
        self.tell([outcome])
        group[:] = [item for item in group if item[1] is not outcome[0]]

    # ---------------------------------------------------------------- the transaction

    def _begin(self) -> None:
        if self._lost is not None:
            raise StorageLost(
                self._lost,
                hint="Look at the database's disk, then start Lowtide again; nothing is written until then.",
            )
        try:
            self.control("BEGIN IMMEDIATE")
        except apsw.Error as error:
            failure = translate(error, "BEGIN")
            failure.__cause__ = error
            self._check_poison(failure)
            raise failure from error

    def _commit(self) -> LowtideError | None:
        """Commit; the error when the transaction could not, after rolling it back.

        Raises ``StorageFull`` and ``StorageLost``, which concern everybody.
        """
        try:
            self.control("COMMIT")
        except apsw.Error as error:
            self._rollback()
            failure = translate(error, "COMMIT")
            failure.__cause__ = error
            self._check_poison(failure)
            self._check_disk(failure)
            return failure
        self.commits += 1
        return None

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            self.control("ROLLBACK")

    def _pages(self) -> int:
        return int(self.control("PRAGMA page_count")[0][0])

    # ---------------------------------------------------------------- the disk

    def run_one(self, item: Item) -> Outcome:
        outcome = super().run_one(item)
        if outcome[1] is not None:
            self._check_poison(outcome[1])
        return outcome

    def _check_poison(self, error: BaseException) -> None:
        """Stop writing for good if it must be."""
        if self._lost is None and is_poison(error):
            log.critical("no more writes until a restart: %s", error)
            self._lost = str(error)

    def _check_disk(self, error: BaseException | None) -> None:
        """Raise ``error`` if it concerns everybody."""
        if isinstance(error, StorageFull | StorageLost):
            self._rollback()
            raise error

    def _fill(self) -> None:
        log.error("the database's disk is full: only what frees space is written")
        self._full = True
        self._reserve.release()
        self._checkpoint(truncate=True)

    def _on_commit(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self, truncate: bool = False) -> None:
        """Copy the log into the database, after the callers have their answers."""
        self._checkpointed = self._wal_pages
        self._deadline.statement += 1
        try:
            if not truncate:
                self._connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
                return
            self._connection.set_busy_timeout(TRUNCATE_MILLISECONDS)
            try:
                self._connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
            finally:
                self._connection.set_busy_timeout(sqlite_thread.BUSY_MILLISECONDS)
            self._wal_pages = self._checkpointed = 0
            self._truncate_at = TRUNCATE_PAGES
        except apsw.BusyError:
            self._truncate_at = max(TRUNCATE_PAGES, self._wal_pages * 2)
        except apsw.FullError:
            if not self._full:
                self._fill()
        except apsw.Error as error:
            failure = translate(error, "checkpoint")
            failure.__cause__ = error
            log.error("copying the log into the database failed: %s", error)
            self._check_poison(failure)


def _copy(error: LowtideError) -> LowtideError:
    # One instance raised in many tasks would grow a traceback of them all.
    copy = type(error)(error.message, hint=error.hint)
    copy.__cause__ = error
    return copy
