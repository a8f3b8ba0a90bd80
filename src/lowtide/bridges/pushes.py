"""Pushes: from what a client says a record is now to what its user did.

A client of a bridge sends a record's state, and perhaps the state that it started from; it numbers nothing,
and after a lost answer it sends the same again, with whatever was written since. So the server keeps of each
record what a client pushed last and which version that had changed. When a push says that it changed the same
version again, its base is what was pushed before: a repeat changes nothing, and what was added is added once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from lowtide.bridges import store
from lowtide.bridges.store import Pushed
from lowtide.bridges.walk import Cursor
from lowtide.kernel.clock import Clock
from lowtide.kernel.codec import canonical_json
from lowtide.kernel.errors import Conflict
from lowtide.kernel.schema import Data, Model, Principal, Wire
from lowtide.kernel.values import check_id
from lowtide.storage.db import Tx
from lowtide.sync import Sync
from lowtide.sync.model import (
    Applied,
    Batch,
    Mutation,
    RefusedMutation,
    Result,
    StoredRecord,
    Transaction,
    Written,
)
from lowtide.sync.store import last_op_of, read_head, read_records, restore
from lowtide.sync.uploads import MAX_MUTATIONS, SentMutation, prepare

Named = tuple[str, str]
"""(model, id)"""


Show = Callable[[Tx, Principal, str, Collection[Named]], Awaitable[dict[Named, tuple[str, int] | None]]]


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a client says of one record, as it was sent."""

    model: str
    id: str
    data: dict[str, Any]
    """Its fields now: all, or those that were changed."""
    gone: bool = False
    made: bool = False
    """The client knows of no record that it had before."""
    base: Mapping[str, Any] | None = None
    """Field -> the value that the client started from. None: it does not say."""
    versions: Mapping[str, str] | str = ""
    """The version that this was, for each field or all."""
    partial: bool = True
    """``data`` has only what was changed."""
    moved: bool = False
    """The client's copy was replaced by the version that ``versions`` names, and it did not note that: it
    started from that version, which it does not send."""
    whole: bool = False
    """``data`` is all that the client has of the record, so that its copy can be compared with what comes of
    it. The client hears of a difference; if there is none, it need not be told of its own change."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of a push."""

    refused: dict[Named, Result]
    rows: dict[Named, tuple[str, int] | None]
    """(JSON, op) of the records of ``whole`` claims right after; None for what is not the client's."""


class _Plan(msgspec.Struct):
    """One claim on its way through the writer."""

    claim: Claim
    before: Pushed
    mutation: Mutation | RefusedMutation | None = None
    """None: there is nothing to do."""
    fields: dict[str, Wire] = {}
    """What the client pushed."""
    keep: bool = True
    seen: bool = True
    """The client knew the record as it stood."""


