"""Lists: the records of one model that a user receives, filtered, in an order, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from lowtide.kernel.errors import Malformed
from lowtide.kernel.http import MIB
from lowtide.kernel.schema import Model, Principal
from lowtide.records.conditions import Column, columns, condition
from lowtide.records.expansion import Expansion, Included
from lowtide.records.filters import Node, parse, replaced, show
from lowtide.records.ordering import OrderKey, cursor_text, cursor_values, fingerprint, ordered
from lowtide.records.plans import ListShape, Plan, Remembered, Source, index_entry, plan
from lowtide.records.service import Holdings, Records
from lowtide.records.shape import AnyRecord, ListedRecord
from lowtide.records.store import QUERIES
from lowtide.storage.db import Row, Tx
from lowtide.sync import store
from lowtide.sync.model import Bucket
from lowtide.sync.streams import Reach

MAX_LIST = 200
"""Records of a page."""

MAX_LIST_BYTES = 1 * MIB
"""A page ends early beyond this, so that large records cost no more memory than small ones."""

FIRST_ROWS = 32
"""Rows that are read before it is known how large they are."""

WIDE = 1_000
"""Records in a user's buckets from which on an index may be the shorter way."""


class ListQuery(msgspec.Struct, frozen=True):
    """What a list is asked for."""

    filter: str | None = None
    """Such as ``done = false and title ~ "roof"``."""
    sort: str | None = None
    """Fields, with a ``-`` for the greatest first: ``-created,title``. By id without it."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIST)] = 30
    """Records of a page, at most."""
    cursor: str | None = None
    """Of the page before."""
    fields: str | None = None
    """The only fields that ``data`` is to have, with commas between them."""
    expand: str | None = None
    """References that are followed, with commas between them: ``owner_id,parent_id.owner_id``."""
    count: bool = False
    """Count all that the filter lets through."""


class AnyRecordPage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of a list."""

    records: list[AnyRecord]
    cursor: str | None
    """For the next page; null: this is the last. A page may have fewer records than asked for."""
    count: int | None = None
    """All that the filter lets through, on every page."""
    included: Included | None = None
    """The records that ``expand`` asked for, by model and id, each once."""


class RecordPage(AnyRecordPage, frozen=True, omit_defaults=True):
    """A part of a list of the model that the address names, as the reference describes it."""

    records: list[ListedRecord]  # type: ignore[assignment]


class _Wanted(msgspec.Struct, frozen=True):
    """A list that was asked for, read and checked."""

    name: str
    node: Node | None
    keys: tuple[OrderKey, ...]
    fields: tuple[str, ...]
    expansion: Expansion | None
    mark: str


