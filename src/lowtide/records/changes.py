"""Live changes: server-sent events of the records that a user receives, from a cursor on.

A feed looks (the head, the keys that the user holds, its buckets, in one snapshot), sends what is new since
the place where it stands in each bucket, and waits. What becomes of a record is decided when it is sent: put,
if the user receives it then, and remove otherwise. A feed keeps a place for each bucket and one slot for
news, whatever happens; a client that is slow is told the latest, not everything in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from lowtide.kernel.base64url import decode, encode
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Malformed, TooManyBuckets
from lowtide.kernel.http import Outlet
from lowtide.kernel.schema import Principal
from lowtide.records.service import Holdings, Records
from lowtide.records.shape import AnyRecord
from lowtide.records.store import QUERIES
from lowtide.storage.db import Tx
from lowtide.sync import store
from lowtide.sync.events import tell
from lowtide.sync.hub import Listener
from lowtide.sync.model import Bucket
from lowtide.sync.segments import PAGE_BYTES, read_page
from lowtide.sync.streams import MAX_BUCKETS, lookup_topic

MAX_EVENTS = 500
"""Changes that are read at once."""

MAX_CHANGES_CURSOR = 200
"""Characters of a feed's cursor."""

_encode = msgspec.json.Encoder().encode
_Key = tuple[str, str, str]


class Put(msgspec.Struct, frozen=True):
    """A record that is new, or has changed."""

    model: str
    record: AnyRecord


class Remove(msgspec.Struct, frozen=True):
    """A record that is deleted, or not the user's to see any more."""

    model: str
    id: str


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    epoch: str
    op: int
    mark: str


class _State(msgspec.Struct, frozen=True):
    """Where a client stands."""

    places: dict[str, tuple[int, int]]
    """(the op up to which it was told of a bucket, the op up to which removals mean nothing to it)"""
    leaving: dict[str, tuple[int, int]]
    """Buckets that are held no longer: how far their records were taken away, and ``looked`` by then."""
    looked: int
    """Whatever it was told of was made by then: milliseconds."""


_decode = msgspec.json.Decoder(_Cursor).decode