class Pushes:
    """Applies pushes. Exactly once by what is kept of each client, for as long as removals are kept."""

    def __init__(self, sync: Sync, clock: Clock):
        self._sync = sync
        self._clock = clock

    async def apply(
        self,
        principal: Principal,
        client: str,
        claims: Sequence[Claim],
        known: Cursor | None,
        show: Show | None = None,
        *,
        request: str = "",
    ) -> Outcome:
        """Apply ``claims``, each by itself: one that is refused holds up no other, and becomes a row of the
        client's ``lowtide_rejections``. Durable when it returns; up to ``MAX_MUTATIONS`` in one transaction.

        ``known``: up to where the client knew everything when it wrote; None: of nothing. ``show``: reads
        what a client that sends ``whole`` claims is answered. ``request``: the request's id. Raises
        ``Conflict`` where nothing tells what the client changed, and what ``Writer.apply`` raises.
        """
        refused: dict[Named, Result] = {}
        rows: dict[Named, tuple[str, int] | None] = {}
        for at in range(0, len(claims), MAX_MUTATIONS):
            part = claims[at : at + MAX_MUTATIONS]
            applied, plans = await self._apply(principal, client, part, known, show, rows, request)
            results = iter(applied.results)
            for plan in plans:
                if plan.mutation is not None:
                    result = next(results)
                    if result.status == "refused":
                        refused[(plan.claim.model, plan.claim.id)] = result
        return Outcome(refused, rows)

    async def _apply(
        self,
        principal: Principal,
        client: str,
        claims: Sequence[Claim],
        known: Cursor | None,
        show: Show | None,
        rows: dict[Named, tuple[str, int] | None],
        request: str,
    ) -> tuple[Applied, list[_Plan]]:
        plans: list[_Plan] = []

        async def begin(tx: Tx) -> list[Transaction]:
            # May run again from its beginning.
            plans[:] = await self._plan(tx, principal, client, claims, known)
            batch = Batch(
                transactions=[
                    Transaction(
                        principal=principal, client_id=client, mutations=[plan.mutation], request=request
                    )
                    for plan in plans
                    if plan.mutation is not None
                ]
            )
            if principal.aliases:
                batch = self._sync.ownership.renamed(batch, principal)
            return list(batch.transactions)

        async def keep(tx: Tx, applied: Applied) -> None:
            results = iter(applied.results)
            kept: dict[Named, Pushed] = {}
            if show is not None:
                names = [(plan.claim.model, plan.claim.id) for plan in plans if _is_id(plan.claim.id)]
                rows.update(await show(tx, principal, client, names))
            for plan in plans:
                result = None if plan.mutation is None else next(results)
                if not plan.keep:
                    continue
                name = (plan.claim.model, plan.claim.id)
                if result is not None and result.status == "refused":
                    fields = self._told(plan.claim, plan.before.fields, rows.get(name))
                    kept[name] = Pushed(fields, plan.before.op, applied.group)
                    continue
                written = applied.written.get((principal.space, *name))
                kept[name] = self._kept(plan, written, rows.get(name), applied.group)
            await store.write_pushed(tx, principal.space, principal.user, client, kept)

        alone = f"{principal.space}/{principal.user}/{client}"
        batch = Batch(prepare=begin, size=len(claims), keep=keep, echo=True, alone=alone)
        return await self._sync.apply(batch), plans

    async def _plan(
        self, tx: Tx, principal: Principal, client: str, claims: Sequence[Claim], known: Cursor | None
    ) -> list[_Plan]:
        schema = self._sync.schema
        names = dict.fromkeys(
            (claim.model, claim.id) for claim in claims if claim.model in schema.models and _is_id(claim.id)
        )
        pushed = await store.read_pushed(tx, principal.space, principal.user, client, names)
        records = await read_records(tx, schema, [(principal.space, *name) for name in names])
        head = await read_head(tx)
        views = {view.no: view for view in await store.read_views(tx, principal.space, principal.user)}
        if known is not None and not known.holds(views.get(known.view), head):
            known = None
        since = None if known is None else await store.group_at(tx, known.group)
        now = self._clock.now()
        plans = []
        for claim in claims:
            name = (claim.model, claim.id)
            if name not in names:
                plans.append(_Plan(claim, Pushed(), self._prepared(claim, claim.data, None, now), keep=False))
                continue
            claim = _present(claim, schema.models[claim.model])
            record = records[(principal.space, *name)]
            before = pushed.get(name, Pushed())
            seen = (
                record is None
                or record.op == before.op
                or (known is not None and record.op <= last_op_of(known.group))
            )
            plan = self._deletion if claim.gone else self._change
            plans.append(plan(claim, before, record, client, seen, since or 0, now))
            plans[-1].seen = seen
        return plans

    def _deletion(
        self,
        claim: Claim,
        before: Pushed,
        record: StoredRecord | None,
        client: str,
        seen: bool,
        since: int,
        now: int,
    ) -> _Plan:
        if record is None or record.deleted:
            return _Plan(claim, before, keep=False)
        base = claim.base
        if base is None and not seen:
            # The client does not say what it saw: all that others wrote since counts as unseen.
            others = [name for name in record.data if record.stamp(name)[1] != client]
            late = [name for name in others if record.stamp(name)[0] >= since]
            base = {name: 0 if record.data[name] is None else None for name in late or others}
        elif base is not None:
            base = {name: _before(claim, before, name, value) for name, value in base.items()}
        return _Plan(claim, before, self._prepared(claim, {}, base, now, "delete"))

    def _change(
        self,
        claim: Claim,
        before: Pushed,
        record: StoredRecord | None,
        client: str,
        seen: bool,
        since: int,
        now: int,
    ) -> _Plan:
        if not claim.partial and claim.base is None and not claim.made and not seen:
            raise Conflict(
                f"{claim.model} {claim.id!r} has changed since, and nothing says what this changes.",
                hint="Pull, and push again; send _changed, or the state that was changed.",
            )
        made = claim.made and not (claim.moved and record is not None)
        if claim.moved:
            seen = record is not None and str(record.op) == claim.versions
        base: dict[str, Any] = {}
        for name in claim.data:
            if claim.base is not None and name in claim.base:
                base[name] = _before(claim, before, name, claim.base[name])
            elif _version(claim, name) in before.fields.get(name, {}):
                base[name] = before.fields[name][_version(claim, name)]
            elif not made and seen and record is not None and name in record.data:
                base[name] = record.data[name]
        again = record is not None and any(
            _version(claim, name) in before.fields.get(name, {}) for name in claim.data
        )
        op = "put" if made and not again else "patch"
        mutation = self._prepared(claim, claim.data, base if base or op == "patch" else None, now, op)
        if isinstance(mutation, RefusedMutation):
            return _Plan(claim, before, mutation)
        fields = dict(mutation.data)
        if op == "put":
            return _Plan(claim, before, mutation, fields)
        known = mutation.base or {}
        data = {name: v for name, v in mutation.data.items() if not (name in known and known[name] == v)}
        if not data:
            same = record is not None and not record.deleted and _agrees(record.data, mutation.data)
            return _Plan(claim, before, None, fields, keep=claim.whole or not same)
        base = {name: value for name, value in known.items() if name in data}
        return _Plan(claim, before, msgspec.structs.replace(mutation, data=data, base=base), fields)

    def _kept(
        self, plan: _Plan, written: Written | None, shown: tuple[str, int] | None, group: int
    ) -> Pushed:
        """What to remember of a push that was not refused."""
        claim, op = plan.claim, plan.before.op
        if claim.gone:
            # What is made anew goes on from nothing.
            return Pushed({}, op if written is None else written.op, group)
        fields = dict(plan.before.fields)
        for name, value in plan.fields.items():
            fields[name] = {_version(claim, name): value}
        if not claim.whole:
            return Pushed(fields, written.op if written is not None and plan.seen else op, group)
        if shown is None:
            return Pushed(fields, op, group)
        data, op = restore(self._sync.schema.models[claim.model], shown[0]), shown[1]
        if all(plan.fields.get(name) == value for name, value in data.items()):
            return Pushed(fields, op, group)
        return Pushed(self._told(claim, fields, shown), 0, group)

    def _told(
        self, claim: Claim, fields: dict[str, dict[str, Wire]], shown: tuple[str, int] | None
    ) -> dict[str, dict[str, Wire]]:
        """``fields``, with what the client is answered: it goes on from that."""
        if not claim.whole or shown is None:
            return fields
        data = restore(self._sync.schema.models[claim.model], shown[0])
        told = {name: {**fields.get(name, {}), str(shown[1]): value} for name, value in data.items()}
        return {**fields, **told}

    def _prepared(
        self, claim: Claim, data: dict[str, Any], base: Mapping[str, Any] | None, now: int, op: str = ""
    ) -> Mutation | RefusedMutation:
        op = op or ("delete" if claim.gone else "put" if claim.made else "patch")
        content = [claim.model, claim.id, op, data]
        digest = hashlib.blake2b(canonical_json(content).encode(), digest_size=6).digest()
        # The same refusal twice is one row.
        sent = SentMutation(
            n=int.from_bytes(digest, "big"),
            op=op,
            model=claim.model,
            id=claim.id,
            data=data,
            base=None if base is None else dict(base),
        )
        return prepare(sent, self._sync.schema, now)


