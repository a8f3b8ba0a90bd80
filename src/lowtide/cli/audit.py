"""``lowtide audit``: who did what, and whether the log of it is whole."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from lowtide.app import Lowtide
from lowtide.audit.checkpoints import read_notes
from lowtide.audit.history import export, find
from lowtide.audit.keys import PublicKey, parse_key, public_keys, read_keys
from lowtide.audit.notes import LogCheckpoint
from lowtide.audit.store import Found, Search
from lowtide.audit.verify import Fault, Verdict, verify
from lowtide.audit.walk import Archives
from lowtide.cli.db import moment
from lowtide.cli.opened import by_hand, with_backend, with_reader
from lowtide.cli.project import open_project
from lowtide.cli.transfer import output
from lowtide.declare.app import App
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.errors import SetupError
from lowtide.kernel.ids import SystemIds
from lowtide.opening import audit_origin, open_blobs
from lowtide.settings import Settings
from lowtide.storage.db import Database


def show(arguments: argparse.Namespace) -> None:
    """Print entries, the newest first; those in archives, too, if there is room for them."""
    settings, app = open_project()
    limit = max(1, min(arguments.limit, 1000))
    wanted = msgspec.structs.replace(_wanted(arguments), request=arguments.request, limit=limit)

    async def look(database: Database) -> list[Found]:
        async with _archives(settings, await _keys(database, app)) as archives:
            return await find(database, archives, wanted)

    for entry in with_reader(settings, look):
        place = "-" if entry.seq is None else str(entry.seq)
        how = f"{entry.actor} via {entry.via}" if entry.via else entry.actor
        print(f"{moment(entry.at)}  {place:>8}  {entry.action:24} {how} {entry.target}".rstrip())


def export_entries(arguments: argparse.Namespace) -> None:
    """Write entries as NDJSON in the order of the chain, those in archives first. The export is an entry."""
    settings, app = open_project()
    wanted = _wanted(arguments)

    async def write(database: Database) -> int:
        count = 0
        async with _archives(settings, await _keys(database, app)) as archives:
            async for entry in export(database, archives, wanted):
                out.write(msgspec.json.encode(entry).decode() + "\n")
                count += 1
        return count

    with output(arguments.output) as out:
        count = with_reader(settings, write, by_hand("audit.export", wanted.target or wanted.actor))
    print(f"{count} entries exported.", file=sys.stderr)


def check(arguments: argparse.Namespace) -> int:
    """Walk the whole log; 1 if anything is not as it was written, with the first places and the reasons."""
    settings, app = open_project()
    notes = arguments.checkpoints or settings.audit_checkpoints
    if notes and "://" not in notes and not Path(notes).is_dir():
        raise SetupError(f"There is no folder {notes}.", hint="Name the folder that holds checkpoints.")
    trusted = [_key(text) for text in arguments.key]

    async def walk(database: Database) -> tuple[Verdict, bool]:
        known = trusted or await _keys(database, app)
        marks, faults = await _checkpoints(settings, notes, known) if notes else ([], [])
        if arguments.checkpoints and not marks and not faults:
            raise SetupError(
                f"There is no checkpoint in {notes}.",
                hint="Their names end in '.note': the server writes one every hour.",
            )
        async with _archives(settings, known) as archives:
            verdict = await verify(database, marks, _progress, archives)
        for fault in faults:
            verdict.add(fault)
        return verdict, bool(marks)

    verdict, looked = with_reader(settings, walk)
    _tell(verdict, looked)
    if not trusted and looked:
        print("The key came from the database itself: '--key' with the one that you wrote down proves more.")
    return 1 if verdict.faulty else 0


def key(arguments: argparse.Namespace) -> None:
    """Print the public key that verifies checkpoints; ``--rotate``: make a new one first."""
    settings, app = open_project()

    async def look(database: Database) -> list[PublicKey]:
        return await _keys(database, app)

    async def rotate(lowtide: Lowtide) -> list[PublicKey]:
        entry = by_hand("audit.rotate_key", "audit")
        await lowtide.audit_keys.rotate(lambda tx: lowtide.audit.write(tx, entry))
        return list(lowtide.audit_keys.public)

    keys = with_backend(settings, app, rotate) if arguments.rotate else with_reader(settings, look)
    if not keys:
        raise SetupError("There is no audit key yet.", hint="Start the app once: that makes it.")
    print(keys[0].text)
    for old in keys[1:]:
        print(f"{old.text}  (until {moment(keys[0].created_at)})", file=sys.stderr)


def checkpoint(_: argparse.Namespace) -> None:
    """Print a signed checkpoint of the log as it is now, to be kept elsewhere."""
    settings, app = open_project()

    async def sign(lowtide: Lowtide) -> str:
        return await lowtide.checkpoints.sign()

    print(with_backend(settings, app, sign), end="")


def _wanted(arguments: argparse.Namespace) -> Search:
    return Search(
        actor=arguments.actor,
        action=arguments.action,
        target=arguments.target,
        since=_milliseconds(arguments.since),
        until=_milliseconds(arguments.until),
    )


async def _keys(database: Database, app: App) -> list[PublicKey]:
    return public_keys(await database.read(read_keys), audit_origin(app.name))


@asynccontextmanager
async def _archives(settings: Settings, keys: Sequence[PublicKey]) -> AsyncIterator[Archives]:
    blobs = open_blobs(settings, settings.blobs, SystemIds(SystemClock()))
    try:
        yield Archives(blobs, keys)
    finally:
        await blobs.close()


async def _checkpoints(
    settings: Settings, address: str, keys: Sequence[PublicKey]
) -> tuple[list[LogCheckpoint], list[Fault]]:
    blobs = open_blobs(settings, address, SystemIds(SystemClock()))
    try:
        return await read_notes(blobs, keys)
    finally:
        await blobs.close()


def _tell(verdict: Verdict, looked: bool) -> None:
    for fault in verdict.faults:
        where = f"entry {fault.seq}: " if fault.seq else ""
        name = f" ({fault.entry})" if fault.entry else ""
        print(f"{fault.kind}: {where}{fault.message}{name}")
    if verdict.faulty > len(verdict.faults):
        print(f"... and {verdict.faulty - len(verdict.faults)} more")
    kept = f"{verdict.entries} entries, {verdict.archived} of them in archives, {verdict.erased} erased"
    print(f"{kept}, {verdict.waiting} not chained yet; {verdict.checkpoints} checkpoints agree.")
    print(f"The last hash is {verdict.head.hash.hex()}.")
    if not looked:
        print(
            "No checkpoint was looked at: a chain that was written anew would look whole. Use --checkpoints."
        )
    print(f"{verdict.faulty} faults." if verdict.faulty else "The log is whole.")


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {of} entries ...", end="\r", file=sys.stderr, flush=True)


def _key(text: str) -> PublicKey:
    try:
        return parse_key(text)
    except ValueError as error:
        raise SetupError(
            f"'{text}' is no audit key: {error}.", hint="It is what 'lowtide audit key' printed."
        ) from error


def _milliseconds(text: str) -> int:
    if not text:
        return 0
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise SetupError(f"'{text}' is no time.", hint="Write 2026-11-22 or 2026-11-22T12:00.") from error
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
