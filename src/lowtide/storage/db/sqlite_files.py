"""The files beside a SQLite database: the lock that keeps a second process out, and the reserve."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from lowtide.kernel.errors import AlreadyRunning

RESERVE_BYTES = 4 * 1024 * 1024


class ProcessLock:
    """Held by the one process that has a database open; the kernel drops it when that process ends."""

    def __init__(self, path: Path):
        self._path = path
        self._file = -1

    def take(self) -> None:
        """Raises ``AlreadyRunning``, with the holder's process id, if it is held."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(file)
            raise AlreadyRunning(
                f"Process {holder} has {str(self._path).removesuffix('.lock')} open.", pid=holder
            ) from None
        except BaseException:
            os.close(file)
            raise
        self._file = file
        # Best effort: a full disk must not keep the server from starting.
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)

    def drop(self) -> None:
        """Let the next process in. The file stays: removing it would race with another's ``take``."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Reserve:
    """Space kept aside, so that a full disk still has room for the deletions that free it."""

    def __init__(self, path: Path):
        self._path = path

    def make(self) -> bool:
        """Set the space aside. False when the disk has less than twice as much free."""
        try:
            if self._path.exists() and self._path.stat().st_size == RESERVE_BYTES:
                return True
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize < 2 * RESERVE_BYTES:
                return False
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(file, 0, RESERVE_BYTES)
            finally:
                os.close(file)
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Give the space to the database."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
