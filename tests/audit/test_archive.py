"""Archives: what is old leaves the table, and nothing is lost, told twice or left unproved by it."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lowtide.audit import Audit, Chain, Entry, archive
from lowtide.audit.archive import Archive
from lowtide.audit.history import export, find
from lowtide.audit.keys import AuditKeys, public_key
from lowtide.audit.segments import pack, unpack
from lowtide.audit.store import Search, search
from lowtide.audit.verify import Verdict, verify
from lowtide.audit.walk import Archives, walk
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import AuditBroken, BlobsLost, StatementFailed
from lowtide.kernel.ids import SeededIds
from lowtide.storage.blobs import Blobs, DiskBlobs, S3Blobs, read_bucket
from lowtide.storage.db import Database
from tests.audit.conftest import Sql
from tests.s3_server import BUCKET, KEY_ID, SECRET, S3Server

pytestmark = pytest.mark.anyio
Fill = Callable[[int], Awaitable[None]]
DAYS = 86_400.0


class Killed(Exception):
    """The process ends here."""


class Fragile:
    """Stands for a database or a storage of blobs, and dies at a call, before or after it is done."""

    def __init__(self, real: Any, calls: list[int]):
        self._real, self._calls = real, calls

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in ("put", "get", "list", "write"):
            return real

        async def call(*arguments: Any, **named: Any) -> Any:
            self._calls[0] -= 1
            if self._calls[0] == 0 and self._calls[1] == 0:
                raise Killed
            done = await real(*arguments, **named)
            if self._calls[0] == 0:
                raise Killed
            return done

        return call


@pytest.fixture
async def blobs(tmp_path: Path, ids: SeededIds) -> AsyncIterator[Blobs]:
    blobs = DiskBlobs(tmp_path / "blobs", ids)
    yield blobs
    await blobs.close()


@pytest.fixture
def archiver(
    database: Database,
    blobs: Blobs,
    keys: AuditKeys,
    audit: Audit,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> Archive:
    """Archives what is older than 30 days, four entries a segment."""
    monkeypatch.setattr(archive, "MAX_ENTRIES", 4)
    monkeypatch.setattr(archive, "AT_ONCE", 3)
    return Archive(database, blobs, keys, audit, clock, 30)


@pytest.fixture
def prove(database: Database, blobs: Blobs, keys: AuditKeys) -> Callable[[], Awaitable[Verdict]]:
    """Verify the log with its archives."""

    async def run() -> Verdict:
        return await verify(database, archives=Archives(blobs, keys.public))

    return run


def told(verdict: Verdict) -> list[tuple[int, str]]:
    return [(fault.seq, fault.kind) for fault in verdict.faults]


async def contents(database: Database, blobs: Blobs, keys: AuditKeys, last: int) -> list[Any]:
    """What the chain holds, from the first entry on."""
    pieces = [piece async for piece in walk(database, Archives(blobs, keys.public), last)]
    return [tuple(row[:13]) for piece in pieces for row in piece.rows]


class TestArchiving:
    async def test_what_is_old_leaves_the_table_and_stays_in_the_chain(
        self, archiver: Archive, prove: Any, filled: Fill, clock: ManualClock, sql: Sql, chain: Chain,
        database: Database, blobs: Blobs, keys: AuditKeys,
    ) -> None:  # fmt: skip
        """Old entries are in segments, young ones in the table; together they are the chain as it was."""
        await filled(10)
        clock.advance(31 * DAYS)
        await filled(5)
        before = await contents(database, blobs, keys, 15)
        assert await archiver.run() == 10
        assert await sql("SELECT min(seq) FROM audit_entry") == [(11,)]
        assert await sql("SELECT first, last FROM audit_segment ORDER BY first") == [(1, 4), (5, 8), (9, 10)]
        assert len(await blobs.list("audit/")) == 3
        assert await contents(database, blobs, keys, 15) == before
        await chain.sequence()
        verdict = await prove()
        assert (verdict.entries, verdict.archived, told(verdict)) == (18, 10, [])
        assert await archiver.run() == 0
        assert [row[4] for row in (await contents(database, blobs, keys, 18))[15:]] == ["audit.archive"] * 3

    async def test_nothing_is_archived_unless_it_is_asked_for(
        self,
        database: Database,
        blobs: Blobs,
        keys: AuditKeys,
        audit: Audit,
        clock: ManualClock,
        filled: Fill,
    ) -> None:
        """By default every entry stays in the table, for ever."""
        await filled(3)
        clock.advance(5_000 * DAYS)
        assert await Archive(database, blobs, keys, audit, clock, 0).run() == 0
        assert await blobs.list() == []

    async def test_an_archive_holds_nothing_that_must_be_forgotten(
        self, archiver: Archive, prove: Any, audit: Audit, chain: Chain, filled: Fill, clock: ManualClock,
        sql: Sql, database: Database, blobs: Blobs,
    ) -> None:  # fmt: skip
        """Personal data and the salts of users go with their entry; an erasure takes what is younger."""
        await filled(4)
        system = Entry(action="settings.change", actor="system", target="settings", after={"port": 1})
        await database.write(lambda tx: audit.write(tx, system))
        await chain.sequence()
        salts = {salt for (salt,) in await sql("SELECT salt FROM audit_detail")}
        [(kept,)] = await sql(
            "SELECT salt FROM audit_detail WHERE entry = (SELECT id FROM audit_entry WHERE seq = 5)"
        )
        clock.advance(31 * DAYS)
        await filled(4)
        assert await archiver.run() == 5
        texts = [unpack(await blobs.get(blob.key)) for blob in await blobs.list("audit/")]
        text = repr(texts)
        assert "192.0.2.1" not in text
        assert [salt for salt in salts if salt in text] == [kept]
        assert not salts & {salt for (salt,) in await sql("SELECT salt FROM audit_detail")}
        assert await database.write(lambda tx: audit.erase(tx, "user:2")) == 1  # the young one's
        await chain.sequence()
        verdict = await prove()
        assert (verdict.erased, told(verdict)) == (1, [])

    async def test_an_erasure_may_be_archived_before_what_it_erased(
        self, archiver: Archive, prove: Any, audit: Audit, chain: Chain, filled: Fill, clock: ManualClock,
        database: Database, ids: SeededIds,
    ) -> None:  # fmt: skip
        """Where nodes' clocks differ the chain has them in this order; it verifies all the way."""
        await filled(3)
        ahead = ManualClock()
        ahead.advance(clock.now() / 1000 - ahead.now() / 1000 + 60)
        late = Audit(ahead, SeededIds(ahead, 7), pepper=b"pepper")
        entry = Entry(action="x", actor="user:ann", personal={"ip": "192.0.2.9"})
        await database.write(lambda tx: late.write(tx, entry))
        assert await database.write(lambda tx: audit.erase(tx, "user:ann")) == 1
        clock.advance(120)
        await chain.sequence()
        clock.advance(30 * DAYS)
        assert await archiver.run() == 5
        assert told(await prove()) == []

    async def test_what_is_written_only_when_it_changes_is_known_without_its_entry(
        self, archiver: Archive, audit: Audit, chain: Chain, clock: ManualClock, database: Database, sql: Sql
    ) -> None:
        """The last settings are remembered when their entry is in an archive."""
        entry = Entry(action="settings.change", actor="system", target="settings", after={"port": 1})
        assert not await database.write(lambda tx: audit.write_change(tx, entry))  # it is the first
        await chain.sequence()
        clock.advance(31 * DAYS)
        assert await archiver.run() == 1
        before = (await chain.head()).seq, await sql("SELECT count(*) FROM audit_entry")
        assert not await database.write(lambda tx: audit.write_change(tx, entry))
        assert before == ((await chain.head()).seq, await sql("SELECT count(*) FROM audit_entry"))
        other = msgspec.structs.replace(entry, after={"port": 2})
        assert await database.write(lambda tx: audit.write_change(tx, other))

    async def test_archives_may_be_in_a_bucket(
        self, database: Database, keys: AuditKeys, audit: Audit, filled: Fill, clock: ManualClock,
        s3_server: S3Server,
    ) -> None:  # fmt: skip
        """Segments are put there, read back and proved from there."""
        await filled(20)
        clock.advance(31 * DAYS)
        address = f"s3://{BUCKET}/archive-{database.dialect}"
        bucket = read_bucket(address, endpoint=s3_server.endpoint, key_id=KEY_ID, secret=SECRET)
        blobs = S3Blobs(bucket)
        assert await Archive(database, blobs, keys, audit, clock, 30).run() == 20
        verdict = await verify(database, archives=Archives(blobs, keys.public))
        assert (verdict.archived, told(verdict)) == (20, [])