def _is_id(id: str) -> bool:
    try:
        check_id(id)
    except ValueError:
        return False
    return True


def _present(claim: Claim, model: Model) -> Claim:
    """``claim`` with the fields' present names: an older app's tables have former ones."""
    former = {field.renamed_from: name for name, field in model.fields.items() if field.renamed_from}
    if not former:
        return claim

    def renamed(given: Mapping[str, Any]) -> dict[str, Any]:
        return {
            former.get(name, name): value for name, value in given.items() if former.get(name) not in given
        }

    return msgspec.structs.replace(
        claim,
        data=renamed(claim.data),
        base=None if claim.base is None else renamed(claim.base),
        versions=claim.versions if isinstance(claim.versions, str) else renamed(claim.versions),
    )


def _version(claim: Claim, name: str) -> str:
    if isinstance(claim.versions, str):
        return claim.versions
    return claim.versions.get(name, "")


def _before(claim: Claim, before: Pushed, name: str, value: Any) -> Any:
    """What the client started from: what it pushed of the same version, else what it says."""
    return before.fields.get(name, {}).get(_version(claim, name), value)


def _agrees(data: Data, mine: Mapping[str, Wire]) -> bool:
    return all(data.get(name) == value for name, value in mine.items())


def by_lookups(models: Collection[str], sync: Sync) -> list[str]:
    """``models``, those first whose records let users see others."""
    return sorted(models, key=lambda model: not any(True for _ in sync.streams.lookups_of(model)))
