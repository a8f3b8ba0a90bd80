"""Archiving: what is old leaves the table in signed segments.

Each step can be the last before a crash. A segment is put, read back and checked; then a row says that it
counts, in a transaction of its own; then the entries go, in short ones. Whatever is left to do, the next run
does. Until the row is there the segment is a blob that nobody heeds; afterwards it is the entries that
nobody heeds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from lowtide.audit.chain import ChainHead, read_head
from lowtide.audit.keys import AuditKeys
from lowtide.audit.model import ChainedEntry, Entry, link
from lowtide.audit.notes import note_of
from lowtide.audit.segments import MAX_ENTRIES, MAX_TEXT, Archived, archived, check_links, pack, unpack
from lowtide.audit.service import Audit
from lowtide.audit.verify import detail_problem
from lowtide.audit.walk import MAX_SEGMENT, Archives, read_end
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import AuditBroken, BlobExists, BlobsLost
from lowtide.storage.blobs import Blobs, put_once
from lowtide.storage.db import Database, Row, Tx, load_queries

QUERIES = load_queries("lowtide.audit")
_LOG = logging.getLogger("lowtide.audit")

FOLDER = "audit/"
DAY = 86_400_000
AT_ONCE = 1_000
"""Entries that one statement reads, and one transaction removes."""
LOOKED_AT = 8
"""Blobs of an earlier try that are looked at."""


class Archive:
    """Moves the entries that are older than ``days`` into ``blobs``; 0: none."""

    def __init__(
        self, database: Database, blobs: Blobs, keys: AuditKeys, audit: Audit, clock: Clock, days: int
    ):
        self._database, self._blobs, self._keys = database, blobs, keys
        self._audit, self._clock, self._days = audit, clock, days

    async def run(self) -> int:
        """Archive what is old enough; how many entries. Safe to run twice, and by two nodes at once.

        An entry that is not as it was written stays, and so does all behind it: ``AuditBroken``. Raises as
        ``Blobs.put`` and ``Database.write``; what is done by then stays done.
        """
        await self._sweep()
        total, added = 0, bool(self._days)
        while added:
            count = await self._add(self._clock.now() - self._days * DAY)
            await self._sweep()
            total, added = total + count, count > 0
        return total

    async def _add(self, before: int) -> int:
        """Archive one segment; how many entries it has."""
        # In one snapshot: another node may be at it, too.
        end, rows = await self._database.read(lambda tx: _old(tx, before))
        if not rows:
            return 0
        entries = await asyncio.to_thread(_checked, end, rows)
        blob = await self._adopt(end, entries)
        if blob is None:
            try:
                blob = await self._put(end, entries), entries[-1].kept.seq
            except BlobExists:
                # Another node was at it, and signed a moment before or after.
                blob = await self._adopt(end, entries)
                if blob is None:
                    raise
        name, last = blob
        taken = entries[: last - end.seq]
        if await self._database.write(lambda tx: self._record(tx, end, taken, name)):
            _LOG.info("archived the audit entries %d to %d as %s", end.seq + 1, last, name)
        return len(taken)

    async def _adopt(self, end: ChainHead, entries: Sequence[Archived]) -> tuple[str, int] | None:
        """The segment that an earlier try has put here, durable by now: its name, and its last entry."""
        begin = f"{FOLDER}{end.seq + 1:012}-"
        archives = Archives(self._blobs, self._keys.public)
        for blob in await self._blobs.list(FOLDER, begin, LOOKED_AT):
            last = _last_of(blob.key, begin)
            if last is None or not end.seq < last <= entries[-1].kept.seq:
                continue
            try:
                segment = await archives.read(blob.key, end.seq + 1, last)
            except ValueError as error:
                _LOG.warning("%s is not used: %s", blob.key, error)
                continue
            if segment.entries == list(entries[: last - end.seq]) and not check_links(segment, end):
                # Seen is not durable yet: whoever put it may have been killed in the middle.
                await put_once(self._blobs, blob.key, await self._blobs.get(blob.key, limit=MAX_SEGMENT))
                return blob.key, last
        return None

    async def _put(self, end: ChainHead, entries: Sequence[Archived]) -> str:
        head = ChainHead(entries[-1].kept.seq, entries[-1].hash)
        note = note_of(self._keys, head, self._clock.now())
        content = await asyncio.to_thread(pack, self._keys.origin, end.hash, entries, note)
        name = f"{FOLDER}{end.seq + 1:012}-{head.seq:012}-{head.hash.hex()[:16]}.ndjson.zst"
        await put_once(self._blobs, name, content)
        back = await self._blobs.get(name, limit=MAX_SEGMENT)
        if back != content or (await asyncio.to_thread(unpack, back)).entries != list(entries):
            raise BlobsLost(f"{name} did not come back from {self._blobs.address} as it was put there.")
        return name

    async def _record(self, tx: Tx, end: ChainHead, entries: Sequence[Archived], name: str) -> bool:
        """Let the segment count, unless another node was faster."""
        await tx.fetch(QUERIES["lock_head"])
        if await read_end(tx) != end:
            return False
        first, last = entries[0].kept.seq, entries[-1].kept.seq
        times = [one.kept.at for one in entries]
        hash = entries[-1].hash
        await tx.execute(
            QUERIES["add_segment"], first, last, hash, min(times), max(times), name, self._clock.now()
        )
        entry = Entry(
            action="audit.archive",
            actor="system",
            via="job",
            target=f"audit:{first}-{last}",
            after={"blob": name, "hash": hash.hex()},
        )
        await self._audit.write(tx, entry)
        return True

    async def _sweep(self) -> None:
        """Remove from the table what the archives hold."""

        async def remove(tx: Tx) -> int:
            await tx.fetch(QUERIES["lock_head"])
            end = await read_end(tx)
            await tx.execute(QUERIES["remove_details"], end.seq, AT_ONCE)
            return len(await tx.fetch(QUERIES["remove_entries"], end.seq, AT_ONCE))

        while await self._database.write(remove) == AT_ONCE:
            pass


async def _old(tx: Tx, before: int) -> tuple[ChainHead, list[Row]]:
    """The end of the archives, and the rows behind it for one segment."""
    end, head = await read_end(tx), await read_head(tx)
    rows: list[Row] = []
    text, at = 0, end.seq
    while len(rows) < MAX_ENTRIES:
        page = await tx.fetch(QUERIES["chained"], at, head.seq, AT_ONCE)
        for row in page:
            # The most that JSON makes of a character, and of the hashes.
            text += 6 * sum(map(len, row[3:9])) + 400
            if row[2] >= before or text > MAX_TEXT:
                return end, rows
            rows.append(row)
        if len(page) < AT_ONCE:
            break
        at = page[-1][0]
    return end, rows[:MAX_ENTRIES]


def _checked(end: ChainHead, rows: Sequence[Row]) -> list[Archived]:
    """What is archived of ``rows``. ``AuditBroken`` if one of them is not as it was written."""
    at, hash = end.seq, end.hash
    for row in rows:
        entry = ChainedEntry(*row[:12])
        at, hash = at + 1, link(hash, entry)
        if entry.seq != at or hash != bytes(row[12] or b""):
            raise AuditBroken(f"The audit log is not whole at entry {at}: it is not archived.")
        problem = detail_problem(entry, *row[13:]) if entry.personal is not None else ""
        if problem and row[15] is not None and row[16] is None:
            problem = ""  # the entry of the erasure was archived before this one
        if problem:
            raise AuditBroken(f"The audit entry {at} is not archived: {problem}.")
    return [archived(row) for row in rows]


def _last_of(key: str, begin: str) -> int | None:
    last = key.removeprefix(begin).partition("-")[0]
    return int(last) if key.startswith(begin) and last.isdecimal() else None
