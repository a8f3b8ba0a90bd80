"""Server functions, offline commands and ``after_commit`` hooks: the app's own code at work.

A function reads and writes through its ``Context``. What it writes is applied when it returns, as one
transaction through the writer: it merges with what devices did meanwhile, and it reaches them like any
other change. A command is a function call that waited on a device; its result and its writes are one
transaction with its status, so a command that is run twice takes effect once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.codec import canonical_json, decode_json
from lowtide.kernel.errors import (
    Conflict,
    DeadlinePassed,
    FunctionFailed,
    LowtideError,
    Malformed,
    NotFound,
    Refused,
    TooLarge,
    Unavailable,
)
from lowtide.kernel.ids import Ids
from lowtide.kernel.schema import Data, Model, Principal, Schema
from lowtide.kernel.values import MAX_RECORD_BYTES, Fields, check_id, coerce_fields
from lowtide.storage.db import Database, Tx
from lowtide.storage.jobs import Job, Jobs
from lowtide.sync import store
from lowtide.sync.index import lookup_name
from lowtide.sync.model import Applied, Batch, Mutation, Require, Result, Transaction
from lowtide.sync.store import QUERIES
from lowtide.sync.streams import key_text
from lowtide.sync.system import COMMANDS
from lowtide.sync.writer import MAX_GROUP_MUTATIONS, CommandCall, Event

log = logging.getLogger("lowtide.functions")

DEADLINE = 30.0
"""Seconds that a function may take."""

MAX_WRITES = MAX_GROUP_MUTATIONS
"""Records that a function writes, in one transaction: nobody else waits longer than for a device's batch."""

MAX_FOUND = 1_000
"""Records that one ``find`` returns."""


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """What an ``after_commit`` hook is told. At least once for each change, in no certain order."""

    space: str
    model: str
    id: str
    before: Fields | None
    """None: it was created."""
    after: Fields | None
    """None: it was deleted."""


class Context:
    """``ctx`` of a function: who calls, and the records of the caller's space.

    Reads see what is durable now. Writes wait until the function returns; write rules do not bind
    them. An ``update`` of a record that ``get`` or ``find`` returned merges with what others changed
    since then, by each field's own rule.
    """

    def __init__(self, me: Principal, schema: Schema, database: Database, clock: Clock, ids: Ids):
        self.me = me
        self._schema = schema
        self._database = database
        self._clock = clock
        self._ids = ids
        self._read: dict[tuple[str, str], Data] = {}
        self._mutations: list[Mutation] = []

    async def get(self, model: Any, id: str) -> Fields | None:
        """The live record, or None."""
        declared = self._model(model)
        rows = await self._database.read(
            lambda tx: tx.fetch(QUERIES["record"], self.me.space, declared.name, id)
        )
        if not rows or rows[0][2]:
            return None
        return self._seen(declared, id, rows[0][0])

    async def find(self, model: Any, **match: Any) -> list[Fields]:
        """Up to 1,000 live records whose one named field has this value. The field is indexed:
        ``NotFound`` for one that is not."""
        declared = self._model(model)
        if len(match) != 1 or next(iter(match)) not in declared.indexes:
            raise NotFound(
                f"{declared.name} is found by one indexed field: {', '.join(declared.indexes) or 'none'}",
                hint="Name the field in the model's indexes.",
            )
        (field,) = match
        wire = coerce_fields(declared, match)[field]
        wanted = [[self.me.space, lookup_name(declared.name, field), key_text(wire), declared.name]]
        rows = await self._database.read(
            lambda tx: tx.fetch(QUERIES["indexed_records"], msgspec.json.encode(wanted).decode())
        )
        return [self._seen(declared, id, data) for _, _, _, id, data in rows[:MAX_FOUND]]

    def create(self, model: Any, id: str | None = None, **fields: Any) -> str:
        """Create a record and return its id. ``ValueError`` for values that do not fit."""
        id = self._ids.uuid() if id is None else check_id(id)
        self._write("put", model, id, fields)
        return id

    def update(self, model: Any, id: str, **fields: Any) -> None:
        """Change fields of a record."""
        self._write("patch", model, id, fields)

    def increment(self, model: Any, id: str, field: str, by: int | float = 1) -> None:
        """Add to a counter, whatever it is by then."""
        declared = self._model(model)
        if field not in declared.fields or declared.fields[field].merge != "counter":
            raise ValueError(f"{declared.name}.{field} is not a counter")
        self._add("patch", declared, id, {field: by}, {field: 0})

    def delete(self, model: Any, id: str) -> None:
        """Delete a record; deleting one that is not there does nothing."""
        self._write("delete", model, id, {})

    def mutations(self) -> list[Mutation]:
        """What was written so far."""
        return self._mutations

    def _model(self, model: Any) -> Model:
        name = model if isinstance(model, str) else getattr(model, "__lowtide_model__", str(model))
        declared = self._schema.models.get(name)
        if declared is None:
            raise NotFound(f"this app has no model {name!r}", hint="Pass the model's class or its name.")
        return declared

    def _seen(self, model: Model, id: str, text: str) -> Fields:
        data = store.restore(model, text)
        self._read[(model.name, id)] = data
        return Fields(model, id, data)

    def _write(self, op: Any, model: Any, id: str, fields: Mapping[str, Any]) -> None:
        declared = self._model(model)
        data = coerce_fields(declared, dict(fields))
        seen = self._read.get((declared.name, id))
        base = None
        if seen is not None and op != "put":
            base = dict(seen) if op == "delete" else {name: seen[name] for name in data}
        self._add(op, declared, id, data, base)

    def _add(self, op: Any, model: Model, id: str, data: Data, base: Data | None) -> None:
        if len(self._mutations) == MAX_WRITES:
            raise TooLarge(f"a function writes at most {MAX_WRITES} records", limit=MAX_WRITES)
        mutation = Mutation(
            n=len(self._mutations) + 1,
            op=op,
            model=model.name,
            id=check_id(id),
            data=data,
            base=base,
            at=self._clock.now(),
        )
        self._mutations.append(mutation)


