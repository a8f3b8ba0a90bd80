"""Where a user's records are found: by the app's declaration, in a bucket, by an index, or by a look at all.

A record belongs to a user by the fields that the declaration says hold users' ids: the key of a stream with
``keys=me``, the field of ``Model.where(field=me)``, and the field of an ``owner("field")`` rule.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from lowtide.declare.rules import Both, Either, Owner
from lowtide.kernel.schema import Lookup, Me, Parameter, Schema
from lowtide.storage.db import Tx, load_queries
from lowtide.sync.index import lookup_name
from lowtide.sync.streams import DEVICE_STREAM, bucket_topic, device_key, key_text
from lowtide.sync.system import COMMANDS, REJECTIONS

QUERIES = load_queries("lowtide.sync", "ownership.sql")


class Owned(msgspec.Struct, frozen=True):
    """One field of one record that holds the user's id."""

    space: str
    model: str
    id: str
    field: str
    value: str
    """The user's id; in a device's own rows its key, which begins with that."""


class Bucketed(msgspec.Struct, frozen=True):
    """A bucket whose key is the user."""

    space: str
    value: str
    """What its records hold of the user."""
    topic: str
    carried: Mapping[str, Collection[str]]
    """Model -> the fields that are the bucket's key."""

    async def rows(self, tx: Tx, after: tuple[str, str], limit: int) -> list[tuple[str, str]]:
        """(model, id) of the first ``limit`` behind ``after``, in order."""
        rows = await tx.fetch(QUERIES["rows_of_bucket"], self.topic, *after, limit)
        return [(model, id) for model, id in rows]

    def owned(self, rows: Iterable[tuple[str, str]]) -> list[Owned]:
        """The same with the fields that hold the user."""
        return [
            Owned(self.space, model, id, field, self.value)
            for model, id in rows
            for field in self.carried.get(model, ())
        ]


class ByField(msgspec.Struct, frozen=True):
    """One field of a model."""

    space: str
    value: str
    """What the field holds of the user."""
    model: str
    field: str

    def owned(self, rows: Iterable[tuple[str, str]]) -> list[Owned]:
        return [Owned(self.space, model, id, self.field, self.value) for model, id in rows]


class Indexed(ByField, frozen=True):
    """Found by its index."""

    async def rows(self, tx: Tx, after: tuple[str, str], limit: int) -> list[tuple[str, str]]:
        name = lookup_name(self.model, self.field)
        value = key_text(self.value)
        rows = await tx.fetch(QUERIES["rows_by_index"], self.space, name, value, after[1], limit)
        return [(self.model, id) for (id,) in rows]


class Looked(ByField, frozen=True):
    """Found by a look at every record of the model."""

    async def rows(self, tx: Tx, after: tuple[str, str], limit: int) -> list[tuple[str, str]]:
        wanted = self.space, self.model, self.field, self.value
        rows = await tx.fetch(QUERIES["rows_by_look"], *wanted, after[1], limit)
        return [(self.model, id) for (id,) in rows]


Source = Bucketed | Indexed | Looked
"""Where some of a user's records are found."""


def of_device(space: str, user: str, client_id: str) -> Source:
    """Where a device's own rows are: its rejections and commands."""
    key = device_key(user, client_id)
    topic = bucket_topic(space, DEVICE_STREAM, key_text(key))
    return Bucketed(space, key, topic, dict.fromkeys((REJECTIONS, COMMANDS), ("device",)))


class Owners:
    """What a schema says of whose records are. Reads nothing by itself."""

    def __init__(self, schema: Schema):
        self._by_stream, self._by_lookup, self._by_rule = _fields(schema)
        self.fields: Mapping[str, frozenset[str]] = _joined(
            self._by_stream.values(), self._by_lookup, self._by_rule
        )
        """Model -> its fields that hold users' ids."""

    def indexed(self, user: str, spaces: Collection[str]) -> Iterable[Source]:
        """What buckets and indexes know."""
        text = key_text(user)
        for space in spaces:
            for stream, carried in self._by_stream.items():
                yield Bucketed(space, user, bucket_topic(space, stream, text), carried)
            for model, fields in self._by_lookup.items():
                for field in fields:
                    yield Indexed(space, user, model, field)

    def unindexed(self, user: str, spaces: Collection[str]) -> Iterable[Source]:
        """What only a look at every record of a model finds."""
        for space in spaces:
            for model, fields in self._by_rule.items():
                for field in fields:
                    yield Looked(space, user, model, field)


Fields = dict[str, set[str]]


def _fields(schema: Schema) -> tuple[dict[str, Fields], Fields, Fields]:
    """Fields that hold users' ids: by stream, by lookup, and those that only a rule names."""
    by_stream: dict[str, Fields] = {}
    by_lookup: Fields = {}
    for stream in schema.streams.values():
        keys = stream.keys.within if isinstance(stream.keys, Parameter) else stream.keys
        if isinstance(keys, Me):
            for model, field in stream.carries.items():
                if field is not None and field != "id":
                    by_stream.setdefault(stream.name, {}).setdefault(model, set()).add(field)
        elif isinstance(keys, Lookup):
            by_lookup.setdefault(keys.model, set()).add(keys.match)
    known = _joined(by_stream.values(), by_lookup)
    by_rule: Fields = {}
    for model_name, declared in schema.models.items():
        for field in _owner_fields(declared.write):
            if field != "id" and field in declared.fields and field not in known.get(model_name, ()):
                by_rule.setdefault(model_name, set()).add(field)
    return by_stream, by_lookup, by_rule


def _joined(*parts: Any) -> dict[str, frozenset[str]]:
    joined: Fields = {}
    for part in parts:
        for fields in [part] if isinstance(part, dict) else part:
            for model, names in fields.items():
                joined.setdefault(model, set()).update(names)
    return {model: frozenset(names) for model, names in joined.items()}


def _owner_fields(rule: Any) -> Iterable[str]:
    if isinstance(rule, Owner):
        yield rule.field
    elif isinstance(rule, Either | Both):
        for part in rule.rules:
            yield from _owner_fields(part)
