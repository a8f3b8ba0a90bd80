"""Grants: by a membership, or whatever record streams look up, a user holds a key; each is written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from lowtide.audit import Audit, Entry
from lowtide.audit.model import actor_of, via_of
from lowtide.kernel.schema import Lookup
from lowtide.storage.db import Tx
from lowtide.sync.model import RecordKey, Transaction
from lowtide.sync.streams import taken


class Grant(msgspec.Struct, frozen=True):
    """By this record a user holds a key of streams from now on, or no more."""

    record: RecordKey
    user: str
    held: str
    """The key, as text."""
    given: bool
    """Else it was taken."""
    author: Transaction | None
    """What wrote the record last."""


def grants_of(
    record: RecordKey,
    lookup: Lookup,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
    author: Transaction | None,
) -> list[Grant]:
    """What a change of ``record`` takes, and what it gives; nothing where ``lookup`` finds the same in it."""
    old, new = _found(lookup, record[2], before), _found(lookup, record[2], after)
    if old == new:
        return []
    pairs = ((old, False), (new, True))
    return [Grant(record, *found, is_given, author) for found, is_given in pairs if found is not None]


def _found(lookup: Lookup, id: str, data: dict[str, Any] | None) -> tuple[str, str] | None:
    if data is None or data[lookup.match] is None or (key := taken(lookup, id, data)) is None:
        return None
    return str(data[lookup.match]), str(key)


class GrantTrail:
    """Writes each grant into the audit log, in the transaction of the change."""

    def __init__(self, audit: Audit):
        self._audit = audit

    async def told(self, tx: Tx, grants: Sequence[Grant]) -> None:
        """An entry each: who gave it or took it, and whose it is. The key stands where it can be erased."""
        await self._audit.write_all(tx, [_entry(grant) for grant in grants])


def _entry(grant: Grant) -> Entry:
    space, model, id = grant.record
    what = {"model": model, "id": id, "key": grant.held}
    actor, via, request = "system", "", ""
    if grant.author is not None:
        who = grant.author.asked or grant.author.principal
        actor, request = actor_of(who), grant.author.request
        via = via_of(who) if grant.author.asked is None else grant.author.client_id
    return Entry(
        action="grant.give" if grant.given else "grant.take",
        actor=actor,
        via=via,
        target=f"user:{grant.user}",
        space=space,
        before=None if grant.given else what,
        after=what if grant.given else None,
        request=request,
        personal=what,
    )
