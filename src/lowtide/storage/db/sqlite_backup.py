"""Backups of a SQLite database by another process than the one that serves it, and putting them back."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import apsw

from lowtide.kernel.clock import SystemClock
from lowtide.kernel.errors import LowtideError, SetupError
from lowtide.storage.db import Tx
from lowtide.storage.db.sqlite import copy_database
from lowtide.storage.db.sqlite_beside import check_exists
from lowtide.storage.db.sqlite_files import ProcessLock, sync_folder
from lowtide.storage.db.sqlite_tx import Deadline, SqliteTx, run, translate

BESIDE = ("", "-wal", "-shm")
"""What belongs to a database: a log that stays behind would be played into the backup."""
WRITE_SECONDS = 60.0
"""For one statement on a copy that is being put back; nobody waits for it but the operator."""


def back_up(path: Path, target: Path) -> None:
    """Write a copy of the database at ``path``, as it is now, to ``target``, while it may be served.

    ``target`` is there whole and durable, or not at all. Raises ``SetupError`` when there is no database,
    ``StorageFull``, ``StorageLost``, ``OSError`` for a folder that cannot be written.
    """
    check_exists(path)
    try:
        copy_database(path, target, lambda: False)
    except apsw.Error as error:
        raise translate(error, "backup") from error


def put_back(path: Path, backup: Path, aside: str, anew: Callable[[Tx], Awaitable[None]]) -> Path | None:
    """Make a copy of ``backup`` the database at ``path``; where what was there has been moved to, if any.

    ``aside`` is appended to the old names; nothing is deleted. The backup is read through first. What
    ``anew`` writes is in the copy before that is the database: no server starts on one without it. Raises
    ``AlreadyRunning`` while a server has the database open, ``SetupError`` for a file that is no sound
    database or cannot be copied; then what was there is still there.
    """
    _check(backup)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with _locked(path):
        try:
            shutil.copyfile(backup, partial)
            partial.chmod(0o600)
            _write(partial, anew)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise SetupError(
                f"{backup} cannot be copied to {path.parent}: {error.strerror}.", hint="Nothing has changed."
            ) from error
        except LowtideError:
            partial.unlink(missing_ok=True)
            raise
        moved = None
        for suffix in BESIDE:
            old = path.with_name(path.name + suffix)
            if old.exists():
                moved = moved or path.with_name(path.name + aside)
                old.rename(path.with_name(path.name + aside + suffix))
        partial.rename(path)
        sync_folder(path.parent)
    return moved


def _write(path: Path, work: Callable[[Tx], Awaitable[None]]) -> None:
    """Run ``work`` in a transaction on a database that nobody else has open; no log stays beside it."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.execute("PRAGMA journal_mode=MEMORY; BEGIN IMMEDIATE").fetchall()
        run(work, SqliteTx(connection.cursor(), Deadline(WRITE_SECONDS, SystemClock())))
        connection.execute("COMMIT")
    except apsw.Error as error:
        raise translate(error, "restore") from error
    finally:
        connection.close()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = ProcessLock(path.with_name(path.name + ".lock"))
    lock.take()
    try:
        yield
    finally:
        lock.drop()


def _check(backup: Path) -> None:
    try:
        # Nobody writes to it: no log is looked for, and no file is left beside it.
        address = f"{backup.resolve().as_uri()}?immutable=1"
        connection = apsw.Connection(address, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        try:
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchall()[0][0])
            ours = connection.execute(
                "SELECT count(*) FROM sqlite_schema WHERE name = 'lowtide_migration'"
            ).fetchall()
        finally:
            connection.close()
    except apsw.Error as error:
        raise SetupError(f"{backup} is no database: {error}.", hint="Choose another file.") from error
    if verdict != "ok":
        raise SetupError(f"{backup} is damaged: {verdict}.", hint="Choose an older backup.")
    if not ours[0][0]:
        raise SetupError(f"{backup} is no database of Lowtide's.", hint="Choose another file.")
