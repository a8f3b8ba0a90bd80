"""What a filter means: a tree over a model's fields becomes an SQL condition with parameters.

Every comparison is true or false, never unknown: a field without a value is equal to ``null`` and to nothing
else, and neither less nor greater than anything. So ``!=`` is always the opposite of ``=``.

=================== ============================ ===========================================================
field               literal                      ``~``
=================== ============================ ===========================================================
text, reference,    text                         contains it; A to Z and a to z are the same
attachment, id
integer, number     number                       -
boolean             ``true``, ``false``          -
timestamp,          text: an ISO 8601 time       -
created, updated
set, list           only ``null``                has it as an element: a text, number or boolean
json                only ``null``                -
=================== ============================ ===========================================================

Texts are ordered by their characters' code points. ``=`` and ``in`` work wherever there is a literal,
``<`` and its like for all but booleans.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, NoReturn

import msgspec

from lowtide.kernel.errors import BadFilter
from lowtide.kernel.schema import Field, Model, Wire
from lowtide.kernel.values import coerce
from lowtide.records.filters import And, Compare, In, Node, Not, Or, Scalar
from lowtide.records.shape import is_structured
from lowtide.storage.db import Dialect

Class = Literal["text", "integer", "number", "boolean", "timestamp", "moment", "items", "json"]
"""How a column compares. ``moment``: milliseconds, of ``created`` and ``updated``."""

Add = Callable[[Any], str]
"""Takes a parameter's value, gives its place in the statement: ``$7``."""


class Column(msgspec.Struct, frozen=True):
    """Something that a list is filtered or sorted by."""

    name: str
    kind: Class
    sqlite: str
    postgres: str
    field: Field | None = None

    def sql(self, dialect: Dialect) -> str:
        """Its value in a statement."""
        return self.sqlite if dialect == "sqlite" else self.postgres


_SYSTEM = {
    "id": Column("id", "text", "r.id", 'r.id COLLATE "C"'),
    "created": Column("created", "moment", "r.created", "r.created"),
    "updated": Column("updated", "moment", "r.updated", "r.updated"),
}
_CASTS = {"integer": "bigint", "boolean": "bigint", "number": "double precision"}
_SCALARS: dict[str, Class] = {
    "text": "text",
    "reference": "text",
    "attachment": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "timestamp": "timestamp",
}
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_TIME = Field(name="time", kind="timestamp")


def columns(model: Model) -> dict[str, Column]:
    """What the lists of a model are filtered and sorted by: its fields, and the system's where no field has
    the name."""
    found = dict(_SYSTEM)
    for field in model.fields.values():
        for name in filter(None, (field.name, field.renamed_from)):
            found[name] = _column(name, field)
    return found


def _column(name: str, field: Field) -> Column:
    raw = f"(r.data::json ->> '{field.name}')"
    kind: Class
    if is_structured(field):
        kind = "json" if field.kind == "json" and field.merge not in ("set", "list") else "items"
    else:
        kind = _SCALARS[field.kind]
    cast = _CASTS.get(kind)
    postgres = f"{raw}::{cast}" if cast else f'{raw} COLLATE "C"' if kind in ("text", "timestamp") else raw
    return Column(name, kind, f"(r.data ->> '{field.name}')", postgres, field)


def condition(node: Node, known: dict[str, Column], dialect: Dialect, add: Add) -> str:
    """The SQL of ``node``. Raises ``BadFilter`` for an unknown field and for a literal that does not fit."""
    match node:
        case And():
            return "(" + " AND ".join(condition(item, known, dialect, add) for item in node.items) + ")"
        case Or():
            return "(" + " OR ".join(condition(item, known, dialect, add) for item in node.items) + ")"
        case Not():
            return f"(NOT {condition(node.item, known, dialect, add)})"
        case In():
            return _in(_named(node, known), node, dialect, add)
        case Compare():
            return _compare(_named(node, known), node, dialect, add)


def fixed(node: Node | None, known: dict[str, Column]) -> dict[str, Wire]:
    """The fields that ``node`` demands to have one value, with that value in wire form."""
    items = node.items if isinstance(node, And) else (node,)
    found: dict[str, Wire] = {}
    for item in items:
        if isinstance(item, Compare) and item.op == "=" and item.value is not None:
            column = _named(item, known)
            if column.field is not None and column.kind not in ("items", "json"):
                found[column.field.name] = _wire(column, item, item.value)
    return found


