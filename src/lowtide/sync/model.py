"""The values of the sync engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from lowtide.kernel.clock import Stamp
from lowtide.kernel.schema import Data, Principal
from lowtide.storage.db import Tx

Op = Literal["put", "patch", "delete"]
RecordKey = tuple[str, str, str]
"""(space, model, id): names one record."""


class Mutation(msgspec.Struct, frozen=True, kw_only=True):
    """One change of one record, its values already in wire form."""

    n: int
    op: Op
    model: str
    id: str
    data: Data = {}
    """The new values of the changed fields."""
    base: Data | None = None
    """The values that they replaced, as the writer saw them. None: written without looking."""
    at: int = 0
    """When it was written: milliseconds on the server's clock."""
    metadata: str | None = None
    exact: bool = False
    """What it replaces is what stands: a ``Version`` of its transaction makes sure of it."""


class Refusal(msgspec.Struct, frozen=True):
    """Why a mutation cannot be applied, ever."""

    code: str
    message: str
    hint: str = ""


class RefusedMutation(msgspec.Struct, frozen=True, kw_only=True):
    """A mutation that was refused before it reached the merge, with what the device sent."""

    n: int
    op: str
    model: str
    id: str
    sent: dict[str, Any]
    refusal: Refusal


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """Mutations that happen all or not at all."""

    principal: Principal
    client_id: str
    """The device that wrote it, or the name of the server's part that did."""
    mutations: Sequence[Mutation | RefusedMutation]
    lineage: str = ""
    online: bool = False
    """Somebody waits for the results: what is refused is answered and not synced back."""
    require: Sequence[Require] = ()
    """What must be true of records, or the whole transaction is refused with code ``require``."""
    versions: Sequence[Version] = ()
    """What the writer knows of records, or the whole transaction is refused."""
    asked: Principal | None = None
    """For whom the server's part writes, if for anybody."""
    request: str = ""
    """The id of the request that brought it."""


class Require(msgspec.Struct, frozen=True):
    """``field`` of a live record is ``value``, in wire form."""

    model: str
    id: str
    field: str
    value: Any


VERSION_NONE = "version:none"
VERSION_CHANGED = "version:changed"
VERSION_EXISTS = "version:exists"


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """What mutation ``n`` takes for granted of its record, before the transaction.

    Live, and received by the user (else ``VERSION_NONE``); with ``ops`` also last changed by one of them
    (else ``VERSION_CHANGED``). ``absent``: no live record has the id (else ``VERSION_EXISTS``). Those who
    wait for the answer hear these codes; devices send no versions.
    """

    n: int
    model: str
    id: str
    ops: tuple[int, ...] | None = None
    absent: bool = False


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What goes through the writer at once: transactions of one device, or of the server."""

    transactions: Sequence[Transaction] = ()
    echo: bool = False
    """Answer with the records as they stand now, too."""
    upload: Upload | None = None
    alone: str = ""
    """No two batches with the same text are in one group: the later reads what the earlier kept."""
    ask: CheckpointAsk | None = None
    resync: Resync | None = None
    keep: Callable[[Tx, Applied], Awaitable[None]] | None = None
    """Called with the ``Applied`` in the same transaction. What it raises undoes this batch alone. It may be
    called twice, and awaits nothing but its ``tx``."""
    prepare: Callable[[Tx], Awaitable[Sequence[Transaction]]] | None = None
    """Run in the group's transaction, before anything is read: its transactions take the place of those here.
    What it raises fails this batch alone. May run more than once."""
    size: int = 0
    """How many mutations ``prepare`` makes, at most or about: the writer's bounds count them."""


class Resync(msgspec.Struct, frozen=True):
    """A device is to download everything anew."""

    space: str
    user: str
    client_id: str


class CheckpointAsk(msgspec.Struct, frozen=True, kw_only=True):
    """A device's wish to be told, by a number of its own, once it has everything up to now."""

    space: str
    user: str
    client_id: str
    number: int


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a device's batch exactly-once."""

    space: str
    user: str
    client_id: str
    lineage: str
    first: int
    """The n with which the batch begins; before ``numbers`` when what was too large comes first."""
    numbers: Sequence[int]
    """The n of every mutation, strictly increasing."""
    digests: Sequence[int]
    """A 64-bit digest of each mutation as it was sent."""
    gap: bool = False


class StoredRecord(msgspec.Struct, frozen=True):
    """One record as it is stored. ``stamps[""]`` holds for the fields that have no stamp of their own."""

    data: Data
    stamps: Mapping[str, Stamp]
    deleted: bool = False
    op: int = 0
    created: int = 0

    def stamp(self, field: str) -> Stamp:
        """When ``field`` got its value."""
        return self.stamps.get(field) or self.stamps[""]


Status = Literal["applied", "merged", "unchanged", "refused"]


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one mutation; part of the answer to an upload."""

    n: int
    status: Status
    code: str | None = None
    message: str | None = None
    hint: str | None = None
    conflicts: tuple[str, ...] = ()
    """Fields where a value of either side went to the journal."""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """A value that lost a conflict: an entry of the journal."""

    space: str
    model: str
    record: str
    field: str
    """Empty when a whole record's deletion or edit lost."""
    lost: str
    """JSON text of the value that is not in the record now."""
    lost_by: str
    lost_at: int
    won: str
    won_by: str
    won_at: int
    reason: str


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A refused mutation on its way back to its device."""

    space: str
    user: str
    client_id: str
    lineage: str
    n: int
    op: str
    model: str
    record: str
    sent: Mapping[str, Any]
    refusal: Refusal


class Bucket(msgspec.Struct, frozen=True):
    """A bucket's row. ``last`` is the latest op, ``live`` the number of rows that it holds."""

    id: int
    last: int
    live: int
    floor: int


class BucketPage(msgspec.Struct, frozen=True):
    """Everything that a bucket says after op ``after``."""

    after: int
    rows: Sequence[tuple[int, str, str, int, str]]
    """(op, model, id, removed, the record's JSON), in the order of the ops."""


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """What a group of batches did, told to those who listen after it is durable."""

    group: int
    topics: tuple[str, ...]
    """Names of changed buckets, lookups and devices; see ``streams.py``."""
    buckets: Mapping[str, Bucket] = {}
    """The changed buckets as the group left them; empty when another node made it."""
    pages: Mapping[str, BucketPage] = {}
    """What the group did in each of them."""
    jobs: bool = False
    """Did it enqueue any?"""


class Written(msgspec.Struct, frozen=True):
    """A record that a batch changed, as its group left it."""

    json: str
    """The fields, as they are stored."""
    deleted: bool
    op: int
    created: int
    updated: int
    seen: bool
    """Does who wrote it receive it now?"""


class Applied(msgspec.Struct, frozen=True):
    """What a batch's sender hears once it is durable."""

    group: int
    results: list[Result]
    last_n: int = -1
    written: Mapping[RecordKey, Written] = {}
    """What the batch changed, if it has ``echo``."""