class Functions:
    """Runs the app's functions and hooks."""

    def __init__(
        self,
        schema: Schema,
        database: Database,
        jobs: Jobs,
        clock: Clock,
        ids: Ids,
        apply: Callable[[Batch], Awaitable[Applied]],
    ):
        self._schema = schema
        self._database = database
        self._clock = clock
        self._ids = ids
        self._apply = apply
        jobs.register("sync.command", CommandCall, self._run_command, deadline=DEADLINE + 10)
        jobs.register("sync.event", Event, self._run_hook, deadline=DEADLINE + 10)

    async def call(
        self,
        principal: Principal,
        name: str,
        arguments: Mapping[str, Any],
        keep: Callable[[Tx, Any], Awaitable[None]] | None = None,
        request: str = "",
    ) -> Any:
        """Call a function for a user who waits; its result once its writes are durable.

        ``keep`` is called with the result in the transaction of the writes, if there are any. ``request``:
        the id of the request that asks.

        Raises ``NotFound`` for an unknown name, ``Malformed`` for arguments that do not fit,
        ``Conflict`` when the function or the merge says no, ``DeadlinePassed``, ``FunctionFailed``.
        """
        context = self._context(principal)
        try:
            result = await self._run(context, name, arguments)
        except Refused as refused:
            raise Conflict(refused.message, hint=refused.hint, refusal=refused.code) from None
        mutations = context.mutations()
        if mutations:
            batch = _batch(context.me, f"function:{name}", mutations, asked=principal, request=request)
            if keep is not None:
                batch = msgspec.structs.replace(batch, keep=_keeping(keep, result))
            applied = await self._apply(batch)
            _raise_refusal(applied.results)
        return result

    async def _run(self, context: Context, name: str, arguments: Mapping[str, Any]) -> Any:
        function = self._schema.functions.get(name)
        if function is None:
            raise NotFound(f"this app has no function {name!r}")
        unknown = [key for key in arguments if key not in function.parameters]
        missing = [key for key in function.required if key not in arguments]
        if unknown or missing:
            what = f"does not take {unknown[0]!r}" if unknown else f"needs {missing[0]!r}"
            raise Malformed(f"{name} {what}")
        try:
            values: dict[str, Any] = {
                key: msgspec.convert(value, function.parameters[key]) for key, value in arguments.items()
            }
        except msgspec.ValidationError as error:
            raise Malformed(f"{name}: {error}") from None
        try:
            async with asyncio.timeout(DEADLINE):
                result = await function.call(context, **values)
            result = msgspec.to_builtins(result, str_keys=True)
            canonical_json(result)  # whatever it is, a caller or a device must be able to read it
            return result
        except TimeoutError:
            raise DeadlinePassed(f"{name} took longer than {DEADLINE:.0f} seconds") from None
        except (Refused, Unavailable):
            raise
        except Exception as error:
            log.exception("function %s failed", name)
            raise FunctionFailed(f"{name} failed: {type(error).__name__}") from error

    async def _run_command(self, job: Job, call: CommandCall) -> None:
        try:
            await self._command(call)
        except Exception as error:
            if job.attempt >= job.max_attempts:
                # Nobody tries again, and a device must not wait for ever.
                code = error.code if isinstance(error, LowtideError) else FunctionFailed.code
                outcome = _failed(code, f"{job.attempt} attempts have failed", FunctionFailed.hint)
                principal = Principal(user=call.user, space=call.space, claims=call.claims)
                await self._apply(self._outcome(self._context(principal), call, outcome))
            raise

    async def _command(self, call: CommandCall) -> None:
        rows = await self._database.read(
            lambda tx: tx.fetch(QUERIES["record"], call.space, COMMANDS, call.id)
        )
        if not rows or rows[0][2]:
            return
        command = store.restore(self._schema.models[COMMANDS], rows[0][0])
        if command["status"] != "pending":
            return
        principal = Principal(user=call.user, space=call.space, claims=call.claims)
        context = self._context(principal)
        outcome: Data
        try:
            arguments = _arguments(command["args"])
            result = await self._run(context, str(command["name"]), arguments)
            outcome = {"status": "done", "result": canonical_json(result)}
        except Refused as refused:
            context = self._context(principal)
            outcome = _failed(refused.code, refused.message, refused.hint)
        except (NotFound, Malformed, FunctionFailed, DeadlinePassed) as error:
            context = self._context(principal)
            outcome = _failed(error.code, error.message, error.hint)
        applied = await self._apply(self._outcome(context, call, outcome))
        refused_by = next((r for r in applied.results if r.status == "refused"), None)
        if refused_by is not None and refused_by.code != "require":
            # The merge would not take what the function wrote: that is the command's outcome.
            outcome = _failed(refused_by.code or "refused", refused_by.message or "", refused_by.hint or "")
            await self._apply(self._outcome(self._context(principal), call, outcome))

    def _outcome(self, context: Context, call: CommandCall, outcome: Data) -> Batch:
        mutations = context.mutations()
        mutations.append(
            Mutation(
                n=len(mutations) + 1,
                op="patch",
                model=COMMANDS,
                id=call.id,
                data=outcome,
                at=self._clock.now(),
            )
        )
        require = (Require(COMMANDS, call.id, "status", "pending"),)
        asked = Principal(user=call.user, space=call.space, claims=call.claims)
        return _batch(context.me, f"command:{call.id}", mutations, require, asked=asked)

    async def _run_hook(self, job: Job, event: Event) -> None:
        model = self._schema.models.get(event.model)
        if model is None or model.after_commit is None:
            return
        before = None if event.before is None else Fields(model, event.id, event.before)
        after = None if event.after is None else Fields(model, event.id, event.after)
        changed = Changed(space=event.space, model=event.model, id=event.id, before=before, after=after)
        async with asyncio.timeout(DEADLINE):
            await model.after_commit(changed)

    def _context(self, principal: Principal) -> Context:
        me = msgspec.structs.replace(principal, server=True)
        return Context(me, self._schema, self._database, self._clock, self._ids)


