"""A process that archives, to be killed: ``python -m tests.audit.archiving FOLDER fill|run|verify``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from lowtide.audit import COMPONENT, Audit, Chain, Entry, archive
from lowtide.audit.archive import DAY, Archive
from lowtide.audit.keys import AuditKeys, parse_key
from lowtide.audit.verify import verify
from lowtide.audit.walk import Archives
from lowtide.kernel.clock import ManualClock, SystemClock
from lowtide.kernel.ids import SystemIds
from lowtide.storage.blobs import DiskBlobs
from lowtide.storage.db import Database, Tx
from lowtide.storage.db.migrate import migrate
from lowtide.storage.db.sqlite import SqliteDatabase
from lowtide.storage.vault import COMPONENT as STORAGE
from lowtide.storage.vault import Vault

ENTRIES = 600


async def fill(database: Database, keys: AuditKeys) -> None:
    """Old entries, and the key that verifies them."""
    old = ManualClock(SystemClock().now() - 5 * DAY)
    audit = Audit(old, SystemIds(old), pepper=b"pepper")

    async def work(tx: Tx) -> None:
        for number in range(ENTRIES):
            personal = {} if number % 2 else {"ip": "192.0.2.1"}
            await audit.write(tx, Entry(action="x", actor=f"user:{number}", personal=personal))

    await database.write(work)
    await Chain(audit, database, SystemIds(old)).sequence()
    print(keys.public[0].text)


async def run(database: Database, keys: AuditKeys, blobs: DiskBlobs) -> None:
    """Archive, and say so after each segment."""
    clock = SystemClock()
    audit = Audit(clock, SystemIds(clock), pepper=b"pepper")
    told = audit.write

    async def write(tx: Tx, entry: Entry) -> str:
        print(entry.target, flush=True)
        return await told(tx, entry)

    audit.write = write  # type: ignore[method-assign]
    print("ready", flush=True)
    await Archive(database, blobs, keys, audit, clock, 1).run()


async def main(folder: Path, what: str, *rest: str) -> None:
    vars(archive).update(MAX_ENTRIES=50, AT_ONCE=50)
    clock = SystemClock()
    ids = SystemIds(clock)
    database = SqliteDatabase(folder / "data.db", clock=clock)
    await database.start()
    await migrate(database, [STORAGE, COMPONENT], clock)
    vault = Vault(database, clock, ids, bytes(range(32)))
    await vault.load()
    keys = AuditKeys(database, vault, clock, ids, "lowtide/notes")
    await keys.load()
    blobs = DiskBlobs(folder / "blobs", ids)
    if what == "fill":
        await fill(database, keys)
    elif what == "run":
        await run(database, keys, blobs)
    else:
        await Chain(Audit(clock, ids), database, ids).sequence()
        verdict = await verify(database, archives=Archives(blobs, [parse_key(rest[0])]))
        faults = [fault.message for fault in verdict.faults]
        print(msgspec.json.encode((verdict.archived, verdict.entries, faults)).decode())
    await blobs.close()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
