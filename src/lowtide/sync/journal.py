"""The conflict journal: what lost, to whom, when, and how to bring it back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Conflict, Forbidden, NotFound
from lowtide.kernel.schema import Data, Principal, Schema
from lowtide.storage.db import Database, Row, Tx
from lowtide.sync import store
from lowtide.sync.model import Applied, Batch, Mutation, Transaction
from lowtide.sync.store import QUERIES
from lowtide.sync.streams import Streams

MAX_PAGE = 500
NEWEST = 2**63 - 1


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the journal. Times are milliseconds since 1970 on the server's clock."""

    id: str
    model: str
    record: str
    field: str
    """Empty: a deletion was undone by an edit."""
    lost: Any
    lost_by: str
    lost_at: int
    won: Any
    won_by: str
    won_at: int
    reason: str
    at: int
    restored_at: int | None


class Journal:
    """Reads the journal, and restores from it."""

    def __init__(
        self,
        schema: Schema,
        streams: Streams,
        database: Database,
        clock: Clock,
        apply: Callable[[Batch], Awaitable[Applied]],
    ):
        self._schema = schema
        self._streams = streams
        self._database = database
        self._clock = clock
        self._apply = apply

    async def entries(
        self,
        principal: Principal,
        model: str | None = None,
        record: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Lost]:
        """Up to ``limit`` entries, newest first, older than the entry ``before``.

        A user sees those of one record that the user receives; the app's servers see all of the space.
        Raises ``Forbidden``, and ``NotFound`` for a record that the user does not receive.
        """
        if not principal.server and (model is None or record is None):
            raise Forbidden("name the model and the record whose conflicts to show")
        upper = int(before) if before and before.isdecimal() and len(before) < 19 else NEWEST
        limit = max(1, min(limit, MAX_PAGE))

        async def read(tx: Tx) -> Sequence[Any]:
            space = principal.space
            if model is not None and record is not None:
                await self._check_visible(tx, principal, model, record)
                return await tx.fetch(QUERIES["losses_of_record"], space, upper, limit, model, record)
            if model is not None:
                return await tx.fetch(QUERIES["losses_of_model"], space, upper, limit, model)
            return await tx.fetch(QUERIES["losses"], space, upper, limit)

        return [_entry(row) for row in await self._database.read(read)]

    async def restore(
        self, principal: Principal, id: str, keep: Callable[[Tx, Any], Awaitable[None]] | None = None
    ) -> Lost:
        """Write the lost value back, as this user and by the write rules; the value that it replaces
        is not lost either, since the record's own history of conflicts keeps it.

        A deleted record comes back with it. ``keep`` is called in the same transaction, as
        ``Batch.keep``. Raises ``NotFound``, ``Conflict`` when the write is refused.
        """

        async def read(tx: Tx) -> tuple[Lost, Row]:
            number = int(id) if id.isdecimal() and len(id) < 19 else -1
            rows = await tx.fetch(QUERIES["loss"], principal.space, number)
            if not rows:
                raise NotFound("no such conflict")
            entry = _entry(rows[0])
            await self._check_visible(tx, principal, entry.model, entry.record)
            found = await tx.fetch(QUERIES["record"], principal.space, entry.model, entry.record)
            if not found:
                raise NotFound("the record of this conflict is gone")
            return entry, found[0]

        entry, row = await self._database.read(read)
        model = self._schema.models[entry.model]
        if entry.field and entry.field not in model.fields:
            raise Conflict(f"{entry.model} has no field {entry.field!r} any more")
        field = model.fields.get(entry.field)
        if field is not None and field.merge == "first" and not row[2]:
            raise Conflict(f"{entry.field} keeps its first value")
        data: Data = {entry.field: entry.lost} if entry.field else {}
        standing = store.restore(model, row[0])
        if row[2]:
            data = {**standing, **data}
        mutation = Mutation(
            n=1,
            op="put" if row[2] else "patch" if entry.field else "delete",
            model=entry.model,
            id=entry.record,
            data=data,
            # What it replaces was seen, whatever another node's clock says of it; a set or list takes back
            # what it lost.
            base=standing if field is None or field.merge in ("latest", "custom", "server") else None,
            at=self._clock.now(),
        )
        transaction = Transaction(
            principal=principal, client_id=f"restore:{id}", mutations=[mutation], online=True
        )
        result = (await self._apply(Batch(transactions=[transaction], keep=keep))).results[0]
        if result.status == "refused":
            raise Conflict(result.message, hint=result.hint, refusal=result.code)
        now = self._clock.now()
        await self._database.write(
            lambda tx: tx.execute(QUERIES["set_restored"], principal.space, int(entry.id), now)
        )
        return msgspec.structs.replace(entry, restored_at=now)

    async def _check_visible(self, tx: Tx, principal: Principal, model: str, record: str) -> None:
        if principal.server:
            return
        declared = self._schema.models.get(model)
        rows = await tx.fetch(QUERIES["record"], principal.space, model, record) if declared else []
        if declared is None or not rows:
            raise NotFound(f"no {model} {record!r}")
        who = (principal.space, principal.user)
        holdings = await store.read_holdings(tx, self._schema, self._streams.lookups, [who])
        held = {h.topic for h in self._streams.held(principal, "", holdings[who], True, ())}
        mine = self._streams.buckets_of(principal.space, model, record, store.restore(declared, rows[0][0]))
        if held.isdisjoint(mine):
            raise NotFound(f"no {model} {record!r}")


def _entry(row: Any) -> Lost:
    id, model, record, field, lost, lost_by, lost_at, won, won_by, won_at, reason, at, restored_at = row
    return Lost(
        id=str(id),
        model=model,
        record=record,
        field=field,
        lost=msgspec.json.decode(lost),
        lost_by=lost_by,
        lost_at=lost_at,
        won=msgspec.json.decode(won),
        won_by=won_by,
        won_at=won_at,
        reason=reason,
        at=at,
        restored_at=restored_at,
    )
