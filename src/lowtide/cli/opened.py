"""The database behind a command: read beside a running server, or held alone to write."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lowtide.app import Lowtide, build
from lowtide.audit import Audit, Entry
from lowtide.declare.app import App
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.errors import NoDatabase
from lowtide.kernel.ids import SystemIds
from lowtide.opening import open_database
from lowtide.settings import Settings
from lowtide.storage.db import Database
from lowtide.storage.db.migrate import is_empty
from lowtide.storage.db.sqlite_beside import SqliteBeside

T = TypeVar("T")


def with_reader(
    settings: Settings, work: Callable[[Database], Awaitable[T]], entry: Entry | None = None
) -> T:
    """Run ``work`` on a database that may be served meanwhile. Raises ``NoDatabase``, ``StorageLost``.

    ``entry`` is written into the audit log before: without it, no work.
    """

    clock = SystemClock()
    audit = Audit(clock, SystemIds(clock))
    database: Database = (
        open_database(settings, clock, SystemIds(clock))
        if settings.postgres
        else SqliteBeside(Path(settings.database), clock=clock)
    )

    async def opened() -> T:
        if entry is not None and isinstance(database, SqliteBeside):
            # Before the reader opens: who closes the files last tidies them up.
            await database.append(lambda tx: audit.write(tx, entry))
        await database.start()
        try:
            if await is_empty(database):
                raise NoDatabase("Nothing is in the database yet.")
            if entry is not None and settings.postgres:
                await database.write(lambda tx: audit.write(tx, entry))
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(opened())


def by_hand(action: str, target: str = "", space: str = "main", after: Any = None) -> Entry:
    """The entry of a command: ``action``, done by the account that runs it. Of ``after`` a hash is kept."""
    try:
        account = getpass.getuser()
    except (KeyError, OSError):
        account = str(os.getuid())
    return Entry(action=action, actor=f"cli:{account}", via="cli", target=target, space=space, after=after)


def with_backend(settings: Settings, app: App, work: Callable[[Lowtide], Awaitable[T]]) -> T:
    """Run ``work`` on a backend that serves nobody: no edge is asked, no job is run.

    Raises ``AlreadyRunning`` while a server has a SQLite database open, and as ``Lowtide.start`` does.
    """

    lowtide = build(msgspec.structs.replace(settings, worker=False), app)

    async def opened() -> T:
        await lowtide.start()
        try:
            return await work(lowtide)
        finally:
            await lowtide.stop()

    return asyncio.run(opened())
