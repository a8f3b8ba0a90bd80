"""``lowtide doctor``: what is open in a deployment, how bad it is, and what to do."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from lowtide.audit.checkpoints import last_at
from lowtide.cli.checks import SEVERITIES, Facts, Finding, Mode, look
from lowtide.cli.opened import with_reader
from lowtide.cli.probes import asker, probe
from lowtide.cli.project import open_settings
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.errors import LowtideError, SetupError
from lowtide.kernel.ids import SystemIds
from lowtide.opening import open_blobs, open_vault
from lowtide.settings import Settings
from lowtide.storage.db import Database, Row, Tx, load_queries

QUERIES = load_queries("lowtide.cli", "doctor.sql")


def run(arguments: argparse.Namespace) -> int:
    """Print each finding: 2 if one is critical, 1 if one is a warning, else 0."""
    settings = open_settings()
    found = look(gather(settings, arguments.backups))
    if arguments.url is not None:
        if urlsplit(arguments.url).scheme not in ("http", "https"):
            raise SetupError(f"'{arguments.url}' is no address.", hint="Write https://api.example.com.")
        found += probe(arguments.url, asker(arguments.url))
        found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        _tell(found)
    severities = {finding.severity for finding in found}
    return 2 if "critical" in severities else 1 if "warning" in severities else 0


def _tell(found: list[Finding]) -> None:
    for finding in found:
        print(f"{finding.severity:8}  {finding.check}: {finding.message}\n          {finding.fix}")
        print(f"          {finding.docs}")
    counts = [f"{sum(f.severity == s for f in found)} {s}" for s in SEVERITIES]
    print(f"{', '.join(counts)}." if found else "Nothing is open that a machine can see.")


def gather(settings: Settings, backups: str | None) -> Facts:
    """The deployment of ``settings``, as it is found from this machine and account."""
    checkpoint_at, problem = _checkpoint(settings)
    facts = Facts(
        settings=settings,
        now=SystemClock().now(),
        secret_key=_secret_key(settings),
        backups_known=backups is not None,
        backup_at=None if backups is None else _newest(Path(backups)),
        checkpoint_at=checkpoint_at,
        checkpoints_problem=problem,
        checkpoints_here=_here(settings),
    )
    if not settings.postgres:
        facts = _with_files(facts, Path(settings.database))
    return _with_database(facts)


def _with_files(facts: Facts, database: Path) -> Facts:
    folder = database.parent
    names = [folder, database, database.with_name(database.name + "-wal")]
    files = tuple(mode for path in names if (mode := _mode(path)) is not None)
    log = names[2]
    if not folder.is_dir():
        return facts
    disk = os.statvfs(folder)
    return msgspec.structs.replace(
        facts,
        # A folder that is closed to others closes what is in it.
        files=files[:1] if not files[0].mode & 0o001 else files,
        log_size=log.stat().st_size if log.exists() else 0,
        disk_free=disk.f_bavail * disk.f_frsize,
        disk_size=disk.f_blocks * disk.f_frsize,
    )


def _with_database(facts: Facts) -> Facts:
    async def read(database: Database) -> tuple[Row, Row, str]:
        async def work(tx: Tx) -> tuple[Row, Row]:
            return (await tx.fetch(QUERIES["server"]))[0], (await tx.fetch(QUERIES["state"]))[0]

        return *await database.read(work), await _key_problem(facts.settings, database)

    try:
        server, state, problem = with_reader(facts.settings, read)
    except LowtideError:
        return msgspec.structs.replace(facts, reached=False)
    superuser, encrypted, now = server
    dead, unchained, key, outbox = state
    return msgspec.structs.replace(
        facts,
        # The moment at which the database was asked.
        now=SystemClock().now(),
        secret_key_problem=problem,
        superuser=bool(superuser),
        encrypted=bool(encrypted),
        database_now=now,
        dead_jobs=dead,
        unchained_since=unchained,
        key_made_at=key,
        outbox=outbox,
    )


async def _key_problem(settings: Settings, database: Database) -> str:
    """Why the secret key does not open what is in the database; empty if it does."""
    clock = SystemClock()
    try:
        await open_vault(settings, database, clock, SystemIds(clock), make=False).refresh()
    except SetupError as error:
        return error.message
    return ""


def _secret_key(settings: Settings) -> Mode | None:
    if settings.secret_key:
        return None
    return _mode(Path(settings.secret_key_file or f"{settings.database}.key"))


def _checkpoint(settings: Settings) -> tuple[int | None, str]:
    """When the newest was signed, and why that cannot be known."""
    if not settings.audit_checkpoints:
        return None, ""
    clock = SystemClock()

    async def ask() -> int | None:
        blobs = open_blobs(settings, settings.audit_checkpoints, SystemIds(clock))
        try:
            return await last_at(blobs, clock.now())
        finally:
            await blobs.close()

    try:
        return asyncio.run(ask()), ""
    except LowtideError as error:
        return None, f"{error.message} {error.hint}"


def _here(settings: Settings) -> bool:
    """Is the folder of checkpoints on the disk of the database, or else of this project?"""
    address = settings.audit_checkpoints
    if not address or address.startswith("s3://"):
        return False
    near = Path(".") if settings.postgres else Path(settings.database).parent
    return _disk(Path(address)) == _disk(near)


def _disk(path: Path) -> int:
    # Not ``Path.exists``, which raises for a place that may not be looked into.
    while not os.path.exists(path):
        path = path.parent
    return path.stat().st_dev


def _newest(folder: Path) -> int | None:
    if not folder.is_dir():
        raise SetupError(f"There is no folder {folder}.", hint="Name the folder that holds the backups.")
    times = [path.stat().st_mtime for path in folder.iterdir() if path.is_file()]
    return int(max(times) * 1000) if times else None


def _mode(path: Path) -> Mode | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return Mode(str(path), stat.st_mode & 0o777, stat.st_uid == os.getuid())
