"""The merge: state and transactions in, outcome out. No I/O, no clock, no randomness.

``Merge`` holds what a group of transactions read and what it changes. Transactions follow each
other: a later one sees what an earlier one did. A transaction that is refused leaves no trace but
its rejections. The three-way rule for each kind of field is in ``fields.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from lowtide.kernel.schema import Principal, Schema
from lowtide.sync.attempt import Attempt
from lowtide.sync.index import IndexKey
from lowtide.sync.model import (
    VERSION_CHANGED,
    VERSION_EXISTS,
    VERSION_NONE,
    Loss,
    Mutation,
    RecordKey,
    Refusal,
    RefusedMutation,
    Rejection,
    Result,
    StoredRecord,
    Transaction,
    Version,
)
from lowtide.sync.rules import Refuse
from lowtide.sync.state import State
from lowtide.sync.streams import Streams


class Change(msgspec.Struct, frozen=True):
    """What a group did to one record."""

    before: StoredRecord | None
    after: StoredRecord
    json: str
    """``after.data`` as JSON text."""


class Merge:
    """One group's merge. Feed it transactions with ``apply``; read the outcome from its attributes."""

    def __init__(self, schema: Schema, streams: Streams, state: State, now: int, last: bool = False):
        self.schema = schema
        self.streams = streams
        self.state = state
        self.now = now
        self.last = last
        """A transaction that takes a unique value which was not read is refused."""
        self.unread: set[IndexKey] = set()
        """Unique values that were not read, and taken to be free. If one is not, merge again."""
        self._before: dict[RecordKey, StoredRecord | None] = {}
        self._json: dict[RecordKey, str] = {}
        self.authors: dict[RecordKey, Transaction] = {}
        """What wrote each changed record last."""
        self.losses: list[Loss] = []
        self.rejections: list[Rejection] = []
        self.faults: list[str] = []
        """Rules, hooks and resolvers of the app that raised; the developer should know."""

    def changes(self) -> Iterable[tuple[RecordKey, Change]]:
        """Every record that differs from what the group read."""
        for key, before in self._before.items():
            after = self.state.records[key]
            if after is not None and after is not before:
                yield key, Change(before, after, self._json[key])

    def holds(self, principal: Principal, stream: str, key: Any) -> bool:
        """Does the user hold ``key`` of ``stream``?"""
        return self.streams.holds(principal, stream, key, self.state.held_by(principal))

    def sees(self, principal: Principal, key: RecordKey, record: StoredRecord) -> bool:
        """Does the user receive the record, by default or by subscription?"""
        return self.streams.sees(principal, *key, record.data, self.state.held_by(principal))

    def apply(self, transaction: Transaction) -> list[Result]:
        """Apply all of ``transaction`` or none of it; a result for each mutation, in order."""
        for version in transaction.versions:
            why = self._differs(transaction.principal, version)
            if why is not None:
                return self._refuse(transaction, version.n, why)
        for wanted in transaction.require:
            record = self.state.records.get((transaction.principal.space, wanted.model, wanted.id))
            if record is None or record.deleted or record.data.get(wanted.field) != wanted.value:
                message = f"{wanted.model} {wanted.id!r} is not as it was"
                return self._refuse(transaction, -1, Refusal("require", message, "Read it again."))
        attempt = Attempt(self.schema, self.streams, self.state, self.now, self.last, transaction)
        refused: tuple[int, Refusal] | None = None
        for mutation in transaction.mutations:
            try:
                attempt.apply(mutation)
            except Refuse as refuse:
                refused = mutation.n, refuse.refusal
                break
        self.faults += attempt.faults
        self.unread |= attempt.unread
        if refused is not None:
            attempt.undo()
            return self._refuse(transaction, *refused)
        self._keep(attempt, transaction)
        return attempt.results

    def _keep(self, attempt: Attempt, author: Transaction) -> None:
        for key, (_, json) in attempt.records.items():
            self._before.setdefault(key, self.state.records.get(key))
            self._json[key] = json
            self.authors[key] = author
        self.losses += attempt.losses
        attempt.keep()

    def _differs(self, principal: Principal, version: Version) -> Refusal | None:
        key = (principal.space, version.model, version.id)
        record = self.state.records.get(key)
        live = record is not None and not record.deleted
        named = f"{version.model} {version.id!r}"
        if version.absent:
            if not live:
                return None
            return Refusal(VERSION_EXISTS, f"there is a {named} already", "Choose another id.")
        if record is None or not live or not self.sees(principal, key, record):
            return Refusal(VERSION_NONE, f"there is no {named}", "Look for the record's id.")
        if version.ops is not None and record.op not in version.ops:
            return Refusal(VERSION_CHANGED, f"{named} has changed since it was read", "Read it again.")
        return None

    def _refuse(self, transaction: Transaction, culprit: int, refusal: Refusal) -> list[Result]:
        others = Refusal(
            "transaction",
            f"mutation {culprit} of the same transaction was refused ({refusal.code})",
            "Mend or drop that change; a transaction is applied whole or not at all.",
        )
        results = []
        for mutation in transaction.mutations:
            why = refusal if mutation.n == culprit or culprit < 0 else others
            if isinstance(mutation, RefusedMutation) and mutation.n != culprit:
                why = mutation.refusal
            self.reject(transaction, mutation, why)
            results.append(
                Result(n=mutation.n, status="refused", code=why.code, message=why.message, hint=why.hint)
            )
        return results

    def reject(self, transaction: Transaction, mutation: Mutation | RefusedMutation, why: Refusal) -> None:
        """Put a refused mutation on its way back to its device, unless somebody waits for the answer."""
        if transaction.online:
            return
        if isinstance(mutation, RefusedMutation):
            sent = mutation.sent
        else:
            sent = {"data": mutation.data, "base": mutation.base, "metadata": mutation.metadata}
        self.rejections.append(
            Rejection(
                space=transaction.principal.space,
                user=transaction.principal.user,
                client_id=transaction.client_id,
                lineage=transaction.lineage,
                n=mutation.n,
                op=mutation.op,
                model=mutation.model,
                record=mutation.id,
                sent=sent,
                refusal=why,
            )
        )
