"""Whose records are: what belongs to a user, moved to another user, deleted, or handed out.

A record belongs to a user by the fields that the app's declaration says hold users' ids: the key of a
stream with ``keys=me``, the field of ``Model.where(field=me)``, and the field of an ``owner("field")`` rule.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

import msgspec

from lowtide.declare.rules import Both, Either, Owner
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import TooLarge
from lowtide.kernel.schema import Data, Lookup, Me, Parameter, Principal, Schema
from lowtide.storage.db import Database, Tx, load_queries
from lowtide.sync import store
from lowtide.sync.index import lookup_name
from lowtide.sync.model import Applied, Batch, Key, Mutation, Transaction
from lowtide.sync.receipts import MAX_LINEAGES
from lowtide.sync.store import Device
from lowtide.sync.streams import DEVICE_STREAM, bucket_topic, device_key, key_text

_QUERIES = load_queries("lowtide.sync", "ownership.sql")

MAX_OWNED = 10_000
"""Records that one merge of accounts moves: as long as nobody else writes."""
BATCH = 500
"""Records that are deleted at once."""

_encode = msgspec.json.Encoder().encode


class Left(msgspec.Struct, frozen=True):
    """A record that could not be moved, and why: it stays as it was."""

    space: str
    model: str
    id: str
    code: str


class Moved(msgspec.Struct, frozen=True):
    """What became of a user's records."""

    records: int
    left: list[Left]


class Owned(msgspec.Struct, frozen=True):
    """One field of one record that holds the user's id."""

    space: str
    model: str
    id: str
    field: str
    value: str
    """The user's id; in a device's own rows its key, which begins with that."""


class Beside(Protocol):
    """Who keeps something of devices beside the engine."""

    async def move(self, tx: Tx, old: str, new: str) -> None:
        """Make what is kept of ``old`` the devices of ``new``."""
        ...

    async def forget(self, tx: Tx, user: str) -> None:
        """Delete what is kept of the devices of ``user``."""
        ...


