"""One transaction on its way through the merge: all of it comes to be, or nothing."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from lowtide.kernel.clock import Stamp
from lowtide.kernel.schema import Data, Field, Model, Resolving, Schema, Wire
from lowtide.kernel.values import (
    MAX_RECORD_BYTES,
    aliased,
    complete,
)
from lowtide.sync.fields import merge_field, merge_unseen
from lowtide.sync.index import MAX_VALUE_BYTES, IndexKey, unique_name, unique_text
from lowtide.sync.ledger import standing
from lowtide.sync.model import (
    Loss,
    Mutation,
    RecordKey,
    Refusal,
    RefusedMutation,
    Result,
    Status,
    StoredRecord,
    Transaction,
)
from lowtide.sync.rules import Author, Refuse, Rules
from lowtide.sync.state import State
from lowtide.sync.streams import Streams, key_text, taken

_encode = msgspec.json.Encoder().encode

DELETED = "deleted!"
"""Where a tombstone's stamps keep the deletion's; no field can have this name."""


class Attempt:
    """One transaction under way. Nothing of it is in ``state`` until ``keep``, but for the keys that it
    grants and revokes: the rules of its later mutations go by them, and ``undo`` takes them back.
    """

    def __init__(
        self, schema: Schema, streams: Streams, state: State, now: int, last: bool, transaction: Transaction
    ):
        self._schema = schema
        self._streams = streams
        self._state = state
        self._now = now
        self._last = last
        self._transaction = transaction
        self._principal = transaction.principal
        self._rules = Rules(Author(streams, state, transaction.principal, transaction.client_id))
        self._index: dict[IndexKey, str | None] = {}
        self._shifts: list[tuple[RecordKey, StoredRecord | None, StoredRecord]] = []
        self.records: dict[RecordKey, tuple[StoredRecord, str]] = {}
        """Each record that it changes, with the JSON text of its fields."""
        self.results: list[Result] = []
        self.losses: list[Loss] = []
        self.unread: set[IndexKey] = set()
        """Unique values that were not read, and taken to be free. Of a refused transaction, too."""

    @property
    def faults(self) -> list[str]:
        """Rules, hooks and resolvers of the app that raised. Of a refused transaction, too."""
        return self._rules.faults

    def keep(self) -> None:
        """Make it so: the transactions behind this one see what it did."""
        self._state.records.update((key, record) for key, (record, _) in self.records.items())
        self._state.index.update(self._index)

    def undo(self) -> None:
        """Take back the keys that the transaction had granted or revoked on its way."""
        for key, before, after in reversed(self._shifts):
            self._shift_holdings(key, after, before)

    def apply(self, mutation: Mutation | RefusedMutation) -> None:
        """Apply the next mutation. Raises ``Refuse``: then ``undo`` is due."""
        if isinstance(mutation, RefusedMutation):
            raise Refuse(mutation.refusal)
        model = self._schema.models.get(mutation.model)
        if model is None:
            raise Refuse(
                Refusal("unknown_model", f"this app has no model {mutation.model!r}", "Update the app.")
            )
        key = (self._principal.space, mutation.model, mutation.id)
        current = self.records[key][0] if key in self.records else self._state.records.get(key)
        if mutation.op == "delete":
            self._delete(model, key, current, mutation)
        elif current is None:
            if mutation.op == "patch":
                raise Refuse(
                    Refusal(
                        "no_record",
                        f"{mutation.model} {mutation.id!r} was never created here",
                        "Its creation was probably refused: look for that rejection.",
                    )
                )
            self._create(model, key, None, mutation)
        elif current.deleted and mutation.op == "put":
            self._create(model, key, current, mutation)
        elif current.deleted:
            self._edit_deleted(model, key, current, mutation)
        else:
            self._edit(model, key, current, mutation)

    # The four things that can happen to a record.

    def _create(
        self, model: Model, key: RecordKey, tombstone: StoredRecord | None, mutation: Mutation
    ) -> None:
        self._rules.guard_server_fields(model, mutation, {n: f.default for n, f in model.fields.items()})
        data = self._rules.hooked(model, key[2], None, complete(model, mutation.data))
        self._rules.check_complete(model, data)
        self._rules.allow(model, key[2], None, data)
        stamps = {"": self._stamp(mutation)}
        created = tombstone.created if tombstone else self._now
        record = StoredRecord(data, stamps, False, 0, created)
        self._store(model, key, tombstone, record)
        self._done(mutation, "applied")

    def _edit(self, model: Model, key: RecordKey, current: StoredRecord, mutation: Mutation) -> None:
        base = mutation.base
        if base is None and mutation.op == "put" and not self._principal.server:
            # Two made the same record without knowing of each other: each began from the defaults.
            base = {name: field.default for name, field in model.fields.items()}
        data, stamps, conflicts, combined = self._merged(model, key, current, mutation, base)
        data = self._rules.hooked(model, key[2], current.data, data)
        unchanged = data == current.data
        if not unchanged:
            self._rules.check_complete(model, data)
        # Also where nothing changes: that a value is right is not for everyone to know.
        self._rules.allow(model, key[2], current.data, data)
        self._rules.guard_server_fields(model, mutation, current.data)
        if unchanged:
            self._done(mutation, "merged" if conflicts else "unchanged", conflicts)
            return
        record = StoredRecord(data, {**current.stamps, **stamps}, False, 0, current.created)
        self._store(model, key, current, record)
        self._done(mutation, "merged" if conflicts or combined else "applied", conflicts)

    def _edit_deleted(self, model: Model, key: RecordKey, current: StoredRecord, mutation: Mutation) -> None:
        if model.on_delete == "revive":
            self._revive(model, key, current, mutation)
            return
        data: Data = {**current.data, **mutation.data}
        self._rules.check_complete(model, data)
        self._rules.allow(model, key[2], current.data, data)
        self._rules.guard_server_fields(model, mutation, current.data)
        for name, mine in mutation.data.items():
            self._lose(key, name, mine, current, mutation, False, reason="deleted")
        self._done(mutation, "merged", sorted(mutation.data))

    def _revive(self, model: Model, key: RecordKey, current: StoredRecord, mutation: Mutation) -> None:
        """Undo the deletion; the edit merges with what others had made of the record by then."""
        data, stamps, _, _ = self._merged(model, key, current, mutation, mutation.base)
        data = self._rules.hooked(model, key[2], None, data)
        self._rules.check_complete(model, data)
        self._rules.allow(model, key[2], current.data, data)
        self._rules.guard_server_fields(model, mutation, current.data)
        stamps = {**current.stamps, **stamps}
        stamps.pop(DELETED, None)
        self._store(model, key, current, StoredRecord(data, stamps, False, 0, current.created))
        self._lose(key, "", "deleted", current, mutation, True)
        self._done(mutation, "merged", sorted(mutation.data))

    def _merged(
        self, model: Model, key: RecordKey, current: StoredRecord, mutation: Mutation, base: Data | None
    ) -> tuple[Data, dict[str, Stamp], list[str], bool]:
        """(the fields, stamps of those that changed, where a value lost, whether any was combined)"""
        stamp = self._stamp(mutation)
        data: Data = dict(current.data)
        stamps: dict[str, Stamp] = {}
        conflicts: list[str] = []
        combined = False
        for name, mine in mutation.data.items():
            field = model.fields[name]
            theirs = data.get(name)
            theirs_stamp = current.stamp(name)
            # Who waits for the answer writes now, whatever another node's clock says.
            later = self._transaction.online or stamp >= theirs_stamp
            own = theirs_stamp[1] == stamp[1]
            context = self._context(model, key, name, later)
            try:
                if base is not None and name in base:
                    merged = merge_field(field, base[name], mine, theirs, later, context)
                elif mutation.exact or self._principal.server or (own and field.merge == "latest"):
                    # The server's code means what it says; a device knows the value that it wrote itself.
                    merged = merge_field(field, theirs, mine, theirs, later, context)
                else:
                    # Where others' words may be in what a device wrote last, it is newer all the same: its
                    # order is that of its numbers, whatever its clock did in between.
                    merged = merge_unseen(field, mine, theirs, later or own, context)
            except ValueError as error:
                raise Refuse(Refusal("invalid", f"{name}: {error}", "Change the value.")) from None
            if merged.fault:
                self._rules.faults.append(f"{model.name}.{name}: {merged.fault}")
            if merged.conflict:
                conflicts.append(name)
                self._lose(key, name, merged.lost, current, mutation, merged.mine_won, field)
            elif merged.value not in (mine, theirs):
                combined = True
            if merged.value != theirs:
                data[name] = merged.value
                stamps[name] = max(stamp, (theirs_stamp[0], stamp[1]))
        return data, stamps, conflicts, combined

    def _delete(self, model: Model, key: RecordKey, current: StoredRecord | None, mutation: Mutation) -> None:
        if current is None or current.deleted:
            self._done(mutation, "unchanged")
            return
        stamp = self._stamp(mutation)
        base = mutation.base or {}
        unseen = [
            name for name, value in base.items() if name in current.data and current.data[name] != value
        ]
        self._rules.allow(model, key[2], current.data, None)
        if unseen and model.on_delete == "revive":
            self._lose(key, "", "deletion", current, mutation, False)
            self._done(mutation, "merged", unseen)
            return
        self._rules.may_delete(model, key[2], current.data)
        for name in unseen:
            self._lose(key, name, current.data[name], current, mutation, True, reason="deleted")
        latest = max(stamp, max(current.stamps.values()))
        stamps = {**current.stamps, DELETED: (latest[0], stamp[1])}
        self._store(model, key, current, StoredRecord(current.data, stamps, True, 0, current.created))
        self._done(mutation, "merged" if unseen else "applied", unseen)

    # The steps that they share.

    def _stamp(self, mutation: Mutation) -> Stamp:
        return (mutation.at, self._transaction.client_id)

    def _context(self, model: Model, key: RecordKey, name: str, later: bool) -> Resolving:
        return Resolving(model.name, key[2], name, self._principal.user, later)

    def _store(self, model: Model, key: RecordKey, before: StoredRecord | None, after: StoredRecord) -> None:
        json = _encode(aliased(model, after.data))
        if not after.deleted:
            self._check_size(model, key, after, json)
        self._claim_unique(model, key, before, after)
        if any(True for _ in self._streams.lookups_of(model.name)):
            self._shift_holdings(key, before, after)
            self._shifts.append((key, before, after))
        self.records[key] = after, json.decode()

    def _check_size(self, model: Model, key: RecordKey, record: StoredRecord, json: bytes) -> None:
        if len(json) <= MAX_VALUE_BYTES:
            return
        if len(json) > MAX_RECORD_BYTES:
            raise Refuse(
                Refusal(
                    "record_too_large",
                    f"the record has {len(json)} bytes; {MAX_RECORD_BYTES} are allowed",
                    "Put large content into an attachment.",
                )
            )
        found = standing(self._schema, self._streams, key, record.data)
        for name, value in (*found.index, *(("its stream's key", bucket) for bucket in found.buckets)):
            if len(value.encode()) > MAX_VALUE_BYTES:
                raise Refuse(
                    Refusal(
                        "value_too_long",
                        f"{model.name}: {name} has more than {MAX_VALUE_BYTES} bytes",
                        "A record is found by short values: choose another.",
                    )
                )

    def _claim_unique(
        self, model: Model, key: RecordKey, before: StoredRecord | None, after: StoredRecord
    ) -> None:
        for fields in model.unique:
            old = None if before is None or before.deleted else unique_text(fields, before.data)
            new = None if after.deleted else unique_text(fields, after.data)
            if old == new:
                continue
            name = unique_name(model.name, fields)
            if new is not None:
                wanted = (key[0], name, new)
                known = self._index if wanted in self._index else self._state.index
                if wanted not in known:
                    if self._last:
                        raise Refuse(
                            Refusal(
                                "unique",
                                f"whether another {model.name} has the same {' and '.join(fields)} is not "
                                "clear: too many changes that it depends on were refused",
                                "Write it again.",
                            )
                        )
                    self.unread.add(wanted)
                holder = known.get(wanted)
                if holder is not None and holder != key[2]:
                    raise Refuse(
                        Refusal(
                            "unique",
                            f"another {model.name} has the same {' and '.join(fields)}",
                            "Choose another value.",
                        )
                    )
                self._index[wanted] = key[2]
            if old is not None:
                self._index[(key[0], name, old)] = None

    def _shift_holdings(
        self, key: RecordKey, before: StoredRecord | None, after: StoredRecord | None
    ) -> None:
        for lookup in self._streams.lookups_of(key[1]):
            for record, change in ((before, -1), (after, +1)):
                if record is None or record.deleted:
                    continue
                user, found = record.data.get(lookup.match), taken(lookup, key[2], record.data)
                held = None if user is None else self._state.holdings.get((key[0], str(user)))
                if held is None or found is None:
                    continue
                counts = held.setdefault(lookup, {})
                text = key_text(found)
                counts[text] = counts.get(text, 0) + change
                if counts[text] <= 0:
                    del counts[text]

    def _lose(
        self,
        key: RecordKey,
        name: str,
        lost: Wire,
        current: StoredRecord,
        mutation: Mutation,
        mine_won: bool,
        field: Field | None = None,
        reason: str | None = None,
    ) -> None:
        theirs = current.stamp(name) if name else max(current.stamps.values())
        mine = self._stamp(mutation)
        won = mutation.data.get(name) if mine_won else current.data.get(name)
        loser, winner = (theirs, mine) if mine_won else (mine, theirs)
        self.losses.append(
            Loss(
                space=key[0],
                model=key[1],
                record=key[2],
                field=name,
                lost=_encode(lost).decode(),
                lost_by=loser[1],
                lost_at=loser[0],
                won=_encode(won).decode(),
                won_by=winner[1],
                won_at=winner[0],
                reason=reason or (field.merge if field else "revive"),
            )
        )

    def _done(self, mutation: Mutation, status: Status, conflicts: Iterable[str] = ()) -> None:
        self.results.append(Result(n=mutation.n, status=status, conflicts=tuple(conflicts)))
