# ruff: noqa: N802 - a constructor is named as what it makes
"""The field constructors: what a model's attributes are made of.

A constructor never raises for a mistaken option. It keeps what was written and its line, and
``check`` shows every mistake of an app at once.

To a type checker ``Task.title`` is the declaration, and ``record.title`` in a hook is its value.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, overload

import msgspec

from lowtide.declare.place import Place, caller
from lowtide.kernel.schema import Field, Kind, MergeRule
from lowtide.kernel.values import coerce

T = TypeVar("T")
Chosen = Literal["latest", "counter", "text", "collaborative", "max", "min", "first"]
"""The merges that a declaration names; Set, List, server_only and a function choose the others."""


Maker = Literal[
    "Text",
    "Integer",
    "Number",
    "Boolean",
    "Timestamp",
    "Json",
    "Reference",
    "Attachment",
    "Counter",
    "Set",
    "List",
]

_KIND: dict[Maker, Kind] = {
    "Text": "text",
    "Integer": "integer",
    "Number": "number",
    "Boolean": "boolean",
    "Timestamp": "timestamp",
    "Json": "json",
    "Reference": "reference",
    "Attachment": "attachment",
    "Counter": "integer",
    "Set": "json",
    "List": "json",
}
_MERGE: dict[Maker, MergeRule] = {"Counter": "counter", "Set": "set", "List": "list"}


class FieldDeclaration(msgspec.Struct, Generic[T], frozen=True):
    """One field as it was written, right or wrong."""

    maker: Maker
    options: dict[str, Any]
    place: Place
    removed: bool = False

    @overload
    def __get__(self, record: None, model: type) -> FieldDeclaration[T]: ...
    @overload
    def __get__(self, record: object, model: type) -> T: ...
    def __get__(self, record: object, model: type) -> Any:
        return self

    @property
    def kind(self) -> Kind:
        return _KIND[self.maker]

    @property
    def merge(self) -> MergeRule:
        """The merge that was asked for; not checked."""
        if self.maker in _MERGE:
            return _MERGE[self.maker]
        if self.options.get("server_only"):
            return "server"
        merge = self.options.get("merge", "latest")
        return "custom" if callable(merge) else merge

    @property
    def may_be_left_out(self) -> bool:
        """Whether a record can be made without giving the field a value."""
        return (
            bool(self.options.get("optional"))
            or self.options.get("default") is not None
            or self._implied_default() is not None
            or self.removed
        )

    def compiled(self, name: str, model: str | None = None) -> Field:
        """The field. ``model``: the wire name that a reference points to.

        Raises ``ValueError`` with a plain-words reason when the field cannot hold its default.
        """
        optional = bool(self.options.get("optional"))
        resolve = self.options.get("merge")
        field = Field(
            name=name,
            kind=self.kind,
            merge=self.merge,
            # An app that has removed a field no longer gives it a value.
            optional=optional or self.removed,
            max_length=self.options.get("max_length"),
            model=model,
            resolve=resolve if callable(resolve) else None,
            renamed_from=self.options.get("renamed_from"),
            removed=self.removed,
        )
        default = self.options.get("default")
        if default is None and not optional:
            default = self._implied_default()
        return msgspec.structs.replace(field, default=coerce(field, default))

    def _implied_default(self) -> object:
        if self.kind == "boolean":
            return False
        if self.merge == "counter":
            return 0
        return [] if self.merge in ("set", "list") else None


class Options(TypedDict, Generic[T], total=False):
    """What every field may be told."""

    default: T
    merge: Chosen | Callable[[Any, Any, Any, Any], Any]
    """What happens when two devices changed the field without knowing of each other."""
    server_only: bool
    """Devices read it; only the server's own code writes it."""
    renamed_from: str
    """The former name: still sent to devices and accepted from them."""


class TextOptions(Options[str], total=False):
    max_length: int
    """Characters."""


class CounterOptions(TypedDict, total=False):
    default: int
    renamed_from: str


class ArrayOptions(TypedDict, total=False):
    default: list[Any]
    max_length: int
    """Bytes of the JSON text."""
    renamed_from: str


class JsonOptions(Options[Any], total=False):
    max_length: int
    """Bytes of the JSON text."""


@overload
def Text(*, optional: Literal[True], **options: Unpack[TextOptions]) -> FieldDeclaration[str | None]: ...
@overload
def Text(*, optional: Literal[False] = False, **options: Unpack[TextOptions]) -> FieldDeclaration[str]: ...
def Text(**options: Any) -> FieldDeclaration[Any]:
    """A text. ``merge="text"`` keeps both edits of plain text; ``"collaborative"`` holds a Yjs document."""
    return FieldDeclaration("Text", options, caller())


