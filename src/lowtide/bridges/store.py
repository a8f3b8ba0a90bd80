"""What the bridges read and write. Every function takes an open transaction and awaits nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from lowtide.kernel.schema import Wire
from lowtide.storage.db import Row, Tx, load_queries
from lowtide.sync.model import RecordKey
from lowtide.sync.segments import read_in_steps

QUERIES = load_queries("lowtide.bridges")

MAX_VIEWS = 64
"""Sets of buckets that are remembered of a user; a cursor of an older one begins anew."""

VIEW_NUMBERS = 1 << 20
"""A view's number is below this, so that a cursor fits a JavaScript number."""

_encode = msgspec.json.Encoder().encode
_topics = msgspec.json.Decoder(tuple[str, ...]).decode


class BridgeView(msgspec.Struct, frozen=True):
    """Buckets that a user held, in one epoch. Never changes once it was written."""

    no: int
    epoch: str
    since: int
    """The group at which it was written: no cursor of it is older."""
    topics: tuple[str, ...]


class Pushed(msgspec.Struct, frozen=True):
    """What a client pushed of one record last."""

    fields: dict[str, dict[str, Wire]] = {}
    """Field -> the version that the client had changed -> the value that it pushed; and the version that it
    was answered with -> the value in that"""
    op: int = 0
    """The record's op that the push made of what the client knew."""
    group: int = 0


_fields = msgspec.json.Decoder(dict[str, dict[str, str | int | float | None]]).decode


async def read_views(tx: Tx, space: str, user: str) -> list[BridgeView]:
    """The user's views, the newest first."""
    rows = await tx.fetch(QUERIES["views"], space, user)
    return [BridgeView(no, epoch, since, _topics(topics)) for no, epoch, since, topics in rows]


async def write_view(tx: Tx, space: str, user: str, epoch: str, group: int, topics: Iterable[str]) -> None:
    """Remember that the user holds ``topics``; the oldest beyond ``MAX_VIEWS`` are forgotten."""
    views = await read_views(tx, space, user)
    held = _encode(sorted(topics)).decode()
    # Another user's cursor means nothing: two users' numbers differ, but for one case in ten thousand.
    whose = hashlib.blake2b(_encode([space, user, held]), digest_size=8).digest()
    no = int.from_bytes(whose, "big") % VIEW_NUMBERS
    taken = {view.no for view in views[: MAX_VIEWS - 1]}
    while no in taken:
        no = (no + 1) % VIEW_NUMBERS
    for view in views[MAX_VIEWS - 1 :]:
        await tx.execute(QUERIES["delete_view"], space, user, view.no)
    await tx.execute(QUERIES["insert_view"], space, user, no, epoch, group, held)


async def group_at(tx: Tx, group: int) -> int | None:
    """When a group was committed, in milliseconds, or the one before a restored backup's leap; None if that
    is forgotten."""
    if group == 0:
        return 0
    rows = await tx.fetch(QUERIES["group_at"], group)
    return rows[0][0] if rows else None


async def read_page(
    tx: Tx, space: str, bucket: int, after: int, models: Collection[str], most: int
) -> list[Row]:
    """(op, model, id, removed, data) of a bucket's entries of ``models`` after ``after``: at most ``most``,
    or ``PAGE_BYTES`` and a little more."""
    names = _encode(sorted(models)).decode()
    return await read_in_steps(
        lambda at, n: tx.fetch(QUERIES["page"], space, bucket, at, names, n), after, most
    )


async def read_rows(tx: Tx, keys: Collection[RecordKey]) -> dict[RecordKey, tuple[str, int]]:
    """(data, op) of those records that are there."""
    if not keys:
        return {}
    rows = await tx.fetch(QUERIES["rows"], _encode(list(keys)).decode())
    return {(space, model, id): (data, op) for space, model, id, data, op in rows}


async def read_pushed(
    tx: Tx, space: str, user: str, client: str, records: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Pushed]:
    """What the client pushed of these (model, id) last."""
    if not records:
        return {}
    rows = await tx.fetch(QUERIES["pushed"], space, user, client, _encode(list(records)).decode())
    return {(model, id): Pushed(_fields(fields), op, group) for model, id, fields, op, group in rows}


async def write_pushed(
    tx: Tx, space: str, user: str, client: str, pushed: Mapping[tuple[str, str], Pushed]
) -> None:
    """Keep what a client pushed of these (model, id)."""
    rows: Sequence[tuple[str | int, ...]] = [
        (space, user, client, model, id, _encode(one.fields).decode(), one.op, one.group)
        for (model, id), one in sorted(pushed.items())
    ]
    if rows:
        await tx.execute_many(QUERIES["upsert_push"], rows)
