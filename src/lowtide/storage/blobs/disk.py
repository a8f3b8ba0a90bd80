"""Blobs in a folder: a file each, written beside its place, synced, and then moved there."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from lowtide.kernel.errors import (
    BlobExists,
    BlobsLost,
    BlobsRefused,
    Busy,
    LowtideError,
    NotFound,
    StorageFull,
    TooLarge,
)
from lowtide.kernel.ids import Ids
from lowtide.storage.blobs.model import (
    AT_ONCE,
    DEADLINE,
    MAX_BLOB,
    MAX_LIST,
    Blob,
    check_folder,
    check_key,
    check_range,
)

T = TypeVar("T")
_LOG = logging.getLogger("lowtide.blobs")

THREADS = 4
"""That wait for the disk: a network file system that hangs takes no more."""
DRAFT = "."
"""How the names of files begin that are no blobs yet, or never became one."""
ABANDONED = 3600.0
"""Seconds after which nobody writes a draft any more: its writer's caller was told long ago."""
READY = 1024
"""Folders that are remembered as made and synced."""

_DRAFT = re.compile(re.escape(DRAFT) + "[0-9a-f]{32}")


class DiskBlobs:
    """``Blobs`` in ``folder``, which is made by the first ``put``.

    For any number of processes that see the same folder. A file system without hard links (FAT) cannot
    say "only if there is none": ``create`` is refused there.
    """

    def __init__(self, folder: Path, ids: Ids, *, deadline: float = DEADLINE):
        self._folder = folder
        self._ids = ids
        self._deadline = deadline
        self._threads: ThreadPoolExecutor | None = None
        self._running = 0
        self._closed = False
        self._ready: set[Path] = set()

    @property
    def address(self) -> str:
        """The folder."""
        return str(self._folder)

    async def put(self, key: str, content: bytes, *, create: bool = False) -> None:
        """As ``Blobs.put``. Two syncs of the disk.

        The first into a folder syncs those above it, too, and removes the drafts there of writers that were
        killed: one read of every name in it.
        """
        check_key(key)
        if len(content) > MAX_BLOB:
            raise TooLarge(f"A blob of {len(content)} bytes is too large.", limit=MAX_BLOB)
        await self._run(lambda: self._put(key, content, create), key)

    async def get(
        self, key: str, *, first: int = 0, length: int | None = None, limit: int = MAX_BLOB
    ) -> bytes:
        """As ``Blobs.get``."""
        check_key(key)
        check_range(first, length, limit)
        return await self._run(lambda: self._get(key, first, length, limit), key)

    async def head(self, key: str) -> Blob | None:
        """As ``Blobs.head``."""
        check_key(key)
        try:
            return await self._run(lambda: _blob(key, os.stat(self._folder / key)), key)
        except NotFound:
            return None

    async def delete(self, key: str) -> None:
        """As ``Blobs.delete``. Folders stay."""
        check_key(key)
        with suppress(NotFound):
            await self._run(lambda: self._delete(key), key)

    async def list(self, folder: str = "", after: str = "", limit: int = MAX_LIST) -> list[Blob]:
        """As ``Blobs.list``, in the order of the keys' bytes. Reads every name in the folders it passes."""
        check_folder(folder)
        if not 1 <= limit <= MAX_LIST:
            raise ValueError("a page has 1 to 1,000 blobs")
        return await self._run(lambda: _page(self._folder, folder, after, limit), folder)

    async def close(self) -> None:
        """Start nothing more; what a thread writes now it finishes."""
        self._closed = True
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T], key: str) -> T:
        if self._closed:
            raise BlobsLost("The blob storage is closed.")
        if self._running >= AT_ONCE:
            raise Busy("Too many blobs are being read and written.")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "lowtide-blobs")
        self._running += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.shield(future)
        except TimeoutError:
            raise BlobsLost(f"{self._folder} did not answer in time.") from None
        except OSError as error:
            raise self._told(error, key) from error

    def _ended(self, future: asyncio.Future[T]) -> None:
        self._running -= 1
        if not future.cancelled():
            future.exception()  # of a call that nobody waits for any more

    def _told(self, error: OSError, key: str) -> LowtideError:
        match error.errno:
            case errno.ENOENT:
                return NotFound(f"There is no blob '{key}' in {self._folder}.", hint="Look at the key.")
            case errno.EEXIST:
                return BlobExists(f"There is a blob '{key}' in {self._folder} already.")
            case errno.ENOSPC | errno.EDQUOT:
                return StorageFull(f"{self._folder} is full.")
            case errno.ENOTSUP | errno.EMLINK:
                return BlobsRefused(f"The file system of {self._folder} has no hard links.")
            case errno.EACCES | errno.EPERM | errno.EROFS | errno.ENOTDIR | errno.EISDIR | errno.ENOTEMPTY:
                return BlobsRefused(
                    f"{self._folder}/{key}: {error.strerror}.",
                    hint="See that the server's account may read and write the folder.",
                )
        return BlobsLost(f"{self._folder}/{key}: {error.strerror}.")

    def _put(self, key: str, content: bytes, create: bool) -> None:
        target = self._folder / key
        first = self._prepare(target.parent)
        draft = target.with_name(DRAFT + self._ids.token())
        try:
            with draft.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                written = os.fstat(file.fileno()).st_mtime
            if first:
                _sweep(target.parent, written - ABANDONED)
            if create:
                os.link(draft, target)
            else:
                draft.rename(target)
        except FileExistsError:
            # Who is told that it is there builds on it, and who put it there may not have synced it yet.
            _sync(target.parent)
            raise
        finally:
            draft.unlink(missing_ok=True)
        _sync(target.parent)

    def _prepare(self, folder: Path) -> bool:
        """Make the folder and those above it, each synced into the one that holds it; False if that was done.

        Also where another process has made them: it may not have come to the sync.
        """
        if folder in self._ready and folder.is_dir():
            return False
        one = self._folder
        if one.is_dir():
            # What holds it is the operator's: it may be closed to the server, or read-only.
            with suppress(OSError):
                _sync(one.parent)
        else:
            _make(one)
        for part in folder.relative_to(one).parts:
            one /= part
            _make(one)
        if len(self._ready) >= READY:
            self._ready.clear()
        self._ready.add(folder)
        return True

    def _get(self, key: str, first: int, length: int | None, limit: int) -> bytes:
        with (self._folder / key).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            wanted = max(0, size - first) if length is None else max(0, min(length, size - first))
            if wanted > limit:
                raise TooLarge(f"'{key}' has {wanted} bytes.", limit=limit)
            file.seek(first)
            found = file.read(wanted)
        if len(found) != wanted:
            raise BlobsLost(f"{self._folder}/{key} broke off.")
        return found

    def _delete(self, key: str) -> None:
        path = self._folder / key
        path.unlink()
        _sync(path.parent)


