"""Walks: what a client lacks, page by page, and a cursor that fits into a number.

A cursor is a head's group and the number of a *view*, the buckets that the user held then. From the two,
and nothing else about the client, the server knows what it may hold: everything of those buckets up to that
head. A walk reads, bucket by bucket, what came after; then the buckets that are held no longer, whose
records leave; then what the client itself pushed since, because its copy may differ from what became of it.

A page is read in one snapshot. What moves while a walk lasts moves to a later op, so a walk that took several
pages is followed by another, from its beginning's head, until one ends at the head of its snapshot: then the
client stands at that head exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from lowtide.bridges import store
from lowtide.bridges.store import QUERIES, VIEW_NUMBERS, BridgeView
from lowtide.kernel.base64url import decode, encode
from lowtide.kernel.errors import Busy, Malformed, TooManyBuckets
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Tx
from lowtide.sync import Sync
from lowtide.sync.model import Bucket, RecordKey
from lowtide.sync.segments import PAGE_BYTES
from lowtide.sync.store import (
    OPS_PER_GROUP,
    Head,
    last_op_of,
    read_buckets,
    read_head,
    read_holdings,
    restore,
)
from lowtide.sync.streams import DEVICE_STREAM, MAX_BUCKETS

MAX_TOKEN = 1_000
"""Characters of what stands for a place inside a walk."""

MAX_CUT = 8
"""Changes of what a user holds that one chain of pages survives; beyond them the client begins anew."""

MAX_GROUP = 1 << 33
"""What a cursor has room for: eight billion groups."""

VIEW_TRIES = 5

_encode = msgspec.json.Encoder().encode


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """What a client holds: all of a view's buckets up to a head."""

    group: int
    view: int

    @property
    def number(self) -> int:
        """As a number above 0 that JavaScript holds exactly."""
        return self.group * VIEW_NUMBERS + self.view + 1

    def holds(self, view: BridgeView | None, head: Head) -> bool:
        """Was it given out in this epoch, with ``view`` for its number?"""
        return view is not None and view.epoch == head.epoch and view.since <= self.group <= head.group


def cursor_of(number: int) -> Cursor:
    """The cursor that ``number`` stands for."""
    return Cursor(*divmod(number - 1, VIEW_NUMBERS))


