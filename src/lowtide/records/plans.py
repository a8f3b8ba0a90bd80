"""A list as a statement: where its records are found, which of them are wanted, in which order.

Statements are put together from the project's own names and numbered parameters; what anybody sent is a
parameter. The same list again is the same statement: the latest are remembered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from lowtide.kernel.schema import Model, Wire
from lowtide.records.conditions import Column, condition, fixed
from lowtide.records.filters import Node
from lowtide.records.ordering import OrderKey, after_sql, order_sql
from lowtide.storage.db import Dialect, Query
from lowtide.sync.index import lookup_name, unique_name, unique_text
from lowtide.sync.streams import key_text

MAX_REMEMBERED_LISTS = 1_000
"""Filters and statements that are kept ready."""


class Slot(msgspec.Struct, frozen=True):
    """A parameter whose value comes with the request."""

    name: str


class Source(msgspec.Struct, frozen=True):
    """Where the records of one space are found: the shape of a ``Reach``."""

    kind: Literal["whole", "named", "bucket", "buckets"]
    """All of the space, the bucket of a name, the bucket of an id, the buckets of some."""
    fields: tuple[str, ...] = ()


class ListShape(msgspec.Struct, frozen=True):
    """Everything that decides the statement of a list, besides its filter and order."""

    sources: tuple[Source, ...]
    after: tuple[bool, ...] | None = None
    """Which values of the cursor are missing; None: there is no cursor."""
    index: str | None = None
    """The field whose index is looked up first."""
    count: bool = False


class Plan(msgspec.Struct, frozen=True):
    """A statement and its parameters: values, and slots for those that come with the request."""

    query: Query
    parameters: tuple[Any, ...]

    def bound(self, values: Mapping[str, Any]) -> list[Any]:
        """The parameters of one run."""
        return [values[p.name] if isinstance(p, Slot) else p for p in self.parameters]


class Remembered:
    """A bounded memory of what is dear to make; the least recently used leaves. For every thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` made for ``key``, now or before. An error is not remembered."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            self._kept[key] = made
            if len(self._kept) > MAX_REMEMBERED_LISTS:
                self._kept.popitem(last=False)
        return made


def index_entry(model: Model, node: Node | None, known: dict[str, Column]) -> tuple[str, str, str] | None:
    """(field, index name, value) of an index that finds all that ``node`` lets through."""
    if not model.indexes and not model.unique:
        return None
    wanted: dict[str, Wire] = fixed(node, known) if node is not None else {}
    for name, value in wanted.items():
        if (name,) in model.unique:
            return name, unique_name(model.name, (name,)), unique_text((name,), wanted) or ""
        if name in model.indexes:
            return name, lookup_name(model.name, name), key_text(value)
    return None


def plan(
    node: Node | None, known: dict[str, Column], keys: Sequence[OrderKey], shape: ListShape, dialect: Dialect
) -> Plan:
    """The statement of a list. Its rows: id, data, op, created, updated, then the value of each key.

    Raises ``BadFilter``.
    """
    parameters: list[Any] = []

    def add(value: Any) -> str:
        parameters.append(value)
        return f"${len(parameters)}"

    def slot(name: str) -> str:
        if Slot(name) not in parameters:
            parameters.append(Slot(name))
        return f"${parameters.index(Slot(name)) + 1}"

    single = shape.sources[0] if len(shape.sources) == 1 else None
    follows = keys[0].column.name if keys[0].unique else ""
    if (
        single is not None
        and single.kind in ("named", "bucket")
        and follows
        and not single.fields
        and not shape.index
    ):
        # One bucket, in the order of one of its indexes: nothing is read that is not answered.
        tables = "bucket_entry e CROSS JOIN record r"
        where = [
            f"e.bucket = {_bucket(0, single, slot)}",
            f"e.model = {slot('model')}",
            "e.removed = 0",
            f"r.space = {slot('space0')}",
            "r.model = e.model",
            "r.id = e.id",
        ]
        keys = [_InEntry(key.column, key.descending) for key in keys]
    else:
        tables = "record r"
        where = [f"r.model = {slot('model')}", "r.deleted = 0"]
        if shape.index:
            where.append(
                f"r.id IN (SELECT i.id FROM record_index i WHERE i.space = {slot('space0')}"
                f" AND i.name = {slot('index')} AND i.value = {slot('value')})"
            )
        where.append(_any(_found(i, source, shape, slot, dialect) for i, source in enumerate(shape.sources)))
    if node is not None:
        where.append(condition(node, known, dialect, add))
    if shape.after is not None:
        where.append(after_sql(keys, shape.after, dialect, lambda i: slot(f"after{i}")))
    text = " AND ".join(where)
    if shape.count:
        return _plan(f"SELECT count(*) FROM {tables} WHERE {text}", parameters)
    values = "".join(f", {key.sql(dialect)}" for key in keys)
    sql = (
        f"SELECT r.id, r.data, r.op, r.created, r.updated{values} FROM {tables} WHERE {text}"
        f" ORDER BY {order_sql(keys, dialect)} LIMIT {slot('limit')}"
    )
    return _plan(sql, parameters)


class _InEntry(OrderKey, frozen=True):
    """A key as the bucket's own indexes have it."""

    def sql(self, dialect: Dialect) -> str:
        return {"r.op": "e.op", "r.id": "e.id"}.get(sql := super().sql(dialect), sql)


def _found(i: int, source: Source, shape: ListShape, slot: Callable[[str], str], dialect: Dialect) -> str:
    space = f"r.space = {slot(f'space{i}')}"
    if source.kind == "whole":
        return space
    if source.kind in ("named", "bucket"):
        held = f"e.bucket = {_bucket(i, source, slot)}"
    elif dialect == "sqlite":
        held = f"e.bucket IN (SELECT value FROM json_each({slot(f'buckets{i}')}))"
    else:
        listed = f"jsonb_array_elements_text({slot(f'buckets{i}')}::jsonb)"
        held = f"e.bucket = ANY (ARRAY(SELECT ({listed})::bigint))"
    entries = f"FROM bucket_entry e WHERE {held} AND e.model = {slot('model')} AND e.removed = 0"
    if shape.index:
        ways = [f"EXISTS (SELECT 1 {entries} AND e.id = r.id)"]
    else:
        ways = [f"r.id IN (SELECT e.id {entries})"]
    document = "r.data" if dialect == "sqlite" else "r.data::json"
    ways += [f"({document} ->> '{name}') IS NOT NULL" for name in source.fields if name != "id"]
    ways += ["(1 = 1)" for name in source.fields if name == "id"]
    return f"({space} AND {_any(ways)})"


def _bucket(i: int, source: Source, slot: Callable[[str], str]) -> str:
    here = slot(f"bucket{i}")
    return here if source.kind == "bucket" else f"(SELECT b.id FROM bucket b WHERE b.name = {here})"


def _any(ways: Any) -> str:
    found = list(ways)
    return found[0] if len(found) == 1 else "(" + " OR ".join(found) + ")"


def _plan(sql: str, parameters: Sequence[Any]) -> Plan:
    return Plan(Query("list", sql.replace("$", "?"), sql), tuple(parameters))