def _blob(key: str, stat: os.stat_result) -> Blob:
    return Blob(key, stat.st_size, stat.st_mtime_ns // 1_000_000)


def _page(root: Path, folder: str, after: str, limit: int) -> list[Blob]:
    found: list[Blob] = []
    for key in _keys(root, folder, after):
        with suppress(FileNotFoundError):  # it went meanwhile
            found.append(_blob(key, os.stat(root / key)))
        if len(found) == limit:
            break
    return found


def _keys(root: Path, folder: str, after: str) -> Iterator[str]:
    """The keys below ``folder`` that come behind ``after``, in order."""
    try:
        entries = list(os.scandir(root / folder))
    except FileNotFoundError:
        return
    # A folder stands where its blobs' keys do: "a-b" before "a/b" before "a0".
    names = sorted(entry.name + "/" * entry.is_dir() for entry in entries if not entry.name.startswith(DRAFT))
    for name in names:
        key = folder + name
        if not name.endswith("/"):
            if key > after:
                yield key
        elif key > after or after.startswith(key):
            yield from _keys(root, key, after)


def _sweep(folder: Path, before: float) -> None:
    """Remove the drafts in ``folder`` that were written before: their writers are no more."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                # The time is the file system's own, as that of the draft which it is compared with.
                if _DRAFT.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < before:
                    os.unlink(entry)
    except FileNotFoundError:
        pass  # another process is at it, too
    except OSError as error:
        _LOG.warning("what killed writers have left in %s stays: %s", folder, error)


def _make(folder: Path) -> None:
    """The folder, and those above it that are missing, each synced into the one that holds it."""
    if not folder.is_dir():
        if not folder.parent.is_dir():
            _make(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