class Ownership:
    """Finds what belongs to users. Reads what is indexed; looks at whole models only where a rule alone
    says it.
    """

    def __init__(
        self,
        schema: Schema,
        database: Database,
        clock: Clock,
        apply: Callable[[Batch], Awaitable[Applied]],
    ):
        self._schema = schema
        self._database = database
        self._clock = clock
        self._apply = apply
        self.beside: list[Beside] = []
        """Told whenever devices get another user, or are forgotten."""
        self._by_stream, self._by_lookup, self._by_rule = _fields(schema)
        self.fields: Mapping[str, frozenset[str]] = _joined(
            self._by_stream.values(), self._by_lookup, self._by_rule
        )
        """Model -> its fields that hold users' ids."""

    async def move(
        self,
        old: str,
        new: str,
        spaces: Collection[str],
        also: Callable[[Tx], Awaitable[None]],
    ) -> Moved:
        """Make everything of ``old`` in ``spaces`` belong to ``new``, in one transaction together with
        ``also``.

        Through the writer: each record's change merges with what others did and reaches every device. What a
        device of ``old`` uploaded is known as ``new``'s, too, so that a repeat is not applied twice. A record
        whose unique values ``new`` already has stays as it is, and is in ``left``. Raises ``TooLarge`` beyond
        ``MAX_OWNED`` records, whatever ``also`` raises, and as ``Writer.apply``; then nothing has happened.
        """

        async def look(tx: Tx) -> tuple[list[Owned], int]:
            seen = await self._look(tx, old, spaces)
            return seen, len({*await self._find(tx, old, spaces), *seen})

        seen, size = await self._database.read(look)
        moving: list[list[Owned]] = []

        async def prepare(tx: Tx) -> list[Transaction]:
            await also(tx)
            # What the indexes say is exact here; what only a look finds was looked up just before.
            owned = [*await self._find(tx, old, spaces), *seen, *await self._move_devices(tx, old, new)]
            found = dict.fromkeys(owned)
            if len(found) > MAX_OWNED:
                raise TooLarge(
                    f"The account has more than {MAX_OWNED} records.",
                    hint="Ask the app's support to merge the accounts.",
                    limit=MAX_OWNED,
                )
            by_record: dict[Key, list[Owned]] = {}
            for one in await self._still(tx, found):
                by_record.setdefault((one.space, one.model, one.id), []).append(one)
            moving[:] = by_record.values()
            return [self._handing(fields, old, new) for fields in moving]

        applied = await self._apply(Batch(prepare=prepare, size=min(size, MAX_OWNED)))
        left = [
            Left(one.space, one.model, one.id, result.code or "refused")
            for (one, *_), result in zip(moving, applied.results, strict=True)
            if result.status == "refused"
        ]
        return Moved(len(moving) - len(left), left)

    async def delete(self, user: str, spaces: Collection[str]) -> int:
        """Delete every record of ``user`` in ``spaces``, a few hundred at a time; how many. May be
        repeated.
        """
        total = 0
        while True:

            async def read(tx: Tx) -> list[Owned]:
                found = dict.fromkeys(
                    [*await self._find(tx, user, spaces), *await self._look(tx, user, spaces)]
                )
                return await self._still(tx, found)

            records = list(
                dict.fromkeys((one.space, one.model, one.id) for one in await self._database.read(read))
            )
            if not records:
                return total
            for at in range(0, len(records), BATCH):
                await self._apply(
                    Batch(transactions=[self._deletion(*one) for one in records[at : at + BATCH]])
                )
            total += len(records)
            if total > 100 * MAX_OWNED:
                return total

    async def forget_devices(self, tx: Tx, user: str) -> None:
        """Delete what is kept of the devices of ``user``."""
        await tx.execute(_QUERIES["delete_devices"], user)
        for one in self.beside:
            await one.forget(tx, user)

    async def records(self, user: str, spaces: Collection[str]) -> AsyncIterator[tuple[Key, dict[str, Any]]]:
        """Every live record of ``user``, as (key, fields on the wire); read a few hundred at a time."""

        async def read(tx: Tx) -> list[Owned]:
            return [*await self._find(tx, user, spaces), *await self._look(tx, user, spaces)]

        found = await self._database.read(read)
        keys = list(dict.fromkeys((one.space, one.model, one.id) for one in found))
        for at in range(0, len(keys), BATCH):
            part = keys[at : at + BATCH]
            records = await self._database.read(
                lambda tx, part=part: store.read_records(tx, self._schema, part)  # type: ignore[misc]
            )
            for key, record in records.items():
                if record is not None and not record.deleted:
                    yield key, record.data

    def renamed(self, batch: Batch, principal: Principal) -> Batch:
        """``batch`` with the user's present id where a device wrote a former one: it may not have heard
        yet.
        """
        transactions = [
            msgspec.structs.replace(
                transaction,
                mutations=[
                    self._renamed(mutation, principal) if isinstance(mutation, Mutation) else mutation
                    for mutation in transaction.mutations
                ],
            )
            for transaction in batch.transactions
        ]
        return msgspec.structs.replace(batch, transactions=transactions)

    def present(self, model: str, data: Data, principal: Principal) -> Data:
        """``data`` with the user's present id where it names a former one, in fields that hold users' ids."""
        fields = self.fields.get(model)
        if not fields or not principal.aliases:
            return data
        return {
            name: principal.user if name in fields and value in principal.aliases else value
            for name, value in data.items()
        }

    def _renamed(self, mutation: Mutation, principal: Principal) -> Mutation:
        base = None if mutation.base is None else self.present(mutation.model, mutation.base, principal)
        data = self.present(mutation.model, mutation.data, principal)
        return msgspec.structs.replace(mutation, data=data, base=base)

    # -- inside -----------------------------------------------------------------------------------

    async def _find(self, tx: Tx, user: str, spaces: Collection[str]) -> list[Owned]:
        """What buckets and indexes know."""
        found = []
        text = key_text(user)
        for space in spaces:
            for stream, carried in self._by_stream.items():
                topic = bucket_topic(space, stream, text)
                for model, id in await tx.fetch(_QUERIES["rows_of_bucket"], topic, MAX_OWNED + 1):
                    found += [Owned(space, model, id, field, user) for field in carried.get(model, ())]
            for model, fields in self._by_lookup.items():
                for field in fields:
                    rows = await tx.fetch(
                        _QUERIES["rows_by_index"], space, lookup_name(model, field), text, MAX_OWNED + 1
                    )
                    found += [Owned(space, model, id, field, user) for (id,) in rows]
        return found

    async def _look(self, tx: Tx, user: str, spaces: Collection[str]) -> list[Owned]:
        """What only a look at every record of a model finds."""
        found = []
        for space in spaces:
            for model, fields in self._by_rule.items():
                for field in fields:
                    rows = await tx.fetch(_QUERIES["rows_by_look"], space, model, field, user, MAX_OWNED + 1)
                    found += [Owned(space, model, id, field, user) for (id,) in rows]
        return found

    async def _still(self, tx: Tx, found: Iterable[Owned]) -> list[Owned]:
        """Those of ``found`` that are so in this transaction."""
        wanted = list(found)
        records = await store.read_records(tx, self._schema, [(o.space, o.model, o.id) for o in wanted])
        kept = []
        for one in wanted:
            record = records[(one.space, one.model, one.id)]
            if record is not None and not record.deleted and record.data.get(one.field) == one.value:
                kept.append(one)
        return kept

    def _handing(self, fields: list[Owned], old: str, new: str) -> Transaction:
        """All fields of one record at once: it is handed over whole, or stays as it was."""
        one = fields[0]
        mutation = Mutation(
            n=1,
            op="patch",
            model=one.model,
            id=one.id,
            data={field.field: new + field.value.removeprefix(old) for field in fields},
            base={field.field: field.value for field in fields},
            at=self._clock.now(),
        )
        return self._transaction(one.space, "merge", mutation)

    def _deletion(self, space: str, model: str, id: str) -> Transaction:
        return self._transaction(
            space, "deletion", Mutation(n=1, op="delete", model=model, id=id, at=self._clock.now())
        )

    def _transaction(self, space: str, name: str, mutation: Mutation) -> Transaction:
        principal = Principal(user="accounts", space=space, server=True)
        return Transaction(
            principal=principal, client_id=f"accounts:{name}", mutations=[mutation], online=True
        )

    async def _move_devices(self, tx: Tx, old: str, new: str) -> list[Owned]:
        """Let what devices of ``old`` uploaded be known as ``new``'s; nothing that is applied is
        applied again.
        """
        for one in self.beside:
            await one.move(tx, old, new)
        rows = await tx.fetch(_QUERIES["devices_of"], old)
        keys = [(space, new, client_id) for space, client_id, *_ in rows]
        there = await store.lock_devices(tx, keys)
        moved: list[tuple[Any, ...]] = []
        own: list[Owned] = []
        for (
            space,
            client_id,
            last_n,
            answers,
            answered,
            request,
            asked,
            generation,
            gaps,
            up,
            at,
            group,
        ) in rows:
            mine = store.read_answers(answers)
            other = there[(space, new, client_id)]
            moved.append(
                (
                    space,
                    new,
                    client_id,
                    max(last_n, other.last_n),
                    _encode(_both(mine, other)).decode(),
                    max(answered, other.answered_group),
                    request,
                    asked,
                    max(generation, other.generation),
                    gaps,
                    up,
                    at,
                    group,
                )
            )
            key = device_key(old, client_id)
            topic = bucket_topic(space, DEVICE_STREAM, key_text(key))
            for model, id in await tx.fetch(_QUERIES["rows_of_bucket"], topic, MAX_OWNED + 1):
                own.append(Owned(space, model, id, "device", key))
        if moved:
            await tx.execute_many(_QUERIES["put_device"], moved)
            await tx.execute(_QUERIES["delete_devices"], old)
        return own


