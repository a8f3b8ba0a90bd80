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
from typing import Any

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import LowtideError, TooManyBuckets, Unavailable
from lowtide.kernel.http import Outlet
from lowtide.kernel.schema import Principal, Schema
from lowtide.storage.db import Database, Tx
from lowtide.sync import buckets
from lowtide.sync.buckets import BucketPlace
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
from lowtide.sync.segments import Segment, Segments, Want, read_segment, want
from lowtide.sync.streams import Held, Streams, device_topic, lookup_topic
from lowtide.sync.view import StreamRequest, View, Views

log = logging.getLogger("lowtide.sync")

KEEP_ALIVE = 20.0
"""Seconds between signs of life on a quiet stream."""

FLUSH_BYTES = 64 * 1024
"""What a connection gathers before it writes: a change is one packet, a large download flows."""

SHARED_BYTES = 16 * 1024
SHARED_DELIVERIES = 64
"""What is small is put together, compressed once and shared by all who are told the same."""

PREFETCH_SEGMENTS = 4
"""Segments read in the same snapshot as the view: enough that a device which follows never chases."""

LOST_COMMITS = "Stop all nodes, run 'lowtide restore' without a file on one, then start them."
"""What the operator does about a database that stands before what was told: it begins a new epoch."""


class Delivery(msgspec.Struct, frozen=True):
    """One commit as it was told to a device: the same for all that stood where it stood."""

    piece: Piece
    places: dict[str, BucketPlace]
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
        self._views = Views(service.schema, service.streams, principal, request)
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
        told = service.hub.group
        view, segments = await service.database.read(self._read)
        if view.group < told:
            # Looking again would find the same for as long as nobody writes.
            raise Unavailable("The database has lost commits that were told.", hint=LOST_COMMITS)
        for wanted, segment in segments:
            service.segments.keep(wanted, segment)
        self._view = view
        space, user = self._principal.space, self._principal.user
        topics = {self._own_topic, *view.held}
        topics.update(lookup_topic(space, lookup, user) for lookup in service.streams.lookups)
        service.hub.listen(self._listener, topics, view.group)

    async def _read(self, tx: Tx) -> tuple[View, list[tuple[Want, Segment]]]:
        view = await self._views.read(tx, self._view)
        segments = []
        for topic in view.held:
            place = view.places.get(topic)
            if place is not None and place.last != view.buckets[topic].last:
                wanted = self._want(topic, view.buckets[topic], place)
                segments.append((wanted, await read_segment(tx, wanted)))
                if len(segments) == PREFETCH_SEGMENTS:
                    break
        return view, segments

    def _want(self, topic: str, bucket: Bucket, place: BucketPlace) -> Want:
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
        if any(self._forgotten(view, topic, bucket) for topic, bucket in changed.items()):
            await self.look()
            await self._send(outlet, None)
            return
        view.group = group
        known.update(changed)
        for topic, bucket in changed.items():
            if topic not in view.places:
                self._views.begin(view, view.held[topic], bucket, view.places)
        await self._deliver(outlet, view, changed)

    def _forgotten(self, view: View, topic: str, bucket: Bucket) -> bool:
        """Was any of what the device has yet to hear of the bucket forgotten since the last look?"""
        known = view.buckets.get(topic)
        return known is not None and bucket.floor > known.floor and not view.keeps(topic, view, bucket)

    async def _deliver(self, outlet: Outlet, view: View, changed: Mapping[str, Bucket]) -> None:
        """Tell what commits did. Everything before was told, so places and news decide every byte."""
        if self._service.hub.alone(changed):
            # Nobody else is told the same.
            await self._send(outlet, changed, alone=True)
            return
        kept = self._service.deliveries
        write = self._write_checkpoint(view)
        news = tuple((view.places.get(topic), view.held[topic], b.last) for topic, b in changed.items())
        key = (view.op, write, self._kind, news)
        known = kept.get(key)
        if known is not None:
            view.places.update(known.places)
            self._announced.update(known.states)
            self._announced_op, self._announced_write = view.op, write
            await outlet.write(self._coder.add(known.piece))
            self._service.seen(self._principal, self._request.client_id, view.group)
            return
        piece = await self._send(outlet, changed)
        if piece is not None:
            places = {topic: view.places[topic] for topic in changed if topic in view.places}
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
            if held.topic in view.places and view.places[held.topic].last != view.buckets[held.topic].last
        ]
        current = True
        for i, held in enumerate(behind):
            bucket = view.buckets[held.topic]
            place = view.places[held.topic]
            while place.last != bucket.last:
                wanted = self._want(held.topic, bucket, place)
                segment = await self._service.segments.get(wanted, alone=alone)
                if self._listener.keys and segment.last != view.buckets[held.topic].last:
                    # It tells of later than the look, and the bucket may be the user's no longer.
                    current = False
                    break
                if min(segment.floor, segment.last) > max(bucket.floor, place.forget):
                    # Removals that the device has not had were forgotten since the look.
                    current = False
                    break
                if segment.piece.raw:
                    await self._write(outlet, segment.piece)
                view.places[held.topic] = place = segment.end
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
            place = view.places.get(held.topic)
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
        asked = {wanted.stream for wanted in self._views.subscriptions}
        defaults = self._request.streams.include_defaults
        return [name for name in streams.names() if (defaults and streams.default(name)) or name in asked]

    def _stream_states(self) -> list[StreamState]:
        streams = self._service.streams
        states = [StreamState(name, streams.default(name), []) for name in self._names]
        for index, wanted in enumerate(self._views.subscriptions):
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
