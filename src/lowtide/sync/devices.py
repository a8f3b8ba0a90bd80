"""Devices, as support sees them: where they are, what they last sent, and whether they are sound."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from lowtide.kernel.errors import NotFound
from lowtide.kernel.schema import Principal, Schema
from lowtide.storage.db import Database, Tx
from lowtide.sync import store
from lowtide.sync.model import Applied, Batch, Resync
from lowtide.sync.store import QUERIES
from lowtide.sync.streams import DEVICE_STREAM, Streams, bucket_topic, device_key, key_text

MAX_AUDITED = 1_000
"""Buckets of one audit."""


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a device. Times are milliseconds since 1970; 0: never."""

    user: str
    client_id: str
    last_n: int
    """The last mutation that it uploaded; -1: none."""
    uploaded_at: int
    seen_at: int
    cursor: str
    """The head that it reached last."""
    lag: int
    """Groups that were committed since then; many of them may not concern it."""
    resyncs: int
    """How often it was told to download everything anew."""
    gaps: int
    """How often it had thrown away changes before they were uploaded."""
    rejections: int
    """Refused mutations that it has not dismissed."""
    last_rejection: dict[str, Any] | None


class AuditedBucket(msgspec.Struct, frozen=True):
    """One bucket's content as a device sums it up. See ``docs/reference/protocol.md`` for the SQL."""

    name: str
    after: str
    count: int
    ops: int
    length: int
    sample: int


class AuditRequest(msgspec.Struct, frozen=True):
    client_id: str
    buckets: list[AuditedBucket]


class AuditAnswer(msgspec.Struct, frozen=True):
    """``diverged`` is not empty: the device's stream now brings everything anew."""

    checked: int
    diverged: list[str]


class Devices:
    """Reads devices' states, compares their content, makes them start anew."""

    def __init__(
        self,
        schema: Schema,
        streams: Streams,
        database: Database,
        apply: Callable[[Batch], Awaitable[Applied]],
    ):
        self._schema = schema
        self._streams = streams
        self._database = database
        self._apply = apply

    async def state(self, principal: Principal, client_id: str, user: str | None = None) -> DeviceState:
        """The device of this user; a server may name another ``user``. Raises ``NotFound``."""
        owner = user if user is not None and principal.server else principal.user

        async def read(tx: Tx) -> DeviceState:
            rows = await tx.fetch(QUERIES["device_state"], principal.space, owner, client_id)
            if not rows:
                raise NotFound("no such device")
            last_n, _, _, generation, gaps, uploaded_at, seen_at, seen_group = rows[0]
            head = await store.read_head(tx)
            topic = bucket_topic(principal.space, DEVICE_STREAM, key_text(device_key(owner, client_id)))
            found = (await store.read_buckets(tx, [topic])).get(topic)
            last, rejections = None, 0
            if found is not None:
                rejections = (await tx.fetch(QUERIES["count_rejections"], found.id))[0][0]
                newest = await tx.fetch(QUERIES["newest_rejection"], principal.space, found.id)
                last = msgspec.json.decode(newest[0][0]) if newest else None
            return DeviceState(
                user=owner,
                client_id=client_id,
                last_n=last_n,
                uploaded_at=uploaded_at,
                seen_at=seen_at,
                cursor=str(seen_group),
                lag=head.group - seen_group,
                resyncs=generation,
                gaps=gaps,
                rejections=rejections,
                last_rejection=last,
            )

        return await self._database.read(read)

    async def audit(self, principal: Principal, request: AuditRequest) -> AuditAnswer:
        """Compare what a device holds with what it should; one that differs starts anew.

        Only a bucket that has not changed since the device's checkpoint can be compared; the others
        are left to the next audit. Costs a scan of each bucket: call it once a day.
        """

        async def read(tx: Tx) -> tuple[int, list[str]]:
            head = await store.read_head(tx)
            who = (principal.space, principal.user)
            holdings = (await store.read_holdings(tx, self._schema, self._streams.lookups, [who]))[who]
            checked, diverged = 0, []
            for sent in request.buckets[:MAX_AUDITED]:
                name, _, suffix = sent.name.rpartition("@")
                parts = suffix.split(".")
                topic = self._streams.topic_held(principal, request.client_id, name, holdings)
                found = None if topic is None else (await store.read_buckets(tx, [topic])).get(topic)
                if topic is None or found is None:
                    continue
                if len(parts) != 4 or parts[:2] != [head.epoch, str(found.id)]:
                    continue
                if not sent.after.isdecimal() or not found.last <= int(sent.after[:19]) <= head.op:
                    continue
                row = (await tx.fetch(QUERIES["audit_bucket"], topic.partition("/")[0], found.id))[0]
                checked += 1
                if tuple(map(int, row)) != (sent.count, sent.ops, sent.length, sent.sample):
                    diverged.append(sent.name)
            return checked, diverged

        checked, diverged = await self._database.read(read)
        if diverged:
            await self.resync(principal, request.client_id)
        return AuditAnswer(checked, diverged)

    async def resync(
        self,
        principal: Principal,
        client_id: str,
        user: str | None = None,
        keep: Callable[[Tx, Any], Awaitable[None]] | None = None,
    ) -> None:
        """Make a device download everything anew, swapped in atomically at its next checkpoint.

        ``keep`` is called in the same transaction, as ``Batch.keep``.
        """
        owner = user if user is not None and principal.server else principal.user
        await self._apply(Batch(resync=Resync(principal.space, owner, client_id), keep=keep))
