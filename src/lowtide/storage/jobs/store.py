"""What the queue keeps. Every function runs inside the transaction that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import msgspec

from lowtide.storage.db import Row, Tx, load_queries
from lowtide.storage.jobs.model import Count, Job, Status

Lease = tuple[str, int]
"""A job's id and the fence that its lease was given."""

QUERIES = load_queries("lowtide.storage.jobs")
FORGET_ENDED = QUERIES["purge"]
"""Of a status, before a time; for ``storage.purge``."""
_STATUSES = get_args(Status)

VANISHED = "The worker of the last attempt vanished: its lease ran out and no outcome was recorded."


async def insert(tx: Tx, job: Job) -> str:
    """Keep a new job, or find the waiting one with its kind and key; the id of either.

    The one that is found stays as it is, but if it has never run and ``job`` is due earlier, it
    becomes due then.
    """
    if job.key is not None:
        found = await tx.fetch(QUERIES["absorb"], job.kind, job.key, job.due_at)
        if found:
            return str(found[0][0])
    rows = await tx.fetch(QUERIES["insert"], *_new(job))
    return str(rows[0][0])


async def insert_all(tx: Tx, jobs: Sequence[Job]) -> None:
    """Keep new jobs without keys, in one statement."""
    if jobs:
        await tx.execute_many(QUERIES["insert"], [_new(job) for job in jobs])


def _new(job: Job) -> tuple[str | int | None, ...]:
    return (
        job.id,
        job.queue,
        job.kind,
        job.key,
        job.payload,
        job.due_at,
        job.max_attempts,
        job.created_at,
    )


async def next_due(tx: Tx, queue: str, kinds: Sequence[str]) -> int | None:
    """When the next job of ``queue`` is or was due. One look at an index."""
    rows = await tx.fetch(QUERIES["next_due"], queue, _json(kinds))
    return int(rows[0][0]) if rows else None


async def claim(
    tx: Tx, queue: str, kinds: Sequence[str], limit: int, *, now: int, until: int, worker: str
) -> list[Job]:
    """Lease up to ``limit`` due jobs until ``until``, the longest due first.

    Jobs that another claim has locked are passed over. A job whose lease ran out in its last
    attempt is not run again but becomes dead.
    """
    rows = await tx.fetch(QUERIES["pick"], queue, now, _json(kinds), limit)
    taken, leases = [], []
    for found in map(_job, rows):
        job = msgspec.structs.replace(
            found,
            status="running",
            attempt=found.attempt + 1,
            fence=found.fence + 1,
            due_at=until,
            worker=worker,
        )
        if job.attempt > job.max_attempts:
            await bury(tx, (found.id, found.fence), now, VANISHED)
            continue
        taken.append(job)
        leases.append((job.id, job.attempt, job.fence, until, worker))
    if leases:
        await tx.execute_many(QUERIES["lease"], leases)
    return taken


async def extend(tx: Tx, held: Sequence[Lease], until: int) -> set[Lease]:
    """Move the end of leases to ``until``; those that are still held."""
    kept = set()
    for id, fence in held:
        if await tx.fetch(QUERIES["extend"], id, fence, until):
            kept.add((id, fence))
    return kept


async def complete(tx: Tx, held: Lease, now: int) -> bool:
    """Mark a job done; False if its lease is lost. Again by the same holder changes nothing."""
    return bool(await tx.fetch(QUERIES["complete"], *held, now))


async def retry(tx: Tx, held: Lease, due_at: int, error: str) -> bool:
    """Let a failed job wait for its next attempt; False if its lease is lost."""
    return bool(await tx.fetch(QUERIES["retry"], *held, due_at, error))


async def bury(tx: Tx, held: Lease, now: int, error: str) -> bool:
    """Make a job dead; False if its lease is lost."""
    return bool(await tx.fetch(QUERIES["bury"], *held, now, error))


async def release(tx: Tx, held: Lease, now: int) -> bool:
    """Give a job back as if this attempt had not been; False if its lease is lost."""
    return bool(await tx.fetch(QUERIES["release"], *held, now))


async def requeue(tx: Tx, id: str, now: int) -> bool:
    """Let a dead job wait again with all its attempts; False if no dead job has this id."""
    return bool(await tx.fetch(QUERIES["requeue"], id, now))


async def find(tx: Tx, id: str) -> Job | None:
    rows = await tx.fetch(QUERIES["find"], id)
    return _job(rows[0]) if rows else None


async def dead(tx: Tx, limit: int) -> list[Job]:
    """The jobs that died last, the latest first."""
    return [_job(row) for row in await tx.fetch(QUERIES["dead"], limit)]


async def counts(tx: Tx) -> list[Count]:
    rows = await tx.fetch(QUERIES["counts"])
    return [
        Count(queue=queue, kind=kind, status=status, count=count, due_at=due_at)
        for queue, kind, status, count, due_at in rows
    ]


async def begin_period(tx: Tx, kind: str, started: int, doubtful: int) -> bool:
    """Whether the caller is the one who enqueues ``kind`` for the period that began at ``started``.

    A recorded period after ``doubtful`` came from a clock that was wrong, and is overwritten.
    """
    return bool(await tx.fetch(QUERIES["begin_period"], kind, started, doubtful))


def _json(kinds: Sequence[str]) -> str:
    return msgspec.json.encode(kinds).decode()


def _job(row: Row) -> Job:
    return Job(
        id=row[0],
        queue=row[1],
        kind=row[2],
        key=row[3],
        payload=row[4],
        status=_STATUSES[_STATUSES.index(row[5])],
        due_at=row[6],
        attempt=row[7],
        max_attempts=row[8],
        fence=row[9],
        worker=row[10],
        error=row[11],
        created_at=row[12],
        finished_at=row[13],
    )
