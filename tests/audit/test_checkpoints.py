"""Checkpoints: signed, kept, believed only with the right key."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lowtide.audit import Chain
from lowtide.audit.checkpoints import Checkpoints, last_at, read_notes
from lowtide.audit.keys import AuditKeys, parse_key, public_key
from lowtide.audit.notes import read_note
from lowtide.audit.verify import verify
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import BlobExists, BlobsLost
from lowtide.kernel.ids import SeededIds
from lowtide.storage.blobs import Blobs, DiskBlobs, S3Blobs, read_bucket
from lowtide.storage.db import Database
from lowtide.storage.vault import Vault
from tests.audit.conftest import Sql
from tests.s3_server import BUCKET, KEY_ID, SECRET, S3Server

pytestmark = pytest.mark.anyio
Fill = Callable[[int], Awaitable[None]]


@pytest.fixture
async def notes(tmp_path: Path, ids: SeededIds) -> AsyncIterator[Blobs]:
    blobs = DiskBlobs(tmp_path / "notes", ids)
    yield blobs
    await blobs.close()


@pytest.fixture
def checkpoints(chain: Chain, keys: AuditKeys, clock: ManualClock, notes: Blobs) -> Checkpoints:
    return Checkpoints(chain, keys, clock, notes)


class TestKeys:
    async def test_every_node_has_the_same_keys(
        self, keys: AuditKeys, vault: Vault, database: Database, clock: ManualClock
    ) -> None:
        """A second node reads what the first made, and hashes values alike."""
        other = AuditKeys(database, vault, clock, SeededIds(clock, 9), "lowtide/notes")
        await other.load()
        assert other.public[0].text == keys.public[0].text
        assert other.pepper == keys.pepper
        assert len(keys.pepper) == 32

    async def test_the_database_holds_no_key_in_the_clear(self, keys: AuditKeys, sql: Sql) -> None:
        """Neither the pepper nor the private key stands in a row as it is."""
        rows = await sql("SELECT sealed FROM audit_key")
        assert len(rows) == 2
        for (sealed,) in rows:
            assert sealed.startswith("sealed1.")
            assert base64.urlsafe_b64encode(keys.pepper).decode().rstrip("=") not in sealed

    async def test_a_key_can_be_written_down(self, keys: AuditKeys) -> None:
        """The printed key reads back as the same; one with a wrong character does not."""
        text = keys.public[0].text
        assert parse_key(text).id == keys.public[0].id
        for wrong in (text.replace("notes", "note"), text[:-6] + "AAAAA=", "x", text.replace("+", " ", 1)):
            with pytest.raises(ValueError, match=r"."):
                parse_key(wrong)


class TestNotes:
    async def test_a_checkpoint_says_what_the_log_is(
        self, checkpoints: Checkpoints, keys: AuditKeys, chain: Chain, filled: Fill, clock: ManualClock
    ) -> None:
        """Origin, size, hash and time arrive, and an outside key is enough to read it."""
        await filled(5)
        note = read_note(await checkpoints.sign(), [parse_key(keys.public[0].text)])
        head = await chain.head()
        assert (note.origin, note.seq, note.hash, note.at) == ("lowtide/notes", 5, head.hash, clock.now())

    async def test_a_forged_checkpoint_is_not_believed(
        self, checkpoints: Checkpoints, keys: AuditKeys, filled: Fill
    ) -> None:
        """No part of a note can be changed, and no other key signs one."""
        await filled(5)
        text = await checkpoints.sign()
        stranger = public_key("lowtide/notes", Ed25519PrivateKey.generate().public_key())
        with pytest.raises(ValueError, match="none of the keys"):
            read_note(text, [stranger])
        with pytest.raises(ValueError, match="none of the keys"):
            read_note(text, [])
        lines = text.split("\n")
        for at, line in enumerate(lines[:4]):
            forged = [*lines[:at], line[:-1] + ("1" if line[-1] != "1" else "2"), *lines[at + 1 :]]
            with pytest.raises(ValueError, match="none of the keys"):
                read_note("\n".join(forged), keys.public)
        for broken in ("", "\n\n", text[:40], text.replace("\n\n", "\n"), text.replace("\u2014", "-")):
            with pytest.raises(ValueError, match=r"no checkpoint|none of the keys"):
                read_note(broken, keys.public)

    async def test_a_new_key_signs_and_the_old_one_is_remembered(
        self, checkpoints: Checkpoints, keys: AuditKeys, filled: Fill, clock: ManualClock
    ) -> None:
        """After a rotation old notes verify by the old key, new ones by the new key only."""
        await filled(1)
        old, before = await checkpoints.sign(), keys.public[0]
        clock.advance(60)
        fresh = await keys.rotate()
        new = await checkpoints.sign()
        assert read_note(old, keys.public).seq == read_note(new, keys.public).seq == 1
        with pytest.raises(ValueError, match="none of the keys"):
            read_note(new, [before])
        with pytest.raises(ValueError, match="none of the keys"):
            read_note(old, [fresh])


class TestFolder:
    async def test_checkpoints_are_kept_and_agree(
        self,
        checkpoints: Checkpoints,
        keys: AuditKeys,
        filled: Fill,
        clock: ManualClock,
        database: Database,
        notes: Blobs,
        tmp_path: Path,
    ) -> None:
        """Each is a file of its own, and all are held against the log; a forged one is a fault."""
        folder = tmp_path / "notes"
        for _ in range(3):
            await filled(4)
            await checkpoints.write()
            clock.advance(3600)
        marks, faults = await read_notes(notes, keys.public)
        assert ([mark.seq for mark in marks], faults) == ([4, 8, 12], [])
        assert (await verify(database, marks)).checkpoints == 3
        signed = clock.now() // 1000 * 1000 - 3_600_000
        assert await last_at(notes, clock.now()) == await last_at(notes, clock.now() + 10**9) == signed
        path = sorted(folder.iterdir())[1]
        path.write_text(path.read_text().replace("\n8\n", "\n7\n"))
        (folder / "other.txt").write_text("no checkpoint")
        (folder / "two words.note").write_text("no checkpoint")
        (folder / "huge.note").write_text("no checkpoint" * 1_000)
        marks, faults = await read_notes(notes, keys.public)
        assert [mark.seq for mark in marks] == [4, 12]
        for name in (path.name, "two words.note", "huge.note"):
            [fault] = [fault for fault in faults if name in fault.message]
            assert fault.kind == "checkpoint"
        assert len(faults) == 3

    async def test_a_checkpoint_in_a_bucket_is_never_replaced(
        self,
        chain: Chain,
        keys: AuditKeys,
        filled: Fill,
        clock: ManualClock,
        database: Database,
        s3_server: S3Server,
    ) -> None:
        """Each is created once and read back; one that is there already stays, and that is told."""
        address = f"s3://{BUCKET}/checkpoints-{database.dialect}"
        bucket = read_bucket(address, endpoint=s3_server.endpoint, key_id=KEY_ID, secret=SECRET)
        notes = S3Blobs(bucket)
        checkpoints = Checkpoints(chain, keys, clock, notes)
        await filled(4)
        await checkpoints.write()
        [kept] = await notes.list()
        first = await notes.get(kept.key)
        await keys.rotate()
        with pytest.raises(BlobExists):
            await checkpoints.write()
        assert await notes.get(kept.key) == first
        clock.advance(3600)
        await checkpoints.write()
        marks, faults = await read_notes(notes, keys.public)
        assert ([mark.seq for mark in marks], faults) == ([4, 4], [])
        assert (await verify(database, marks)).checkpoints == 2
        assert await last_at(notes, clock.now()) == clock.now() // 1000 * 1000

    async def test_checkpoints_that_cannot_be_read_are_no_proof(self, keys: AuditKeys) -> None:
        """A storage that is away is an error, and not an empty folder."""
        bucket = read_bucket("s3://bucket", endpoint="http://127.0.0.1:1", key_id="k", secret="s")
        with pytest.raises(BlobsLost):
            await read_notes(S3Blobs(bucket), keys.public)
