"""What the sync engine reads and writes, one function for each need.

Every function takes an open transaction and awaits nothing else, so each works on both databases.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from lowtide.kernel.clock import Stamp
from lowtide.kernel.schema import Data, Lookup, Model, Schema
from lowtide.kernel.values import aliased
from lowtide.storage.db import Row, Tx, load_queries
from lowtide.sync.index import IndexKey, lookup_name
from lowtide.sync.model import Bucket, Loss, RecordKey, Result, StoredRecord
from lowtide.sync.streams import key_text, taken

QUERIES = load_queries("lowtide.sync")

OPS_PER_GROUP = 1 << 20
"""An op id is group * OPS_PER_GROUP + index: a checkpoint can name all of a group by one number."""

RESTORE_JUMP = 1 << 20
"""Groups that a restored database skips, and one for each millisecond since the last that it holds: more than
were committed meanwhile, because a group takes milliseconds."""

NO_GROUP = 1 << 62
"""Higher than any group."""

MAX_RESTORE_JUMP = 1 << 31
"""And no more than these, 25 days of nothing but groups: bridges' cursors have room for four
times as many."""

_encode = msgspec.json.Encoder().encode
_decode_data = msgspec.json.Decoder(dict[str, str | int | float | None]).decode
_decode_stamps = msgspec.json.Decoder(dict[str, tuple[int, str]]).decode
_decode_topics = msgspec.json.Decoder(list[str]).decode


class Head(msgspec.Struct, frozen=True):
    """Where the order of everything stands."""

    group: int
    epoch: str
    last_bucket: int = 0
    watched: str = "[]"
    """Models of whose changes others are told, as JSON."""

    @property
    def op(self) -> int:
        """The greatest op id that this head covers."""
        return last_op_of(self.group)


class KeptAnswer(msgspec.Struct, frozen=True):
    """The last batch of a lineage and its results: what a repeat is answered from."""

    numbers: list[int]
    digests: list[int]
    results: list[Result]
    group: int


DeviceKey = tuple[str, str, str]
"""(space, user, client_id)"""


class Device(msgspec.Struct, frozen=True):
    """What the server keeps of a device."""

    answers: dict[str, KeptAnswer] = {}
    """By lineage, the latest last. Each is kept: copies of one device live side by side, and a network
    may hold a batch of an older lineage back for as long as it likes."""
    last_n: int = -1
    answered_group: int = 0
    request: int | None = None
    request_group: int = 0
    generation: int = 0
    gaps: int = 0


_decode_answers = msgspec.json.Decoder(dict[str, KeptAnswer]).decode


def last_op_of(group: int) -> int:
    """The op id that stands for the end of ``group``."""
    return group * OPS_PER_GROUP + OPS_PER_GROUP - 1


async def lock_head(tx: Tx) -> Head:
    """The head, held until the transaction ends: what puts groups into one order."""
    rows = await tx.fetch(QUERIES["lock_head"])
    return Head(*rows[0])


async def group_before(tx: Tx, at: int, now: int) -> int | None:
    """The last group of which it is known that it was committed before ``at``; None: there is none.

    Groups know their order better than a clock knows the time: what stands behind a group of between ``at``
    and ``now`` is younger than that, whatever a clock that was wrong for a moment has said of it. What says
    that it is of the time after ``now`` is old once something behind it is.
    """
    young = await tx.fetch(QUERIES["first_group_since"], at, now)
    rows = await tx.fetch(QUERIES["group_before"], at, young[0][0] if young else NO_GROUP)
    return None if rows[0][0] is None else int(rows[0][0])


async def read_head(tx: Tx) -> Head:
    """The head of this snapshot."""
    rows = await tx.fetch(QUERIES["read_head"])
    return Head(*rows[0])


async def move_head(tx: Tx, group: int, last_bucket: int, now: int, topics: Sequence[str]) -> None:
    """End a group: the next begins after it, and other nodes are told what it changed."""
    told = _encode(topics).decode()
    if tx.dialect == "postgres":
        await tx.execute(QUERIES["move_head"], group, now, told, last_bucket)
        return
    await tx.execute(QUERIES["set_head"], group, last_bucket)
    await tx.execute(QUERIES["insert_head_log"], group, now, told)


async def watch(tx: Tx, models: Collection[str]) -> None:
    """Tell of these models' changes from the next group on; ``*`` is all."""
    await tx.execute(QUERIES["watch"], _encode(sorted(models)).decode())


