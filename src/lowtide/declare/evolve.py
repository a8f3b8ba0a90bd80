"""What a new schema changes, seen by the devices in the field and the records that are stored.

An app's old versions stay in use for years, and go on reading and writing what they know. A change
that breaks them, or the stored records, is refused; one that somebody will notice is a warning.
"""

from __future__ import annotations

import msgspec

from lowtide.declare.changes import Changes, Difference
from lowtide.declare.evolve_fields import compare_fields, former_names
from lowtide.declare.snapshot import (
    CLOSED,
    FunctionState,
    ModelState,
    Snapshot,
    StreamState,
    read_snapshot,
    snapshot,
    state_of,
)
from lowtide.kernel.schema import Keys, Lookup, Parameter, Schema

__all__ = ["Difference", "compare", "snapshot", "stale_models"]


def compare(old_snapshot: bytes, schema: Schema) -> list[Difference]:
    """Every difference between a deployed schema and ``schema``, the gravest first; none: equal.

    Deploy where none is a ``refuse``. What it cannot see is code: a changed rule function, hook or
    resolver. Raises as ``read_snapshot`` does.
    """
    old, new = read_snapshot(old_snapshot), state_of(schema)
    found = Changes()
    if old.name != new.name:
        found.warn("app-renamed", new.name, f"the deployed app is {old.name!r}", "Is this its database?")
    _compare_models(found, old, new)
    _compare_streams(found, old, new)
    _compare_functions(found, old, new)
    return found.sorted()


def stale_models(old_snapshot: bytes, schema: Schema) -> frozenset[str]:
    """The models whose stored records do not look yet as ``schema`` wants them.

    What is kept beside a record was made when it was written: the JSON that devices receive (without
    the default of a new field, or a new name), the buckets that it is in, its unique values and
    lookups. The records of these models are to be written again before devices rely on the new schema.
    """
    old, new = read_snapshot(old_snapshot), state_of(schema)
    return frozenset(name for name in old.models.keys() & new.models.keys() if _is_stale(name, old, new))


def _is_stale(name: str, old: Snapshot, new: Snapshot) -> bool:
    was, now = old.models[name], new.models[name]
    for field, state in now.fields.items():
        if field in was.fields:
            if state.renamed_from != was.fields[field].renamed_from:
                return True
        elif state.renamed_from is not None or state.default is not None:
            return True
    return (was.unique, was.indexes) != (now.unique, now.indexes) or _carriers(name, old) != _carriers(
        name, new
    )


def _carriers(model: str, snapshot: Snapshot) -> dict[str, tuple[str | None, str | None]]:
    """The streams that carry a model, with the field that is the key and the space."""
    return {
        name: (stream.carries[model], stream.space)
        for name, stream in snapshot.streams.items()
        if model in stream.carries
    }


def _compare_models(found: Changes, old: Snapshot, new: Snapshot) -> None:
    for name in new.models.keys() - old.models.keys():
        found.ok("model-added", name, "old versions of the app do not know it")
    for name, model in old.models.items():
        if name in new.models:
            _compare_model(found, name, model, new.models[name])
        elif model.removed:
            found.warn(
                "model-dropped",
                name,
                "versions that still use it no longer receive it, and what they write is refused",
                "Look which versions are still in use before.",
            )
        else:
            found.refuse(
                "model-removed",
                name,
                "versions in the field still read and write it",
                "Keep its class with @app.model(removed=True); after a rename of the class, "
                f"write @app.model(name={name!r}).",
            )


def _compare_model(found: Changes, name: str, old: ModelState, new: ModelState) -> None:
    compare_fields(found, name, old, new)
    now = former_names(old, new)
    before = {frozenset(now.get(field, field) for field in fields) for fields in old.unique}
    for fields in new.unique:
        if frozenset(fields) not in before:
            found.warn(
                "unique-added",
                name,
                f"({', '.join(fields)}) must be unique: writes that repeat a value are refused",
                "Look for repetitions in the stored records before.",
            )
    for gone in before - {frozenset(fields) for fields in new.unique}:
        found.ok("unique-removed", name, f"({', '.join(sorted(gone))}) may repeat")
    if {now.get(field, field) for field in old.indexes} != set(new.indexes):
        found.ok("indexes-changed", name, "other fields are looked up by value")
    if old.on_delete != new.on_delete:
        found.warn(
            "on-delete-changed",
            name,
            f"{old.on_delete} becomes {new.on_delete}, also for deletions and edits that wait on devices",
            "No device needs a new version for it.",
        )
    _compare_rights(found, name, old.write, new.write)
    if old.removed != new.removed:
        found.ok(
            "model-retired" if new.removed else "model-back", name, "old versions of the app go on with it"
        )


