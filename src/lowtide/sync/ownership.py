"""What belongs to a user, moved to another user, deleted, or handed out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from typing import Any, Protocol

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import FunctionFailed, TooLarge
from lowtide.kernel.schema import Data, Principal, Schema
from lowtide.storage.db import Database, Tx
from lowtide.sync import store
from lowtide.sync.model import Applied, Batch, Mutation, RecordKey, Transaction
from lowtide.sync.owners import QUERIES, Owned, Owners, Source, of_device
from lowtide.sync.receipts import MAX_LINEAGES
from lowtide.sync.store import Device

log = logging.getLogger("lowtide.sync")

MAX_OWNED = 10_000
"""Records that one merge of accounts moves: as long as nobody else writes."""
BATCH = 500
"""Records that are read or deleted at once."""

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
        self._owners = Owners(schema)
        self.fields = self._owners.fields
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
            seen = await self._owned(tx, self._owners.unindexed(old, spaces))
            return seen, len({*await self._owned(tx, self._owners.indexed(old, spaces)), *seen})

        seen, size = await self._database.read(look)
        moving: list[list[Owned]] = []

        async def prepare(tx: Tx) -> list[Transaction]:
            await also(tx)
            # What the indexes say is exact here; what only a look finds was looked up just before.
            indexed = await self._owned(tx, self._owners.indexed(old, spaces))
            found = dict.fromkeys([*indexed, *seen, *await self._move_devices(tx, old, new)])
            if len(found) > MAX_OWNED:
                raise TooLarge(
                    f"The account has more than {MAX_OWNED} records.",
                    hint="Ask the app's support to merge the accounts.",
                    limit=MAX_OWNED,
                )
            by_record: dict[RecordKey, list[Owned]] = {}
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
        """Delete every record of ``user`` in ``spaces`` and of the user's devices, a few hundred at a time;
        how many. May be repeated.

        A record stays whose deletion a hook of the app refuses; the log names it. Raises ``FunctionFailed``
        when a hook fails, and as ``Writer.apply``: what is left can be deleted later.
        """
        total = 0
        async for owned in self._pages(user, spaces):
            keys = dict.fromkeys((one.space, one.model, one.id) for one in owned)
            applied = await self._apply(Batch(transactions=[self._deletion(*key) for key in keys]))
            for key, result in zip(keys, applied.results, strict=True):
                if result.code == "rule_failed":
                    raise FunctionFailed(f"{key[1]} {key[2]!r} was not deleted: {result.message}.")
                if result.status == "refused":
                    log.warning("%s %r of a deleted user is kept: %s", key[1], key[2], result.message)
                total += result.status == "applied"
        return total

    async def forget_devices(self, tx: Tx, user: str) -> None:
        """Delete what is kept of the devices of ``user``."""
        await tx.execute(QUERIES["delete_devices"], user)
        for one in self.beside:
            await one.forget(tx, user)

    async def records(
        self, user: str, spaces: Collection[str]
    ) -> AsyncIterator[tuple[RecordKey, dict[str, Any]]]:
        """Every live record of ``user`` and of the user's devices, each once, as (key, fields on the wire);
        read a few hundred at a time."""
        told: set[RecordKey] = set()
        async for owned in self._pages(user, spaces):
            keys = {(one.space, one.model, one.id): None for one in owned}
            keys = {key: None for key in keys if key not in told}
            told.update(keys)
            records = await self._database.read(
                lambda tx, keys=keys: store.read_records(tx, self._schema, keys)  # type: ignore[misc]
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

    async def _pages(self, user: str, spaces: Collection[str]) -> AsyncIterator[list[Owned]]:
        """All that belongs to ``user``, a few hundred at a time: what is held by several fields or devices
        comes several times."""

        async def devices(tx: Tx) -> list[Source]:
            rows = await tx.fetch(QUERIES["devices_of"], user)
            return [of_device(space, user, client_id) for space, client_id, *_ in rows]

        own = await self._database.read(devices)
        for source in [*self._owners.indexed(user, spaces), *self._owners.unindexed(user, spaces), *own]:
            after = ("", "")
            while True:

                async def page(
                    tx: Tx, source: Source = source, after: tuple[str, str] = after
                ) -> tuple[list[Owned], tuple[str, str] | None]:
                    rows = await source.rows(tx, after, BATCH)
                    owned = await self._still(tx, source.owned(rows))
                    return owned, rows[-1] if len(rows) == BATCH else None

                owned, last = await self._database.read(page)
                if owned:
                    yield owned
                if last is None:
                    break
                after = last

    async def _owned(self, tx: Tx, sources: Iterable[Source]) -> list[Owned]:
        """What is found in ``sources``: of each one more than may be moved, at most."""
        return [
            one for source in sources for one in source.owned(await source.rows(tx, ("", ""), MAX_OWNED + 1))
        ]

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
        rows = await tx.fetch(QUERIES["devices_of"], old)
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
            own += await self._owned(tx, [of_device(space, old, client_id)])
        if moved:
            await tx.execute_many(QUERIES["put_device"], moved)
            await tx.execute(QUERIES["delete_devices"], old)
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
