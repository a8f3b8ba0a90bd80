"""Walking the whole chain: is everything there, in its order, and as it was written?

The chain alone shows what was changed by somebody who did not compute it anew. Whoever owns the database
can do that, too; then the signed checkpoints that were carried elsewhere say otherwise. With none of these
at hand (``checkpoints=()``) a chain that was rewritten from some entry to its end looks whole.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from lowtide.audit.chain import ChainHead, read_head
from lowtide.audit.model import GENESIS, ChainedEntry, link, seal_personal
from lowtide.audit.notes import LogCheckpoint
from lowtide.audit.walk import Archives, walk
from lowtide.storage.db import Database, Dialect, Tx, load_queries
from lowtide.storage.db.migrate import Component, load

QUERIES = load_queries("lowtide.audit")

TOLD = 20
"""Faults that are told one by one."""

Kind = Literal[
    "changed", "missing", "reordered", "truncated", "forked", "detail", "tripwire", "checkpoint", "archive"
]


class Fault(msgspec.Struct, frozen=True):
    """Something that is not as it was written: where (0: nowhere in particular), what, and why we say so."""

    seq: int
    kind: Kind
    message: str
    entry: str = ""


class Verdict(msgspec.Struct):
    """What was found."""

    head: ChainHead
    entries: int = 0
    archived: int = 0
    """Entries of these that are in archives."""
    erased: int = 0
    """Entries whose personal data was erased."""
    waiting: int = 0
    """Entries that have no place yet, and that nothing protects until they have."""
    checkpoints: int = 0
    """Checkpoints that agree."""
    faulty: int = 0
    faults: list[Fault] = []
    """The first of them, by their place."""

    def add(self, fault: Fault) -> None:
        """One more."""
        self.faulty += 1
        if len(self.faults) < TOLD:
            self.faults.append(fault)


async def verify(
    database: Database,
    checkpoints: Sequence[LogCheckpoint] = (),
    progress: Callable[[int, int], None] = lambda done, of: None,
    archives: Archives | None = None,
) -> Verdict:
    """Walk every entry up to the present head; hold it against its link, its details and ``checkpoints``.

    The walk goes through ``archives`` and on in the table; that both meet is part of what is held to be true.
    ``progress(done, of)`` is called after each page. Reads pages of 5,000 in snapshots of their own, so it
    may run beside a server and holds nothing up. About 4 µs an entry, 10 with personal data; bounded memory.
    Raises as ``Database.read`` and ``Blobs.get`` do.
    """
    head = await database.read(read_head)
    verdict = Verdict(head)
    await _check_triggers(database, verdict)
    marks = sorted(checkpoints, key=lambda mark: mark.seq)
    at, stored = 0, GENESIS
    # What the next link may be made from: nothing is certain behind a gap.
    before: tuple[bytes, ...] = (GENESIS,)
    passed = _pass(marks, 0, GENESIS, verdict)
    erasures: dict[str, str] = {}
    async for piece in walk(database, archives, head.seq):
        if piece.problem:
            verdict.add(Fault(piece.first, "archive", piece.problem))
            at, stored, before = piece.last, b"", ()
            passed += sum(mark.seq <= at for mark in marks[passed:])
        if piece.archived:
            verdict.archived += len(piece.rows)
            erasures = {row[1]: row[7] for row in piece.rows if row[4] == "audit.erase"}
        for row in piece.rows:
            entry, stored = ChainedEntry(*row[:12]), bytes(row[12] or b"")
            if entry.seq != at + 1:
                _tell_gap(verdict, at + 1, entry.seq - 1)
                before = ()
            made = link(before[0], entry) if before else stored
            if made == stored or any(link(other, entry) == stored for other in before[1:]):
                before = (stored,)
            else:
                fault = await _why(database, archives, head.seq, entry, stored)
                verdict.add(fault)
                before = () if fault.kind == "reordered" else (stored, made)
            if entry.personal is not None and not (piece.archived and row[13] is None):
                salt, personal, erased_by, action, target = row[13:]
                if action is None and erased_by in erasures:
                    # The erasure is the last archive's, the entry that it speaks of is not.
                    action, target = "audit.erase", erasures[erased_by]
                problem = detail_problem(entry, salt, personal, erased_by, action, target)
                verdict.erased += erased_by is not None
                if problem:
                    verdict.add(Fault(entry.seq, "detail", problem, entry.id))
            at = entry.seq
            verdict.entries += 1
            if passed < len(marks) and marks[passed].seq <= at:
                passed += _pass(marks[passed:], at, stored, verdict)
        progress(at, head.seq)
    if at < head.seq:
        _tell_gap(verdict, at + 1, head.seq)
    elif stored not in (head.hash, b""):
        verdict.add(Fault(at, "forked", "the chain ends in another hash than the head that was kept"))
    for mark in marks[passed:]:
        verdict.add(
            Fault(
                head.seq + 1,
                "truncated",
                f"{mark.name} was signed when there were {mark.seq} entries; the chain ends at {head.seq}",
            )
        )
    await _count_others(database, head, verdict)
    verdict.faults.sort(key=lambda fault: fault.seq)
    return verdict


def _pass(marks: Sequence[LogCheckpoint], at: int, hash: bytes, verdict: Verdict) -> int:
    """Hold the marks up to ``at`` against the chain; how many there are."""
    count = 0
    for mark in marks:
        if mark.seq > at:
            break
        count += 1
        if mark.seq == at and mark.hash == hash:
            verdict.checkpoints += 1
        elif mark.seq == at:
            verdict.add(
                Fault(
                    at,
                    "forked",
                    f"{mark.name} was signed with another hash: entries up to {at} were written anew",
                )
            )
        else:
            verdict.add(Fault(mark.seq, "missing", f"{mark.name} speaks of an entry that is not there"))
    return count


def _tell_gap(verdict: Verdict, first: int, last: int) -> None:
    if last < first:
        verdict.add(Fault(last, "forked", "two entries have the same place"))
    elif last == verdict.head.seq:
        verdict.add(
            Fault(first, "truncated", f"the entries {first} to {last} are missing: the chain's end was cut")
        )
    else:
        which = f"entry {first} is" if first == last else f"the entries {first} to {last} are"
        verdict.add(Fault(first, "missing", f"{which} missing"))


async def _why(
    database: Database, archives: Archives | None, last: int, entry: ChainedEntry, hash: bytes
) -> Fault:
    """Was it changed, or did it stand elsewhere? Looks through the chain once more."""
    previous = GENESIS
    async for piece in walk(database, archives, last):
        for row in piece.rows:
            there = bytes(row[12] or b"")
            if row[0] != entry.seq:
                moved = link(previous, msgspec.structs.replace(entry, seq=row[0]))
                if moved in (hash, there):
                    return Fault(
                        entry.seq,
                        "reordered",
                        f"what stands at {entry.seq} was written as entry {row[0]}",
                        entry.id,
                    )
            previous = there
    return Fault(entry.seq, "changed", "the entry or its hash was changed", entry.id)


def detail_problem(
    entry: ChainedEntry,
    salt: str | None,
    personal: str | None,
    erased_by: str | None,
    action: str | None,
    target: str | None,
) -> str:
    """What is wrong with an entry's details, or nothing. ``action`` and ``target`` are their erasure's."""
    if erased_by is not None:
        if salt is not None or personal is not None:
            return "its details are said to be erased, and are there"
        if action != "audit.erase" or target not in (entry.actor, entry.target):
            return "its details were erased, but no entry says so"
        return ""
    if salt is None:
        return "its details are gone, but not by an erasure"
    if seal_personal(salt, personal or "") != entry.personal:
        return "its personal data or its salt was changed"
    return ""


async def _check_triggers(database: Database, verdict: Verdict) -> None:
    rows = await database.read(lambda tx: tx.fetch(QUERIES["triggers"]))
    there = {name: sql for name, sql in rows}  # noqa: C416 - rows are no pairs
    for name, sql in (await asyncio.to_thread(_tripwires, database.dialect)).items():
        # PostgreSQL tells only whether a trigger is there and switched on.
        if name not in there or there[name] not in (None, sql):
            verdict.add(Fault(0, "tripwire", f"the trigger {name} is missing, switched off or changed"))


def _tripwires(dialect: Dialect) -> dict[str, str]:
    """Each trigger as the migrations made it last."""
    text = "\n".join(one.sql for one in load([Component("audit", "lowtide.audit")], dialect))
    end = r"\nBEGIN [^\n]*; END" if dialect == "sqlite" else ""
    found = re.finditer(rf"CREATE TRIGGER (\w+)(?:[^;]*?){end}(?=;)", text.replace("\r\n", "\n"))
    return {one[1]: one[0] for one in found}


async def _count_others(database: Database, head: ChainHead, verdict: Verdict) -> None:
    async def work(tx: Tx) -> tuple[Any, int]:
        [(waiting, _)] = await tx.fetch(QUERIES["waiting"])
        now = await read_head(tx)
        [(beyond,)] = await tx.fetch(QUERIES["beyond"], now.seq)
        return waiting, beyond

    verdict.waiting, beyond = await database.read(work)
    if beyond:
        verdict.add(Fault(head.seq + 1, "forked", f"{beyond} entries stand behind the chain's head"))