async def begin_epoch(tx: Tx, epoch: str, now: int) -> None:
    """Tell every device that history starts anew: after a backup was put back.

    Devices swap each bucket for a new one in one checkpoint. Numbers jump ahead, so that none that was
    given out after the backup is ever given out again; ``now``: milliseconds, later than all of those. Also
    for a database of an older version, before its migrations.
    """
    last = (await tx.fetch(QUERIES["last_commit"]))[0][0]
    since = 0 if last is None else max(0, now - last)
    await tx.execute(QUERIES["begin_epoch"], epoch, min(RESTORE_JUMP + since, MAX_RESTORE_JUMP))


async def read_group(
    tx: Tx,
    schema: Schema,
    lookups: Sequence[Lookup],
    keys: Iterable[RecordKey],
    users: Iterable[tuple[str, str]],
) -> tuple[dict[RecordKey, StoredRecord | None], dict[tuple[str, str], dict[Lookup, dict[str, int]]]]:
    """``read_records`` and ``read_holdings`` together. One query."""
    found: dict[RecordKey, StoredRecord | None] = dict.fromkeys(keys)
    held = list(users)
    wanted = wanted_holdings(lookups, held)
    granting: list[Row] = []
    if found or wanted:
        asked = _encode(list(found)).decode(), _encode(list(wanted)).decode()
        for row in await tx.fetch(QUERIES["group_records"], *asked):
            space, index, model, id, data, stamps, deleted, op, created = row
            if index:
                granting.append(row[:5])
            else:
                found[(space, model, id)] = StoredRecord(
                    restore(schema.models[model], data), _decode_stamps(stamps), bool(deleted), op, created
                )
    return found, found_holdings(schema, held, wanted, granting)


async def read_records(
    tx: Tx, schema: Schema, keys: Iterable[RecordKey]
) -> dict[RecordKey, StoredRecord | None]:
    """The named records; None for one that never was. One query."""
    found: dict[RecordKey, StoredRecord | None] = dict.fromkeys(keys)
    if found:
        rows = await tx.fetch(QUERIES["records"], _encode(list(found)).decode())
        for space, model, id, data, stamps, deleted, op, created in rows:
            found[(space, model, id)] = StoredRecord(
                restore(schema.models[model], data), _decode_stamps(stamps), bool(deleted), op, created
            )
    return found


def restore(model: Model, text: str) -> Data:
    """A record's fields from its stored JSON, with what was added to the model since."""
    data = _decode_data(text)
    fields = model.fields
    if data.keys() == fields.keys():
        return data
    out: Data = {}
    for name, field in fields.items():
        if name in data:
            out[name] = data[name]
        elif field.renamed_from in data:
            out[name] = data[field.renamed_from]
        else:
            out[name] = field.default
    return out


async def read_index(tx: Tx, wanted: Iterable[IndexKey]) -> dict[IndexKey, str]:
    """Who holds each of the wanted unique values; values that nobody holds are absent."""
    keys = list(wanted)
    if not keys:
        return {}
    rows = await tx.fetch(QUERIES["index_holders"], _encode(keys).decode())
    return {(space, name, value): id for space, name, value, id in rows}


async def read_holdings(
    tx: Tx, schema: Schema, lookups: Sequence[Lookup], users: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], dict[Lookup, dict[str, int]]]:
    """The keys that each (space, user) holds of each lookup. One query."""
    held = list(users)
    wanted = wanted_holdings(lookups, held)
    rows: list[Row] = []
    if wanted:
        rows = await tx.fetch(QUERIES["indexed_records"], _encode(list(wanted)).decode())
    return found_holdings(schema, held, wanted, rows)


WantedHoldings = dict[tuple[str, str, str, str], list[tuple[tuple[str, str], Lookup]]]
"""(space, index, value, model) -> who holds a key by such a record, and by which lookup."""


def wanted_holdings(lookups: Sequence[Lookup], users: Iterable[tuple[str, str]]) -> WantedHoldings:
    """Which records grant keys to these (space, user). Its keys are what ``indexed_records`` looks for."""
    wanted: WantedHoldings = {}
    for space, user in users:
        for lookup in lookups:
            name = lookup_name(lookup.model, lookup.match)
            wanted.setdefault((space, name, key_text(user), lookup.model), []).append(((space, user), lookup))
    return wanted


