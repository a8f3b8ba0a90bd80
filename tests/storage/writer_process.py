"""A process that writes to a SQLite database until it is killed, and says what was acknowledged.

``python writer_process.py DATABASE DURABILITY FIRST``: it prints ``ready``, then each id after its commit.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from lowtide.kernel.clock import SystemClock
from lowtide.kernel.errors import LowtideError
from lowtide.storage.db import Query, Tx
from lowtide.storage.db.sqlite import SqliteDatabase
from lowtide.storage.db.sqlite_writer import Durability

CREATE = "CREATE TABLE IF NOT EXISTS item (id BIGINT PRIMARY KEY, pair BIGINT NOT NULL)"
ADD = Query("add", *["INSERT INTO item (id, pair) VALUES (?1, ?2)"] * 2)
WRITERS = 16


async def main(path: Path, durability: Durability, first: int) -> None:
    database = SqliteDatabase(path, clock=SystemClock(), durability=durability)
    await database.start()
    await database.write(lambda tx: tx.script(CREATE))
    print("ready", flush=True)

    async def write(writer: int) -> None:
        id = first + writer

        async def work(tx: Tx) -> None:
            # Two rows that belong together: after a crash there must be both or none.
            await tx.execute(ADD, id, -id)
            await tx.execute(ADD, -id, id)

        while True:
            await database.write(work)
            sys.stdout.write(f"{id}\n")
            sys.stdout.flush()
            id += WRITERS

    await asyncio.gather(*(write(number) for number in range(WRITERS)))


if __name__ == "__main__":
    try:
        asyncio.run(
            main(Path(sys.argv[1]), "normal" if sys.argv[2] == "normal" else "full", int(sys.argv[3]))
        )
    except LowtideError as error:
        print(f"{error.code}: {error.message}", flush=True)
        sys.exit(3)
