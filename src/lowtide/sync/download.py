"""The download: one device's stream, from the first byte to the last.

A stream has two steps that it repeats. *Look*: the head, the keys that the user holds and the state
of those buckets, in one snapshot, or, when a commit told exactly what it did, from memory. *Send*:
announce the checkpoint, send what the device lacks in the order of priorities, and say complete only
when every bucket was read to the end that the announced head has. Whatever moves in between moves to a
greater op id, and is met again before that.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Annotated, Any

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import LowtideError, TooManyBuckets, Unavailable
from lowtide.kernel.http import Outlet
from lowtide.kernel.schema import Principal, Schema
from lowtide.storage.db import Database, Tx
from lowtide.sync import buckets, store
from lowtide.sync.buckets import Place
from lowtide.sync.hub import Hub, Listener
from lowtide.sync.lines import (
    BucketState,
    Checkpoint,
    CheckpointDiff,
    Coder,
    Coding,
    Format,
    Piece,
    StreamState,
    line,
)
from lowtide.sync.model import Bucket
from lowtide.sync.segments import Segments, Want, read_segment, want
from lowtide.sync.store import Device, queries
from lowtide.sync.streams import MAX_BUCKETS, Held, Streams, Subscription, device_topic, lookup_topic

log = logging.getLogger("lowtide.sync")

MAX_EVIDENCE = 10 * MAX_BUCKETS
"""Buckets that a device may say it holds: more than it may hold, after a change of what it holds."""

KEEP_ALIVE = 20.0
"""Seconds between signs of life on a quiet stream."""

FLUSH_BYTES = 64 * 1024
"""What a connection gathers before it writes: a change is one packet, a large download flows."""

SHARED_BYTES = 16 * 1024
SHARED_DELIVERIES = 64
"""What is small is put together, compressed once and shared by all who are told the same."""

PREFETCH_SEGMENTS = 4
"""Segments read in the same snapshot as the view: enough that a device which follows never chases."""


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

    @property
    def op(self) -> int:
        """The head as an op id."""
        return store.last_op_of(self.group)


class Delivery(msgspec.Struct, frozen=True):
    """One commit as it was told to a device: the same for all that stood where it stood."""

    piece: Piece
    places: dict[str, Place]
    states: dict[str, BucketState]


class Downloads:
    """Opens streams. One for the whole server."""

    def __init__(
        self,
        database: Database,
        schema: Schema,
        streams: Streams,
        hub: Hub,
        segments: Segments,
        clock: Clock,
        seen: Callable[[Principal, str, int], None],
    ):
        self.database = database
        self.schema = schema
        self.streams = streams
        self.hub = hub
        self.segments = segments
        self.clock = clock
        self.seen = seen
        self.deliveries: OrderedDict[Hashable, Delivery] = OrderedDict()
        """The latest ``SHARED_DELIVERIES``."""

    async def open(
        self, principal: Principal, request: StreamRequest, format: Format, coding: Coding
    ) -> Download:
        """A stream whose first look has succeeded, so that what cannot work is an HTTP error still."""
        download = Download(self, principal, request, format, coding)
        try:
            await download.look()
        except BaseException:
            download.forget()
            raise
        return download


class Download:
    """One device's stream."""

    def __init__(
        self, service: Downloads, principal: Principal, request: StreamRequest, format: Format, coding: Coding
    ):
        self._service = service
        self._principal = principal
        self._request = request
        self._format = format
        self._coder = Coder(coding)
        self._subscriptions = tuple(
            Subscription(s.stream, s.parameters or {}, _priority(s.override_priority))
            for s in request.streams.subscriptions
        )
        parameters = request.parameters or {}
        self._metered = parameters.get("metered") is True
        self._evidence = {held.name: _op(held.after) for held in request.buckets}
        self._places: dict[str, Place] = {}
        self._announced: dict[str, BucketState] = {}
        self._announced_op = -1
        self._announced_write: str | None = None
        self._view: View | None = None
        self._unsent: list[Piece] = []
        self._unsent_bytes = 0
        self._names = self._stream_names()
        self._kind = (format, request.raw_data, tuple(self._names))
        """What of the request decides how a commit is told."""
        self._listener = Listener()
        self._own_topic = device_topic(principal.space, principal.user, request.client_id)
        service.hub.add(self._listener)

    # Look.

    async def look(self) -> None:
        """Take a new view, in one snapshot, with the first segments that it asks for."""
        service = self._service
        self._listener.take()
        first = self._view is None
        view, places, segments = await service.database.read(lambda tx: self._read(tx, first))
        if len(view.held) > MAX_BUCKETS:
            raise TooManyBuckets(f"this user holds {len(view.held)} buckets; {MAX_BUCKETS} are allowed")
        for wanted, segment in segments:
            service.segments.keep(wanted, segment)
        self._view, self._places = view, places
        user = self._principal.user
        service.hub.listen(
            self._listener,
            {
                self._own_topic,
                *view.held,
                *(lookup_topic(self._principal.space, lookup, user) for lookup in service.streams.lookups),
            },
        )
        if service.hub.group > view.group:
            # A commit came between the snapshot and the listening.
            self._listener.poke(service.hub.group, None, None)

    async def _read(self, tx: Tx, first: bool) -> tuple[View, dict[str, Place], list[tuple[Want, Any]]]:
        service, principal = self._service, self._principal
        head = await store.read_head(tx)
        who = (principal.space, principal.user)
        lookups = service.streams.lookups
        holdings = await store.read_holdings(tx, service.schema, lookups, [who])
        held = service.streams.held(
            principal,
            self._request.client_id,
            holdings[who],
            self._request.streams.include_defaults,
            self._subscriptions,
        )
        found = await store.read_buckets(tx, [h.topic for h in held[: MAX_BUCKETS + 1]])
        device = await store.read_device(tx, *who, self._request.client_id) or Device()
        view = View(head.group, head.epoch, {one.topic: one for one in held}, found, device)
        places = await self._settle(tx, view, first)
        segments = []
        for topic in view.held:
            place = places.get(topic)
            if place is not None and place.last != view.buckets[topic].last:
                wanted = self._want(topic, view.buckets[topic], place)
                segments.append((wanted, await read_segment(tx, wanted)))
                if len(segments) == PREFETCH_SEGMENTS:
                    break
        return view, places, segments

    async def _settle(self, tx: Tx, view: View, first: bool) -> dict[str, Place]:
        """Where the device stands in each bucket that it is to hold."""
        evidence = self._evidence if first else {}
        by_stem: dict[str, list[str]] = {}
        for name in evidence:
            by_stem.setdefault(name.rpartition("@")[0], []).append(name)
        places = {}
        for held in view.held.values():
            bucket = view.buckets.get(held.topic)
            if bucket is None:
                continue
            generation = view.device.generation
            place = self._places.get(held.topic)
            if place is not None:
                after = max(place.cursor, place.forget, self._read_up_to(held.topic, place))
                if buckets.keeps(place.name, after, held.topic, bucket, view.epoch, generation, view.op):
                    places[held.topic] = place
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
            elif not (self._metered and held.defer):
                places[held.topic] = buckets.start(held.topic, bucket, view.epoch, generation, view.op)
        return places

    def _read_up_to(self, topic: str, place: Place) -> int:
        """The head up to which the device has had everything of the bucket; 0: still on its way."""
        before = self._view
        if before is None or topic not in before.buckets:
            return 0
        return before.op if place.last == before.buckets[topic].last else 0

    async def _resume(self, tx: Tx, name: str, after: int, bucket: Bucket) -> Place:
        if not buckets.at_checkpoint(after):
            return Place(name, after, after)
        last = bucket.last
        if last > after:
            last = (await tx.fetch(queries["history_at"], bucket.id, after))[0][0] or 0
        return Place(name, last, last)

    def _want(self, topic: str, bucket: Bucket, place: Place) -> Want:
        return want(topic, bucket, place, self._format, self._request.raw_data)

    # Send.

    async def run(self, outlet: Outlet) -> None:
        """Write the stream until the token expires, the server stops or the client leaves."""
        listener = self._listener
        try:
            outlet.on_drain(listener.close)
            await outlet.write(self._coder.begin())
            await self._send(outlet, None)
            while not listener.closed:
                rest = self._token_rest()
                if rest <= 0:
                    break
                if not listener.waiting:
                    await listener.wait(min(KEEP_ALIVE, rest))
                if listener.closed:
                    break
                if listener.waiting:
                    await self._follow(outlet)
                else:
                    await self._say(outlet, "token_expires_in", int(min(self._token_rest(), 86_400)))
                    await self._flush(outlet)
            if self._token_rest() <= 0:
                await self._say(outlet, "token_expires_in", 0)
            await self._flush(outlet)
            await outlet.write(self._coder.end())
        except LowtideError as error:
            # The stream is under way: cutting it is the answer, and the client comes back.
            log.warning("a download ended: %s", error.message)
            if not isinstance(error, Unavailable | TooManyBuckets):
                raise
        finally:
            self.forget()

    def forget(self) -> None:
        """Stop listening. A repeat does nothing."""
        self._service.hub.remove(self._listener)

    async def _follow(self, outlet: Outlet) -> None:
        view = self._view
        assert view is not None  # noqa: S101 - ``look`` ran before ``run``
        group, changed, full = self._listener.take()
        if full:
            await self.look()
            await self._send(outlet, None)
            return
        # A look may have overtaken the news: what it read already is none, nor is what is held no longer.
        known = view.buckets
        changed = {
            topic: bucket
            for topic, bucket in changed.items()
            if topic in view.held and (topic not in known or bucket.last > known[topic].last)
        }
        if group <= view.group or not changed:
            return
        view.group = group
        known.update(changed)
        for topic, bucket in changed.items():
            if topic not in self._places and not (self._metered and view.held[topic].defer):
                self._places[topic] = buckets.start(
                    topic, bucket, view.epoch, view.device.generation, view.op
                )
        await self._deliver(outlet, view, changed)

    async def _deliver(self, outlet: Outlet, view: View, changed: Mapping[str, Bucket]) -> None:
        """Tell what commits did. Everything before was told, so places and news decide every byte."""
        if self._service.hub.alone(changed):
            # Nobody else is told the same.
            await self._send(outlet, changed, alone=True)
            return
        kept = self._service.deliveries
        write = self._write_checkpoint(view)
        news = tuple((self._places.get(topic), view.held[topic], b.last) for topic, b in changed.items())
        key = (view.op, write, self._kind, news)
        known = kept.get(key)
        if known is not None:
            self._places.update(known.places)
            self._announced.update(known.states)
            self._announced_op, self._announced_write = view.op, write
            await outlet.write(self._coder.add(known.piece))
            self._service.seen(self._principal, self._request.client_id, view.group)
            return
        piece = await self._send(outlet, changed)
        if piece is not None:
            places = {topic: self._places[topic] for topic in changed if topic in self._places}
            states = {place.name: self._announced[place.name] for place in places.values()}
            kept[key] = Delivery(piece, places, states)
            if len(kept) > SHARED_DELIVERIES:
                kept.popitem(last=False)

    async def _send(
        self, outlet: Outlet, changed: Mapping[str, Bucket] | None, *, alone: bool = False
    ) -> Piece | None:
        """Bring the device to the view. ``changed``: the only buckets that differ, if that is known;
        ``alone``: no other device is sent the same.

        Returns what was written if it was one small piece, and neither more nor less than ``changed``.
        """
        written = outlet.sent
        await self._announce(outlet, changed)
        while not await self._send_data(outlet, changed, alone):
            if self._over():
                return None
            await self.look()
            changed = None
            # Before its data: what is partly complete is measured by what was announced.
            await self._announce(outlet, None)
        view = self._view
        assert view is not None  # noqa: S101
        await self._say(outlet, "checkpoint_complete", {"last_op_id": str(view.op)})
        whole = changed is not None and outlet.sent == written
        piece = await self._flush(outlet, alone=alone)
        self._service.seen(self._principal, self._request.client_id, view.group)
        return piece if whole else None

    async def _send_data(self, outlet: Outlet, changed: Mapping[str, Bucket] | None, alone: bool) -> bool:
        """Send what the device lacks; False when the view turned out to be old on the way."""
        view = self._view
        assert view is not None  # noqa: S101
        behind = [
            held
            for held in self._concerned(view, changed)
            if held.topic in self._places and self._places[held.topic].last != view.buckets[held.topic].last
        ]
        current = True
        for i, held in enumerate(behind):
            bucket = view.buckets[held.topic]
            place = self._places[held.topic]
            while place.last != bucket.last:
                wanted = self._want(held.topic, bucket, place)
                segment = await self._service.segments.get(wanted, alone=alone)
                if min(segment.floor, segment.last) > max(bucket.floor, place.forget):
                    # Removals that the device has not had were forgotten since the look.
                    current = False
                    break
                if segment.piece.raw:
                    await self._write(outlet, segment.piece)
                self._places[held.topic] = place = segment.end
                if segment.last != bucket.last:
                    current = False
                    if segment.done:
                        break
                    bucket = msgspec.structs.replace(bucket, last=segment.last)
                if self._over():
                    return False
            after = behind[i + 1].priority if i + 1 < len(behind) else None
            if current and after is not None and after > held.priority:
                done = {"last_op_id": str(view.op), "priority": held.priority}
                await self._say(outlet, "partial_checkpoint_complete", done)
        return current

    async def _announce(self, outlet: Outlet, changed: Mapping[str, Bucket] | None) -> None:
        """Say what the checkpoint will be, or what has changed about it since that was said."""
        view = self._view
        assert view is not None  # noqa: S101
        op, write = view.op, self._write_checkpoint(view)
        if self._announced_op < 0:
            states = self._states(view, None)
            checkpoint = Checkpoint(str(op), list(states.values()), self._stream_states(), write)
            self._announced = states
            await self._say(outlet, "checkpoint", checkpoint)
        else:
            states = self._states(view, changed)
            updated = [state for name, state in states.items() if self._announced.get(name) != state]
            removed = [] if changed is not None else [name for name in self._announced if name not in states]
            if not updated and not removed and op == self._announced_op and write == self._announced_write:
                return
            self._announced.update(states)
            for name in removed:
                del self._announced[name]
            diff = CheckpointDiff(str(op), updated, removed, write)
            await self._say(outlet, "checkpoint_diff", diff)
        self._announced_op, self._announced_write = op, write

    def _states(self, view: View, changed: Mapping[str, Bucket] | None) -> dict[str, BucketState]:
        states = {}
        for held in self._concerned(view, changed):
            place = self._places.get(held.topic)
            if place is None:
                continue
            bucket = view.buckets[held.topic]
            states[place.name] = BucketState(
                place.name,
                buckets.checksum(place.name, bucket.last),
                held.priority,
                bucket.live,
                [
                    {"default": self._names.index(held.stream)} if index is None else {"sub": index}
                    for index in held.subscriptions
                ],
            )
        return states

    def _concerned(self, view: View, changed: Mapping[str, Bucket] | None) -> Iterable[Held]:
        if changed is None:
            return view.held.values()
        return sorted((view.held[topic] for topic in changed), key=lambda held: held.priority)

    def _stream_names(self) -> list[str]:
        streams = self._service.streams
        asked = {wanted.stream for wanted in self._subscriptions}
        defaults = self._request.streams.include_defaults
        return [name for name in streams.names() if (defaults and streams.default(name)) or name in asked]

    def _stream_states(self) -> list[StreamState]:
        streams = self._service.streams
        states = [StreamState(name, streams.default(name), []) for name in self._names]
        for index, wanted in enumerate(self._subscriptions):
            if streams.named(wanted.stream) is None:
                error = {"subscription": index, "message": f"this app has no stream {wanted.stream!r}"}
                states.append(StreamState(wanted.stream, False, [error]))
        return states

    def _write_checkpoint(self, view: View) -> str | None:
        device = view.device
        if device.request is None:
            return str(view.group)
        return str(device.request) if device.request_group <= view.group else None

    def _over(self) -> bool:
        """Is the stream to end, whatever is left to send?"""
        return self._listener.closed or self._token_rest() <= 0

    def _token_rest(self) -> float:
        expires = self._principal.expires_at
        return float("inf") if expires is None else (expires - self._service.clock.now()) / 1000

    async def _say(self, outlet: Outlet, name: str, value: Any) -> None:
        await self._write(outlet, Piece(line(name, value, self._format)))

    async def _write(self, outlet: Outlet, piece: Piece) -> None:
        self._unsent.append(piece)
        self._unsent_bytes += len(piece.raw)
        if self._unsent_bytes > FLUSH_BYTES:
            await self._flush(outlet)

    async def _flush(self, outlet: Outlet, *, alone: bool = False) -> Piece | None:
        """Write what was gathered; returns it if it was small. ``alone``: nobody else is sent the same."""
        unsent, small = self._unsent, self._unsent_bytes <= SHARED_BYTES
        self._unsent, self._unsent_bytes = [], 0
        if not unsent:
            return None
        if small:
            raw = b"".join([piece.raw for piece in unsent])
            piece = Piece(raw) if alone else self._service.segments.share(raw)
            await outlet.write(self._coder.add(piece))
            return piece
        await outlet.write(b"".join([self._coder.add(piece) for piece in unsent]))
        return None


def _priority(asked: int | None) -> int | None:
    return None if asked is None else min(max(asked, 0), 3)


def _op(text: str) -> int:
    """An op id as a client sends it; what no client sends is "nothing"."""
    return int(text) if text.isdecimal() and len(text) < 20 else 0