def _batch(
    principal: Principal,
    writer: str,
    mutations: list[Mutation],
    require: tuple[Require, ...] = (),
    *,
    asked: Principal,
    request: str = "",
) -> Batch:
    transaction = Transaction(
        principal=principal,
        client_id=writer,
        mutations=mutations,
        online=True,
        require=require,
        asked=asked,
        request=request,
    )
    return Batch(transactions=[transaction])


def _keeping(
    keep: Callable[[Tx, Any], Awaitable[None]], result: Any
) -> Callable[[Tx, Applied], Awaitable[None]]:
    async def work(tx: Tx, applied: Applied) -> None:
        if not any(one.status == "refused" for one in applied.results):
            await keep(tx, result)

    return work


def _arguments(text: Any) -> dict[str, Any]:
    if text is None:
        return {}
    arguments = decode_json(str(text), max_bytes=MAX_RECORD_BYTES)
    if not isinstance(arguments, dict):
        raise Malformed("args is not a JSON object")
    return arguments


def _failed(code: str, message: str, hint: str) -> Data:
    return {"status": "failed", "error": canonical_json({"code": code, "message": message, "hint": hint})}


def _raise_refusal(results: list[Result]) -> None:
    for result in results:
        if result.status == "refused" and result.code != "transaction":
            raise Conflict(result.message, hint=result.hint, refusal=result.code)
