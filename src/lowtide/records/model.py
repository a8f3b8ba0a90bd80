"""What the REST API is sent and answers."""

from __future__ import annotations

import msgspec

from lowtide.kernel.http import KIB, Changes, NewContent
from lowtide.kernel.values import MAX_RECORD_BYTES

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