class WalkPlace(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A place inside a walk."""

    start: int
    """The head's group when the walk began."""
    view: int
    """What the user held then."""
    told: Cursor | None = None
    """What the client held before; None: nothing."""
    cut: tuple[Cursor, ...] = ()
    """Walks that a change of what is held cut short: the client may have any part of what they told."""
    full: bool = False
    """The first walk of the chain began with nothing."""
    first: bool = True
    """It is the first walk of the chain."""
    part: int = 0
    op: int = 0
    record: tuple[str, str] = ("", "")


_decode = msgspec.json.Decoder(WalkPlace).decode


class Outdated(Exception):
    """What the client holds cannot be told any more: it is to begin anew."""


class WalkPage(msgspec.Struct, frozen=True):
    """What a client is to apply."""

    rows: dict[tuple[str, str], tuple[str, int] | None]
    """(model, id) -> (its JSON, its latest op), None for one that leaves."""
    place: WalkPlace | None
    """Where to go on; None: the client stands at ``cursor``."""
    cursor: Cursor
    full: bool
    """It began with nothing: what no page had is not the client's."""
    topics: tuple[str, ...]
    """The buckets that the user holds."""


def token_of(place: WalkPlace) -> str:
    """A place as text."""
    return encode(_encode(place))


def place_of(token: str) -> WalkPlace:
    """The place that ``token`` stands for. Raises ``Malformed``."""
    try:
        if len(token) > MAX_TOKEN:
            raise ValueError
        place = _decode(decode(token))
    except (ValueError, msgspec.DecodeError):
        raise Malformed("This is no place that was given out.") from None
    cursors = [*place.cut, *([place.told] if place.told else [])]
    groups = (place.start, *(cursor.group for cursor in cursors))
    if len(place.cut) > MAX_CUT or place.part < 0 or any(not 0 <= group < MAX_GROUP for group in groups):
        raise Malformed("This is no place that was given out.")
    if not 0 <= place.op < 2**63:
        raise Malformed("This is no place that was given out.")
    return place


class Walks:
    """Reads pages. Stateless beside what ``store`` keeps."""

    def __init__(self, sync: Sync):
        self._sync = sync

    async def page(
        self,
        principal: Principal,
        client: str,
        models: Collection[str],
        begin: Cursor | WalkPlace | None,
        limit: int,
        *,
        afresh: Collection[str] = (),
        echo: bool = True,
    ) -> WalkPage:
        """The next page: about ``limit`` rows at most, or a megabyte. ``afresh``: models of which the client
        asks everything again. ``echo``: what it pushed itself comes, too; without it only what is not as the
        client left it. One read transaction, and a write where the user's buckets are new here.

        Raises ``Outdated``, ``TooManyBuckets``, ``Busy`` and what ``Database.read`` raises.
        """
        database = self._sync.database
        who = (principal.space, principal.user)
        for _ in range(VIEW_TRIES):
            found = await database.read(
                lambda tx: self._read(tx, principal, client, models, begin, limit, afresh, echo)
            )
            if isinstance(found, WalkPage):
                return found
            await database.write(lambda tx, new=found: store.write_view(tx, *who, *new))  # type: ignore[misc]
        raise Busy("What the user holds changes too fast.")

    async def _read(
        self,
        tx: Tx,
        principal: Principal,
        client: str,
        models: Collection[str],
        begin: Cursor | WalkPlace | None,
        limit: int,
        afresh: Collection[str],
        echo: bool,
    ) -> WalkPage | tuple[str, int, tuple[str, ...]]:
        head = await read_head(tx)
        own, topics = await self._held(tx, principal, client)
        views = {view.no: view for view in await store.read_views(tx, principal.space, principal.user)}
        now = next((v for v in views.values() if v.epoch == head.epoch and v.topics == topics), None)
        if now is None:
            return head.epoch, head.group, topics
        if not models:
            return WalkPage({}, None, Cursor(head.group, now.no), begin is None, (*own, *topics))
        walk = _Walk(self._sync, tx, principal, client, models, afresh, head, now, own, views, limit, echo)
        if begin is None:
            place = WalkPlace(head.group, now.no, full=True)
        elif isinstance(begin, Cursor):
            place = WalkPlace(head.group, now.no, begin)
        else:
            place = begin
        while True:
            place, rest = await walk.go(place)
            if rest is not None or place.start == head.group:
                if not echo and not place.full:
                    await walk.leave_out_own()
                return WalkPage(walk.rows, rest, Cursor(place.start, now.no), place.full, (*own, *topics))
            # What moved meanwhile: in this snapshot it is all there is.
            place = WalkPlace(head.group, now.no, Cursor(place.start, now.no), (), place.full, False)

    async def stand(self, principal: Principal, client: str) -> Cursor:
        """The cursor of who has everything. Raises as ``page``."""
        return (await self.page(principal, client, (), None, 1)).cursor

    async def rows(
        self, tx: Tx, principal: Principal, client: str, names: Collection[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[str, int] | None]:
        """These records in this snapshot, as ``WalkPage.rows`` has them; None: it is not the client's."""
        own, topics = await self._held(tx, principal, client)
        held = {*own, *topics}
        streams = self._sync.streams
        rows: dict[tuple[str, str], tuple[str, int] | None] = dict.fromkeys(names)
        keys = [(principal.space, *name) for name in names]
        for (space, model, id), row in (await store.read_rows(tx, keys)).items():
            fields = restore(self._sync.schema.models[model], row[0])
            if not held.isdisjoint(streams.buckets_of(space, model, id, fields)):
                rows[(model, id)] = row
        return rows

    async def _held(
        self, tx: Tx, principal: Principal, client: str
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The client's own bucket, and the others that the user holds."""
        who = (principal.space, principal.user)
        streams = self._sync.streams
        holdings = (await read_holdings(tx, self._sync.schema, streams.lookups, [who]))[who]
        held = streams.held(principal, client, holdings, True, ())
        if len(held) > MAX_BUCKETS:
            raise TooManyBuckets(f"this user holds {len(held)} buckets; {MAX_BUCKETS} are allowed")
        own = tuple(one.topic for one in held if one.stream == DEVICE_STREAM)
        return own, tuple(sorted(one.topic for one in held if one.stream != DEVICE_STREAM))


class _Walk:
    """One page under way, in one snapshot."""

    def __init__(
        self,
        sync: Sync,
        tx: Tx,
        principal: Principal,
        client: str,
        models: Collection[str],
        afresh: Collection[str],
        head: Head,
        now: BridgeView,
        own: tuple[str, ...],
        views: Mapping[int, BridgeView],
        limit: int,
        echo: bool,
    ):
        self._sync, self._tx, self._principal, self._client = sync, tx, principal, client
        self._echo = echo
        self._models, self._afresh = frozenset(models), frozenset(models) & frozenset(afresh)
        self._head, self._now, self._own, self._views, self._limit = head, now, own, views, limit
        self._held = frozenset([*own, *now.topics])
        self._size = 0
        self.rows: dict[tuple[str, str], tuple[str, int] | None] = {}

    async def go(self, place: WalkPlace) -> tuple[WalkPlace, WalkPlace | None]:
        """Read on from ``place``. The walk as it was read, and where the page is full; None at its end."""
        if place.view != self._now.no:
            # What is held has changed since the walk began.
            if len(place.cut) == MAX_CUT:
                raise Outdated
            cut = (*place.cut, Cursor(place.start, place.view))
            place = WalkPlace(self._head.group, self._now.no, place.told, cut, place.full, place.first)
        return place, await self._go(place)

    async def _go(self, place: WalkPlace) -> WalkPlace | None:
        cursors = [*([place.told] if place.told else []), *place.cut]
        told = [(self._known(cursor), cursor.group) for cursor in cursors]
        before = {topic for view, _ in told for topic in view.topics} | (set(self._own) if told else set())
        # All that the client was told is between the two.
        low = last_op_of(min(group for _, group in told)) if told else 0
        high = max(group for _, group in told) if told else 0
        # Where a walk was cut short nobody knows how far it came.
        after = 0 if place.cut else low
        at = await store.group_at(self._tx, high)
        if self._echo and (at is None or await store.group_at(self._tx, low // OPS_PER_GROUP) is None):
            # What the client pushed before that is forgotten.
            raise Outdated
        if at is None and before - self._held:
            # Of a bucket that is held no longer nobody knows which records are older than that.
            raise Outdated
        parts = [(topic, self._models, after if topic in before else 0) for topic in sorted(self._held)]
        if place.first and self._afresh:
            parts += [(topic, self._afresh, 0) for topic in sorted(self._held & before)]
        held = len(parts)
        parts += [(topic, self._models, 0) for topic in sorted(before - self._held)]
        found = await read_buckets(self._tx, {topic for topic, _, _ in parts[place.part :]})
        for part in range(place.part, len(parts)):
            topic, models, since = parts[part]
            bucket = found.get(topic)
            if bucket is None:
                continue
            if topic in before and low < min(bucket.floor, bucket.last):
                raise Outdated
            since = max(since, place.op if part == place.part else 0)
            if part < held:
                # Removals mean nothing to who held nothing of the bucket then.
                forget = low if topic in before else last_op_of(place.start)
                stopped = await self._bucket(topic, bucket, models, since, forget)
            else:
                stopped = await self._leaving(topic, bucket, since, low, last_op_of(high), at or 0)
            if stopped is not None:
                return msgspec.structs.replace(place, part=part, op=stopped, record=("", ""))
        if self._echo and not told:
            return None
        group, record = cursors[0].group if self._echo else place.told.group if place.told else 0, ("", "")
        if place.part >= len(parts):
            group, record = place.op, place.record
        rest = await self._pushed(group, record)
        if rest is None:
            return None
        return msgspec.structs.replace(place, part=len(parts), op=rest[0], record=rest[1])

    async def leave_out_own(self) -> None:
        """Forget rows that are as the client itself left them."""
        who = self._principal
        pushed = await store.read_pushed(self._tx, who.space, who.user, self._client, list(self.rows))
        for name, one in pushed.items():
            row = self.rows.get(name)
            if row is not None and row[1] == one.op:
                del self.rows[name]

    def _known(self, cursor: Cursor) -> BridgeView:
        view = self._views.get(cursor.view)
        if view is None or not cursor.holds(view, self._head):
            raise Outdated
        return view

    def _room(self) -> int:
        return 0 if self._size > PAGE_BYTES else self._limit - len(self.rows)

    async def _bucket(
        self, topic: str, bucket: Bucket, models: Collection[str], since: int, forget: int
    ) -> int | None:
        """Tell what a bucket says after ``since``; where the page was full, None at the end."""
        space = topic.partition("/")[0]
        gone: list[RecordKey] = []
        stopped: int | None = None
        while since < bucket.last:
            room = self._room()
            if room <= 0:
                stopped = since
                break
            page = await store.read_page(self._tx, space, bucket.id, since, models, room)
            for op, model, id, removed, data in page:
                if not removed:
                    self.rows[(model, id)] = (data, op)
                    self._size += len(data)
                elif op > forget:
                    gone.append((space, model, id))
            if len(page) < room and self._size <= PAGE_BYTES:
                break
            since = page[-1][0]
        await self._drop(gone)
        return stopped

    async def _leaving(
        self, topic: str, bucket: Bucket, since: int, low: int, high: int, at: int
    ) -> int | None:
        """Take away what the client has of a bucket that is held no longer."""
        space = topic.partition("/")[0]
        stopped: int | None = None
        while since < bucket.last:
            room = self._room()
            if room <= 0:
                stopped = since
                break
            found = await self._tx.fetch(QUERIES["entries"], space, bucket.id, since, low, room)
            # What was made since never was the user's: its id is nobody's business.
            await self._drop(
                [
                    (space, model, id)
                    for op, model, id, created in found
                    if model in self._models and (op <= high or created is None or created <= at)
                ]
            )
            if len(found) < room:
                break
            since = found[-1][0]
        return stopped

    async def _pushed(self, group: int, record: tuple[str, str]) -> tuple[int, tuple[str, str]] | None:
        """Tell what became of what the client pushed: its copy may differ from that, and leaves where it is
        the client's no longer. Without ``echo`` the latter alone."""
        who = self._principal
        while True:
            room = self._room()
            if room <= 0:
                return group, record
            found = await self._tx.fetch(
                QUERIES["pushed_since"], who.space, who.user, self._client, group, *record, room
            )
            keys = [(who.space, model, id) for model, id, _ in found if model in self._models]
            there = await store.read_rows(self._tx, keys)
            for key in keys:
                row = there.get(key)
                if row is not None and self._holds(key, row[0]):
                    if self._echo:
                        self.rows.setdefault(key[1:], row)
                        self._size += len(row[0])
                else:
                    self.rows.setdefault(key[1:], None)
            if len(found) < room:
                return None
            group, record = found[-1][2], (found[-1][0], found[-1][1])

    async def _drop(self, keys: Collection[RecordKey]) -> None:
        """These left a bucket: they leave the client, unless another bucket has them."""
        there = await store.read_rows(self._tx, keys)
        for key in keys:
            row = there.get(key)
            if row is None or not self._holds(key, row[0]):
                self.rows.setdefault(key[1:], None)

    def _holds(self, key: RecordKey, data: str) -> bool:
        space, model, id = key
        fields = restore(self._sync.schema.models[model], data)
        return not self._held.isdisjoint(self._sync.streams.buckets_of(space, model, id, fields))