def _named(node: Compare | In, known: dict[str, Column]) -> Column:
    column = known.get(node.name)
    if column is None:
        _refuse(node, f"There is no field {node.name[:64]!r}")
    return column


def _in(column: Column, node: In, dialect: Dialect, add: Add) -> str:
    if column.kind in ("items", "json"):
        _refuse(node, f"{node.name} is not compared by 'in'")
    if None in node.values:
        _refuse(node, "A list of values has no null: write 'or' and a comparison with null")
    places = ", ".join(add(_wire(column, node, value)) for value in node.values)
    return f"({column.sql(dialect)} IN ({places})) IS TRUE"


def _compare(column: Column, node: Compare, dialect: Dialect, add: Add) -> str:
    sql, op, value = column.sql(dialect), node.op, node.value
    if value is None:
        if op not in ("=", "!="):
            _refuse(node, "null is compared with = and != only")
        return f"({sql} IS {'NULL' if op == '=' else 'NOT NULL'})"
    if op == "~":
        return _has(column, node, value, dialect, add)
    if column.kind in ("items", "json"):
        _refuse(node, f"{node.name} is compared with null only" + (", or by ~" * (column.kind == "items")))
    if column.kind == "boolean" and op not in ("=", "!="):
        _refuse(node, f"{node.name} is true or false: it is compared with = and !=")
    place = add(_wire(column, node, value))
    if op == "!=":
        return f"(({sql} = {place}) IS NOT TRUE)"
    return f"(({sql} {op} {place}) IS TRUE)"


def _has(column: Column, node: Compare, value: Scalar, dialect: Dialect, add: Add) -> str:
    sql = column.sql(dialect)
    if column.kind == "text":
        if not isinstance(value, str):
            _refuse(node, f"{node.name} is searched for a text")
        place = add(value.translate(_LOWER))
        if dialect == "sqlite":
            return f"((instr(lower({sql}), {place}) > 0) IS TRUE)"
        return f"((strpos(lower({sql}), {place}) > 0) IS TRUE)"
    if column.kind != "items":
        _refuse(node, f"~ searches texts, sets and lists, and {node.name} is none")
    if dialect == "postgres":
        element = msgspec.json.encode([value]).decode()
        return f"(({sql}::jsonb @> {add(element)}::text::jsonb) IS TRUE)"
    if isinstance(value, bool):
        wanted = f"j.type = '{'true' if value else 'false'}'"
    elif isinstance(value, str):
        wanted = f"j.type = 'text' AND j.value = {add(value)}"
    else:
        wanted = f"j.type IN ('integer', 'real') AND j.value = {add(value)}"
    return f"EXISTS (SELECT 1 FROM json_each({sql}) j WHERE {wanted})"


def _wire(column: Column, node: Compare | In, value: Scalar) -> Wire:
    """A literal as the column holds it."""
    kind = column.kind
    if kind in ("integer", "number"):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    elif kind == "boolean":
        fits = isinstance(value, bool)
    else:
        fits = isinstance(value, str)
    if not fits:
        _refuse(node, f"{node.name} is compared with {_WANTED[kind]}")
    if kind == "text":
        return str(value)
    try:
        if kind == "moment":
            return _milliseconds(str(coerce(_TIME, value)))
        return coerce(_PLAIN[kind], value)
    except ValueError as error:
        _refuse(node, f"{node.name}: {error}")


def _milliseconds(canonical: str) -> int:
    moment = datetime.fromisoformat(canonical)
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


_PLAIN = {
    "integer": Field(name="integer", kind="integer"),
    "number": Field(name="number", kind="number"),
    "boolean": Field(name="boolean", kind="boolean"),
    "timestamp": _TIME,
}
_WANTED = {
    "text": "a text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "timestamp": 'a time, such as "2026-03-01T08:00:00Z"',
    "moment": 'a time, such as "2026-03-01T08:00:00Z"',
}


def _refuse(node: Compare | In, why: str) -> NoReturn:
    raise BadFilter(f"{why}, at character {node.at + 1}.", position=node.at)
