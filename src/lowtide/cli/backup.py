"""``lowtide backup`` and ``lowtide restore``."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from lowtide.app import Lowtide
from lowtide.cli.opened import by_hand, with_backend, with_reader
from lowtide.cli.project import open_project, open_settings
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.errors import SetupError
from lowtide.kernel.ids import SystemIds
from lowtide.storage.db import Database, Tx
from lowtide.storage.db.sqlite_backup import back_up, put_back
from lowtide.sync.store import begin_epoch


def backup(arguments: argparse.Namespace) -> None:
    """Copy a SQLite database as it is now, while a server may go on writing to it."""
    settings = open_settings()
    target = Path(arguments.file)
    if settings.postgres:
        raise SetupError(
            "PostgreSQL has its own tools for backups.",
            hint="pg_dump --format=custom --file=app.dump <database>",
        )
    if os.path.lexists(target):
        raise SetupError(f"{target} is there already.", hint="Choose another name.")

    async def nothing(_: Database) -> None:
        """The entry alone is written: the copy is made by SQLite."""

    with_reader(settings, nothing, by_hand("backup.make", f"file:{target.name}"))
    try:
        back_up(Path(settings.database), target)
    except OSError as error:
        raise SetupError(
            f"{target} cannot be written: {error.strerror}.", hint="Choose another place."
        ) from error
    print(f"Wrote {target} ({target.stat().st_size:,} bytes).")


def restore(arguments: argparse.Namespace) -> None:
    """Put a backup in place, and tell every device that history starts anew.

    Without the last step a device would take changes made since the restoration for old ones, so on SQLite
    it is done to the copy before that takes its place. On PostgreSQL only that step is done: its own tools
    put the data back.
    """
    settings, app = open_project()
    clock = SystemClock()
    epoch = SystemIds(clock).token()[:8]

    async def anew(tx: Tx) -> None:
        await begin_epoch(tx, epoch, clock.now())

    if not settings.postgres:
        if arguments.file is None:
            raise SetupError("Which backup?", hint="Write: lowtide restore <file>")
        moved = put_back(
            Path(settings.database),
            Path(arguments.file),
            time.strftime(".before-%Y%m%d-%H%M%S", time.gmtime()),
            anew,
        )
        if moved is not None:
            print(f"What was there is now {moved}.")
    elif arguments.file is not None:
        raise SetupError(
            "PostgreSQL has its own tools for backups.",
            hint="Use pg_restore first, then 'lowtide restore' without a file.",
        )

    async def tell(lowtide: Lowtide) -> None:
        entry = by_hand("backup.restore", f"file:{Path(arguments.file).name}" if arguments.file else "")

        async def work(tx: Tx) -> None:
            if settings.postgres:
                await anew(tx)
            await lowtide.audit.write(tx, entry)

        await lowtide.database.write(work)

    with_backend(settings, app, tell)
    print("Restored. Devices download everything anew when they next connect.")
