"""Checkpoints: a signed note of the present state of the log, once an hour, to where it is safe."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import msgspec

from lowtide.audit.chain import Chain
from lowtide.audit.keys import AuditKeys, PublicKey
from lowtide.audit.notes import LogCheckpoint, note_of, read_note
from lowtide.audit.verify import Fault
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import NotFound, TooLarge
from lowtide.storage.blobs import MAX_LIST, Blobs, put_once

SUFFIX = ".note"
MAX_NOTE = 4_096
"""Bytes of a checkpoint."""
READ_AT_ONCE = 16
"""Checkpoints that are fetched at a time."""
LATELY = 86_400_000
"""Milliseconds: how far back the newest checkpoint is looked for first."""
_LOG = logging.getLogger("lowtide.audit")


class Checkpoints:
    """Signs the present state of the log, into ``blobs`` and the server's own log."""

    def __init__(self, chain: Chain, keys: AuditKeys, clock: Clock, blobs: Blobs | None):
        self._chain, self._keys, self._clock, self._blobs = chain, keys, clock, blobs

    async def sign(self) -> str:
        """A checkpoint of everything that is committed now: it is chained first."""
        await self._chain.sequence()
        return note_of(self._keys, await self._chain.head(), self._clock.now())

    async def write(self) -> None:
        """Sign, and keep the note: a line of the server's log, then a blob that is never overwritten.

        Raises as ``Blobs.put`` does.
        """
        text = await self.sign()
        _LOG.info("audit checkpoint: %s", msgspec.json.encode(text).decode())
        if self._blobs is not None:
            seq = int(text.split("\n")[1])
            name = f"{_moment(self._clock.now())}-{seq:012}{SUFFIX}"
            await put_once(self._blobs, name, text.encode())


async def read_notes(blobs: Blobs, keys: Sequence[PublicKey]) -> tuple[list[LogCheckpoint], list[Fault]]:
    """Every checkpoint in ``blobs``, and what is wrong with those that nobody signed.

    Raises as ``Blobs.get`` and ``list`` do: what cannot be read is no proof. Reads 16 at a time.
    """

    async def read(name: str) -> LogCheckpoint | Fault | None:
        async with places:
            try:
                text = (await blobs.get(name, limit=MAX_NOTE)).decode()
                return read_note(text, keys, name)
            except (ValueError, TooLarge) as error:
                return Fault(0, "checkpoint", f"{name}: {error}")
            except NotFound:
                return None  # it was carried away meanwhile

    places = asyncio.Semaphore(READ_AT_ONCE)
    found: list[LogCheckpoint | Fault | None] = []
    async for page in _names(blobs):
        found += await asyncio.gather(*map(read, page))
    return [one for one in found if isinstance(one, LogCheckpoint)], [
        one for one in found if isinstance(one, Fault)
    ]


async def last_at(blobs: Blobs, now: int) -> int | None:
    """When the newest checkpoint in ``blobs`` was signed, by its name; None if there is none.

    Looks among those of the last day first. Raises as ``Blobs.list`` does.
    """
    for after in (_moment(max(0, now - LATELY)), ""):
        times = [at async for page in _names(blobs, after) for name in page if (at := _time_of(name))]
        if times:
            return max(times)
    return None


async def _names(blobs: Blobs, after: str = "") -> AsyncIterator[list[str]]:
    page = await blobs.list(after=after)
    while page:
        yield [blob.key for blob in page if blob.key.endswith(SUFFIX)]
        if len(page) < MAX_LIST:
            return
        page = await blobs.list(after=page[-1].key)


def _time_of(name: str) -> int | None:
    try:
        return int(datetime.fromisoformat(name.partition("-")[0]).timestamp() * 1000)
    except ValueError:
        return None


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