class TestReading:
    async def test_the_log_is_read_as_if_nothing_had_left(
        self, archiver: Archive, filled: Fill, clock: ManualClock, chain: Chain, database: Database,
        blobs: Blobs, keys: AuditKeys,
    ) -> None:  # fmt: skip
        """Lists and exports give the same entries; archived ones have no personal data, and say so."""
        archives = Archives(blobs, keys.public)
        started = clock.now()
        await filled(10)
        clock.advance(31 * DAYS)
        await filled(4)
        searches = (
            Search(limit=100),
            Search(limit=6),
            Search(target="thing:2", limit=100),
            Search(action="thing.", actor="user:7"),
            Search(action="other."),
            Search(since=started + 55, limit=100),
            Search(since=started + 25, until=started + 65),
            Search(space="elsewhere"),
        )
        before = [await find(database, archives, wanted) for wanted in searches]
        exported = [[one async for one in export(database, archives, wanted)] for wanted in searches]
        assert [len(found) for found in before] == [14, 6, 2, 1, 0, 8, 4, 0]
        assert [len(found) for found in exported] == [14, 14, 2, 1, 0, 8, 4, 0]
        assert await archiver.run() == 10
        for wanted, listed, whole in zip(searches, before, exported, strict=True):
            found = [one.id for one in await find(database, archives, wanted) if one.action[:6] != "audit."]
            assert found == [one.id for one in listed][: len(found)]
            assert len(found) >= min(len(listed), wanted.limit - 3)
            again = [one async for one in export(database, archives, wanted)]
            assert [one.id for one in again] == [one.id for one in whole]
            for one in again:
                assert one.archived == (one.seq is not None and one.seq <= 10)
                assert not (one.archived and one.personal)
        page = await database.read(lambda tx: search(tx, Search(action="thing.")))
        assert (len(page.entries), page.archived) == (4, 10)

    async def test_an_archive_that_cannot_be_trusted_is_not_read_over(
        self, archiver: Archive, filled: Fill, clock: ManualClock, database: Database, blobs: Blobs,
        keys: AuditKeys,
    ) -> None:  # fmt: skip
        """A list or an export with a hole is an error, and never a shorter answer."""
        await filled(8)
        clock.advance(31 * DAYS)
        await archiver.run()
        [first, _] = await blobs.list("audit/")
        await blobs.delete(first.key)
        archives = Archives(blobs, keys.public)
        with pytest.raises(AuditBroken):
            await find(database, archives, Search(limit=100))
        with pytest.raises(AuditBroken):
            _ = [one async for one in export(database, archives, Search())]


