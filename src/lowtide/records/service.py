"""Single records: read, created, changed, deleted, by one rule with the devices.

A record is read where the user's streams carry it, and written by the model's write rule, through the
sync engine's writer. What a user does not receive does not exist here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import (
    Conflict,
    Forbidden,
    FunctionFailed,
    Invalid,
    LowtideError,
    NotFound,
    NotUnique,
    PreconditionFailed,
    TooLarge,
)
from lowtide.kernel.ids import Ids
from lowtide.kernel.schema import Data, Lookup, Model, Principal, Schema
from lowtide.records.denial import Denials, is_developer
from lowtide.records.model import Write, WriteResult
from lowtide.records.shape import RecordShape, given_fields, given_id
from lowtide.records.store import QUERIES
from lowtide.records.tags import wanted_ops
from lowtide.storage.db import Query, Row, Select, Tx
from lowtide.sync import Sync, store
from lowtide.sync.model import (
    VERSION_CHANGED,
    VERSION_EXISTS,
    VERSION_NONE,
    Applied,
    Batch,
    Mutation,
    Op,
    RecordKey,
    Result,
    Transaction,
    Version,
    Written,
)
from lowtide.sync.streams import Holding

Holdings = Mapping[Lookup, Holding]
Fetch = Callable[..., Awaitable[list[Row]]]
"""``Tx.fetch``, or the same as a read of its own."""


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One write that somebody wants, decoded. ``ops``: what ``If-Match`` allows, None for any."""

    op: Op
    model: str
    id: str
    data: Data = {}
    base: Data | None = None
    ops: tuple[int, ...] | None = None


