"""What the REST API is sent and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from lowtide.kernel.http import KIB, MIB, Changes, NewContent
from lowtide.kernel.values import MAX_RECORD_BYTES
from lowtide.records.shape import AnyRecord

MAX_RECORD_BODY = 2 * MAX_RECORD_BYTES + 64 * KIB
"""Bytes of a body that holds one record, and what it replaces."""


class NewRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a creation. Without an id the server makes one (a UUID, version 7)."""

    data: NewContent = {}
    id: str | None = None


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a change: the new values, and those that they replace, as the writer saw them.

    With ``base`` the change merges with what others did meanwhile, by each field's rule, as a device's
    does. Without it, a value that somebody else wrote is overwritten, and kept in the conflict journal.
    """

    data: Changes
    base: Changes | None = None


class Unseen(msgspec.Struct, frozen=True):
    """The answer for a record that was written, and that its writer does not receive."""

    id: str
    data: None = None


MAX_WRITES = 500
"""Writes of one request."""

MAX_WRITES_BODY = 8 * MIB
"""Bytes of a body with several writes."""


class Write(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of several writes."""

    op: Literal["create", "update", "delete"]
    model: str
    id: str | None = None
    """Only a creation may go without."""
    data: dict[str, Any] = {}
    base: dict[str, Any] | None = None
    """Of an update: the values that ``data`` replaces, as the writer saw them."""
    if_match: str | None = None
    """The ``etag`` of the only version to which an update or deletion may happen."""


class Writes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Writes that happen together, in this order, or not at all."""

    writes: Annotated[list[Write], msgspec.Meta(min_length=1, max_length=MAX_WRITES)]


class WriteResult(msgspec.Struct, frozen=True):
    """What became of one write."""

    id: str
    status: Literal["created", "changed", "unchanged", "deleted"]
    record: AnyRecord | None
    """As it stands after all of the writes; null: it is deleted, or its writer does not receive it."""


class WritesAnswer(msgspec.Struct, frozen=True):
    """What became of the writes, one for each, in their order."""

    results: list[WriteResult]