def found_holdings(
    schema: Schema, users: Iterable[tuple[str, str]], wanted: WantedHoldings, rows: Iterable[Row]
) -> dict[tuple[str, str], dict[Lookup, dict[str, int]]]:
    """The keys that ``rows`` of ``indexed_records`` grant: (space, index, value, id, data)."""
    holdings: dict[tuple[str, str], dict[Lookup, dict[str, int]]] = {user: {} for user in users}
    for space, name, value, id, text in rows:
        model = name.partition(".")[0]
        data = restore(schema.models[model], text)
        for holder, lookup in wanted[(space, name, value, model)]:
            key = taken(lookup, id, data)
            if key is not None:
                counts = holdings[holder].setdefault(lookup, {})
                counts[key_text(key)] = counts.get(key_text(key), 0) + 1
    return holdings


async def read_buckets(tx: Tx, names: Iterable[str]) -> dict[str, Bucket]:
    """The buckets of these names; one that never had a row is absent."""
    wanted = list(names)
    if not wanted:
        return {}
    rows = await tx.fetch(QUERIES["buckets_by_name"], _encode(wanted).decode())
    return {name: Bucket(id, last, live, floor) for name, id, last, live, floor in rows}


async def read_device(tx: Tx, space: str, user: str, client_id: str) -> Device | None:
    """A device's row without its answers, which are many; None for one that was never seen."""
    rows = await tx.fetch(QUERIES["device"], space, user, client_id)
    return Device({}, *rows[0]) if rows else None


def read_answers(text: str) -> dict[str, KeptAnswer]:
    """A device's answers as they were stored."""
    return _decode_answers(text) if text else {}


async def lock_devices(tx: Tx, keys: Iterable[DeviceKey]) -> dict[DeviceKey, Device]:
    """The named devices, held until the transaction ends; a new one where none was seen. One query."""
    found = dict.fromkeys(keys, Device())
    if found:
        rows = await tx.fetch(QUERIES["devices_for_write"], _encode(list(found)).decode())
        for space, user, client_id, answers, *rest in rows:
            found[(space, user, client_id)] = Device(read_answers(answers), *rest)
    return found


async def write_answers(tx: Tx, devices: Mapping[DeviceKey, Device], now: int) -> None:
    """Keep what the last batches of devices were answered."""
    await tx.execute_many(
        QUERIES["upsert_answer"],
        [
            (*key, d.last_n, _encode(d.answers).decode(), d.answered_group, d.gaps, now)
            for key, d in devices.items()
        ],
    )


async def write_losses(tx: Tx, losses: Sequence[Loss], first_id: int, now: int) -> None:
    """Append to the journal."""
    await tx.execute_many(
        QUERIES["insert_loss"],
        [
            (
                first_id + i,
                loss.space,
                loss.model,
                loss.record,
                loss.field,
                loss.lost,
                loss.lost_by,
                loss.lost_at,
                loss.won,
                loss.won_by,
                loss.won_at,
                loss.reason,
                now,
            )
            for i, loss in enumerate(losses)
        ],
    )


async def topics_since(tx: Tx, group: int, limit: int) -> list[tuple[int, list[str]]]:
    """What the groups after ``group`` changed, at most ``limit`` of them."""
    rows = await tx.fetch(QUERIES["topics_since"], group, limit)
    return [(number, _decode_topics(topics)) for number, topics in rows]


def read_stamps(text: str) -> dict[str, Stamp]:
    """Stamps as they were stored."""
    return _decode_stamps(text)


def stamps_text(stamps: Mapping[str, Stamp]) -> str:
    """Stamps as they are stored."""
    return _encode(stamps).decode()


def data_text(model: Model, data: Data) -> str:
    """A record's fields as they are stored and sent."""
    return _encode(aliased(model, data)).decode()


def row_of(key: RecordKey, record: StoredRecord, json: str, op: int, now: int) -> tuple[Any, ...]:
    """The parameters of ``upsert_record``."""
    return (
        *key,
        json,
        stamps_text(record.stamps),
        int(record.deleted),
        op,
        record.created,
        now,
    )
