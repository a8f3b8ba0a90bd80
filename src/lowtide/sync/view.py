"""What one device is to hold at one head, and where it stands in each bucket: read in one snapshot.

The device's own request says what it has and what it wants; the server keeps nothing of that.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from lowtide.kernel.errors import TooManyBuckets
from lowtide.kernel.schema import Principal, Schema
from lowtide.storage.db import Tx
from lowtide.sync import buckets, store
from lowtide.sync.buckets import BucketPlace
from lowtide.sync.model import Bucket
from lowtide.sync.store import QUERIES, Device
from lowtide.sync.streams import MAX_BUCKETS, Held, Streams, Subscription

MAX_EVIDENCE = 10 * MAX_BUCKETS
"""Buckets that a device may say it holds: more than it may hold, after a change of what it holds."""


class HeldBucket(msgspec.Struct, frozen=True):
    """A bucket that the device says it holds, and up to which op."""

    name: str
    after: str = "0"


class WantedStream(msgspec.Struct, frozen=True):
    stream: str
    parameters: dict[str, Any] | None = None
    override_priority: int | None = None


class WantedStreams(msgspec.Struct, frozen=True):
    include_defaults: bool = True
    subscriptions: Annotated[list[WantedStream], msgspec.Meta(max_length=MAX_BUCKETS)] = []


class StreamRequest(msgspec.Struct, frozen=True):
    """The body of ``POST /sync/stream``: written by the client core, all evidence of what it holds."""

    buckets: Annotated[list[HeldBucket], msgspec.Meta(max_length=MAX_EVIDENCE)] = []
    client_id: str = ""
    parameters: dict[str, Any] | None = None
    app_metadata: dict[str, Any] | None = None
    """What the app says of itself in the SDK's ``appMetadata``: ``app_version``, such as ``ios/2.0.3``."""
    streams: WantedStreams = WantedStreams()
    raw_data: bool = False
    binary_data: bool = False


class View(msgspec.Struct):
    """What one device is to hold at one head. Commits move it on in place."""

    group: int
    epoch: str
    held: dict[str, Held]
    """By topic, in the order of priorities."""
    buckets: dict[str, Bucket]
    device: Device
    places: dict[str, BucketPlace]
    """Where the device stands, by topic: no place in a bucket that nobody has written to, or that waits for
    an unmetered network."""

    @property
    def op(self) -> int:
        """The head as an op id."""
        return store.last_op_of(self.group)

    def keeps(self, topic: str, before: View, bucket: Bucket) -> bool:
        """May the device go on from where it stands in ``before``, with ``bucket`` as it is at this head?"""
        place, known = before.places.get(topic), before.buckets.get(topic)
        if place is None or known is None:
            return False
        # Who has had the latest has had everything up to that head, whatever op was the bucket's last.
        after = max(place.cursor, place.forget, before.op if place.last == known.last else 0)
        generation = self.device.generation
        return buckets.keeps(place.name, after, topic, bucket, self.epoch, generation, self.op)


class Views:
    """Takes views for one device."""

    def __init__(self, schema: Schema, streams: Streams, principal: Principal, request: StreamRequest):
        self._schema = schema
        self._streams = streams
        self._principal = principal
        self._request = request
        self.subscriptions = tuple(
            Subscription(s.stream, s.parameters or {}, _priority(s.override_priority))
            for s in request.streams.subscriptions
        )
        parameters = request.parameters or {}
        self._metered = parameters.get("metered") is True
        self._evidence = {held.name: _op(held.after) for held in request.buckets}

    async def read(self, tx: Tx, before: View | None) -> View:
        """The view of this snapshot. ``before``: the last one, and how far the device was brought since.

        Raises ``TooManyBuckets``.
        """
        head = await store.read_head(tx)
        who = (self._principal.space, self._principal.user)
        holdings = await store.read_holdings(tx, self._schema, self._streams.lookups, [who])
        held = self._streams.held(
            self._principal,
            self._request.client_id,
            holdings[who],
            self._request.streams.include_defaults,
            self.subscriptions,
        )
        if len(held) > MAX_BUCKETS:
            raise TooManyBuckets(f"this user holds {len(held)} buckets; {MAX_BUCKETS} are allowed")
        found = await store.read_buckets(tx, [one.topic for one in held])
        device = await store.read_device(tx, *who, self._request.client_id) or Device()
        view = View(head.group, head.epoch, {one.topic: one for one in held}, found, device, {})
        view.places = await self._settle(tx, view, before)
        return view

    def begin(
        self, view: View, held: Held, bucket: Bucket, places: dict[str, BucketPlace], *, had: bool = False
    ) -> None:
        """Let the device begin with a bucket, unless its network is too dear. ``had``: it has the bucket
        under a name that is over, and would lose its rows until the network is another."""
        if had or not (self._metered and held.defer):
            generation = view.device.generation
            places[held.topic] = buckets.start(held.topic, bucket, view.epoch, generation, view.op)

    async def _settle(self, tx: Tx, view: View, before: View | None) -> dict[str, BucketPlace]:
        """Where the device stands in each bucket that it is to hold: by its own word at first, and from then
        on where it was brought to."""
        evidence = self._evidence if before is None else {}
        by_stem: dict[str, list[str]] = {}
        for name in evidence:
            by_stem.setdefault(name.rpartition("@")[0], []).append(name)
        places = {}
        generation = view.device.generation
        for held in view.held.values():
            bucket = view.buckets.get(held.topic)
            if bucket is None:
                continue
            if before is not None and view.keeps(held.topic, before, bucket):
                places[held.topic] = before.places[held.topic]
                continue
            kept = [
                (evidence[name], name)
                for name in by_stem.get(held.topic.partition("/")[2], ())
                if evidence[name]
                and buckets.keeps(name, evidence[name], held.topic, bucket, view.epoch, generation, view.op)
            ]
            if kept:
                after, name = max(kept)
                places[held.topic] = await self._resume(tx, name, after, bucket)
                continue
            had = any(evidence[name] for name in by_stem.get(held.topic.partition("/")[2], ()))
            had = had or (before is not None and held.topic in before.places)
            self.begin(view, held, bucket, places, had=had)
        return places

    async def _resume(self, tx: Tx, name: str, after: int, bucket: Bucket) -> BucketPlace:
        if not buckets.at_checkpoint(after):
            return BucketPlace(name, after, after)
        last = bucket.last
        if last > after:
            last = (await tx.fetch(QUERIES["history_at"], bucket.id, after))[0][0] or 0
        return BucketPlace(name, last, last)


def _priority(asked: int | None) -> int | None:
    return None if asked is None else min(max(asked, 0), 3)


def _op(text: str) -> int:
    """An op id as a client sends it; what no client sends is "nothing"."""
    return int(text) if text.isdecimal() and len(text) < 20 else 0
