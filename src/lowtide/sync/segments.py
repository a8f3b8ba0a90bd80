"""Segments: a bucket's entries as they go over the wire, encoded once for everybody.

A segment is one page of a bucket from one place, read in one snapshot. Devices that stand at the
same place of an unchanged bucket share it: the row reads, the encoding and the compression.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from typing import Any
from zlib import crc32

import msgspec

from lowtide.kernel.bson import encode_data_line_bson
from lowtide.storage.db import Database, Row, Tx
from lowtide.sync.buckets import BucketPlace
from lowtide.sync.lines import DataLine, Entry, Format, Piece, line
from lowtide.sync.model import Bucket, BucketPage
from lowtide.sync.store import QUERIES

PAGE_ROWS = 1_000
"""Rows of a page: about 3 ms of one core, which bounds how long anybody else waits."""

SHARED_LINES = 256
"""Lines that are remembered for other connections; each lives for one delivery."""

RECENT_BUCKETS = 4_096
RECENT_ROWS = 100
RECENT_BYTES = 16 * 1024
"""What is remembered of the latest commits, so that live delivery reads no database: 64 MiB at most."""

FIRST_ROWS = 32
"""Rows that are read before it is known how large they are."""

PAGE_BYTES = 1024 * 1024
"""A page ends early beyond this, so that large rows cost no more memory than small ones."""

CACHE_BYTES = 64 * 1024 * 1024
"""Of segments that are kept; the least recently used leaves."""


class Want(msgspec.Struct, frozen=True):
    """What identifies a segment's content."""

    space: str
    bucket: int
    last: int
    place: BucketPlace
    format: Format
    text: bool
    """Rows as JSON text; otherwise as objects, for clients of the first protocol."""


class Segment(msgspec.Struct, frozen=True):
    """A page, ready to send, and the place after it."""

    piece: Piece
    end: BucketPlace
    rows: int
    last: int
    """The bucket's latest op in the snapshot: when it is not the one wanted, the view is old."""
    floor: int
    """Removals up to this op were forgotten before the page was read."""

    @property
    def done(self) -> bool:
        """Nothing of the bucket follows, as of the snapshot."""
        return self.end.last == self.last


class Segments:
    """A bounded cache of segments; the least recently used leave first."""

    def __init__(self, database: Database):
        self._database = database
        self._bytes = 0
        self._kept: OrderedDict[Want, Segment] = OrderedDict()
        self._sizes: dict[Want, int] = {}
        self._reading: dict[Want, asyncio.Task[Segment]] = {}
        self._lines: OrderedDict[bytes, Piece] = OrderedDict()
        self._pages: OrderedDict[int, tuple[int, BucketPage]] = OrderedDict()

    async def get(self, want: Want, *, alone: bool = False) -> Segment:
        """The segment; read by one, awaited by all who want the same. Raises as ``Database.read``.

        ``alone``: nobody else will want what a commit has just written, so it is not kept.
        """
        if alone and (rows := self._recent(want)) is not None:
            return segment_of(want, rows, want.last)
        kept = self._kept.get(want)
        if kept is not None:
            self._kept.move_to_end(want)
            self._count(want, kept)
            return kept
        if (rows := self._recent(want)) is not None:
            segment = segment_of(want, rows, want.last)
            self.keep(want, segment)
            return segment
        task = self._reading.get(want)
        if task is None:
            task = asyncio.create_task(self._read(want))
            self._reading[want] = task
        return await asyncio.shield(task)

    def _recent(self, want: Want) -> Sequence[Row] | None:
        """What the latest commit wrote, if that is all that is wanted."""
        page, place = self._pages.get(want.bucket), want.place
        if page is not None and page[0] == want.last and page[1].after == place.last == place.cursor:
            return page[1].rows
        return None

    def share(self, raw: bytes) -> Piece:
        """A piece for a line that many connections may send alike: compressed once for all of them."""
        piece = self._lines.get(raw)
        if piece is None:
            piece = self._lines[raw] = Piece(raw)
            if len(self._lines) > SHARED_LINES:
                self._lines.popitem(last=False)
        return piece

    def remember(self, bucket: Bucket, page: BucketPage) -> None:
        """A commit left ``bucket`` so: who stood before ``page`` need not ask the database.

        Only the latest is kept of each bucket, of ``RECENT_BUCKETS`` buckets, and nothing large.
        """
        self._pages.pop(bucket.id, None)
        if len(page.rows) > RECENT_ROWS or sum(len(row[4]) for row in page.rows) > RECENT_BYTES:
            return
        self._pages[bucket.id] = (bucket.last, page)
        if len(self._pages) > RECENT_BUCKETS:
            self._pages.popitem(last=False)

    async def close(self) -> None:
        """Wait for what is being read."""
        await asyncio.gather(*self._reading.values(), return_exceptions=True)

    def keep(self, want: Want, segment: Segment) -> None:
        """Put a segment that was read elsewhere into the cache."""
        if want in self._kept or segment.last != want.last:
            return
        self._kept[want] = segment
        self._count(want, segment)

    def _count(self, want: Want, segment: Segment) -> None:
        # A coded form may have come since it was counted last.
        size = segment.piece.size + 512
        self._bytes += size - self._sizes.get(want, 0)
        self._sizes[want] = size
        while self._bytes > CACHE_BYTES and len(self._kept) > 1:
            gone, _ = self._kept.popitem(last=False)
            self._bytes -= self._sizes.pop(gone)

    async def _read(self, want: Want) -> Segment:
        try:
            segment = await self._database.read(lambda tx: read_segment(tx, want))
            self.keep(want, segment)
            return segment
        finally:
            del self._reading[want]


