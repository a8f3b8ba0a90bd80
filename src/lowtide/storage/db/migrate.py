"""Bring a database's tables to what this version of Lowtide expects. Forward only.

A component keeps ``migrations/0001_name.sql``, ``0002_…`` in its package, without gaps.
``0001_name.postgres.sql`` replaces the file of that name on PostgreSQL. A file that was released is
never edited: its digest is in ``lowtide_migration``, and another one is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import DeclarationError, MigrationChanged, NewerDatabase
from lowtide.kernel.files import folder_of
from lowtide.storage.db import Database, Dialect, Tx, load_queries

QUERIES = load_queries("lowtide.storage.db", "migrate.sql")
_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)(\.postgres)?\.sql")


class Component(msgspec.Struct, frozen=True):
    """A part of Lowtide, or of an app, that keeps tables: its name and its Python package."""

    name: str
    package: str


class Migration(msgspec.Struct, frozen=True):
    """One file, in the variant for one dialect."""

    component: str
    number: int
    name: str
    sql: str
    digest: str


class MigrationState(msgspec.Struct, frozen=True):
    """A migration and when it was applied: milliseconds since 1970, None when it is still to do."""

    component: str
    number: int
    name: str
    applied_at: int | None


async def migrate(db: Database, components: Sequence[Component], clock: Clock) -> list[MigrationState]:
    """Apply what is missing, in the order of ``components``, and return that.

    Safe to run twice, and by two nodes at once: each migration is one transaction together with its
    row, under a lock. Raises ``NewerDatabase`` when one of ``components`` has migrations here that this
    version lacks, and ``MigrationChanged``; in both cases nothing is applied.
    """
    await db.write(_create)
    migrations = await asyncio.to_thread(load, components, db.dialect)
    _check(migrations, await db.read(_applied))
    return [state for m in migrations if (state := await _apply(db, m, clock)) is not None]


async def status(db: Database, components: Sequence[Component]) -> list[MigrationState]:
    """Every migration of ``components``, done or to do. Writes nothing. Raises as ``migrate`` does."""
    migrations = await asyncio.to_thread(load, components, db.dialect)
    applied = await db.read(_applied)
    _check(migrations, applied)
    times = {at: applied_at for at, (_, applied_at) in applied.items()}
    return [
        MigrationState(m.component, m.number, m.name, times.get((m.component, m.number))) for m in migrations
    ]


async def is_empty(db: Database) -> bool:
    """Was nothing ever migrated here?"""
    return not await db.read(lambda tx: tx.fetch(QUERIES["has_migrations"]))


def load(components: Sequence[Component], dialect: Dialect) -> list[Migration]:
    """The files of ``components``. Raises ``DeclarationError`` for a name or number out of place."""
    found: list[Migration] = []
    for component in components:
        files: dict[int, tuple[str, str]] = {}
        variants: dict[str, str] = {}
        folder = folder_of(component.package) / "migrations"
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name) if folder.is_dir() else ():
            if not entry.name.endswith(".sql"):
                continue
            match = _FILE.fullmatch(entry.name)
            if match is None:
                raise DeclarationError(f"{component.name}: {entry.name} is not called NNNN_name.sql.")
            number, name, text = int(match[1]), match[2], entry.read_text("utf-8")
            if match[3]:
                variants[f"{number}_{name}"] = text
            elif number in files:
                raise DeclarationError(f"{component.name}: two migrations have the number {number}.")
            else:
                files[number] = (name, text)
        if sorted(files) != list(range(1, len(files) + 1)):
            raise DeclarationError(f"{component.name}: the migrations are not numbered 1, 2, 3 without gaps.")
        if extra := variants.keys() - {f"{number}_{name}" for number, (name, _) in files.items()}:
            raise DeclarationError(f"{component.name}: {extra.pop()}.postgres.sql replaces no file.")
        for number, (name, text) in sorted(files.items()):
            sql = variants.get(f"{number}_{name}", text) if dialect == "postgres" else text
            # Git may have changed the line ends on the way.
            sql = sql.replace("\r\n", "\n")
            digest = hashlib.sha256(sql.encode()).hexdigest()
            found.append(Migration(component.name, number, name, sql, digest))
    return found


Applied = dict[tuple[str, int], tuple[str, int]]
"""(component, number) -> (digest, applied_at)"""


async def _create(tx: Tx) -> None:
    await _lock(tx)
    await tx.execute(QUERIES["create_migration"])


async def _lock(tx: Tx) -> None:
    # One node at a time; on SQLite the writer is alone anyway. A script has no deadline: the other
    # node's migration may take long.
    if tx.dialect == "postgres":
        await tx.script(QUERIES["lock_migrations"].postgres)


async def _applied(tx: Tx) -> Applied:
    if not await tx.fetch(QUERIES["has_migrations"]):
        return {}
    rows = await tx.fetch(QUERIES["applied_migrations"])
    return {(component, number): (digest, at) for component, number, digest, at in rows}


def _check(migrations: Sequence[Migration], applied: Applied) -> None:
    known = {(m.component, m.number): m for m in migrations}
    components = {m.component for m in migrations}
    for (component, number), (digest, _) in sorted(applied.items()):
        if component not in components:
            continue
        migration = known.get((component, number))
        if migration is None:
            raise NewerDatabase(
                f"The database has migration {number} of {component!r}, which this version does not know.",
                component=component,
                number=number,
            )
        if migration.digest != digest:
            raise MigrationChanged(
                f"Migration {number} ({migration.name}) of {component!r} was edited after it was applied.",
                component=component,
                number=number,
            )


async def _apply(db: Database, migration: Migration, clock: Clock) -> MigrationState | None:
    at = (migration.component, migration.number)

    async def work(tx: Tx) -> MigrationState | None:
        await _lock(tx)
        applied = await _applied(tx)
        if at in applied:
            # Another node was faster.
            _check([migration], {at: applied[at]})
            return None
        now = clock.now()
        await tx.script(migration.sql)
        await tx.execute(QUERIES["add_migration"], *at, migration.name, migration.digest, now)
        return MigrationState(*at, migration.name, now)

    return await db.write(work)
