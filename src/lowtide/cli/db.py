"""``lowtide db``: what the database has of what this version needs, and bringing it there."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from lowtide.app import Lowtide
from lowtide.cli.opened import with_backend, with_reader
from lowtide.cli.project import open_project
from lowtide.storage.db import Database
from lowtide.storage.db.migrate import MigrationState
from lowtide.storage.db.migrate import status as migration_status
from lowtide.tables import COMPONENTS


def status(arguments: argparse.Namespace) -> int:
    """Print every migration, done or to do; 1 if there is one to do."""
    settings, _ = open_project()

    async def look(database: Database) -> list[MigrationState]:
        return await migration_status(database, COMPONENTS)

    states = with_reader(settings, look)
    for state in states:
        done = "to do" if state.applied_at is None else f"{moment(state.applied_at)} UTC"
        print(f"{state.component:10} {state.number:04} {state.name:30} {done}")
    return 1 if any(state.applied_at is None for state in states) else 0


def migrate(arguments: argparse.Namespace) -> None:
    """Apply what is missing and put the app's schema into force, as a starting server does."""
    settings, app = open_project()

    async def started(lowtide: Lowtide) -> None:
        pass  # starting has done it

    with_backend(settings, app, started)
    print("The database is up to date.")


def moment(milliseconds: int) -> str:
    """A time as people write it, in UTC, to the second."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
