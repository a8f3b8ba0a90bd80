"""The ledger: changed records become rows, in a few bulk statements.

A change says where its record stood before and where it stands now: in which buckets, and under which
values it is found. The ledger moves entries, counts and index rows accordingly, under the op ids of one
group.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from lowtide.kernel.schema import Data, Schema
from lowtide.storage.db import Tx
from lowtide.sync import store
from lowtide.sync.index import lookup_name, unique_name, unique_text
from lowtide.sync.model import Bucket, BucketPage, RecordKey, StoredRecord
from lowtide.sync.store import QUERIES
from lowtide.sync.streams import Streams, key_text

IndexRow = tuple[str, str]
"""(index name, value)"""


class Standing(msgspec.Struct, frozen=True):
    """Where a record stands."""

    buckets: Collection[str] = ()
    index: Collection[IndexRow] = ()


NOWHERE = Standing()


def standing(schema: Schema, streams: Streams, key: RecordKey, data: Data | None) -> Standing:
    """Where a live record with ``data`` stands; nowhere for None."""
    if data is None:
        return NOWHERE
    space, name, id = key
    model = schema.models[name]
    index: list[IndexRow] = []
    for fields in model.unique:
        text = unique_text(fields, data)
        if text is not None:
            index.append((unique_name(name, fields), text))
    index.extend(
        (lookup_name(name, field), key_text(data[field]))
        for field in model.indexes
        if data[field] is not None
    )
    return Standing(streams.buckets_of(space, name, id, data), index)


class Ledger:
    """One group's changes on their way into the database."""

    def __init__(self, group: int, now: int):
        self._op = group * store.OPS_PER_GROUP
        self._now = now
        self._records: dict[RecordKey, tuple[Any, ...]] = {}
        self._added: list[tuple[Any, ...]] = []
        self._dropped: list[tuple[Any, ...]] = []
        self._moves: dict[str, list[tuple[int, str, str, int, str]]] = {}
        self._live: dict[str, int] = {}
        self.pages: dict[str, BucketPage] = {}
        """What was written into each bucket: filled by ``write``."""

    def enter(
        self, key: RecordKey, record: StoredRecord, json: str, before: Standing, after: Standing
    ) -> None:
        """``record`` is now ``json``, and stands elsewhere."""
        self._op += 1
        _, model, id = key
        self._records[key] = store.row_of(key, record, json, self._op, self._now)
        for name in after.buckets:
            self._moves.setdefault(name, []).append((self._op, model, id, 0, json))
            if name not in before.buckets:
                self._live[name] = self._live.get(name, 0) + 1
        for name in before.buckets:
            if name not in after.buckets:
                self._moves.setdefault(name, []).append((self._op, model, id, 1, json))
                self._live[name] = self._live.get(name, 0) - 1
        self.find(key, before, after)

    def find(self, key: RecordKey, before: Standing, after: Standing) -> None:
        """A record is found by other values than before; devices do not notice."""
        space, _, id = key
        if before.index != after.index:
            for row in after.index:
                if row not in before.index:
                    self._added.append((space, *row, id))
            for row in before.index:
                if row not in after.index:
                    self._dropped.append((space, *row, id))

    def row(self, key: RecordKey) -> tuple[Any, ...] | None:
        """The parameters of ``upsert_record`` for a record that was entered."""
        return self._records.get(key)

    async def write(self, tx: Tx, last_bucket: int) -> tuple[dict[str, Bucket], int]:
        """Write everything: the changed buckets as they are now, and the last bucket's id."""
        if self._records:
            await tx.execute_many(QUERIES["upsert_record"], list(self._records.values()))
        if self._dropped:
            await tx.execute_many(QUERIES["delete_index"], self._dropped)
        if self._added:
            await tx.execute_many(QUERIES["insert_index"], self._added)
        if not self._moves:
            return {}, last_bucket
        buckets = await store.read_buckets(tx, self._moves)
        new: list[tuple[Any, ...]] = []
        entries: list[tuple[Any, ...]] = []
        updates: list[tuple[Any, ...]] = []
        for name, rows in self._moves.items():
            if name not in buckets:
                last_bucket += 1
                buckets[name] = Bucket(last_bucket, 0, 0, 0)
                new.append((last_bucket, name.partition("/")[0], name))
            bucket = buckets[name]
            id, last, change = bucket.id, rows[-1][0], self._live.get(name, 0)
            buckets[name] = Bucket(id, last, bucket.live + change, bucket.floor)
            self.pages[name] = BucketPage(bucket.last, rows)
            entries.extend((id, op, model, record, removed) for op, model, record, removed, _ in rows)
            updates.append((id, last, change))
        if new:
            await tx.execute_many(QUERIES["insert_bucket"], new)
        await tx.execute_many(QUERIES["upsert_entry"], entries)
        await tx.execute_many(QUERIES["update_bucket"], updates)
        if tx.dialect == "sqlite":
            await tx.execute_many(QUERIES["insert_history"], [(id, last) for id, last, _ in updates])
        return buckets, last_bucket