class Feed:
    """One client's live changes. ``open`` before ``run``."""

    def __init__(
        self, records: Records, clock: Clock, principal: Principal, models: Sequence[str], cursor: str | None
    ):
        self._records = records
        self._sync = records.sync
        self._clock = clock
        self._principal = principal
        self._models = frozenset(models)
        self._from = None if cursor is None else _read_cursor(cursor)
        self._state = _State({}, {}, 0)
        self._first = b""
        self._listener = Listener()
        self._sync.hub.add(self._listener)

    async def open(self) -> None:
        """Look for the first time, so that what cannot work is an HTTP error still.

        Raises ``TooManyBuckets``, and what ``Database.read`` raises.
        """
        try:
            self._first = await self._look()
        except BaseException:
            self.forget()
            raise

    def forget(self) -> None:
        """Stop listening. A repeat does nothing."""
        self._sync.hub.remove(self._listener)

    async def run(self, outlet: Outlet) -> None:
        """Write events until the token expires, the server stops or the client leaves."""
        try:
            await outlet.write(self._take_first())
            await tell(outlet, self._listener, self._clock, self._principal, self._look)
        finally:
            self.forget()

    def _take_first(self) -> bytes:
        # A page may be a megabyte, and a feed wait for days: it is not kept.
        first, self._first = self._first, b""
        return first

    # Look.

    async def _look(self) -> bytes:
        """What is new, as events. Pokes its own listener where more is to be read."""
        self._listener.take()
        group, topics, events, state, done = await self._sync.database.read(self._read)
        self._state, self._from = state, None
        who = self._principal
        lookups = (lookup_topic(who.space, lookup, who.user) for lookup in self._sync.streams.lookups)
        self._sync.hub.listen(self._listener, {*topics, *lookups}, group)
        if not done:
            self._listener.poke(self._sync.hub.group, None, None)
        return b"".join(events)

    async def _read(self, tx: Tx) -> tuple[int, list[str], list[bytes], _State, bool]:
        """(group, the buckets held, events, where the client then stands, whether that is all)"""
        head = await store.read_head(tx)
        holdings = await self._records.holdings(tx, self._principal)
        held = self._held(holdings)
        before = self._state
        found = await store.read_buckets(tx, [*held, *(before.places.keys() - held), *before.leaving])
        places, leaving = dict(before.places), dict(before.leaving)
        mark = _mark(self._models, held)
        reset = False
        begin = self._from
        if begin is not None:
            if begin.epoch == head.epoch and begin.mark == mark and begin.op <= head.op:
                places = dict.fromkeys(held, (begin.op, 0))
            else:
                reset = True
        if any(_has_forgotten(found.get(topic), max(place)) for topic, place in places.items()):
            places, leaving, reset = {}, {}, True
        for topic in places.keys() - held:
            # It was held when the feed looked last, and is not now.
            places.pop(topic)
            leaving[topic] = (0, before.looked)
        for topic in leaving.keys() & held:
            leaving.pop(topic)
        changed, done = await self._changed(tx, held, found, places)
        if done:
            taken, done = await self._taken(tx, found, leaving)
            changed |= {key: op for key, op in taken.items() if key not in changed}
        events = [b"event: reset\ndata: {}\n\n"] if reset else []
        told, newest = await self._told(tx, holdings, changed)
        events += told
        if done:
            cursor = encode(_encode(_Cursor(head.epoch, head.op, mark))).encode()
            places = dict.fromkeys(held, (head.op, 0))
            events.append(b'id: %b\nevent: ready\ndata: {"cursor":"%b"}\n\n' % (cursor, cursor))
        # Another node's clock may be ahead of this one's.
        looked = max(self._clock.now(), newest)
        return head.group, held, events, _State(places, leaving, looked), done

    def _held(self, holdings: Holdings) -> list[str]:
        streams = self._sync.streams
        held = []
        for one in streams.held(self._principal, "", holdings, True, ()):
            stream = streams.named(one.stream)
            if stream is not None and not self._models.isdisjoint(stream.carries):
                held.append(one.topic)
        if len(held) > MAX_BUCKETS:
            raise TooManyBuckets(f"this user holds {len(held)} buckets; {MAX_BUCKETS} are allowed")
        return held

    async def _changed(
        self,
        tx: Tx,
        held: Sequence[str],
        found: Mapping[str, Bucket],
        places: dict[str, tuple[int, int]],
    ) -> tuple[dict[_Key, int], bool]:
        """(space, model, id) -> the op of what changed in the buckets held, and whether that is all."""
        changed: dict[_Key, int] = {}
        size = 0
        for topic in held:
            bucket = found.get(topic)
            if bucket is None:
                continue
            place, forget = places.get(topic, (0, bucket.last))
            if bucket.last <= place:
                continue
            room = MAX_EVENTS - len(changed)
            if room <= 0 or size > PAGE_BYTES:
                return changed, False
            space = topic.partition("/")[0]
            page = await read_page(tx, space, bucket.id, place, room)
            for op, model, id, removed, data in page:
                size += len(data or "")
                if model in self._models and not (removed and op <= forget):
                    key = (space, model, id)
                    changed[key] = max(op, changed.get(key, 0))
            place = page[-1][0] if page else bucket.last
            places[topic] = (place, forget)
            if place < bucket.last:
                return changed, False
        return changed, True

    async def _taken(
        self, tx: Tx, found: Mapping[str, Bucket], leaving: dict[str, tuple[int, int]]
    ) -> tuple[dict[_Key, int], bool]:
        """The records of buckets that are held no longer, as the client was told of them."""
        taken: dict[_Key, int] = {}
        for topic in list(leaving):
            bucket = found.get(topic)
            if bucket is not None:
                space = topic.partition("/")[0]
                place, looked = leaving[topic]
                rows = await tx.fetch(QUERIES["entries"], space, bucket.id, place, MAX_EVENTS)
                for op, model, id, created in rows:
                    # What was made since then never was the user's: its id is nobody's business.
                    if model in self._models and (created is None or created <= looked):
                        taken[(space, model, id)] = op
                if len(rows) == MAX_EVENTS:
                    leaving[topic] = (rows[-1][0], looked)
                    return taken, False
            leaving.pop(topic)
        return taken, True

    async def _told(self, tx: Tx, holdings: Holdings, changed: Mapping[_Key, int]) -> tuple[list[bytes], int]:
        """An event for each change, in the order of the ops; when the newest of the records was made."""
        if not changed:
            return [], 0
        text = _encode(list(changed)).decode()
        rows = {(row[0], row[1], row[2]): row[3:] for row in await tx.fetch(QUERIES["records"], text)}
        events, newest = [], 0
        for key in sorted(changed, key=lambda key: changed[key]):
            space, model, id = key
            row = rows.get(key)
            shape = self._records.shapes[model]
            if row is not None and self._sync.streams.sees(
                self._principal, space, model, id, store.restore(shape.model, row[0]), holdings
            ):
                event = Put(model, shape.record(id, *row))
                newest = max(newest, row[2])
                events.append(b"event: put\ndata: %b\n\n" % _encode(event))
            else:
                events.append(b"event: remove\ndata: %b\n\n" % _encode(Remove(model, id)))
        return events, newest


def _has_forgotten(bucket: Bucket | None, place: int) -> bool:
    """Were removals forgotten that a client has not heard of? Those up to ``place`` it heard or needs not."""
    return bucket is not None and 0 < place < min(bucket.floor, bucket.last)


def _mark(models: frozenset[str], held: Sequence[str]) -> str:
    text = _encode([sorted(models), sorted(held)])
    return encode(hashlib.blake2b(text, digest_size=9).digest())


def _read_cursor(text: str) -> _Cursor:
    if len(text) > MAX_CHANGES_CURSOR:
        raise Malformed("The cursor is longer than any that was given out.")
    try:
        found = _decode(decode(text))
    except (ValueError, msgspec.DecodeError):
        raise Malformed("This is no cursor that was given out.") from None
    if not 0 <= found.op < 2**63:
        raise Malformed("This is no cursor that was given out.")
    return found
