"""Records as they are answered: the stored JSON with its values as the app's code sees them.

What is stored is what devices hold: SQLite's scalars. An answer has booleans, arrays and objects. A model
without such fields is answered with the stored text as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from lowtide.kernel.codec import canonical_json
from lowtide.kernel.errors import Invalid
from lowtide.kernel.http import Content, Part
from lowtide.kernel.schema import Data, Field, Model
from lowtide.kernel.values import check_id, coerce_fields

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class AnyRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One record. Times are ISO 8601 in UTC; ``updated`` is when the server applied the last change."""

    id: str
    etag: str
    """For ``If-Match``: changes with every change of the record."""
    created: str
    updated: str
    data: msgspec.Raw
    """Its fields."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the model that the address names, as the reference describes it."""

    id: str
    etag: str
    """For ``If-Match``: changes with every change of the record."""
    created: str
    updated: str
    data: Content
    """Every declared field, also under its former name."""


class ListedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One record of a list."""

    id: str
    etag: str
    """For ``If-Match``: changes with every change of the record."""
    created: str
    updated: str
    data: Part
    """Every declared field, also under its former name; with ``fields``, those alone."""


class RecordShape:
    """How the records of one model are answered."""

    def __init__(self, model: Model):
        self.model = model
        self._booleans: list[str] = []
        self._structured: list[str] = []
        for field in model.fields.values():
            kind = self._structured if is_structured(field) else self._booleans
            if field.kind == "boolean" or is_structured(field):
                kind.extend(name for name in (field.name, field.renamed_from) if name)
        self._plain = not self._booleans and not self._structured

    def data(self, text: str, fields: tuple[str, ...] = ()) -> bytes:
        """The JSON of the stored ``text``; of ``fields`` only, if there are any."""
        if self._plain and not fields:
            return text.encode()
        data = _decode(text)
        for name in self._booleans:
            value = data[name]
            if value is not None:
                data[name] = value == 1
        for name in self._structured:
            value = data[name]
            if value is not None:
                data[name] = msgspec.Raw(value)
        if fields:
            data = {name: data[name] for name in fields}
        return _encode(data)

    def record(
        self, id: str, text: str, op: int, created: int, updated: int, fields: tuple[str, ...] = ()
    ) -> AnyRecord:
        """The answer for a stored record."""
        made = iso(created)
        return AnyRecord(
            id=id,
            etag=str(op),
            created=made,
            updated=made if updated == created else iso(updated),
            data=msgspec.Raw(self.data(text, fields)),
        )


def is_structured(field: Field) -> bool:
    """Is the field's value JSON text in the database, and a structure for people?"""
    return field.kind == "json" or field.merge in ("set", "list")


@functools.lru_cache(maxsize=4096)
def iso(milliseconds: int) -> str:
    """``2026-03-01T08:00:00.000Z``"""
    # Records that are answered together were often written together, or are answered again.
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


@functools.lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def given_fields(model: Model, given: Mapping[str, Any]) -> Data:
    """What was sent, in wire form. Raises ``Invalid`` for an unknown field, a value that does not fit,
    and a field that is given under two names."""
    sent = dict(given)
    for name, value in given.items():
        field = model.fields.get(name)
        if isinstance(value, str) and field is not None and field.kind == "json":
            # A text is a JSON value here; from a device it is the JSON text of one.
            sent[name] = canonical_json(value)
    try:
        data = coerce_fields(model, sent)
    except ValueError as error:
        raise Invalid(str(error)) from None
    if len(data) != len(given):
        raise Invalid(f"{model.name}: a field is given under its present and its former name")
    return data


def given_id(value: str) -> str:
    """A record's id that was sent. Raises ``Invalid`` for what cannot be one."""
    try:
        return check_id(value)
    except ValueError as error:
        raise Invalid(str(error)) from None