def _both(mine: dict[str, Any], other: Device) -> dict[str, Any]:
    """The answers of both, by lineage; of one lineage the one that goes further."""
    answers = dict(other.answers)
    for lineage, answer in mine.items():
        there = answers.get(lineage)
        if there is None or there.numbers[-1] < answer.numbers[-1]:
            answers[lineage] = answer
    while len(answers) > MAX_LINEAGES:
        del answers[next(iter(answers))]
    return answers


Fields = dict[str, set[str]]


def _fields(schema: Schema) -> tuple[dict[str, Fields], Fields, Fields]:
    """Fields that hold users' ids: by stream, by lookup, and those that only a rule names."""
    by_stream: dict[str, Fields] = {}
    by_lookup: Fields = {}
    for stream in schema.streams.values():
        keys = stream.keys.within if isinstance(stream.keys, Parameter) else stream.keys
        if isinstance(keys, Me):
            for model, field in stream.carries.items():
                if field is not None and field != "id":
                    by_stream.setdefault(stream.name, {}).setdefault(model, set()).add(field)
        elif isinstance(keys, Lookup):
            by_lookup.setdefault(keys.model, set()).add(keys.match)
    known = _joined(by_stream.values(), by_lookup)
    by_rule: Fields = {}
    for model_name, declared in schema.models.items():
        for field in _owner_fields(declared.write):
            if field != "id" and field in declared.fields and field not in known.get(model_name, ()):
                by_rule.setdefault(model_name, set()).add(field)
    return by_stream, by_lookup, by_rule


def _joined(*parts: Any) -> dict[str, frozenset[str]]:
    joined: Fields = {}
    for part in parts:
        for fields in [part] if isinstance(part, dict) else part:
            for model, names in fields.items():
                joined.setdefault(model, set()).update(names)
    return {model: frozenset(names) for model, names in joined.items()}


def _owner_fields(rule: Any) -> Iterable[str]:
    if isinstance(rule, Owner):
        yield rule.field
    elif isinstance(rule, Either | Both):
        for part in rule.rules:
            yield from _owner_fields(part)
