"""Reading the log with what was archived of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from lowtide.audit.chain import read_head
from lowtide.audit.model import ChainedEntry
from lowtide.audit.segments import row_of
from lowtide.audit.store import Found, Search, found, search
from lowtide.audit.walk import Archives, places, read_end, walk
from lowtide.kernel.errors import AuditBroken
from lowtide.storage.db import Database, Tx, load_queries

QUERIES = load_queries("lowtide.audit")

PLACES = 100
"""Segments of which one statement tells."""


async def find(database: Database, archives: Archives, wanted: Search) -> list[Found]:
    """The latest entries that ``wanted`` names, the newest first: of the table, then of the archives.

    Reads archives only when the table has fewer than ``wanted.limit``, and only those of the time, some 30 ms
    each. ``wanted.cursor`` is for the table. ``AuditBroken`` for an archive that cannot be trusted.
    """
    entries = (await database.read(lambda tx: search(tx, wanted))).entries
    known = {entry.id for entry in entries}
    before = 2**62
    while len(entries) < wanted.limit:
        page = await database.read(lambda tx, before=before: places(tx, before, PLACES))  # type: ignore[misc]
        for place in page:
            if place.last_at < wanted.since or (wanted.until and place.first_at >= wanted.until):
                continue
            try:
                segment = await archives.read(place.blob, place.first, place.last)
            except ValueError as error:
                raise AuditBroken(f"The archive {place.blob}: {error}.") from error
            # One that was archived a moment ago may still be in the table.
            entries += [
                found(row_of(one), archived=True)
                for one in reversed(segment.entries)
                if one.kept.id not in known and _wanted(one.kept, wanted)
            ]
            if len(entries) >= wanted.limit:
                break
        if len(page) < PLACES:
            break
        before = page[-1].first
    return entries[: wanted.limit]


async def export(database: Database, archives: Archives, wanted: Search) -> AsyncIterator[Found]:
    """Every chained entry that ``wanted`` names, in the order of the chain; no limit, bounded memory.

    Walks the whole log since ``wanted.since``. ``AuditBroken`` for an archive that cannot be trusted.
    """

    async def ends(tx: Tx) -> tuple[int, int]:
        [(first,)] = await tx.fetch(QUERIES["first_since"], wanted.since)
        return (await read_end(tx)).seq if first is None else first - 1, (await read_head(tx)).seq

    after, last = await database.read(ends)
    async for piece in walk(database, archives, last, after):
        if piece.problem:
            raise AuditBroken(f"Of {piece.problem}.")
        for row in piece.rows:
            if _wanted(ChainedEntry(*row[:12]), wanted):
                yield found(row, archived=piece.archived)


def _wanted(kept: ChainedEntry, wanted: Search) -> bool:
    return (
        kept.at >= wanted.since
        and (not wanted.until or kept.at < wanted.until)
        and kept.action.startswith(wanted.action)
        and wanted.actor in ("", kept.actor)
        and wanted.target in ("", kept.target)
        and wanted.request in ("", kept.request)
        and wanted.space in ("", kept.space)
    )
