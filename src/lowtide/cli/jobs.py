"""``lowtide jobs``: what waits and what has failed for good."""

from __future__ import annotations

import argparse

from lowtide.app import Lowtide
from lowtide.cli.db import moment
from lowtide.cli.opened import by_hand, with_backend, with_reader
from lowtide.cli.project import open_project
from lowtide.storage.db import Database, Tx
from lowtide.storage.jobs import Count, Job, store

SHOWN = 100


def show(arguments: argparse.Namespace) -> None:
    """Print how many jobs of each kind there are, and the latest dead ones with their errors."""
    settings, _ = open_project()

    async def look(database: Database) -> tuple[list[Count], list[Job]]:
        async def work(tx: Tx) -> tuple[list[Count], list[Job]]:
            return await store.counts(tx), await store.dead(tx, SHOWN)

        return await database.read(work)

    counts, dead = with_reader(settings, look)
    for count in counts:
        print(f"{count.count:8} {count.status:8} {count.kind}")
    for job in dead:
        ended = moment(job.finished_at or job.created_at)
        print(f"\n{job.id}  {job.kind}, dead since {ended} UTC, after {job.attempt} attempts")
        print("    " + (job.error or "").replace("\n", "\n    "))
    if not counts:
        print("There are no jobs.")
    elif dead:
        print("\nRun one again with: lowtide jobs requeue <id>")


def requeue(arguments: argparse.Namespace) -> None:
    """Let a dead job run again. Raises ``NotFound``; ``AlreadyRunning`` while SQLite is being served."""
    settings, app = open_project()

    async def again(lowtide: Lowtide) -> None:
        async def work(tx: Tx) -> None:
            await lowtide.jobs.requeue(tx, arguments.id)
            await lowtide.audit.write(tx, by_hand("job.requeue", f"job:{arguments.id}"))

        await lowtide.database.write(work)

    with_backend(settings, app, again)
    print(f"{arguments.id} waits to run again.")
