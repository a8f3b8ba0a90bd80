"""Field values: between what people write in Python or JSON and what devices hold.

The wire form is SQLite's scalars, because a device's tables hold nothing else: a boolean is 0 or 1,
a timestamp is text in UTC with milliseconds, a set, list or json is canonical JSON text.
Every value is canonical, so that equal values are equal bytes on every device.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from lowtide.kernel.codec import canonical_json
from lowtide.kernel.schema import Data, Field, Kind, Model, Wire

MAX_RECORD_BYTES = 256 * 1024
"""The JSON text of one record's fields."""

MAX_ID_LENGTH = 128
"""Characters of a record's id."""

_I64 = 2**63
# Some SDKs hand their queue's values to the connector as text, whatever the column's type.
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,3})?")
_parse = msgspec.json.Decoder().decode


def coerce(field: Field, value: object) -> Wire:
    """The wire form of ``value`` for ``field``.

    Raises ``ValueError`` with a plain-words reason when the field cannot hold it. ``None`` passes
    here; whether a field may be empty is ``check_complete``'s question.
    """
    if value is None:
        return None
    if field.merge in ("set", "list"):
        return _structured(field, _array(field, value))
    return _COERCE[field.kind](field, value)


def decode(field: Field, value: Wire) -> Any:
    """The Python value of a wire value: bool, datetime, list, dict or the scalar itself."""
    if value is None:
        return None
    if field.kind == "boolean":
        return bool(value)
    if field.kind == "json" or field.merge in ("set", "list"):
        return _parse(str(value))
    if field.kind == "timestamp":
        return datetime.fromisoformat(str(value))
    return value


def coerce_fields(model: Model, given: dict[str, Any]) -> Data:
    """The wire form of the named fields; former names are accepted for renamed fields.

    Raises ``ValueError`` naming the field: unknown, or a value that it cannot hold.
    """
    fields = model.fields
    out: Data = {}
    for name, value in given.items():
        field = fields.get(name) or _renamed(model, name)
        if field is None:
            raise ValueError(f"{model.name} has no field {name!r}")
        try:
            out[field.name] = coerce(field, value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return out


def complete(model: Model, given: Data) -> Data:
    """Every declared field: the given value, or else the default. Order is the declaration's."""
    return {name: given.get(name, field.default) for name, field in model.fields.items()}


def check_complete(model: Model, data: Data) -> None:
    """Raises ``ValueError`` for the first field that is empty and must not be."""
    for name, field in model.fields.items():
        if data[name] is None and not field.optional and not field.removed:
            raise ValueError(f"{name}: must not be empty")


def check_id(value: object) -> str:
    """A record's id, or ``ValueError``: 1 to 128 characters of printable text."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_LENGTH:
        raise ValueError(f"an id is a text of 1 to {MAX_ID_LENGTH} characters")
    if not value.isprintable():
        raise ValueError("an id has printable characters only")
    return value


def aliased(model: Model, data: Data) -> Data:
    """``data`` as devices receive it: renamed fields stand under their former name too."""
    renamed = {f.renamed_from: data[n] for n, f in model.fields.items() if f.renamed_from}
    return {**data, **renamed} if renamed else data


class Fields:
    """A record as rules and hooks see it: ``record.title``, or ``record["title"]``. Read only."""

    __slots__ = ("_data", "_model", "id")

    def __init__(self, model: Model, id: str, data: Data):
        self._model = model
        self._data = data
        self.id = id

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{self._model.name} has no field {name!r}") from None

    def __getitem__(self, name: str) -> Any:
        return decode(self._model.fields[name], self._data[name])


def _renamed(model: Model, name: str) -> Field | None:
    for field in model.fields.values():
        if field.renamed_from == name:
            return field
    return None


def _text(field: Field, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, not {_name(value)}")
    if field.max_length is not None and len(value) > field.max_length:
        raise ValueError(f"longer than {field.max_length} characters")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair") from None
    if "\x00" in value:
        raise ValueError("holds the character NUL")
    return value


def _integer(field: Field, value: object) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        raise ValueError(f"expected an integer, not {_name(value)}")
    if not -_I64 <= value < _I64:
        raise ValueError("beyond 64 bits")
    return value


def _number(field: Field, value: object) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, not {_name(value)}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("beyond what a number holds") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError("a number must be finite")
    return number + 0.0 if number else 0.0  # -0.0 and 0.0 are one value


def _boolean(field: Field, value: object) -> int:
    if value in ("0", "1"):
        return int(str(value))
    if value is True or value is False or (value in (0, 1) and isinstance(value, int | float)):
        return int(value)
    raise ValueError(f"expected true or false, not {_name(value)}")


def _timestamp(field: Field, value: object) -> str:
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            moment = datetime.fromtimestamp(value / 1000, UTC)
        elif isinstance(value, datetime):
            moment = value
        else:
            raise ValueError
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError("expected an ISO 8601 time or milliseconds since 1970") from None
    return moment.strftime("%Y-%m-%dT%H:%M:%S.").rjust(20, "0") + f"{moment.microsecond // 1000:03d}Z"


def _json(field: Field, value: object) -> str:
    if isinstance(value, str):
        try:
            value = _parse(value)
        except (msgspec.DecodeError, RecursionError):
            raise ValueError("expected JSON") from None
    return _structured(field, value)


def _array(field: Field, value: object) -> list[Any]:
    if isinstance(value, str):
        try:
            value = _parse(value)
        except (msgspec.DecodeError, RecursionError):
            raise ValueError("expected a JSON array") from None
    if isinstance(value, set | frozenset | tuple):
        value = sorted(value) if not isinstance(value, tuple) else list(value)
    if not isinstance(value, list):
        raise ValueError(f"expected an array, not {_name(value)}")
    if field.merge == "set":
        seen: dict[str, Any] = {canonical_json(item): item for item in value}
        value = list(seen.values())
    return value


def _structured(field: Field, value: object) -> str:
    try:
        text = canonical_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if "\\u0000" in text:
        raise ValueError("holds the character NUL")
    if field.max_length is not None and len(text.encode()) > field.max_length:
        raise ValueError(f"longer than {field.max_length} bytes as JSON")
    return text


def _name(value: object) -> str:
    return {str: "a text", bool: "a boolean", int: "an integer", float: "a number", list: "an array"}.get(
        type(value), "an object"
    )


_COERCE: dict[Kind, Callable[[Field, Any], Wire]] = {
    "text": _text,
    "reference": _text,
    "attachment": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "timestamp": _timestamp,
    "json": _json,
}
