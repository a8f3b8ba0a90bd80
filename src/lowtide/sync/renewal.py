"""Renewal: stored records brought under a new schema, before anybody relies on it.

What is kept beside a record was made when it was written: the JSON that devices receive, the buckets
that it is in, its index rows. Where the new schema wants another, the record is entered again; only
what differs on devices is sent to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from lowtide.declare.evolve import snapshot, stale_models
from lowtide.declare.snapshot import ModelState, Snapshot, read_snapshot
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import SetupError
from lowtide.kernel.schema import Model, Schema
from lowtide.storage.db import Database, Row, Tx
from lowtide.sync import store
from lowtide.sync.index import lookup_name, unique_name, unique_text
from lowtide.sync.ledger import IndexRow, Ledger, Standing, standing
from lowtide.sync.model import RecordKey, StoredRecord
from lowtide.sync.store import QUERIES
from lowtide.sync.streams import Streams, key_text

CHUNK = 500
"""Records of one transaction."""

Progress = Callable[[str, int], None]
"""Told a model's name and how many of its records are done."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


async def renew(
    database: Database, olds: Sequence[bytes], schema: Schema, clock: Clock, progress: Progress
) -> int:
    """Renew the records of every model that ``schema`` changed since one of ``olds``; how many were entered.

    ``olds``: the deployed schema, and those of renewals that were cut off since. Safe to run again from its
    beginning after a crash. No other node may write meanwhile. About 30,000 records a second. Raises
    ``SetupError`` as ``check_turn``.
    """
    fresh = snapshot(schema)
    before = [read_snapshot(old) for old in olds]
    streams = Streams(schema)
    total = 0
    for name in sorted(frozenset().union(*(stale_models(old, schema) for old in olds))):
        done = 0
        spaces = await database.read(lambda tx, name=name: tx.fetch(QUERIES["spaces_of"], name))  # type: ignore[misc]
        for (space,) in spaces:
            after = ""
            while True:
                work = _Chunk(fresh, before, schema, streams, name, space, after, clock)
                rows, entered = await database.write(work)
                total += entered
                done += len(rows)
                progress(name, done)
                if len(rows) < CHUNK:
                    break
                after = rows[-1][0]
    return total


async def check_turn(tx: Tx, fresh: bytes) -> None:
    """Raise ``SetupError`` if another version of the app has begun to be deployed since ``fresh`` was, or has
    been deployed. Under the head's lock: of two, one is deployed whole, and the other hears of it."""
    begun = await tx.fetch(QUERIES["latest_begun"]) or await tx.fetch(QUERIES["deployed_schema"])
    if begun and begun[0][0].encode() != fresh:
        raise SetupError(
            "Another version of this app is being deployed to the same database.",
            hint="Stop the nodes that run the other version, and start this one again.",
        )


class _Stored(msgspec.Struct, frozen=True):
    """A record as it is stored, and where it stood and is to stand."""

    key: RecordKey
    record: StoredRecord
    text: str
    json: str
    was: Standing
    now: Standing

    @property
    def differs(self) -> bool:
        """Is it to be entered again, as far as the old schemas tell?"""
        return self.json != self.text or set(self.was.buckets) != set(self.now.buckets)


class _Chunk:
    """One transaction of a renewal."""

    def __init__(
        self,
        fresh: bytes,
        olds: Sequence[Snapshot],
        schema: Schema,
        streams: Streams,
        model: str,
        space: str,
        after: str,
        clock: Clock,
    ):
        self._fresh = fresh
        self._olds = olds
        self._schema = schema
        self._streams = streams
        self._model = model
        self._space = space
        self._after = after
        self._clock = clock

    async def __call__(self, tx: Tx) -> tuple[Sequence[Row], int]:
        head = await store.lock_head(tx)
        await check_turn(tx, self._fresh)
        now = self._clock.now()
        group = head.group + 1
        rows = await tx.fetch(QUERIES["records_to_renew"], self._space, self._model, self._after, CHUNK)
        ledger = Ledger(group, now)
        model = self._schema.models[self._model]
        found = [self._read(model, row) for row in rows]
        live = await self._live(tx, [one for one in found if one.differs])
        entered = 0
        for one in found:
            was = Standing(live.get(one.key[2], one.was.buckets), one.was.index)
            if one.json == one.text and set(was.buckets) == set(one.now.buckets):
                ledger.find(one.key, was, one.now)
            else:
                ledger.enter(one.key, one.record, one.json, was, one.now)
                entered += 1
        changed, last_bucket = await ledger.write(tx, head.last_bucket)
        await store.move_head(tx, group, last_bucket, now, list(changed))
        return rows, entered

    def _read(self, model: Model, row: Row) -> _Stored:
        id, text, stamps, deleted, op, created = row
        key = (self._space, self._model, id)
        data = store.restore(model, text)
        return _Stored(
            key,
            StoredRecord(data, store.read_stamps(stamps), bool(deleted), op, created),
            text,
            store.data_text(model, data),
            Standing() if deleted else self._standing_before(id, text),
            standing(self._schema, self._streams, key, None if deleted else data),
        )

    async def _live(self, tx: Tx, records: Sequence[_Stored]) -> dict[str, list[str]]:
        """By id, the buckets that each record is in, of those where it may have been or is to be.

        A renewal that was cut off may have moved some: what stands counts, not what should have stood.
        """
        live: dict[str, list[str]] = {one.key[2]: [] for one in records}
        named = [[name, one.key[2]] for one in records for name in {*one.was.buckets, *one.now.buckets}]
        if named:
            wanted = _encode(sorted(named)).decode()
            for name, id in await tx.fetch(QUERIES["live_entries"], self._model, wanted):
                live[id].append(name)
        return live

    def _standing_before(self, id: str, text: str) -> Standing:
        data = _decode(text)
        buckets: dict[str, None] = {}
        index: dict[IndexRow, None] = {}
        for old in self._olds:
            buckets |= dict.fromkeys(self._buckets_before(old, id, data))
            if self._model in old.models:
                index |= dict.fromkeys(_index_before(old.models[self._model], self._model, data))
        return Standing(list(buckets), list(index))

    def _buckets_before(self, old: Snapshot, id: str, data: dict[str, Any]) -> Iterable[str]:
        for name, stream in old.streams.items():
            if self._model not in stream.carries or stream.space not in (None, self._space):
                continue
            field = stream.carries[self._model]
            value = id if field == "id" else data.get(field) if field else ""
            if value is not None:
                yield f"{self._space}/{name}[{key_text(value) if field else ''}]"


def _index_before(model: ModelState, name: str, data: dict[str, Any]) -> Iterable[IndexRow]:
    for fields in model.unique:
        value = unique_text(tuple(fields), data)
        if value is not None:
            yield unique_name(name, tuple(fields)), value
    for field in model.indexes:
        if data.get(field) is not None:
            yield lookup_name(name, field), key_text(data[field])