class TestCrash:
    async def test_whatever_call_is_the_last_nothing_is_lost(
        self, archiver: Archive, prove: Any, filled: Fill, clock: ManualClock, chain: Chain, audit: Audit,
        database: Database, blobs: Blobs, keys: AuditKeys,
    ) -> None:  # fmt: skip
        """A run that ends at any of its calls, done or not, leaves a whole log, and the next run finishes."""
        killed = 0
        for number in range(1, 9):
            for after in (0, 1):
                await filled(5)
                clock.advance(31 * DAYS)
                await chain.sequence()
                [last] = [(await chain.head()).seq]
                before = await contents(database, blobs, keys, last)
                calls = [number, after]
                fragile = Archive(
                    Fragile(database, calls),
                    Fragile(blobs, calls),
                    keys,
                    audit,
                    clock,
                    30,
                )
                try:
                    await fragile.run()
                except Killed:
                    killed += 1
                assert await contents(database, blobs, keys, last) == before
                assert told(await prove()) == []
                await archiver.run()
                assert await contents(database, blobs, keys, last) == before
                verdict = await prove()
                assert (told(verdict), verdict.archived) == ([], last)
        assert killed == 16

    async def test_a_segment_that_another_run_has_put_counts_once_it_is_durable(
        self, archiver: Archive, filled: Fill, clock: ManualClock, sql: Sql, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run ends between the segment's name and the folder's sync: the next one syncs before its row."""
        await filled(4)
        clock.advance(31 * DAYS)
        real, order = os.fsync, []

        def fails(handle: int) -> None:
            if Path(f"/proc/self/fd/{handle}").readlink().name == "audit":
                raise OSError(errno.EIO, "the power is gone")
            real(handle)

        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(BlobsLost):
            await archiver.run()
        assert await sql("SELECT count(*) FROM audit_segment") == [(0,)]

        def fsync(handle: int) -> None:
            order.append(Path(f"/proc/self/fd/{handle}").readlink().name)
            real(handle)

        async def record(*given: Any) -> bool:
            order.append("recorded")
            return await recorded(*given)

        recorded = archiver._record
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(archiver, "_record", record)
        await archiver.run()
        assert await sql("SELECT count(*) FROM audit_segment") == [(1,)]
        assert "audit" in order[: order.index("recorded")]

    async def test_nodes_that_archive_at_once_do_it_once(
        self, archiver: Archive, prove: Any, filled: Fill, clock: ManualClock, database: Database,
        blobs: Blobs, keys: AuditKeys, audit: Audit, sql: Sql,
    ) -> None:  # fmt: skip
        """Each entry is in one segment, while others verify all the time."""
        await filled(24)
        clock.advance(31 * DAYS)
        others = [Archive(database, blobs, keys, audit, clock, 30) for _ in range(2)]
        runs = [asyncio.create_task(one.run()) for one in (archiver, *others)]
        while not all(run.done() for run in runs):
            assert told(await prove()) == []
        await asyncio.gather(*runs)
        assert await sql("SELECT count(*), sum(last - first + 1) FROM audit_segment") == [(6, 24)]
        assert await sql("SELECT count(*) FROM audit_entry WHERE seq IS NOT NULL") == [(0,)]
        assert told(await prove()) == []

    async def test_a_killed_process_loses_nothing(self, tmp_path: Path) -> None:
        """After kill -9 in the middle of segments, again and again, every entry is there once."""
        program = [sys.executable, "-m", "tests.audit.archiving", str(tmp_path)]
        made = await asyncio.to_thread(subprocess.run, [*program, "fill"], check=True, capture_output=True)
        key = made.stdout.decode().strip()
        archived = 0
        for kill_after in (1, 3):
            process = await asyncio.create_subprocess_exec(*program, "run", stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            for _ in range(kill_after):
                await process.stdout.readline()
            process.kill()
            await process.wait()
            checked = await asyncio.to_thread(
                subprocess.run, [*program, "verify", key], check=True, capture_output=True
            )
            archived, entries, faults = msgspec.json.decode(checked.stdout)
            assert (faults, entries >= 600) == ([], True)
        assert archived >= 2 * 50


class TestTampering:
    @pytest.fixture
    async def archived(
        self, archiver: Archive, filled: Fill, clock: ManualClock, chain: Chain, blobs: Blobs
    ) -> list[str]:
        """Three archives of four entries, and four in the table."""
        await filled(12)
        clock.advance(31 * DAYS)
        await filled(4)
        assert await archiver.run() == 12
        await chain.sequence()
        return [blob.key for blob in await blobs.list("audit/")]

    async def test_an_altered_archive_is_named(
        self, archived: list[str], prove: Any, blobs: Blobs, keys: AuditKeys
    ) -> None:
        """Gone, cut, filled with other things, exchanged, signed by a stranger: told, and where it begins."""
        second, third = await blobs.get(archived[1]), await blobs.get(archived[2])
        segment = unpack(second)
        text, _, _ = segment.note.partition("\n\n")
        stranger = Ed25519PrivateKey.generate()
        id = public_key("lowtide/notes", stranger.public_key()).id
        signature = base64.b64encode(id + stranger.sign(f"{text}\n".encode())).decode()
        forged = f"{text}\n\n\u2014 lowtide/notes {signature}\n"
        for content in (
            None,
            b"",
            second[:-9],
            second + b"x",
            third,
            pack(segment.origin, segment.previous, segment.entries, forged),
            pack(segment.origin, segment.previous, segment.entries, unpack(third).note),
            pack(segment.origin, segment.previous, segment.entries[:-1], segment.note),
        ):
            await (blobs.delete(archived[1]) if content is None else blobs.put(archived[1], content))
            assert told(await prove()) == [(5, "archive")]
        await blobs.put(archived[1], second)
        assert told(await prove()) == []

    async def test_an_altered_entry_in_an_archive_is_named(
        self, archived: list[str], prove: Any, blobs: Blobs
    ) -> None:
        """Under the same signature, the entry that was changed is told by its place; others are not."""
        segment = unpack(await blobs.get(archived[1]))
        entries = list(segment.entries)
        kept = msgspec.structs.replace(entries[1].kept, actor="user:innocent")
        entries[1] = msgspec.structs.replace(entries[1], kept=kept)
        await blobs.put(archived[1], pack(segment.origin, segment.previous, entries, segment.note))
        assert told(await prove()) == [(6, "changed")]

    async def test_an_archive_that_nobody_names_is_no_gap(
        self, archived: list[str], database: Database, keys: AuditKeys, tmp_path: Path, ids: SeededIds
    ) -> None:
        """Without the archives, or at another place, the log is not whole."""
        assert told(await verify(database)) == [(1, "archive"), (5, "archive"), (9, "archive")]
        elsewhere = Archives(DiskBlobs(tmp_path / "elsewhere", ids), keys.public)
        assert told(await verify(database, archives=elsewhere)) == [
            (1, "archive"),
            (5, "archive"),
            (9, "archive"),
        ]

    async def test_the_tripwires_let_go_of_what_is_archived_only(
        self, archived: list[str], sql: Sql, disarm: Callable[[], Awaitable[list[str]]], prove: Any
    ) -> None:
        """No statement removes a younger entry or its details, or rewrites what says where archives are."""
        for statement in (
            "DELETE FROM audit_entry WHERE seq = 13",
            "DELETE FROM audit_detail WHERE entry = (SELECT id FROM audit_entry WHERE seq = 14)",
            "DELETE FROM audit_segment WHERE first = 9",
            "UPDATE audit_segment SET last = 99 WHERE first = 9",
            "INSERT INTO audit_segment SELECT 15, 16, hash, 1, 1, 'x', 1 FROM audit_segment WHERE first = 9",
            "INSERT INTO audit_segment SELECT 13, 12, hash, 1, 1, 'x', 1 FROM audit_segment WHERE first = 9",
        ):
            with pytest.raises(StatementFailed):
                await sql(statement)
        assert told(await prove()) == []
        await disarm()
        await sql("DELETE FROM audit_segment WHERE first = 5")
        kinds = told(await prove())
        assert (5, "missing") in kinds
        assert {seq for seq, kind in kinds if kind == "tripwire"} == {0}

    async def test_what_was_altered_is_not_archived(
        self, archiver: Archive, filled: Fill, clock: ManualClock, sql: Sql, blobs: Blobs,
        disarm: Callable[[], Awaitable[list[str]]], prove: Any,
    ) -> None:  # fmt: skip
        """An entry or personal data that was changed stays where it is, as evidence, with all behind it."""
        await filled(8)
        arms = await disarm()
        await sql("""UPDATE audit_detail SET personal = '{"ip":"203.0.113.9"}' WHERE entry =
            (SELECT id FROM audit_entry WHERE seq = 6)""")
        for statement in arms:
            await sql(statement)
        clock.advance(31 * DAYS)
        with pytest.raises(AuditBroken, match="entry 6"):
            await archiver.run()
        assert await sql("SELECT min(seq), max(seq) FROM audit_entry WHERE seq IS NOT NULL") == [(5, 8)]
        assert len(await blobs.list("audit/")) == 1
        assert told(await prove()) == [(6, "detail")]
