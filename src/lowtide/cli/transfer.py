"""``lowtide export`` and ``lowtide import``: records as NDJSON or CSV."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TextIO

import msgspec

from lowtide.app import Lowtide
from lowtide.cli.opened import by_hand, with_backend, with_reader
from lowtide.cli.project import open_project
from lowtide.kernel.errors import SetupError
from lowtide.storage.db import Database, Tx
from lowtide.sync.model import Applied, Batch
from lowtide.sync.transfer import FileFormat, Imported, export, import_

SHOWN = 20
"""Refused lines that are told one by one."""


def export_records(arguments: argparse.Namespace) -> None:
    """Write a model's live records, while a server may go on serving."""
    settings, app = open_project()
    schema = app.compile()

    async def write(database: Database) -> int:
        return await export(
            database,
            schema,
            arguments.space,
            arguments.model,
            out,
            _format(arguments.output, arguments.csv),
            _progress("exported"),
        )

    with output(arguments.output) as out:
        entry = by_hand("records.export", f"model:{arguments.model}", arguments.space)
        count = with_reader(settings, write, entry)
    print(f"{count} records exported.", file=sys.stderr)


def import_records(arguments: argparse.Namespace) -> int:
    """Create or update a record for each line; 1 if some were refused, which are told with their reasons."""
    settings, app = open_project()

    entry = by_hand("records.import", f"model:{arguments.model}", arguments.space)

    async def write(lowtide: Lowtide) -> Imported:
        async def keep(tx: Tx, _: Applied) -> None:
            await lowtide.audit.write(tx, entry)

        async def apply(batch: Batch) -> Applied:
            # Each transaction of the import has its entry.
            return await lowtide.sync.apply(msgspec.structs.replace(batch, keep=keep))

        return await import_(
            apply,
            lowtide.sync.schema,
            arguments.space,
            arguments.model,
            source,
            _format(arguments.file, arguments.csv),
            lowtide.clock,
            lowtide.ids,
            _progress("imported"),
        )

    try:
        with _input(arguments.file) as source:
            done = with_backend(settings, app, write)
    except UnicodeDecodeError as error:
        raise SetupError(
            f"{arguments.file} is not UTF-8 text: {error.reason}.",
            hint="Write it as UTF-8, and import it again.",
        ) from error
    for refused in done.refused[:SHOWN]:
        print(f"line {refused.line}: {refused.message} [{refused.code}]", file=sys.stderr)
    if len(done.refused) > SHOWN:
        print(f"... and {len(done.refused) - SHOWN} more", file=sys.stderr)
    print(f"{done.records} records imported, {len(done.refused)} lines refused.", file=sys.stderr)
    return 1 if done.refused else 0


def _format(name: str | None, csv: bool) -> FileFormat:
    return "csv" if csv or (name or "").endswith(".csv") else "ndjson"


def _progress(done: str) -> Callable[[int], None]:
    def show(count: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{count} {done} ...", end="\r", file=sys.stderr, flush=True)

    return show


@contextmanager
def output(name: str | None) -> Iterator[TextIO]:
    """A new file, gone again if what writes it fails; None: standard output. ``SetupError``."""
    if name is None:
        yield sys.stdout
        return
    try:
        out = Path(name).open("x", encoding="utf-8", newline="")  # noqa: SIM115 - closed below
    except FileExistsError as error:
        raise SetupError(f"{name} is there already.", hint="Choose another name.") from error
    except OSError as error:
        raise SetupError(f"{name} cannot be written: {error.strerror}.", hint="Choose another.") from error
    try:
        with out:
            yield out
    except BaseException:
        Path(name).unlink()  # half an export would pass for a whole one
        raise


def _input(name: str) -> AbstractContextManager[TextIO]:
    if name == "-":
        return nullcontext(sys.stdin)
    try:
        return Path(name).open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise SetupError(f"{name} cannot be read: {error.strerror}.", hint="Check its name.") from error