class Records:
    """The REST API's work on records. Stateless beside what was worked out from the schema."""

    def __init__(self, sync: Sync, clock: Clock, ids: Ids):
        self.sync = sync
        self._database = sync.database
        self._schema: Schema = sync.schema
        self._streams = sync.streams
        self._clock = clock
        self._ids = ids
        self.shapes = {
            name: RecordShape(model)
            for name, model in self._schema.models.items()
            if not model.removed and not name.startswith("lowtide_")
        }
        self.denials = Denials(self._streams)

    def shape(self, name: str) -> RecordShape:
        """The model that an address names. Raises ``NotFound``."""
        shape = self.shapes.get(name)
        if shape is None:
            raise NotFound(f"this app has no model {name[:64]!r}")
        return shape

    # -- reading ----------------------------------------------------------------------------------

    async def get(self, principal: Principal, name: str, id: str) -> tuple[RecordShape, Row]:
        """The shape and the stored row (data, op, created, updated). Raises ``NotFound``."""
        shape = self.shape(name)
        if len(self.spaces(principal, name)) == 1:
            row, holdings = await self._visible(self._alone, principal, shape.model, id)
        else:
            row, holdings = await self._database.read(
                lambda tx: self._visible(tx.fetch, principal, shape.model, id)
            )
        if row is None:
            raise self.denials.unseen(principal, name, id, holdings)
        return shape, row

    async def _alone(self, query: Query, *params: Any) -> list[Row]:
        return await self._database.read(Select(query, *params))

    async def _visible(
        self, fetch: Fetch, principal: Principal, model: Model, id: str
    ) -> tuple[Row | None, Holdings]:
        """The record, and what the user holds. One statement for each space where it may be."""
        who = (principal.space, principal.user)
        wanted = store.wanted_holdings(() if principal.server else self._streams.lookups, [who])
        asked = msgspec.json.encode(list(wanted)).decode()
        holdings: Holdings = {}
        for space in self.spaces(principal, model.name):
            rows = await fetch(QUERIES["record"], asked, space, model.name, id)
            granting = [row[:5] for row in rows if row[1]]
            holdings = store.found_holdings(self._schema, [who], wanted, granting)[who]
            for row in (row[4:] for row in rows if not row[1]):
                data = {} if principal.server else store.restore(model, row[0])
                if self._streams.sees(principal, space, model.name, id, data, holdings):
                    return row, holdings
        return None, holdings

    async def holdings(self, tx: Tx, principal: Principal) -> Holdings:
        """The keys that the user's memberships grant, as of this snapshot."""
        who = (principal.space, principal.user)
        return (await store.read_holdings(tx, self._schema, self._streams.lookups, [who]))[who]

    def spaces(self, principal: Principal, model: str) -> Sequence[str]:
        """The spaces whose records of ``model`` the user may receive, the user's own first."""
        if principal.server:
            return (principal.space,)
        return self._streams.spaces(principal, model)

    # -- writing ----------------------------------------------------------------------------------

    def creation(self, name: str, id: str | None, given: Mapping[str, Any]) -> Intent:
        """A new record; an id is made for one that has none. Raises ``NotFound``, ``Invalid``."""
        model = self.shape(name).model
        id = self._ids.uuid() if id is None else given_id(id)
        return Intent(op="put", model=name, id=id, data=given_fields(model, given))

    def change(
        self,
        name: str,
        id: str,
        given: Mapping[str, Any],
        base: Mapping[str, Any] | None,
        ops: tuple[int, ...] | None,
    ) -> Intent:
        """A change of the named fields. Raises ``NotFound``, ``Invalid``."""
        model = self.shape(name).model
        seen = None if base is None else given_fields(model, base)
        return Intent(op="patch", model=name, id=id, data=given_fields(model, given), base=seen, ops=ops)

    def wanted(self, write: Write) -> Intent:
        """One of several writes. Raises ``NotFound``, ``Invalid``."""
        if write.op == "create":
            if write.base is not None or write.if_match is not None:
                raise Invalid("A creation has no base and no if_match.")
            return self.creation(write.model, write.id, write.data)
        if write.id is None:
            raise Invalid(f"{write.op} needs the record's id.")
        ops = None if write.if_match is None else wanted_ops(f'"{write.if_match}"')
        if write.op == "update":
            return self.change(write.model, write.id, write.data, write.base, ops)
        if write.data or write.base is not None:
            raise Invalid("A deletion has no data and no base.")
        return self.deletion(write.model, write.id, ops)

    def deletion(self, name: str, id: str, ops: tuple[int, ...] | None) -> Intent:
        """The record's deletion. Raises ``NotFound``."""
        self.shape(name)
        return Intent(op="delete", model=name, id=id, ops=ops)

    async def write(
        self,
        principal: Principal,
        intents: Sequence[Intent],
        keep: Callable[[Tx, list[WriteResult]], Awaitable[None]] | None = None,
        request: str = "",
    ) -> list[WriteResult]:
        """Apply ``intents`` together or not at all; what each left, in order.

        A creation that was done before with the same content is done again without effect. Raises what
        ``refusal`` makes of the first that is refused, with ``index`` where there are several, and what
        ``Writer.apply`` raises. ``keep`` is called in the same transaction. A former id of the user, from
        before a merge of accounts, is read as the present one, as in uploads. ``request``: the id of the
        request that asks.
        """
        if principal.aliases:
            intents = [self._present(principal, intent) for intent in intents]
        batch = self._batch(principal, intents, request)
        if keep is not None:
            batch = msgspec.structs.replace(batch, keep=self._keeping(principal, intents, keep))
        applied = await self.sync.apply(batch)
        refused = next(
            (r for r in applied.results if r.status == "refused" and r.code != "transaction"), None
        )
        if refused is not None:
            intent = intents[refused.n - 1]
            if refused.code == VERSION_EXISTS and all(one.op == "put" for one in intents):
                repeated = await self._repeated(principal, intents)
                if repeated is not None:
                    return repeated
            error = refusal(intent, refused)
            if is_developer(principal):
                holdings = await self._database.read(lambda tx: self.holdings(tx, principal))
                model = self.shapes[intent.model].model
                self.denials.explain(principal, error, model, refused, holdings)
            if len(intents) > 1:
                error.details["index"] = refused.n - 1
            raise error
        return await self._results(principal, intents, applied)

    def _present(self, principal: Principal, intent: Intent) -> Intent:
        present = self.sync.ownership.present
        base = None if intent.base is None else present(intent.model, intent.base, principal)
        return msgspec.structs.replace(intent, data=present(intent.model, intent.data, principal), base=base)

    def _keeping(
        self,
        principal: Principal,
        intents: Sequence[Intent],
        keep: Callable[[Tx, list[WriteResult]], Awaitable[None]],
    ) -> Callable[[Tx, Applied], Awaitable[None]]:
        async def work(tx: Tx, applied: Applied) -> None:
            if any(result.status == "refused" for result in applied.results):
                return
            written = dict(applied.written) | await self._standing(
                tx, principal, _unwritten(principal, intents, applied)
            )
            await keep(tx, self._made(principal, intents, applied.results, written))

        return work

    def _batch(self, principal: Principal, intents: Sequence[Intent], request: str) -> Batch:
        now = self._clock.now()
        mutations = []
        versions = []
        named: set[tuple[str, str]] = set()
        for n, intent in enumerate(intents, 1):
            first = (intent.model, intent.id) not in named
            named.add((intent.model, intent.id))
            if intent.op == "put" and not first:
                raise _taken(intent, index=n - 1)
            if first or intent.ops is not None:
                versions.append(
                    Version(n=n, model=intent.model, id=intent.id, ops=intent.ops, absent=intent.op == "put")
                )
            mutations.append(
                Mutation(
                    n=n,
                    op=intent.op,
                    model=intent.model,
                    id=intent.id,
                    data=intent.data,
                    base=intent.base,
                    at=now,
                    exact=first and intent.ops is not None,
                )
            )
        transaction = Transaction(
            principal=principal,
            client_id=f"rest:{principal.user}",
            mutations=mutations,
            online=True,
            versions=versions,
            request=request,
        )
        return Batch(transactions=[transaction], echo=True)

    async def _results(
        self, principal: Principal, intents: Sequence[Intent], applied: Applied
    ) -> list[WriteResult]:
        unchanged = _unwritten(principal, intents, applied)
        written = dict(applied.written)
        if unchanged:
            written |= await self._database.read(lambda tx: self._standing(tx, principal, unchanged))
        return self._made(principal, intents, applied.results, written)

    def _made(
        self,
        principal: Principal,
        intents: Sequence[Intent],
        results: Sequence[Result],
        written: Mapping[RecordKey, Written],
    ) -> list[WriteResult]:
        made = []
        for intent, result in zip(intents, results, strict=True):
            now = written.get((principal.space, intent.model, intent.id))
            record = None
            if now is not None and now.seen and intent.op != "delete":
                record = self.shapes[intent.model].record(
                    intent.id, now.json, now.op, now.created, now.updated
                )
            made.append(WriteResult(intent.id, _status(intent, result), record))
        return made

    async def _standing(
        self, tx: Tx, principal: Principal, keys: Sequence[RecordKey]
    ) -> dict[RecordKey, Written]:
        """The records as they stand, for writes that changed nothing."""
        found: dict[RecordKey, Written] = {}
        for key in keys:
            row, _ = await self._visible(tx.fetch, principal, self._schema.models[key[1]], key[2])
            if row is not None:
                text, op, created, updated = row
                found[key] = Written(text, False, op, created, updated, True)
        return found

    async def _repeated(self, principal: Principal, intents: Sequence[Intent]) -> list[WriteResult] | None:
        """What creations left that were done before, all of them and with the same content; else None."""

        async def read(tx: Tx) -> list[Row | None]:
            models = self._schema.models
            return [
                (await self._visible(tx.fetch, principal, models[one.model], one.id))[0] for one in intents
            ]

        made = []
        for intent, row in zip(intents, await self._database.read(read), strict=True):
            if row is None:
                return None
            data = store.restore(self._schema.models[intent.model], row[0])
            if any(data[name] != value for name, value in intent.data.items()):
                return None
            text, op, created, updated = row
            record = self.shapes[intent.model].record(intent.id, text, op, created, updated)
            made.append(WriteResult(intent.id, "unchanged", record))
        return made


