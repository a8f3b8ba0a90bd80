"""``lowtide devices``: who has synchronised, when, and how far."""

from __future__ import annotations

import argparse

from lowtide.cli.db import moment
from lowtide.cli.opened import with_reader
from lowtide.cli.project import open_project
from lowtide.storage.db import Database, Row, Tx
from lowtide.sync.store import QUERIES, read_head

PAGE = 1000


def run(arguments: argparse.Namespace) -> None:
    """Print a line for each device of a space: user, device, and what it did last."""
    settings, _ = open_project()

    async def look(database: Database) -> tuple[int, list[Row]]:
        async def work(tx: Tx) -> tuple[int, list[Row]]:
            found: list[Row] = []
            after = ("", "")
            while rows := await tx.fetch(QUERIES["devices"], arguments.space, *after, PAGE):
                found += rows
                after = (rows[-1][0], rows[-1][1])
            return (await read_head(tx)).group, found

        return await database.read(work)

    head, devices = with_reader(settings, look)
    print(f"{'user':24} {'device':36} {'uploaded (UTC)':19} {'seen (UTC)':19} {'behind':>8}")
    for user, client_id, _, uploaded_at, seen_at, seen_group, *_ in devices:
        behind = max(0, head - seen_group) if seen_group else "-"
        print(f"{user:24} {client_id:36} {_when(uploaded_at)} {_when(seen_at)} {behind:>8}")


def _when(milliseconds: int) -> str:
    return moment(milliseconds) if milliseconds else "never".ljust(19)