@overload
def Integer(*, optional: Literal[True], **options: Unpack[Options[int]]) -> FieldDeclaration[int | None]: ...
@overload
def Integer(
    *, optional: Literal[False] = False, **options: Unpack[Options[int]]
) -> FieldDeclaration[int]: ...
def Integer(**options: Any) -> FieldDeclaration[Any]:
    """A whole number of 64 bits."""
    return FieldDeclaration("Integer", options, caller())


@overload
def Number(
    *, optional: Literal[True], **options: Unpack[Options[float]]
) -> FieldDeclaration[float | None]: ...
@overload
def Number(
    *, optional: Literal[False] = False, **options: Unpack[Options[float]]
) -> FieldDeclaration[float]: ...
def Number(**options: Any) -> FieldDeclaration[Any]:
    """A number with a fraction (IEEE 754 double)."""
    return FieldDeclaration("Number", options, caller())


@overload
def Boolean(
    *, optional: Literal[True], **options: Unpack[Options[bool]]
) -> FieldDeclaration[bool | None]: ...
@overload
def Boolean(
    *, optional: Literal[False] = False, **options: Unpack[Options[bool]]
) -> FieldDeclaration[bool]: ...
def Boolean(**options: Any) -> FieldDeclaration[Any]:
    """True or false; false when nobody said, unless it is optional."""
    return FieldDeclaration("Boolean", options, caller())


@overload
def Timestamp(
    *, optional: Literal[True], **options: Unpack[Options[datetime]]
) -> FieldDeclaration[datetime | None]: ...
@overload
def Timestamp(
    *, optional: Literal[False] = False, **options: Unpack[Options[datetime]]
) -> FieldDeclaration[datetime]: ...
def Timestamp(**options: Any) -> FieldDeclaration[Any]:
    """A moment in UTC, to the millisecond."""
    return FieldDeclaration("Timestamp", options, caller())


def Json(*, optional: bool = False, **options: Unpack[JsonOptions]) -> FieldDeclaration[Any]:
    """Any JSON value, kept whole: two edits of it conflict. For parts that merge, use Set or List."""
    return FieldDeclaration("Json", {"optional": optional, **options}, caller())


@overload
def Reference(
    model: str | type, *, optional: Literal[True], **options: Unpack[Options[str]]
) -> FieldDeclaration[str | None]: ...
@overload
def Reference(
    model: str | type, *, optional: Literal[False] = False, **options: Unpack[Options[str]]
) -> FieldDeclaration[str]: ...
def Reference(model: str | type, **options: Any) -> FieldDeclaration[Any]:
    """The id of a record of ``model``: a class, or its name where it is declared further down.

    It is a pointer and no promise: the record may not have arrived on a device yet, or be deleted.
    """
    return FieldDeclaration("Reference", {"model": model, **options}, caller())


@overload
def Attachment(
    *, optional: Literal[True], **options: Unpack[Options[str]]
) -> FieldDeclaration[str | None]: ...
@overload
def Attachment(
    *, optional: Literal[False] = False, **options: Unpack[Options[str]]
) -> FieldDeclaration[str]: ...
def Attachment(**options: Any) -> FieldDeclaration[Any]:
    """The id of a media file, which travels apart from the record."""
    return FieldDeclaration("Attachment", options, caller())


def Counter(**options: Unpack[CounterOptions]) -> FieldDeclaration[int]:
    """A whole number to which devices add: increments of all of them count. Starts at 0."""
    return FieldDeclaration("Counter", {**options}, caller())


def Set(**options: Unpack[ArrayOptions]) -> FieldDeclaration[list[Any]]:
    """JSON values without order or repetition; an add wins over a concurrent remove. Starts empty."""
    return FieldDeclaration("Set", {**options}, caller())


def List(**options: Unpack[ArrayOptions]) -> FieldDeclaration[list[Any]]:
    """JSON values in an order; inserts of all devices are kept. Starts empty."""
    return FieldDeclaration("List", {**options}, caller())


def removed(field: FieldDeclaration[T]) -> FieldDeclaration[T]:
    """A field that the app no longer uses, kept for the versions in the field that still do.

    They go on reading and writing it; records that newer versions make have its default, or nothing.
    """
    return msgspec.structs.replace(field, removed=True)


def declared_fields(cls: type) -> dict[str, FieldDeclaration[Any]]:
    """The fields of a class in the order of its body, those of its bases first."""
    found: dict[str, FieldDeclaration[Any]] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, FieldDeclaration):
                found[name] = value
            else:
                found.pop(name, None)
    return found
