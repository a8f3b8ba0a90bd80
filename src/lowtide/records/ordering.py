"""The order of a list, and the cursor that says where a page ended.

A cursor holds the sort values of the page's last record, so that the next page begins behind them: nothing
that stays is skipped or shown twice, whatever is written meanwhile. It grants nothing, so it is not signed;
what does not fit the list that it is given to is refused.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from lowtide.kernel.base64url import decode, encode
from lowtide.kernel.errors import Malformed
from lowtide.kernel.values import MAX_ID_LENGTH
from lowtide.records.conditions import Add, Column
from lowtide.storage.db import Dialect

MAX_SORT_FIELDS = 3
"""Fields that a list is sorted by, besides the id."""

MAX_SORTED_TEXT = 200
"""Characters of a text that count for the order: a cursor holds them."""

MAX_CURSOR_LENGTH = 8_000
"""Characters of a cursor: more than any that is given out has."""

_encode = msgspec.json.Encoder().encode


class OrderKey(msgspec.Struct, frozen=True):
    """One part of an order. A missing value is less than every other."""

    column: Column
    descending: bool = False

    def sql(self, dialect: Dialect) -> str:
        """The value that is ordered."""
        kind, name = self.column.kind, self.column.name
        if name == "updated" and self.column.field is None:
            return "r.op"  # the order in which the server applied changes
        if name == "id":
            return "r.id"
        sql = self.column.sql(dialect)
        if kind != "text":
            return sql
        cut = f"substr({sql}, 1, {MAX_SORTED_TEXT})"
        return cut if dialect == "sqlite" else f'({cut} COLLATE "C")'

    @property
    def unique(self) -> bool:
        """Has no other record the same value?"""
        return self.column.field is None and self.column.name in ("id", "updated")


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    mark: str
    values: list[str | int | float | None]


_decode = msgspec.json.Decoder(_Cursor).decode


def ordered(sort: str | None, known: dict[str, Column]) -> tuple[OrderKey, ...]:
    """``-created,title`` as keys, the last of them unique. Raises ``Malformed``."""
    keys: list[OrderKey] = []
    for part in (sort or "id").split(","):
        name = part.strip()
        descending = name.startswith("-")
        name = name.removeprefix("-")
        column = known.get(name)
        if column is None:
            raise Malformed(f"There is no field {name[:64]!r} to sort by.")
        if column.kind in ("items", "json"):
            raise Malformed(f"{name} has no order.")
        if any(key.column.name == name for key in keys):
            raise Malformed(f"{name} is named twice.")
        keys.append(OrderKey(column, descending))
        if keys[-1].unique:
            return tuple(keys)
        if len(keys) > MAX_SORT_FIELDS:
            raise Malformed(f"A list is sorted by at most {MAX_SORT_FIELDS} fields.")
    return (*keys, OrderKey(known["id"]))


def order_sql(keys: Sequence[OrderKey], dialect: Dialect) -> str:
    """What stands behind ORDER BY."""
    parts = []
    for key in keys:
        direction = "DESC" if key.descending else "ASC"
        if dialect == "postgres" and key.column.field is not None:
            direction += " NULLS LAST" if key.descending else " NULLS FIRST"
        parts.append(f"{key.sql(dialect)} {direction}")
    return ", ".join(parts)


def after_sql(keys: Sequence[OrderKey], nulls: Sequence[bool], dialect: Dialect, add: Add) -> str:
    """The condition of what follows a cursor; ``nulls``: which of its values are missing."""
    ways = []
    equal: list[str] = []
    for i, (key, null) in enumerate(zip(keys, nulls, strict=True)):
        sql, place = key.sql(dialect), "NULL" if null else add(i)
        if key.descending:
            beyond = None if null else f"{sql} < {place}"
            if beyond and key.column.field is not None:
                beyond = f"({beyond} OR {sql} IS NULL)"
        else:
            beyond = f"{sql} IS NOT NULL" if null else f"{sql} > {place}"
        if beyond:
            ways.append(" AND ".join([*equal, beyond]))
        equal.append(f"{sql} IS NULL" if null else f"{sql} = {place}")
    return "(" + " OR ".join(f"({way})" for way in ways) + ")" if ways else "(1 = 0)"


def fingerprint(model: str, filter: str | None, sort: str | None) -> str:
    """What a cursor belongs to."""
    text = _encode([model, filter, sort])
    return encode(hashlib.blake2b(text, digest_size=9).digest())


def cursor_text(mark: str, values: Sequence[Any]) -> str:
    """The cursor behind a record with these sort values."""
    return encode(_encode(_Cursor(mark, [*values])))


def cursor_values(cursor: str, mark: str, keys: Sequence[OrderKey]) -> list[Any]:
    """The sort values in a cursor. Raises ``Malformed`` for one that this list did not give out."""
    if len(cursor) > MAX_CURSOR_LENGTH:
        raise Malformed("The cursor is longer than any that was given out.")
    try:
        found = _decode(decode(cursor))
    except (ValueError, msgspec.DecodeError):
        raise Malformed("This is no cursor that was given out.") from None
    fits = len(found.values) == len(keys) and all(map(_fits, keys, found.values))
    if found.mark != mark or not fits:
        raise Malformed("The cursor belongs to another list: send it with the same filter and sort.")
    return [
        float(value) if key.column.kind == "number" and value is not None else value
        for key, value in zip(keys, found.values, strict=True)
    ]


def _fits(key: OrderKey, value: Any) -> bool:
    kind = key.column.kind
    if value is None:
        return key.column.field is not None
    if kind in ("integer", "boolean", "moment"):
        return type(value) is int and -(2**63) <= value < 2**63
    if kind == "number":
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    longest = MAX_ID_LENGTH if key.unique else MAX_SORTED_TEXT
    return isinstance(value, str) and len(value) <= longest and "\0" not in value