class Lists:
    """Answers lists. What was worked out from a filter or an order is remembered."""

    def __init__(self, records: Records):
        self._records = records
        self._database = records.sync.database
        self._streams = records.sync.streams
        self._remembered = Remembered()
        self._columns: dict[str, dict[str, Column]] = {
            name: columns(shape.model) for name, shape in records.shapes.items()
        }

    async def page(self, principal: Principal, name: str, asked: ListQuery) -> AnyRecordPage:
        """One page. Raises ``NotFound``, ``BadFilter``, ``Malformed`` and ``TooManyBuckets``, and
        ``StorageTimeout`` for what the database cannot answer in time.

        Reads the user's buckets in the order of the list where one bucket is listed by id or ``updated``, and
        all of them otherwise, or an index that the filter fits. A former id of the user in the filter is read
        as the present one, as in writes.
        """
        model = self._records.shape(name).model
        # Most users were never merged: what is remembered of a filter is then everybody's.
        whose = (principal.user, principal.aliases) if principal.aliases and asked.filter else None
        key = ("list", name, asked.filter, asked.sort, asked.fields, asked.expand, whose)
        wanted: _Wanted = self._remembered.get(key, lambda: self._read(model, asked, principal))
        after = None
        if asked.cursor is not None:
            after = cursor_values(asked.cursor, wanted.mark, wanted.keys)
        return await self._database.read(lambda tx: self._page(tx, principal, wanted, asked, after))

    def _read(self, model: Model, asked: ListQuery, principal: Principal) -> _Wanted:
        known = self._columns[model.name]
        node = None
        text = asked.filter
        if text is not None and text.strip():
            node = parse(text)
            fields = self._records.sync.ownership.fields.get(model.name)
            if fields and principal.aliases:
                present = replaced(node, fields, dict.fromkeys(principal.aliases, principal.user))
                node, text = present, show(present)
            condition(node, known, self._database.dialect, lambda value: "")
        chosen: tuple[str, ...] = ()
        if asked.fields is not None:
            chosen = tuple(dict.fromkeys(part.strip() for part in asked.fields.split(",")))
            for field in chosen:
                if field not in known or known[field].field is None:
                    raise Malformed(f"fields: there is no field {field[:64]!r}")
        expansion = None
        if asked.expand is not None:
            expansion = Expansion.read(asked.expand, model, self._records)
        return _Wanted(
            model.name,
            node,
            ordered(asked.sort, known),
            chosen,
            expansion,
            fingerprint(model.name, text, asked.sort),
        )

    async def _page(
        self, tx: Tx, principal: Principal, wanted: _Wanted, asked: ListQuery, after: list[Any] | None
    ) -> AnyRecordPage:
        holdings: Holdings = {}
        if not principal.server:
            holdings = await self._records.holdings(tx, principal)
        reaches = self._streams.reach(principal, wanted.name, holdings)
        topics = [topic for reach in reaches for topic in reach.topics]
        model = self._records.shapes[wanted.name].model
        entry = index_entry(model, wanted.node, self._columns[wanted.name])
        # A bucket alone is found by the list's own statement.
        named = len(topics) == 1 and entry is None
        found = {} if named else await store.read_buckets(tx, topics)
        shape, values = _sources(reaches, found, named)
        if not shape.sources:
            return AnyRecordPage([], None, 0 if asked.count else None, {} if wanted.expansion else None)
        values["model"] = wanted.name
        shape, values = await self._indexed(tx, entry, shape, values, found)
        rows, more = await self._rows(tx, wanted, shape, values, asked.limit, after)
        cursor = cursor_text(wanted.mark, rows[-1][5:]) if more else None
        count = None
        if asked.count:
            counted = self._plan(wanted, msgspec.structs.replace(shape, count=True))
            count = (await tx.fetch(counted.query, *counted.bound(values)))[0][0]
        included = None
        if wanted.expansion is not None:
            included = await wanted.expansion.included(
                tx, principal, holdings, [(wanted.name, row[1]) for row in rows]
            )
        shown = self._records.shapes[wanted.name]
        records = [
            shown.record(id, text, op, created, updated, wanted.fields)
            for id, text, op, created, updated, *_ in rows
        ]
        return AnyRecordPage(records, cursor, count, included)

    async def _indexed(
        self,
        tx: Tx,
        entry: tuple[str, str, str] | None,
        shape: ListShape,
        values: dict[str, Any],
        found: dict[str, Bucket],
    ) -> tuple[ListShape, dict[str, Any]]:
        """The same through an index, where that is the shorter way."""
        if entry is None or len(shape.sources) > 1:
            return shape, values
        field, name, value = entry
        if shape.sources[0].kind != "whole":
            live = sum(bucket.live for bucket in found.values())
            if live < WIDE:
                return shape, values
            ((held,),) = await tx.fetch(QUERIES["index_width"], values["space0"], name, value, live)
            if held >= live:
                return shape, values
        values = values | {"index": name, "value": value}
        return msgspec.structs.replace(shape, index=field), values

    async def _rows(
        self,
        tx: Tx,
        wanted: _Wanted,
        shape: ListShape,
        values: dict[str, Any],
        limit: int,
        after: Sequence[Any] | None,
    ) -> tuple[list[Row], bool]:
        """The rows of the page, and whether more follow."""
        rows: list[Row] = []
        size = largest = 0
        step = FIRST_ROWS
        while True:
            step = min(step, limit + 1 - len(rows))
            here = dict(values, limit=step)
            if after is not None:
                shape = msgspec.structs.replace(shape, after=tuple(value is None for value in after))
                here |= {f"after{i}": value for i, value in enumerate(after)}
            made = self._plan(wanted, shape)
            found = await tx.fetch(made.query, *made.bound(here))
            for row in found:
                if len(rows) == limit or size > MAX_LIST_BYTES:
                    return rows, True
                rows.append(row)
                size += len(row[1])
                largest = max(largest, len(row[1]))
            if len(found) < step:
                return rows, False
            after = rows[-1][5:]
            step = max(FIRST_ROWS, (MAX_LIST_BYTES - size) // max(largest, 1))

    def _plan(self, wanted: _Wanted, shape: ListShape) -> Plan:
        key = ("plan", wanted.mark, shape)
        known = self._columns[wanted.name]
        made: Plan = self._remembered.get(
            key, lambda: plan(wanted.node, known, wanted.keys, shape, self._database.dialect)
        )
        return made


def _sources(
    reaches: Sequence[Reach], found: dict[str, Bucket], named: bool
) -> tuple[ListShape, dict[str, Any]]:
    """Where the records are; ``named``: the buckets were not looked for, the one is told by its name."""
    sources: list[Source] = []
    values: dict[str, Any] = {}
    for reach in reaches:
        i = len(sources)
        held = sorted(found[topic].id for topic in reach.topics if topic in found)
        if reach.whole:
            sources.append(Source("whole"))
        elif named and reach.topics:
            sources.append(Source("named", reach.fields))
            values[f"bucket{i}"] = reach.topics[0]
        elif len(held) == 1:
            sources.append(Source("bucket", reach.fields))
            values[f"bucket{i}"] = held[0]
        elif held or reach.fields:
            sources.append(Source("buckets", reach.fields))
            values[f"buckets{i}"] = msgspec.json.encode(held).decode()
        else:
            continue
        values[f"space{i}"] = reach.space
    return ListShape(tuple(sources)), values