def _compare_rights(found: Changes, name: str, old: str, new: str) -> None:
    if old == new:
        return
    change = f"the write rule {old} becomes {new}"
    if old == CLOSED:
        found.ok("rights-added", name, change)
    elif new == CLOSED:
        found.warn(
            "rights-removed",
            name,
            "writes of old versions, and those waiting on devices, are refused and come back",
            "Ship versions that do not write it first.",
        )
    else:
        found.warn(
            "rights-changed",
            name,
            f"{change}; writes waiting on devices meet the new one",
            "Look that nobody may write who should not.",
        )


def _compare_streams(found: Changes, old: Snapshot, new: Snapshot) -> None:
    for name in new.streams.keys() - old.streams.keys():
        found.ok("stream-added", f"stream {name}", "devices receive its rows at their next checkpoint")
    for name, stream in old.streams.items():
        if name in new.streams:
            _compare_stream(found, f"stream {name}", stream, new.streams[name], old, new)
        else:
            found.warn(
                "stream-removed",
                f"stream {name}",
                "its rows leave the devices that receive them by no other stream",
                "What these devices wrote and have not sent stays theirs until it is sent.",
            )


def _compare_stream(
    found: Changes, subject: str, old: StreamState, new: StreamState, was: Snapshot, now: Snapshot
) -> None:
    if _renamed_keys(old.keys, was, now) != new.keys or old.space != new.space:
        found.warn(
            "stream-keys-changed",
            subject,
            "who receives which rows changes; rows leave and reach devices at their next checkpoint",
            "Look that nobody receives what they should not.",
        )
    for model, field in old.carries.items():
        if model not in new.carries:
            found.warn(
                "carries-removed",
                subject,
                f"rows of {model} leave the devices that receive them by no other stream",
                "Remove it from a stream only when no version in use shows it.",
            )
        elif _renamed(model, field, was, now) != new.carries[model]:
            found.warn(
                "carries-changed",
                subject,
                f"rows of {model} are grouped by {new.carries[model]} and no longer by {field}",
                "Look that nobody receives what they should not; every row is sent again.",
            )
    for model in new.carries.keys() - old.carries.keys():
        found.ok("carries-added", subject, f"devices receive rows of {model}")
    if old.default and not new.default:
        found.warn(
            "stream-on-request",
            subject,
            "its rows leave devices whose app does not subscribe, and old versions do not",
            "Ship versions that subscribe first.",
        )
    elif new.default and not old.default:
        found.ok("stream-by-default", subject, "every device receives it without asking")
    if (old.priority, old.on_metered) != (new.priority, new.on_metered):
        found.ok("stream-order-changed", subject, "rows arrive in another order")


def _renamed(model: str, field: str | None, was: Snapshot, now: Snapshot) -> str | None:
    """What a field of the old schema is called in the new one."""
    if field is None or model not in was.models or model not in now.models:
        return field
    return former_names(was.models[model], now.models[model]).get(field, field)


def _renamed_keys(keys: Keys, was: Snapshot, now: Snapshot) -> Keys:
    if isinstance(keys, Lookup):
        match, take = (_renamed(keys.model, field, was, now) for field in (keys.match, keys.take))
        return msgspec.structs.replace(keys, match=match, take=take)
    if isinstance(keys, Parameter) and isinstance(keys.within, Lookup):
        return msgspec.structs.replace(keys, within=_renamed_keys(keys.within, was, now))
    return keys


def _compare_functions(found: Changes, old: Snapshot, new: Snapshot) -> None:
    for name in new.functions.keys() - old.functions.keys():
        found.ok("function-added", f"function {name}", "devices may call it")
    for name, function in old.functions.items():
        subject = f"function {name}"
        if name in new.functions:
            _compare_function(found, subject, function, new.functions[name])
        else:
            found.warn(
                "function-removed",
                subject,
                "calls of old versions, and those waiting on devices, fail; the failure comes back",
                "Keep it until no version in use calls it.",
            )


def _compare_function(found: Changes, subject: str, old: FunctionState, new: FunctionState) -> None:
    for name in set(new.required) - set(old.required):
        found.refuse(
            "parameter-required",
            subject,
            f"old versions, and calls waiting on devices, do not give {name!r}",
            "Give it a default.",
        )
    for name, kind in old.parameters.items():
        if name not in new.parameters:
            found.refuse(
                "parameter-removed",
                subject,
                f"old versions, and calls waiting on devices, give {name!r}",
                "Keep it with a default, and do not look at it.",
            )
        elif kind != new.parameters[name]:
            found.warn(
                "parameter-changed",
                subject,
                f"{name!r} has another type: a call whose argument does not fit fails, and says so",
                "Accept the former type too, such as str | int.",
            )
    if set(new.parameters) - set(old.parameters) - set(new.required):
        found.ok("parameter-added", subject, "old versions leave it out")
