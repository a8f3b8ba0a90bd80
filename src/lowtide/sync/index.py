"""Finding live records by their values: what the index rows are called, and what they say."""

from __future__ import annotations

import msgspec

from lowtide.kernel.schema import Data

_encode = msgspec.json.Encoder().encode

MAX_VALUE_BYTES = 1_000
"""Of a unique value, an indexed one, or a bucket's name: PostgreSQL's indexes hold no more than 2,700."""

IndexKey = tuple[str, str, str]
"""(space, index name, value text)"""


def lookup_name(model: str, field: str) -> str:
    """The name of the index that finds records by a field's value."""
    return f"{model}.{field}"


def unique_name(model: str, fields: tuple[str, ...]) -> str:
    """The name of a uniqueness index."""
    return f"{model}:{'+'.join(fields)}"


def unique_text(fields: tuple[str, ...], data: Data) -> str | None:
    """The value of a uniqueness index, or None when a part is empty: empty values never collide."""
    values = [data.get(name) for name in fields]
    return None if None in values else _encode(values).decode()
