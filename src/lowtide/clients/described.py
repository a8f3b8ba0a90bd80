"""An app as a generator of client code needs it: names, shapes and defaults, of no language."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import msgspec

from lowtide.declare.clientschema import client_schema
from lowtide.kernel.errors import SetupError
from lowtide.kernel.schema import Field, Function, Kind, Model, Schema, Wire
from lowtide.sync.system import with_system

ValueShape = Literal["text", "integer", "number", "boolean", "timestamp", "json", "array", "object"]
"""What a value is. On a device, a timestamp, a json and an array are texts. An object is an argument only."""


class Attribute(msgspec.Struct, frozen=True):
    """A field of a record, or an argument of a call."""

    name: str
    shape: ValueShape
    optional: bool = False
    """May be nothing."""
    default: Wire = None
    """What a record has that nobody gave a value, in its form on the wire."""
    left_out: bool = False
    """A new record, or a call, may be made without it."""
    counter: bool = False
    """Devices add to it, rather than set it."""
    server: bool = False
    """Only the server writes it."""
    note: str = ""
    """One line for people, of what happens to concurrent edits."""


class RecordType(msgspec.Struct, frozen=True):
    """A model as devices have it, without the ``id`` that each has."""

    name: str
    attributes: tuple[Attribute, ...]
    writable: bool
    """Devices may write it, if the app's rule lets them."""

    @property
    def written(self) -> tuple[Attribute, ...]:
        """What a device gives a new record."""
        return tuple(one for one in self.attributes if not one.server)

    @property
    def insert(self) -> str:
        """SQL that adds one, with a mark for the id and one for each of ``written``."""
        names = ["id", *(f'"{one.name}"' for one in self.written)]
        return f'INSERT INTO "{self.name}"({", ".join(names)}) VALUES ({", ".join("?" * len(names))})'


class Call(msgspec.Struct, frozen=True):
    """A function of the app."""

    name: str
    arguments: tuple[Attribute, ...]


class Column(msgspec.Struct, frozen=True):
    name: str
    type: Literal["TEXT", "INTEGER", "REAL"]


class Table(msgspec.Struct, frozen=True):
    """A table of the SDK's schema, the built-in ones too."""

    name: str
    columns: tuple[Column, ...]
    indexes: tuple[tuple[str, tuple[str, ...]], ...]
    """(name, columns)"""


class Described(msgspec.Struct, frozen=True):
    name: str
    tables: tuple[Table, ...]
    records: tuple[RecordType, ...]
    calls: tuple[Call, ...]


_SHAPES: dict[Kind, ValueShape] = {
    "text": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "timestamp": "timestamp",
    "json": "json",
    "reference": "text",
    "attachment": "text",
}
_NOTES = {
    "counter": "A counter: what devices add to it adds up.",
    "set": "A set: an add wins over a concurrent remove.",
    "list": "A list: the order is kept, and so are both inserts.",
    "text": "A text: both edits are kept.",
    "collaborative": "A Yjs document, in base64.",
    "max": "Of two values the greater stays.",
    "min": "Of two values the smaller stays.",
    "first": "The first value stays.",
    "server": "Only the server writes it.",
    "custom": "The app decides between concurrent values.",
}


def describe(schema: Schema) -> Described:
    """``schema`` for generators. What was removed is left out, as for any app that is built today.

    Raises ``SetupError`` for two names that would be one in another language.
    """
    device = with_system(schema)
    records = [_record(model) for model in schema.models.values() if not model.removed]
    calls = [_call(function) for function in schema.functions.values()]
    _check_distinct("models", [one.name for one in records])
    _check_distinct("functions", [one.name for one in calls])
    for record in records:
        _check_distinct(f"fields of {record.name}", ["id", *(one.name for one in record.attributes)])
    for call in calls:
        _check_distinct(f"arguments of {call.name}", [one.name for one in call.arguments])
    return Described(
        name=schema.name,
        tables=tuple(_table(one) for one in client_schema(device)["tables"]),
        records=tuple(records),
        calls=tuple(calls),
    )


def words(name: str) -> list[str]:
    """``todo_list``, ``TodoList`` and ``todoList`` are ``["todo", "list"]``."""
    out = [""]
    for before, letter in zip(" " + name, name, strict=False):
        if letter == "_" or (letter.isupper() and not before.isupper() and before != " "):
            out.append("")
        if letter != "_":
            out[-1] += letter.lower()
    return [word for word in out if word]


def pascal(name: str) -> str:
    """``TodoList``: the name of a type."""
    return "".join(word.capitalize() for word in words(name))


def camel(name: str) -> str:
    """``todoList``: the name of a value."""
    named = pascal(name)
    return named[:1].lower() + named[1:]


def type_name(record: RecordType, taken: Collection[str]) -> str:
    """The name of a record's type, where a language, the SDK or our own code has ``taken`` some."""
    name = pascal(record.name)
    return f"{name}Record" if name in taken else name


def _record(model: Model) -> RecordType:
    return RecordType(
        name=model.name,
        attributes=tuple(_attribute(field) for field in model.fields.values() if not field.removed),
        writable=model.write is not None,
    )


def _attribute(field: Field) -> Attribute:
    shape: ValueShape = "array" if field.merge in ("set", "list") else _SHAPES[field.kind]
    return Attribute(
        name=field.name,
        shape=shape,
        optional=field.optional,
        default=field.default,
        left_out=field.optional or field.default is not None or field.merge == "server",
        counter=field.merge == "counter",
        server=field.merge == "server",
        note=_NOTES.get(field.merge, ""),
    )


def _call(function: Function) -> Call:
    required = [name for name in function.parameters if name in function.required]
    # Languages want those that may be left out at the end.
    names = [*required, *(name for name in function.parameters if name not in function.required)]
    return Call(
        name=function.name,
        arguments=tuple(
            _argument(name, function.parameters[name], name not in function.required) for name in names
        ),
    )


def _argument(name: str, type_: Any, left_out: bool) -> Attribute:
    shape, optional = _shape(msgspec.inspect.type_info(type_))
    return Attribute(name=name, shape=shape, optional=optional or left_out, left_out=left_out)


def _shape(info: msgspec.inspect.Type) -> tuple[ValueShape, bool]:
    """(the shape, may it be None)"""
    kinds = msgspec.inspect
    if isinstance(info, kinds.UnionType):
        others = [one for one in info.types if not isinstance(one, kinds.NoneType)]
        optional = len(others) < len(info.types)
        return (_shape(others[0])[0] if len(others) == 1 else "json"), optional
    plain: dict[type, ValueShape] = {
        kinds.StrType: "text",
        kinds.IntType: "integer",
        kinds.FloatType: "number",
        kinds.BoolType: "boolean",
        kinds.DateTimeType: "timestamp",
        kinds.ListType: "array",
        kinds.DictType: "object",
        kinds.StructType: "object",
        kinds.DataclassType: "object",
        kinds.TypedDictType: "object",
    }
    return plain.get(type(info), "json"), False


def _table(table: dict[str, Any]) -> Table:
    return Table(
        name=table["name"],
        columns=tuple(Column(one["name"], one["type"]) for one in table["columns"]),
        indexes=tuple(
            (one["name"], tuple(column["name"] for column in one["columns"])) for one in table["indexes"]
        ),
    )


def _check_distinct(what: str, names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(camel(name), name)
        if other != name:
            raise SetupError(
                f"{what}: '{other}' and '{name}' are one name in Swift, Kotlin and Dart.",
                hint="Rename one of them, with renamed_from= where devices already use it.",
            )
