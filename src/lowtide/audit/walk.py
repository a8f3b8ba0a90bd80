"""The whole log from its first entry on: through the archives, and on in the table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from lowtide.audit.chain import ChainHead
from lowtide.audit.keys import PublicKey
from lowtide.audit.model import GENESIS
from lowtide.audit.notes import read_note
from lowtide.audit.segments import ArchiveSegment, row_of, unpack
from lowtide.kernel.errors import NotFound
from lowtide.storage.blobs import Blobs
from lowtide.storage.db import Database, Row, Tx, load_queries

QUERIES = load_queries("lowtide.audit")

PAGE = 5_000
"""Entries read at once."""
MAX_SEGMENT = 16 * 1024 * 1024
"""Bytes of a segment's blob."""


class SegmentPlace(msgspec.Struct, frozen=True):
    """Where a segment of the log is. Times are milliseconds since 1970."""

    first: int
    last: int
    hash: bytes
    """The link behind its last entry."""
    first_at: int
    """The earliest time of its entries."""
    last_at: int
    blob: str


class ChainPiece(msgspec.Struct, frozen=True):
    """Entries that follow each other, or why they cannot be read."""

    first: int
    last: int
    rows: Sequence[Row] = ()
    """As the statement ``chained`` gives them."""
    archived: bool = False
    problem: str = ""


class Archives:
    """Reads segments. ``keys``: those that may have signed them."""

    def __init__(self, blobs: Blobs, keys: Sequence[PublicKey]):
        self._blobs, self._keys = blobs, keys

    async def read(self, blob: str, first: int, last: int) -> ArchiveSegment:
        """The segment of these entries, signed as it should be; its links are not followed.

        ``ValueError`` says what is wrong with it, also that it is not there. Raises as ``Blobs.get``.
        """
        try:
            content = await self._blobs.get(blob, limit=MAX_SEGMENT)
        except NotFound:
            raise ValueError(f"it is not in {self._blobs.address}") from None
        # Milliseconds of work, beside the event loop.
        segment = await asyncio.to_thread(unpack, content)
        places = [one.kept.seq for one in segment.entries]
        if places != list(range(first, last + 1)) or (segment.first, segment.last) != (first, last):
            raise ValueError(f"it holds other entries, {segment.first} to {segment.last}")
        note = read_note(segment.note, self._keys, blob)
        if (note.origin, note.seq, note.hash) != (segment.origin, last, segment.hash):
            raise ValueError("its signature is that of something else")
        return segment


async def walk(
    database: Database, archives: Archives | None, last: int, after: int = 0
) -> AsyncIterator[ChainPiece]:
    """Every entry behind ``after`` up to ``last``, in order. What is missing in the table is left out.

    May run beside a server that archives meanwhile: an archive is looked for in the snapshot in which the
    table is read. Bounded memory. Raises as ``Database.read`` and ``Blobs.get``; a segment that cannot be
    trusted is a ``ChainPiece`` with a ``problem``.
    """
    at = after
    while at < last:
        place, rows = await database.read(lambda tx, at=at: _next(tx, at, last))  # type: ignore[misc]
        if place is None:
            if not rows:
                return
            yield ChainPiece(rows[0][0], rows[-1][0], rows)
            at = rows[-1][0]
        else:
            yield await _archived(archives, place, at)
            at = place.last


async def read_end(tx: Tx) -> ChainHead:
    """Where the archives end."""
    rows = await tx.fetch(QUERIES["last_segment"])
    return ChainHead(rows[0][0], bytes(rows[0][1])) if rows else ChainHead(0, GENESIS)


async def places(tx: Tx, before: int, limit: int) -> list[SegmentPlace]:
    """At most ``limit`` segments that begin before the entry ``before``, the newest first."""
    return [_place(row) for row in await tx.fetch(QUERIES["segments"], before, limit)]


async def _next(tx: Tx, at: int, last: int) -> tuple[SegmentPlace | None, list[Row]]:
    found = await tx.fetch(QUERIES["segment_behind"], at)
    if found:
        return _place(found[0]), []
    return None, await tx.fetch(QUERIES["chained"], at, last, PAGE)


async def _archived(archives: Archives | None, place: SegmentPlace, at: int) -> ChainPiece:
    first = max(place.first, at + 1)
    try:
        if archives is None:
            raise ValueError("nobody said where it is")
        segment = await archives.read(place.blob, place.first, place.last)
    except ValueError as error:
        return ChainPiece(first, place.last, archived=True, problem=f"the archive {place.blob}: {error}")
    rows = [row_of(one) for one in segment.entries[first - place.first :]]
    return ChainPiece(first, place.last, rows, archived=True)


def _place(row: Row) -> SegmentPlace:
    first, last, hash, *rest = row
    return SegmentPlace(first, last, bytes(hash), *rest)
