"""Blobs: bytes under a key, in a folder or in a bucket, whole or not at all."""

from __future__ import annotations

from typing import Protocol

from lowtide.kernel.errors import BlobExists
from lowtide.storage.blobs.disk import DiskBlobs
from lowtide.storage.blobs.model import DEADLINE, MAX_BLOB, MAX_LIST, Blob
from lowtide.storage.blobs.s3 import S3Blobs, S3Bucket, read_bucket

__all__ = [
    "DEADLINE",
    "MAX_BLOB",
    "MAX_LIST",
    "Blob",
    "Blobs",
    "DiskBlobs",
    "S3Blobs",
    "S3Bucket",
    "put_once",
    "read_bucket",
]


class Blobs(Protocol):
    """Keeps blobs. Every call ends within ``DEADLINE`` seconds.

    Every method raises ``BlobsLost`` when the storage does not answer or breaks off, and ``BlobsRefused``
    when it says no: wrong keys, no such bucket, no right to the folder. ``Busy`` beyond 64 calls at a time.
    ``ValueError`` for a key that is none (``model.check_key``).
    """

    @property
    def address(self) -> str:
        """Where this is, for people; holds no secret."""
        ...

    async def put(self, key: str, content: bytes, *, create: bool = False) -> None:
        """Keep ``content`` under ``key``: durable when this returns, and nobody ever sees a part of it.

        ``create``: only if there is none; else ``BlobExists``, and the one that is there is durable. That may
        be an earlier try of the same call, whose answer was lost: compare, or use ``put_once``. After another
        error it is not known whether it was written. ``TooLarge`` beyond ``MAX_BLOB``; ``StorageFull``.
        """
        ...

    async def get(
        self, key: str, *, first: int = 0, length: int | None = None, limit: int = MAX_BLOB
    ) -> bytes:
        """The blob, or ``length`` bytes of it from the byte ``first`` on; fewer where it ends before.

        What is read may be on its way still, and not durable: ``put_once`` makes it so.
        ``NotFound``; ``TooLarge``, before anything is read, for more than ``limit`` bytes. A blob that breaks
        off is ``BlobsLost`` and never a shorter one.
        """
        ...

    async def head(self, key: str) -> Blob | None:
        """What is known of the blob; None if there is none."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the blob, if it is there."""
        ...

    async def list(self, folder: str = "", after: str = "", limit: int = MAX_LIST) -> list[Blob]:
        """At most ``limit`` (1 to ``MAX_LIST``) blobs whose keys begin with ``folder``, behind ``after``.

        ``folder`` is empty or ends in a slash. ``after`` is a key that was listed before, of a blob that may
        be gone. Within one folder the order is that of the keys' bytes; where folders and blobs are mixed,
        it is the storage's own, the same from page to page. Fewer than ``limit`` blobs are the last ones.
        """
        ...

    async def close(self) -> None:
        """End what is under way here. Calls afterwards raise ``BlobsLost``."""
        ...


async def put_once(blobs: Blobs, key: str, content: bytes) -> None:
    """``put`` with ``create``, which the same content under the same key satisfies, too. Durable in the end.

    Raises as ``put`` does, ``BlobExists`` only for other content.
    """
    try:
        await blobs.put(key, content, create=True)
    except BlobExists:
        if await blobs.get(key) != content:
            raise