def _status(intent: Intent, result: Result) -> Literal["created", "changed", "unchanged", "deleted"]:
    if result.status == "unchanged":
        return "unchanged"
    return "created" if intent.op == "put" else "deleted" if intent.op == "delete" else "changed"


def _unwritten(principal: Principal, intents: Sequence[Intent], applied: Applied) -> list[RecordKey]:
    keys = [(principal.space, intent.model, intent.id) for intent in intents]
    return [key for key in keys if key not in applied.written]


_STATUS: dict[str, type[LowtideError]] = {
    VERSION_NONE: NotFound,
    VERSION_CHANGED: PreconditionFailed,
    "no_record": NotFound,
    "closed": Forbidden,
    "forbidden": Forbidden,
    "server_only": Forbidden,
    "invalid": Invalid,
    "unique": NotUnique,
    "record_too_large": TooLarge,
    "value_too_long": TooLarge,
    "rule_failed": FunctionFailed,
}


def refusal(intent: Intent, result: Result) -> LowtideError:
    """The error for a write that the merge refused. What the app's own hook says is a ``Conflict`` with its
    code as ``refusal``, as for functions."""
    code, message = result.code or "refused", result.message
    kind = _STATUS.get(code)
    if kind is NotFound:
        return NotFound(f"There is no {intent.model} {intent.id[:128]!r}.")
    if code == VERSION_EXISTS:
        return _taken(intent)
    if kind is None:
        return Conflict(message, hint=result.hint, refusal=code)
    return kind(message, hint=result.hint or None)


def _taken(intent: Intent, **details: Any) -> Conflict:
    hint = "Choose another id, or change the record that has it."
    return Conflict(f"There is a {intent.model} {intent.id!r} already.", hint=hint, **details)
