"""Servers with a planted fault: what the rounds are there to find.

``python -m tests.crash.planted forgets`` is ``lowtide serve`` with that fault.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

import lowtide.app
from lowtide.cli import main
from lowtide.kernel.errors import LowtideError
from lowtide.kernel.schema import Principal, Schema
from lowtide.storage.db.sqlite import SqliteDatabase
from lowtide.sync import service
from lowtide.sync.model import Batch, Result
from lowtide.sync.service import Sync
from lowtide.sync.uploads import SentBatch, UploadAnswer, batch_of

_running: set[asyncio.Task[Any]] = set()


def forgets() -> None:
    """A batch that comes again is applied again."""
    number = 0

    def another_lineage(
        sent: SentBatch, principal: Principal, schema: Schema, now: int, request: str
    ) -> Batch:
        nonlocal number
        number += 1
        return batch_of(msgspec.structs.replace(sent, lineage=str(number)), principal, schema, now)

    _replace(service, "batch_of", another_lineage)


def hurries() -> None:
    """A batch is acknowledged before it is written."""

    async def upload(self: Sync, principal: Principal, sent: SentBatch, request: str) -> UploadAnswer:
        async def later() -> None:
            await asyncio.sleep(0.02)
            await self.writer.apply(batch_of(sent, principal, self.schema, 0))

        task = asyncio.create_task(later())
        _running.add(task)
        task.add_done_callback(_running.discard)
        last = sent.transactions[-1].mutations[-1].n
        return UploadAnswer(sent.client_id, last, "0", _promised(sent.transactions))

    _replace(Sync, "upload", upload)


def tears() -> None:
    """The mutations of a transaction are applied one by one."""

    def torn(sent: SentBatch, principal: Principal, schema: Schema, now: int, request: str) -> Batch:
        batch = batch_of(sent, principal, schema, now)
        parts = [
            msgspec.structs.replace(transaction, mutations=[mutation])
            for transaction in batch.transactions
            for mutation in transaction.mutations
        ]
        return msgspec.structs.replace(batch, transactions=parts)

    _replace(service, "batch_of", torn)


def loses_power() -> None:
    """Commits are not synced: they survive a killed process and not a power cut."""

    def open_database(settings: Any, clock: Any, ids: Any) -> SqliteDatabase:
        return SqliteDatabase(Path(settings.database), clock=clock, durability="normal")

    _replace(lowtide.app, "open_database", open_database)


FAULTS: dict[str, Callable[[], None]] = {
    "forgets": forgets,
    "hurries": hurries,
    "tears": tears,
    "loses_power": loses_power,
}


def _promised(transactions: Sequence[Any]) -> list[Result]:
    results = []
    for transaction in transactions:
        bad = any(mutation.model == "word" for mutation in transaction.mutations)
        status: Any = "refused" if bad else "applied"
        results += [Result(n=mutation.n, status=status) for mutation in transaction.mutations]
    return results


def _replace(owner: Any, name: str, value: Any) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} to plant a fault in"
    setattr(owner, name, value)


if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    try:
        sys.exit(main(["serve"]))
    except LowtideError as error:
        sys.exit(f"{error.code}: {error.message}")