async def read_segment(tx: Tx, want: Want) -> Segment:
    """Read and encode one page in the snapshot of ``tx``."""
    latest, floor = (await tx.fetch(QUERIES["bucket_last"], want.bucket))[0]
    rows = await read_page(tx, want.space, want.bucket, want.place.cursor, PAGE_ROWS)
    return segment_of(want, rows, latest, floor)


async def read_page(tx: Tx, space: str, bucket: int, after: int, most: int) -> list[Row]:
    """What a bucket says after op ``after``, as ``read_in_steps`` reads it."""
    return await read_in_steps(lambda at, n: tx.fetch(QUERIES["page"], space, bucket, at, n), after, most)


async def read_in_steps(
    fetch: Callable[[int, int], Awaitable[Sequence[Row]]], after: int, most: int
) -> list[Row]:
    """What ``fetch`` finds after op ``after``: at most ``most`` rows, or ``PAGE_BYTES`` and a little more.

    ``fetch``: (op, n) -> the next n rows; a row's first column is its op, its fifth its data or None. One or
    two calls where rows are small; where they are large, many at a time are never in memory.
    """
    rows: list[Row] = []
    size = largest = 0
    step = FIRST_ROWS
    while len(rows) < most and size <= PAGE_BYTES:
        step = min(step, most - len(rows))
        found = await fetch(rows[-1][0] if rows else after, step)
        sizes = [len(row[4] or "") for row in found]
        # Up to the row that makes the page full, and with it.
        ends = list(accumulate(sizes, initial=size))
        most_here = bisect_right(ends, PAGE_BYTES)
        rows += found[:most_here]
        size = ends[min(most_here, len(found))]
        largest = max([largest, *sizes])
        if len(found) < step:
            break
        step = max(FIRST_ROWS, (PAGE_BYTES - size) // max(largest, 1))
    return rows


def segment_of(want: Want, rows: Sequence[Row], latest: int, floor: int = 0) -> Segment:
    """Encode ``rows``, those after ``want.place`` of a bucket whose last op is ``latest``."""
    place = want.place
    seed = crc32(place.name.encode())
    before = crc32(str(place.last).encode(), seed) if place.last else 0
    last = place.last
    forget = place.forget
    size = 0
    more = len(rows) == PAGE_ROWS
    cursor = place.cursor
    text = want.text
    entry: Callable[..., Any] = _tuple if want.format == "bson" and text else Entry
    found: list[Any] = []
    for op, model, id, removed, data in rows:
        cursor = op
        if removed and op <= forget:
            continue
        number = str(op)
        hashed = crc32(number.encode(), seed)
        delta = (hashed - before) & 0xFFFFFFFF
        before = hashed
        last = op
        if removed:
            found.append(entry(number, "REMOVE", delta, model, id))
        else:
            found.append(entry(number, "PUT", delta, model, id, data if text else msgspec.Raw(data.encode())))
            size += len(data)
            if size > PAGE_BYTES:
                more = True
                break
    if not more and last != latest:
        # The latest entry was not for this device, or has moved: close with an op that only counts.
        number = str(latest)
        delta = (crc32(number.encode(), seed) - before) & 0xFFFFFFFF
        found.append(entry(number, "MOVE", delta, "", ""))
        cursor = last = latest
    # A page of forgotten removals has nothing to send, but the place moves on.
    raw = _encode(want, found, str(place.cursor), str(cursor), more) if found else b""
    end = BucketPlace(place.name, cursor, last, 0 if last == latest else forget)
    return Segment(Piece(raw), end, len(found), latest, floor)


def _tuple(
    op_id: str, op: str, checksum: int, model: str, id: str, data: str | None = None
) -> tuple[str, str, str, str, int, str | None]:
    return op_id, op, model, id, checksum, data


def _encode(want: Want, found: list[Any], after: str, next_after: str, more: bool) -> bytes:
    if want.format == "bson" and want.text:
        return encode_data_line_bson(want.place.name, found)
    return line("data", DataLine(want.place.name, after, next_after, more, found), want.format)


def want(topic: str, bucket: Bucket, place: BucketPlace, format: Format, text: bool) -> Want:
    """The next segment for a device at ``place`` of ``bucket``."""
    return Want(topic.partition("/")[0], bucket.id, bucket.last, place, format, text)
